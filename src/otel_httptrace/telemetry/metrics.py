# Per request, a lock and two additions; OpenTelemetry is asked only when
# something rare happened (a lookup, a wait, a connection's end) and when a
# reader collects. The counts are kept per origin, as many as `max_origins`,
# the least recently used moving to one called "_other": no total is ever lost.
# Not for ever: the SDK remembers each origin it was ever shown, so a crawler's
# would grow. After some turnover, what is new counts as "_other" at once.
#
# Locks are re-entrant: a signal handler of the application's may make a request
# while one is held.

"""Metrics: plain counts, read when somebody collects."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter, methodcaller
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ..core.ledger import Connection, Process, State
from ..core.timeline import CANCELLED, CLOSED_EARLY, COMPLETE, FAILED, NEVER_CLOSED, POOL, Exchange, Lookup, Origin
from . import names
from .attributes import NOTEWORTHY

# The boundaries that semantic conventions advise.
_LOOKUP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_CONNECTION_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)

_OTHER: Final = "_other"
#: How many origins may take the place of another.
_MOST_TURNOVER: Final = 3000
#: How many names of errors and their causes are told apart, for any exception of the application's is one.
_MAX_CAUSES: Final = 100
_NONE: Final = object()

#: What was counted: of what kind, and which of its values.
_Key = tuple[str, Any]

#: Attributes of a metric, to count by.
_Said = tuple[tuple[str, Any], ...]

_Callback = Callable[[CallbackOptions], Iterable[Observation]]

#: A plain dict: one that is a class written in Python is told of each number by a call.
_Counts = dict[_Key, int]

# Made once: one of these is counted for every request, and read as one of each of its halves.
_SENT: Final[dict[bool, dict[str | None, _Key]]] = {
    reused: {
        outcome: ("sent", (reused, outcome))
        for outcome in (None, COMPLETE, CLOSED_EARLY, NEVER_CLOSED, FAILED, CANCELLED)
    }
    for reused in (False, True)
}


class _Capped:
    """The names, at most so many, that a histogram tells apart."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.RLock()

    def __call__(self, name: str) -> str:
        with self._lock:
            # A name once told apart stays so: a histogram cannot move its counts.
            if name not in self._seen:
                if len(self._seen) >= self._limit:
                    return _OTHER
                self._seen[name] = None
            return name


class _Lasting:
    """What is there now, and 0 for what was there at an earlier collection.

    A backend keeps the last value of a series that it hears no more of: the collector's prometheus exporter
    for five minutes, in which a response closed at last would be open still, and its alert go on firing.

    Args:
        zero: the 0 of its kind.
    """

    def __init__(self, zero: float) -> None:
        self._zero = zero
        #: By origin, what else was said with it; last the one that was seen last.
        self._seen: OrderedDict[_Said, dict[_Said, None]] = OrderedDict()
        #: Several readers may collect at a time.
        self._lock = threading.RLock()

    def __call__(self, present: Mapping[tuple[_Said, _Said], float], limit: int) -> list[Observation]:
        """Show *present*, by origin and what else is said, and of what is gone that of the latest *limit* origins."""
        with self._lock:
            for where, more in present:
                self._seen.setdefault(where, {})[more] = None
                self._seen.move_to_end(where)
            # A crawler may have met other origins altogether since the last collection.
            most = max(limit, len({where for where, _ in present}))
            while len(self._seen) > most:
                self._seen.popitem(last=False)
            seen = [(where, more) for where, others in list(self._seen.items()) for more in list(others)]
        return [Observation(present.get((where, more), self._zero), dict(where + more)) for where, more in seen]


def _all_lasting() -> dict[str, _Lasting]:
    return {
        names.METRIC_OPEN_CONNECTIONS: _Lasting(0),
        names.METRIC_RESPONSES_OPEN: _Lasting(0),
        names.METRIC_RESPONSES_OPEN_MAX_AGE: _Lasting(0.0),
    }


class Metrics:
    """Counts, and the instruments that show them.

    Args:
        meter: makes the instruments.
        max_origins: how many origins are told apart.
        collect: deals with what the garbage collector has finalised; called before every collection.
        former: those of an earlier start. A meter that has an instrument already ignores the callbacks
            of a second one of that name: on the same meter these counts are shown by the earlier ones.
    """

    def __init__(
        self,
        meter: Meter,
        max_origins: int,
        collect: Callable[[], object],
        former: Metrics | None = None,
    ) -> None:
        self._max_origins = max_origins
        self._collect = collect
        self._meter = meter
        former = former if former is not None and former._meter is meter else None
        # What the former have shown is to be seen to be gone.
        self._lasting: dict[str, _Lasting] = _all_lasting() if former is None else former._lasting
        self._process = Process()
        self.begin(self._process)
        self._lookups = meter.create_histogram(
            names.METRIC_DNS_LOOKUP_DURATION,
            unit="s",
            description="Measures the time taken to perform a DNS lookup.",
            explicit_bucket_boundaries_advisory=_LOOKUP_SECONDS,
        )
        self._connections = meter.create_histogram(
            names.METRIC_CONNECTION_DURATION,
            unit="s",
            description="The duration of the successfully established outbound HTTP connections.",
            explicit_bucket_boundaries_advisory=_CONNECTION_SECONDS,
        )
        self._queue = meter.create_histogram(
            names.METRIC_TIME_IN_QUEUE,
            unit="s",
            description="The time that requests waited for a connection of the pool, where they had to.",
            explicit_bucket_boundaries_advisory=_LOOKUP_SECONDS,
        )
        self._shown = [self]
        if former is not None:
            self._shown = former._shown
            self._shown[0] = self
        else:
            _show(meter, self._shown)

    def begin(self, process: Process) -> None:
        """Count what is *process*'s from now on, from nothing."""
        if not self._process.alive:
            # Forked: the parent is still there to say of what it has shown that it is gone.
            self._lasting = _all_lasting()
        self._process = process
        self._lock = threading.RLock()
        self._counts: OrderedDict[Origin | None, _Counts] = OrderedDict()
        self._others: _Counts = {}
        self._turnover = 0
        #: The most recently used, for the next request is usually for the same.
        self._latest: tuple[object, _Counts] = (_NONE, {})
        self._names = _Capped(self._max_origins)
        self._hosts = _Capped(self._max_origins)
        self._causes = _Capped(_MAX_CAUSES)

    # What happens.

    def _add(self, origin: Origin | None, key: _Key) -> None:
        with self._lock:
            latest, counts = self._latest
            if origin is not latest:
                counts = self._use(origin)
                self._latest = origin, counts
            try:
                # With no call in it: a signal handler's request, counted within, would be lost.
                counts[key] += 1
            except KeyError:
                counts[key] = 1

    def _use(self, origin: Origin | None) -> _Counts:
        counts = self._counts.get(origin)
        if counts is None:
            if self._turnover >= _MOST_TURNOVER and len(self._counts) >= self._max_origins:
                return self._others
            # A signal handler's request may have come first.
            counts = self._counts.setdefault(origin, {})
            if len(self._counts) > self._max_origins:
                self._turnover += 1
                _, oldest = self._counts.popitem(last=False)
                for key, number in oldest.items():
                    self._others[key] = self._others.get(key, 0) + number
        else:
            self._counts.move_to_end(origin)
        return counts

    def finished(self, exchange: Exchange) -> None:
        """An exchange is over."""
        conn = exchange.conn
        if conn is None or not exchange.send_at:
            self._add(exchange.origin, ("request", exchange.failed_phase or ""))
        else:
            self._add(exchange.target or conn.origin, _SENT[exchange.reused][exchange.outcome])
        if exchange.acquired_at - exchange.started >= NOTEWORTHY or exchange.failed_phase is POOL:
            waited = exchange.time_pool or 0
            if waited >= NOTEWORTHY:
                self._queue.record(waited / 1e9, self._described(exchange.origin), context=_inside(exchange))

    def failed(self, exchange: Exchange) -> None:
        """An exchange failed, before its body or in it."""
        evidence = exchange.evidence
        cause = evidence.cause if evidence is not None else None
        how = (exchange.failed_phase, self._causes(exchange.error or ""), self._causes(cause or ""))
        self._add(exchange.origin, ("failed", how))

    def looked_up(self, exchange: Exchange, lookup: Lookup) -> None:
        """A lookup is over."""
        described = {names.DNS_QUESTION_NAME: self._names(lookup.name)}
        if lookup.error is not None:
            described[names.ERROR_TYPE] = lookup.error
        self._lookups.record((lookup.ended - lookup.started) / 1e9, described, context=_inside(exchange))

    def opened(self, conn: Connection) -> None:
        """A connection is ready."""
        conn.counted = True
        self._add(conn.origin, ("opened", conn.open_reason.value if conn.open_reason is not None else ""))

    def closed(self, conn: Connection, at: int) -> None:
        """A connection that was ready is closed."""
        if not conn.counted or conn.close_reason is None:
            # It was there before we were, or was opened under suppression.
            return
        # Told again, where something of the application's came in between, it counts once.
        conn.counted = False
        reason = conn.close_reason.value
        self._add(conn.origin, ("closed", reason))
        described = self._described(conn.origin)
        described[names.CONN_CLOSE_REASON] = reason
        self._connections.record((at - conn.opened_at) / 1e9, described)

    # What is shown.

    def _described(self, origin: Origin | None, *, scheme: bool = True) -> dict[str, Any]:
        if origin is None:
            return {}
        port = "" if origin.port is None else f":{origin.port}"
        if self._hosts(f"{origin.scheme}://{origin.host}{port}") == _OTHER:
            return {names.SERVER_ADDRESS: _OTHER}
        return _address(origin, scheme=scheme)

    def _counted(self, kind: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        attribute = {
            "request": names.CONN_REUSED,
            "opened": names.CONN_OPEN_REASON,
            "closed": names.CONN_CLOSE_REASON,
            "body": names.BODY_OUTCOME,
            "failed": names.FAILED_PHASE,
        }[kind]

        def callback(options: CallbackOptions) -> Iterator[Observation]:
            self._collect()
            # Two schemes of one server and port are one series here.
            totals: Counter[_Said] = Counter()
            with self._lock:
                for origin, counts in [*self._counts.items(), (_OTHER, self._others)]:
                    where = (
                        {names.SERVER_ADDRESS: _OTHER} if isinstance(origin, str) else _address(origin, scheme=False)
                    )
                    for (counted, value), number in _halved(counts):
                        if counted != kind:
                            continue
                        described = dict(where)
                        if kind == "failed":
                            described.update(_how(*value))
                        elif kind == "request" and isinstance(value, str):
                            if value:
                                described[names.FAILED_PHASE] = value
                        elif value != "":
                            described[attribute] = value
                        totals[tuple(described.items())] += number
            for described_items, number in totals.items():
                yield Observation(number, dict(described_items))

        return callback

    def _open_connections(self, options: CallbackOptions) -> Iterable[Observation]:
        self._collect()
        totals: Counter[tuple[_Said, _Said]] = Counter()
        for ledger in list(self._process.ledgers):
            for conn in list(ledger.live):
                # Opened under suppression, as an exporter's own are, it has not been counted as opened either.
                if conn.state in (State.OPEN, State.LOST) and (conn.counted or not conn.opened_at):
                    more: dict[str, Any] = {names.HTTP_CONNECTION_STATE: "idle" if conn.idle else "active"}
                    if conn.protocol is not None:
                        more[names.NETWORK_PROTOCOL_VERSION] = conn.protocol
                    totals[self._where(conn.origin, scheme=True), tuple(more.items())] += 1
        return self._with_zeros(names.METRIC_OPEN_CONNECTIONS, totals)

    def _where(self, origin: Origin | None, *, scheme: bool) -> _Said:
        with self._lock:
            # There is room for one of which nothing has been counted yet.
            known = origin in self._counts or len(self._counts) < self._max_origins
        return tuple((_address(origin, scheme=scheme) if known else {names.SERVER_ADDRESS: _OTHER}).items())

    def _with_zeros(self, metric: str, present: Mapping[tuple[_Said, _Said], float]) -> Iterable[Observation]:
        # One more, for "_other".
        return self._lasting[metric](present, self._max_origins + 1)

    def _unread(self) -> Iterator[tuple[tuple[_Said, _Said], Exchange]]:
        self._collect()
        for exchange in list(self._process.exchanges):
            if exchange.headers_at and not exchange.over_at and not exchange.silent:
                yield (self._where(exchange.origin, scheme=False), ()), exchange

    def _open_responses(self, options: CallbackOptions) -> Iterable[Observation]:
        return self._with_zeros(names.METRIC_RESPONSES_OPEN, Counter(key for key, _ in self._unread()))

    def _oldest_response(self, options: CallbackOptions) -> Iterable[Observation]:
        now = time.monotonic_ns()
        oldest: dict[tuple[_Said, _Said], float] = {}
        for key, exchange in self._unread():
            oldest[key] = max(oldest.get(key, 0.0), (now - exchange.headers_at) / 1e9)
        return self._with_zeros(names.METRIC_RESPONSES_OPEN_MAX_AGE, oldest)


def _halved(counts: _Counts) -> Iterator[tuple[_Key, int]]:
    """What was counted, of requests that were sent each half by itself."""
    for (kind, value), number in list(counts.items()):
        if kind != "sent":
            yield (kind, value), number
            continue
        reused, outcome = value
        yield ("request", reused), number
        if outcome is not None:
            yield ("body", outcome), number


def _how(phase: str | None, error: str, cause: str) -> Iterator[tuple[str, str]]:
    """In which phase, by which error and which cause, each as far as it is known."""
    for name, value in ((names.FAILED_PHASE, phase), (names.ERROR_TYPE, error), (names.FAILED_CAUSE, cause)):
        if value:
            yield name, value


def _show(meter: Meter, shown: list[Metrics]) -> None:
    for name, unit, description, kind in (
        (names.METRIC_REQUESTS, "{request}", "Requests sent to a pool.", "request"),
        (names.METRIC_REQUESTS_FAILED, "{request}", "Requests that failed, by how and why.", "failed"),
        (names.METRIC_CONNECTIONS_OPENED, "{connection}", "Connections opened, by why.", "opened"),
        (names.METRIC_CONNECTIONS_CLOSED, "{connection}", "Connections closed, by why.", "closed"),
        (names.METRIC_BODIES, "{response}", "Response bodies, by how they ended.", "body"),
    ):
        counted = _current(shown, methodcaller("_counted", kind))
        meter.create_observable_counter(name, [counted], unit=unit, description=description)
    meter.create_observable_up_down_counter(
        names.METRIC_OPEN_CONNECTIONS,
        [_current(shown, attrgetter("_open_connections"))],
        unit="{connection}",
        description="Number of outbound HTTP connections that are currently active or idle on the client.",
    )
    meter.create_observable_up_down_counter(
        names.METRIC_RESPONSES_OPEN,
        [_current(shown, attrgetter("_open_responses"))],
        unit="{response}",
        description="Responses neither read to the end nor closed.",
    )
    meter.create_observable_gauge(
        names.METRIC_RESPONSES_OPEN_MAX_AGE,
        [_current(shown, attrgetter("_oldest_response"))],
        unit="s",
        description="The age of the oldest response neither read to the end nor closed.",
    )


def _current(shown: list[Metrics], callback: Callable[[Metrics], _Callback]) -> _Callback:
    def show(options: CallbackOptions) -> Iterable[Observation]:
        return callback(shown[0])(options)

    return show


def _address(origin: Origin | None, *, scheme: bool) -> dict[str, Any]:
    if origin is None:
        return {}
    described: dict[str, Any] = {names.SERVER_ADDRESS: origin.host}
    if origin.port is not None:
        described[names.SERVER_PORT] = origin.port
    if scheme:
        described[names.URL_SCHEME] = origin.scheme
    return described


def _inside(exchange: Exchange) -> Context | None:
    # For exemplars: where an event loop's callback or a thread has lost the context.
    return trace.set_span_in_context(exchange.span) if exchange.span is not None else None
