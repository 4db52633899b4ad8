"""Small proxies, of each kind that the clients know."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from importlib import import_module
from urllib.parse import urlsplit

import pytest

from .clients import Flavour
from .server import Peer, Request, Server, answer, head


class Proxy(Server):
    """An HTTP proxy that forwards, and tunnels what is asked with CONNECT.

    Args:
        tls: speak TLS with the client.
        refuse: what to answer instead of doing anything.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, refuse: bytes | None = None) -> None:
        super().__init__(tls=tls)
        self.refuse = refuse

    def serve(self, peer: Peer) -> None:
        """Forward or tunnel."""
        while (request := peer.read_request()) is not None:
            if self.refuse is not None:
                peer.send(self.refuse)
            elif request.method == "CONNECT":
                host, _, port = request.target.rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    peer.send(head(status="200 Connection established"))
                    pump(peer, upstream)
                return
            else:
                peer.send(_forwarded(request))


def _forwarded(request: Request) -> bytes:
    target = urlsplit(request.target)
    with socket.create_connection((target.hostname or "", target.port or 80)) as upstream:
        headers = [f"{name}: {value}" for name, value in request.headers.items() if name != "connection"]
        lines = [f"{request.method} {target.path} HTTP/1.1", *headers, "Connection: close", "", ""]
        upstream.sendall("\r\n".join(lines).encode() + request.body)
        upstream.shutdown(socket.SHUT_WR)
        response = b"".join(iter(lambda: upstream.recv(65536), b""))
    _, _, body = response.partition(b"\r\n\r\n")
    return answer(body)


class AnsweringProxy(Server):
    """A forward proxy that answers for every origin itself, with what a `Server` has."""

    def route(self, target: str) -> str:
        """Which of the routes *target* is."""
        return urlsplit(target).path


def share(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pools use a connection to a forward proxy for every plain-HTTP origin.

    The proxies would have it so, and HTTP. No pool does, up to httpcore 1.0.9 and httpcore2 2.16.2.
    """
    which, prefix = ("_sync", "") if flavour.sync else ("_async", "Async")
    module = import_module(f"{flavour.httpcore.__name__}.{which}.http_proxy")
    cls = getattr(module, f"{prefix}ForwardHTTPConnection")
    monkeypatch.setattr(cls, "can_handle_request", lambda self, origin: origin.scheme == b"http")


class Socks(Server):
    """A SOCKS5 proxy without authentication.

    Args:
        reply: the code of its answer; 0 is success.
    """

    def __init__(self, *, reply: int = 0) -> None:
        super().__init__()
        self.reply = reply
        #: Host names asked for.
        self.asked: list[str] = []

    def serve(self, peer: Peer) -> None:
        """Shake hands (RFC 1928), then tunnel."""
        _version, methods = _exactly(peer, 2)
        _exactly(peer, methods)
        peer.send(b"\x05\x00")
        _version, _command, _reserved, kind = _exactly(peer, 4)
        if kind == 3:
            host = _exactly(peer, _exactly(peer, 1)[0]).decode()
        else:
            host = socket.inet_ntop(
                *((socket.AF_INET, _exactly(peer, 4)) if kind == 1 else (socket.AF_INET6, _exactly(peer, 16)))
            )
        port = int.from_bytes(_exactly(peer, 2), "big")
        self.asked.append(host)
        if self.reply:
            peer.send(bytes([5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0]))
            return
        with socket.create_connection((host, port)) as upstream:
            peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            pump(peer, upstream)


def _exactly(peer: Peer, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.sock.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def pump(peer: Peer, upstream: socket.socket) -> None:
    """Copy both ways until either side is through."""

    def copy(receive: Callable[[], bytes], target: socket.socket) -> None:
        try:
            while data := receive():
                target.sendall(data)
        except OSError:
            pass
        for sock in (peer.sock, upstream):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass

    down = threading.Thread(target=copy, args=(lambda: upstream.recv(65536), peer.sock), daemon=True)
    down.start()
    copy(peer.receive, upstream)
    down.join()
