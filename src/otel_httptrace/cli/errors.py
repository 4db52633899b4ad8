"""What goes wrong: one line on stderr, exit status 2, no traceback."""

from __future__ import annotations

import contextlib
import sys

import click

from ..report.printable import printable
from ..report.terminal import Unread, plainer


class Problem(click.ClickException):
    """Something that the user can put right, or has to know.

    Args:
        message: one sentence that says what to do; control characters in it are shown, not obeyed.
        status: exit status.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(printable(message))
        self.status = status


def describe(error: Exception) -> str:
    """What to say of an *error* that ended the making of a report."""
    if isinstance(error, (Problem, OSError, Unread)):
        return str(error)
    return f"internal error, the report could not be made: {type(error).__name__}: {error}"


def say(line: str) -> None:
    """A line of ours on stderr; nothing happens if nobody reads that."""
    with contextlib.suppress(OSError):
        click.echo(f"httptrace: {printable(line)}".translate(plainer(sys.stderr)), err=True)
