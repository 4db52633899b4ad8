# Hooks say what happens where; this says what it means. Calls may come in any
# order, twice, late or never: only this module has to cope with that.
#
# What is done per request is what costs: it is kept to stores and comparisons.
# Per connection, or when something rare happened, there is time for more.

"""From what the hooks see to facts about exchanges and connections, whatever the client."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..callsite import text
from ..core.evidence import SLOW
from ..core.ledger import Connection, Ledger, Limits, Process, Reason, State
from ..core.timeline import CANCELLED, FAILED, Exchange, Origin
from . import causes, errors, evidence, loops
from .collector import collecting
from .current import CURRENT
from .evidence import Timeout
from .lifetime import Lifetime, Watch
from .made import Made, made_at
from .marks import KEY, attach, attach_unless, attached, store, stored

_now = time.monotonic_ns
_epoch = time.time_ns


class Observer:
    """What one adapter tells: the pool, connections and responses of its client.

    An adapter derives from this, and says what only it can know: see the methods that say so.

    Args:
        lifetime: everything that is under way, of all clients.
    """

    def __init__(self, lifetime: Lifetime) -> None:
        self.lifetime = lifetime
        self.guard = lifetime.guard
        #: Classes of the client's own whose objects run no code as our attribute, `KEY`, is read and set: `stored` and
        #: `store` do the same for any object, at ten times the price. Each stream of a response among them is watched.
        self.plain: set[type] = set()
        #: Types of response streams that are watched, by id, as long as there are such types.
        self._bodies: dict[int, weakref.ref[type]] = {}

    # Overridden by adapters.

    def adopt_connections(self, ledger: Ledger, pool: Any) -> None:
        """For the adapter: note the connections that *pool* had before we came. Nothing, if it can't tell."""

    def learn(self, conn: Connection) -> None:
        """For the adapter: note of *conn*, which is open, its peer and what else there is to know."""
        conn.known = True

    def watch_body(self, cls: type) -> None:
        """For the adapter: patch *cls*, a type of response stream."""
        raise NotImplementedError

    def closed_once_more(self, exchange: Exchange, frame: FrameType | None) -> bool:
        """For the adapter: whether the response of *exchange*, closed in *frame*, will be closed again."""
        return False

    # The pool.

    def begin(self, pool: Any, request: Any, limits: Callable[[Any], Limits]) -> Exchange | None:
        """A request is handed to *pool*, whose limits are what *limits* says. None: it is not to be observed."""
        lifetime = self.lifetime
        if lifetime.later:
            lifetime.collect()
        process, active = lifetime.process, lifetime.active
        if not active:
            return None
        ledger: Any = None
        try:
            ledger = stored(pool, KEY)
        except AttributeError:
            pass
        if ledger is None or ledger.process is not process:
            ledger = self._adopt(process, pool, limits)
            if ledger is None:
                return None
        started = _now()
        exchange = Exchange(ledger, request, started, _epoch() - started)
        # First of all: `abandon` finds it here if anything below is interrupted.
        CURRENT.set(exchange)
        exchange.pool = (len(ledger.live), len(ledger.idle), len(ledger.waiting))
        if lifetime.call_sites is not None:
            exchange.made_at = lifetime.call_sites.find_maker()
            if exchange.made_at is not None:
                evidence.begun(exchange)
        else:
            evidence.begun(exchange)
        process.sink.claim(exchange)
        ledger.waiting[exchange] = process.exchanges[exchange] = None
        if not lifetime.active or process is not lifetime.process:
            # Retired meanwhile, and perhaps the hooks that would have seen its end are gone.
            lifetime.unnoted(exchange)
            return None
        return exchange

    def _adopt(self, process: Process, pool: Any, limits: Callable[[Any], Limits]) -> Ledger | None:
        lifetime = self.lifetime
        with lifetime.lock:
            lifetime.meets_pool()
            ledger = Ledger(process, limits(pool), made_at(attached(pool)))
            try:
                watch = Watch(pool, lifetime.gone)
            except TypeError:
                # A stand-in of which we could not tell when it is gone.
                return None
            watch.of = ledger
            # In the midst of this a signal handler may have made a request with the same pool.
            found: Ledger | None = attach_unless(pool, ledger, lambda other: other.process is process)
            if found is not ledger:
                return found
            process.ledgers[ledger] = watch
            self.adopt_connections(ledger, pool)
            return ledger

    def pool_made(self, pool: Any) -> None:
        """The pool is being made."""
        made = self.making(sys._getframe(1))
        if made is not None:
            attach(pool, made)

    def making(self, frame: FrameType | None) -> Made | None:
        """What to note on something that *frame* makes; None if that is not wanted. Adapters call it."""
        lifetime = self.lifetime
        if not lifetime.active or lifetime.call_sites is None:
            return None
        return Made(lifetime.call_sites.find(frame))

    def pool_closing(self, pool: Any) -> None:
        """The pool is being closed."""
        ledger: Ledger | None = attached(pool)
        if ledger is None or not ledger.process.alive:
            return
        call_sites = self.lifetime.call_sites
        if call_sites is not None and any(conn.users for conn in list(ledger.live)):
            evidence.client_closed(ledger, call_sites.find(sys._getframe(1)))
        ledger.pool_closed(_now())
        # Where we have missed a network stream, no hook will tell that it closes: so it is told here.
        # Under the garbage collector every stream is gone already, and all of them are told.
        if any(conn.state is State.LOST and conn.probe.stream() is None for conn in list(ledger.live)):
            if collecting():
                self.lifetime.later.append((self._streamless_closed, ledger))
            else:
                self._streamless_closed(ledger)

    def _streamless_closed(self, ledger: Ledger) -> None:
        now = _now()
        for conn in list(ledger.live):
            if conn.state is State.LOST and conn.probe.stream() is None and ledger.closed(conn, now) is not None:
                self._closed(conn, now, silent=False)

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
            self.learn(conn)

    # The response.

    def took_first(self, exchange: Exchange, conn: Connection, at: int) -> None:
        """The first answer on *conn* is in, and so is its version."""
        if conn.state is State.DIALLING:
            self.opened(exchange, conn, at)
        if conn.version is None:
            conn.version = exchange.http_version.decode("ascii", "replace").removeprefix("HTTP/")

    def awaits_body(self, exchange: Exchange, stream: Any, now: int) -> None:
        """The headers of *exchange* are in, and *stream* is the response's."""
        if exchange.status == 101 or (exchange.method == b"CONNECT" and 200 <= exchange.status < 300):
            self._upgraded(exchange, now)
            return
        lifetime, kind = self.lifetime, type(stream)
        try:
            watch = Watch(stream, lifetime.gone)
            plainly = kind in self.plain
            if plainly:
                stream._otel_httptrace = exchange
            else:
                if id(kind) not in self._bodies:
                    self._know_body(kind)
                store(stream, KEY, exchange)
        except (AttributeError, TypeError):
            # It has no close that we would see, as httpcore's own of `Response(content=b"...")`, which mocks return;
            # or it takes no attribute or no weak reference, and we could not tell when it is collected.
            exchange.over_at = now
            lifetime.finish(exchange, None)
            return
        watch.of = exchange
        exchange.ledger.process.exchanges[exchange] = watch
        if not self.guard.failing or self.guard.trusts("end"):
            # Else no span may be kept open.
            exchange.ledger.process.sink.awaits_body(exchange)

    def _know_body(self, cls: type) -> None:
        if not hasattr(cls, "close") and not hasattr(cls, "aclose"):
            raise TypeError
        self.watch_body(cls)
        bodies, key = self._bodies, id(cls)
        bodies[key] = weakref.ref(cls, lambda _: bodies.pop(key, None))

    def _upgraded(self, exchange: Exchange, at: int) -> None:
        exchange.upgraded, exchange.over_at = True, at
        if exchange.conn is not None:
            exchange.ledger.lost(exchange.conn, Reason.UPGRADED, at)
        self.lifetime.finish(exchange, None)

    def request_failed(
        self, exchange: Exchange, error: BaseException, now: int, target: Callable[[], Origin | None], timeout: Timeout
    ) -> None:
        """The pool raised *error* instead of returning a response.

        Args:
            exchange: whose.
            error: what it raised, and is being handled.
            now: when.
            target: what the request was for, asked only where its connection does not know.
            timeout: which of the configured ones struck, if any.
        """
        if exchange.lent is not None:
            exchange.lent.take_back(exchange)
        ledger = exchange.ledger
        if timeout.which == evidence.POOL_TIMEOUT and exchange.conn is not None and not exchange.send_at:
            # The connection had refused it, out of our sight.
            ledger.refused(exchange, now)
        cancelled = errors.cancelled(error)
        exchange.request_failed(now, errors.name_of(error), cancelled=cancelled)
        conn = exchange.conn
        if conn is None or conn.reach is not conn.origin:
            exchange.target = target()
        evidence.raised(exchange, error, now, timeout)
        if not cancelled:
            ledger.process.sink.failed(exchange)
        if conn is not None:
            if conn.multiplexed:
                self._check(
                    conn, exchange, now, Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED, error
                )
            elif exchange.send_at:
                ledger.carries(conn, exchange)
            ledger.released(exchange, now)
            if conn.dialler is exchange:
                ledger.dial_failed(conn)
        self.lifetime.finish(exchange, error)

    def _check(self, conn: Connection, exchange: Exchange, at: int, reason: Reason, error: BaseException) -> None:
        # An HTTP/2 connection that broke with a stream lives on until its last one.
        if conn.state is State.OPEN:
            if not conn.probe.available():
                conn.ledger.lost(conn, Reason.GOAWAY if conn.probe.goaway() else reason, at, exchange)
        elif reason is Reason.REQUEST_FAILED and exchange.send_at and causes.connection_gone(error):
            # The connection is gone: one of its streams has noticed first, the others failed for the same reason.
            conn.ledger.shared(conn, exchange)

    # The network stream.

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
            # Only here is the exception that is being handled sure to be this exchange's.
            error = sys.exc_info()[1]
            if error is not None:
                cancelled = errors.cancelled(error)
                evidence.closing(user, stream, now, cancelled=cancelled)
        elif user is not None and user.headers_at and user.holds and not user.over_at and conn.doomed is None:
            # Left without a word to the pool: an iterator finalised after a break.
            self.left(user, now)
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
            if collecting():
                self.lifetime.later.append((self._closed, conn, now, silent))
            else:
                self._closed(conn, now, silent)
        return True

    def _closed(self, conn: Connection, at: int, silent: bool) -> None:
        conn.ledger.process.sink.closed(conn, at, silent=silent)

    # The body.

    def read_failed(self, exchange: Exchange, error: BaseException, timeout: Timeout) -> None:
        """The body's own read raised *error*; *timeout* is the configured one that struck, if any."""
        now = _now()
        cancelled = errors.cancelled(error)
        exchange.body_raised(now, errors.name_of(error), cancelled=cancelled)
        if exchange.outcome in (FAILED, CANCELLED):
            evidence.raised(exchange, error, now, timeout)
            if not cancelled:
                exchange.ledger.process.sink.failed(exchange)
        conn = exchange.conn
        if conn is not None:
            reason = Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED
            if conn.multiplexed:
                self._check(conn, exchange, now, reason, error)
            elif exchange.holds:
                # Most clients have closed it by now; others are about to.
                conn.ledger.broke(conn, reason, exchange)
        self.lifetime.finish(exchange, error)

    def body_closing(self, exchange: Exchange) -> bool:
        """The response is about to be closed. Returns whether the code that has it will close it once more."""
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
            self.left(exchange, _now())
        return evidence.awaits_close(exchange) and self.closed_once_more(exchange, sys._getframe(2))

    def response_closing(self, response: Any) -> None:
        """A response is being closed; the end of an iterator may have closed its body before."""
        exchange: Exchange | None = attached(response)
        if exchange is not None and not exchange.finished and exchange.over_at:
            evidence.left(exchange)
            self.lifetime.finish(exchange, None)

    def left(self, exchange: Exchange, at: int) -> None:
        """The response is being closed before its body's end; the stack says by which code."""
        exchange.body_left(at)
        # Within the collector the stack is that of the code that happened to allocate.
        if collecting():
            return
        evidence.left(exchange)
        if at - exchange.headers_at >= SLOW:
            evidence.received_slowly(exchange)
        call_sites = self.lifetime.call_sites
        if call_sites is not None:
            place = call_sites.find(sys._getframe(2))
            if place is not None:
                exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)
