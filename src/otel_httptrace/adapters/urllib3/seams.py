"""Every private name we lean on, as read in urllib3 2.8.0 and in `http.client`, on which it is built.

A name that is not there costs what it would have told, and nothing else: each
function here has an answer for "not known". Pools and connections may be
stand-ins that have nothing of either, so nothing is assumed of them.
"""

from __future__ import annotations

import select
import socket
import weakref
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

from ...core.ledger import Limits
from ...core.timeline import PORTS, Address, Origin, Shared
from ...observe import evidence, probe
from ...observe.marks import answer

# What is replaced, by name.

#: Of a pool: hands out a connection, takes it back, sends a request on it, tells a proxy where to connect to.
GET_CONN: Final = "_get_conn"
PUT_CONN: Final = "_put_conn"
MAKE_REQUEST: Final = "_make_request"
PREPARE_PROXY: Final = "_prepare_proxy"
#: Of a pool manager: makes a pool.
NEW_POOL: Final = "_new_pool"
#: Of a connection: connects its socket; asks a proxy for a tunnel; shakes hands with a proxy.
NEW_CONN: Final = "_new_conn"
TUNNEL: Final = "_tunnel"
TLS_TO_PROXY: Final = "_connect_tls_proxy"
#: Of its module: shakes hands.
TLS: Final = "_ssl_wrap_socket_and_match_hostname"
#: PySocks', and of it: the base of its sockets. What that connects to is the proxy, which is asked for a tunnel next.
PYSOCKS: Final = "socks"
SOCKS_BASE: Final = "_BaseSocket"
#: Of a response: every read goes through the first, save that of a chunked body part by part, which uses the second.
RAW_READ: Final = "_raw_read"
HANDLE_CHUNK: Final = "_handle_chunk"

#: What a response was made of: ``http.client``'s, which knows whether it is over. Raises where there is none.
ORIGINAL: Final = attrgetter("_original_response")
#: What `http.client` was asked to send last. Raises where there is none.
METHOD: Final = attrgetter("_method")
#: Of a response: how many bytes of its body are still to come, as Content-Length had it; None if not known.
#: Never more than 0 for HEAD.
LENGTH: Final = "length_remaining"
#: Of a connection that has sent a request: whether its response reads the body while it is made. Raises where that is
#: not known.
PRELOADS: Final = attrgetter("_response_options.preload_content")


# The pool.


def origin(pool: Any) -> Origin | None:
    """The origin that a pool is for; None if it does not say. For a pool to a forward proxy it is the proxy."""
    scheme, host, port = getattr(pool, "scheme", None), getattr(pool, "host", None), getattr(pool, "port", None)
    if not isinstance(scheme, str) or not isinstance(host, str):
        return None
    return Origin(scheme, host, port if isinstance(port, int) else PORTS.get(scheme))


def forwards(pool: Any) -> bool:
    """Whether its connections go to a proxy that is asked for the whole URL, and so serve every origin."""
    proxy = getattr(pool, "proxy", None)
    if proxy is None:
        return False
    config = getattr(pool, "proxy_config", None)
    return getattr(pool, "scheme", None) == "http" or bool(getattr(config, "use_forwarding_for_https", False))


def shared(pool: Any) -> Shared | None:
    """Which requests its connections could carry, if not those of one origin only."""
    if not forwards(pool):
        return None
    proxy = pool.proxy
    return Shared(Origin(str(proxy.scheme), str(proxy.host), proxy.port))


def limits(pool: Any) -> Limits:
    """What a pool was set to: how many connections at most, where it blocks, and how many it keeps."""
    size = getattr(getattr(pool, "pool", None), "maxsize", None)
    if not isinstance(size, int) or size <= 0:
        return Limits(of_each_origin=True)
    return Limits(connections=size if getattr(pool, "block", False) else None, keepalive=size, of_each_origin=True)


def idle(pool: Any) -> list[Any]:
    """The connections that wait in the pool to be used: `queue.LifoQueue` keeps them in ``queue``."""
    waiting = getattr(getattr(pool, "pool", None), "queue", None)
    return [conn for conn in list(waiting) if conn is not None] if isinstance(waiting, list) else []


def closed(pool: Any) -> bool:
    """Whether it was closed: then it has no queue any more."""
    return getattr(pool, "pool", pool) is None


def pools(manager: Any) -> list[Any]:
    """The pools that a manager keeps: ``pools._container``."""
    kept = getattr(getattr(manager, "pools", None), "_container", None)
    return list(kept.values()) if isinstance(kept, dict) else []


# The connection.


def name(connection: Any) -> str:
    """The name that is looked up: `host` leaves out the dot at its end."""
    found = getattr(connection, "_dns_host", None) or getattr(connection, "host", None)
    return found.strip("[]") if isinstance(found, str) else ""


def socks_proxy(connection: Any) -> tuple[str, int | None] | None:
    """Host and port of the SOCKS proxy that it goes through, if any: ``_socks_options``."""
    options = getattr(connection, "_socks_options", None)
    if not isinstance(options, dict):
        return None
    host = options.get("proxy_host")
    if not isinstance(host, str):
        return None
    port = options.get("proxy_port")
    return host.strip("[]"), port if isinstance(port, int) else None


def target(connection: Any) -> Origin | None:
    """Through a forward proxy, what the request under way is for: ``_response_options.request_url``."""
    url = getattr(getattr(connection, "_response_options", None), "request_url", None)
    if not isinstance(url, str):
        return None
    parts = answer(lambda: urlsplit(url))
    if parts is None or not parts.hostname:
        return None
    port = answer(lambda: parts.port)
    return Origin(parts.scheme, parts.hostname, port or PORTS.get(parts.scheme))


def awaits_answer(connection: Any, frame: FrameType | None) -> bool:
    """Whether it is in the connection's own ``getresponse`` that *frame* runs, and in no other thread."""
    while frame is not None:
        if frame.f_code.co_name == "getresponse" and frame.f_locals.get("self") is connection:
            return True
        frame = frame.f_back
    return False


def ends(sock: Any) -> tuple[Address | None, Address | None, str | None]:
    """Of a socket the other end and ours, and the transport if it is not TCP; None where that is not known."""
    transport = "unix" if _family(sock) == getattr(socket, "AF_UNIX", None) else None
    return _end(sock, "getpeername"), _end(sock, "getsockname"), transport


def _family(sock: Any) -> Any:
    # A TLS socket within another has none of its own.
    return getattr(sock, "family", None) or getattr(getattr(sock, "socket", None), "family", None)


def _end(sock: Any, which: str) -> Address | None:
    # The peer may be gone already: then its address is not known. PySocks' own sockets answer with the target.
    own = isinstance(sock, socket.socket)
    ask = partial(getattr(socket.socket, which), sock) if own else getattr(sock, which, None)
    found = answer(ask) if callable(ask) else None
    if isinstance(found, tuple) and len(found) >= 2 and isinstance(found[0], str) and isinstance(found[1], int):
        return Address(found[0], found[1])
    if isinstance(found, bytes):
        found = found.decode(errors="replace")
    return Address(found, None) if isinstance(found, str) and found else None


def handshake(sock: Any) -> dict[str, Any]:
    """Version, cipher, ALPN protocol and resumption of a TLS socket, each as far as it tells them."""
    details: dict[str, Any] = {}

    def ask(name: str) -> Any:
        found = getattr(sock, name, None)
        return answer(found) if callable(found) else found

    version = ask("version")
    if isinstance(version, str) and version:
        # "TLSv1.3" is protocol "tls", version "1.3"; "SSLv3" likewise.
        kind, _, number = version.partition("v")
        details["name"], details["version"] = kind.lower(), number
    cipher = ask("cipher")
    if isinstance(cipher, tuple) and cipher:
        details["cipher"] = cipher[0]
    protocol = ask("selected_alpn_protocol")
    if isinstance(protocol, str) and protocol:
        details["alpn"] = protocol
    resumed = ask("session_reused")
    if isinstance(resumed, bool):
        details["resumed"] = resumed
    return details


class Stream:
    """A socket, in the shape in which `observe.kernel` asks one."""

    __slots__ = ("_socket",)

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def get_extra_info(self, what: str) -> Any:
        """The socket."""
        return self._socket if what == "socket" and isinstance(self._socket, socket.socket) else None


class Probe(probe.Probe):
    """Asks a connection what it knows, without keeping it alive.

    Args:
        connection: urllib3's.
        pool: what stands on its pool.
    """

    __slots__ = ("connection", "pool")

    def __init__(self, connection: object, pool: object) -> None:
        #: Both answer None once it is gone.
        self.connection: Callable[[], Any] = answer(lambda: weakref.ref(connection)) or _nothing
        self.pool: Callable[[], Any] = weakref.ref(pool)

    def readable(self) -> bool | None:
        """Whether its socket is readable; None if not known."""
        sock = getattr(self.connection(), "sock", None)
        return answer(lambda: _readable(sock)) if sock is not None else None

    def stream(self) -> Stream | None:
        """Its socket."""
        sock = getattr(self.connection(), "sock", None)
        return Stream(sock) if sock is not None else None


def _readable(sock: Any) -> bool:
    # select() cannot take every descriptor.
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _nothing() -> None:
    return None


# The response.


def is_over(original: Any) -> bool:
    """Whether `http.client`'s response has been read to its end, or was closed; True where there is none."""
    found = getattr(original, "isclosed", None)
    return bool(answer(found)) if callable(found) else True


def is_read(response: Any) -> bool:
    """As `is_over`, of what *response* was made of."""
    return is_over(answer(lambda: ORIGINAL(response)))


def finalised(response: Any) -> bool:
    """Whether it is being closed since nobody has it any more: `io.IOBase` says so by ``_finalizing``."""
    return bool(getattr(response, "_finalizing", False))


def whole(response: Any) -> int | None:
    """Bytes of the body of an HTTP/2 response, which is made of all of it: ``_data``; None for any other."""
    data = getattr(response, "_data", None)
    return len(data) if getattr(response, "version", None) == 20 and isinstance(data, bytes) else None


def holds_connection(response: Any) -> bool:
    """Whether it will give its connection back, or has to be told to: ``_connection``."""
    return getattr(response, "_connection", None) is not None


#: As `http.client` numbers them.
VERSIONS: Final = {9: "0.9", 10: "1.0", 11: "1.1", 20: "2"}


# What failed.


def timeout(error: BaseException, connection: Any) -> evidence.Timeout:
    """Which of the configured timeouts struck, and what it was set to: a connection keeps that in ``timeout``."""
    which = _TIMEOUTS.get(type(error).__name__)
    if which is None:
        return evidence.Timeout()
    return evidence.configured(which, getattr(connection, "timeout", None))


#: urllib3's: no connection of the pool came free in time.
POOL_EMPTY: Final = "EmptyPoolError"
#: `http.client`'s: the connection was closed before a byte of the answer came.
DISCONNECTED: Final = "RemoteDisconnected"
_TIMEOUTS: Final = {
    "ConnectTimeoutError": evidence.CONNECT_TIMEOUT,
    "ReadTimeoutError": evidence.READ_TIMEOUT,
}
