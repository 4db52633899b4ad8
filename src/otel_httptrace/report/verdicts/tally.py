"""Counting rows that show the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

from ...telemetry import names
from ..findings import Evidence
from ..rows import Row, Step

_EXAMPLES: Final = 3
MAX_KEYS: Final = 2_000
MAX_SPANS: Final = 50_000

#: What dialling consists of.
DIAL: Final = ("dns", "connect", "proxy", "tls")

K = TypeVar("K")


class Tally:
    """Rows that show the same: how many, what they cost, a few to look at."""

    __slots__ = ("count", "evidence", "least", "most", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.least = 0.0
        self.most = 0.0
        self.evidence: list[tuple[float, Evidence]] = []

    def add(self, row: Row, cost: float, what: str) -> None:
        """Count *row*, which cost so many seconds; the dearest are the ones to look at."""
        self.least = min(self.least, cost) if self.count else cost
        self.most = max(self.most, cost)
        self.count += 1
        self.seconds += cost
        if len(self.evidence) < _EXAMPLES or cost > self.evidence[-1][0]:
            self.evidence.append((cost, Evidence(row.trace_id, row.span_id, what)))
            self.evidence.sort(key=lambda entry: -entry[0])
            del self.evidence[_EXAMPLES:]

    @property
    def examples(self) -> tuple[Evidence, ...]:
        """Dearest first."""
        return tuple(evidence for _, evidence in self.evidence)


class Tallies(Generic[K]):
    """Tallies by key, of which the first so many are kept."""

    def __init__(self) -> None:
        self._tallies: dict[K, Tally] = {}

    def __getitem__(self, key: K) -> Tally:
        tally = self._tallies.get(key)
        if tally is None:
            tally = Tally()
            if len(self._tallies) < MAX_KEYS:
                self._tallies[key] = tally
        return tally

    def __iter__(self) -> Iterator[tuple[K, Tally]]:
        return iter(self._tallies.items())

    def __bool__(self) -> bool:
        return bool(self._tallies)


class Recent(OrderedDict[str, Any]):
    """By span id, the last so many."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > MAX_SPANS:
            self.popitem(last=False)


#: Of which origin, at which line of the application, by way of which of a library.
Place = tuple[str, str | None, str | None]


def at_line(line: str | None, via: str | None) -> str:
    """Where in the code."""
    if line is None:
        return "at a line that was not seen (no frame of the application's was on the stack)"
    return f"at {line}" + (f", by way of {via}" if via else "")


def dial_seconds(row: Row) -> float:
    """What connecting took: lookup, connect, proxy, TLS."""
    return sum(row.phases.get(phase, 0.0) for phase in DIAL)


def error_type(row: Row) -> str | None:
    """What `error.type` says."""
    return row.attributes.get(names.ERROR_TYPE)


def named(origin: str) -> str:
    """The origin, or that it is not known."""
    return origin or "an unknown origin"


def were(number: int) -> str:
    """Was, or were."""
    return "was" if number == 1 else "were"


def steps(row: Row, name: str) -> Iterator[Step]:
    """The row's child spans of that *name*."""
    return (step for step in row.steps if step.name == name)
