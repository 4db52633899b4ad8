# Findings first, worst first, for whoever reads this reads it at night. Then each
# server's figures, then single requests to scale. Nothing depends on colour, and
# nothing that came in a span reaches the terminal as anything but text.

"""A report on a terminal, or as plain text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..telemetry import names
from .findings import Finding, Severity
from .printable import printable
from .quote import quoted
from .rows import PHASES, Row
from .summary import Origin, Quantiles, Report
from .units import count, seconds, share

#: By severity: a word, since not everybody sees colours, and a colour.
_SEVERITY: Final[dict[Severity, tuple[str, str]]] = {
    Severity.FAILED: ("failed", "bold red"),
    Severity.SLOW: ("slow", "bold yellow"),
    Severity.WASTE: ("waste", "bold magenta"),
}

_PHASE_STYLE: Final[dict[str, str]] = {
    "pool": "yellow",
    "dns": "magenta",
    "connect": "blue",
    "proxy": "bright_blue",
    "tls": "cyan",
    "send": "white",
    "wait": "green",
    "receive": "bright_green",
}
_STEP_STYLE: Final[dict[str, str]] = {
    names.SPAN_GETCONN: "yellow",
    names.SPAN_DNS: _PHASE_STYLE["dns"],
    names.SPAN_CONNECT: _PHASE_STYLE["connect"],
    names.SPAN_PROXY: _PHASE_STYLE["proxy"],
    names.SPAN_TLS: _PHASE_STYLE["tls"],
    names.SPAN_SEND: _PHASE_STYLE["send"],
    names.SPAN_WAIT: _PHASE_STYLE["wait"],
    names.SPAN_RECEIVE: _PHASE_STYLE["receive"],
}
_MAX_ORIGINS: Final = 10


def render(report: Report, console: Console) -> None:
    """Print *report*.

    Args:
        report: what there is to say.
        console: where; its width, and whether it shows colours, are respected.
    """
    summarize(report, console)
    shown: set[str] = set()
    for title, row in _examples(report):
        if row.span_id in shown:
            continue
        shown.add(row.span_id)
        console.print()
        console.print(Rule(Text(title), align="left", style="dim"))
        console.print(waterfall(row, console.width))


def summarize(report: Report, console: Console) -> None:
    """Print *report* without single requests."""
    console.print(_heading(report, console.width))
    for problem in (*report.problems, *filter(None, [report.unsent])):
        console.print(_beside(Text("!", style="bold red"), Text(printable(problem))))
    if report.failures:
        console.print(Text(_hung(printable(report.failures), console.width), style="bold red"))
    console.print()
    console.print(_findings(report.findings, report, console.width))
    for origin in report.origins[:_MAX_ORIGINS]:
        console.print()
        console.print(_origin(origin, console.width))
    if len(report.origins) > _MAX_ORIGINS:
        console.print()
        console.print(Text(f"and {len(report.origins) - _MAX_ORIGINS:,} origins more, with fewer requests"))


def _hung(text: str, width: int, first: int = 0, rest: int = 2) -> str:
    # What goes on in a further line is indented: else it looks like something new.
    return textwrap.fill(text, width, initial_indent=" " * first, subsequent_indent=" " * rest, break_on_hyphens=False)


def _beside(sign: Text, text: Text) -> Table:
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_row(sign, text)
    return line


def _examples(report: Report) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(report.slowest):
        yield ("the slowest request" if not number else "the next slowest"), row
    if report.typical is not None:
        yield "a typical request", report.typical


def _heading(report: Report, width: int) -> Text:
    if not report.requests:
        return Text(f"no requests in {count(report.spans, 'span')}")
    origins = count(len(report.origins), "origin")
    took = f" in {seconds(report.ended - report.started)}" if report.started else ""
    parts = [f"{count(report.requests, 'request')} to {origins}{took}"]
    services = [printable(service) for service in report.services if service]
    if services:
        parts.append(
            "from " + ", ".join(services[:3]) + (f" and {len(services) - 3} more" if len(services) > 3 else "")
        )
    if report.started:
        started = datetime.fromtimestamp(report.started, timezone.utc)
        parts.append(f"beginning {started:%Y-%m-%d %H:%M:%S} UTC")
    heading = Text(_hung(", ".join(parts), width), style="bold")
    if report.unobserved:
        unseen = (
            f"of {share(report.unobserved, report.requests)} of them ({report.unobserved:,}) otel-httptrace has seen "
            "nothing: made without it, or by a transport that is not httpcore's"
        )
        heading.append(f"\n{_hung(unseen, width)}", style="not bold")
    return heading


def _findings(findings: tuple[Finding, ...], report: Report, width: int) -> RenderableType:
    if not findings:
        nothing = (
            "nothing found: no verdict's criterion is met"
            if report.requests > report.unobserved
            else "nothing to judge"
        )
        return Text(nothing, style="yellow" if report.failures else "green" if report.requests else "")
    parts: list[RenderableType] = []
    for number, finding in enumerate(findings, 1):
        word, style = _SEVERITY[finding.severity]
        if number > 1:
            parts.append(Text())
        parts.append(
            _beside(
                Text(f"{number}.", style="bold"),
                Text.assemble((finding.verdict, style), f"  {word}, {finding.sure.value}"),
            )
        )
        lines = Group(
            Text(printable(finding.sentence)),
            *_source(finding),
            _beside(Text("=>", style="bold green"), Text(printable(finding.advice))),
            Text(
                f"{finding.sure.value}: {printable(finding.because)}; criterion: {printable(finding.criterion)}",
                style="dim",
            ),
            *(Text(printable(rival.sentence), style="dim") for rival in finding.rivals),
            *(_evidence(finding, width - 3)),
        )
        parts.append(Padding(lines, (0, 0, 0, 3)))
    return Group(*parts)


def _source(finding: Finding) -> Iterator[RenderableType]:
    line = quoted(finding.line)
    if line is not None:
        yield _beside(Text("|", style="dim"), Text(printable(line), style="bold"))


def _evidence(finding: Finding, width: int) -> Iterator[RenderableType]:
    for evidence in finding.evidence:
        yield Text(_hung(f"see trace {printable(evidence.trace_id)}: {printable(evidence.what)}", width), style="dim")


def _origin(origin: Origin, width: int) -> RenderableType:
    reuse = "" if origin.reuse is None else f"   reuse {share(origin.reused, origin.opened + origin.reused)}"
    failed = f"   failed {origin.failed:,}" if origin.failed else ""
    cancelled = f"   cancelled {origin.cancelled:,}" if origin.cancelled else ""
    how = [what for what, number in (("failed", origin.failed), ("cancelled", origin.cancelled)) if number]
    parts: list[RenderableType] = [
        Rule(Text(printable(origin.name or "origin unknown"), style="bold"), align="left", style="dim"),
        Text(
            _hung(
                f"requests {origin.requests:,}   connections opened {origin.opened:,}   lookups {origin.lookups:,}"
                f"{reuse}{failed}{cancelled}",
                width,
            )
        ),
    ]
    counts = Table.grid(padding=(0, 2, 0, 0))
    for title, counted in (
        ("opened because", origin.open_reasons),
        ("closed because", origin.close_reasons),
        ("bodies", origin.outcomes),
        (f"{' or '.join(how) or 'failed'} in", origin.failed_phases),
        ("errors", origin.error_types),
        ("caused by", origin.failed_causes),
        (
            "statuses",
            Counter({str(status): number for status, number in origin.statuses.items()})
            if origin.bad_statuses
            else None,
        ),
    ):
        if counted:
            counts.add_row(title, _counted(counted))
    if counts.row_count:
        parts.append(counts)
    parts.append(_phases(origin, width))
    return Group(*parts)


def _counted(counted: Counter[str]) -> Text:
    return Text(", ".join(f"{printable(name)} {number:,}" for name, number in counted.most_common()))


#: A phase's figures, and how wide a terminal has to be to show each.
_FIGURES: Final[tuple[tuple[str, Callable[[Quantiles], str], int], ...]] = (
    ("p50", lambda times: seconds(times.at(0.5)), 0),
    ("p95", lambda times: seconds(times.at(0.95)), 64),
    ("p99", lambda times: seconds(times.at(0.99)), 0),
    ("longest", lambda times: seconds(times.longest), 0),
    ("total", lambda times: seconds(times.total), 64),
    ("requests", lambda times: f"{times.count:,}", 52),
)


def _phases(origin: Origin, width: int) -> Table:
    figures = [(title, show) for title, show, needed in _FIGURES if width >= needed]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("time", no_wrap=True)
    for title, _ in figures:
        table.add_column(title, justify="right", no_wrap=True)
    for phase in (*PHASES, "total"):
        times = origin.phases.get(phase)
        if times is not None:
            style = _PHASE_STYLE.get(phase, "bold")
            table.add_row(Text(phase, style=style), *(show(times) for _, show in figures))
    return table


# One request, to scale.


def waterfall(row: Row, width: int = 80) -> Group:
    """One request and its parts, to scale, at most *width* columns wide."""
    request, connection = _title(row)
    # What belongs together stays together, if there is room for it.
    apart = ",\n" if len(request) + len(connection) + 2 > width else ", "
    parts = [Text(_hung(request, width, rest=4))]
    if connection:
        parts[0].append(apart + _hung(connection, width, first=4 if apart.endswith("\n") else 0, rest=4))
    bars = list(_bars(row))
    # Narrow terminals: the picture matters more than the whole of a name.
    name_width = min(max(len(name) for name, _, _, _ in bars), max(16, width // 4))
    bar_width = max(8, width - name_width - 14)
    scale = max(row.duration, 1e-9)
    for name, start, duration, style in bars:
        before = max(0, min(bar_width - 1, round(start / scale * bar_width)))
        length = max(1, min(bar_width - before, round(duration / scale * bar_width)))
        line = Text(f"  {name[:name_width]:<{name_width}} {seconds(duration):>9}  {' ' * before}")
        line.append("█" * length, style=style)
        line.no_wrap = True
        parts.append(line)
    parts += [Text(_hung(line, width, first=2, rest=4)) for line in _remarks(row)]
    return Group(*parts)


def _title(row: Row) -> tuple[str, str]:
    known = row.attributes
    request = f"trace {printable(row.trace_id)} span {printable(row.span_id)}"
    if names.CONN_ID not in known:
        return request, ""
    how = (
        "reused" if known.get(names.CONN_REUSED) else f"new: {printable(known.get(names.CONN_OPEN_REASON, 'unknown'))}"
    )
    return request, f"connection {printable(known[names.CONN_ID])} ({how})"


def _bars(row: Row) -> Iterator[tuple[str, float, float, str]]:
    yield printable(row.name), 0.0, row.duration, "bold red" if row.failed else "white"
    for step in row.steps:
        yield "  " * step.depth + step.name, step.start, step.duration, _STEP_STYLE.get(step.name, "white")
    if any(step.name in (names.SPAN_WAIT, names.SPAN_RECEIVE) for step in row.steps):
        return
    # These have spans of their own only with spans="all": but their times are
    # attributes, and they are the last to happen.
    receive = row.phases.get("receive", 0.0)
    wait = row.phases.get("wait", 0.0)
    ended = row.duration
    if names.BODY_OUTCOME in row.attributes:
        ended = max(0.0, row.duration - receive)
    if "wait" in row.phases:
        yield "  wait", max(0.0, ended - wait), wait, _PHASE_STYLE["wait"]
    if "receive" in row.phases:
        yield "  receive", ended, receive, _PHASE_STYLE["receive"]


def _remarks(row: Row) -> Iterable[str]:
    known = row.attributes
    if row.origin or row.status is not None:
        yield f"{printable(row.origin)}" + (f", status {row.status}" if row.status is not None else "")
    failed_phase = known.get(names.FAILED_PHASE)
    if failed_phase is not None:
        error = known.get(names.ERROR_TYPE)
        yield (
            f"failed in {printable(failed_phase)}: {printable(error)}"
            if error
            else f"cancelled in {printable(failed_phase)}"
        )
    outcome, closed_at = known.get(names.BODY_OUTCOME), known.get(names.BODY_CLOSED_AT)
    if outcome not in (None, "complete"):
        via = known.get(names.BODY_CLOSED_VIA)
        at = f" at {printable(closed_at)}" if closed_at else ""
        yield f"body {printable(outcome)}{at}" + (f", by way of {printable(via)}" if via else "")
    close_reason = known.get(names.CONN_CLOSE_REASON)
    if close_reason is not None:
        yield f"its connection was closed: {printable(close_reason)}"
    lost = row.lost_by
    if lost is not None:
        where = lost.attributes.get(names.BODY_CLOSED_AT)
        yield f"the connection before was lost by request {printable(lost.span_id)}" + (
            f" at {printable(where)}" if where else ""
        )
