"""What many requests say together: pure functions over rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..telemetry import names
from .rows import PHASES, Row


@dataclass(frozen=True)
class Phase:
    """Seconds that requests spent in one phase; ``requests`` is in how many it was observed."""

    name: str
    requests: int
    total: float
    median: float
    longest: float


@dataclass(frozen=True)
class Culprit:
    """A line of code that lost connections, why, and how many new ones that explains."""

    line: str
    reason: str
    connections: int


@dataclass(frozen=True)
class Summary:
    """One run.

    Args:
        requests: how many.
        opened: connections opened.
        reused: requests on a connection that had carried one before.
        lookups: names resolved.
        open_reasons: connections opened, by why; ``close_reasons`` those closed by how a request went.
        outcomes: response bodies, by how they ended.
        phases: those that were observed, in their order.
        culprits: most connections lost first.
    """

    requests: int
    opened: int
    reused: int
    lookups: int
    failed: int
    open_reasons: Counter[str]
    close_reasons: Counter[str]
    outcomes: Counter[str]
    phases: tuple[Phase, ...]
    culprits: tuple[Culprit, ...]

    @property
    def reuse(self) -> float | None:
        """Share of the requests that reused a connection; None if none got one."""
        got = self.opened + self.reused
        return self.reused / got if got else None


def summarize(rows: Sequence[Row]) -> Summary:
    """What *rows* say together."""
    reused = [row.attributes.get(names.CONN_REUSED) for row in rows]
    return Summary(
        requests=len(rows),
        opened=reused.count(False),
        reused=reused.count(True),
        lookups=sum(step.name == names.SPAN_DNS for row in rows for step in row.steps),
        failed=sum(row.failed for row in rows),
        open_reasons=_counted(rows, names.CONN_OPEN_REASON),
        close_reasons=_counted(rows, names.CONN_CLOSE_REASON),
        outcomes=_counted(rows, names.BODY_OUTCOME),
        phases=tuple(_phases(rows)),
        culprits=tuple(_culprits(rows)),
    )


def _counted(rows: Sequence[Row], name: str) -> Counter[str]:
    return Counter(row.attributes[name] for row in rows if name in row.attributes)


def _phases(rows: Sequence[Row]) -> list[Phase]:
    found = []
    for name in PHASES:
        times = [row.phases[name] for row in rows if name in row.phases]
        if times:
            found.append(Phase(name, len(times), sum(times), median(times), max(times)))
    return found


def _culprits(rows: Sequence[Row]) -> list[Culprit]:
    # The link to the request that lost the connection names its line.
    lines = Counter(
        (link.attributes[names.BODY_CLOSED_AT], link.attributes.get(names.CONN_CLOSE_REASON, ""))
        for row in rows
        if (link := row.lost_by) is not None and names.BODY_CLOSED_AT in link.attributes
    )
    return [Culprit(line, reason, number) for (line, reason), number in lines.most_common()]
