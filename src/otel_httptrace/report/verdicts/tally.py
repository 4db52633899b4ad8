"""Counting rows that show the same."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from ..findings import Evidence
from ..rows import Row, Step
from .definitions import Rival

_EXAMPLES: Final = 3
_DETAILS: Final = 50
MAX_KEYS: Final = 2_000
MAX_SPANS: Final = 50_000

#: What dialling consists of.
DIAL: Final = ("dns", "connect", "proxy", "tls")

K = TypeVar("K")


class Measure(NamedTuple):
    """The least, the greatest and the sum of some numbers."""

    least: float
    most: float
    total: float

    def with_(self, value: float) -> Measure:
        """One number more."""
        return Measure(min(self.least, value), max(self.most, value), self.total + value)

    def and_(self, other: Measure) -> Measure:
        """Those and these."""
        return Measure(min(self.least, other.least), max(self.most, other.most), self.total + other.total)


class Example(Protocol):
    """What is kept of a row that is counted."""

    @property
    def trace_id(self) -> str:
        """Hexadecimal."""

    @property
    def span_id(self) -> str:
        """Hexadecimal."""

    @property
    def origin(self) -> str:
        """Where the request went."""

    @property
    def client(self) -> str:
        """What made it."""


class Tally:
    """Rows that show the same: how many, what they cost, a few to look at."""

    __slots__ = ("clients", "count", "details", "evidence", "least", "left", "measures", "most", "origins", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.least = 0.0
        self.most = 0.0
        self.evidence: list[tuple[float, Evidence]] = []
        self.origins: Counter[str] = Counter()
        #: By what made the requests.
        self.clients: Counter[str] = Counter()
        #: By rival that the facts leave, of how many requests.
        self.left: Counter[Rival] = Counter()
        #: By what else is counted, the first so many.
        self.details: dict[str, Counter[Any]] = {}
        self.measures: dict[str, Measure] = {}

    def add(self, row: Example, cost: float, what: str) -> None:
        """Count *row*, which cost so many seconds; the dearest are the ones to look at."""
        self.least = min(self.least, cost) if self.count else cost
        self.most = max(self.most, cost)
        self.count += 1
        self.seconds += cost
        self.clients[row.client] += 1
        if row.origin in self.origins or len(self.origins) < MAX_KEYS:
            self.origins[row.origin] += 1
        if len(self.evidence) < _EXAMPLES or cost > self.evidence[-1][0]:
            self.evidence.append((cost, Evidence(row.trace_id, row.span_id, what)))
            self.evidence.sort(key=lambda entry: -entry[0])
            del self.evidence[_EXAMPLES:]

    def doubt(self, rivals: Iterable[Rival]) -> None:
        """Count a request of which the facts leave *rivals*."""
        self.left.update(rivals)

    def note(self, kind: str, value: Any, number: int = 1) -> None:
        """Count *value*, so many times, among what else is known of a *kind*; None is not known."""
        if value is not None:
            counted = self.details.setdefault(kind, Counter())
            if value in counted or len(counted) < _DETAILS:
                counted[value] += number

    def noted(self, kind: str) -> Counter[Any]:
        """What was counted of a *kind*."""
        return self.details.get(kind, Counter())

    def measure(self, kind: str, value: float | None) -> None:
        """Take *value* into account among numbers of a *kind*; None is not known."""
        if value is not None:
            known = self.measures.get(kind)
            self.measures[kind] = Measure(value, value, value) if known is None else known.with_(value)

    def merge(self, other: Tally) -> None:
        """Count what *other* has counted."""
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most)
        self.count += other.count
        self.seconds += other.seconds
        self.evidence = sorted([*self.evidence, *other.evidence], key=lambda entry: -entry[0])[:_EXAMPLES]
        self.origins.update(other.origins)
        self.clients.update(other.clients)
        self.left.update(other.left)
        for kind, counted in other.details.items():
            self.details.setdefault(kind, Counter()).update(counted)
        for kind, measured in other.measures.items():
            known = self.measures.get(kind)
            self.measures[kind] = measured if known is None else known.and_(measured)

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


def statuses(counted: Counter[Any]) -> tuple[str, dict[str, int]]:
    """How many responses had which status, in their order: as words, and as numbers for the JSON."""
    found = {str(status): number for status, number in sorted(counted.items())}
    return ", ".join(f"{status} x {number:,}" for status, number in found.items()), found


def errors(tally: Tally) -> str:
    """The most frequent of the errors noted, by name."""
    return " or ".join(str(error) for error, _ in sorted(tally.noted("errors").most_common(4)))


def at_line(line: str | None, via: str | None) -> str:
    """Where in the code."""
    if line is None:
        return "at a line that was not seen (no frame of the application's was on the stack)"
    return f"at {line}" + (f", by way of {via}" if via else "")


def dial_seconds(row: Row) -> float:
    """What connecting took: lookup, connect, proxy, TLS."""
    return sum(row.phases.get(phase, 0.0) for phase in DIAL)


def named(origin: str) -> str:
    """The origin, or that it is not known."""
    return origin or "an unknown origin"


def named_all(origins: Counter[str]) -> str:
    """The origins, the first few by name, with their numbers where there are several."""
    if len(origins) == 1:
        return named(next(iter(origins)))
    first = ", ".join(f"{named(origin)} ({number:,})" for origin, number in origins.most_common(3))
    return f"{len(origins):,} servers: {first}" + (f" and {len(origins) - 3:,} more" if len(origins) > 3 else "")


def were(number: int) -> str:
    """Was, or were."""
    return "was" if number == 1 else "were"


def steps(row: Row, name: str) -> Iterator[Step]:
    """The row's child spans of that *name*."""
    return (step for step in row.steps if step.name == name)
