# Each verdict answers one of the incident stories of docs/stories.md. It looks
# at one row at a time, keeps counts and a few examples, and in the end says what
# it found: nothing unless its criterion is met. A row that shows nothing rare
# (reused, read to its end, quick) is passed over after a few look-ups.
#
# Rule 1: what the client saw is certain; what only follows from it says so, and
#         names what else it may be (definitions.py).
# Rule 2: a cause silences its symptoms. Who waits for a pool that leaked responses
#         hold is told of the leak, not to enlarge the pool.
# Rule 3: what failed is told, whatever else is (failures.py), and one cause is one
#         finding, whatever it did to how many servers.
# Rule 4: everything is bounded, for a report may be of a month.

"""The verdicts: from rows to findings."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

from ...telemetry import names
from ..ends import Ends
from ..facts import answered_badly, broke, phase_of, status_raised, without_slot
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row, Served
from ..units import count
from ..units import seconds as written
from . import reasons
from .addresses import Addresses
from .closes import ConnectionClose
from .connections import BodyNotRead, ClientPerRequest, KeepaliveLimit, Reopened, ServerClosesIdle
from .dialling import AddressFallback, DnsSlow, TlsSlow
from .failures import Failures
from .kind import DEFINITIONS
from .pool import WAITING, Pool, StreamLimit
from .reasons import COUNTED
from .redirects import Redirects
from .refusals import RequestsRefused
from .responses import BodySlowConsumer, BodySlowServer, CallRepeated, Cancelled, ErrorStatuses
from .retrying import ConnectSlow, ProxySlow, WaitedToRetry
from .serving import Serving
from .tally import DIAL

VERDICTS: Final = tuple(DEFINITIONS)
"""Every verdict there is."""

#: Slow steps of opening a connection.
_DIALLING: Final = frozenset({"dns_slow", "address_fallback", "tls_slow"})


class _Finds(Protocol):
    def findings(self) -> Iterable[Finding]: ...


class Verdicts:
    """All verdicts, fed row by row.

    Args:
        thresholds: from where on something is a finding.
        ends: tells what servers say of requests; without it nothing is known of that.
    """

    def __init__(self, thresholds: Thresholds, ends: Ends | None = None) -> None:
        self._thresholds = thresholds
        self._ends = Ends() if ends is None else ends
        self._opened: Counter[str] = Counter()
        self._addresses = Addresses()
        self._failures = Failures(thresholds, self._ends, self._addresses)
        self._serving = Serving(thresholds, self._ends)
        self._statuses = ErrorStatuses(thresholds)
        self._statuses.addresses = self._addresses
        self._repeated = CallRepeated(thresholds)
        self._body_not_read = BodyNotRead(thresholds, self._opened)
        self._pool = Pool(thresholds)
        #: Got no connection, and it is yet to be seen why.
        self._starved: deque[Row] = deque(maxlen=1_000)
        self._streams = StreamLimit(thresholds)
        self._keepalive_limit = KeepaliveLimit(thresholds, self._opened)
        self._dns = DnsSlow(thresholds)
        self._clients = ClientPerRequest(thresholds, self._opened)
        self._fallback = AddressFallback(thresholds)
        self._tls = TlsSlow(thresholds)
        self._body = (BodySlowServer(thresholds), BodySlowConsumer(thresholds))
        self._cancelled = Cancelled(thresholds)
        self._idle = ServerClosesIdle(thresholds, self._opened)
        self._reopened: dict[str, Reopened] = {value: Reopened(thresholds, self._opened, value) for value in COUNTED}
        self._closes = self._reopened["connection_close"] = ConnectionClose(thresholds, self._opened)
        self._redirects = Redirects(thresholds)
        self._refused = RequestsRefused(thresholds)
        self._retries, self._connects = WaitedToRetry(thresholds), ConnectSlow(thresholds)
        self._proxies = ProxySlow(thresholds)
        self._all: tuple[_Finds, ...] = (
            self._failures, self._statuses, self._repeated, self._body_not_read, self._pool, self._streams,
            self._keepalive_limit, self._dns, self._clients, self._fallback, self._tls, *self._body, self._cancelled,
            self._idle, *self._reopened.values(), self._redirects, self._retries,
            self._connects, self._proxies, self._refused, self._serving,
        )  # fmt: skip

    def add(self, row: Row) -> None:
        """Take *row* into account."""
        known, phases, limits = row.attributes, row.phases, self._thresholds
        broken, badly = broke(row), answered_badly(row)
        self._pool.saw(row)
        self._addresses.saw(row)
        self._failures.seen(row)
        self._statuses.saw(row)
        self._repeated.saw(row, failed=broken or badly)
        self._redirects.saw(row)
        self._refused.saw(row)
        if known.get(names.CONN_REUSED) is False:
            self._opening(row, known)
        else:
            self._clients.reused(row)
        if known.get(names.CONN_CLOSE_REASON) == "body_not_read":
            self._body_not_read.take(row)
        if names.CONN_ENDED_BY in known:
            self._closes.saw(row)
        outcome, failed_phase = known.get(names.BODY_OUTCOME), known.get(names.FAILED_PHASE)
        if outcome == "never_closed":
            self._pool.leaked(row)
        told = False
        if phases.get("pool", 0.0) >= limits.pool_wait or failed_phase == "pool":
            told = self._pool.waited(row, failed_phase)
        if names.TIME_STREAM in known:
            told = self._streams.take(row) or told
        if broken:
            if self._redirects.failed(row):
                pass
            elif status_raised(row):
                self._statuses.raised(row)
            elif not told and without_slot(row):
                self._starved.append(row)
            elif not told or phase_of(row) not in ("pool", "wait"):
                self._failures.failed(row)
        else:
            self._went_on(row, known, phases)
        if broken or badly:
            self._cancelled.failure(row)
        if badly:
            self._statuses.take(row)
        if phases.get("receive", 0.0) >= limits.receive:
            for body in self._body:
                body.take(row)
        if "dns" in phases or "connect" in phases:
            self._dialled(row, phases, failed_phase)
        if row.before:
            self._retries.take(row)
        self._idle.saw(row)

    def serve(self, row: Served) -> None:
        """Take into account what a server says of a request."""
        self._serving.add(row)

    def _went_on(self, row: Row, known: dict[str, Any], phases: dict[str, float]) -> None:
        # It did not fail.
        if (names.FAILED_PHASE in known or known.get(names.BODY_OUTCOME) == "cancelled") and row.cancelled:
            if without_slot(row) and phases.get("pool", 0.0) >= self._thresholds.pool_wait:
                self._starved.append(row)
            else:
                self._cancelled.take(row)
        elif names.CONN_IDLE in known or names.BODY_OUTCOME in known:
            self._failures.went_well(row)
        if phases.get("wait", 0.0) >= self._thresholds.between:
            self._failures.waited(row)
        if (
            phases.get("wait", 0.0) + phases.get("send", 0.0) >= self._thresholds.wait
            or names.STALLED in known
            or names.CONN_INHERITED in known
            or names.CONN_FOREIGN_LOOP in known
        ):
            self._failures.slow(row)

    def _opening(self, row: Row, known: dict[str, Any]) -> None:
        self._opened[row.origin] += 1
        self._failures.opened(row)
        why = known.get(names.CONN_OPEN_REASON)
        if why == "first_connection":
            self._clients.first(row)
        elif why == "body_not_read":
            self._body_not_read.replaced(row)
        elif why == "keepalive_limit":
            self._keepalive_limit.take(row)
        elif why == "server_closed":
            self._idle.take(row)
        elif why == "new_client":
            self._clients.add(row)
        elif why in self._reopened:
            self._reopened[why].take(row)

    def _dialled(self, row: Row, phases: dict[str, float], failed_phase: str | None) -> None:
        # A dial, whether or not it led to a connection.
        if "dns" in phases:
            self._dns.saw(row)
            if phases["dns"] >= self._thresholds.dns:
                self._dns.take(row)
        if phases.get("connect", 0.0) >= min(self._thresholds.connect, self._thresholds.backoff):
            self._connects.take(row)
            if not row.before:
                self._retries.take(row)
        if "proxy" in phases:
            self._proxies.take(row)
        if failed_phase is None or failed_phase not in DIAL:
            self._fallback.take(row)
            if phases.get("tls", 0.0) >= self._thresholds.tls:
                self._tls.take(row)

    def findings(self) -> tuple[Finding, ...]:
        """What it cost most, first."""
        starved, self._starved = self._starved, deque(maxlen=self._starved.maxlen)
        for row in (*self._pool.untold(), *starved):
            # Those that took its slot may come later in the data than it does.
            if not self._body_not_read.starved(row):
                (self._failures.failed if broke(row) else self._cancelled.take)(row)
        for row in self._statuses.untold():
            self._failures.failed(row)
        found = [finding for verdict in self._all for finding in verdict.findings()]
        return self._ranked(self._caused(found))

    def _caused(self, found: list[Finding]) -> list[Finding]:
        # What was lost with a failure, a leak or a cancellation is told with that.
        verdicts = {finding.verdict for finding in found}
        failed = {"*failed"} if any(finding.severity is Severity.FAILED for finding in found) else set()
        symptoms = {
            reason.verdict for reason in COUNTED.values() if not (verdicts | failed).isdisjoint(reason.cause)
        }  # fmt: skip
        # Advice that another finding makes void: a longer expiry wins nothing from a server that is quicker.
        closed = {
            finding.origin: (finding.numbers or {}).get("gap")
            for finding in found
            if finding.verdict == "server_closes_idle" and finding.sure is Sure.CERTAIN
        }
        found = _with_siblings(found)
        return [
            replace(finding, advice=reasons.TOO_LATE.format(gap=written(gap)))
            if finding.verdict == "keepalive_expired" and (gap := closed.get(finding.origin)) is not None
            else finding
            for finding in found
            if finding.verdict not in symptoms
        ]

    def _ranked(self, found: list[Finding]) -> tuple[Finding, ...]:
        # Failed before slow before waste, where that is warranted: what is rare and took little time comes after what
        # costs more, and what is harmless comes last. But nothing that failed comes after mere waste.
        requests = self._failures.requests
        seconds = max((finding.seconds for finding in found), default=0.0)

        def rank(finding: Finding) -> tuple[float, bool, int, float]:
            level = float(finding.severity)
            rare = finding.requests * 100 < requests
            if finding.harmless:
                level = 0.0
            elif finding.severity is Severity.FAILED and finding.requests * 1000 < requests:
                level = Severity.SLOW - 0.5
            elif finding.severity is Severity.SLOW and rare and finding.seconds * 10 < seconds:
                level = Severity.WASTE - 0.5
            return (level, finding.sure is not Sure.POSSIBLE, finding.requests, finding.seconds)

        return tuple(_causes_first(sorted(found, key=rank, reverse=True)))


def _with_siblings(found: list[Finding]) -> list[Finding]:
    # Those who wait for several at a time cancel the others when one fails. Where that was all that was cancelled, and
    # there is one thing to have failed, it is told with that.
    failed = [finding for finding in found if finding.severity is Severity.FAILED]
    siblings = [
        finding
        for finding in found
        if finding.verdict == "cancelled_in" and (finding.numbers or {}).get("after_failures") == finding.requests
    ]
    if len(failed) != 1 or not siblings:
        return found
    cancelled = sum(finding.requests for finding in siblings)
    lost = sum((finding.numbers or {}).get("connections_lost", 0) for finding in siblings)
    (cause,) = failed
    told = replace(
        cause,
        sentence=f"{cause.sentence}; {count(cancelled, 'other request')} {'was' if cancelled == 1 else 'were'} cancelled just after, "
        + (f"with {count(lost, 'connection')}" if lost else "and no connection was lost with them"),
        numbers={**(cause.numbers or {}), "cancelled": cancelled},
    )
    return [told if finding is cause else finding for finding in found if finding not in siblings]


def _causes_first(ranked: list[Finding]) -> Iterator[Finding]:
    # A slow resolver is asked for each connection: where most of that time went into connections that were opened
    # in vain, whoever makes them do so is told first.
    told: set[int] = set()
    for at, finding in enumerate(ranked):
        if finding.verdict == "pool_saturated" and (finding.numbers or {}).get("held_by") == WAITING:
            # Who waits for a pool that waits for a server waits for the server.
            for cause in ranked[at + 1 :]:
                if cause.verdict == "server_slow" and cause.severity is Severity.FAILED:
                    told.add(id(cause))
                    yield cause
        if finding.verdict in _DIALLING:
            for waste in ranked[at + 1 :]:
                costs = waste.severity is Severity.WASTE and not waste.harmless and waste.seconds * 2 >= finding.seconds
                if costs and id(waste) not in told:
                    told.add(id(waste))
                    yield waste
        if id(finding) not in told:
            yield finding
