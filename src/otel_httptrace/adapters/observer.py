# Hooks say what happens where; this says what it means. Everything that we
# learn goes through here, so that whatever may come in any order, twice, late
# or never is dealt with in one place.
#
# What is done per request is what costs: it is kept to stores and comparisons.
# Per connection, or when something rare happened, there is time for more.

"""From what the hooks see to facts about exchanges and connections."""

from __future__ import annotations

import _thread
import contextvars
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from ..callsite import CallSite, text
from ..core.ledger import Connection, Ledger, Missed, Process, Reason, State
from ..core.sink import Sink
from ..core.timeline import NEVER_CLOSED, Exchange, Lookup, NotCopied
from ..guard import Guard
from . import errors, seams
from .current import CURRENT
from .seams import Probe, attach, attached

_now = time.monotonic_ns
_epoch = time.time_ns
# As it is before anybody patches `threading`: the garbage collector belongs to a real thread.
_ident = _thread.get_ident

#: The thread in which the garbage collector is at work; 0 while it is not. What it finalises may close
#: responses and connections, inside any lock there is: the SDK's, or one of ours.
_collecting = 0


def _collection(phase: str, info: object) -> None:
    global _collecting  # noqa: PLW0603 - as there is one collector
    _collecting = _ident() if phase == "start" else 0


# Looked up once, as every request asks for them: see core/ledger.py.
_OPEN: Final = State.OPEN
_DIALLING: Final = State.DIALLING

#: Held while hooks are put in or taken out: whoever starts anew must not find the last ones half gone.
transition = threading.RLock()

#: A wait for the pool that is shorter is not told.
_MILLISECOND: Final = 1_000_000


class Handle(NotCopied):
    """On a response's stream: its exchange, and the word when it is collected unclosed."""

    __slots__ = ("_dropped", "exchange", "iterated")

    def __init__(self, exchange: Exchange, dropped: SimpleQueue[Any]) -> None:
        self.exchange = exchange
        self.iterated = False
        self._dropped = dropped

    def __del__(self) -> None:
        # Within the garbage collector, and so within any lock there is: hand
        # it over and nothing else. SimpleQueue.put is re-entrant by contract.
        if not self.exchange.finished:
            self._dropped.put(self.exchange)


class PoolHandle(NotCopied):
    """On a pool: its ledger, and the word when it is collected, closed or not."""

    __slots__ = ("_dropped", "ledger")

    def __init__(self, ledger: Ledger, dropped: SimpleQueue[Any]) -> None:
        self.ledger = ledger
        self._dropped = dropped

    def __del__(self) -> None:
        self._dropped.put(self.ledger)


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
        # What the garbage collector finalised: exchanges and ledgers; and what it could not be told of in there.
        self._dropped: SimpleQueue[Any] = SimpleQueue()
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
        if _collection not in gc.callbacks:
            gc.callbacks.append(_collection)
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
        self._dropped = SimpleQueue()
        # A collection of a thread that is not here any more does not end here either.
        _collection("stop", None)
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
                if _collection in gc.callbacks:
                    gc.callbacks.remove(_collection)
                    _collection("stop", None)
                self._idle()

    # The pool.

    def begin(self, pool: Any, request: Any, counts_only_idle: bool) -> Exchange | None:
        """A request is handed to *pool*. None: it is not to be observed."""
        if not self._dropped.empty():
            self.collect()
        process, active = self.process, self.active
        if not active:
            return None
        handle = attached(pool)
        if handle is not None and handle.ledger.process is process:
            ledger = handle.ledger
        else:
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
            handle = attached(pool)
            if handle is not None and handle.ledger.process is process:
                return handle.ledger  # type: ignore[no-any-return]
            ledger = Ledger(process, seams.limits(pool, counts_only_idle))
            if not attach(pool, PoolHandle(ledger, self._dropped)):
                return None
            process.ledgers[ledger] = None
            for connection in seams.connections(pool):
                self._adopt_connection(ledger, connection, seams.proxied(pool))
            return ledger

    def _adopt_connection(self, ledger: Ledger, connection: Any, proxied: bool) -> None:
        origin = seams.origin(connection)
        if origin is None or connection.is_closed():
            return
        conn = ledger.adopted(origin, _now(), busy=not connection.is_idle(), reach=seams.shared(connection))
        conn.multiplexed = seams.multiplexes(connection)
        self._note(conn, connection, proxied)
        stream = seams.network_stream(connection)
        if stream is not None:
            conn.peer = seams.address(stream, "server_addr")
            if conn.peer is not None and conn.peer.port is None:
                conn.transport = "unix"
            self.watch(stream, conn)

    def _note(self, conn: Connection, connection: Any, proxied: bool) -> None:
        conn.probe = Probe(connection, proxied)
        attach(connection, conn)
        self.watch_connection(type(connection))

    #: Set by the instrumentor: called as the first exchange begins.
    first_exchange: Callable[[], object] | None = None
    #: Set by the hooks: patch a connection's, a network stream's, a response stream's type.
    watch_connection: Callable[[type], None]
    watch_stream: Callable[[type], None]
    watch_body: Callable[[type], None]
    #: Set by the hooks: listen to the trace events of an exchange, and stop.
    listen: Callable[[Exchange, Connection, bool], None]
    unlisten: Callable[[Exchange], None]

    def created(self, pool: Any, origin: Any, connection: Any) -> None:
        """The pool decided to open *connection*, and holds its lock."""
        handle = attached(pool)
        if handle is None or not handle.ledger.process.alive:
            return
        ledger: Ledger = handle.ledger
        now = _now()
        # Who is missing from the list was dropped a moment ago: see core/ledger.py.
        gone = ledger.missing({attached(listed) for listed in seams.connections(pool)})
        if gone:
            ledger.missed([Missed(conn, conn.probe.readable(), conn.probe.clean()) for conn in gone], now)
        for conn in list(ledger.live):
            if conn.multiplexed and conn.state is State.OPEN and conn.probe.goaway():
                ledger.lost(conn, Reason.GOAWAY, now)
        conn = ledger.created(seams.plain_origin(origin), now, seams.shared(connection))
        # Until it is refused, nobody enters the pool's decision twice, and before that nobody waits.
        own = CURRENT.get()
        if own is not None and own.ledger is ledger and not own.waits_again:
            conn.entered_at = own.started
        self._note(conn, connection, seams.proxied(pool))

    def pool_closing(self, pool: Any) -> None:
        """The pool is being closed."""
        handle = attached(pool)
        if handle is not None and handle.ledger.process.alive:
            handle.ledger.pool_closed(_now())

    def assigned(self, exchange: Exchange, conn: Connection, asynchronous: bool) -> bool:
        """The pool handed *exchange* to *conn*; whether that one may yet refuse it."""
        ledger = exchange.ledger
        if conn.ledger is not ledger:
            return False
        now = _now()
        ledger.waiting.pop(exchange, None)
        contended = bool(conn.users)
        ledger.acquired(conn, exchange, now)
        if conn.state is not _OPEN or conn.multiplexed:
            if conn.state is _DIALLING or conn.multiplexed:
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
        exchange.ledger.refused(exchange, now)
        if conn.multiplexed and conn.probe.goaway():
            conn.ledger.lost(conn, Reason.GOAWAY, now)

    def opened(self, exchange: Exchange, conn: Connection, at: int) -> None:
        """*exchange* has dialled *conn*, and requests can be written on it."""
        if conn.ledger.opened(conn, at):
            conn.opened_by = exchange.context
            conn.ledger.process.sink.opened(exchange, conn)

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
        if exchange.status == 101 or (exchange.method == b"CONNECT" and 200 <= exchange.status < 300):
            self._upgraded(exchange, now)
            return
        stream = response.stream
        if not attach(stream, Handle(exchange, self._dropped)):
            exchange.over_at = now
            self.finish(exchange, None)
            return
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
        conn = exchange.conn
        if conn is None or conn.reach is not conn.origin:
            exchange.target = seams.target(exchange.request)
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

    def stream_closing(self, stream: Any) -> None:
        """A network stream is being closed."""
        conn = attached(stream)
        # A stream closed while dialling is one attempt's, not the connection.
        if conn is None or not conn.ready or conn.state is State.CLOSED or not conn.ledger.process.alive:
            return
        now = _now()
        by = CURRENT.get()
        if by is not None and (by.conn is not conn or by.headers_at):
            by = None
        user = by or conn.last_user
        cancelled = None
        if user is not None and (by is not None or user.reading_since):
            # Only here is what is being handled known to be the exchange's own.
            error = sys.exc_info()[1]
            cancelled = errors.cancelled(error) if error is not None else None
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
            if _collecting and _collecting == _ident():
                self._dropped.put((self._closed, conn, now, silent))
            else:
                self._closed(conn, now, silent)

    def _closed(self, conn: Connection, at: int, silent: bool) -> None:
        conn.ledger.process.sink.closed(conn, at, silent=silent)

    # The body.

    def body_raised(self, exchange: Exchange, error: BaseException) -> None:
        """The body's own read raised *error*."""
        now = _now()
        cancelled = errors.cancelled(error)
        exchange.body_raised(now, errors.name_of(error), cancelled=cancelled)
        conn = exchange.conn
        if conn is not None and conn.multiplexed:
            self._check(conn, exchange, now, Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED)
        self.finish(exchange, error)

    def body_closing(self, exchange: Exchange) -> None:
        """The response is about to be closed."""
        if exchange.ended:
            # With threads the connection may serve another request before the
            # close returns: it is free from here on.
            exchange.ledger.released(exchange, _now())
        elif not exchange.over_at and (not exchange.reading_since or sys.exc_info()[1] is None):
            # A read that fails closes the response on its way out, too. With no exception
            # about, it is another task or thread that closes it under a read.
            self._left(exchange, _now())

    def _left(self, exchange: Exchange, at: int) -> None:
        exchange.body_left(at)
        # Within the collector the stack is that of whoever happened to allocate.
        if self._call_sites is not None and not (_collecting and _collecting == _ident()):
            place = self._call_sites.find(sys._getframe(3))
            if place is not None:
                exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)

    # Ends.

    def finish(self, exchange: Exchange, error: BaseException | None) -> None:
        """Report *exchange*, once, and forget it."""
        process = exchange.ledger.process
        if _collecting and _collecting == _ident():
            exchange.finished = True
            self._dropped.put((self._finish_late, exchange, error))
            return
        if process.exchanges.pop(exchange, exchange) is not None:
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
                process.sink.end(exchange)
                exchange.span = None
        exchange.request_headers = exchange.response_headers = ()
        if not self.active:
            self._rest()

    def _finish_late(self, exchange: Exchange, error: BaseException | None) -> None:
        try:
            self.finish(exchange, error)
        except BaseException:
            self.let_go(exchange)
            self._guard.contain("collect")

    def let_go(self, exchange: Exchange) -> None:
        """A hook of ours failed it: report nothing more of *exchange*, but end what we hold open."""
        process = exchange.ledger.process
        process.exchanges.pop(exchange, None)
        exchange.finished = True
        try:
            process.sink.end(exchange)
        except BaseException:
            self._guard.contain("end", critical=True)
        finally:
            exchange.span = None
            try:
                self._guard(self.unlisten, exchange)
            finally:
                self._guard(exchange.ledger.finished, exchange, _now())
        if not self.active:
            self._guard(self._rest)

    def later(self, function: Callable[[], object]) -> None:
        """Have *function* called when nothing of now is under way: as the next request begins, at the latest."""
        self._dropped.put((function,))

    def collect(self) -> None:
        """Deal with what the garbage collector has finalised."""
        if _collecting and _collecting == _ident():
            return
        # Not in the context of whoever comes by: that may be suppressed, or another request's.
        contextvars.Context().run(self._collect)

    def _collect(self) -> None:
        while True:
            try:
                dropped = self._dropped.get_nowait()
            except Empty:
                return
            if isinstance(dropped, tuple):
                function, *args = dropped
                self._guard(function, *args)
            elif isinstance(dropped, Exchange):
                if not dropped.finished and dropped.ledger.process.alive:
                    self._forgotten(dropped, leaked=True)
            else:
                self._guard(self._pool_dropped, dropped)

    def _pool_dropped(self, ledger: Ledger) -> None:
        if ledger.process.ledgers.pop(ledger, ledger) is None:
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
