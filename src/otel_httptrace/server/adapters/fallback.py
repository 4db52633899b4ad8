# A server that we know nothing of (granian, waitress, Daphne, whatever comes) still
# tells the application the client's address and port: the scope's `client`, the
# environment's REMOTE_ADDR and REMOTE_PORT. Two requests from one such pair came on
# one connection, or the port was used again; the client's system does not do that
# for a minute or so after a close (TIME_WAIT), but a proxy that rewrites them may
# write anything. So this is inferred, and says so; it knows no beginning and no
# end, and so neither an age nor a close. A pair that has not been seen for a while
# is forgotten.

"""Any other server: requests that share the client's address and port share a connection."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

#: So many pairs are remembered; the least recently seen one is forgotten first.
_MOST: Final = 10_000
#: A pair that has not been seen for as long as this, in nanoseconds, is another connection.
_FORGOTTEN: Final = 120 * 1_000_000_000


#: The first port that a client can have without being root.
_FIRST: Final = 1024


class Inferred:
    """What is known of the connection of one request."""

    __slots__ = ("before", "number")

    def __init__(self, number: int, before: int) -> None:
        #: Unique in the process.
        self.number = number
        #: Requests that came from this address and port before.
        self.before = before


class Fallback:
    """Connections, by the client's address and port."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start from nothing."""
        self._lock = threading.RLock()
        self._seen: OrderedDict[tuple[str, int], _Pair] = OrderedDict()
        self._count = 0

    def request(self, carrier: Any, at: int | None = None) -> Inferred | None:
        """What is known of a request; None if it does not tell the client's port.

        Args:
            carrier: what the server handed to the application: a scope or an environment.
            at: when it came, in nanoseconds; now, if it is not told.
        """
        client = _client(carrier)
        if client is None:
            return None
        now = time.monotonic_ns() if at is None else at
        with self._lock:
            pair = self._seen.get(client)
            if pair is None or now - pair.seen_at > _FORGOTTEN:
                self._count += 1
                pair = self._seen[client] = _Pair(self._count)
                if len(self._seen) > _MOST:
                    self._seen.popitem(last=False)
            self._seen.move_to_end(client)
            pair.seen_at = now
            pair.requests += 1
            return Inferred(pair.number, pair.requests - 1)


class _Pair:
    __slots__ = ("number", "requests", "seen_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = 0
        self.seen_at = 0


def _client(carrier: Any) -> tuple[str, int] | None:
    if not isinstance(carrier, Mapping):
        # Django's request has its environment in META.
        carrier = getattr(carrier, "META", None)
        if not isinstance(carrier, Mapping):
            return None
    client: Any = carrier.get("client")
    if client is None:
        client = carrier.get("REMOTE_ADDR"), carrier.get("REMOTE_PORT")
    try:
        address, port = client
        found = str(ip_address(address)), int(port)
    except (TypeError, ValueError):
        # A test client's, say, which has a name of its own.
        return None
    # Nor is there a client with a port that only servers have, as httpx's ASGITransport says; and
    # uvicorn writes 0 where it has taken the address from a proxy's header.
    return found if found[1] >= _FIRST else None
