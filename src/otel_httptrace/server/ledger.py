# Why did this connection end? The server knows for a moment and tells nobody.
# This module remembers, for one process.
#
# Rule 1: reasons are decided here and nowhere else.
# Rule 2: nothing here reads a clock, a socket or a span.
# Rule 3: what was not seen is UNKNOWN. A wrong reason costs an incident an
#         hour; a missing one costs it a minute.
#
# Two ends can close a connection, and the first one did it: what the other does
# afterwards is an answer. So a reason, once decided, stands. What a server makes
# up its mind about while a request is under way (it is told to stop, the client
# said "Connection: close") is a word that is kept until the request is over: the
# client may still leave before that, and then it was the client.
#
#   told(word)     it will not carry another request, because of *word*
#   closing(why)   the server closes it now; without a *why* the word says it
#   hung_up()      the client's end of the stream, or a reset, came
#   lost()         the socket is gone
#
# An adapter that did not see who closed tells `lost` alone: that is UNKNOWN.

"""The ledger of a server's connections: how often each was used, and why it ended."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple


class Reason(str, Enum):
    """Why a server's connection ended, "because"."""

    #: It was idle for as long as the server's keep-alive timeout.
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    #: The client closed it between two requests, or before the first.
    CLIENT_CLOSED = "client_closed"
    #: The client closed it while a request was under way.
    CLIENT_LEFT = "client_left"
    #: ``Connection: close`` on either side, or HTTP/1.0 without keep-alive.
    CONNECTION_CLOSE = "connection_close"
    #: gunicorn's sync worker closes every connection after its first response.
    WORKER_SYNC = "worker_sync"
    #: The worker, or the connection, has carried as many requests as it may.
    MAX_REQUESTS = "max_requests"
    #: The server, or the worker, is told to stop.
    SHUTDOWN = "shutdown"
    #: HTTP/2: the client sent GOAWAY.
    GOAWAY = "goaway"
    #: It became a WebSocket, or another protocol: it carries no more requests.
    UPGRADED = "upgraded"
    #: The application failed, or what came was no HTTP.
    ERROR = "error"
    #: Not seen.
    UNKNOWN = "unknown"


#: What ends a connection that carries no request: no span of a request can tell, so one on the next connection does.
BETWEEN_REQUESTS: Final = frozenset({Reason.KEEPALIVE_TIMEOUT, Reason.CLIENT_CLOSED})

#: At most so many pairs of a port and a peer are told apart: the first ones, as OpenTelemetry's SDKs do it where a
#: metric has too many attributes (specification, "Cardinality limits"). What comes later is counted as `OTHER`. None
#: makes room for another: what it had been counted by would be counted twice, and Python's SDK (1.45) keeps whatever
#: it was ever shown.
MAX_PEERS: Final = 200
OTHER: Final = "_other"
#: So many connections of a peer that ended between requests are remembered, until another one is opened.
_MAX_LOSSES: Final = 16


class Request:
    """One request, from when the server hands it to the application until its response is over.

    Args:
        conn: what it came on.
        before: how many requests that had carried before.
        idle: how long nothing had used it, in nanoseconds; None on a new connection, and on one that is shared.
        age: how old it was, in nanoseconds.
    """

    __slots__ = ("age", "answering", "before", "conn", "ended_at", "idle", "keys", "over", "released", "settle", "span")

    def __init__(self, conn: Connection, before: int, idle: int | None, age: int) -> None:
        self.conn = conn
        self.before = before
        self.idle = idle
        self.age = age
        #: The watch's: what it is found by.
        self.keys: tuple[int, ...] = ()
        #: Whether the last part of its response is being written: the client may have it all.
        self.answering = False
        #: Whether its response is over.
        self.over = False
        #: Telemetry's: the span that it is told on, when that was to end, and whether it may.
        self.span: Any = None
        self.ended_at: int | None = None
        self.released = False
        #: The adapter's: asked, where telemetry must know, whether the response is over. It tells, if so.
        self.settle: Callable[[], object] | None = None


class Loss(NamedTuple):
    """A connection that ended between two requests.

    Args:
        port: the peer's.
        reason: why it ended.
        idle: for how long nothing had used it then, in nanoseconds.
        requests: that it had carried.
    """

    port: int | None
    reason: Reason
    idle: int
    requests: int


class Connection:
    """One accepted connection. All times are nanoseconds of one clock.

    Args:
        ledger: that counts it.
        number: unique in the process.
        where: what it is counted by.
        peer: the peer's address; None on a Unix socket, as is ``peer_port``.
        at: when it was accepted.
    """

    __slots__ = (
        "_gone", "_word", "after", "at", "closed", "closing_at", "id", "idle_since", "ledger", "peer", "peer_port",
        "reason", "requests", "under_way", "where",
    )  # fmt: skip

    def __init__(
        self, ledger: Ledger, number: int, where: Where, peer: str | None, peer_port: int | None, at: int
    ) -> None:
        self.ledger = ledger
        self.id = number
        self.where = where
        self.peer = peer
        self.peer_port = peer_port
        self.at = at
        #: Requests that have begun on it.
        self.requests = 0
        self.idle_since = at
        #: One on HTTP/1, and for a moment two where they are pipelined; any number on HTTP/2.
        self.under_way: list[Request] = []
        #: Why it ends, once that is decided.
        self.reason: Reason | None = None
        #: When that was decided, if it was seen.
        self.closing_at: int | None = None
        #: What it came after: the last connection of that peer that ended between requests, and explains no other yet.
        self.after: Loss | None = None
        self._word: Reason | None = None
        #: Whether the client's end came when it may have had the whole response.
        self._gone = False
        self.closed = False

    def __repr__(self) -> str:
        """As ``<Connection 3: 2 requests, closed because keepalive_timeout>``."""
        state = "busy" if self.under_way else "idle"
        if self.reason is not None:
            state = f"{'closed' if self.closed else 'closing'} because {self.reason.value}"
        return f"<Connection {self.id}: {self.requests} requests, {state}>"

    def began(self, at: int) -> Request:
        """A request is handed to the application."""
        before = self.requests
        if not before:
            self.after = self.ledger.explains(self)
        idle = at - self.idle_since if before and not self.under_way else None
        request = Request(self, before, idle, at - self.at)
        self.requests = before + 1
        self.under_way.append(request)
        return request

    def ended(self, request: Request, at: int) -> None:
        """The response to *request* is over, whether it is complete or not; told again, it counts once."""
        if not request.over:
            request.over = True
            self.under_way.remove(request)
            self.idle_since = at
            if self._gone:
                self.closing(at=at)

    def told(self, word: Reason) -> None:
        """It will carry no other request, because of *word*: the first one stands."""
        if self._word is None:
            self._word = word

    def closing(self, why: Reason | None = None, at: int | None = None) -> Reason:
        """The server closes it: answers why that is, or why it had been ending already.

        Args:
            why: because of this; without, because of what was told before.
            at: when, if that is known.
        """
        if self.reason is None:
            if self._gone:
                why = Reason.CLIENT_LEFT if self.under_way else Reason.CLIENT_CLOSED
            self.reason = why or self._word or Reason.UNKNOWN
            self.closing_at = at
        return self.reason

    def hung_up(self, at: int | None = None, *, unsent: bool = False) -> Reason | None:
        """The client's end of the stream came, or a reset: answers why it ends.

        None where the last part of a response is being written: that shows when it is.

        Args:
            at: when.
            unsent: a part of a response was not taken.
        """
        if unsent:
            return self.closing(Reason.CLIENT_LEFT, at)
        if self.reason is None and self.under_way and all(request.answering for request in self.under_way):
            self._gone = True
            return None
        return self.closing(Reason.CLIENT_LEFT if self.under_way else Reason.CLIENT_CLOSED, at)


class Where(NamedTuple):
    """What connections are counted by."""

    #: The port that they were accepted on; None on a Unix socket.
    port: int | None
    #: The peer's address; None on a Unix socket.
    peer: str | None


class Counts:
    """What was counted of the connections of one port and peer: of the requests, those on connections that are over."""

    __slots__ = ("closed", "opened", "requests")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: Counter[Reason] = Counter()
        #: By whether the connection had carried one before.
        self.requests: Counter[bool] = Counter()

    def add(self, other: Counts) -> None:
        """Count what *other* has counted, too."""
        self.opened += other.opened
        self.closed.update(other.closed)
        self.requests.update(other.requests)


class Ledger:
    """The connections of a process: those that are open, and counts of those that were.

    Args:
        max_peers: how many pairs of a port and a peer's address are told apart, and of how many it is remembered
            which connections they have lost.
    """

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._numbers = itertools.count(1)
        self.begin()

    def begin(self) -> None:
        """Count from nothing: in a forked process the connections are the parent's."""
        # Held for a few stores. Re-entrant, as a signal handler may come in between.
        self._lock = threading.RLock()
        self._counts: dict[Where, Counts] = {}
        #: Connections that ended between requests and explain no new one yet, by port and peer: the least recently lost
        #: is forgotten first.
        self._losses: OrderedDict[Where, deque[Loss]] = OrderedDict()
        self._live: dict[int, Connection] = {}

    def __repr__(self) -> str:
        """As ``<Ledger: 3 connections open>``."""
        return f"<Ledger: {len(self._live)} connections open>"

    def accepted(self, port: int | None, peer: str | None, peer_port: int | None, at: int) -> Connection:
        """A connection was accepted."""
        where = Where(port, peer)
        with self._lock:
            counts = self._counts.get(where)
            if counts is None:
                if len(self._counts) >= self._max_peers:
                    where = Where(port, OTHER)
                counts = self._counts.setdefault(where, Counts())
            counts.opened += 1
            conn = Connection(self, next(self._numbers), where, peer, peer_port, at)
            self._live[conn.id] = conn
        return conn

    def lost(self, conn: Connection) -> bool:
        """The socket is gone; False where that has been told before, or it is another process's."""
        reason = conn.closing()
        with self._lock:
            conn.closed = True
            if self._live.pop(conn.id, None) is not conn:
                return False
            counts = self._counts[conn.where]
            counts.closed[reason] += 1
            _count_requests(counts, conn)
            ended = conn.closing_at
            # On a Unix socket nobody knows whose it was.
            if ended is not None and conn.requests and reason in BETWEEN_REQUESTS and conn.peer is not None:
                self._remember(conn, Loss(conn.peer_port, reason, ended - conn.idle_since, conn.requests))
        return True

    def _remember(self, conn: Connection, loss: Loss) -> None:
        who = Where(conn.where.port, conn.peer)
        losses = self._losses.setdefault(who, deque(maxlen=_MAX_LOSSES))
        losses.append(loss)
        self._losses.move_to_end(who)
        if len(self._losses) > self._max_peers:
            self._losses.popitem(last=False)

    def explains(self, conn: Connection) -> Loss | None:
        """What the first request on *conn* came after: each loss explains one new connection, the last one first."""
        who = Where(conn.where.port, conn.peer)
        with self._lock:
            losses = self._losses.get(who)
            if losses is None:
                return None
            loss = losses.pop()
            if not losses:
                del self._losses[who]
            return loss

    def counted(self) -> list[tuple[Where, Counts]]:
        """What has been counted until now, by port and peer, the requests of open connections among it."""
        totals: dict[Where, Counts] = {}
        with self._lock:
            for where, counts in self._counts.items():
                totals.setdefault(where, Counts()).add(counts)
            for conn in self._live.values():
                _count_requests(totals[conn.where], conn)
        return list(totals.items())

    def open(self) -> Counter[tuple[int | None, bool]]:
        """Open connections, by port and whether they are carrying a request."""
        with self._lock:
            return Counter((conn.where.port, bool(conn.under_way)) for conn in self._live.values())


def _count_requests(counts: Counts, conn: Connection) -> None:
    if conn.requests:
        counts.requests[False] += 1
        counts.requests[True] += conn.requests - 1
