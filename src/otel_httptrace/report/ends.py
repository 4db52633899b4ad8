# A client's request and the server's span of it are one trace: that span's parent is
# the request's. They come in any order, from processes that know nothing of each other,
# and their clocks differ: nothing here compares times of day, only durations.
#
# Which connection it was is told by ports. The request that opened a connection has the
# client's own, and the server's first span on it has the peer's: equal, they are one TCP
# connection; if not, something stands between, and nothing is said of what that is.
# A connection is kept in mind by its two first spans, so each later request is known, too.
#
# What is kept is bounded: of more requests than that the oldest have no other half.

"""Both ends of requests, brought together."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Generic, TypeVar

from ..server import names as served
from ..telemetry import names
from .rows import Half, Lost, Other, Row, Served
from .spans import Source

_MOST: Final = 20_000
#: Seconds by which the client's idle time may be shorter than the server's, which ended with the connection: the
#: request was on its way then. Or two round trips, where those are known and longer.
_UNDER_WAY: Final = 0.05

K = TypeVar("K")
V = TypeVar("V")


class _Recent(OrderedDict[K, V], Generic[K, V]):
    """The last so many."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > _MOST:
            self.popitem(last=False)


class Ends:
    """Takes requests of clients and of servers, in any order, and tells of the one what the other knows."""

    def __init__(self) -> None:
        #: By the client's trace and span; None where servers tell of several requests of one span.
        self._halves: _Recent[tuple[str, str], Half | None] = _Recent()
        #: By the client's connection: the request that opened it, and the port that it was opened from.
        self._opened: _Recent[tuple[Source, int], tuple[str, str, int | None]] = _Recent()
        #: By the server's connection: the peer's address and port.
        self._peers: _Recent[tuple[Source, int], tuple[str, int]] = _Recent()
        #: By the server's process, the peer's address and port.
        self._lost: _Recent[tuple[Source, str, int], Lost] = _Recent()
        #: Clients' requests that opened a connection, or ended one.
        self._told: _Recent[tuple[str, str], None] = _Recent()

    def __bool__(self) -> bool:
        """Whether a server has told of anything that may be a client's."""
        return bool(self._halves or self._lost)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ends:
        """It is the same for all: what is known does not depend on who asks."""
        return self

    def client(self, row: Row) -> None:
        """Keep what is needed of a client's request."""
        known, opened = row.attributes, row.opened
        if opened and row.connection is not None:
            self._opened[row.connection] = (row.trace_id, row.span_id, known.get(names.NETWORK_LOCAL_PORT))
        if opened or names.CONN_CLOSE_REASON in known or row.failed:
            self._told[row.trace_id, row.span_id] = None

    def server(self, row: Served) -> None:
        """Keep what is needed of what a server says."""
        if row.parent_id:
            key = (row.trace_id, row.parent_id)
            self._halves[key] = None if key in self._halves else row.half
        if row.connection is not None and row.port is not None:
            self._peers[row.connection] = (row.address, row.port)
        lost, port = row.lost, row.attributes.get(served.LOST_PORT)
        if lost is not None and port is not None:
            self._lost[row.source, row.address, port] = lost

    def known(self, row: Served) -> bool:
        """Whether the client has told of this request, and of its connection: then its own verdicts say more."""
        return (row.trace_id, row.parent_id) in self._told

    def peer(self, row: Served) -> str:
        """Who is at the other end of the connection: the address, empty if that is not known."""
        known = self._peers.get(row.connection) if row.connection is not None else None
        return known[0] if known is not None else row.address

    def of(self, row: Row) -> Other | None:
        """What is known of a client's request from its other end; None if nothing is."""
        # Of a span in which several were sent nobody knows which one a server's only span is of: the others may have
        # gone to servers that tell nothing.
        half = None if row.before else self._halves.get((row.trace_id, row.span_id))
        opener = self._opened.get(row.connection) if row.connection is not None else None
        first = self._halves.get(opener[:2]) if opener is not None else None
        port = opener[2] if opener is not None else None
        same, lost = None, None
        if first is not None:
            address, seen = self._peer(first)
            if port is not None and seen is not None:
                same = port == seen
            if same:
                lost = self._lost_of(row, self._lost.get((first.source, address, port or 0)))
        if half is None and lost is None and same is None:
            return None
        return Other(half, same, lost)

    def _peer(self, half: Half) -> tuple[str, int | None]:
        known = self._peers.get((half.source, half.connection)) if half.connection is not None else None
        return known or (half.address, half.port)

    def _lost_of(self, row: Row, lost: Lost | None) -> Lost | None:
        # Ports come again: it is this connection if it had carried as many requests, and this one found it so.
        known = row.attributes
        idle, before = known.get(names.CONN_IDLE), known.get(names.CONN_REQUESTS)
        if lost is None or idle is None or before not in (None, lost.requests):
            return None
        return lost if idle >= lost.idle - max(_UNDER_WAY, 2.0 * known.get(names.TCP_RTT, 0.0)) else None
