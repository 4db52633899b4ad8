"""Every private name we lean on, as read in httpcore 1.0.9 and httpcore2 2.16.2.

A name that is not there costs what it would have told, and nothing else: each
function here has an answer for "not known". Pools may be stand-ins that have
nothing of a pool, so nothing is assumed of them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

from ...core.ledger import Limits
from ...core.timeline import Address, Origin, Shared
from ...observe import probe
from ...observe.evidence import CONNECT_TIMEOUT, POOL_TIMEOUT, READ_TIMEOUT, WRITE_TIMEOUT, Timeout, configured
from ...observe.marks import answer

_UNLIMITED: Final = 2**31
#: The headers that say that a body follows.
_FRAMES: Final = frozenset({b"content-length", b"transfer-encoding"})
#: The cores that compare only idle connections with ``max_keepalive_connections``, where httpcore 1.0.9 compares all.
COUNT_ONLY_IDLE: Final = frozenset({"httpcore2"})
#: How many frames a walk up from a body's close looks at: a bound, far above the few that there are.
_MOST_GENERATORS: Final = 32
#: The packages whose exceptions are a pool's own.
_CORES: Final = frozenset({"httpcore", "httpcore2"})
#: Which of the configured timeouts struck, by the exception's class. Their names are public, and the values' keys are
#: these (https://www.encode.io/httpcore/extensions/#timeout).
_TIMEOUTS: Final = {
    "PoolTimeout": POOL_TIMEOUT,
    "ConnectTimeout": CONNECT_TIMEOUT,
    "ReadTimeout": READ_TIMEOUT,
    "WriteTimeout": WRITE_TIMEOUT,
}


def limits(pool: object, counts_only_idle: bool) -> Limits:
    """What the pool was set to: ``_max_connections``, ``_max_keepalive_connections``, ``_keepalive_expiry``."""

    def number(name: str) -> int | None:
        value = getattr(pool, name, None)
        # Unlimited is kept as sys.maxsize.
        return value if isinstance(value, int) and value < _UNLIMITED else None

    expiry = getattr(pool, "_keepalive_expiry", None)
    if not isinstance(expiry, (int, float)) or not math.isfinite(expiry):
        # Infinity is a limit that httpcore takes, and none.
        expiry = None
    return Limits(
        connections=number("_max_connections"),
        keepalive=number("_max_keepalive_connections"),
        keepalive_expiry=None if expiry is None else int(expiry * 1e9),
        counts_only_idle=counts_only_idle,
    )


def connections(pool: object) -> list[Any]:
    """The connections the pool lists: ``_connections``."""
    listed = getattr(pool, "_connections", None)
    return list(listed) if isinstance(listed, list) else []


def proxied(pool: object) -> bool:
    """Whether the pool goes through a proxy: ``_proxy_url`` of a proxy pool, ``_proxy`` of a plain one."""
    return getattr(pool, "_proxy_url", None) is not None or getattr(pool, "_proxy", None) is not None


class Probe(probe.Probe):
    """Asks a connection what it knows, without keeping it alive."""

    __slots__ = ("_connection", "_stream", "proxied")

    def __init__(self, connection: object, proxied: bool) -> None:
        self._connection = _reference(connection)
        self._stream: Callable[[], Any] = _nothing
        self.proxied = proxied

    def watches(self, stream: object) -> None:
        """*stream* is now the connection's network stream."""
        self._stream = _reference(stream)

    def readable(self) -> bool | None:
        """Whether the socket is readable, as the pool itself asks it; None if not known."""
        stream = self._stream()
        # Closed already, it may raise: trio's does.
        said = answer(lambda: stream.get_extra_info("is_readable")) if stream is not None else None
        return None if said is None else bool(said)

    def goaway(self) -> bool:
        """Whether HTTP/2 has retired it: ``_connection_terminated`` or ``_used_all_stream_ids``."""
        inner = innermost(self._connection())
        return bool(
            getattr(inner, "_connection_terminated", None) is not None or getattr(inner, "_used_all_stream_ids", False)
        )

    def clean(self) -> bool | None:
        """Whether HTTP/1.1 is between two messages: ``_h11_state``, which a close leaves alone; None if not known."""
        state = getattr(innermost(self._connection()), "_h11_state", None)
        ours = getattr(state, "our_state", None)
        return None if ours is None else str(ours) == "IDLE"

    def unreadable(self) -> int | None:
        """How many bytes are left of what HTTP/1.1 could not parse: ``_h11_state``; None if that was not so."""
        state: Any = getattr(innermost(self._connection()), "_h11_state", None)
        if str(getattr(state, "their_state", None)) != "ERROR":
            return None
        return answer(lambda: len(state.trailing_data[0])) or 0

    def stream(self) -> Any:
        """The network stream that is watched; None if it is gone."""
        return self._stream()

    def network_stream(self) -> Any:
        """Its network stream, once it is connected: see below; None if not known."""
        return network_stream(self._connection())

    def stream_limit(self) -> int | None:
        """On HTTP/2, how many streams may be open: ``_max_streams``; None if not known."""
        limit = getattr(innermost(self._connection()), "_max_streams", None)
        return limit if isinstance(limit, int) else None

    def available(self) -> bool:
        """Whether it takes further requests, which is part of the connection interface."""
        connection = self._connection()
        return connection is None or bool(connection.is_available())


def innermost(connection: object) -> Any:
    """The HTTP/1.1 or HTTP/2 connection inside proxies and dials: ``_connection``, as often as there is one."""
    inner = connection
    # A dial in a tunnel in a pool's connection is as deep as it gets; a stand-in
    # that has every attribute there is would go on for ever.
    for _ in range(8):
        nested = getattr(inner, "_connection", None)
        if nested is None:
            break
        inner = nested
    return inner


def network_stream(connection: object) -> Any:
    """The network stream of an open connection: ``_network_stream``; None if not known."""
    return getattr(innermost(connection), "_network_stream", None)


def carried(connection: object) -> int | None:
    """How many requests it has carried: ``_request_count``; None if not known."""
    count = getattr(innermost(connection), "_request_count", None)
    return count if isinstance(count, int) else None


def multiplexes(connection: object) -> bool:
    """Whether it speaks HTTP/2: ``_h2_state``."""
    return hasattr(innermost(connection), "_h2_state")


def plain_origin(origin: Any) -> Origin:
    """The library's origin, whose parts are bytes, as ours."""
    return Origin(origin.scheme.decode("ascii", "replace"), origin.host.decode("ascii", "replace"), origin.port)


def target(request: Any) -> Origin | None:
    """What a request is for; None where that cannot be told, as for a scheme that the library does not know."""
    return answer(lambda: plain_origin(request.url.origin))


def bodiless(request: Any) -> bool:
    """Whether a request has no body (RFC 9112, section 6.3)."""
    framed = answer(lambda: [name for name, _ in request.headers if name.lower() in _FRAMES])
    return framed == []


def extensions(stream: Any) -> Any:
    """The extensions of the request that a response's stream belongs to: ``_pool_request``; None if not known."""
    return answer(lambda: stream._pool_request.request.extensions)


def origin(connection: object) -> Origin | None:
    """Which origin a connection serves: ``_remote_origin`` of a proxied one, ``_origin`` of a plain one."""
    found = getattr(connection, "_remote_origin", None) or getattr(connection, "_origin", None)
    return plain_origin(found) if found is not None else None


def shared(connection: Any) -> Shared | None:
    """Whether a connection through a forward proxy would carry requests to any plain-HTTP origin: see core/ledger.py.

    What it says of itself is public (``can_handle_request``), ``_remote_origin`` and ``_proxy_origin`` are not.
    """
    own, proxy = getattr(connection, "_remote_origin", None), getattr(connection, "_proxy_origin", None)

    def ask() -> Shared | None:
        if own is None or proxy is None or own.scheme != b"http":
            return None
        # A name that nobody asks for (RFC 2606), so it can't be the connection's own.
        other = type(own)(own.scheme, b"other.invalid", own.port)
        return Shared(plain_origin(proxy)) if connection.can_handle_request(other) is True else None

    return answer(ask)


def address(stream: Any, which: str) -> Address | None:
    """An end of a network stream, ``server_addr`` or ``client_addr``; None if not known."""
    # The peer may be gone already: then its address is not known.
    found = answer(lambda: stream.get_extra_info(which))
    if isinstance(found, tuple) and len(found) >= 2 and isinstance(found[0], str):
        return Address(found[0], found[1])
    return Address(found, None) if isinstance(found, str) and found else None


def timeout(error: BaseException, extensions: Any) -> Timeout:
    """Which timeout *error* is, and how long: *extensions* are the request's, where the client puts them (public)."""
    which = _TIMEOUTS.get(type(error).__name__)
    # A body that the application makes may raise another client's.
    if which is None or type(error).__module__.partition(".")[0] not in _CORES:
        return Timeout()
    timeouts = extensions.get("timeout") if isinstance(extensions, Mapping) else None
    return configured(which, timeouts.get(which) if isinstance(timeouts, Mapping) else None)


# Where an exception leaves a loop over a body, the code that has the response closes that
# next: httpx through to the stream's own `close()`, which we watch. httpx2 closes
# the response as soon as the iterator ends and the stream no second time, so there
# the response is watched, from the first time on that this happens.


def owner(frame: FrameType | None) -> tuple[bool, Any]:
    """Who closes a body that *frame* closes at the end of its iterator, and will be closed once more.

    Returns:
        Whether it will: the body's own iterator closes it, or a response does, and which one, at the end of its.
    """
    # An asynchronous one is ended by the event loop, when nobody has the response any more.
    if frame is not None and frame.f_code.co_name == "__iter__":
        return True, None
    for _ in range(_MOST_GENERATORS):
        # Once responses are watched, ours stands in for their `close()`: lookalike.preceded().
        if frame is None or frame.f_code.co_name not in ("close", "aclose", "standing_in"):
            break
        outer = frame.f_back
        if outer is not None and outer.f_code.co_name in ("iter_raw", "aiter_raw"):
            return True, frame.f_locals.get("self")
        frame = outer
    return False, None


def _reference(thing: object) -> Callable[[], Any]:
    try:
        return weakref.ref(thing)
    except TypeError:
        return _nothing


def _nothing() -> None:
    return None
