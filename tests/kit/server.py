# A server that does exactly what a test says, byte by byte, and knows the truth
# afterwards: how many connections it accepted, what came over each, and who
# closed it first. One thread per connection, so that a script reads top down.

"""Scripted HTTP/1.1 servers on loopback."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound="Server")

#: Longer than anything here takes: a script that waits this long has failed.
PATIENCE = 30


class Request(NamedTuple):
    """A request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Peer:
    """One accepted connection, as the server sees it."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.requests: list[Request] = []
        #: Who closed it first: "client" or "server"; None as long as it is open.
        self.closed_by: str | None = None
        self.over = threading.Event()
        self._buffer = b""
        self._lock = threading.Lock()

    def _closed(self, by: str) -> None:
        with self._lock:
            self.closed_by = self.closed_by or by

    def receive(self) -> bytes:
        """The next bytes; none if the connection is over."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._closed("client")
        return data

    def read_request(self) -> Request | None:
        """The next request, with its body; None if there is no further one."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.receive()
            if not data:
                return None
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        chunked = headers.get("transfer-encoding", "") == "chunked"
        while len(rest) < length or (chunked and not rest.endswith(b"0\r\n\r\n")):
            data = self.receive()
            if not data:
                return None
            rest += data
        length = len(rest) if chunked else length
        self._buffer = rest[length:]
        request = Request(method, target, headers, rest[:length])
        self.requests.append(request)
        self.server.note(request)
        return request

    def send(self, data: bytes) -> None:
        """Send *data*; nothing happens if the client has gone."""
        try:
            self.sock.sendall(data)
        except OSError:
            self._closed("client")

    def close(self) -> None:
        """Close the connection, properly."""
        self._closed("server")
        # Not close(): that would reset it if something unread had come.
        self._shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close the connection with RST."""
        self._closed("server")
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def drop(self) -> None:
        """Close the connection from another thread, and wait until that has happened."""
        self._closed("server")
        self._shutdown(socket.SHUT_RDWR)
        assert self.over.wait(PATIENCE)

    def _shutdown(self, how: int) -> None:
        try:
            # Of the plain socket: TLS would touch what its thread is using.
            socket.socket.shutdown(self.sock, how)
        except OSError:
            pass

    def until_closed(self) -> None:
        """Wait until the client closes."""
        while self.receive():
            pass

    def _run(self) -> None:
        try:
            if self.server.tls is not None:
                try:
                    self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
                except (OSError, ValueError):
                    self._closed("client")
                    return
            self.server.serve(self)
        finally:
            self.sock.close()
            self.over.set()


#: What to do for a request.
Script = Callable[[Peer, Request], object]
#: Bytes to send, or what to do.
Answer = bytes | Script


def answer(body: bytes = b"hello", *headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """A whole response with a Content-Length."""
    return head(f"Content-Length: {len(body)}", *headers, status=status, version=version) + body


def head(*headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """The head of a response."""
    return "\r\n".join((f"HTTP/{version} {status}", *headers, "", "")).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one if empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _held(peer: Peer, request: Request) -> None:
    peer.server.go.wait(PATIENCE)
    peer.send(answer())


def _half(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    peer.server.go.wait(PATIENCE)
    peer.send(b"other")


def _half_closed(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    peer.server.go.wait(PATIENCE)
    peer.close()


def _half_reset(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    peer.server.go.wait(PATIENCE)
    peer.reset()


def _no_answer(peer: Peer, request: Request) -> None:
    peer.close()


def _closing(data: bytes) -> Callable[[Peer, Request], object]:
    def play(peer: Peer, request: Request) -> None:
        peer.send(data)
        peer.close()

    return play


def _until_close(peer: Peer, request: Request) -> None:
    peer.send(head() + b"hello")
    peer.close()


def _upgrade(peer: Peer, request: Request) -> None:
    peer.send(head("Connection: upgrade", "Upgrade: echo", status="101 Switching Protocols"))
    while data := peer.receive():
        peer.send(data)


#: What every server can be asked for.
STOCK: dict[str, Answer] = {
    "/": answer(),
    "/big": answer(b"x" * 300_000),
    "/empty": answer(b""),
    "/no-content": head(status="204 No Content"),
    "/chunked": head("Transfer-Encoding: chunked") + chunk(b"one") + chunk(b"three") + chunk(b""),
    "/hint": head("Link: </style.css>", status="103 Early Hints") + answer(),
    "/redirect": answer(b"", "Location: /", status="302 Found"),
    "/missing": answer(b"missing", status="404 Not Found"),
    "/error": answer(b"oh no", status="500 Internal Server Error"),
    "/not-modified": head("Content-Length: 5", status="304 Not Modified"),
    # Wait for `server.go`: before the head, or in the middle of the body.
    "/held": _held,
    "/half": _half,
    "/half-closed": _half_closed,
    "/half-reset": _half_reset,
    # Close, in the ways there are.
    "/close": _closing(answer(b"hello", "Connection: close")),
    "/http10": _closing(answer(b"hello", version="1.0")),
    "/until-close": _until_close,
    "/no-answer": _no_answer,
    "/upgrade": _upgrade,
}


class Server:
    """An HTTP/1.1 server on loopback.

    Args:
        routes: what is answered to which target, besides `STOCK`.
        tls: serve over TLS.
        uds: the path of a Unix socket to serve on.
        host: the loopback address to serve on.
    """

    def __init__(
        self,
        routes: Mapping[str, Answer] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        uds: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.routes = {**STOCK, **(routes or {})}
        self.tls = tls
        self.peers: list[Peer] = []
        self.requests: list[Request] = []
        #: What scripts wait for.
        self.go = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stopped = False
        if uds is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(uds)
            self.host, self.port = "localhost", 80
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self._listener.bind((host, 0))
            self.host, self.port = self._listener.getsockname()[:2]
        self._listener.listen(200)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self: S) -> S:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped = True
        self.go.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        for peer in self.peers:
            if not peer.over.is_set():
                peer._shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:
                    # A test is about that: it will be over in a moment.
                    continue
                return
            if self._stopped:
                sock.close()
                return
            peer = Peer(self, sock)
            self.peers.append(peer)
            thread = threading.Thread(target=peer._run, daemon=True)
            self._threads.append(thread)
            thread.start()

    def serve(self, peer: Peer) -> None:
        """Answer one connection's requests, for as long as it is open."""
        while peer.closed_by is None:
            request = peer.read_request()
            if request is None:
                return
            what = self.routes[self.route(request.target)]
            if isinstance(what, bytes):
                # A response to HEAD is the head of one.
                peer.send(what.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == "HEAD" else what)
            else:
                what(peer, request)
        if peer.sock.fileno() != -1:
            # Closed on our side: read on, so that nothing unread makes it a reset.
            peer.until_closed()

    def route(self, target: str) -> str:
        """Which of the routes *target* is."""
        return target.partition("?")[0]

    def note(self, request: Request) -> None:
        """A request has come."""
        self.requests.append(request)

    def url(self, target: str = "/", host: str | None = None) -> str:
        """The URL of *target* here, by another name of this *host* if given."""
        return f"{'http' if self.tls is None else 'https'}://{self._name(host)}:{self.port}{target}"

    def _name(self, host: str | None) -> str:
        name = host or self.host
        return f"[{name}]" if ":" in name else name

    @property
    def accepted(self) -> int:
        """How many connections were accepted."""
        return len(self.peers)

    @property
    def targets(self) -> list[list[str]]:
        """What was asked for, by connection."""
        return [[request.target for request in peer.requests] for peer in self.peers]

    @property
    def closed_by(self) -> list[str | None]:
        """Who closed first, by connection, once the threads concerned are through."""
        return [peer.closed_by for peer in self.peers]


class Blackhole:
    """A port that never answers a connect: its queue is full, and nobody accepts."""

    def __enter__(self) -> Blackhole:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers = []
        # Linux answers one more than the queue holds, and then drops every SYN.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for sock in (*self._fillers, self._listener):
            sock.close()

    def url(self, target: str = "/", host: str = "127.0.0.1") -> str:
        """A URL here."""
        return f"http://{host}:{self.port}{target}"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def open_files() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
