"""``httptrace report``."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import click

from ... import clients
from ...report.analysis import Analysis
from ...report.look import Look
from ...report.printable import printable
from ...report.rows import Assembler, Row, Served
from ...report.sources import SourceError, SpanSource
from ...report.summary import Report
from ...report.terminal import console
from ..errors import Problem, say
from ..options import options
from ..output import Output

#: How far back a backend is asked unless told otherwise.
_LOOKBACK = "1h"
#: Spans between two looks at the clock of the progress bar.
_STEP = 1000


@click.command(
    "report",
    short_help="Report on spans that were collected before.",
    epilog="Exit status 2 if something could not be read; what could be read is reported all the same. "
    "The Authorization header for a Jaeger or a Tempo is taken from the variable HTTPTRACE_AUTHORIZATION, whole: "
    "'Bearer ...'. It is never printed.",
)
@click.option("--jaeger", metavar="URL", help="Read from this Jaeger: http://localhost:16686.")
@click.option("--tempo", metavar="URL", help="Read from this Tempo: http://localhost:3200.")
@click.option("--service", metavar="NAME", help="Report the requests of this service; --jaeger needs it.")
@click.option("--query", metavar="TRACEQL", help="Select traces by this TraceQL query; for Tempo.")
@click.option("--tenant", metavar="ID", help="Read the traces of this Tempo tenant: sent as X-Scope-OrgID.")
@click.option("--lookback", metavar="TIME", show_default=_LOOKBACK, help="How far back to look.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Read at most so many traces.")
@click.option(
    "--trace",
    metavar="ID",
    callback=lambda ctx, parameter, value: None if value is None else _trace(value),
    help="Tell of this trace alone, request by request; the beginning of its id is enough.",
)
@options
@click.argument("sources", nargs=-1, metavar="[FILE]...")
def command(
    *,
    output: Output,
    sources: tuple[str, ...],
    jaeger: str | None,
    tempo: str | None,
    service: str | None,
    query: str | None,
    tenant: str | None,
    lookback: str | None,
    limit: int | None,
    trace: str | None,
) -> int:
    """Report what was collected before: FILE has OTLP JSON lines, as the collector's file exporter writes; - is stdin.

    Several files are one report: a client's and its server's, or those that were rotated.

    \b
      httptrace report traces.jsonl
      zstd -dc traces.jsonl.zst | httptrace report -
      httptrace report traces.jsonl --trace 4c7ae5ac
      httptrace report shop.jsonl parts.jsonl
      httptrace report --jaeger http://localhost:16686 --service shop --lookback 2h
      httptrace report --tempo http://localhost:3200 --query '{ span.httptrace.conn.open_reason = "body_not_read" }'
    """
    given = [what for what in (" ".join(sources) or None, jaeger, tempo) if what is not None]
    if len(given) != 1:
        raise click.UsageError("expected one of FILE, --jaeger URL and --tempo URL.")
    for source in sources:
        output.check_others(FILE=source)
    if trace is not None:
        output.refuse("everything", "brief", because="with --trace")
    if output.text is None and "-" in (output.html, output.json):
        output.refuse("everything", "brief", "width", because="with no text: stdout is that file's")
    try:
        if sources:
            _refuse_of_backends(service=service, query=query, tenant=tenant, lookback=lookback, limit=limit)
            spans = _files(sources)
        else:
            spans = _backend(
                jaeger=jaeger,
                tempo=tempo,
                service=service,
                query=query,
                tenant=tenant,
                lookback=lookback or _LOOKBACK,
                limit=limit,
            )
        report, failure, rows = read(spans, output, trace)
    except SourceError as error:
        raise Problem(str(error)) from error
    if trace is not None:
        _check_one(rows, trace, given[0], report, failure)
    if jaeger is not None:
        output = replace(output, look=Look(jaeger=_without_credentials(jaeger)))
    elif trace is None and "-" not in sources and sources:
        output = replace(output, look=Look(f"httptrace report {shlex.join(sources)} --trace ID"))
    problems = [*spans.problems, *([failure] if failure else []), *report.problems]
    lines = [*problems, *foreign(report)]
    if report.spans:
        to_stdout = "-" in (output.html, output.json)
        output = replace(output, quiet=output.quiet or to_stdout)
        # What could not be read is part of the report, too: a page may be all that is kept of it.
        output.write(replace(report, problems=tuple(map(printable, problems))), sys.stdout, told=True, trace=rows)
        sys.stdout.flush()
    elif not lines:
        lines = [f"{given[0]}: there is no span in it"]
    for line in lines:
        say(line)
    if lines:
        return 2
    return output.fails(report)


#: Requests of a trace that are told one by one.
_MOST = 1000


def _trace(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{1,32}", value.strip()):
        raise click.BadParameter(f"{value!r} is not the id of a trace, nor the beginning of one: hexadecimal digits.")
    return value.strip().lower()


def _check_one(rows: list[Row], trace: str, where: str, report: Report, failure: str) -> None:
    ids = list(dict.fromkeys(row.trace_id for row in rows))
    if not ids:
        what = f"none of its {report.spans:,} spans is a request" if report.spans else "no trace has an id like that"
        raise Problem(f"--trace {trace}: {failure or what}, in {where}")
    if len(ids) > 1:
        more = f" and {len(ids) - 3:,} more" if len(ids) > 3 else ""
        raise Problem(f"--trace {trace}: {len(ids):,} traces begin so: {', '.join(ids[:3])}{more}")


def _without_credentials(url: str) -> str:
    from ...report.sources.api import split_userinfo  # noqa: PLC0415

    return str(split_userinfo(url)[0]).rstrip("/")


def _refuse_of_backends(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            where = "--tempo" if name in ("query", "tenant") else "--jaeger and --tempo"
            raise click.UsageError(f"--{name} is for {where}: all of a FILE is read.")


def _files(paths: Sequence[str]) -> SpanSource:
    from ...report.sources.files import FileSource, FilesSource  # noqa: PLC0415

    seen: set[str] = set()
    for path in paths:
        known = path if path == "-" else os.path.realpath(path)
        if known in seen:
            raise click.UsageError(f"{path} is given twice: its requests would count twice.")
        seen.add(known)
    return FileSource(paths[0]) if len(paths) == 1 else FilesSource(paths)


def _backend(
    *,
    jaeger: str | None,
    tempo: str | None,
    service: str | None,
    query: str | None,
    tenant: str | None,
    lookback: str,
    limit: int | None,
) -> SpanSource:
    if jaeger is not None:
        from ...report.sources.jaeger import JaegerSource  # noqa: PLC0415

        if service is None:
            raise click.UsageError("--jaeger needs --service NAME.")
        if query is not None:
            raise click.UsageError("--query is for --tempo.")
        if tenant is not None:
            raise click.UsageError("--tenant is for --tempo.")
        return JaegerSource(jaeger, service, lookback, limit=limit)
    from ...report.sources.tempo import TempoSource  # noqa: PLC0415

    return TempoSource(tempo or "", service, query, lookback, limit=limit, tenant=tenant)


def read(spans: SpanSource, output: Output, trace: str | None = None) -> tuple[Report, str, list[Row]]:
    """The report of *spans*, what ended reading before its time (empty if nothing did), and the requests of *trace*.

    Args:
        spans: what is read.
        output: has the thresholds.
        trace: the beginning of a trace's id, in small letters: nothing else is reported then.

    Raises:
        SourceError: nothing could be read.
    """
    assembler, analysis, number, failure = Assembler(), Analysis(output.thresholds), 0, ""
    chosen: list[Row] = []
    others = 0

    def take(rows: Iterable[Row]) -> None:
        for row in rows:
            analysis.add(row)
            if trace is not None and not isinstance(row, Served) and len(chosen) < _MOST:
                chosen.append(row)

    with _progress(spans) as advance:
        try:
            for number, span in enumerate(spans, 1):
                if trace is None or span.trace_id.startswith(trace):
                    take(assembler.add(span))
                else:
                    others += 1
                if number % _STEP == 0:
                    advance(number)
        except SourceError as error:
            if not number:
                raise
            failure = str(error)
    take(assembler.finish())
    analysis.join(chosen)
    return analysis.report(spans=number - others, foreign=assembler.foreign), failure, chosen


def foreign(report: Report) -> Iterator[str]:
    """Why there is nothing to say of what was read."""
    if report.spans and not report.requests and not report.served:
        yield (
            f"none of the {report.spans:,} spans is from a request made with {clients.named('or')} "
            f"({', '.join(dict.fromkeys(client.upstream.distribution for client in clients.CLIENTS))})"
        )
    elif report.requests and report.unobserved == report.requests:
        yield (
            f"none of the {report.requests:,} requests has an attribute of otel-httptrace: is it installed where they "
            "were made? See httptrace doctor"
        )


@contextlib.contextmanager
def _progress(spans: SpanSource) -> Iterator[Callable[[int], None]]:
    # On a terminal only, and on stderr: stdout is the report's.
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def advance(number: int) -> None:
            progress.update(task, total=spans.size, completed=spans.position, description=f"{number:,} spans")

        yield advance
