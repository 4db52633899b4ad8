# Findings first, worst first, for whoever reads this reads it at night. Then each
# server's figures, then single requests to scale. Nothing depends on colour, and
# nothing that came in a span reaches the terminal as anything but text.

"""A report on a terminal, or as plain text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..telemetry import names
from .colours import COLOURS
from .findings import Finding, Severity
from .look import NOWHERE, Look
from .printable import printable
from .quote import quoted
from .rows import PHASES, Other, Row, Sent
from .summary import Origin, Path, Quantiles, Report, Server
from .units import count, seconds, share

#: By severity: a word, since not everybody sees colours, and a colour.
_SEVERITY: Final[dict[Severity, tuple[str, str]]] = {
    Severity.FAILED: ("failed", "bold red"),
    Severity.SLOW: ("slow", "bold yellow"),
    Severity.WASTE: ("waste", "bold magenta"),
}

_STEP_STYLE: Final[dict[str, str]] = {
    names.SPAN_GETCONN: COLOURS["pool"].terminal,
    names.SPAN_DNS: COLOURS["dns"].terminal,
    names.SPAN_CONNECT: COLOURS["connect"].terminal,
    names.SPAN_PROXY: COLOURS["proxy"].terminal,
    names.SPAN_TLS: COLOURS["tls"].terminal,
    names.SPAN_SEND: COLOURS["send"].terminal,
    names.SPAN_WAIT: COLOURS["wait"].terminal,
    names.SPAN_RECEIVE: COLOURS["receive"].terminal,
}
#: So many findings are told in short, before all of them are told in full: with two lines each, and the heading, the
#: first screen of 24 lines says what is wrong, whose line it is, and what to do.
_MAX_IN_SHORT: Final = 8
#: So few origins are all shown in full.
_FEW_ORIGINS: Final = 3
_MAX_ORIGINS: Final = 10
#: Of the others, each a line.
_MAX_LINES: Final = 40
_MAX_PATHS: Final = 5
_MAX_SERVERS: Final = 5
_MAX_PEERS: Final = 5


def render(
    report: Report, console: Console, *, everything: bool = False, look: Look = NOWHERE, since: str = ""
) -> None:
    """Print *report*.

    Args:
        report: what there is to say.
        console: where; its width, and whether it shows colours, are respected.
        everything: show each origin in full, however many there are.
        look: how to look at a request.
        since: what has changed since the last report; empty if there was none.
    """
    summarize(report, console, everything=everything, look=look, since=since)
    shown: set[str] = set()
    for title, row in _examples(report):
        if row.span_id in shown:
            continue
        shown.add(row.span_id)
        console.print()
        console.print(Rule(Text(title), align="left", style="dim"))
        console.print(waterfall(row, console.width))
        _address(row, look, console)


def brief(report: Report, console: Console) -> None:
    """Print the findings of *report* only, a line each, which is not broken: for a pipe, or a log of many."""
    for problem in (*report.problems, *filter(None, [report.unsent])):
        console.print(Text.assemble(("! ", "bold red"), printable(problem)), soft_wrap=True)
    for finding in report.findings:
        word, style = _SEVERITY[finding.severity]
        where = f"  {printable(finding.line)}" if finding.line else ""
        line = Text.assemble((finding.verdict, style), f"  {word}, {finding.sure.value}{where}  ")
        console.print(line.append(" ".join(printable(finding.sentence).split())), soft_wrap=True)
    if not report.findings:
        failures = [Text(printable(report.failures), style="bold red")] if report.failures else []
        console.print(*failures, _findings((), report, console.width), sep="\n", soft_wrap=True)


def trace(rows: Sequence[Row], console: Console, left: int = 0, look: Look = NOWHERE) -> None:
    """Print the requests of one trace, in the order in which they began: each to scale, and what is to be said of it.

    Args:
        rows: its requests.
        console: where.
        left: how many requests it has besides.
        look: how to look at a request.
    """
    rows = sorted(rows, key=lambda row: (not row.timed, row.start))
    timed = [row for row in rows if row.timed]
    took = f" in {seconds(max(row.end for row in timed) - timed[0].start)}" if timed else ""
    services = ", ".join(dict.fromkeys(printable(row.source.service) for row in rows if row.source.service))
    heading = f"trace {printable(rows[0].trace_id)}: {count(len(rows), 'request')}{took}"
    console.print(Text(_hung(f"{heading}, from {services}" if services else heading, console.width), style="bold"))
    for number, row in enumerate(rows, 1):
        after = f", {seconds(row.start - timed[0].start)} after the first" if row.timed and number > 1 else ""
        console.print()
        console.print(Rule(Text(f"request {number} of {len(rows)}{after}"), align="left", style="dim"))
        console.print(waterfall(row, console.width))
        for said in row.sentences:
            console.print(_beside(Text("  *", style="bold yellow"), Text(printable(said))))
        _address(row, look, console)
    if left > 0:
        console.print(Text(f"\nand {count(left, 'request')} more", style="dim"))


def summarize(
    report: Report, console: Console, *, everything: bool = False, look: Look = NOWHERE, since: str = ""
) -> None:
    """Print *report* without single requests."""
    console.print(_heading(report, console.width))
    if since:
        console.print(Text(_hung(printable(since), console.width)))
    for problem in (*report.problems, *filter(None, [report.unsent])):
        console.print(_beside(Text("!", style="bold red"), Text(printable(problem))))
    if report.failures:
        console.print(Text(_hung(printable(report.failures), console.width), style="bold red"))
    console.print()
    if len(report.findings) > 1:
        console.print(_in_short(report.findings, console.width))
        console.print()
    console.print(_findings(report.findings, report, console.width))
    if look.trace and any(finding.evidence for finding in report.findings):
        # To be copied: a path is not broken, however long it is.
        told = _hung(f"to see a trace: {printable(look.trace)}", console.width, first=3, rest=5, whole=True)
        console.print(Text(told, style="dim"), soft_wrap=True)
    _addresses(report.findings, look, console)
    full, rest = _told_in_full(report, everything=everything)
    for origin in full:
        console.print()
        console.print(_origin(origin, console.width))
    if rest:
        console.print()
        console.print(_others(rest, console.width, more=bool(full)))
    for server in report.servers if everything else report.servers[:_MAX_SERVERS]:
        console.print()
        console.print(_server(server, console.width))
    if not everything and len(report.servers) > _MAX_SERVERS:
        console.print(Text(f"and {count(len(report.servers) - _MAX_SERVERS, 'server')} more: --all", style="dim"))


def _addresses(findings: Sequence[Finding], look: Look, console: Console) -> None:
    """Where Jaeger shows the first request of each finding: to be clicked, so no address is broken."""
    known = [
        (number, look.address(finding.evidence[0].trace_id, finding.evidence[0].span_id))
        for number, finding in enumerate(findings, 1)
        if finding.evidence
    ]
    if any(address for _, address in known):
        console.print(Text("\nin Jaeger, with the details of the request open:", style="dim"))
    for number, address in known:
        if address:
            console.print(Text(f"{number}. {printable(address)}", style="dim"), soft_wrap=True)


def _address(row: Row, look: Look, console: Console) -> None:
    address = look.address(row.trace_id, row.span_id)
    if address:
        console.print(Text(f"  {printable(address)}", style="dim"), soft_wrap=True)


def _told_in_full(report: Report, *, everything: bool) -> tuple[list[Origin], list[Origin]]:
    """The origins that are shown with all their figures, those that findings are about first; and the others."""
    about = {name for finding in report.findings for name in (finding.origin, *(one.origin for one in finding.origins))}
    origins = sorted(report.origins, key=lambda origin: origin.name not in about)
    if everything or len(origins) <= _FEW_ORIGINS:
        return origins, []
    full = min(sum(origin.name in about for origin in origins), _MAX_ORIGINS)
    return origins[:full], origins[full:]


def _in_short(findings: tuple[Finding, ...], width: int) -> Group:
    parts = []
    for number, finding in enumerate(findings[:_MAX_IN_SHORT], 1):
        word, style = _SEVERITY[finding.severity]
        where = f", at {printable(finding.line)}" if finding.line else f", {printable(finding.origin)}".rstrip(", ")
        told = f"  {word}, {count(finding.requests, 'request')}{where}"
        parts.append(Text.assemble((f"{number}. ", "bold"), (finding.verdict, style), told))
        advice = textwrap.shorten(printable(finding.advice), max(20, width - 6), placeholder=" ...")
        parts.append(Text.assemble("   ", ("=> ", "bold green"), advice))
    if len(findings) > _MAX_IN_SHORT:
        parts.append(Text(f"and {len(findings) - _MAX_IN_SHORT} more"))
    return Group(*parts)


def _others(origins: list[Origin], width: int, *, more: bool) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("other origins" if more else "origins", overflow="fold")
    figures: list[tuple[str, int, Callable[[Origin], str]]] = [
        ("requests", 0, lambda origin: f"{origin.requests:,}"),
        ("failed", 0, lambda origin: f"{origin.failed:,}" if origin.failed else ""),
        ("opened", 64, lambda origin: f"{origin.opened:,}"),
        ("reuse", 64, _reuse),
        ("p50", 80, lambda origin: _total(origin, 0.5)),
        ("p99", 52, lambda origin: _total(origin, 0.99)),
    ]
    shown = [(title, show) for title, needed, show in figures if width >= needed]
    for title, _ in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for origin in origins[:_MAX_LINES]:
        table.add_row(Text(printable(origin.name or "origin unknown")), *(show(origin) for _, show in shown))
    left = len(origins) - _MAX_LINES
    hint = f"and {left:,} origins more; " if left > 0 else ""
    return Group(table, Text(_hung(f"{hint}all figures of each: --all", width), style="dim"))


def _reuse(origin: Origin) -> str:
    return "" if origin.reuse is None else share(origin.reused, origin.opened + origin.reused)


def _total(origin: Origin, part: float) -> str:
    times = origin.phases.get("total")
    return seconds(times.at(part)) if times is not None else ""


def _hung(text: str, width: int, first: int = 0, rest: int = 2, *, whole: bool = False) -> str:
    # What goes on in a further line is indented: else it looks like something new.
    return textwrap.fill(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * rest,
        break_on_hyphens=False,
        break_long_words=not whole,
    )


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
        if not report.served:
            return Text(f"no requests in {count(report.spans, 'span')}")
        servers = ", ".join(printable(server.name) for server in report.servers[:3])
        more = f" and {len(report.servers) - 3} more" if len(report.servers) > 3 else ""
        return Text(_hung(f"{count(report.served, 'request')} seen by servers: {servers}{more}", width), style="bold")
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
        observed = report.requests - report.unobserved or report.served
        nothing = f"No problems found in {count(observed, 'request')}" if observed else "nothing to judge"
        if observed and report.failures:
            nothing = f"Nothing else found in {count(observed, 'request')}"
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
    reuse = "" if origin.reuse is None else f"   reuse {_reuse(origin)}"
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
    if origin.phases:
        parts.append(_phases(origin, width))
    if len(origin.paths) > 1:
        parts.append(_paths(origin, width))
    return Group(*parts)


def _server(server: Server, width: int) -> RenderableType:
    """What a server tells of its connections, whoever its clients are."""
    reuse = "" if server.reuse is None else f"   reuse {share(server.reused, server.opened + server.reused)}"
    failed = f"   failed {server.failed:,}" if server.failed else ""
    figures = f"requests {server.requests:,}   connections opened {server.opened:,}{reuse}{failed}"
    parts: list[RenderableType] = [
        Rule(Text(f"seen by the server {printable(server.name)}", style="bold"), align="left", style="dim"),
        Text(_hung(figures, width)),
    ]
    counts = Table.grid(padding=(0, 2, 0, 0))
    peers = Counter(dict(server.peers.most_common(_MAX_PEERS)))
    for title, counted in (
        ("from", peers),
        ("closed with a request", server.close_reasons),
        ("closed while idle", server.lost),
    ):
        if counted:
            counts.add_row(title, _counted(counted))
    for title, times in (("took", server.times), ("idle before", server.idle)):
        if times.count:
            shown = ", ".join(
                (f"p50 {seconds(times.at(0.5))}", f"p99 {seconds(times.at(0.99))}", f"longest {seconds(times.longest)}")
            )
            counts.add_row(title, Text(shown))
    parts.append(counts)
    if server.inferred:
        told = (
            f"{server.inferred:,} of them by the client's address and port: this server is not one that is known, and "
            "does not tell why connections end"
        )
        parts.append(Text(_hung(told, width), style="dim"))
    return Group(*parts)


def _counted(counted: Counter[str]) -> Text:
    return Text(", ".join(f"{printable(name)} {number:,}" for name, number in counted.most_common()))


#: From which share of all time on it is said how much of it was in no phase.
_UNKNOWN: Final = 0.25
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
            style = COLOURS[phase].terminal if phase in COLOURS else "bold"
            table.add_row(Text(phase, style=style), *(show(times) for _, show in figures))
    known = sum(origin.phases[phase].total for phase in PHASES if phase in origin.phases)
    total = origin.phases.get("total")
    if total is not None and total.total - known >= _UNKNOWN * total.total:
        # Time in which none of our hooks was passed: the program's own, or another task's on the same event loop.
        rest = (seconds(total.total - known) if title == "total" else "" for title, _ in figures)
        table.add_row(Text("in no phase", style="dim"), *rest)
    return table


#: A path's figures, and how wide a terminal has to be to show each.
_PATH_FIGURES: Final[tuple[tuple[str, Callable[[Path], str], int], ...]] = (
    ("p50", lambda path: seconds(path.times.at(0.5)), 0),
    ("p95", lambda path: seconds(path.times.at(0.95)), 0),
    ("longest", lambda path: seconds(path.times.longest), 64),
    ("requests", lambda path: f"{path.requests:,}", 52),
    ("failed", lambda path: f"{path.failed:,}" if path.failed else "", 80),
)


def _paths(origin: Origin, width: int) -> RenderableType:
    slowest = origin.slowest_paths
    figures = [(title, show) for title, show, needed in _PATH_FIGURES if width >= needed]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("slowest by path", overflow="fold")
    for title, _ in figures:
        table.add_column(title, justify="right", no_wrap=True)
    for name, path in slowest[:_MAX_PATHS]:
        table.add_row(Text(printable(name)), *(show(path) for _, show in figures))
    left = len(slowest) - _MAX_PATHS
    return Group(table, Text(f"and {count(left, 'path')} more", style="dim")) if left > 0 else table


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
    return f"trace {printable(row.trace_id)} span {printable(row.span_id)}", _connection(row.attributes)


def _connection(known: Mapping[str, Any]) -> str:
    if names.CONN_ID not in known:
        return ""
    how = (
        "reused" if known.get(names.CONN_REUSED) else f"new: {printable(known.get(names.CONN_OPEN_REASON, 'unknown'))}"
    )
    return f"connection {printable(known[names.CONN_ID])} ({how})"


def _sent_before(sent: Sent) -> str:
    known = sent.attributes
    phase, error, close_reason = (
        known.get(name) for name in (names.FAILED_PHASE, names.ERROR_TYPE, names.CONN_CLOSE_REASON)
    )
    told = [
        f"status {sent.status}" if sent.status is not None else "",
        f"failed in {printable(phase)}: {printable(error)}" if phase is not None and error is not None else "",
        f"cancelled in {printable(phase)}" if phase is not None and error is None else "",
        printable(error) if phase is None and error is not None else "",
        _connection(known),
        f"closed: {printable(close_reason)}" if close_reason is not None else "",
    ]
    return f"sent before, for {seconds(sent.duration)}: {', '.join(filter(None, told)) or 'nothing more is known'}"


def _bars(row: Row) -> Iterator[tuple[str, float, float, str]]:
    yield printable(row.name), 0.0, row.duration, "bold red" if row.failed else "white"
    for sent in row.before:
        yield f"  {names.SPAN_EXCHANGE}", sent.start, sent.duration, "bold red" if sent.failed else "dim"
        for step in sent.steps:
            yield "  " * (step.depth + 1) + step.name, step.start, step.duration, _STEP_STYLE.get(step.name, "white")
    for step in row.steps:
        yield "  " * step.depth + step.name, step.start, step.duration, _STEP_STYLE.get(step.name, "white")
    if any(step.name in (names.SPAN_WAIT, names.SPAN_RECEIVE) for step in row.steps):
        return
    # These have spans of their own only with spans="all": but their times are
    # attributes, and they are the last to happen. Sending is mostly too quick to be seen.
    receive = row.phases.get("receive", 0.0)
    wait = row.phases.get("wait", 0.0)
    ended = row.duration
    if names.BODY_OUTCOME in row.attributes:
        ended = max(0.0, row.duration - receive)
    send = row.phases.get("send", 0.0)
    if send >= _SEEN * row.duration:
        yield "  send", max(0.0, ended - wait - send), send, COLOURS["send"].terminal
    if "wait" in row.phases:
        yield "  wait", max(0.0, ended - wait), wait, COLOURS["wait"].terminal
    if "receive" in row.phases:
        yield "  receive", ended, receive, COLOURS["receive"].terminal


#: The share of a request's time from which on its sending has a bar.
_SEEN: Final = 0.05
#: A connection's end in plain words, where the reason alone leaves open whose it is.
_CLOSED: Final = {
    "body_not_read": "its connection could not be reused: the response was closed unread ({})",
    # On the span of the request that had it: a finaliser closed the response.
    "response_leaked": "its connection was closed by the garbage collector; your code dropped the response ({})",
}


def _there(other: Other) -> Iterator[str]:
    """What the server says of it."""
    half, lost = other.half, other.lost
    if half is not None:
        service = f", {printable(half.source.service)}," if half.source.service else ""
        told = [f"the server{service} took {seconds(half.seconds)}"]
        if half.connection is not None:
            told.append(f"its connection {half.connection}")
        if half.requests is not None:
            told.append(f"{half.requests:,} before on it" if half.requests else "the first on it")
        if half.idle is not None:
            told.append(f"idle for {seconds(half.idle)} before")
        if half.close_reason is not None:
            told.append(f"closed with it: {printable(half.close_reason)}")
        if half.inferred:
            told.append("told by the client's address and port")
        yield ", ".join(told)
    if other.same is not None:
        yield (
            "client and server see the same TCP connection: nothing stands between"
            if other.same
            else "something stands between: client and server do not see the same TCP connection"
        )
    if lost is not None:
        yield f"the server closed the connection, idle for {seconds(lost.idle)}: {printable(lost.reason)}"


def _remarks(row: Row) -> Iterable[str]:
    known = row.attributes
    yield from map(_sent_before, row.before)
    if row.origin or row.status is not None:
        went = f"{row.asked}, redirected to {row.origin}" if row.asked else row.origin + row.path
        yield printable(went) + (f", status {row.status}" if row.status is not None else "")
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
        yield _CLOSED.get(close_reason, "its connection was closed: {}").format(printable(close_reason))
    if row.other is not None:
        yield from _there(row.other)
    lost = row.lost_by
    if lost is not None:
        where = lost.attributes.get(names.BODY_CLOSED_AT)
        yield f"the connection before was lost by request {printable(lost.span_id)}" + (
            f" at {printable(where)}" if where else ""
        )
