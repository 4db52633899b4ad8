"""Where a report goes, as the options say. Renderers are imported when they are used."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ..report.findings import Thresholds
from ..report.gate import Gate
from ..report.look import NOWHERE, Look
from ..report.printable import printable
from ..report.terminal import Unread, console
from .errors import Problem, say
from .files import check_writable, writing

if TYPE_CHECKING:
    from rich.console import Console

    from ..report.rows import Row
    from ..report.summary import Report


@dataclass(frozen=True)
class Output:
    """What to make of a report.

    Args:
        text: a file for the report as text; None for the terminal.
        html: a file for the page; ``-`` is stdout, as for ``json``.
        width: columns of the text; None for those of the terminal.
        quiet: no text.
        everything: each origin in full in the text, however many there are.
        gate: which findings are a failure.
        thresholds: from where on something is a finding.
        look: how to look at a request.
        brief: findings only in the text, a line each.
        given: of its options that shape the text, those that were typed, by their parameters' names.
    """

    text: str | None
    html: str | None
    json: str | None
    width: int | None
    quiet: bool
    everything: bool
    gate: Gate
    thresholds: Thresholds
    look: Look = NOWHERE
    brief: bool = False
    given: frozenset[str] = frozenset()

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
        if self.quiet and self.text is None:
            self.refuse("everything", "brief", "width", because="with --quiet")
        if self.brief:
            self.refuse("everything", "width", because="with --brief")
        self.check_others()

    def refuse(self, *names: str, because: str) -> None:
        """See that none of these options was typed: none would have an effect.

        What a project's file or a variable says is for all commands, and is passed over.

        Args:
            *names: parameters' names.
            because: when that is so.

        Raises:
            click.UsageError: one was.
        """
        for name in names:
            if name in self.given:
                raise click.UsageError(f"--{'all' if name == 'everything' else name} has no effect {because}.")

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

    def write(
        self,
        report: Report,
        stream: TextIO,
        *,
        final: bool = True,
        told: bool = False,
        trace: Sequence[Row] = (),
        since: str = "",
    ) -> None:
        """Show *report*.

        Args:
            report: what to show.
            stream: where text goes that has no file.
            final: whether it is the last; one that is not does not go to stdout as JSON or HTML.
            told: its problems have been told on the terminal, or will be.
            trace: requests of one trace, of which the text is to tell instead.
            since: what has changed since the last.

        Raises:
            Problem: a file cannot be written.
        """
        if not self.quiet or self.text is not None:
            if self.text is None:
                self._draw(replace(report, problems=()) if told else report, stream, trace, since)
            else:
                with writing(self.text) as file:
                    self._draw(report, file, trace, since)
        if self.html is not None and (final or self.html != "-"):
            _write(self.html, page(report, self.look.jaeger))
        if self.json is not None and (final or self.json != "-"):
            _write(self.json, schema(report))
        if final and self.html is not None and os.path.isfile(self.html) and not self.quiet:
            say(f"page: {Path(self.html).resolve().as_uri()}")

    def _draw(self, report: Report, stream: TextIO, trace: Sequence[Row], since: str) -> None:
        if not trace and not self.brief:
            draw(report, console(stream, self.width), everything=self.everything, look=self.look, since=since)
            return
        from ..report import text  # noqa: PLC0415

        if not trace:
            text.brief(report, console(stream, self.width))
            return

        text.trace(trace, console(stream, self.width), report.requests - len(trace), self.look)

    def fails(self, report: Report) -> int:
        """Say which findings of *report* are a failure, if failures were asked for.

        Returns:
            The exit status: 0 if there is none, 1 if there is, 2 if nothing was seen that could tell.
        """
        status, said, annotations = self.gate.judge(report)
        if said:
            say(f"{said}: --fail-on has nothing to judge by" if status == 2 else said)
        for line in annotations:
            # GitHub reads what a step writes to either stream. stdout may be the report's.
            with contextlib.suppress(OSError):
                click.echo(printable(line), err=True)
        return status


def draw(report: Report, console: Console, *, everything: bool, look: Look, since: str) -> None:
    """The report as text."""
    from ..report import text  # noqa: PLC0415

    text.render(report, console, everything=everything, look=look, since=since)


def page(report: Report, jaeger: str = "") -> str:
    """The report as a page, with links to a Jaeger if there is one."""
    from ..report.page import render  # noqa: PLC0415

    return render(report, jaeger)


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
