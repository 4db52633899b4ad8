# Why was this connection opened, and why did it close? A pool knows both for
# a moment and tells nobody. This module remembers, for one pool.
#
# Rule 1: reasons are decided here. Where only the client knows (its pool has
#         evicted a connection, a GOAWAY came), the adapter tells it, with
#         `Ledger.lost` or `Connection.doom`; the first reason told stays.
# Rule 2: nothing here reads a clock, a socket or a span.
# Rule 3: what was not seen is UNKNOWN. A wrong reason costs an incident an
#         hour; a missing one costs it a minute.
#
# How a pool loses connections, as read in httpcore 1.0.9 and httpcore2 2.16.2:
# an HTTP/1.1 connection whose response is closed before h11 is DONE is closed
# there and then (http11.py, _response_closed). An idle one is dropped by the
# next pass over the pool (connection_pool.py, _assign_requests_to_connections),
# which takes it off the list first, may dial a replacement second, and closes
# it last. So a replacement is created before its predecessor's close is seen:
# we therefore look at who is missing whenever a connection is created.
#
# A connection's *reach* is what it can carry requests to: one `Origin`, or, where
# a pool shares a connection to a forward proxy, all plain-HTTP origins: `Shared`.
# All that is decided here goes by the reach. Where it is shared, a loss while the
# connection served one origin explains the next one through the proxy, whatever
# that is for; `all_busy` means every connection through the proxy;
# `client_closed`, that the pool had one when it was closed; `first_connection` and
# `new_client` tell whether this process had been connected through that proxy.
# Metrics go by the origin all the same. A connection through CONNECT or SOCKS
# belongs to one origin.
#
# urllib3 shares connections to forward proxies; httpcore does not: in httpcore
# 1.0.0 to 1.0.9 and httpcore2 2.16.2 such a connection serves the origin it was
# opened for (http_proxy.py, ForwardHTTPConnection.can_handle_request), and a
# request to another origin is dialled beside an idle one.

"""The ledger of one pool's connections."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .timeline import CANCELLED, CLOSED_EARLY, COMPLETE, FAILED, Address, Exchange, NotCopied, Origin, Shared

if TYPE_CHECKING:
    from .sink import Sink


class Reason(str, Enum):
    """Why a connection was opened, "because", or closed, "because"."""

    #: The process had not connected to this origin before.
    FIRST_CONNECTION = "first_connection"
    #: This pool is new, while another had already connected to the origin.
    NEW_CLIENT = "new_client"
    #: Every open connection to the origin was carrying a request.
    ALL_BUSY = "all_busy"
    #: A response was closed before its body had been read to the end.
    BODY_NOT_READ = "body_not_read"
    #: It is held by a response that nobody closed and nobody can any more.
    RESPONSE_LEAKED = "response_leaked"
    #: Idle for longer than ``keepalive_expiry``.
    KEEPALIVE_EXPIRED = "keepalive_expired"
    #: More connections than ``max_keepalive_connections``.
    KEEPALIVE_LIMIT = "keepalive_limit"
    #: Idle, and the pool needed its slot for another origin.
    POOL_FULL = "pool_full"
    #: The server closed it while it was idle.
    SERVER_CLOSED = "server_closed"
    #: ``Connection: close`` on either side, or HTTP/1.0 without keep-alive.
    CONNECTION_CLOSE = "connection_close"
    #: An error or timeout while it carried a request.
    REQUEST_FAILED = "request_failed"
    #: Its request was cancelled.
    REQUEST_CANCELLED = "request_cancelled"
    #: HTTP/2 GOAWAY, or out of stream ids.
    GOAWAY = "goaway"
    #: 101 or CONNECT: it left the pool.
    UPGRADED = "upgraded"
    #: The client or pool was closed.
    CLIENT_CLOSED = "client_closed"
    #: Not seen.
    UNKNOWN = "unknown"


#: Losses that one request caused, so that a link can name it.
BLAMED = frozenset({Reason.BODY_NOT_READ, Reason.RESPONSE_LEAKED, Reason.REQUEST_FAILED, Reason.REQUEST_CANCELLED})


#: Opened because no connection had been, or none was free: nothing was lost, and there was nothing to reuse.
PLAIN_OPENINGS = frozenset({Reason.FIRST_CONNECTION, Reason.ALL_BUSY})

#: Reasons behind which may be an earlier response that was given back unread: the next request could not use the
#: connection.
_HIDES_WHAT_SPOILED: Final = frozenset({Reason.SERVER_CLOSED, Reason.REQUEST_FAILED, Reason.UNKNOWN})
#: Reasons for which a connection ends with all requests that are on it.
_TAKES_ALL: Final = frozenset({Reason.REQUEST_FAILED, Reason.GOAWAY, Reason.CLIENT_CLOSED})

_BUSY = object()

# Memory is bounded: beyond these the oldest are forgotten, and a reason that hung on them is `unknown`.
_MAX_LOSSES = 1000
_MAX_LOST_ORIGINS = 1000
_MAX_ORIGINS = 10_000


class State(Enum):
    """Where a connection is in its life."""

    #: Being dialled: open and busy, as far as the pool is concerned.
    DIALLING = "dialling"
    #: Ready; busy or idle by its number of streams.
    OPEN = "open"
    #: Still open on the wire, but out of reach: its close is only a matter of time.
    LOST = "lost"
    #: Closed, or never opened.
    CLOSED = "closed"


# Python 3.11 finds a member on its Enum by a call, which costs as much as an
# attribute on a span: what every request asks for is looked up once.
_OPEN: Final = State.OPEN

#: What may follow what. Every change of state goes through `Connection.move`.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.DIALLING: frozenset({State.OPEN, State.CLOSED}),
    State.OPEN: frozenset({State.LOST, State.CLOSED}),
    State.LOST: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Loss(NamedTuple):
    """A connection that is gone, and has not yet explained a new one."""

    reach: Origin | Shared
    reason: Reason
    at: int
    #: The span context of the request that lost it, and where it closed its response.
    context: Any = None
    closed_at: str | None = None


class Holder(NamedTuple):
    """A request that holds a connection of the pool."""

    #: When it began, and since when it holds the connection.
    began: int
    since: int
    #: Its span context, and where the application made it; None where that is not known.
    context: Any = None
    made_at: Any = None


class Missed(NamedTuple):
    """A connection that the pool no longer lists, and what it says of itself; None where that is not known."""

    conn: Connection
    #: Whether its socket is readable.
    readable: bool | None = None
    #: Whether it is between two messages.
    clean: bool | None = None


class Limits(NamedTuple):
    """What a pool was set to; None where there is no limit or it is not known."""

    connections: int | None = None
    keepalive: int | None = None
    #: Nanoseconds.
    keepalive_expiry: int | None = None
    #: httpcore 1.0.9 compares *all* connections with ``max_keepalive_connections``,
    #: httpcore2 only idle ones.
    counts_only_idle: bool = False
    #: Whether the limits are those of each origin, rather than of the whole pool.
    of_each_origin: bool = False


class Connection(NotCopied):
    """One connection, from the pool's decision to open it until it is closed."""

    __slots__ = (
        "broke", "carried", "close_reason", "counted", "created_at", "described", "dialler", "doomed", "entered_at",
        "explained_by", "id", "idle_since", "inherited", "known", "leaked", "ledger", "loop", "multiplexed",
        "open_reason", "opened_at", "opened_by", "origin", "peer", "probe", "reach", "spoiled", "state", "transport",
        "unlisted", "unseen", "user", "users", "version",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, origin: Origin, number: int, at: int, reach: Shared | None = None) -> None:
        self.ledger = ledger
        #: What it was opened for, and which requests it could carry.
        self.origin = origin
        self.reach: Origin | Shared = origin if reach is None else reach
        self.id = number
        self.created_at = at
        #: When the request that entered the pool as it was made had begun; no reference, as a
        #: connection may outlive an exchange that was cancelled before it dialled.
        self.entered_at = 0
        self.opened_at = 0
        self.state = State.DIALLING
        #: Requests it has carried; None where some may have gone unseen.
        self.carried: int | None = 0
        self.multiplexed = False
        #: The exchanges that hold it now; on HTTP/1.1 at most one, save for a
        #: moment where a second one was assigned and is about to be refused.
        self.users: dict[Exchange, None] = {}
        #: Held by somebody we do not see: from before we were there, or a leaked HTTP/2 stream.
        self.unseen = False
        #: Gone from the pool's list while in use.
        self.unlisted = False
        self.idle_since = 0
        #: As the first answer had it; see `protocol`.
        self.version: str | None = None
        self.peer: Address | None = None
        self.transport: str | None = None
        self.open_reason: Reason | None = None
        self.explained_by: Loss | None = None
        self.close_reason: Reason | None = None
        #: Decided before the close itself was seen.
        self.doomed: Reason | None = None
        #: Given back to the pool by a request that had not read its response: the loss it will be, if the next request
        #: cannot use it.
        self.spoiled: Loss | None = None
        #: The loss that it will be, if it closes before it is used again.
        self.broke: Loss | None = None
        #: For telemetry, opaque here: what it says of every request on this connection.
        self.described: Any = None
        #: Likewise: whether it counts as opened, and so will as closed.
        self.counted = False
        #: Who dials or has dialled it, as long as that exchange is under way.
        self.dialler: Exchange | None = None
        #: The last one to use it (HTTP/1.1), until that exchange is over.
        self.user: Exchange | None = None
        #: Span context of the request that opened it; and the one that leaked it.
        self.opened_by: Any = None
        self.leaked: Holder | None = None
        #: For the adapter, opaque here: how to ask whether its socket is readable.
        self.probe: Any = None
        #: Likewise: whether its network stream is watched, so that its end will be seen.
        self.known = False
        #: Likewise: in which event loop it is opened, if any.
        self.loop: Any = None
        #: Opened before a fork, by another process.
        self.inherited = False

    def __repr__(self) -> str:
        return f"<Connection {self.id} to {self.origin.host}:{self.origin.port} {self.state.value}>"

    @property
    def ready(self) -> bool:
        """Whether requests can be written on it."""
        return self.state is not State.DIALLING

    @property
    def idle(self) -> bool:
        """Whether it is open and nobody uses it."""
        return self.state is State.OPEN and not self.users and not self.unseen

    @property
    def protocol(self) -> str | None:
        """The version of HTTP that it speaks, as `1.1`; None as long as that is not known."""
        # HTTP/2 is agreed upon before the first request, HTTP/1.0 or 1.1 told by the first answer.
        return "2" if self.multiplexed else self.version

    @property
    def last_user(self) -> Exchange | None:
        """Whose doing it would be if it closed now: the one that uses it alone, or did last."""
        if self.user is not None:
            return self.user
        # A copy, made at once: they come and go in other threads, without a lock.
        users = list(self.users)
        return users[0] if len(users) == 1 else None

    def doom(self, reason: Reason) -> None:
        """It will have closed for *reason*, which is known before the close is seen; the first reason told stays."""
        if self.doomed is None:
            self.doomed = reason

    def move(self, state: State) -> bool:
        """Change its state; False, and no change, where that is not legal."""
        if state not in TRANSITIONS[self.state]:
            return False
        self.state = state
        return True


class Process:
    """What all pools of a process know together, from being instrumented to being forked or uninstrumented.

    Args:
        max_origins: how many origins, or shared proxies, it remembers having connected to. Beyond that
            the least recently opened are forgotten, and a first connection can no longer be told.
    """

    #: Not started again with the counts: an id is unique for as long as the process lives.
    _numbers = itertools.count(1)

    #: Where records of its exchanges and connections go.
    sink: Sink

    def __init__(self, max_origins: int = _MAX_ORIGINS) -> None:
        #: Everything under way, in the order in which it began. For the adapter, opaque here: what watches its body.
        self.exchanges: dict[Exchange, Any] = {}
        #: For the adapter, opaque here: what watches the pool.
        self.ledgers: dict[Ledger, Any] = {}
        #: False in a child process: what is under way is the parent's.
        self.alive = True
        self._connected: OrderedDict[Origin | Shared, None] = OrderedDict()
        self._max_origins = max_origins
        self._forgot = False
        self._lock = threading.RLock()

    def number(self) -> int:
        """The next connection's number."""
        return next(self._numbers)

    def connected(self, reach: Origin | Shared) -> None:
        """A connection that reaches *reach* is ready."""
        with self._lock:
            self._connected[reach] = None
            self._connected.move_to_end(reach)
            if len(self._connected) > self._max_origins:
                self._connected.popitem(last=False)
                self._forgot = True

    def first(self, reach: Origin | Shared) -> Reason:
        """Why a pool that never had a connection that reaches *reach* opens one."""
        with self._lock:
            if reach in self._connected:
                return Reason.NEW_CLIENT
            return Reason.UNKNOWN if self._forgot else Reason.FIRST_CONNECTION


#: Called with a new connection: attaches it to the adapter's object.
Noted = Callable[[Connection], object]


def _nowhere(conn: Connection) -> None:
    pass


class Ledger(NotCopied):
    """One pool: its connections, and those it lost.

    Args:
        process: shared by all ledgers.
        limits: what the pool was set to.
        made_at: the application's line that made the client, if it was seen.
    """

    def __init__(self, process: Process, limits: Limits, made_at: str | None = None) -> None:
        self.process = process
        self.limits = limits
        #: Whether requests wait for a connection to be free.
        self.blocks = limits.connections is not None
        self.made_at = made_at
        self.live: dict[Connection, None] = {}
        self.waiting: dict[Exchange, None] = {}
        #: Those that nobody uses. A dict, as its changes are atomic: the plain
        #: path of a request takes no lock.
        self.idle: dict[Connection, None] = {}
        #: Closed connections whose slot did not come back to the pool, and the request that holds the slot.
        self.kept: dict[Connection, Holder] = {}
        # Each waits for the new connection that it explains, which may never
        # come. Per reach, the least recently lost of too many forgotten first.
        self._lost: OrderedDict[Origin | Shared, deque[Loss]] = OrderedDict()
        self._reached: OrderedDict[Origin | Shared, None] = OrderedDict()
        self._forgot = False
        self._closed_before = False
        # Re-entrant: a garbage collection inside it may finalise a body of the same pool.
        self.lock = threading.RLock()

    def __repr__(self) -> str:
        idle = len(self.idle)
        last = next(reversed(self._lost.values()))[-1].reason.value if self._lost else "none"
        return f"<Ledger {len(self.live)} connections | {len(self.live) - idle} active {idle} idle | last lost: {last}>"

    # Opening.

    def adopted(
        self,
        origin: Origin,
        at: int,
        *,
        busy: bool,
        reach: Shared | None = None,
        carried: int | None = None,
        noted: Noted = _nowhere,
    ) -> Connection:
        """A connection was there before we were, *busy* or not; how many requests it has *carried* may not be known.

        Args:
            origin: what it was opened for.
            at: when we came.
            busy: whether somebody holds it whom we do not see.
            reach: which requests it could carry, if not only those to *origin*.
            carried: None if that is not known.
            noted: does with it what makes it part of the pool. If that fails, it never was.
        """
        with self.lock:
            conn = Connection(self, origin, self.process.number(), at, reach)
            conn.move(State.OPEN)
            conn.carried, conn.unseen = carried, busy
            self._remember(conn.reach)
            self.process.connected(conn.reach)
            try:
                if not busy:
                    self.idle[conn] = None
                self.live[conn] = None
                noted(conn)
            except BaseException:
                self.live.pop(conn, None)
                self.idle.pop(conn, None)
                raise
            return conn

    def created(self, origin: Origin, at: int, reach: Shared | None = None, noted: Noted = _nowhere) -> Connection:
        """The pool decided to open a connection; who went missing has been reported to `missed`.

        Args:
            origin: what for.
            at: when.
            reach: which requests it could carry, if not only those to *origin*.
            noted: does with it what makes it part of the pool. If that fails, it never was.
        """
        with self.lock:
            conn = Connection(self, origin, self.process.number(), at, reach)
            try:
                conn.open_reason = self._explain(conn, at)
                self.live[conn] = None
                noted(conn)
            except BaseException:
                self.live.pop(conn, None)
                if conn.explained_by is not None:
                    self._note_loss(conn.explained_by)
                raise
            return conn

    def _explain(self, new: Connection, at: int) -> Reason:
        reach, expiry = new.reach, self.limits.keepalive_expiry
        losses = self._lost.get(reach)
        if losses:
            new.explained_by = loss = losses.pop()
            if not losses:
                del self._lost[reach]
            # Had it been kept, it would have expired by now.
            expired = expiry is not None and at - loss.at >= expiry
            return Reason.KEEPALIVE_EXPIRED if expired else loss.reason
        # A copy, here and below: a collection in here may close connections of this very pool.
        if any(conn.reach == reach and conn.state in (State.DIALLING, State.OPEN) for conn in list(self.live)):
            return Reason.ALL_BUSY
        if reach in self._reached:
            return Reason.CLIENT_CLOSED if self._closed_before else Reason.UNKNOWN
        if self._forgot:
            return Reason.UNKNOWN
        return self.process.first(reach)

    def opened(self, conn: Connection, at: int) -> bool:
        """The connection is ready, TLS and proxy included."""
        with self.lock:
            if not conn.move(State.OPEN):
                return False
            conn.opened_at = at
            self._remember(conn.reach)
            self.process.connected(conn.reach)
            return True

    def dial_failed(self, conn: Connection) -> None:
        """Dialling it failed, and nobody else is about to try: the loss that it explained waits for the next one."""
        with self.lock:
            if conn.state is State.DIALLING and not conn.users and conn.move(State.CLOSED):
                self.live.pop(conn, None)
                if conn.explained_by is not None:
                    self._note_loss(conn.explained_by)

    def _remember(self, reach: Origin | Shared) -> None:
        self._reached[reach] = None
        if len(self._reached) > _MAX_ORIGINS:
            self._reached.popitem(last=False)
            self._forgot = True

    # Use.

    def acquired(self, conn: Connection, exchange: Exchange, at: int) -> None:
        """The pool assigned *exchange* to *conn*, perhaps after another that could not take it."""
        if exchange.holds:
            if exchange.conn is conn:
                return
            self.released(exchange, at)
        was_idle = self.idle.pop(conn, _BUSY) is None
        if not conn.multiplexed:
            if conn.unseen:
                # The request that held it has left, for HTTP/1.1 serves one at a time.
                conn.unseen, was_idle = False, True
            if conn.user is None or not conn.users:
                conn.user = exchange
        # First here, then in `users`: `released` undoes both if this is interrupted in between.
        exchange.conn, exchange.holds = conn, True
        conn.users[exchange] = None
        if was_idle:
            exchange.was_idle = True
            if conn.idle_since:
                exchange.idle = at - conn.idle_since

    def carries(self, conn: Connection, exchange: Exchange) -> None:
        """The request of *exchange* is on *conn*: the connection did take it."""
        if exchange.carried:
            return
        exchange.carried = True
        if conn.multiplexed:
            with self.lock:
                carried = conn.carried
                conn.carried = carried + 1 if carried is not None else None
        else:
            # HTTP/1.1 serves one at a time.
            carried = conn.carried
            conn.carried = carried + 1 if carried is not None else None
            conn.user = exchange
        exchange.carried_before = carried
        # On HTTP/2, a request that shares a connection has not opened it, even if the
        # first request is still under way. On HTTP/1.1 what was carried decides.
        exchange.reused = conn.dialler is not exchange and (conn.multiplexed or carried is None or carried > 0)

    def refused(self, exchange: Exchange, at: int) -> None:
        """The connection could not take it after all: it waits for the pool again."""
        with self.lock:
            conn = exchange.conn
            self.released(exchange, at)
            if conn is not None and conn.user is exchange:
                conn.user = next(iter(list(conn.users)), None)
            exchange.conn = None
            exchange.close_reason = None
            exchange.acquired_at = exchange.send_at = exchange.wait_at = 0
            exchange.was_idle, exchange.idle, exchange.carried = False, None, False
            exchange.waits_again = True
            self.waiting[exchange] = None

    def released(self, exchange: Exchange, at: int) -> None:
        """The exchange is done with its connection, which may stay open. Idempotent."""
        conn = exchange.conn
        if not exchange.holds or conn is None:
            return
        exchange.holds = False
        conn.users.pop(exchange, None)
        if conn.multiplexed:
            with self.lock:
                self._left(conn, at)
        else:
            self._left(conn, at)

    def _left(self, conn: Connection, at: int) -> None:
        if not conn.users:
            conn.idle_since = at
            if conn.state is _OPEN and not conn.unseen:
                self.idle[conn] = None

    def finished(self, exchange: Exchange, at: int) -> None:
        """The exchange is over: forget it."""
        conn = exchange.conn
        if conn is None:
            self.waiting.pop(exchange, None)
            return
        if exchange.holds:
            self.released(exchange, at)
        if conn.dialler is exchange:
            conn.dialler = None
        if conn.user is exchange:
            conn.user = None

    # Losing and closing.

    def missing(self, listed: Collection[Connection]) -> list[Connection]:
        """Connections that the pool no longer lists though nobody saw them go."""
        # A copy, made at once: the pool's lock is held here, and closing a connection needs none.
        return [conn for conn in list(self.live) if conn not in listed and conn.state in (State.DIALLING, State.OPEN)]

    def missed(self, gone: list[Missed], at: int) -> None:
        """The pool dropped connections, nobody knows since when."""
        with self.lock:
            # One was created and is not used yet: the pool has created it in this
            # same pass, and has applied its keep-alive limit before. What went since
            # then was evicted to make room.
            later = any(conn.state is State.DIALLING and not conn.users for conn in list(self.live))
            surplus = self._surplus(later, len(self.idle))
            for conn, readable, clean in gone:
                if conn.state is State.DIALLING:
                    # The request that still dials it may yet make it, out of the pool.
                    self.dial_failed(conn)
                    continue
                if conn.state is not State.OPEN:
                    # Closed, or known to be lost, since they were counted.
                    continue
                user = conn.last_user
                if conn.users and (user is None or user.outcome is None):
                    # With threads, one may look while another is about to close
                    # the connection: that close will tell, in a moment.
                    conn.unlisted = True
                    continue
                # Not known to be idle ever since, it cannot have been dropped for that.
                reason = Reason.UNKNOWN if conn.unlisted else self._close_reason(conn, user, at, None, readable, clean)
                if reason is Reason.KEEPALIVE_LIMIT:
                    if surplus <= 0 and self.limits.connections is not None:
                        reason = Reason.POOL_FULL
                    surplus -= 1
                conn.doomed = reason
                self._lose(conn, reason, at, user)

    def _surplus(self, later: bool, idle: int) -> int:
        # How many the pool drops over its keep-alive limit before it creates the
        # first connection of a pass; what else goes makes room for another origin.
        connections, keepalive = self.limits.connections, self.limits.keepalive
        if later or keepalive is None:
            return 0
        if self.limits.counts_only_idle:
            return idle - keepalive
        # 1.0.9 drops idle ones until all are within the limit. If then an idle
        # one is left there is room for a new one, unless both limits are the same.
        return idle if connections is None or keepalive < connections else 0

    def _idle_loss(self, conn: Connection, readable: bool | None, at: int) -> Reason:
        expiry = self.limits.keepalive_expiry
        if expiry is not None and conn.idle_since and at - conn.idle_since >= expiry:
            return Reason.KEEPALIVE_EXPIRED
        if readable is None:
            return Reason.UNKNOWN
        return Reason.SERVER_CLOSED if readable else Reason.KEEPALIVE_LIMIT

    def closed(
        self,
        conn: Connection,
        at: int,
        *,
        by: Exchange | None = None,
        cancelled: bool | None = None,
        readable: bool | None = None,
        goaway: bool = False,
        clean: bool | None = None,
    ) -> Reason | None:
        """The connection is being closed.

        Args:
            conn: which.
            at: when.
            by: the exchange in whose call to the pool it happens; else the user of the connection counts.
            cancelled: whether the exception on its way out is a cancellation; None if there is none.
            readable: whether the socket is readable, None if not known.
            goaway: whether the server has retired the connection.
            clean: whether it was between two messages, None if not known.

        Returns:
            Why; None if it was closed before, or never opened.
        """
        with self.lock:
            before = conn.state
            if not conn.move(State.CLOSED):
                return None
            self.live.pop(conn, None)
            if before is State.DIALLING:
                return None
            user = by or conn.last_user
            if conn.doomed is not None:
                reason = conn.doomed
            elif goaway:
                reason = Reason.GOAWAY
            else:
                reason = self._close_reason(conn, user, at, cancelled, readable, clean)
            spoiled = conn.spoiled if reason in _HIDES_WHAT_SPOILED else None
            if spoiled is not None:
                reason = spoiled.reason
            conn.close_reason = reason
            if user is not None and not user.finished and not user.upgraded:
                user.close_reason = reason.value
                user.lost_by = spoiled
            self.idle.pop(conn, None)
            if before is State.OPEN:
                self._note_loss(spoiled or self._loss(conn, reason, at, user))
            return reason

    def spoils(self, exchange: Exchange, at: int) -> None:
        """Its connection is given back to the pool, though its response has not been read to the end."""
        conn = exchange.conn
        if conn is not None:
            conn.spoiled = Loss(conn.reach, Reason.BODY_NOT_READ, at, exchange.context, exchange.closed_at)

    def _close_reason(
        self,
        conn: Connection,
        user: Exchange | None,
        at: int,
        cancelled: bool | None,
        readable: bool | None,
        clean: bool | None,
    ) -> Reason:
        if user is not None and user.upgraded:
            return Reason.UPGRADED
        if not conn.users:
            if conn.unseen:
                return Reason.UNKNOWN
            if conn.broke is not None and conn.broke.at == conn.idle_since:
                return conn.broke.reason
            if user is not None and user.ended and not keeps_alive(user):
                return Reason.CONNECTION_CLOSE
            if clean is False:
                # The response was read to its end, yet the exchange was not
                # over: httpcore goes on where writing the request has failed.
                return Reason.REQUEST_FAILED if user is not None and user.ended else Reason.UNKNOWN
            return self._idle_loss(conn, readable, at)
        if user is None:
            return Reason.UNKNOWN
        if user.headers_at and (not user.reading_since or user.outcome) and not keeps_alive(user):
            # Reading the body would not have saved it.
            return Reason.CONNECTION_CLOSE if user.outcome in (None, CLOSED_EARLY, COMPLETE) else Reason.REQUEST_FAILED
        if user.outcome == CLOSED_EARLY:
            return Reason.BODY_NOT_READ
        if cancelled is None and user.outcome in (FAILED, CANCELLED):
            cancelled = user.outcome == CANCELLED
        if cancelled is None:
            return Reason.UNKNOWN
        return Reason.REQUEST_CANCELLED if cancelled else Reason.REQUEST_FAILED

    def lost(self, conn: Connection, reason: Reason, at: int, exchange: Exchange | None = None) -> None:
        """The connection is out of the pool's reach, though not closed yet."""
        with self.lock:
            conn.doom(reason)
            if self._lose(conn, reason, at, exchange) and exchange is not None and not exchange.upgraded:
                exchange.close_reason = reason.value

    def shared(self, conn: Connection, exchange: Exchange) -> None:
        """*exchange* failed on a connection that was lost before: another of its requests noticed that first."""
        reason = conn.doomed or conn.close_reason
        if reason is not None and reason in _TAKES_ALL and exchange.close_reason is None:
            exchange.close_reason = reason.value

    def broke(self, conn: Connection, reason: Reason, exchange: Exchange) -> None:
        """A read of the body failed, and so ended *exchange*: what is left of the message is in the way of the next."""
        conn.broke = Loss(conn.reach, reason, exchange.over_at, exchange.context, exchange.closed_at)

    def leaked(self, exchange: Exchange, at: int) -> None:
        """Its response was collected without having been closed: the slot never comes back."""
        conn = exchange.conn
        if conn is None:
            return
        with self.lock:
            conn.leaked = holder(conn, exchange)
            if conn.multiplexed:
                # The others share it on; only it will never be idle again.
                self.idle.pop(conn, None)
                conn.unseen = True
            else:
                self._lose(conn, Reason.RESPONSE_LEAKED, at, exchange)

    def pool_closed(self, at: int) -> None:
        """The pool is being closed, and with it every connection."""
        with self.lock:
            self._closed_before = True
            for conn in list(self.live):
                conn.doom(Reason.CLIENT_CLOSED)
                self._lose(conn, Reason.CLIENT_CLOSED, at)

    def abandoned(self) -> list[Connection]:
        """The pool is gone, and nobody closed it: its connections, ended by the garbage collector."""
        with self.lock:
            gone = [conn for conn in list(self.live) if conn.state in (State.OPEN, State.LOST)]
            for conn in gone:
                conn.move(State.CLOSED)
                conn.close_reason = conn.doomed or Reason.UNKNOWN
            self.live.clear()
            self.idle.clear()
            return gone

    def _lose(self, conn: Connection, reason: Reason, at: int, exchange: Exchange | None = None) -> bool:
        if not conn.move(State.LOST):
            return False
        self.idle.pop(conn, None)
        self._note_loss(self._loss(conn, reason, at, exchange))
        return True

    def _note_loss(self, loss: Loss) -> None:
        losses = self._lost.get(loss.reach)
        if losses is None:
            losses = self._lost[loss.reach] = deque(maxlen=_MAX_LOSSES)
            if len(self._lost) > _MAX_LOST_ORIGINS:
                self._lost.popitem(last=False)
        else:
            self._lost.move_to_end(loss.reach)
        if losses and losses[-1].at > loss.at:
            # One that was to be replaced by a dial that failed: others have been lost since, and come first.
            losses = self._lost[loss.reach] = deque(sorted([*losses, loss], key=_when), _MAX_LOSSES)
        else:
            losses.append(loss)

    def _loss(self, conn: Connection, reason: Reason, at: int, exchange: Exchange | None) -> Loss:
        if exchange is None and conn.broke is not None and conn.broke.at == conn.idle_since:
            return conn.broke._replace(reason=reason, at=at)
        if exchange is None or reason not in BLAMED:
            return Loss(conn.reach, reason, at)
        return Loss(conn.reach, reason, at, exchange.context, exchange.closed_at)

    def holders(self, reach: Origin | Shared | None = None) -> list[Holder]:
        """The requests that hold the pool's connections, oldest first.

        Args:
            reach: of connections with this reach only, where each has a limit of its own.
        """
        with self.lock:
            found = [held for conn, held in list(self.kept.items()) if reach is None or conn.reach == reach]
            for conn in list(self.live):
                if reach is not None and conn.reach != reach:
                    continue
                found += [holder(conn, exchange) for exchange in list(conn.users)]
                if conn.leaked is not None:
                    found.append(conn.leaked)
            return sorted(found, key=_began)


def holder(conn: Connection, exchange: Exchange) -> Holder:
    """What *exchange* says of itself, if somebody waits in vain for *conn*, which it holds."""
    # While it dials, it holds the pool's slot from the moment that the pool decided to open one.
    since = exchange.acquired_at or max(conn.created_at, exchange.started)
    return Holder(exchange.started, since, exchange.context, exchange.made_at)


_when: Final = attrgetter("at")
_began: Final = attrgetter("began")


def _closes(name: bytes, value: bytes) -> bool:
    # A list of tokens, any of which may have "close" within it (RFC 9110, section 7.6.1).
    return name.lower() == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]


class Ended(str, Enum):
    """What in an exchange made its connection end with it."""

    #: This program's request said ``Connection: close``.
    CLIENT = "client"
    #: The answer said so.
    SERVER = "server"
    #: It was answered in HTTP/1.0.
    HTTP_1_0 = "http_1_0"
    #: The answer had neither a length nor chunks: its body ended with the connection.
    NO_LENGTH = "no_length"


def keeps_alive(exchange: Exchange) -> bool:
    """Whether HTTP/1.1 lets the connection live on after this exchange (RFC 9112, sections 6.3 and 9.3)."""
    return exchange.persistent if exchange.persistent is not None else ended_by(exchange) is None


def ended_by(exchange: Exchange) -> Ended | None:
    """What does not let the connection live on after this exchange; None if nothing, or if the adapter does not say.

    A server that was asked to close says so, too: then it was the request.
    """
    if exchange.persistent is not None:
        return None
    if any(_closes(name, value) for name, value in exchange.request_headers):
        return Ended.CLIENT
    if exchange.http_version < b"HTTP/1.1":
        return Ended.HTTP_1_0
    # Neither length nor chunks: the body ends with the connection.
    delimited = exchange.method == b"HEAD" or exchange.status in (204, 304)
    for name, value in exchange.response_headers:
        if _closes(name, value):
            return Ended.SERVER
        delimited = delimited or name.lower() in (b"content-length", b"transfer-encoding")
    return None if delimited else Ended.NO_LENGTH
