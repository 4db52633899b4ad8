"""Why connections had to be opened anew: stories 1, 2, 5, 9 and 15."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...telemetry import names
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..spans import Source
from ..units import count, seconds, share, size
from .tally import MAX_KEYS, MAX_SPANS, Place, Recent, Tallies, Tally, at_line, dial_seconds, named


class BodyNotRead:
    """Stories 1 and 2.

    The request that closed its response unread says so itself, and which line it was; the request that had to dial
    anew says what it cost, and links to the one before.
    """

    def __init__(self, thresholds: Thresholds, opened: Counter[str]) -> None:
        self._threshold = thresholds.lost_connections
        self._opened = opened
        self._lost: Tallies[Place] = Tallies()
        self._replaced: Tallies[Place] = Tallies()
        self._lookups: Counter[Place] = Counter()
        self._begun: Counter[Place] = Counter()
        self._places: Recent = Recent()

    def lost(self, row: Row) -> None:
        known = row.attributes
        place = (row.origin, known.get(names.BODY_CLOSED_AT), known.get(names.BODY_CLOSED_VIA))
        read = known.get(names.BODY_BYTES_READ, 0)
        whole = known.get(names.HTTP_RESPONSE_BODY_SIZE)
        if read:
            self._begun[place] += 1
        of = f" of {size(whole)}" if whole is not None else ""
        # What it cost is known to the one that had to dial.
        self._lost[place].add(row, 0.0, f"closed after {size(read)}{of}, its connection lost")
        self._places[row.span_id] = place

    def replaced(self, row: Row) -> None:
        place: Place | None = None
        link = row.lost_by
        if link is not None:
            place = self._places.get(link.span_id)
            if place is None and names.BODY_CLOSED_AT in link.attributes:
                place = (row.origin, link.attributes[names.BODY_CLOSED_AT], None)
        place = place or (row.origin, None, None)
        self._replaced[place].add(row, dial_seconds(row), f"a connection opened anew in {seconds(dial_seconds(row))}")
        if "dns" in row.phases:
            self._lookups[place] += 1

    def findings(self) -> Iterator[Finding]:
        lost, replaced = dict(self._lost), dict(self._replaced)
        # Where the losers' own spans are not there, their successors' links are.
        for place, tally in replaced.items():
            if place[1] is not None and not any(place[:2] == known[:2] for known in lost):
                lost[place] = tally
        for origin in sorted({place[0] for place in lost}):
            places = {place: tally for place, tally in lost.items() if place[0] == origin}
            if sum(tally.count for tally in places.values()) >= self._threshold:
                for place, tally in places.items():
                    # A replacement that names nobody may be any line's; of one line it is that line's.
                    made = {place, (origin, None, None)} if len(places) == 1 else {place}
                    yield self._finding(
                        place,
                        tally,
                        [replaced[other] for other in made if other in replaced],
                        sum(self._lookups[other] for other in made),
                    )

    def _finding(self, place: Place, tally: Tally, made: list[Tally], lookups: int) -> Finding:
        origin, line, via = place
        opened = max(self._opened[origin], tally.count)
        anew, cost = sum(other.count for other in made), sum(other.seconds for other in made)
        sentence = (
            f"{share(tally.count, opened)} of the connections to {named(origin)} ({tally.count:,} of {opened:,}) were lost "
            f"because responses were closed before they had been read, {at_line(line, via)}"
        )
        if anew:
            sentence += f"; {count(anew, 'connection')} had to be opened anew"
            sentence += f" and {count(lookups, 'lookup')} made" if lookups else ""
            sentence += f", {seconds(cost)} in all"
        advice = "read the body to its end before closing the response, or ask for less (HEAD, Range)"
        if self._begun[place] * 2 > tally.count:
            advice = (
                "the body had been begun: read on to its end before closing, for a stream the last chunk after its "
                "end mark (drain it), or ask for less (Range)"
            )
        evidence = {example.span_id: example for other in made for example in other.examples[:1]}
        evidence |= {example.span_id: example for example in tally.examples[:2]}
        return Finding(
            verdict="body_not_read",
            severity=Severity.WASTE,
            origin=origin,
            sentence=sentence,
            advice=advice,
            sure=Sure.CERTAIN,
            because="each of these connections was closed together with a response whose end had not been read",
            criterion=f"at least {count(self._threshold, 'connection')} to an origin lost so (lost_connections)",
            requests=tally.count,
            seconds=cost,
            line=line,
            via=via,
            evidence=tuple(evidence.values()),
            numbers={"lost": tally.count, "opened": opened, "anew": anew, "lookups": lookups, "seconds": cost},
        )


class KeepaliveLimit:
    """Story 5."""

    def __init__(self, thresholds: Thresholds, opened: Counter[str]) -> None:
        self._threshold = thresholds.keepalive_limit
        self._opened = opened
        self._tallies: Tallies[str] = Tallies()

    def add(self, row: Row) -> None:
        cost = dial_seconds(row)
        self._tallies[row.origin].add(row, cost, f"opened anew what had just been dropped: {seconds(cost)}")

    def findings(self) -> Iterator[Finding]:
        for origin, tally in self._tallies:
            if tally.count < self._threshold:
                continue
            opened = self._opened[origin]
            yield Finding(
                verdict="keepalive_limit_too_low",
                severity=Severity.WASTE,
                origin=origin,
                sentence=f"{share(tally.count, opened)} of the connections to {named(origin)} ({tally.count:,} of {opened:,}) were "
                "opened because the pool had dropped an idle one over max_keepalive_connections, "
                f"{seconds(tally.seconds)} in all",
                advice="raise max_keepalive_connections above the number of requests at a time; httpx (httpcore 1.0.9) compares all "
                "connections with it, httpx2 idle ones only",
                sure=Sure.CERTAIN,
                because="the pool was seen to drop idle connections over that limit",
                criterion=f"at least {count(self._threshold, 'connection')} opened because of it (keepalive_limit)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"opened": opened, "because": tally.count},
            )


class ClientPerRequest:
    """Story 9. A client made anew is no fault; one made for every request is."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._clients = thresholds.clients
        self._requests = thresholds.client_requests
        self._tallies: Tallies[str] = Tallies()
        #: By connection: whose and where to, when it was opened, what that took, how many requests it has carried.
        self._connections: OrderedDict[Any, _First] = OrderedDict()
        #: Of those that carried few and are forgotten: how many were opened in which half minute, and what they took.
        self._brief: dict[tuple[Source, str], tuple[Counter[int], float]] = {}

    def opened(self, row: Row) -> None:
        cost = dial_seconds(row)
        self._tallies[row.origin].add(row, cost, f"had a client of its own: {seconds(cost)} to connect")
        self._connections[row.connection or row.span_id] = _First((row.source, row.origin), row.start, cost)
        if len(self._connections) > MAX_SPANS:
            self._settle(self._brief, self._connections.popitem(last=False)[1])

    def reused(self, row: Row) -> None:
        if self._connections:
            known = self._connections.get(row.connection)
            if known is not None:
                known.requests += 1

    def _settle(self, brief: dict[tuple[Source, str], tuple[Counter[int], float]], first: _First) -> None:
        if first.requests <= self._requests and (first.whose in brief or len(brief) < MAX_KEYS):
            counted, cost = brief.get(first.whose, (Counter(), 0.0))
            counted[int(first.start // 30)] += 1
            brief[first.whose] = (counted, cost + first.cost)

    def findings(self) -> Iterator[Finding]:
        brief = {whose: (Counter(counted), cost) for whose, (counted, cost) in self._brief.items()}
        for first in self._connections.values():
            self._settle(brief, first)
        for origin, tally in self._tallies:
            minute, total, cost = 0, 0, 0.0
            for (_, name), (counted, spent) in brief.items():
                if name == origin:
                    # Each process has to have clients of its own.
                    minute = max(minute, *(counted[half] + counted[half + 1] for half in list(counted)))
                    total, cost = total + sum(counted.values()), cost + spent
            if minute >= self._clients:
                yield self._finding(origin, tally, minute, total, cost)

    def _finding(self, origin: str, tally: Tally, minute: int, total: int, cost: float) -> Finding:
        few = count(self._requests, "request")
        return Finding(
            verdict="client_per_request",
            severity=Severity.WASTE,
            origin=origin,
            sentence=f"{count(minute, 'client')} for {named(origin)} were made within a minute by one process ({total:,} in all), "
            f"each for at most {few}: each has to connect anew, {seconds(cost)} in all",
            advice="make one client at start-up and share it: its pool is what keeps connections",
            sure=Sure.CERTAIN,
            because="each of these connections was the first of a pool, while another pool had connected there before",
            criterion=f"at least {count(self._clients, 'client')} of one process for one origin within a minute (clients), each "
            f"for at most {few} (client_requests)",
            requests=total,
            seconds=cost,
            evidence=tally.examples,
            numbers={"clients": total, "within_a_minute": minute, "seconds": cost},
        )


@dataclass(slots=True)
class _First:
    """The first connection of a client."""

    whose: tuple[Source, str]
    start: float
    cost: float
    requests: int = 1


class ServerClosesIdle:
    """Story 15."""

    def __init__(self, thresholds: Thresholds, opened: Counter[str]) -> None:
        self._threshold = thresholds.server_closed
        self._opened = opened
        self._tallies: Tallies[str] = Tallies()
        self._gaps: dict[str, float] = {}
        #: When a request of a process to an origin was over last.
        self._over: OrderedDict[tuple[Any, str], float] = OrderedDict()

    def saw(self, row: Row) -> None:
        key, end = (row.source, row.origin), row.end
        if end > self._over.get(key, 0.0):
            self._over[key] = end
            if len(self._over) > MAX_KEYS:
                self._over.popitem(last=False)

    def add(self, row: Row) -> None:
        cost = dial_seconds(row)
        gap = row.start - self._over.get((row.source, row.origin), row.start)
        idle = f" after {seconds(gap)} without a request" if gap > 0 else ""
        self._tallies[row.origin].add(row, cost, f"the server had closed the one it would have used{idle}")
        if gap > 0 and len(self._gaps) < MAX_KEYS:
            self._gaps[row.origin] = min(gap, self._gaps.get(row.origin, gap))

    def findings(self) -> Iterator[Finding]:
        for origin, tally in self._tallies:
            if tally.count < self._threshold:
                continue
            gap, opened = self._gaps.get(origin), self._opened[origin]
            idle = f", after at most {seconds(gap)} of idleness" if gap is not None else ""
            yield Finding(
                verdict="server_closes_idle",
                severity=Severity.WASTE,
                origin=origin,
                sentence=f"{share(tally.count, opened)} of the connections to {named(origin)} ({tally.count:,} of {opened:,}) were "
                f"opened because the server had closed an idle one{idle}",
                advice="send more often, set keepalive_expiry below the server's, or accept it: it costs the time to connect after "
                "every pause",
                sure=Sure.CERTAIN,
                because="the idle connection's socket had been closed by the other side",
                criterion=f"at least {count(self._threshold, 'connection')} opened because of it (server_closed)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"opened": opened, "because": tally.count, "gap": gap},
            )
