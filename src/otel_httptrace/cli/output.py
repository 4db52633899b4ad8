# The one module that knows who draws what: options in, renderers called, files
# written. Renderers are imported when they are used.

"""Where a report goes, as the options say."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar, cast

import click

from ..report.findings import Thresholds
from ..report.printable import printable
from ..report.verdicts import VERDICTS
from .files import check_writable, writing
from .problem import Problem, Unread, plainer

if TYPE_CHECKING:
    from rich.console import Console

    from ..report.forward import Forwarder
    from ..report.sources import SpanSource
    from ..report.summary import Report

_Command = TypeVar("_Command", bound=Callable[..., Any])


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


def options(function: _Command) -> _Command:
    """Give a command the options of `Output`, which it gets as the argument ``output``."""

    def command(**given: Any) -> Any:
        output = Output(
            text=given.pop("output"),
            html=given.pop("html"),
            json=given.pop("json"),
            width=given.pop("width"),
            quiet=given.pop("quiet"),
            fail_on=frozenset(given.pop("fail_on")),
            thresholds=given.pop("threshold"),
        )
        output.check()
        return function(output=output, **given)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(
        (
            click.option("--html", metavar="FILE", help="Write the report as one self-contained page."),
            click.option("--json", metavar="FILE", help="Write the report as JSON; - is stdout."),
            click.option("--output", "-o", metavar="FILE", help="Write the report as text to a file."),
            click.option("--quiet", "-q", is_flag=True, help="Print no report."),
            click.option("--width", type=click.IntRange(40, 1000), help="Columns of the text."),
            click.option(
                "--fail-on",
                metavar="VERDICT,...",
                default="",
                callback=_verdicts,
                help="Exit with status 1 if one of these is found, as body_not_read,client_per_request.",
            ),
            click.option(
                "--threshold",
                metavar="NAME=VALUE",
                multiple=True,
                callback=_thresholds,
                help="From where on something is a finding: dns=0.5, lost_connections=10, ... Repeatable.",
            ),
        )
    ):
        command = option(command)
    return command  # type: ignore[return-value]


def _verdicts(ctx: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in VERDICTS]
    if unknown:
        raise click.BadParameter(f"no verdict is called {unknown[0]!r}; there are {', '.join(VERDICTS)}.", ctx)
    return names


def _thresholds(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Thresholds:
    settings = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE.", ctx)
        settings[name.strip()] = text.strip()
    try:
        return Thresholds.parse(settings)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx) from error


_UNITS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Seconds, from ``30s``, ``5m``, ``1h``, ``2d``, ``250ms``, or a number of them.

    Raises:
        click.BadParameter: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)(ms|s|m|h|d|)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < 1e9:
        raise click.BadParameter(f"{text!r} is not a duration like 30s, 5m or 1h.")
    return seconds


# Renderers and sources.


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


def otlp_line(request: Any) -> bytes:
    """An export request as a line of an OTLP JSON file."""
    from ..report.otlp import to_json  # noqa: PLC0415

    line: bytes = to_json(request)
    return line if line.endswith(b"\n") else line + b"\n"


def forwarder(endpoint: str) -> Forwarder:
    """What sends on to *endpoint*.

    Raises:
        Problem: that is no endpoint.
    """
    from ..report.forward import Forwarder  # noqa: PLC0415

    try:
        return Forwarder(endpoint)
    except ValueError as error:
        raise Problem(f"--forward: {error}") from error


def file(path: str) -> SpanSource:
    """The spans of a file."""
    from ..report.sources.files import FileSource  # noqa: PLC0415

    return FileSource(path)


def backend(
    *,
    jaeger: str | None,
    tempo: str | None,
    service: str | None,
    query: str | None,
    tenant: str | None,
    lookback: str,
    limit: int | None,
) -> SpanSource:
    """The spans of a Jaeger or a Tempo.

    Raises:
        SourceError: an argument is not what it should be.
    """
    if jaeger is not None:
        from ..report.sources.jaeger import JaegerSource  # noqa: PLC0415

        if service is None:
            raise click.UsageError("--jaeger needs --service NAME.")
        if query is not None:
            raise click.UsageError("--query is for --tempo.")
        if tenant is not None:
            raise click.UsageError("--tenant is for --tempo.")
        return JaegerSource(jaeger, service, lookback, limit=limit)
    from ..report.sources.tempo import TempoSource  # noqa: PLC0415

    return TempoSource(tempo or "", service, query, lookback, limit=limit, tenant=tenant)


def console(stream: TextIO, width: int | None = None) -> Console:
    """For *stream*: colour if it is a terminal, NO_COLOR and FORCE_COLOR obeyed."""
    from rich.console import Console  # noqa: PLC0415

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            # Where rich would exit, and click as well: the exit status is not their business.
            raise Unread

    return Ours(file=cast(TextIO, _Fitted(stream)), width=width, highlight=False, markup=False, emoji=False)


class _Fitted:
    # A stream to which goes what it can show: rich fills lines up with blanks, which
    # only a terminal has a use for, and draws with signs that not all encodings have.

    # A word's own blank may be before a colour's end, and rich's behind it.
    _FILL: Final = re.compile(r" +((?: |\x1b\[[0-9;]*m)*\n)")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._plainer = plainer(stream)
        self._trimmed = not stream.isatty()
        self._held = ""

    def write(self, text: str) -> int:
        length = len(text)
        text = self._held + text.translate(self._plainer)
        if self._trimmed:
            text = self._FILL.sub(lambda found: found[1].replace(" ", ""), text)
            # Whether these are the last of their line shows later.
            kept = text.rstrip(" ")
            self._held, text = text[len(kept) :], kept
        self._stream.write(text)
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(line: str) -> None:
    """A line of ours on stderr; nothing happens if nobody reads that."""
    with contextlib.suppress(OSError):
        click.echo(f"httptrace: {printable(line)}".translate(plainer(sys.stderr)), err=True)


# Files.


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
