# Hooks say what happens where; this says what it means. Everything that we
# learn goes through here, so that whatever may come in any order, twice, late
# or never is dealt with in one place.
#
# What is done per request is what costs: it is kept to stores and comparisons.
# Per connection, or when something rare happened, there is time for more.

"""From what the hooks see to facts about exchanges and connections."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final

from ..callsite import CallSite, text
from ..core.evidence import SLOW
from ..core.ledger import Connection, Ledger, Missed, Process, Reason, State
from ..core.sink import Sink
from ..core.timeline import CANCELLED, FAILED, NEVER_CLOSED, Exchange, Lookup, Origin
from ..guard import Guard
from . import errors, evidence, loops, seams
from .current import CURRENT
from .seams import Probe, attach, attached

_now = time.monotonic_ns
_epoch = time.time_ns

# The interpreter throws away what is raised in a finaliser, in a callback of a weak reference or of the
# garbage collector: also what a signal handler of the application's raises that happens to run there. So
# there is no Python code of ours in any of them, but functions written in C: no handler runs within these.

#: Whether the garbage collector is at work: then its phase "stop" comes first, as "start" was the last it told. What
#: it finalises may close responses and connections, inside any lock there is: the SDK's, or one of ours.
_phases: Final[OrderedDict[str, None]] = OrderedDict.fromkeys(("start", "stop"))
_, _STOP = _phases

#: What the collector told last with each phase, anywhere and in this thread. A finaliser may let other threads run.
_told: Final[dict[str, object]] = {}
_here: Final = threading.local()

#: gevent's, which may stand in for it, is no C to the last: then no thread is told from another.
_TELLS_THREADS: Final = threading.local.__module__ == "_thread"

#: Called by the collector with a phase and what it found. The first takes that for whether to move the phase to the
#: end: it does. All are called with the same object.
_COLLECTION: Final[tuple[Callable[..., None], ...]] = (
    _phases.move_to_end,
    *((_told.__setitem__, partial(setattr, _here)) if _TELLS_THREADS else ()),
)


def _watch_collector() -> None:
    for callback in _COLLECTION:
        if callback not in gc.callbacks:
            gc.callbacks.append(callback)


def _leave_collector() -> None:
    for callback in _COLLECTION:
        if callback in gc.callbacks:
            gc.callbacks.remove(callback)
    _forget_collection()


def _forget_collection() -> None:
    _phases.move_to_end(_STOP)


def _collecting() -> bool:
    """Whether the garbage collector is at work in this thread."""
    # Not by `next` and `iter`: the collector may be at work between two calls.
    for phase in _phases:
        return phase is _STOP and _in_this_thread()
    return False


def _in_this_thread() -> bool:
    # Where none is told from another, both are None.
    return getattr(_here, "start", None) is _told.get("start")


# Looked up once, as every request asks for them: see core/ledger.py.
_OPEN: Final = State.OPEN
_DIALLING: Final = State.DIALLING

#: Held while hooks are put in or taken out: whoever starts anew must not find the last ones half gone.
transition = threading.RLock()

#: A wait for the pool that is shorter is not told.
_MILLISECOND: Final = 1_000_000


class Watch(weakref.ref[Any]):
    """Of a response's stream or of a pool: is put on `Observer.later` when that is collected.

    Held by its exchange's or ledger's process, until that is over: so nothing comes of one that was closed.
    """

    __slots__ = ("of",)

    #: Whose it is.
    of: Any


class _Unended:
    """On a request span that upstream has yet to end: the word when it is collected, and nobody will.

    There is one only where an exchange was over before upstream had its response, or where something of the
    application's came between upstream's call and us.
    """

    __slots__ = ("_end", "_later", "_span")

    def __init__(self, span: Any, later: deque[Any], end: tuple[Any, ...]) -> None:
        self._span, self._later, self._end = span, later, end

    def __del__(self) -> None:
        # Within any lock there is.
        self._later.append((*self._end, self._span))


class Observer:
    """Everything known about the exchanges under way.

    Args:
        guard: contains our faults.
        idle: called when, after `retire`, the last exchange under way is over.
    """

    def __init__(self, guard: Guard, idle: Callable[[], None]) -> None:
        self._guard = guard
        self._idle = idle
        # Re-entrant: a signal handler of the application's may make a request of its own in there.
        self._lock = threading.RLock()
        #: Types of response streams that are watched, by id, as long as there are such types.
        self._bodies: dict[int, weakref.ref[type]] = {}
        #: Stands in for `_describe` once that has failed.
        self._describing: Callable[..., object] | None = None
        self._earlier: list[Process] = []
        #: What is to be dealt with as soon as there is time: watches of what was collected; what could not be dealt
        #: with within the collector, or was interrupted, as a function and its arguments; and network streams of
        #: which the close was. To put something there is one step, which nothing can interrupt.
        self.later: deque[Any] = deque()
        self.active = False

    def start(self, sink: Sink, call_sites: CallSite | None) -> None:
        """Observe, from empty counts on; what is under way from an earlier start ends as it would have.

        Args:
            sink: where records go.
            call_sites: finds the application's lines; None if they are not wanted.
        """
        self._earlier = [process for process in self._earlier if process.exchanges]
        self._call_sites = call_sites
        self._describing = None
        _watch_collector()
        self._begin(sink)
        self.active = True

    def _begin(self, sink: Sink) -> None:
        self.process = Process()
        self.process.sink = sink
        sink.begins(self.process)

    def forked(self) -> None:
        """In a child process: what is under way is the parent's, and pools are to be adopted anew."""
        global transition  # noqa: PLW0603 - another thread of the parent's may hold it
        transition = threading.RLock()
        self._lock = threading.RLock()
        self.later.clear()
        # A collection of a thread that is not here any more does not end here either.
        _forget_collection()
        for process in (*self._earlier, self.process):
            process.alive = False
            for exchange in process.exchanges:
                # Closed here, too, it is reported by the parent alone.
                exchange.finished, exchange.span = True, None
            process.exchanges.clear()
            self._begin(process.sink)
        self._earlier.clear()

    def retire(self) -> None:
        """Take no new exchanges; those under way end as they would have."""
        with transition:
            self.active = False
            self._earlier.append(self.process)
            self._rest()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is observed any more."""
        return not self.active and not self._earlier

    def _rest(self) -> None:
        with transition:
            if not self.active and not any(process.exchanges for process in self._earlier):
                self._earlier.clear()
                _leave_collector()
                self._idle()

    # The pool.

    def begin(self, pool: Any, request: Any, counts_only_idle: bool) -> Exchange | None:
        """A request is handed to *pool*. None: it is not to be observed."""
        if self.later:
            self.collect()
        process, active = self.process, self.active
        if not active:
            return None
        ledger = attached(pool)
        if ledger is None or ledger.process is not process:
            ledger = self._adopt(process, pool, counts_only_idle)
            if ledger is None:
                return None
        started = _now()
        exchange = Exchange(ledger, request, started, _epoch() - started)
        # Before it is noted anywhere: whatever interrupts this, `abandon` finds it.
        CURRENT.set(exchange)
        exchange.pool = (len(ledger.live), len(ledger.idle), len(ledger.waiting))
        if self._call_sites is not None:
            exchange.made_at = self._call_sites.find_maker()
            if exchange.made_at is not None:
                evidence.begun(exchange)
        else:
            evidence.begun(exchange)
        process.sink.claim(exchange)
        ledger.waiting[exchange] = process.exchanges[exchange] = None
        if not self.active or process is not self.process:
            # Retired meanwhile, and perhaps the hooks that would have seen its end are gone.
            self._unnoted(exchange)
            return None
        return exchange

    def _unnoted(self, exchange: Exchange) -> None:
        exchange.finished = True
        exchange.ledger.waiting.pop(exchange, None)
        exchange.ledger.process.exchanges.pop(exchange, None)
        if not self.active:
            self._rest()

    def abandon(self, outer: Exchange | None, exchange: Exchange | None) -> None:
        """A hook could not see *exchange* through: end what we hold open of it.

        Args:
            outer: the exchange that was inside the pool before.
            exchange: None if `begin` did not return one; then it may have begun one all the same.
        """
        if exchange is None:
            exchange = CURRENT.get()
            if exchange is None or exchange is outer:
                return
            CURRENT.set(outer)
        if not exchange.finished:
            self.let_go(exchange)

    def _adopt(self, process: Process, pool: Any, counts_only_idle: bool) -> Ledger | None:
        with self._lock:
            if self.first_exchange is not None:
                self.first_exchange()
                self.first_exchange = None
            ledger = Ledger(process, seams.limits(pool, counts_only_idle))
            try:
                watch = Watch(pool, self.later.append)
            except TypeError:
                # A stand-in of which we could not tell when it is gone.
                return None
            watch.of = ledger
            # In the midst of this a signal handler may have made a request with the same pool.
            found: Ledger | None = seams.attach_unless(pool, ledger, lambda other: other.process is process)
            if found is not ledger:
                return found
            process.ledgers[ledger] = watch
            proxied = seams.proxied(pool)
            for connection in seams.connections(pool):
                if not connection.is_closed():
                    # It was there before us; or a fault of ours kept it from us, and its own count tells the rest.
                    count = seams.carried(connection) if self._guard.failing else None
                    busy = not connection.is_idle()
                    self._adopt_connection(ledger, connection, proxied, busy=busy, carried=count)
            return ledger

    def _adopt_connection(
        self, ledger: Ledger, connection: Any, proxied: bool, *, busy: bool, carried: int | None = None
    ) -> None:
        known, origin = attached(connection), seams.origin(connection)
        if origin is None or (known is not None and known.ledger is ledger):
            return
        reach, probe = seams.shared(connection), Probe(connection, proxied)

        def noted(conn: Connection) -> None:
            conn.probe, conn.multiplexed = probe, seams.multiplexes(connection)
            if known is not None:
                conn.inherited = known.inherited or not known.ledger.process.alive
                conn.loop = known.loop
            self._learn(conn)
            self._note(conn, connection)

        ledger.adopted(origin, _now(), busy=busy, reach=reach, carried=carried, noted=noted)

    def _note(self, conn: Connection, connection: Any) -> None:
        self.watch_connection(type(connection))
        attach(connection, conn)

    def _learn(self, conn: Connection) -> None:
        # Of a connection that is open what we know of others from having seen them dialled.
        stream = conn.probe.network_stream()
        if stream is not None:
            if attached(stream) is not conn:
                self.watch(stream, conn)
            if conn.peer is None:
                conn.peer = seams.address(stream, "server_addr")
                if conn.peer is not None and conn.peer.port is None:
                    conn.transport = "unix"
                # It may have been described without.
                conn.described = None
        conn.known = True

    def met(self, exchange: Exchange, connection: Any) -> Connection | None:
        """The pool handed *exchange* to a connection that we do not know: a hook of ours has failed it, or was paused.

        None if it is none of the pool's, but one within such a one.
        """
        ledger = exchange.ledger
        watch = ledger.process.ledgers.get(ledger)
        pool = watch() if watch is not None else None
        if pool is None or not any(listed is connection for listed in seams.connections(pool)):
            return None
        with self._lock:
            if seams.network_stream(connection) is None:
                self._create(ledger, pool, seams.origin(connection), connection, _now())
            else:
                count = seams.carried(connection)
                self._adopt_connection(ledger, connection, seams.proxied(pool), busy=False, carried=count)
        conn: Connection | None = attached(connection)
        return conn if conn is not None and conn.ledger is ledger else None

    #: Set by the instrumentor: called as the first exchange begins.
    first_exchange: Callable[[], object] | None = None
    #: Set by the hooks: patch a connection's, a network stream's, a response stream's type.
    watch_connection: Callable[[type], None]
    watch_stream: Callable[[type], None]
    watch_body: Callable[[type], None]
    #: Likewise: a response's own type, where its stream is not closed by it.
    watch_response: Callable[[type], None]
    #: Set by the hooks: put hooks there anew that went with somebody else's.
    mend: Callable[[], None]
    #: Set by the hooks: listen to the trace events of an exchange, and stop.
    listen: Callable[[Exchange, Connection, bool], None]
    unlisten: Callable[[Exchange], None]

    def created(self, pool: Any, origin: Any, connection: Any) -> None:
        """The pool decided to open *connection*, and holds its lock."""
        ledger: Ledger | None = attached(pool)
        if ledger is None or not ledger.process.alive:
            return
        now = _now()
        # Who is missing from the list was dropped a moment ago: see core/ledger.py.
        gone = ledger.missing({attached(listed) for listed in seams.connections(pool)})
        if gone:
            ledger.missed([Missed(conn, conn.probe.readable(), conn.probe.clean()) for conn in gone], now)
        for conn in list(ledger.live):
            if conn.multiplexed and conn.state is State.OPEN and conn.probe.goaway():
                ledger.lost(conn, Reason.GOAWAY, now)
        self._create(ledger, pool, seams.plain_origin(origin), connection, now)

    def _create(self, ledger: Ledger, pool: Any, origin: Origin | None, connection: Any, at: int) -> None:
        if origin is None:
            return
        reach, probe = seams.shared(connection), Probe(connection, seams.proxied(pool))
        own = CURRENT.get()
        loop = loops.running() if hasattr(pool, "handle_async_request") else None

        def noted(conn: Connection) -> None:
            conn.probe, conn.loop = probe, loop
            # Until it is refused, nobody enters the pool's decision twice, and before that nobody waits.
            if own is not None and own.ledger is ledger and not own.waits_again:
                conn.entered_at = own.started
            self._note(conn, connection)

        ledger.created(origin, at, reach, noted)

    def pool_closing(self, pool: Any) -> None:
        """The pool is being closed."""
        ledger: Ledger | None = attached(pool)
        if ledger is None or not ledger.process.alive:
            return
        if self._call_sites is not None and any(conn.users for conn in list(ledger.live)):
            evidence.client_closed(ledger, self._call_sites.find(sys._getframe(1)))
        ledger.pool_closed(_now())

    def assigned(self, exchange: Exchange, conn: Connection, asynchronous: bool) -> bool:
        """The pool handed *exchange* to *conn*; whether that one may yet refuse it."""
        ledger = exchange.ledger
        now = _now()
        ledger.waiting.pop(exchange, None)
        contended = bool(conn.users)
        ledger.acquired(conn, exchange, now)
        if not conn.known and conn.state is _OPEN:
            self._learn(conn)
        if conn.state is not _OPEN or conn.multiplexed:
            if conn.state is _DIALLING or conn.multiplexed:
                evidence.assigned(exchange, conn, now)
                self.listen(exchange, conn, asynchronous)
                return True
            # Closed since the pool chose it.
            contended = True
        exchange.acquired_at = exchange.send_at = now
        if now - exchange.started >= _MILLISECOND and exchange.idle is not None:
            # It was the pool's to give since it is idle. What came after that is the time of
            # an event loop or of other threads: asynchronous pools let others run in between.
            exchange.acquired_at = max(exchange.started, now - exchange.idle)
        return contended

    def refused(self, exchange: Exchange, conn: Connection) -> None:
        """*conn* could not take the exchange after all."""
        if exchange.conn is not conn:
            return
        now = _now()
        evidence.refused(exchange, now)
        exchange.ledger.refused(exchange, now)
        if conn.multiplexed and conn.probe.goaway():
            conn.ledger.lost(conn, Reason.GOAWAY, now)

    def opened(self, exchange: Exchange, conn: Connection, at: int) -> None:
        """*exchange* has dialled *conn*, and requests can be written on it."""
        if conn.ledger.opened(conn, at):
            conn.opened_by = exchange.context
            conn.ledger.process.sink.opened(exchange, conn)
            self._learn(conn)

    def looked_up(self, exchange: Exchange, lookup: Lookup) -> None:
        """A lookup is over."""
        exchange.ledger.process.sink.looked_up(exchange, lookup)

    def suppressed(self) -> bool:
        """Whether instrumentation is suppressed here and now."""
        return self.process.sink.suppressed()

    def answered(self, exchange: Exchange, response: Any) -> None:
        """The pool returned a response."""
        exchange.headers_at = now = _now()
        if exchange.extensions is not None:
            self.unlisten(exchange)
        request, exchange.request = exchange.request, None
        exchange.method = request.method
        exchange.request_headers = request.headers
        exchange.status = response.status
        exchange.response_headers = response.headers
        exchange.http_version = response.extensions.get("http_version", b"HTTP/1.1")
        conn = exchange.conn
        if conn is not None:
            if not conn.carried:
                self._first_answer(exchange, conn, now)
            if not exchange.carried:
                conn.ledger.carries(conn, exchange)
            if conn.reach is not conn.origin:
                exchange.target = seams.target(request)
        if now - exchange.send_at >= SLOW:
            evidence.answered_slowly(exchange, now)
        if exchange.status == 101 or (exchange.method == b"CONNECT" and 200 <= exchange.status < 300):
            self._upgraded(exchange, now)
            return
        stream = response.stream
        try:
            watch = Watch(stream, self.later.append)
        except TypeError:
            # Nor could we tell when it is gone.
            watch = None
        if watch is None or not attach(stream, exchange):
            exchange.over_at = now
            self.finish(exchange, None)
            return
        watch.of = exchange
        exchange.ledger.process.exchanges[exchange] = watch
        if id(type(stream)) not in self._bodies:
            self._know_body(type(stream))
        if not self._guard.failing or self._guard.trusts("end"):
            # Else no span may be kept open.
            exchange.ledger.process.sink.awaits_body(exchange)

    def _know_body(self, cls: type) -> None:
        self.watch_body(cls)
        bodies, key = self._bodies, id(cls)
        bodies[key] = weakref.ref(cls, lambda _: bodies.pop(key, None))

    def _first_answer(self, exchange: Exchange, conn: Connection, at: int) -> None:
        if conn.state is State.DIALLING:
            self.opened(exchange, conn, at)
        if conn.version is None:
            conn.version = exchange.http_version.decode("ascii", "replace").removeprefix("HTTP/")

    def _upgraded(self, exchange: Exchange, at: int) -> None:
        exchange.upgraded, exchange.over_at = True, at
        if exchange.conn is not None:
            exchange.ledger.lost(exchange.conn, Reason.UPGRADED, at)
        self.finish(exchange, None)

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        """The pool raised *error* instead of returning a response."""
        now = _now()
        if exchange.extensions is not None:
            self.unlisten(exchange)
        ledger = exchange.ledger
        if type(error).__name__ == "PoolTimeout" and exchange.conn is not None:
            # The connection had refused it, out of our sight.
            ledger.refused(exchange, now)
        cancelled = errors.cancelled(error)
        exchange.request_failed(now, errors.name_of(error), cancelled=cancelled)
        request, conn = exchange.request, exchange.conn
        evidence.raised(exchange, error, now, seams.answer(lambda: request.extensions))
        if conn is None or conn.reach is not conn.origin:
            exchange.target = seams.target(request)
        if not cancelled:
            ledger.process.sink.failed(exchange)
        if conn is not None:
            if conn.multiplexed:
                self._check(conn, exchange, now, Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED)
            elif exchange.send_at:
                ledger.carries(conn, exchange)
            ledger.released(exchange, now)
            if conn.dialler is exchange:
                ledger.dial_failed(conn)
        self.finish(exchange, error)

    def _check(self, conn: Connection, exchange: Exchange, at: int, reason: Reason) -> None:
        # An HTTP/2 connection that broke with a stream lives on until its last one.
        if conn.state is State.OPEN and not conn.probe.available():
            conn.ledger.lost(conn, Reason.GOAWAY if conn.probe.goaway() else reason, at, exchange)

    # The network stream.

    def watch(self, stream: Any, conn: Connection) -> None:
        """*stream* is now the network stream of *conn*."""
        if stream is not None and attach(stream, conn):
            if conn.probe is not None:
                conn.probe.watches(stream)
            self.watch_stream(type(stream))

    def stream_closing(self, stream: Any) -> bool:
        """A network stream is being closed. True: that is all there is to it."""
        conn = attached(stream)
        # A stream closed while dialling is one attempt's, not the connection.
        if conn is None or not conn.ready or conn.state is State.CLOSED or not conn.ledger.process.alive:
            return True
        now = _now()
        own = by = CURRENT.get()
        if own is not None and loops.foreign(conn.loop):
            evidence.of(own).foreign_loop = True
        if by is not None and (by.conn is not conn or by.headers_at):
            by = None
        user = by or conn.last_user
        cancelled = None
        if user is not None and (by is not None or user.reading_since):
            # Only here is what is being handled known to be the exchange's own.
            error = sys.exc_info()[1]
            if error is not None:
                cancelled = errors.cancelled(error)
                evidence.closing(user, stream, now, cancelled=cancelled)
        elif user is not None and user.headers_at and user.holds and not user.over_at and conn.doomed is None:
            # Left without a word to the pool: an iterator finalised after a break.
            self._left(user, now)
        probe = conn.probe
        reason = conn.ledger.closed(
            conn,
            now,
            by=by,
            cancelled=cancelled,
            readable=probe.readable() if not conn.users else None,
            goaway=conn.multiplexed and probe.goaway(),
            clean=probe.clean(),
        )
        if reason is not None:
            silent = user is not None and user.silent
            if _collecting():
                self.later.append((self._closed, conn, now, silent))
            else:
                self._closed(conn, now, silent)
        return True

    def _closed_unseen(self, stream: Any) -> None:
        # `stream_closing` was interrupted, has failed or is paused: it is closed, we do not know since when nor why.
        conn = attached(stream)
        if conn is None or not conn.ready or not conn.ledger.process.alive:
            return
        now = _now()
        conn.doomed = conn.doomed or Reason.UNKNOWN
        conn.ledger.closed(conn, now)
        # It may have been closed, and that not have been told: it counts once.
        self._closed(conn, now, silent=False)

    def _closed(self, conn: Connection, at: int, silent: bool) -> None:
        conn.ledger.process.sink.closed(conn, at, silent=silent)

    # The body.

    def body_raised(self, exchange: Exchange, error: BaseException, stream: Any) -> None:
        """The body's own read raised *error*; *stream* is the response's."""
        now = _now()
        cancelled = errors.cancelled(error)
        exchange.body_raised(now, errors.name_of(error), cancelled=cancelled)
        if exchange.outcome in (FAILED, CANCELLED):
            evidence.raised(exchange, error, now, seams.extensions(stream))
            if not cancelled:
                exchange.ledger.process.sink.failed(exchange)
        conn = exchange.conn
        if conn is not None and conn.multiplexed:
            self._check(conn, exchange, now, Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED)
        self.finish(exchange, error)

    def body_closing(self, exchange: Exchange) -> bool:
        """The response is about to be closed; whether it will be once more, by whoever has it."""
        if exchange.ended:
            # With threads the connection may serve another request before the
            # close returns: it is free from here on.
            if exchange.over_at - exchange.headers_at >= SLOW:
                evidence.received_slowly(exchange)
            exchange.ledger.released(exchange, _now())
            return False
        if not exchange.over_at and (not exchange.reading_since or sys.exc_info()[1] is None):
            # A read that fails closes the response on its way out, too. With no exception
            # about, it is another task or thread that closes it under a read.
            self._left(exchange, _now())
        return evidence.awaits_close(exchange) and self._closed_once_more(exchange)

    def _closed_once_more(self, exchange: Exchange) -> bool:
        again, response = evidence.owner(sys._getframe(3))
        if response is not None:
            if not attach(response, exchange):
                return False
            self.watch_response(type(response))
        return again

    def response_closing(self, response: Any) -> None:
        """A response is being closed whose body the end of an iterator has closed before, or any other."""
        exchange: Exchange | None = attached(response)
        if exchange is not None and not exchange.finished and exchange.over_at:
            evidence.left(exchange)
            self.finish(exchange, None)

    def _left(self, exchange: Exchange, at: int) -> None:
        exchange.body_left(at)
        # Within the collector the stack is that of whoever happened to allocate.
        if _collecting():
            return
        evidence.left(exchange)
        if at - exchange.headers_at >= SLOW:
            evidence.received_slowly(exchange)
        if self._call_sites is not None:
            place = self._call_sites.find(sys._getframe(3))
            if place is not None:
                exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)

    # Ends.

    def finish(self, exchange: Exchange, error: BaseException | None) -> None:
        """Report *exchange*, once, and forget it."""
        process = exchange.ledger.process
        # As in `_collecting`, without a call.
        for phase in _phases:
            if phase is _STOP and _in_this_thread():
                exchange.finished = True
                self.later.append((self._finish_late, exchange, error))
                return
            break
        if process.exchanges.pop(exchange, exchange) is exchange:
            return
        exchange.finished = True
        exchange.ledger.finished(exchange, exchange.over_at)
        try:
            if self._describing is None:
                process.sink.describe(exchange, error)
            else:
                self._describing(process.sink, exchange, error)
        except BaseException:
            self._describing = self._guard.contain("describe", _describe)
        finally:
            # Whatever could or could not be said of it, and whatever interrupted that.
            if exchange.span is not None:
                if not process.sink.end(exchange):
                    self._await_end(exchange)
                exchange.span = None
        exchange.request_headers = exchange.response_headers = ()
        if not self.active:
            self._rest()

    def _await_end(self, exchange: Exchange) -> None:
        # If upstream is interrupted in the call that ends the span, it does not call again.
        attach(exchange.span, _Unended(exchange.span, self.later, (self._end_unended, exchange)))

    def _end_unended(self, exchange: Exchange, span: Any) -> None:
        if exchange.ledger.process.alive:
            exchange.span = span
            if exchange.upstream_ended is None:
                exchange.upstream_ended = exchange.wall + (exchange.headers_at or exchange.over_at)
            exchange.ledger.process.sink.end(exchange)
            exchange.span = None

    def _finish_late(self, exchange: Exchange, error: BaseException | None) -> None:
        try:
            self.finish(exchange, error)
        except BaseException:
            self.later.append((self.let_go, exchange))
            self.let_go(exchange)
            self._guard.contain("collect")

    def let_go(self, exchange: Exchange) -> None:
        """A hook of ours failed it: report nothing more of *exchange*, but end what we hold open. Idempotent.

        Whoever calls this because something was interrupted puts it on `later` first, as this may be, too.
        """
        process = exchange.ledger.process
        process.exchanges.pop(exchange, None)
        exchange.finished = True
        try:
            if exchange.span is not None and not process.sink.end(exchange):
                self._await_end(exchange)
            exchange.span = None
        except BaseException:
            self._guard.contain("end", critical=True)
        finally:
            try:
                self._guard(self.unlisten, exchange)
            finally:
                self._guard(self._forget, exchange)
        if not self.active:
            self._guard(self._rest)

    def _forget(self, exchange: Exchange) -> None:
        exchange.ledger.finished(exchange, _now())

    def give_up(self, outer: Exchange | None, exchange: Exchange | None, current: Exchange | None) -> None:
        """As `abandon`, later: *current* was inside the pool."""
        exchange = exchange if exchange is not None else current
        if exchange is not None and exchange is not outer and (not exchange.finished or exchange.span is not None):
            self.let_go(exchange)

    def collect(self) -> None:
        """Deal with what there was no time for, and with what the garbage collector has finalised."""
        if not _collecting():
            # Not in the context of whoever comes by: that may be suppressed, or another request's.
            contextvars.Context().run(self._collect)

    def _collect(self) -> None:
        taken: list[Any] = []
        # Those that are there now: one that fails may put itself there again.
        for _ in range(len(self.later)):
            try:
                # In one step: what is interrupted between taking something and having it would lose that.
                taken.extend(islice(iter(self.later.popleft, None), 1))
            except IndexError:
                # Another thread has it.
                return
            except BaseException:
                self.later.extend(taken)
                raise
            try:
                self._deal_with(taken[0])
            except BaseException:
                self.later.extend(taken)
                raise
            taken.clear()

    def _deal_with(self, what: Any) -> None:
        if isinstance(what, tuple):
            function, *args = what
            self._guard(function, *args)
        elif type(what) is weakref.ref:
            # Of a hook: see `Patches`.
            self._guard(self.mend)
        elif not isinstance(what, Watch):
            self._guard(self._closed_unseen, what)
        elif isinstance(what.of, Ledger):
            self._guard(self._pool_dropped, what.of)
        elif not what.of.finished and what.of.ledger.process.alive:
            self._forgotten(what.of, leaked=not what.of.over_at)

    def _pool_dropped(self, ledger: Ledger) -> None:
        if ledger.process.ledgers.pop(ledger, None) is not None:
            now = _now()
            for conn in ledger.abandoned():
                ledger.process.sink.closed(conn, now, silent=False)

    def _forgotten(self, exchange: Exchange, *, leaked: bool) -> None:
        try:
            now = _now()
            exchange.body_forgotten()
            place = exchange.made_at
            if exchange.outcome == NEVER_CLOSED and place is not None:
                exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)
            if leaked:
                exchange.ledger.leaked(exchange, now)
            self.finish(exchange, None)
        except BaseException:
            self.later.append((self.let_go, exchange))
            self.let_go(exchange)
            self._guard.contain("collect")

    def exiting(self) -> None:
        """The process exits: responses still open end now, while there is an exporter."""
        self.collect()
        for process in (*self._earlier, self.process):
            for exchange in list(process.exchanges):
                if exchange.headers_at:
                    self._forgotten(exchange, leaked=False)


def _describe(sink: Sink, exchange: Exchange, error: BaseException | None) -> None:
    sink.describe(exchange, error)
