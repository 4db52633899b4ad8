"""Summaries and single requests as plain text, for a terminal at night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..telemetry import names
from .rows import Row
from .summary import Summary

_ADVICE = {
    "body_not_read": "read the body before closing, or ask for less (HEAD, Range)",
    "response_leaked": "close the response: use it in a `with` block",
    "request_failed": "see the failed requests",
    "request_cancelled": "see who cancels them",
}


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            number = value * factor
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{value * 1e6:.0f} µs"


def summary(found: Summary) -> Iterator[str]:
    """The lines of a summary."""
    reuse = "" if found.reuse is None else f"   reuse {found.reuse:.0%}"
    yield f"requests {found.requests:>4}   connections opened {found.opened:>3}   lookups {found.lookups:>3}{reuse}"
    for title, counted in (
        ("bodies", found.outcomes),
        ("opened because", found.open_reasons),
        ("closed because", found.close_reasons),
    ):
        if counted:
            yield f"{title:<15} " + ", ".join(f"{name} {number}" for name, number in counted.most_common())
    if found.failed:
        yield f"{'failed':<15} {found.failed}"
    if found.phases:
        yield f"{'time':<15} {'total':>9} {'median':>9} {'longest':>9}   requests"
        for phase in found.phases:
            times = " ".join(f"{seconds(value):>9}" for value in (phase.total, phase.median, phase.longest))
            yield f"  {phase.name:<13} {times}   {phase.requests:>8}"
    for culprit in found.culprits:
        yield (
            f"=> {culprit.connections} of {found.opened} connections were opened because of {culprit.reason}: "
            f"{culprit.line}"
        )
        if culprit.reason in _ADVICE:
            yield f"   {_ADVICE[culprit.reason]}"


def waterfall(row: Row, width: int = 80) -> Iterator[str]:
    """The lines of one request and its parts, to scale, at most *width* columns wide."""
    scale = max(row.duration, 1e-9)
    name_width, time_width = 16, 9
    bar_width = max(10, width - name_width - time_width - 4)
    yield f"{_title(row)}"
    parts: list[tuple[str, float, float]] = [(row.name, 0.0, row.duration)]
    parts += [("  " * step.depth + step.name, step.start, step.duration) for step in row.steps]
    parts += list(_rest(row))
    for name, start, duration in parts:
        before = min(bar_width - 1, round(start / scale * bar_width))
        bar = "█" * max(1, min(bar_width - before, round(duration / scale * bar_width)))
        yield f"  {name:<{name_width}} {seconds(duration):>{time_width}} {' ' * before}{bar}"
    closed_at = row.attributes.get(names.BODY_CLOSED_AT)
    if closed_at:
        yield f"  body {row.attributes.get(names.BODY_OUTCOME)} at {closed_at}"
    lost = row.lost_by
    if lost is not None:
        where = lost.attributes.get(names.BODY_CLOSED_AT)
        yield f"  the connection before was lost by request {lost.span_id}" + (f" at {where}" if where else "")


def _title(row: Row) -> str:
    known = row.attributes
    parts = [f"trace {row.trace_id} span {row.span_id}"]
    if names.CONN_ID in known:
        reused = "reused" if known.get(names.CONN_REUSED) else f"new: {known.get(names.CONN_OPEN_REASON, 'unknown')}"
        parts.append(f"connection {known[names.CONN_ID]} ({reused})")
    return ", ".join(parts)


def _rest(row: Row) -> Iterator[tuple[str, float, float]]:
    # wait and receive have spans of their own only with spans="all": their
    # times are attributes, and they are the last to happen.
    if any(step.name in (names.SPAN_WAIT, names.SPAN_RECEIVE) for step in row.steps):
        return
    receive, wait = row.phases.get("receive", 0.0), row.phases.get("wait", 0.0)
    headers = row.duration - receive
    if "wait" in row.phases:
        yield "  wait", max(0.0, headers - wait), wait
    if "receive" in row.phases:
        yield "  receive", max(0.0, headers), receive


def typical(rows: Sequence[Row]) -> Row | None:
    """The request of median duration."""
    ordered = sorted(rows, key=lambda row: row.duration)
    return ordered[len(ordered) // 2] if ordered else None
