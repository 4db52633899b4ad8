"""What goes wrong: one line, exit status 2, no traceback."""

from __future__ import annotations

from typing import Final, TextIO

import click

from ..report.printable import printable


class Problem(click.ClickException):
    """Something that the user can put right, or has to know.

    Args:
        message: one sentence that says what to do; control characters in it are shown, not obeyed.
        status: exit status.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(printable(message))
        self.status = status


class Unread(Problem):
    """Whoever read our output has seen enough."""

    def __init__(self) -> None:
        # What a shell makes of SIGPIPE.
        super().__init__("nobody reads what is written", 141)


#: What stands for a sign that a stream has none for.
_PLAINER: Final = {"█": "#", "─": "-", "━": "=", "µ": "u", "✓": "+", "✗": "x", "…": "...", "—": "-"}


def plainer(stream: TextIO) -> dict[int, str]:
    """For `str.translate`: what to write to *stream* instead of signs that its encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return {ord(sign): other for sign, other in _PLAINER.items() if not _encodable(sign, encoding)}


def _encodable(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
