"""A verdict at work: requests that show the same, and the finding they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...telemetry import names
from .. import findings
from ..findings import Evidence, Finding, Severity, Share, Sure, Thresholds
from ..rows import Row
from ..units import count
from .addresses import Addresses
from .definitions import FAILURES, OTHERS, Definition
from .definitions_attempts import MORE
from .definitions_server import SERVERS
from .reasons import REOPENED
from .tally import Tallies, Tally

DEFINITIONS: dict[str, Definition] = {one.name: one for one in (*FAILURES, *OTHERS, *MORE, *REOPENED, *SERVERS)}
"""All definitions, by name."""


class Kind:
    """One verdict. What differs from verdict to verdict is what is counted together, and the words.

    Args:
        limits: from where on something is a finding.
    """

    #: Its name in `DEFINITIONS`.
    name = ""

    def __init__(self, limits: Thresholds) -> None:
        self.limits = limits
        self.defined = DEFINITIONS[self.name]
        self.tallies: Tallies[Any] = Tallies()
        #: Set where one of a server's addresses may be at fault.
        self.addresses: Addresses | None = None

    def take(self, row: Row) -> bool:
        """Count *row* if it is a case of this."""
        if not self.defined.holds(row, self.limits):
            return False
        self.count(row)
        return True

    def count(self, row: Row, key: Any = None) -> Tally:
        """Count *row*, which is a case of this."""
        tally = self.tallies[self.key(row) if key is None else key]
        tally.add(row, self.cost(row), self.what(row))
        tally.doubt(self.defined.left(row, self.limits))
        if self.addresses is not None:
            tally.note("addresses", row.attributes.get(names.NETWORK_PEER_ADDRESS))
        self.noting(row, tally)
        return tally

    def key(self, row: Row) -> Any:
        """What is counted together: by default, what is about the same server."""
        return row.origin

    def cost(self, row: Row) -> float:
        """Seconds that it cost."""
        return row.duration

    def what(self, row: Row) -> str:
        """What *row* shows."""
        return ""

    def noting(self, row: Row, tally: Tally) -> None:
        """Count what else the sentence needs."""

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        number = getattr(self.limits, self.defined.number) if self.defined.number else 1
        for key, tally in self.tallies:
            if tally.count >= number:
                yield self.finding(key, tally)

    def finding(self, key: Any, tally: Tally) -> Finding:
        """The finding of what was counted together."""
        raise NotImplementedError

    def make(
        self,
        tally: Tally,
        sentence: str,
        advice: str,
        *,
        severity: Severity | None = None,
        requests: int | None = None,
        seconds: float | None = None,
        line: str | None = None,
        via: str | None = None,
        numbers: dict[str, Any] | None = None,
        evidence: Iterable[Evidence] | None = None,
        sure: Sure | None = None,
        because: str | None = None,
        harmless: bool = False,
    ) -> Finding:
        """A finding of *tally*: how sure it is follows from the rivals that are left, unless *sure* says less."""
        rivals = tuple(
            findings.Rival(rival.cause, rival.excluded.said(self.limits), number)
            for rival, number in tally.left.most_common()
        )
        certain = Sure.CERTAIN if not rivals else self.defined.otherwise
        if sure is not None and _SURETY.index(sure) > _SURETY.index(certain):
            certain = sure
        if because is None:
            because = self.defined.because if not rivals else "the facts fit it, and leave other causes"
        apart = self.addresses.apart(tally) if self.addresses is not None else None
        if apart is not None:
            sentence += (
                f"; all of them had gone to {apart.address}, one of {apart.among:,} addresses, and "
                f"{count(apart.elsewhere, 'request')} to the other{'s' if apart.among > 2 else ''} did not do so"
            )
            advice = f"look at what is different at {apart.address}; {advice}"
            numbers = {**(numbers or {}), "address": apart.address}
        origins = tuple(Share(origin, number) for origin, number in tally.origins.most_common())
        return Finding(
            verdict=self.name,
            severity=self.defined.severity if severity is None else severity,
            origin=origins[0].origin if len(origins) == 1 else "",
            sentence=sentence,
            advice=advice,
            sure=certain,
            because=because,
            criterion=self.defined.criterion(self.limits),
            requests=tally.count if requests is None else requests,
            seconds=tally.seconds if seconds is None else seconds,
            line=line,
            via=via,
            evidence=tuple(tally.examples if evidence is None else evidence),
            numbers=numbers or {},
            rivals=rivals,
            origins=origins,
            harmless=harmless,
        )


_SURETY = (Sure.CERTAIN, Sure.LIKELY, Sure.POSSIBLE)
