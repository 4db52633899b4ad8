# What only httpcore can know: its lists of connections, the connections that
# it creates, hands out and takes back, and what its responses are made of.

"""From what the hooks see of httpcore to facts about exchanges and connections."""

from __future__ import annotations

import time
from types import FrameType, ModuleType
from typing import Any, Final

from ...core.evidence import SLOW
from ...core.ledger import Connection, Ledger, Missed, Reason, State
from ...core.timeline import Exchange, Origin
from ...observe import evidence, loops
from ...observe import observer as shared
from ...observe.current import CURRENT
from ...observe.lifetime import Lifetime
from ...observe.marks import answer, attach, attached
from . import seams
from .hooks import Hooks
from .seams import Probe
from .trace_events import TraceEvents

_now = time.monotonic_ns

# Looked up once, as every request asks for them: see core/ledger.py.
_OPEN: Final = State.OPEN
_DIALLING: Final = State.DIALLING

#: A wait for the pool that is shorter is not told.
_MILLISECOND: Final = 1_000_000


class Observer(shared.Observer):
    """Everything known about the exchanges under way of httpcore's pools.

    Args:
        lifetime: everything that is under way, of all clients.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        super().__init__(lifetime)
        self._events = TraceEvents(self)
        self.hooks = Hooks(self)

    def install(self, module: ModuleType) -> None:
        """Put the hooks on *module*, httpcore or httpcore2."""
        self.hooks.install(module)

    def watch_body(self, cls: type) -> None:
        """Patch *cls*, a type of response stream."""
        self.hooks.watch_body(cls)

    def adopt_connections(self, ledger: Ledger, pool: Any) -> None:
        """Note the connections that *pool* had before we came."""
        proxied = seams.proxied(pool)
        for connection in seams.connections(pool):
            if not connection.is_closed():
                # It was there before us; or a fault of ours kept it from us, and its own count tells the rest.
                count = seams.carried(connection) if self.guard.failing else None
                busy = not connection.is_idle()
                self._adopt_connection(ledger, connection, proxied, busy=busy, carried=count)

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
            self.learn(conn)
            self._note(conn, connection)

        ledger.adopted(origin, _now(), busy=busy, reach=reach, carried=carried, noted=noted)

    def _note(self, conn: Connection, connection: Any) -> None:
        self.hooks.watch_connection(type(connection))
        attach(connection, conn)

    def learn(self, conn: Connection) -> None:
        """Note of *conn*, which is open, what we know of others from having seen them dialled."""
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
        # Where it could not be asked, which is rare, the next request on it asks again.
        conn.known = conn.peer is not None

    def met(self, exchange: Exchange, connection: Any) -> Connection | None:
        """The pool handed *exchange* to a connection that we do not know: a hook of ours has failed it, or was paused.

        None if it is none of the pool's, but one within such a one.
        """
        ledger = exchange.ledger
        watch = ledger.process.ledgers.get(ledger)
        pool = watch() if watch is not None else None
        if pool is None or not any(listed is connection for listed in seams.connections(pool)):
            return None
        with self.lifetime.lock:
            if seams.network_stream(connection) is None:
                self._create(ledger, pool, seams.origin(connection), connection, _now())
            else:
                count = seams.carried(connection)
                self._adopt_connection(ledger, connection, seams.proxied(pool), busy=False, carried=count)
        conn: Connection | None = attached(connection)
        return conn if conn is not None and conn.ledger is ledger else None

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

    def assigned(self, exchange: Exchange, conn: Connection, asynchronous: bool) -> bool:
        """The pool handed *exchange* to *conn*; whether that one may yet refuse it."""
        ledger = exchange.ledger
        now = _now()
        ledger.waiting.pop(exchange, None)
        contended = bool(conn.users)
        ledger.acquired(conn, exchange, now)
        if not conn.known and conn.state is _OPEN:
            self.learn(conn)
        if conn.state is not _OPEN or conn.multiplexed:
            if conn.state is _DIALLING or conn.multiplexed:
                evidence.assigned(exchange, conn, now)
                self._events.listen(exchange, conn, asynchronous)
                return True
            # Closed since the pool chose it.
            contended = True
        exchange.acquired_at = exchange.send_at = now
        if now - exchange.started >= _MILLISECOND and exchange.idle is not None:
            # It was the pool's to give since it is idle. What came after that is the time of
            # an event loop or of other threads: asynchronous pools let others run in between.
            exchange.acquired_at = max(exchange.started, now - exchange.idle)
        return contended

    def answered(self, exchange: Exchange, response: Any) -> None:
        """The pool returned a response."""
        exchange.headers_at = now = _now()
        if exchange.lent is not None:
            exchange.lent.take_back(exchange)
        request, exchange.request = exchange.request, None
        exchange.method = request.method
        exchange.request_headers = request.headers
        exchange.status = response.status
        exchange.response_headers = response.headers
        exchange.http_version = response.extensions.get("http_version", b"HTTP/1.1")
        conn = exchange.conn
        if conn is not None:
            if not conn.carried:
                self.took_first(exchange, conn, now)
            if not exchange.carried:
                conn.ledger.carries(conn, exchange)
            if conn.reach is not conn.origin:
                exchange.target = seams.target(request)
        if now - exchange.send_at >= SLOW:
            evidence.answered_slowly(exchange, now)
        self.awaits_body(exchange, response.stream, now)

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        """The pool raised *error* instead of returning a response."""
        now = _now()
        request, conn = exchange.request, exchange.conn
        if conn is not None and exchange.send_at and not exchange.wait_at and conn.probe.stream() is not None:
            # Nothing was read since it was written, and yet an answer could not be parsed: that had been read together
            # with the one before, which was longer than it said. h11 cannot fail to parse less than one byte.
            left = conn.probe.unreadable()
            if left is not None:
                exchange.wait_at, exchange.received = now, max(1, left)
        timeout = seams.timeout(error, answer(lambda: request.extensions))
        self.request_failed(exchange, error, now, lambda: seams.target(request), timeout)

    def body_raised(self, exchange: Exchange, error: BaseException, stream: Any) -> None:
        """The body's own read raised *error*; *stream* is the response's."""
        self.read_failed(exchange, error, seams.timeout(error, seams.extensions(stream)))

    def closed_once_more(self, exchange: Exchange, frame: FrameType | None) -> bool:
        """Whether the response of *exchange*, closed in *frame*, will be closed again by the code that has it."""
        again, response = seams.owner(frame)
        if response is not None:
            if not attach(response, exchange):
                return False
            self.hooks.watch_response(type(response))
        return again

    def watch(self, stream: Any, conn: Connection) -> None:
        """*stream* is now the network stream of *conn*."""
        if stream is not None and attach(stream, conn):
            if conn.probe is not None:
                conn.probe.watches(stream)
            self.hooks.watch_stream(type(stream))
