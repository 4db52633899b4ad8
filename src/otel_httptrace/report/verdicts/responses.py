"""Slow bodies, cancelled requests, statuses and repeated calls: stories 12, 13, 26, 29 and 30."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ...telemetry import names
from ..facts import broke, failed_by, proxy, status_raised
from ..findings import Evidence, Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..spans import Source
from ..units import count, seconds, share, spread
from .advice import DOING
from .definitions import ATTEMPTS, INSTANT
from .kind import Kind
from .tally import MAX_KEYS, Tally, named, named_all, statuses, were

#: Seconds within which a request is cancelled for a sibling's failure; and how many are compared.
JUST_AFTER: Final = 0.02
_CANCELS: Final = 500


class _BodySlow(Kind):
    """Story 12: the time of a body is the server's, or the consumer's."""

    whose = ""
    advice = ""

    def cost(self, row: Row) -> float:
        return row.phases["receive"]

    def what(self, row: Row) -> str:
        waited = row.attributes[names.BODY_READ_WAIT]
        return f"the body took {seconds(self.cost(row))}, of which {seconds(waited)} waiting for bytes"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.measure("waited", row.attributes[names.BODY_READ_WAIT])
        tally.measure("gap", row.attributes.get(names.BODY_MAX_GAP))

    def finding(self, key: Any, tally: Tally) -> Finding:
        waited, gap = tally.measures["waited"].total, tally.measures.get("gap")
        gaps = f", up to {seconds(gap.most)} of it without a byte" if gap else ""
        return self.make(
            tally,
            f"{count(tally.count, 'response body', 'response bodies')} from {named(key)} took up to {seconds(tally.most)}; "
            f"{seconds(waited)} of {seconds(tally.seconds)} were spent waiting for bytes{gaps}: {self.whose}",
            self.advice,
            # That nothing came for so long was seen; who is to blame for it was not.
            sure=None if not tally.left else Sure.LIKELY if gap and gap.least >= self.limits.gap else Sure.POSSIBLE,
            numbers={
                "longest": tally.most,
                "seconds": tally.seconds,
                "read_wait": waited,
                **({"gap": gap.most} if gap else {}),
            },
        )


class BodySlowServer(_BodySlow):
    """The time went into waiting for bytes."""

    name = "body_slow_server"
    whose = "the server, or the way from it, is slow"
    advice = "look at the server: what it streams and from where; of streams that may be silent for so long, raise the threshold (gap)"


class BodySlowConsumer(_BodySlow):
    """The time went into what the application does between reads."""

    name = "body_slow_consumer"
    whose = "the application takes its time between reads"
    advice = "look at what is done with each part: read the body first, or do the work elsewhere; meanwhile the connection is held"


class _Given(NamedTuple):
    """A request that was given up: by which process, when, and after how long."""

    source: Source
    end: float
    duration: float


def _at_ends_of(those: list[_Given], others: list[_Given]) -> bool:
    """Whether each of those ended at the same instant as one of the others, of the same process."""
    ends: dict[Source, list[float]] = {}
    for one in sorted(others, key=lambda other: other.end):
        ends.setdefault(one.source, []).append(one.end)
    for one in those:
        known = ends.get(one.source, [])
        first = bisect.bisect_left(known, one.end - INSTANT)
        if first == len(known) or known[first] > one.end + INSTANT:
            return False
    return True


class Cancelled(Kind):
    """Story 13.

    The phase that a request was in says what it waited for, and not who gave it up: what one cause has cancelled is
    one finding, in however many phases.
    """

    name = "cancelled_in"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        #: When requests of a process failed, and by what; and those that were cancelled, by phase.
        self._failed: dict[Source, list[tuple[float, str]]] = {}
        self._given: dict[str, list[_Given]] = {}

    def failure(self, row: Row) -> None:
        """A request that failed, or got an error: who waits for it with others may cancel these."""
        if row.timed and (row.source in self._failed or len(self._failed) < MAX_KEYS):
            kept = self._failed.setdefault(row.source, [])
            if len(kept) < _CANCELS:
                kept.append((row.end, failed_by(row) if broke(row) else str(row.status)))

    def _after(self, given: list[_Given]) -> Counter[str]:
        """Those cancelled just after another request of their process failed, as they were under way: how many, by its failure."""
        after: Counter[str] = Counter()
        failed = {source: sorted(ends) for source, ends in self._failed.items()}
        for source, end, duration in given:
            ends = failed.get(source, [])
            last = bisect.bisect_right(ends, (end, "\U0010ffff")) - 1
            if last >= 0 and end - ends[last][0] <= min(JUST_AFTER, duration):
                after[ends[last][1]] += 1
        return after

    def _timed(self, given: list[_Given]) -> bool:
        """Whether they were given up one after the other, and each after the same time."""
        took, ends = [one.duration for one in given], [one.end for one in given]
        return (
            len(given) >= self.limits.cancelled
            and max(took) <= 1.2 * min(took)
            and max(ends) - min(ends) >= max(took) / 2
        )

    def _one_cause(self, one: list[_Given], other: list[_Given]) -> bool:
        """Whether what was cancelled in two phases was so by one cause: at the same instants, or after the same time."""
        return self._timed([*one, *other]) or (_at_ends_of(one, other) and _at_ends_of(other, one))

    def key(self, row: Row) -> Any:
        return row.attributes.get(names.FAILED_PHASE, "receive")

    def what(self, row: Row) -> str:
        lost = row.attributes.get(names.CONN_CLOSE_REASON) == "request_cancelled"
        return (
            f"cancelled in {self.key(row)} after {seconds(row.duration)}, connection {'lost' if lost else 'not lost'}"
        )

    def noting(self, row: Row, tally: Tally) -> None:
        given = self._given.setdefault(self.key(row), [])
        if row.timed and len(given) < _CANCELS:
            given.append(_Given(row.source, row.end, row.duration))
        tally.note("phases", self.key(row))
        tally.note("lost", row.attributes.get(names.CONN_CLOSE_REASON) == "request_cancelled" or None)
        tally.measure("gap", row.attributes.get(names.BODY_MAX_GAP))
        tally.note("gaps", names.BODY_MAX_GAP in row.attributes or None)

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        # The phase with most of them first: the others are compared with what belongs to it.
        rest = sorted(self.tallies, key=lambda entry: -entry[1].count)
        while rest:
            (phase, first), *rest = rest
            tally, given, apart = Tally(), list(self._given.get(phase, ())), []
            tally.merge(first)
            for other, more in rest:
                also = self._given.get(other, [])
                if given and also and self._one_cause(given, also):
                    tally.merge(more)
                    given += also
                else:
                    apart.append((other, more))
            rest = apart
            yield self.finding(given, tally)

    def finding(self, key: Any, tally: Tally) -> Finding:
        lost, phases = tally.noted("lost")[True], tally.noted("phases").most_common()
        with_them = f"{count(lost, 'connection')} lost with {'it' if tally.count == 1 else 'them'}"
        after = self._after(key)
        sibling = after.total() * 2 > tally.count
        timer = not sibling and bool(key) and self._timed(key)
        why = ", ".join(one for one, _ in after.most_common(2))
        numbered = len(phases) > 1
        doing = ", ".join(
            f"{DOING.get(one, one)} ({f'{number:,} in ' if numbered else ''}{one})" for one, number in phases
        )
        gap = tally.measures.get("gap")
        # Of each of them it is known, and none had waited for its caller's whole patience.
        dripped = gap is not None and timer and tally.noted("gaps")[True] == tally.count and gap.most * 2 <= tally.least
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} {were(tally.count)} cancelled by the caller while "
            f"{doing}, after {spread(tally.least, tally.most)}; "
            + (with_them if lost else "no connection was lost")
            + (
                f"; {after.total():,} of them just after another request of this process had failed ({why})"
                if sibling
                else ""
            )
            + (
                f"; bytes of the body came all that time, at most {seconds(gap.most)} apart: no read timeout strikes then"
                if gap is not None and dripped
                else ""
            ),
            f"look at the request that failed first ({why}): who waits for several (a task group, gather) cancels the others when one fails"
            if sibling
            else f"each was given up after about {seconds(tally.least)}: look for a timeout of that length around the call (wait_for, "
            "asyncio.timeout, move_on_after, a deadline of the caller's), and at what takes longer in that phase"
            if timer
            else "look at who cancels: a timeout around the call, a sibling task that failed, a client that went away",
            numbers={
                "phase": phases[0][0],
                "connections_lost": lost,
                **({"phases": dict(phases)} if numbered else {}),
                **({"after_failures": after.total()} if after else {}),
            },
            harmless=tally.count < self.limits.cancelled,
        )


class ErrorStatuses(Kind):
    """Story 26: the server answered, and said that it could not."""

    name = "error_statuses"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        self.statuses: dict[str, Counter[int]] = {}
        #: Of those that the application raised an exception for, the first of each server.
        self._raised: dict[str, list[Row]] = {}
        #: Forward proxies, by the servers that requests were sent to through them.
        self._proxies: dict[str, str] = {}

    def saw(self, row: Row) -> None:
        """Any response."""
        if row.opened and row.origin.startswith("http:") and len(self._proxies) < MAX_KEYS:
            through = proxy(row)
            if through is not None:
                self._proxies[row.origin] = through
        if row.status is not None:
            counted = self.statuses.get(row.origin)
            if counted is not None:
                counted[row.status] += 1
            elif len(self.statuses) < MAX_KEYS:
                self.statuses[row.origin] = Counter({row.status: 1})

    def raised(self, row: Row) -> None:
        """One for which the application raised an exception: that is how it failed, and this is why."""
        kept = self._raised.setdefault(row.origin, []) if len(self._raised) < MAX_KEYS else []
        if len(kept) < self.limits.statuses:
            kept.append(row)

    def untold(self) -> Iterator[Row]:
        """Those of `raised` that are too few to be told here; each once."""
        told = {key for key, tally in self.tallies if tally.count >= self.limits.statuses}
        for origin in [origin for origin in self._raised if origin not in told]:
            yield from self._raised.pop(origin)

    def what(self, row: Row) -> str:
        return f"status {row.status} after {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("statuses", row.status)
        tally.note("raised", status_raised(row) or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        all_of = self.statuses.get(key, Counter())
        told, numbers = statuses(all_of)
        badly = tally.noted("statuses")
        through, whose = self._proxies.get(key), "" if tally.left else " of the server's"
        advice = "look at the server's log for these requests: it answered, and so had them"
        if badly[429] * 2 >= tally.count:
            advice = "send fewer requests at a time (429: Too Many Requests), and wait as long as Retry-After says"
        elif (badly[502] + badly[504]) * 2 >= tally.count:
            advice = (
                "502 and 504 are a gateway's: what is behind it gave no valid answer (502), or none in time (504); look at the gateway's log "
                "(a load balancer, an ingress, a proxy), then at what it forwards to"
            )
        elif badly[503] * 2 >= tally.count:
            advice = (
                "who answered takes no requests now: the server itself, or a load balancer or proxy that has none to send them to (no healthy "
                "one, a deployment, overload); its log, and the response's headers and body, tell which"
            )
        if through is not None:
            advice += f"; they went through the proxy {through}, which may have answered itself"
        if tally.noted("raised")[True]:
            advice += "; read the body before raise_for_status(): it says why, and the connection is kept"
        return self.make(
            tally,
            f"{share(tally.count, sum(all_of.values()))} of the responses from {named(key)} ({tally.count:,} of "
            f"{sum(all_of.values()):,}) were errors{whose}: {told}",
            advice,
            because="the server answered so" if not tally.left else "the status is known, and not who gave it",
            numbers={"statuses": numbers},
        )


@dataclass
class _Chain:
    """Attempts of what may be one call."""

    begun: float
    ended: float
    rows: int = 1
    failed: int = 0
    why: Counter[str] = field(default_factory=Counter)
    evidence: list[Evidence] = field(default_factory=list)
    row: Row | None = None
    pauses: list[float] = field(default_factory=list)
    told: bool = False

    @property
    def backs_off(self) -> bool:
        """Whether it waited longer before each attempt, as an SDK does, and a program that asks now and then does not."""
        return len(self.pauses) > 1 and all(
            one > 0.01 and after >= 1.3 * one for one, after in itertools.pairwise(self.pauses)
        )


class CallRepeated(Kind):
    """Story 29: what an SDK sends again is one call, not several slow ones."""

    name = "call_repeated"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        #: By whose, and to where: chains whose last request failed.
        self._open: OrderedDict[Hashable, _Chain] = OrderedDict()
        together = self.defined.together
        assert together is not None  # noqa: S101
        self.follows = together.holds

    def saw(self, row: Row, *, failed: bool) -> None:
        """Any request: one that goes well ends a chain, one that fails begins it or goes on with it."""
        failed = failed or row.status in (408, 409)
        if not failed and not self._open:
            return
        if not row.target or not row.timed:
            return
        parent = (row.trace_id, row.parent_id) if row.parent_id else ("", "")
        key = (row.source, parent, row.target)
        chain = self._open.get(key)
        if chain is not None and not self.follows(row.start - chain.ended, row.parent_id):
            self._over(self._open.pop(key), went_well=False)
            chain = None
        if chain is None:
            if failed:
                self._open[key] = _Chain(row.start, row.end)
                self._note(self._open[key], row, failed)
                if len(self._open) > MAX_KEYS:
                    self._over(self._open.popitem(last=False)[1], went_well=False)
            return
        chain.rows += 1
        chain.pauses.append(row.start - chain.ended)
        chain.ended = row.end
        self._note(chain, row, failed)
        if not failed:
            self._over(self._open.pop(key), went_well=True)

    def _note(self, chain: _Chain, row: Row, failed: bool) -> None:
        chain.row = row
        if failed:
            chain.failed += 1
            chain.why[str(row.status) if row.status and not broke(row) else failed_by(row)] += 1
        if len(chain.evidence) < 3:
            what = f"attempt {chain.rows}: {f'status {row.status}' if row.status else failed_by(row)}, {seconds(row.duration)}"
            chain.evidence.append(Evidence(row.trace_id, row.span_id, what))

    def _over(self, chain: _Chain, *, went_well: bool) -> None:
        row = chain.row
        if row is None or chain.rows < 2 or chain.rows > ATTEMPTS:
            return
        # A program that asks again and again looks the same, where no parent tells.
        if not row.parent_id and not (went_well and chain.backs_off):
            return
        tally = self.tallies[(row.origin, bool(row.parent_id))]
        tally.add(row, chain.ended - chain.begun, "")
        tally.doubt(self.defined.left(row, self.limits))
        tally.note("attempts", chain.rows)
        tally.note("vain", (not went_well) or None)
        tally.evidence = [(0.0, one) for one in chain.evidence] if tally.count == 1 else tally.evidence
        for why, number in chain.why.items():
            tally.note("why", why, number)

    def findings(self) -> Iterator[Finding]:
        for chain in self._open.values():
            # Its last attempt failed: with a parent in common it is one call all the same.
            if chain.rows > 1 and chain.row is not None and chain.row.parent_id and not chain.told:
                chain.told = True
                self._over(chain, went_well=False)
        yield from super().findings()

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, _ = key
        attempts = sum(number * times for number, times in tally.noted("attempts").items())
        why = ", ".join(f"{one} x {number:,}" for one, number in tally.noted("why").most_common(4))
        least, most = min(tally.noted("attempts")), max(tally.noted("attempts"))
        each = f"{most} times" if least == most else f"{least} to {most} times"
        calls = count(tally.count, "call")
        return self.make(
            tally,
            f"{calls} to {named(origin)} {were(tally.count)} sent {each}, {count(attempts, 'request')} in {seconds(tally.seconds)} in all "
            f"(up to {seconds(tally.most)} for one): the attempts before failed ({why})",
            "these are attempts of one call, by an SDK or the program's own retries: look at why the first failed; the time of the call is "
            "all of them, with the pauses between",
            # Where no attempt went well it is that cause which failed them, and is told: this says how often.
            severity=Severity.SLOW if tally.left or tally.noted("vain")[True] == tally.count else Severity.FAILED,
            requests=attempts,
            numbers={"calls": tally.count, "attempts": attempts, "longest": tally.most},
        )
