"""Waiting for the pool: stories 3 and 4."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from ...telemetry import names
from ..findings import Evidence, Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, seconds
from .tally import Place, Recent, Tallies, Tally, at_line, error_type, named, were


class Pool:
    """Stories 3 and 4: one symptom, two causes.

    Who waits in vain links to those who hold the pool. If these are responses that nobody closed, a larger pool
    would only put it off.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._wait = thresholds.pool_wait
        self._leaks = thresholds.leaked_responses
        self._waited: Tallies[str] = Tallies()
        self._limits: dict[str, int] = {}
        self._queue: Counter[str] = Counter()
        self._gave_up: Counter[str] = Counter()
        #: Waits in vain: when, and who held the pool then.
        self._vain: deque[tuple[Row, tuple[str, ...]]] = deque(maxlen=1_000)
        self._vain_total = 0
        self._never_closed: Tallies[Place] = Tallies()
        self._leaked: Recent = Recent()
        self._ended: Recent = Recent()

    def saw(self, row: Row) -> None:
        self._ended[row.span_id] = None

    def leaked(self, row: Row) -> None:
        known = row.attributes
        place = (row.origin, known.get(names.BODY_CLOSED_AT), known.get(names.BODY_CLOSED_VIA))
        self._never_closed[place].add(row, 0.0, "its response was never closed")
        self._leaked[row.span_id] = (row.start, place)

    def waited(self, row: Row, failed_phase: str | None) -> None:
        known = row.attributes
        if failed_phase == "pool" and error_type(row) is not None:
            self._vain_total += 1
            self._vain.append((row, tuple(link.span_id for link in row.links)))
        limit = known.get(names.POOL_LIMIT)
        if limit is None or known.get(names.POOL_CONNECTIONS, 0) < limit:
            # There was room: it waited for a dial that others could use, too.
            return
        time = row.phases.get("pool", 0.0)
        if time >= self._wait:
            self._waited[row.origin].add(row, time, f"waited {seconds(time)} for the pool")
            self._limits[row.origin] = limit
            self._queue[row.origin] = max(self._queue[row.origin], known.get(names.POOL_WAITING, 0) + 1)
            self._gave_up[row.origin] += failed_phase == "pool" and error_type(row) is not None

    def _holders(self) -> tuple[Counter[str], float, set[str]]:
        """Waits in vain by cause; the greatest age of a leaked response; holders that have not ended."""
        causes: Counter[str] = Counter()
        oldest, missing = 0.0, set()
        for row, holders in self._vain:
            leaked = [self._leaked[holder] for holder in holders if holder in self._leaked]
            absent = [holder for holder in holders if holder not in self._ended]
            if leaked and len(leaked) + len(absent) >= len(holders) / 2:
                causes["leaked"] += 1
                oldest = max(oldest, *(row.end - start for start, _ in leaked))
            elif holders and len(absent) == len(holders):
                causes["open"] += 1
                missing.update(absent)
            elif not holders and self._never_closed:
                causes["leaked"] += 1
            else:
                causes["busy"] += 1
        return causes, oldest, missing

    def findings(self) -> Iterator[Finding]:
        causes, oldest, missing = self._holders()
        leaks = sum(tally.count for _, tally in self._never_closed)
        if leaks >= self._leaks or (causes["open"] and not leaks):
            yield from self._leak_findings(causes, oldest, missing)
        explained = causes["leaked"] + causes["open"]
        for origin, tally in self._waited:
            # A cause silences its symptom.
            if explained and explained >= self._gave_up[origin] and self._gave_up[origin] * 2 > tally.count:
                continue
            yield self._saturated(origin, tally)

    def _leak_findings(self, causes: Counter[str], oldest: float, missing: set[str]) -> Iterator[Finding]:
        vain = causes["leaked"] + causes["open"]
        examples = tuple(
            Evidence(row.trace_id, row.span_id, f"got no connection within {seconds(row.duration)}")
            for row, _ in list(self._vain)[:1]
        )
        for (origin, line, via), tally in self._never_closed:
            held = f"; the oldest had been open for {seconds(oldest)}" if oldest else ""
            sentence = f"{count(tally.count, 'response')} from {named(origin)} {were(tally.count)} never closed, "
            sentence += f"opened {at_line(line, via)}"
            if vain:
                sentence += f", and hold the pool{held}: {count(vain, 'request')} got no connection (PoolTimeout)"
            else:
                sentence += ": each keeps a connection of the pool for good"
            yield self._leak(origin, sentence, Sure.CERTAIN, vain, tally.count, (*examples, *tally.examples), line, via)
        if not self._never_closed:
            row, links = self._vain[0][0], self._vain[0][0].links
            sentence = (
                f"{count(vain, 'request')} got no connection (PoolTimeout): the pool is held by "
                f"{count(len(missing), 'request')} whose responses are still open, or are not in this data"
            )
            holders = tuple(Evidence(link.trace_id, link.span_id, "holds a connection") for link in links[:2])
            yield self._leak(row.origin, sentence, Sure.POSSIBLE, vain, len(missing), (*examples, *holders), None, None)

    def _leak(
        self, origin: str, sentence: str, sure: Sure, vain: int, leaked: int, evidence: tuple[Evidence, ...],
        line: str | None, via: str | None,
    ) -> Finding:  # fmt: skip
        certain = "these responses were collected, or the process ended, without any of them having been closed"
        possible = "their spans have not ended, or were not read; a span ends when its response is closed"
        return Finding(
            verdict="responses_never_closed",
            severity=Severity.FAILED if vain else Severity.WASTE,
            origin=origin,
            sentence=sentence,
            advice="close every response: use it in a `with` block (`async with client.stream(...)`); a restart only helps for a while",
            sure=sure,
            because=certain if sure is Sure.CERTAIN else possible,
            criterion=f"at least {count(self._leaks, 'response')} never closed (leaked_responses)",
            requests=vain or leaked,
            seconds=0.0,
            line=line,
            via=via,
            evidence=evidence,
            numbers={"responses": leaked, "pool_timeouts": vain},
        )

    def _saturated(self, origin: str, tally: Tally) -> Finding:
        limit, waiting, gave_up = self._limits[origin], self._queue[origin], self._gave_up[origin]
        sentence = (
            f"{count(tally.count, 'request')} to {named(origin)} waited up to {seconds(tally.most)} for the pool: "
            f"limit {limit}, up to {waiting} waiting"
        )
        if gave_up:
            sentence += f"; {gave_up:,} of them in vain (PoolTimeout)"
        return Finding(
            verdict="pool_saturated",
            severity=Severity.FAILED if gave_up else Severity.SLOW,
            origin=origin,
            sentence=sentence,
            advice="raise max_connections, or send fewer requests at a time; what holds the connections is the time of the requests before",
            sure=Sure.CERTAIN,
            because="every connection that the pool may open was in use when the wait began",
            criterion=f"waited {seconds(self._wait)} or longer for a pool at its limit (pool_wait)",
            requests=tally.count,
            seconds=tally.seconds,
            evidence=tally.examples,
            numbers={"limit": limit, "waiting": waiting, "longest": tally.most, "pool_timeouts": gave_up},
        )
