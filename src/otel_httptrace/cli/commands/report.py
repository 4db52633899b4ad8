"""``httptrace report``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import click

from ... import clients
from ...report.analysis import Analysis
from ...report.printable import printable
from ...report.rows import Assembler
from ...report.sources import SourceError, SpanSource
from ...report.summary import Report
from ...report.terminal import console
from ..errors import Problem, say
from ..options import options
from ..output import Output

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
@click.option("--lookback", metavar="TIME", default="1h", show_default=True, help="How far back to look.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Read at most so many traces.")
@options
@click.argument("source", required=False, metavar="[FILE]")
def command(
    *,
    output: Output,
    source: str | None,
    jaeger: str | None,
    tempo: str | None,
    service: str | None,
    query: str | None,
    tenant: str | None,
    lookback: str,
    limit: int | None,
) -> int:
    """Report what was collected before: FILE has OTLP JSON lines, as the collector's file exporter writes; - is stdin.

    \b
      httptrace report traces.jsonl
      zstd -dc traces.jsonl.zst | httptrace report -
      httptrace report --jaeger http://localhost:16686 --service shop --lookback 2h
      httptrace report --tempo http://localhost:3200 --query '{ span.httptrace.conn.open_reason = "body_not_read" }'
    """
    given = [what for what in (source, jaeger, tempo) if what is not None]
    if len(given) != 1:
        raise click.UsageError("expected one of FILE, --jaeger URL and --tempo URL.")
    output.check_others(FILE=source)
    try:
        if source is not None:
            spans = _file(source)
        else:
            spans = _backend(
                jaeger=jaeger,
                tempo=tempo,
                service=service,
                query=query,
                tenant=tenant,
                lookback=lookback,
                limit=limit,
            )
        report, failure = read(spans, output)
    except SourceError as error:
        raise Problem(str(error)) from error
    problems = [*spans.problems, *([failure] if failure else []), *report.problems]
    lines = [*problems, *foreign(report)]
    if report.spans:
        to_stdout = "-" in (output.html, output.json)
        output = replace(output, quiet=output.quiet or to_stdout)
        # What could not be read is part of the report, too: a page may be all that is kept of it.
        output.write(replace(report, problems=tuple(map(printable, problems))), sys.stdout, told=True)
        sys.stdout.flush()
    elif not lines:
        lines = [f"{given[0]}: there is no span in it"]
    for line in lines:
        say(line)
    if lines:
        return 2
    failing = output.failing(report)
    if failing:
        say(f"found {', '.join(failing)}")
    return 1 if failing else 0


def _file(path: str) -> SpanSource:
    from ...report.sources.files import FileSource  # noqa: PLC0415

    return FileSource(path)


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


def read(spans: SpanSource, output: Output) -> tuple[Report, str]:
    """The report of *spans*, and what ended reading before its time; empty if nothing did.

    Raises:
        SourceError: nothing could be read.
    """
    assembler, analysis, number, failure = Assembler(), Analysis(output.thresholds), 0, ""
    with _progress(spans) as advance:
        try:
            for number, span in enumerate(spans, 1):
                for row in assembler.add(span):
                    analysis.add(row)
                if number % _STEP == 0:
                    advance(number)
        except SourceError as error:
            if not number:
                raise
            failure = str(error)
    for row in assembler.finish():
        analysis.add(row)
    return analysis.report(spans=number, foreign=assembler.foreign), failure


def foreign(report: Report) -> Iterator[str]:
    """Why there is nothing to say of what was read."""
    if report.spans and not report.requests:
        yield (
            f"none of the {report.spans:,} spans is of a request made with {clients.named('or')} "
            f"({', '.join(dict.fromkeys(client.upstream.distribution for client in clients.CLIENTS))})"
        )
    elif report.requests and report.unobserved == report.requests:
        yield (
            f"none of the {report.requests:,} requests has what otel-httptrace says of one: is it installed where they "
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
