"""Every private name we lean on, as read in httpcore 1.0.9 and httpcore2 2.16.2, and how we patch.

A name that is not there costs what it would have told, and nothing else: each
function here has an answer for "not known". Pools may be stand-ins that have
nothing of a pool, so nothing is assumed of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from ..core.ledger import Limits
from ..core.timeline import Address, Origin, Shared
from ..guard import interrupted
from .lookalike import lookalike

T = TypeVar("T")

#: The one attribute that we put on objects of the libraries: on a pool its
#: ledger, on a connection and its streams the connection's record, on a
#: response's stream what watches it. None of these refers back to its object,
#: so no reference cycle keeps a socket open longer than it would have been.
KEY: Final = "_otel_httptrace"

_UNLIMITED: Final = 2**31


# Not by way of `__dict__`: CPython makes no dict for an object as long as nobody
# asks for it, and reads the attributes of one that has none quicker. Nor by
# `getattr` and `setattr`, which would call what the object's own class has.
_get: Final = object.__getattribute__
_set: Final = object.__setattr__


#: What we put on a thing, by `KEY`: `attached`, for hooks that every request goes through, and without its answer.
stored: Final = _get


def attached(thing: object) -> Any:
    """What we put on *thing*; None if nothing."""
    try:
        return _get(thing, KEY)
    except AttributeError:
        return None


def attach(thing: object, value: object) -> bool:
    """Put *value* on *thing*; False where that is not possible."""
    try:
        _set(thing, KEY, value)
    except (AttributeError, TypeError):
        return False
    return True


def attach_unless(thing: object, value: T, stands: Callable[[T], bool]) -> T | None:
    """Put *value* on *thing*, unless what is there *stands*; what is there then, None where that is not possible."""
    for _ in range(8):
        try:
            there: T = _get(thing, KEY)
        except AttributeError:
            # From finding nothing to this is one step: no signal handler comes in between.
            try:
                _set(thing, KEY, value)
            except (AttributeError, TypeError):
                return None
            return value
        if stands(there):
            return there
        object.__delattr__(thing, KEY)
    return None


def limits(pool: object, counts_only_idle: bool) -> Limits:
    """What the pool was set to: ``_max_connections``, ``_max_keepalive_connections``, ``_keepalive_expiry``."""

    def number(name: str) -> int | None:
        value = getattr(pool, name, None)
        # Unlimited is kept as sys.maxsize.
        return value if isinstance(value, int) and value < _UNLIMITED else None

    expiry = getattr(pool, "_keepalive_expiry", None)
    return Limits(
        connections=number("_max_connections"),
        keepalive=number("_max_keepalive_connections"),
        keepalive_expiry=int(expiry * 1e9) if isinstance(expiry, (int, float)) else None,
        counts_only_idle=counts_only_idle,
    )


def connections(pool: object) -> list[Any]:
    """The connections the pool lists: ``_connections``."""
    listed = getattr(pool, "_connections", None)
    return list(listed) if isinstance(listed, list) else []


def proxied(pool: object) -> bool:
    """Whether the pool goes through a proxy: ``_proxy_url`` of a proxy pool, ``_proxy`` of a plain one."""
    return getattr(pool, "_proxy_url", None) is not None or getattr(pool, "_proxy", None) is not None


class Probe:
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

    def stream(self) -> Any:
        """The network stream that is watched; None if it is gone."""
        return self._stream()

    def network_stream(self) -> Any:
        """Its network stream, once it is connected: see below; None if not known."""
        return network_stream(self._connection())

    def streams(self) -> tuple[int | None, int | None]:
        """On HTTP/2, how many streams are open and may be: ``_events``, ``_max_streams``; None if not known."""
        inner = innermost(self._connection())
        events, limit = getattr(inner, "_events", None), getattr(inner, "_max_streams", None)
        return (len(events) if isinstance(events, dict) else None), (limit if isinstance(limit, int) else None)

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


def answer(ask: Callable[[], T]) -> T | None:
    """What *ask* answers; None where it fails, unless it is the application that interrupted it."""
    try:
        return ask()
    except Exception as error:
        if interrupted(error):
            raise
        return None


def _reference(thing: object) -> Callable[[], Any]:
    try:
        return weakref.ref(thing)
    except TypeError:
        return _nothing


def _nothing() -> None:
    return None


class Patches:
    """Replaced attributes, each put back only where it is still ours.

    Classes may be made at run time, and go: of a class nothing is kept that would keep it.

    A mock (respx, vcrpy, unittest.mock) that stood there before us puts the original back as it ends, and
    so drops what we had put around it. Who wraps ours keeps it: so what is gone is nowhere called, and can
    be put there anew.
    """

    def __init__(self) -> None:
        self._replaced: dict[int, _Owner] = {}
        #: Called with a reference to each wrapper that is dropped, which may be anywhere: no Python (see `Watch`).
        self.on_dropped: Callable[[weakref.ref[Any]], object] | None = None
        self._restored = False

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace *owner*'s attribute *name* by ``make(original)``, once, and anew where that was dropped.

        Raises:
            AttributeError: there is no such attribute.
            TypeError: *owner* cannot be patched (a type implemented in C).
        """
        if self._restored:
            # A hook that was at work when all was put back.
            return
        known = self._replaced.get(id(owner))
        earlier = None if known is None else known.wrappers.get(name)
        if earlier is not None and earlier.wrapper() is not None:
            return
        inherited = name not in vars(owner)
        original = getattr(owner, name)
        wrapper = lookalike(make(original), original)
        if known is None:
            replaced, key = self._replaced, id(owner)
            known = replaced.setdefault(key, _Owner(weakref.ref(owner, lambda _: replaced.pop(key, None)), {}))
        # Noted before it is done, so that whatever interrupts this, it is undone at the end. The wrapper
        # lives on the owner, and holds the original: one that did not get there is dead, and made anew.
        ours = _Replaced(weakref.ref(wrapper, self.on_dropped), inherited, make)
        if earlier is not None and known.wrappers.get(name) is earlier:
            del known.wrappers[name]
        try:
            # Threads may come here at once, and a signal handler's request within: the first replaces it, alone.
            if known.wrappers.setdefault(name, ours) is ours:
                setattr(owner, name, wrapper)
        except BaseException:
            # Its traceback may keep the wrapper.
            if known.wrappers.get(name) is ours and vars(owner).get(name) is not wrapper:
                del known.wrappers[name]
            raise
        if self._restored:
            # Meanwhile, in another thread, which may not have seen this one.
            _put_back(owner, name, wrapper, inherited=inherited)

    def mend(self) -> None:
        """Put everything that was dropped there anew."""
        for known in list(self._replaced.values()):
            owner = known.owner()
            if owner is None:
                continue
            for name, replaced in list(known.wrappers.items()):
                if replaced.wrapper() is None:
                    self.replace(owner, name, replaced.make)

    def replace_method(self, cls: type, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a method where *cls* has it from, so that subclasses are not patched twice.

        Where that is a type implemented in C, *cls* itself gets one of its own (uvloop's is such a
        subclass); where *cls* is one too, nothing is done.
        """
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if owner is None or owner is object:
            # httpcore exports a stand-in for SOCKSProxy where socksio is not installed.
            return
        for candidate in (owner, cls):
            try:
                self.replace(candidate, name, make)
            except TypeError:
                continue
            return

    def replaced(self) -> list[tuple[Any, str]]:
        """What is replaced: whose attribute, and its name."""
        return [
            (owner, name)
            for known in list(self._replaced.values())
            if (owner := known.owner()) is not None
            for name, replaced in list(known.wrappers.items())
            if replaced.wrapper() is not None
        ]

    def restore(self) -> None:
        """Put every original back, for good; what somebody has wrapped since stays, and is inert."""
        self._restored = True
        for known in list(self._replaced.values()):
            owner = known.owner()
            if owner is None:
                continue
            for name, replaced in list(known.wrappers.items()):
                wrapper = replaced.wrapper()
                if wrapper is not None:
                    _put_back(owner, name, wrapper, inherited=replaced.inherited)
        self._replaced.clear()


def _put_back(owner: Any, name: str, wrapper: Any, *, inherited: bool) -> None:
    if vars(owner).get(name) is wrapper:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, wrapper.__wrapped__)


class _Replaced(NamedTuple):
    #: What we put there.
    wrapper: weakref.ref[Any]
    #: Whether the owner only inherited what was there before.
    inherited: bool
    make: Callable[[Any], Any]


class _Owner(NamedTuple):
    owner: weakref.ref[Any]
    #: By name.
    wrappers: dict[str, _Replaced]
