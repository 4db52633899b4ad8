# httpcore's `trace` extension says how a connection is dialled and, on HTTP/2,
# when this request is written. Per event it costs a call and, when
# asynchronous, a coroutine, a dozen times for a request; so we listen only
# where nothing cheaper tells: while a connection is dialled, and on HTTP/2.
#
# https://www.encode.io/httpcore/extensions/#trace

"""Facts from the ``trace`` request extension."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ...core.ledger import Connection
from ...core.timeline import TLS, Address, Attempt, Dial, Exchange, Step
from ...observe import errors, evidence
from ...observe.lifetime import Lifetime
from . import seams

_now = time.monotonic_ns


class TracedExtensions(dict[str, Any]):
    """A request's extensions with our callback in front of the user's: a copy, the user's stay as they are."""


async def _nothing() -> None:
    return None


class _Lent:
    """The request's own extensions, while ours stand in for them."""

    __slots__ = ("extensions",)

    def __init__(self, extensions: Any) -> None:
        self.extensions = extensions

    def take_back(self, exchange: Exchange) -> None:
        """Give the request its own extensions back."""
        # Unless somebody has given it others meanwhile.
        if isinstance(exchange.request.extensions, TracedExtensions):
            exchange.request.extensions = self.extensions
        exchange.lent = None


class Dialler(Protocol):
    """Takes what the events say of a connection."""

    lifetime: Lifetime

    def watch(self, stream: Any, conn: Connection) -> None:
        """*stream* is now the network stream of *conn*."""

    def opened(self, exchange: Exchange, conn: Connection, at: int) -> None:
        """*exchange* has dialled *conn*, and requests can be written on it."""


class TraceEvents:
    """Turns trace events of one library into facts.

    Args:
        observer: takes new network streams, and connections that are ready.
    """

    def __init__(self, observer: Dialler) -> None:
        self._lifetime = observer.lifetime
        self._watch = observer.watch
        self._opened = observer.opened
        self._handlers: dict[str, Callable[[Exchange, Connection, dict[str, Any], int], None]] = {
            "connection.connect_tcp.started": self._connect_started,
            "connection.connect_tcp.complete": self._connected,
            "connection.connect_tcp.failed": self._connect_failed,
            "connection.connect_unix_socket.started": self._connect_started,
            "connection.connect_unix_socket.complete": self._connected,
            "connection.connect_unix_socket.failed": self._connect_failed,
            "connection.retry.started": self._retry_started,
            "connection.retry.complete": self._retry_over,
            "connection.retry.failed": self._retry_over,
            "connection.start_tls.started": self._first_tls_started,
            "connection.start_tls.complete": self._first_tls_complete,
            "connection.start_tls.failed": self._step_failed,
            "proxy.start_tls.started": self._tls_started,
            "proxy.start_tls.complete": self._tls_complete,
            "proxy.start_tls.failed": self._step_failed,
            "socks.connect_tcp.started": self._connect_started,
            "socks.connect_tcp.complete": self._connected,
            "socks.connect_tcp.failed": self._connect_failed,
            "socks.setup_socks5_connection.started": self._proxy_started,
            "socks.setup_socks5_connection.complete": self._proxy_complete,
            "socks.setup_socks5_connection.failed": self._step_failed,
            "socks.start_tls.started": self._tls_started,
            "socks.start_tls.complete": self._tls_complete,
            "socks.start_tls.failed": self._step_failed,
            "http11.send_request_headers.started": self._http1_started,
            "http2.send_connection_init.started": self._http2_opened,
            "http2.send_request_headers.started": self._http2_started,
            "http2.send_request_body.complete": self._http2_sent,
        }

    def listen(self, exchange: Exchange, conn: Connection, asynchronous: bool) -> None:
        """Put our callback on the request, in front of the user's.

        The extensions dict is the user's and stays untouched: the request gets another one, until the headers are in.
        """
        request = exchange.request
        extensions = request.extensions
        if exchange.lent is not None:
            # Assigned again, to another connection.
            extensions = exchange.lent.extensions
        elif isinstance(extensions, TracedExtensions):
            # The very same request object is under way twice: leave it to the first.
            return
        exchange.lent = _Lent(extensions)
        user = extensions.get("trace")
        guard, note = self._lifetime.guard_in_locks, self._note

        def trace(name: str, info: dict[str, Any]) -> Any:
            guard(note, exchange, conn, name, info)
            if user is not None:
                return user(name, info)
            return _nothing() if asynchronous else None

        request.extensions = TracedExtensions(extensions, trace=trace)

    def _note(self, exchange: Exchange, conn: Connection, name: str, info: dict[str, Any]) -> None:
        handler = self._handlers.get(name)
        if handler is not None and exchange.conn is conn and not exchange.headers_at:
            handler(exchange, conn, info, _now())

    # Connecting.

    def _connect_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if self._lifetime.suppressed():
            exchange.silent = True
        self._lifetime.resolver.watch_loop()
        if exchange.dial is None:
            exchange.dial = Dial()
        conn.dialler = exchange
        # The dialling request has waited until the pool made the connection: what came after that is the loop's time,
        # and a back-off is its own. If it was made on the way into the pool, there was no wait: what came before that
        # is the time of other threads or of the machine. One that was there before is another's dial, and was waited
        # for until now.
        if not exchange.acquired_at:
            made_for_it = conn.created_at >= exchange.started
            since = exchange.started if conn.entered_at == exchange.started else conn.created_at
            exchange.acquired_at = since if made_for_it else at
        path = info.get("path")
        if path is not None:
            attempt = Attempt(str(path), None, "unix", at)
        else:
            attempt = Attempt(str(info.get("host")), info.get("port"), "tcp", at)
        exchange.dial.attempt_started(attempt)

    def _connected(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        dial = exchange.dial
        attempt = dial.last if dial is not None else None
        if not isinstance(attempt, Attempt):
            return
        attempt.over(at)
        stream = info.get("return_value")
        if attempt.transport == "unix":
            attempt.peer = Address(attempt.host, None)
            conn.transport = "unix"
        else:
            attempt.peer = seams.address(stream, "server_addr")
            attempt.local = seams.address(stream, "client_addr")
            evidence.connected(attempt, lambda: stream and stream.get_extra_info("socket"))
        conn.peer = attempt.peer
        self._watch(stream, conn)

    def _connect_failed(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        dial = exchange.dial
        attempt = dial.last if dial is not None else None
        if not isinstance(attempt, Attempt):
            return
        open_lookups = [lookup for lookup in attempt.lookups if not lookup.ended]
        error = info.get("exception")
        word = None if error is None or errors.cancelled(error) else errors.of_connect(error)
        attempt.over(at, word, failed=True)
        for lookup in open_lookups:
            self._lifetime.looked_up(exchange, lookup)

    def _retry_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if exchange.dial is not None:
            exchange.dial.backoff_began(at)

    def _retry_over(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if exchange.dial is not None:
            exchange.dial.backoff_over(at)

    # TLS and proxies.

    def _first_tls_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        # Through a proxy the plain connection inside is the one to the proxy.
        if conn.probe is not None and conn.probe.proxied:
            self._proxy_started(exchange, conn, info, at)
        else:
            self._tls_started(exchange, conn, info, at)

    def _first_tls_complete(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if conn.probe is not None and conn.probe.proxied:
            self._watch(info.get("return_value"), conn)
            self._proxy_complete(exchange, conn, info, at)
        else:
            self._tls_complete(exchange, conn, info, at)

    def _tls_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if exchange.dial is not None:
            server = info.get("server_hostname")
            exchange.dial.handshake_started(Step(at, server=server if isinstance(server, str) else None))

    def _tls_complete(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        dial = exchange.dial
        if dial is None or not isinstance(dial.last, Step):
            return
        dial.last.over(at)
        stream = info.get("return_value")
        self._watch(stream, conn)
        dial.last.details = _tls(stream)

    def _proxy_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        dial = exchange.dial
        if dial is not None:
            proxy = dial.attempts[-1] if dial.attempts else None
            server, port = (proxy.host, proxy.port) if proxy is not None else (None, None)
            dial.proxy_started(Step(at, server=server, port=port))

    def _proxy_complete(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        if exchange.dial is not None:
            exchange.dial.step_over(at)

    def _step_failed(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        error = info.get("exception")
        if exchange.dial is not None:
            tls = exchange.dial.phase == TLS
            word = (
                None if error is None or errors.cancelled(error) else (errors.of_tls if tls else errors.name_of)(error)
            )
            exchange.dial.step_over(at, word, failed=True)

    # The request itself.

    def _http1_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        request = info.get("request")
        if request is not exchange.request and getattr(request, "method", None) == b"CONNECT":
            # The tunnel's own request carries our extensions too.
            self._proxy_started(exchange, conn, info, at)
            return
        self._ready(exchange, conn, at, multiplexed=False)
        exchange.sending(at)

    def _http2_opened(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        self._ready(exchange, conn, at, multiplexed=True)

    def _http2_started(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        self._ready(exchange, conn, at, multiplexed=True)
        evidence.waited_for_stream(exchange, conn, at)
        exchange.sending(at)
        conn.ledger.carries(conn, exchange)

    def _http2_sent(self, exchange: Exchange, conn: Connection, info: dict[str, Any], at: int) -> None:
        exchange.wait_at = at

    def _ready(self, exchange: Exchange, conn: Connection, at: int, multiplexed: bool) -> None:
        if not conn.ready:
            conn.multiplexed = multiplexed
            if exchange.dial is not None:
                exchange.dial.over(at)
            self._opened(exchange, conn, at)


def _tls(stream: Any) -> dict[str, Any]:
    """Version, cipher, ALPN protocol and resumption, each as far as the stream's `ssl` object tells it."""
    ssl_object = stream.get_extra_info("ssl_object") if stream is not None else None

    def ask(name: str) -> Any:
        # A backend of somebody's own may have less of an object than `ssl` does.
        answer = getattr(ssl_object, name, None)
        return answer() if callable(answer) else answer

    details: dict[str, Any] = {}
    version = ask("version")
    if version:
        # "TLSv1.3" is protocol "tls", version "1.3"; "SSLv3" likewise.
        name, _, number = version.partition("v")
        details["name"], details["version"] = name.lower(), number
    cipher = ask("cipher")
    if cipher:
        details["cipher"] = cipher[0]
    protocol = ask("selected_alpn_protocol")
    if protocol:
        details["alpn"] = protocol
    resumed = ask("session_reused")
    if resumed is not None:
        details["resumed"] = bool(resumed)
    return details
