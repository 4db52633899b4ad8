"""Where a report goes, as the options say. Renderers are imported when they are used."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

import click

from ..report.findings import Thresholds
from ..report.terminal import Unread, console
from .errors import Problem
from .files import check_writable, writing

if TYPE_CHECKING:
    from rich.console import Console

    from ..report.summary import Report


@dataclass(frozen=True)
class Output:
    """What to make of a report.

    Args:
        text: a file for the report as text; None for the terminal.
        html: a file for the page; ``-`` is stdout, as for ``json``.
        width: columns of the text; None for those of the terminal.
        quiet: no text.
        fail_on: verdicts that are a failure.
        thresholds: from where on something is a finding.
    """

    text: str | None
    html: str | None
    json: str | None
    width: int | None
    quiet: bool
    fail_on: frozenset[str]
    thresholds: Thresholds

    def check(self) -> None:
        """See whether the files can be written, before a program runs for an hour.

        Raises:
            Problem: one cannot.
        """
        for path in (self.text, self.html, self.json):
            if path not in (None, "-"):
                check_writable(str(path))
        if self.json == "-" and self.html == "-":
            raise Problem("only one of --json and --html can go to stdout")
        self.check_others()

    def check_others(self, **others: str | None) -> None:
        """See that no two names are of one file, of which each would take the place of the other.

        Args:
            **others: files besides those of a report, by their options' names.

        Raises:
            click.UsageError: two are.
        """
        seen: dict[str, str] = {}
        for option, path in {"output": self.text, "html": self.html, "json": self.json, **others}.items():
            # A pipe, or /dev/null, takes more than one.
            if path in (None, "-") or (os.path.exists(str(path)) and not os.path.isfile(str(path))):
                continue
            name = option if option.isupper() else f"--{option}"
            other = seen.setdefault(os.path.realpath(str(path)), name)
            if other != name:
                raise click.UsageError(f"{other} and {name} are the same file: {path}.")

    def write(self, report: Report, stream: TextIO, *, final: bool = True, told: bool = False) -> None:
        """Show *report*.

        Args:
            report: what to show.
            stream: where text goes that has no file.
            final: whether it is the last; one that is not does not go to stdout as JSON or HTML.
            told: its problems have been told on the terminal, or will be.

        Raises:
            Problem: a file cannot be written.
        """
        if not self.quiet or self.text is not None:
            if self.text is None:
                draw(replace(report, problems=()) if told else report, console(stream, self.width))
            else:
                with writing(self.text) as file:
                    draw(report, console(file, self.width))
        for path, render in ((self.html, page), (self.json, schema)):
            if path is not None and (final or path != "-"):
                _write(path, render(report))

    def failing(self, report: Report) -> list[str]:
        """The verdicts of *report* that are a failure."""
        return sorted({finding.verdict for finding in report.findings} & self.fail_on)


def draw(report: Report, console: Console) -> None:
    """The report as text."""
    from ..report import text  # noqa: PLC0415

    text.render(report, console)


def page(report: Report) -> str:
    """The report as a page."""
    from ..report.page import render  # noqa: PLC0415

    return render(report)


def schema(report: Report) -> str:
    """The report as JSON."""
    from ..report.schema import dumps  # noqa: PLC0415

    return dumps(report)


def _write(path: str, text: str) -> None:
    text = text if text.endswith("\n") else text + "\n"
    if path == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise Unread from error
        return
    with writing(path) as file:
        file.write(text)
