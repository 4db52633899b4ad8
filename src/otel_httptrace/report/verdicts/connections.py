"""Why new connections had to be opened: stories 1, 2, 5, 9, 15 and 23."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ...telemetry import names
from ..facts import closing_place, error_type, without_slot
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..spans import Source
from ..units import count, seconds, share, size
from .kind import Kind
from .reasons import COUNTED
from .settings import advised, called, settings
from .tally import MAX_KEYS, MAX_SPANS, Recent, Tallies, Tally, at_line, dial_seconds, errors, named_all, were

#: Which line of the application, by way of which of a library.
_Line = tuple["str | None", "str | None"]

#: Seconds within which connections that are found closed may have been closed at one moment.
AT_ONCE: Final = 1.0


class _Opened(Kind):
    """A verdict on connections that were opened.

    Args:
        limits: from where on something is a finding.
        opened: connections opened, by server.
    """

    def __init__(self, limits: Thresholds, opened: Counter[str]) -> None:
        super().__init__(limits)
        self.opened = opened

    def cost(self, row: Row) -> float:
        return dial_seconds(row)

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("lookups", ("dns" in row.phases) or None)
        tally.note("handshakes", ("tls" in row.phases) or None)

    def of(self, tally: Tally) -> int:
        """How many connections were opened to these servers."""
        return max(tally.count, sum(self.opened[origin] for origin in tally.origins))

    def part(self, tally: Tally) -> str:
        """The share of connections that were opened for this."""
        of = self.of(tally)
        return f"{share(tally.count, of)} of the connections to {named_all(tally.origins)} ({tally.count:,} of {of:,})"


def _paid(tally: Tally, cost: float | None = None) -> str:
    """What opening these connections cost."""
    lookups, handshakes = tally.noted("lookups")[True], tally.noted("handshakes")[True]
    paid = [
        count(number, what) for number, what in ((lookups, "lookup"), (handshakes, "TLS handshake")) if number
    ]  # fmt: skip
    return ", ".join([*paid, f"{seconds(tally.seconds if cost is None else cost)} in all"])


class BodyNotRead(_Opened):
    """Stories 1 and 2.

    The request that closed its response unread says so itself, and which line it was; the request that had to dial
    again says what it cost, and links to the one before. A line is one cause, whatever servers it talks to.
    """

    name = "body_not_read"

    def __init__(self, limits: Thresholds, opened: Counter[str]) -> None:
        super().__init__(limits, opened)
        self.replacing: Tallies[_Line] = Tallies()
        self._places: Recent = Recent()
        #: Those whose connections were lost for another cause, and their lines.
        self._others: Recent = Recent()
        #: By server, those that got no connection for it.
        self._starved: Tallies[str] = Tallies()

    def key(self, row: Row) -> Any:
        return closing_place(row)

    def take(self, row: Row) -> bool:
        taken = super().take(row)
        if not taken:
            self._others[row.span_id] = self.key(row)
        return taken

    def cost(self, row: Row) -> float:
        # What it cost is known to the one that had to dial.
        return 0.0

    def what(self, row: Row) -> str:
        known = row.attributes
        whole = known.get(names.HTTP_RESPONSE_BODY_SIZE)
        if whole == 0:
            return "empty body, closed before its end was read, its connection lost"
        of = f" of {size(whole)}" if whole is not None else ""
        return f"closed after {size(known.get(names.BODY_BYTES_READ, 0))}{of}, its connection lost"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("begun", bool(row.attributes.get(names.BODY_BYTES_READ)) or None)
        self._places[row.span_id] = self.key(row)

    def replaced(self, row: Row) -> None:
        """A connection was opened because the one before was lost so."""
        place: _Line | None = None
        link = row.lost_by
        if link is not None:
            if link.span_id in self._others:
                # It is told with what closed that one.
                return
            place = self._places.get(link.span_id)
            if place is None and names.BODY_CLOSED_AT in link.attributes:
                place = (link.attributes[names.BODY_CLOSED_AT], None)
        if place is None and names.CONN_LOST_AT in row.attributes:
            place = (row.attributes[names.CONN_LOST_AT], None)
        tally = self.replacing[place or (None, None)]
        tally.add(row, dial_seconds(row), f"a new connection opened in {seconds(dial_seconds(row))}")
        super().noting(row, tally)

    def starved(self, row: Row) -> bool:
        """Whether *row* got no connection because those that were lost so were not given back to the pool."""
        if not without_slot(row) or not any(row.origin in tally.origins for _, tally in self.tallies):
            return False
        tally = self._starved[row.origin]
        error = error_type(row)
        tally.add(row, row.duration, f"got no connection within {seconds(row.duration)}")
        tally.note("errors", error)
        tally.note("vain", error is not None or None)
        return True

    def _starving(self, lost: Tally) -> Tally:
        # Told with the line that has lost most to that server.
        found = Tally()
        for origin, tally in self._starved:
            if max((other for _, other in self.tallies), key=lambda other: other.origins[origin]) is lost:
                found.merge(tally)
        return found

    def findings(self) -> Iterator[Finding]:
        lost: dict[_Line, Tally] = dict(self.tallies)
        replaced = dict(self.replacing)
        # Where the losers' own spans are not there, their successors' links are.
        for line, tally in replaced.items():
            if line[0] is not None and not any(line[0] == known[0] for known in lost):
                lost[line] = tally
        # The losers' spans may come after their successors': a line of which they tell another cause is not this one's.
        others = {line for line, _ in self._others.values()} - {key[0] for key, _ in self.tallies}
        lost = {line: tally for line, tally in lost.items() if line[0] is None or line[0] not in others}
        few: list[_Line] = []
        for line, tally in lost.items():
            if tally.count >= self.limits.lost_connections or self._starving(tally).count:
                # A replacement that names nobody may be any line's; of one line it is that line's.
                made = {line, (None, None)} if len(lost) == 1 else {line}
                yield self._told(line, tally, [replaced[other] for other in made if other in replaced])
            else:
                few.append(line)
        if sum(lost[line].count for line in few) >= self.limits.lost_connections:
            # Lines that lost one each: together they are enough.
            together, made_anew = Tally(), []
            for line in few:
                together.merge(lost[line])
                made_anew += [replaced[line]] if line in replaced else []
            if len(few) == len(lost) and (None, None) in replaced and (None, None) not in few:
                made_anew.append(replaced[None, None])
            yield self._told((None, None), together, made_anew, few)

    def _told(self, place: _Line, tally: Tally, made: list[Tally], lines: list[_Line] | None = None) -> Finding:
        line, via = place
        anew = Tally()
        for other in made:
            anew.merge(other)
        lookups = anew.noted("lookups")[True]
        opened = self.of(tally)
        where = at_line(line, via)
        if lines is not None and len(lines) > 1:
            seen = [one for one, _ in lines if one is not None]
            where = f"at {len(lines):,} lines: {', '.join(seen[:3])}" + (
                f" and {len(lines) - 3:,} more" if len(lines) > 3 else ""
            )
        elif lines is not None:
            line, via = lines[0]
            where = at_line(line, via)
        sentence = (
            f"{share(tally.count, opened)} of the connections to {named_all(tally.origins)} ({tally.count:,} of {opened:,}) were lost "
            f"because responses were closed before they had been read, {where}"
        )
        if anew.count:
            sentence += f"; {count(anew.count, 'new connection')} had to be opened"
            sentence += f" and {count(lookups, 'lookup')} made" if lookups else ""
            sentence += f", {seconds(anew.seconds)} in all"
        starved = self._starving(tally)
        vain = starved.noted("vain")[True]
        if starved.count:
            sentence += f"; closing gave none back to the pool, so {count(starved.count, 'request')} waited up to {seconds(starved.most)} for one in vain"
            sentence += f" ({errors(starved)})" if vain else f", and {were(starved.count)} cancelled"
        advice = "read the body to its end before closing the response, or ask for less (HEAD, Range)"
        begun = tally.noted("begun")[True] * 2 > tally.count
        if begun:
            advice = (
                "the body had been begun: read on to its end before closing, for a stream the last chunk after its "
                "end mark (drain it), or ask for less (Range)"
            )
        if via is not None:
            library = via.partition(" in ")[0]
            advice = (
                f"it was closed inside a library ({library}), where your code can't read on: look for a newer version, or tell its "
                'maintainers: "the response is closed before the end of its body has been read, so its connection cannot be used again"'
            )
        elif line is None and lines is None and begun:
            advice += (
                "; a stream that is dropped without being closed is closed by the collector: close it in a `with` block"
            )
        # All of the body had come: then an exception is as likely as a read too few.
        whole = any(number * 2 > tally.count for number in tally.left.values())
        if whole:
            advice = (
                "the bodies had come whole: look for an exception in the program's log at that line (a body that cannot be decoded or parsed), "
                f"else {advice}"
            )
        if starved.count:
            advice += "; and give each connection back, which close() of urllib3's response does not do: release_conn() after it, or drain_conn() in its place"
        evidence = {example.span_id: example for example in starved.examples[:1]}
        evidence |= {example.span_id: example for other in made for example in other.examples[:1]}
        evidence |= {example.span_id: example for example in tally.examples[:2]}
        return self.make(
            tally,
            sentence,
            advice,
            severity=Severity.FAILED if vain else Severity.SLOW if starved.count else None,
            sure=Sure.POSSIBLE if whole else None,
            seconds=anew.seconds + starved.seconds,
            line=line,
            via=via,
            evidence=evidence.values(),
            numbers={
                "lost": tally.count, "opened": opened, "anew": anew.count, "lookups": lookups, "seconds": anew.seconds,
            },
        )  # fmt: skip


class KeepaliveLimit(_Opened):
    """Story 5. The limit is the client's: one finding, whatever the servers."""

    name = "keepalive_limit_too_low"

    def key(self, row: Row) -> Any:
        return ""

    def what(self, row: Row) -> str:
        return f"opened again what had just been dropped: {seconds(dial_seconds(row))}"

    def finding(self, key: Any, tally: Tally) -> Finding:
        servers = len(tally.origins)
        raised = "the number of requests at a time"
        if servers > 1 and any(one.each for one in settings(tally)):
            raised = "the number of requests at a time to each server"
        elif servers > 1:
            raised = f"the number of servers ({servers:,} here) times the requests at a time to each"
        return self.make(
            tally,
            f"{self.part(tally)} were opened because the pool had dropped an idle one over {called(tally, 'kept')}, {_paid(tally)}",
            advised(tally, "keep_more", above=raised),
            numbers={"opened": self.of(tally), "because": tally.count, "servers": servers},
        )


class Reopened(_Opened):
    """Story 23: a reason that needs no more than counting.

    Args:
        limits: from where on something is a finding.
        opened: connections opened, by server.
        value: of `httptrace.conn.open_reason`.
    """

    def __init__(self, limits: Thresholds, opened: Counter[str], value: str) -> None:
        self.reason = COUNTED[value]
        self.name = self.reason.verdict
        super().__init__(limits, opened)

    def key(self, row: Row) -> Any:
        return row.attributes.get(names.CONN_LOST_AT)

    def what(self, row: Row) -> str:
        return f"{self.reason.told}: {seconds(dial_seconds(row))} to connect"

    def finding(self, key: Any, tally: Tally) -> Finding:
        where = f", at {key}" if key is not None else ""
        whose, advice = self.whose(tally)
        return self.make(
            tally,
            f"{self.part(tally)} were opened because {self.reason.told}{where}; {_paid(tally)}. This is {whose}",
            advice,
            line=key,
            numbers=self.numbers(tally),
        )

    def whose(self, tally: Tally) -> tuple[str, str]:
        """Whose it is, and what to do."""
        if self.reason.value == "pool_full":
            return f"this client's setting: {called(tally, 'origins')}", advised(tally, "more_origins")
        return self.reason.whose, self.reason.advice

    def numbers(self, tally: Tally) -> dict[str, Any]:
        """What the sentence says."""
        return {"opened": self.of(tally), "because": tally.count, "seconds": tally.seconds}


class ClientPerRequest(_Opened):
    """Story 9. A new client is no fault; one made for every request is."""

    name = "client_per_request"

    def __init__(self, limits: Thresholds, opened: Counter[str]) -> None:
        super().__init__(limits, opened)
        #: The first connection of each client, by connection.
        self._connections: OrderedDict[Any, _First] = OrderedDict()
        #: Clients of which that carried few requests, and is forgotten.
        self._brief: dict[tuple[Source, str], _Brief] = {}

    def first(self, row: Row) -> None:
        """A process connected to a server for the first time: the client that did is one of them."""
        self._remember(row, new=False)

    def add(self, row: Row) -> None:
        """A connection was opened by one more client."""
        self._remember(row, new=True)

    def _remember(self, row: Row, *, new: bool) -> None:
        # What it is evidence of is known only when its connection has carried all its requests.
        made_at = row.attributes.get(names.CLIENT_MADE_AT)
        self._connections[row.connection or row.span_id] = _First(
            row.source, row.origin, row.client, row.trace_id, row.span_id, row.start, self.cost(row), made_at,
            lookup="dns" in row.phases, handshake="tls" in row.phases, new=new,
        )  # fmt: skip
        if len(self._connections) > MAX_SPANS:
            self._settle(self._brief, self._connections.popitem(last=False)[1])

    def reused(self, row: Row) -> None:
        """A connection was used again."""
        if self._connections:
            known = self._connections.get(row.connection)
            if known is not None:
                known.requests += 1

    def _settle(self, brief: dict[tuple[Source, str], _Brief], first: _First) -> None:
        together, whose = self.defined.together, (first.source, first.origin)
        few = together is not None and together.holds(first.requests, self.limits)
        if few and (whose in brief or len(brief) < MAX_KEYS):
            brief.setdefault(whose, _Brief()).add(first)

    def findings(self) -> Iterator[Finding]:
        brief = {whose: known.copy() for whose, known in self._brief.items()}
        for first in self._connections.values():
            self._settle(brief, first)
        of_origin: dict[str, list[_Brief]] = {}
        for (_, origin), known in brief.items():
            of_origin.setdefault(origin, []).append(known)
        told, minute = _Brief(), 0
        for several in of_origin.values():
            # Each process has to have clients of its own.
            most = max(known.within_a_minute() for known in several)
            if most >= self.limits.clients:
                minute = max(minute, most)
                for known in several:
                    told.merge(known)
        if told.tally.count:
            # One line makes the clients, whatever servers they are for.
            yield self._told(told, minute)

    def _told(self, told: _Brief, minute: int) -> Finding:
        tally = told.tally
        line, made = next(iter(tally.noted("made_at").most_common(1)), (None, 0))
        where = "" if line is None else f", at {line}" if made == told.clients else f", {made:,} of them at {line}"
        within = f"{count(minute, 'client')} for {named_all(tally.origins)} within a minute"
        all_in_all = f" ({told.clients:,} in all)" if told.clients != minute else ""
        few = count(self.limits.client_requests, "request")
        return self.make(
            tally,
            f"one process made {within}{all_in_all}{where}; the first connection of each carried at most {few}: "
            f"each client has to connect for itself, {_paid(tally, told.cost)}",
            advised(tally, "share"),
            requests=told.clients,
            seconds=told.cost,
            line=line,
            numbers={"clients": told.clients, "within_a_minute": minute, "seconds": told.cost},
        )


@dataclass(slots=True)
class _First:
    """The request that opened the first connection of a client."""

    source: Source
    origin: str
    client: str
    trace_id: str
    span_id: str
    start: float
    cost: float
    made_at: str | None
    lookup: bool
    handshake: bool
    #: Its client was not the first one of its process.
    new: bool
    #: That the connection has carried.
    requests: int = 1


class _Brief:
    """Clients whose first connection carried few requests."""

    def __init__(self) -> None:
        self.clients = 0
        self.cost = 0.0
        #: How many were made in which half minute.
        self.halves: Counter[int] = Counter()
        self.tally = Tally()

    def add(self, first: _First) -> None:
        """One more."""
        self.clients += 1
        self.cost += first.cost
        self.halves[int(first.start // 30)] += 1
        if first.new:
            self.tally.add(first, first.cost, f"had a client of its own: {seconds(first.cost)} to connect")
            self.tally.note("made_at", first.made_at)
            self.tally.note("lookups", first.lookup or None)
            self.tally.note("handshakes", first.handshake or None)

    def merge(self, other: _Brief) -> None:
        """Those too."""
        self.clients += other.clients
        self.cost += other.cost
        self.halves.update(other.halves)
        self.tally.merge(other.tally)

    def copy(self) -> _Brief:
        """One that can be added to."""
        copied = _Brief()
        copied.merge(self)
        return copied

    def within_a_minute(self) -> int:
        """The most that were made within one."""
        return max(self.halves[half] + self.halves[half + 1] for half in list(self.halves))


class ServerClosesIdle(_Opened):
    """Story 15."""

    name = "server_closes_idle"

    def __init__(self, limits: Thresholds, opened: Counter[str]) -> None:
        super().__init__(limits, opened)
        #: When a request of a process to an origin was over last.
        self._over: OrderedDict[tuple[Any, str], float] = OrderedDict()

    def saw(self, row: Row) -> None:
        """Any request."""
        key, end = (row.source, row.origin), row.end
        if end > self._over.get(key, 0.0):
            self._over[key] = end
            if len(self._over) > MAX_KEYS:
                self._over.popitem(last=False)

    def _gap(self, row: Row) -> float:
        return row.start - self._over.get((row.source, row.origin), row.start)

    def what(self, row: Row) -> str:
        gap = self._gap(row)
        idle = f" after {seconds(gap)} without a request" if gap > 0 else ""
        return f"the server had closed the one it would have used{idle}"

    def noting(self, row: Row, tally: Tally) -> None:
        super().noting(row, tally)
        gap = self._gap(row)
        tally.measure("gap", gap if gap > 0 else None)
        tally.measure("found", row.start)

    def finding(self, key: Any, tally: Tally) -> Finding:
        gap, found = tally.measures.get("gap"), tally.measures["found"]
        # An idle time is up for one connection after the other, and again; who is restarted closes all of them, once.
        once = found.most - found.least < AT_ONCE
        idle = f", after at most {seconds(gap.least)} of idleness" if gap is not None else ""
        most = seconds(gap.least) if gap is not None else "that"
        return self.make(
            tally,
            f"{self.part(tally)} were opened because the server, or what lies between, had closed an idle one{idle}; {_paid(tally)}",
            ("if the server, or a load balancer before it, was restarted then, nothing is wrong; else " if once else "")
            + f"send more often, {advised(tally, 'idle', most=most)}, or accept it: it costs the time to connect after every pause",
            sure=Sure.LIKELY if once else None,
            because=f"but all were found closed within {seconds(AT_ONCE)}: a restart of the server closes them so, too"
            if once
            else None,
            numbers={"opened": self.of(tally), "because": tally.count, "gap": gap.least if gap else None},
        )
