"""Waiting for the pool, or for a stream: stories 3, 4 and 28."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Final

from ...telemetry import names
from ..facts import POOL_TIMEOUTS, broke, closed_by, closing_place, error_type
from ..findings import Evidence, Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, seconds
from .kind import Kind
from .settings import advised, called
from .tally import Recent, Tally, at_line, errors, named, named_all, were


class Saturated(Kind):
    """Story 3. A pool is for all servers: one finding for a limit."""

    name = "pool_saturated"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        #: What those who held the pool did, while others waited in vain: how many did, and the longest.
        self.held: Counter[str] = Counter()
        self.longest: dict[str, float] = {}

    def holding(self, doing: str, time: float) -> None:
        """One of those who held the pool was *doing* something, most of all, for a *time*."""
        self.held[doing] += 1
        self.longest[doing] = max(time, self.longest.get(doing, 0.0))

    def key(self, row: Row) -> Any:
        return row.attributes[names.POOL_LIMIT]

    def cost(self, row: Row) -> float:
        return row.phases["pool"]

    def what(self, row: Row) -> str:
        return f"waited {seconds(self.cost(row))} for the pool"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.measure("waiting", row.attributes.get(names.POOL_WAITING, 0) + 1)
        vain = row.attributes.get(names.FAILED_PHASE) == "pool" and error_type(row) is not None
        tally.note("vain", vain or None)
        tally.note("errors", error_type(row) if vain else None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        waiting, gave_up = int(tally.measures["waiting"].most), tally.noted("vain")[True]
        sentence = (
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} waited up to {seconds(tally.most)} for the pool: "
            f"limit {key}, up to {waiting} waiting"
        )
        if gave_up:
            sentence += f"; {gave_up:,} of them in vain ({errors(tally)})"
        advice = f"{advised(tally, 'more')}, or send fewer requests at a time; what holds the connections is the time of the requests before"
        doing, most = next(iter(self.held.most_common(1)), (None, 0))
        if not gave_up or most * 2 <= self.held.total():
            doing = None
        elif doing is not None:
            told, advice = _HELD[doing]
            advice = advice.format(more=advised(tally, "more"), limit=called(tally, "limit"))
            sentence += f"; {told.format(time=seconds(self.longest[doing]))}"
        return self.make(
            tally,
            sentence,
            advice,
            severity=Severity.FAILED if gave_up else Severity.SLOW,
            sure=Sure.LIKELY if doing == NOBODY else None,
            because="the pool was at its limit, and no request that was seen held any of it"
            if doing == NOBODY
            else None,
            numbers={
                "limit": key,
                "waiting": waiting,
                "longest": tally.most,
                "pool_timeouts": gave_up,
                "held_by": doing,
            },
        )


#: What a request did that held the pool. `NOBODY`: there was none.
NOBODY: Final = "nobody"
WAITING: Final = "wait"
_NESTED: Final = "pool"
#: By that: the words, and what to do.
_HELD: Final[dict[str, tuple[str, str]]] = {
    NOBODY: (
        "no request that was seen held any of it",
        "look for cancelled requests: httpcore 1.0.9 keeps a connection for good whose request was cancelled before it was made "
        "(encode/httpcore#830, #1093; httpx2 does not), and only a new client helps then; or for requests that are not observed; "
        "a larger {limit} only puts it off",
    ),
    WAITING: (
        "those who held it waited for the server's answer, for up to {time}",
        "look at why the server takes so long, first: a read timeout would free the connections; {more} only if the "
        "server can take more requests at a time",
    ),
    "body": (
        "those who held it waited for the server's bodies, for up to {time}",
        "look at why the bodies take so long, or {more} for as many of them at a time",
    ),
    "consumer": (
        "those who held it were between reads of a body, in this program, for up to {time}",
        "read each body at once, and do the work with it after that: meanwhile its connection is held; or {more}",
    ),
    _NESTED: (
        "those who held it waited for it themselves: each had a response open, and needed a second connection",
        "end each response before the next request is made, or make such requests with a client of their own: when all connections are "
        "held by who waits for one, a larger {limit} only puts it off",
    ),
}


def _doing(row: Row) -> tuple[str, float] | None:
    """What a request that held a connection did most of its time; None if that is not one thing."""
    if closed_by(row) in POOL_TIMEOUTS:
        return _NESTED, row.duration
    phases = row.phases
    wait, receive = phases.get("wait", 0.0), phases.get("receive", 0.0)
    if wait * 2 > row.duration:
        return WAITING, wait
    if receive * 2 > row.duration and names.BODY_READ_WAIT in row.attributes:
        reading = float(row.attributes[names.BODY_READ_WAIT])
        return ("body", reading) if reading * 2 >= receive else ("consumer", receive - reading)
    return None


class StreamLimit(Kind):
    """Story 28."""

    name = "http2_stream_limit"

    def cost(self, row: Row) -> float:
        return float(row.attributes[names.TIME_STREAM])

    def what(self, row: Row) -> str:
        return f"waited {seconds(self.cost(row))} for a stream"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.measure("limit", row.attributes.get(names.CONN_STREAM_LIMIT))
        tally.measure("streams", row.attributes.get(names.CONN_STREAMS))
        tally.note("vain", broke(row) or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        limit, streams, vain = tally.measures.get("limit"), tally.measures.get("streams"), tally.noted("vain")[True]
        at = f": limit {limit.least:,.0f}" if limit else ""
        at += f", {streams.most:,.0f} open" if streams else ""
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} waited up to {seconds(tally.most)} for a stream of the HTTP/2 "
            f"connection{at}" + (f"; {vain:,} of them failed" if vain else ""),
            "the limit is the server's (SETTINGS_MAX_CONCURRENT_STREAMS): raise it there, end streams that are not used any more, or "
            "spread the requests over several clients; max_connections does not help",
            severity=Severity.FAILED if vain else Severity.SLOW,
            numbers={"limit": limit.least if limit else None, "longest": tally.most},
        )


class NeverClosed(Kind):
    """Story 4: what `Pool` says of it."""

    name = "responses_never_closed"

    def key(self, row: Row) -> Any:
        return closing_place(row)

    def cost(self, row: Row) -> float:
        return 0.0

    def what(self, row: Row) -> str:
        return "its response was never closed"


class Pool:
    """Stories 3 and 4: one symptom, two causes.

    Who waits in vain links to those who hold the pool. If these are responses that nobody closed, a larger pool
    would only put it off.
    """

    def __init__(self, limits: Thresholds) -> None:
        self._limits = limits
        self._saturated = Saturated(limits)
        self._never_closed = NeverClosed(limits)
        #: Waits in vain: when, and who held the pool then.
        self._vain: deque[tuple[Row, tuple[str, ...]]] = deque(maxlen=1_000)
        #: Those of them that were not seen to wait at the pool's limit: told here only if somebody held it for good.
        self._unexplained: deque[tuple[Row, tuple[str, ...]]] = deque(maxlen=1_000)
        self._leaked: Recent = Recent()
        self._ended: Recent = Recent()

    def saw(self, row: Row) -> None:
        """Any request."""
        self._ended[row.span_id] = _doing(row) if row.duration >= self._limits.pool_wait else None

    def leaked(self, row: Row) -> None:
        """A response was never closed."""
        self._never_closed.take(row)
        self._leaked[row.span_id] = row.start

    def waited(self, row: Row, failed_phase: str | None) -> bool:
        """A request waited for the pool; whether that tells of it, if it did so in vain."""
        vain = failed_phase == "pool" and error_type(row) is not None
        # Where there was room it waited for a dial that others could use, too.
        full = self._saturated.take(row)
        if vain:
            self._vain.append((row, tuple(link.span_id for link in row.links)))
            if not full and row.links:
                self._unexplained.append(self._vain[-1])
        return vain and (full or bool(row.links))

    def untold(self) -> Iterator[Row]:
        """Waits in vain that `waited` has taken, and of which nothing is told here after all; each once."""
        taken, self._unexplained = self._unexplained, deque(maxlen=1_000)
        for row, holders in taken:
            if self._cause(holders)[0] == "busy":
                yield row
            else:
                self._unexplained.append((row, holders))

    def _holders(self) -> tuple[Counter[str], float, set[str]]:
        """Waits in vain by cause; the greatest age of a leaked response; holders that have not ended."""
        causes: Counter[str] = Counter()
        oldest, missing = 0.0, set()
        for row, holders in self._vain:
            cause, leaked, absent = self._cause(holders)
            causes[cause] += 1
            oldest = max([oldest, *(row.end - start for start in leaked)])
            missing.update(absent)
        return causes, oldest, missing

    def _cause(self, holders: tuple[str, ...]) -> tuple[str, list[float], list[str]]:
        """Why the pool was held; since when by leaked responses; by whom of those that have not ended."""
        leaked = [self._leaked[holder] for holder in holders if holder in self._leaked]
        absent = [holder for holder in holders if holder not in self._ended]
        if leaked and len(leaked) + len(absent) >= len(holders) / 2:
            return "leaked", leaked, []
        if holders and len(absent) == len(holders):
            return "open", [], absent
        return ("leaked" if not holders and self._never_closed.tallies else "busy"), [], []

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        causes, oldest, missing = self._holders()
        leaks = sum(tally.count for _, tally in self._never_closed.tallies)
        if leaks >= self._limits.leaked_responses or (causes["open"] and not leaks):
            yield from self._leak_findings(causes, oldest, missing)
        explained = causes["leaked"] + causes["open"]
        self._hold()
        for key, tally in self._saturated.tallies:
            gave_up = tally.noted("vain")[True]
            # A cause silences its symptom.
            if explained and explained >= gave_up and gave_up * 2 > tally.count:
                continue
            if not causes["open"] and not leaks:
                # Nothing holds the pool for good.
                tally.left.clear()
            yield self._saturated.finding(key, tally)

    def _in_vain(self) -> str:
        return " or ".join(sorted({str(error_type(row)) for row, _ in self._vain}))

    def _hold(self) -> None:
        self._saturated.held.clear()
        for row, holders in self._vain:
            if not holders:
                self._saturated.holding(NOBODY, row.duration)
            for holder in holders:
                doing = self._ended.get(holder)
                if doing is not None:
                    self._saturated.holding(*doing)

    def _leak_findings(self, causes: Counter[str], oldest: float, missing: set[str]) -> Iterator[Finding]:
        vain = causes["leaked"] + causes["open"]
        examples = tuple(
            Evidence(row.trace_id, row.span_id, f"got no connection within {seconds(row.duration)}")
            for row, _ in list(self._vain)[:1]
        )
        for place, tally in self._never_closed.tallies:
            line, via = place
            held = f"; the oldest had been open for {seconds(oldest)}" if oldest else ""
            sentence = (
                f"{count(tally.count, 'response')} from {named_all(tally.origins)} {were(tally.count)} never closed, "
            )
            sentence += f"opened {at_line(line, via)}"
            if vain:
                sentence += f", and {'holds' if tally.count == 1 else 'hold'} the pool{held}: {count(vain, 'request')} got no connection ({self._in_vain()})"
            else:
                sentence += ": each keeps a connection of the pool for good"
            yield self._leak(tally, sentence, vain, tally.count, (*examples, *tally.examples), line, via)
        if not self._never_closed.tallies:
            row, links = self._vain[0][0], self._vain[0][0].links
            line, age = row.attributes.get(names.POOL_HELD_AT), row.attributes.get(names.POOL_HELD_FOR)
            sentence = (
                f"{count(vain, 'request')} got no connection ({self._in_vain()}): the pool is held by "
                f"{count(len(missing), 'request')} whose responses are still open, or are not in this data"
            )
            if line is not None:
                sentence += f"; the oldest was made at {line}" + (f" {seconds(age)} before" if age is not None else "")
            holders = tuple(Evidence(link.trace_id, link.span_id, "holds a connection") for link in links[:2])
            tally = Tally()
            tally.add(row, 0.0, "")
            yield self._leak(tally, sentence, vain, len(missing), (*examples, *holders), line, None, possible=True)

    def _leak(
        self, tally: Tally, sentence: str, vain: int, leaked: int, evidence: tuple[Evidence, ...],
        line: str | None, via: str | None, *, possible: bool = False,
    ) -> Finding:  # fmt: skip
        advice = f"close every response: {advised(tally, 'close')}; a restart only helps for a while"
        if via is not None:
            advice += f"; it was made by way of {via.partition(' in ')[0]}: if that hands no response out, tell its maintainers"
        return self._never_closed.make(
            tally,
            sentence,
            advice,
            severity=Severity.FAILED if vain else Severity.WASTE,
            sure=Sure.POSSIBLE if possible else None,
            because="their spans have not ended, or were not read; a span ends when its response is closed"
            if possible
            else None,
            requests=vain or leaked,
            seconds=0.0,
            line=line,
            via=via,
            evidence=evidence,
            numbers={"responses": leaked, "pool_timeouts": vain},
        )
