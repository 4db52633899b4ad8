# What only urllib3 can know. An exchange here is one request on the wire, from the
# pool's giving out a connection to the end of the body: `urlopen` calls itself for
# retries and redirects. Its `HTTPConnection` is no connection, but a maker of
# them: it closes its socket and connects again. So a `Connection` of ours is one
# socket; the attribute `KEY` of an `HTTPConnection` is its `Connection` of now, and
# the exchange under way on it is that connection's `user`. A context variable is needed only
# where urllib3 passes the connection on to nobody: while it connects, and while it
# makes a response that reads its body at once.
#
# A `PoolManager` keeps a pool for each origin: they have one ledger, or a pool that
# it has evicted would look like a client of its own.

"""From what the hooks see of urllib3 to facts about exchanges and connections."""

from __future__ import annotations

import sys
import time
import weakref
from types import ModuleType
from typing import Any, Final

from ...callsite import text
from ...core.evidence import SLOW
from ...core.ledger import Connection, Ledger, Process, Reason, State, holder
from ...core.timeline import Attempt, Dial, Exchange, NotCopied, Origin, Shared, Step
from ...observe import errors, evidence
from ...observe import observer as shared
from ...observe.collector import collecting
from ...observe.current import CURRENT
from ...observe.errors import handled
from ...observe.evidence import Timeout
from ...observe.lifetime import Lifetime, Watch
from ...observe.made import Made, made_at
from ...observe.marks import KEY, answer, attach, attach_unless, attached, stored
from . import seams
from .hooks import Hooks
from .seams import Probe

_now = time.monotonic_ns
_epoch = time.time_ns

# Looked up once, as every request asks for them: see core/ledger.py.
_OPEN: Final = State.OPEN


class Manager(NotCopied):
    """What we keep with a pool manager, for all its pools. A pool without a manager has one of its own."""

    __slots__ = ("__weakref__", "ledger", "made", "manager")

    def __init__(self, manager: Any = None, made: Made | None = None) -> None:
        #: Where the application made it; None if that was not seen.
        self.made = made
        #: A reference to it; None where there is none.
        self.manager = weakref.ref(manager) if manager is not None else None
        self.ledger: Ledger | None = None


class Pool(NotCopied):
    """What we keep with a pool. Its connections have weak references to it: it dies with the pool."""

    __slots__ = ("__weakref__", "closed", "manager", "origin", "pool", "reach")

    def __init__(self, pool: Any, manager: Manager, origin: Origin) -> None:
        self.pool = weakref.ref(pool)
        self.manager = manager
        self.origin = origin
        self.reach: Shared | None = seams.shared(pool)
        self.closed = False


def _is_pool(mark: object) -> bool:
    return isinstance(mark, Pool)


class Observer(shared.Observer):
    """Everything known about the exchanges under way of urllib3's pools.

    Args:
        lifetime: everything that is under way, of all clients.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        super().__init__(lifetime)
        self.hooks = Hooks(self)

    def install(self, module: ModuleType) -> None:
        """Put the hooks on *module*, urllib3."""
        self.hooks.install(module)

    def watch_body(self, cls: type) -> None:
        """Patch *cls*, a type of response."""
        self.hooks.watch_body(cls)

    # Pools.

    def manager_made(self, manager: Any) -> None:
        """A pool manager is being made."""
        made = self.making(sys._getframe(1))
        if made is not None:
            # A class with slots may have no room for references to it.
            ours = answer(lambda: Manager(manager, made))
            if ours is not None:
                attach(manager, ours)

    def new_pool(self, manager: Any, pool: Any) -> None:
        """*manager* has made *pool*, for an origin without a pool."""
        made = answer(lambda: Manager(manager))
        ours = attach_unless(manager, made, bool) if made is not None else None
        origin = seams.origin(pool)
        if ours is None or origin is None:
            return
        attach_unless(pool, Pool(pool, ours, origin), _is_pool)
        ledger = ours.ledger
        if ledger is None or not ledger.process.alive:
            return
        # What it has evicted meanwhile is out of reach, whoever may still have it.
        kept = {id(found) for found in seams.pools(manager)}
        for conn in list(ledger.live):
            other = conn.probe.pool()
            if conn.idle and (other is None or id(other.pool()) not in kept):
                ledger.lost(conn, Reason.POOL_FULL, _now())

    def closing_pool(self, pool: Any) -> None:
        """A pool is being closed."""
        ours = attached(pool)
        ledger = ours.manager.ledger if isinstance(ours, Pool) else None
        if ledger is None or not ledger.process.alive:
            return
        ours.closed = True
        for conn in list(ledger.live):
            if conn.idle and conn.probe.pool() is ours:
                ledger.lost(conn, Reason.CLIENT_CLOSED, _now())
        if all(conn.probe.pool() is ours for conn in list(ledger.live)):
            self._client_closed(ledger)

    def clearing(self, manager: Any) -> None:
        """A pool manager drops all its pools: so it is closed."""
        ours = attached(manager)
        ledger = ours.ledger if isinstance(ours, Manager) else None
        if ledger is not None and ledger.process.alive:
            self._client_closed(ledger)

    def _client_closed(self, ledger: Ledger) -> None:
        call_sites = self.lifetime.call_sites
        if call_sites is not None and any(conn.users for conn in list(ledger.live)):
            evidence.client_closed(ledger, call_sites.find(sys._getframe(2)))
        ledger.pool_closed(_now())

    def _adopt_pool(self, process: Process, pool: Any) -> Pool | None:
        lifetime = self.lifetime
        with lifetime.lock:
            lifetime.meets_pool()
            mark = attached(pool)
            ours: Pool | None = mark if isinstance(mark, Pool) else None
            if ours is None:
                origin = seams.origin(pool)
                made = mark if isinstance(mark, Made) else None
                new = answer(lambda: Pool(pool, Manager(made=made), origin)) if origin is not None else None
                ours = attach_unless(pool, new, _is_pool) if new is not None else None
                if ours is None:
                    # A stand-in of which we could not tell when it is gone.
                    return None
            manager = ours.manager
            if manager.ledger is None or manager.ledger.process is not process:
                ledger = Ledger(process, seams.limits(pool), made_at(manager.made))
                watch = Watch(manager, lifetime.gone)
                watch.of = ledger
                process.ledgers[ledger] = watch
                manager.ledger = ledger
            for connection in seams.idle(pool):
                if getattr(connection, "sock", None) is not None:
                    self._adopt_connection(manager.ledger, ours, connection)
            return ours

    def _adopt_connection(self, ledger: Ledger, pool: Pool, connection: Any) -> Connection | None:
        # It was there before us; or a fault of ours kept it from us.
        known = attached(connection)
        if known is not None and known.ledger is ledger:
            return None

        def noted(conn: Connection) -> None:
            conn.probe = Probe(connection, pool)
            if known is not None:
                conn.inherited = known.inherited or not known.ledger.process.alive
            self.learn(conn)
            self._note(conn, connection)

        return ledger.adopted(pool.origin, _now(), busy=False, reach=pool.reach, noted=noted)

    def _note(self, conn: Connection, connection: Any) -> None:
        self.hooks.watch_connection(type(connection))
        attach(connection, conn)

    def learn(self, conn: Connection) -> None:
        """Note of *conn*, which is open, its peer."""
        conn.known = True
        stream = conn.probe.stream()
        if stream is not None and conn.peer is None:
            conn.peer, _, conn.transport = seams.ends(stream.get_extra_info("socket"))
            # It may have been described without.
            conn.described = None

    # A connection for an exchange.

    def begin_at(self, pool: Any) -> Exchange | None:
        """A connection is asked of *pool*. None: it is not to be observed."""
        lifetime = self.lifetime
        if lifetime.later:
            lifetime.collect()
        process, active = lifetime.process, lifetime.active
        if not active:
            return None
        ours: Any = None
        ledger: Any = None
        try:
            ours = pool._otel_httptrace if type(pool) in self.plain else stored(pool, KEY)
            ledger = ours.manager.ledger
        except AttributeError:
            pass
        if ledger is None or ledger.process is not process:
            ours = self._adopt_pool(process, pool)
            if ours is None:
                return None
            ledger = ours.manager.ledger
        started = _now()
        exchange = Exchange(ledger, None, started, _epoch() - started)
        if handled() is not None:
            evidence.begun(exchange)
        # Before it is noted anywhere else: so whatever interrupts this, nobody waits for it.
        process.sink.claim(exchange)
        if ledger.blocks:
            exchange.pool = (len(ledger.live), len(ledger.idle), len(ledger.waiting))
            ledger.waiting[exchange] = None
        process.exchanges[exchange] = None
        if not lifetime.active or process is not lifetime.process:
            # Retired meanwhile, and perhaps the hooks that would have seen its end are gone.
            lifetime.unnoted(exchange)
            return None
        return exchange

    def got(self, exchange: Exchange, pool: Any, connection: Any) -> None:
        """*pool* gave *connection* out to *exchange*."""
        ledger = exchange.ledger
        now = _now()
        sock = connection.sock
        conn: Any = None
        try:
            conn = connection._otel_httptrace if type(connection) in self.plain else stored(connection, KEY)
        except AttributeError:
            pass
        if conn is None or conn.state is not _OPEN or sock is None or conn.ledger is not ledger:
            conn = self._first_met(exchange, pool, connection, now)
            if conn is None:
                self.lifetime.let_go(exchange)
                return
        if ledger.blocks:
            ledger.waiting.pop(exchange, None)
            exchange.acquired_at = now
        else:
            # A pool that does not block has no queue to wait in: what this took is the machine's time.
            exchange.acquired_at = exchange.started
        ledger.acquired(conn, exchange, now)
        if sock is not None:
            exchange.send_at = now

    def _first_met(self, exchange: Exchange, pool: Any, connection: Any, at: int) -> Connection | None:
        ledger, ours, known = exchange.ledger, attached(pool), attached(connection)
        if not isinstance(ours, Pool) or not self.hooks.knows(connection):
            return None
        if known is not None and known.ledger is ledger and known.state is not State.CLOSED:
            if known.state is State.DIALLING:
                ledger.dial_failed(known)
            elif connection.sock is None:
                # Closed by a way that we do not see.
                known.doom(Reason.UNKNOWN)
                self._close(known, None, at)
        if connection.sock is not None:
            return self._adopt_connection(ledger, ours, connection)

        def noted(conn: Connection) -> None:
            conn.probe = Probe(connection, ours)
            self._note(conn, connection)

        return ledger.created(ours.origin, at, ours.reach, noted)

    def refused_by(self, exchange: Exchange, pool: Any, error: BaseException, timeout: float | None) -> None:
        """*pool* raised *error* instead of giving out a connection; it was to wait for *timeout* seconds."""
        if exchange.pool is None:
            # One that does not block is asked only now: nobody waits there.
            ledger = exchange.ledger
            exchange.pool = (len(ledger.live), len(ledger.idle), len(ledger.waiting))
        ours = attached(pool)
        origin = ours.origin if isinstance(ours, Pool) else None
        empty = isinstance(error, Exception) and type(error).__name__ == seams.POOL_EMPTY
        struck = evidence.configured(evidence.POOL_TIMEOUT, timeout) if empty else Timeout()
        self.request_failed(exchange, error, _now(), lambda: origin, struck)

    # Connecting.

    def dialling(self, connection: Any) -> Exchange | None:
        """*connection* is being connected: the exchange that does so; None if it is none's, or already under way."""
        conn = attached(connection)
        exchange: Exchange | None = conn.user if conn is not None else None
        if exchange is None or exchange.finished or exchange.dial is not None or conn.state is not State.DIALLING:
            return None
        exchange.dial, conn.dialler = Dial(), exchange
        self._aims(exchange, conn, connection)
        return exchange

    def _aims(self, exchange: Exchange, conn: Connection, connection: Any) -> None:
        # Through a forward proxy one connection serves every origin.
        if conn.reach is not conn.origin:
            exchange.target = seams.target(connection) or exchange.target
            if exchange.target is not None and not conn.ready:
                conn.origin = exchange.target

    def dialled(self, exchange: Exchange, connection: Any) -> None:
        """*connection* is connected, TLS and proxy included."""
        conn, dial, now = exchange.conn, exchange.dial, _now()
        if conn is None or dial is None:
            return
        if not dial.attempts:
            # It connects in a way of its own, as over a Unix socket.
            self._attempt(exchange, connection, exchange.acquired_at)
            self._connected(dial.attempts[0], connection.sock, now)
        dial.over(now)
        conn.transport = dial.attempts[-1].transport if dial.attempts[-1].transport != "tcp" else None
        conn.peer = dial.attempts[-1].peer
        exchange.send_at = now
        self.opened(exchange, conn, now)

    def dial_failed(self, exchange: Exchange, connection: Any, error: BaseException) -> None:
        """Connecting *connection* raised *error*."""
        dial = exchange.dial
        if dial is not None and not dial.attempts:
            self._attempt(exchange, connection, exchange.acquired_at)
            self.attempt_failed(exchange, error)

    def connecting(self, connection: Any) -> Exchange | None:
        """The socket of *connection* is being made and connected; None if no observed exchange is connecting it."""
        exchange = CURRENT.get()
        conn = attached(connection)
        if exchange is None or conn is None or exchange.conn is not conn or exchange.dial is None:
            return None
        self._attempt(exchange, connection, _now())
        if seams.socks_proxy(connection) is not None:
            self.hooks.watch_socks()
        return exchange

    @staticmethod
    def _attempt(exchange: Exchange, connection: Any, at: int) -> None:
        if exchange.dial is not None:
            host, port = seams.socks_proxy(connection) or (seams.name(connection), getattr(connection, "port", None))
            exchange.dial.attempt_started(Attempt(host, port, "tcp", at))

    def connected(self, exchange: Exchange, sock: Any) -> None:
        """The socket is connected, and a SOCKS proxy has agreed to that."""
        dial = exchange.dial
        if dial is None or dial.last is None:
            return
        if isinstance(dial.last, Attempt):
            self._connected(dial.last, sock, _now())
        else:
            dial.step_over(_now())

    def asking_socks(self, sock: Any) -> None:
        """PySocks' *sock* is connected to the proxy, which is asked for a tunnel next."""
        exchange = CURRENT.get()
        dial = exchange.dial if exchange is not None else None
        if dial is None or dial.done or not isinstance(dial.last, Attempt) or dial.last.ended:
            return
        attempt, now = dial.last, _now()
        self._connected(attempt, sock, now)
        dial.proxy_started(Step(now, server=attempt.host, port=attempt.port))

    @staticmethod
    def _connected(attempt: Attempt, sock: Any, at: int) -> None:
        attempt.over(at)
        attempt.peer, attempt.local, transport = seams.ends(sock)
        if transport is not None:
            attempt.transport, attempt.local = transport, None
            attempt.host, attempt.port = (attempt.peer.host if attempt.peer is not None else attempt.host), None
        else:
            evidence.connected(attempt, lambda: sock)

    def attempt_failed(self, exchange: Exchange, error: BaseException) -> None:
        """It could not be connected."""
        dial = exchange.dial
        if dial is None or not isinstance(dial.last, Attempt):
            self.step_over(exchange, error)
            return
        open_lookups = [lookup for lookup in dial.last.lookups if not lookup.ended]
        dial.last.over(_now(), None if errors.cancelled(error) else errors.of_connect(error), failed=True)
        for lookup in open_lookups:
            self.lifetime.looked_up(exchange, lookup)

    def shaking_hands(self, server: object) -> Exchange | None:
        """TLS begins, with *server*; None if no observed exchange dials, or it is with a proxy."""
        exchange = CURRENT.get()
        dial = exchange.dial if exchange is not None else None
        if dial is None or dial.done or (dial.proxy is not None and dial.last is dial.proxy and not dial.proxy.ended):
            return None
        dial.handshake_started(Step(_now(), server=server if isinstance(server, str) else None))
        return exchange

    def shaken_hands(self, exchange: Exchange, sock: Any) -> None:
        """TLS is established on *sock*."""
        dial = exchange.dial
        if dial is not None and isinstance(dial.last, Step):
            dial.last.over(_now())
            dial.last.details = seams.handshake(sock)

    def asking_proxy(self, connection: Any) -> Exchange | None:
        """TLS to a proxy begins, or it is asked for a tunnel; None if no observed exchange dials."""
        exchange = CURRENT.get()
        dial = exchange.dial if exchange is not None else None
        if dial is None or dial.done:
            return None
        host, port = getattr(connection, "host", None), getattr(connection, "port", None)
        dial.proxy_started(Step(_now(), server=host if isinstance(host, str) else None, port=port))
        return exchange

    def step_over(self, exchange: Exchange, error: BaseException | None) -> None:
        """TLS, or what was asked of a proxy, is over, by *error* if it failed."""
        dial = exchange.dial
        if dial is None or not isinstance(dial.last, Step):
            return
        if error is None:
            dial.step_over(_now())
            return
        word = errors.name_of(error) if dial.last is dial.proxy else errors.of_tls(error)
        dial.step_over(_now(), None if errors.cancelled(error) else word, failed=True)

    # The answer.

    def written(self, exchange: Exchange, conn: Connection, connection: Any) -> None:
        """The request has been written, slowly or through a forward proxy."""
        self._aims(exchange, conn, connection)
        if exchange.wait_at - exchange.send_at >= SLOW:
            # Whether it has a body, whose parts take the application's time, is not known.
            evidence.written_slowly(exchange, conn.probe.stream(), at_once=False)

    def arrives(self, response: Any) -> Exchange | None:
        """*response*, which urllib3 is still making, is being read: its headers are in."""
        exchange = CURRENT.get()
        if exchange is None or exchange.headers_at or not exchange.wait_at:
            return None
        exchange.headers_at = _now()
        attach(response, exchange)
        return exchange

    def answered(self, exchange: Exchange, connection: Any, response: Any) -> None:
        """*connection* got *response*."""
        now = exchange.headers_at
        if not now:
            exchange.headers_at = now = _now()
        exchange.status = response.status
        conn: Any = exchange.conn
        if not conn.carried:
            exchange.http_version = b"HTTP/" + seams.VERSIONS.get(response.version, "1.1").encode()
            self.took_first(exchange, conn, now)
        if not exchange.carried:
            conn.ledger.carries(conn, exchange)
        if conn.spoiled is not None:
            # It could be used after all.
            conn.spoiled = None
        if now - exchange.send_at >= SLOW:
            evidence.answered_slowly(exchange, now)
        over = True
        try:
            original = seams.ORIGINAL(response)
            exchange.persistent = not original.will_close
            over = original.isclosed()
            exchange.announced = length = getattr(response, seams.LENGTH, None)
            if not length and seams.METHOD(connection) == "HEAD":
                exchange.method = b"HEAD"
        except AttributeError:
            whole = seams.whole(response)
            if whole is not None:
                # Read to its end before there was a response. One that was to be streamed is never given back.
                exchange.body_read(now, whole)
                exchange.body_ended(now)
                self.lifetime.finish(exchange, None)
                return
        if exchange.over_at:
            return
        if over:
            if exchange.status == 101:
                self.awaits_body(exchange, response, now)
            else:
                exchange.body_ended(now)
            return
        # Its body is the application's to read, and so to leave.
        exchange.iterated = True
        call_sites = self.lifetime.call_sites
        if call_sites is not None:
            exchange.made_at = call_sites.find_again()
        self.awaits_body(exchange, response, now)

    def failed(self, connection: Any, error: BaseException) -> None:
        """The attempt on *connection* raised *error*, and the pool is about to close it."""
        conn = attached(connection)
        exchange: Exchange | None = conn.user if conn is not None else None
        if exchange is None or exchange.finished:
            return
        now = _now()
        cancelled = errors.cancelled(error)
        if exchange.headers_at:
            # The body's own read, before the application had the response, or something of ours before that.
            if not exchange.over_at:
                self._body_failed(exchange, error)
            self._close(conn, exchange, now, cancelled=cancelled)
            self.lifetime.finish(exchange, error)
            return
        if type(error).__name__ != seams.DISCONNECTED:
            # Not known: `http.client` buffers what has come.
            exchange.received = -1
        if conn.ready:
            self._close(conn, exchange, now, cancelled=cancelled)
        self.request_failed(exchange, error, now, lambda: seams.target(connection), seams.timeout(error, connection))
        if conn.state is State.DIALLING:
            conn.ledger.dial_failed(conn)

    def _close(
        self,
        conn: Connection,
        by: Exchange | None,
        at: int,
        *,
        cancelled: bool | None = None,
        readable: bool | None = None,
    ) -> None:
        reason = conn.ledger.closed(conn, at, by=by, cancelled=cancelled, readable=readable)
        if reason is None:
            return
        user = by or conn.last_user
        silent = user is not None and user.silent
        if reason is Reason.RESPONSE_LEAKED or collecting():
            # This may run while any lock is held.
            self.lifetime.later.append((self._closed, conn, at, silent))
        else:
            self._closed(conn, at, silent)

    # The connection goes.

    def giving_back(self, exchange: Exchange, conn: Connection) -> bool:
        """*exchange* gives *conn* back to the pool. True: with this the exchange is over."""
        now = _now()
        ledger = exchange.ledger
        if not exchange.headers_at:
            # It was never sent: somebody took a connection and gave it back.
            self.lifetime.let_go(exchange)
            return False
        if exchange.over_at or exchange.reading_since:
            if now - exchange.headers_at >= SLOW and conn.state is _OPEN:
                evidence.received_slowly(exchange)
            ledger.released(exchange, now)
            return not exchange.reading_since
        watch = ledger.process.exchanges.get(exchange)
        response = watch() if watch is not None else None
        if response is None:
            ledger.released(exchange, now)
            return False
        if conn.state is not _OPEN or seams.is_read(response):
            exchange.body_ended(now)
            ledger.released(exchange, now)
            return True
        explicit = seams.holds_connection(response)
        if explicit:
            self.left(exchange, now)
        ledger.spoils(exchange, now)
        ledger.released(exchange, now)
        return explicit

    def closing(self, connection: Any) -> None:
        """*connection* is being closed, by whoever is on the stack."""
        conn: Connection | None = attached(connection)
        if conn is None or not conn.ready or conn.state is State.CLOSED or not conn.ledger.process.alive:
            return
        now = _now()
        user = conn.user
        if not conn.users:
            self._close(conn, None, now, readable=self._idle_closing(conn, user))
            return
        cancelled = None
        if user is not None and not user.over_at:
            error = self._raised_by(user)
            if user.headers_at and not user.reading_since:
                if conn.doomed is None:
                    self.left(user, now)
            elif error is not None:
                cancelled = errors.cancelled(error)
                evidence.closing(user, conn.probe.stream(), now, cancelled=cancelled)
            elif user.wait_at and seams.awaits_answer(connection, sys._getframe(1)):
                # `http.client` closes at the headers what is not to be kept.
                conn.doom(Reason.CONNECTION_CLOSE)
        self._close(conn, user, now, cancelled=cancelled)

    @staticmethod
    def _raised_by(exchange: Exchange) -> BaseException | None:
        # What is being handled, unless it was as the exchange began.
        error = sys.exc_info()[1]
        known = exchange.evidence
        return None if error is None or (known is not None and known.handled == id(error)) else error

    def _idle_closing(self, conn: Connection, user: Exchange | None) -> bool | None:
        # Whether its socket is readable, as far as that tells why it is closed.
        if conn.doomed is not None:
            return None
        ours: Pool | None = conn.probe.pool()
        pool = ours.pool() if ours is not None else None
        if user is not None and not user.finished:
            # As it is given back: the pool has no room for it, or was closed meanwhile.
            if ours is None or ours.closed or seams.closed(pool):
                conn.doom(Reason.CLIENT_CLOSED)
            return False
        if pool is None:
            # The pool is gone. If its manager is not, it has made room for another origin.
            conn.doom(Reason.POOL_FULL if self._managed(conn.ledger) else Reason.UNKNOWN)
            return None
        readable: bool | None = conn.probe.readable()
        if not readable:
            conn.doom(Reason.UNKNOWN)
        return readable

    @staticmethod
    def _managed(ledger: Ledger) -> bool:
        watch = ledger.process.ledgers.get(ledger)
        ours: Manager | None = watch() if watch is not None else None
        return ours is not None and ours.manager is not None and ours.manager() is not None

    # The body.

    def read(self, exchange: Exchange, response: Any, data: Any) -> None:
        """A read of *response* returned *data*: bytes of its body."""
        at = _now()
        if data:
            exchange.body_read(at, len(data))
        if not seams.ORIGINAL(response).isclosed():
            exchange.reading_since = 0
            return
        # Written out, for this is for every request: see `read_to_end`.
        exchange.body_ended(at)
        if exchange.iterated:
            self.lifetime.finish(exchange, None)

    def read_to_end(self, exchange: Exchange, at: int) -> None:
        """Its last byte has been read, or there was none."""
        exchange.body_ended(at)
        if exchange.iterated:
            self.lifetime.finish(exchange, None)

    def read_raised(self, exchange: Exchange, error: BaseException) -> None:
        """A read of its body raised *error*."""
        if exchange.iterated:
            self.read_failed(exchange, error, self._timeout(exchange, error))
        else:
            self._body_failed(exchange, error)

    @staticmethod
    def _timeout(exchange: Exchange, error: BaseException) -> Timeout:
        conn = exchange.conn
        return seams.timeout(error, conn.probe.connection() if conn is not None else None)

    def _body_failed(self, exchange: Exchange, error: BaseException) -> None:
        # As `read_failed`, but the exchange goes on until its connection is closed.
        cancelled = errors.cancelled(error)
        now = _now()
        exchange.body_raised(now, errors.name_of(error), cancelled=cancelled)
        evidence.raised(exchange, error, now, self._timeout(exchange, error))
        if not cancelled:
            exchange.ledger.process.sink.failed(exchange)

    def closing_response(self, exchange: Exchange, response: Any) -> None:
        """*response* is being closed."""
        now = _now()
        if exchange.over_at:
            return
        if seams.is_read(response):
            exchange.body_ended(now)
        elif seams.finalised(response):
            self._leaked(exchange)
        elif not exchange.reading_since or sys.exc_info()[1] is None:
            # A read that fails may close it on its way out, too.
            self.left(exchange, now)

    def _leaked(self, exchange: Exchange) -> None:
        # This may run while any lock is held: numbers and texts only.
        exchange.body_forgotten()
        place, conn = exchange.made_at, exchange.conn
        if place is not None:
            exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)
        if conn is not None and conn.ready:
            conn.doom(Reason.RESPONSE_LEAKED)

    def closed_response(self, exchange: Exchange, response: Any) -> None:
        """*response* has been closed."""
        conn = exchange.conn
        if conn is not None and conn.ledger.blocks and seams.holds_connection(response):
            # Its slot does not come back, unless it is given back as well.
            conn.ledger.kept[conn] = holder(conn, exchange)
        if seams.finalised(response):
            self.lifetime.later.append((self.lifetime.finish, exchange, None))
        elif exchange.over_at and not exchange.reading_since:
            self.lifetime.finish(exchange, None)
