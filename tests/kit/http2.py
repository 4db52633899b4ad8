"""A scripted HTTP/2 server: several streams at once, GOAWAY on command."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from .server import PATIENCE


class Stream:
    """One request, to be answered whenever a test likes."""

    def __init__(self, peer: H2Peer, number: int, target: str) -> None:
        self.peer = peer
        self.number = number
        self.target = target

    def answer(self, body: bytes = b"hello", *, status: int = 200) -> None:
        """Send a whole response."""
        self.peer.do(self._answer, body, status)

    def begin(self, body: bytes = b"first") -> None:
        """Send the head and the beginning of a body."""
        self.peer.do(self._begin, body, 200)

    def end(self, body: bytes = b"other") -> None:
        """Send the rest of it."""
        self.peer.do(self._end, body)

    def reset(self, code: int = 0) -> None:
        """Reset the stream, and not the connection, for the reason that *code* is."""
        self.peer.do(self.reset_now, code)

    def reset_now(self, code: int = 0) -> None:
        """The same, by the connection's own thread."""
        self.peer.h2.reset_stream(self.number, code)

    def _begin(self, body: bytes, status: int) -> None:
        self.peer.h2.send_headers(self.number, [(":status", str(status))])
        self.peer.h2.send_data(self.number, body)

    def _end(self, body: bytes) -> None:
        self.peer.h2.send_data(self.number, body, end_stream=True)

    def _answer(self, body: bytes, status: int) -> None:
        self.peer.h2.send_headers(self.number, [(":status", str(status))])
        self._end(body)


class H2Peer:
    """One accepted connection. Its thread alone touches the protocol: others queue what is to be done."""

    def __init__(self, server: H2Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.streams: list[Stream] = []
        self.closed_by: str | None = None
        self.over = threading.Event()
        self._todo: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()

    def do(self, what: Callable[..., Any], *args: Any) -> None:
        """Have something done by the connection's thread."""
        self._todo.put((what, args))
        self._wake.send(b"x")

    def goaway(self, *, last: int | None = None) -> None:
        """Send GOAWAY: streams after *last* (default: all there are) have not been looked at."""
        self.do(self._goaway, last)

    def _goaway(self, last: int | None) -> None:
        numbers = [stream.number for stream in self.streams]
        self.h2.close_connection(last_stream_id=max(numbers) if last is None else last)

    def close(self) -> None:
        """Close the connection."""
        self.do(self._close)

    def _close(self) -> None:
        self.closed_by = self.closed_by or "server"
        socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def run(self) -> None:
        """What its thread does."""
        try:
            self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
            self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            self.h2.initiate_connection()
            if self.server.limit is not None:
                self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.server.limit})
            self._flush()
            while self._once():
                self._flush()
        except (OSError, h2.exceptions.ProtocolError):
            # The latter: after GOAWAY, h2 takes nothing any more.
            self.closed_by = self.closed_by or "client"
        finally:
            self.sock.close()
            self._wake.close()
            self._woken.close()
            self.over.set()

    def _flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def _once(self) -> bool:
        if not self.sock.pending():  # type: ignore[attr-defined]
            ready, _, _ = select.select([self.sock, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(1)
                what, args = self._todo.get()
                what(*args)
                return True
        data = self.sock.recv(65536)
        if not data:
            self.closed_by = self.closed_by or "client"
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                target = dict(event.headers)[b":path"].decode()
                stream = Stream(self, event.stream_id, target)
                self.streams.append(stream)
                self.server.asked(stream)
        return True


class H2Server:
    """An HTTP/2 server over TLS on loopback. Answers at once, save the targets it is told to hold.

    Args:
        tls: certificate and key.
        held: targets of which a test answers the `Stream` itself.
    """

    def __init__(self, tls: ssl.SSLContext, *held: str) -> None:
        tls.set_alpn_protocols(["h2"])
        self.tls = tls
        self.held = held
        #: What is done at once for other targets, by the connection's own thread.
        self.scripts: dict[str, Callable[[Stream], object]] = {}
        #: How many streams a connection may have at a time.
        self.limit: int | None = None
        self.peers: list[H2Peer] = []
        #: Accept connections, but let them wait for their handshake.
        self.admit = threading.Event()
        self.admit.set()
        #: How many clients have begun theirs.
        self.greeted = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> H2Server:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.admit.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        for peer in self.peers:
            if not peer.over.is_set():
                try:
                    socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join(PATIENCE)

    def asked(self, stream: Stream) -> None:
        """A request came: in its connection's thread."""
        if stream.target in self.scripts:
            self.scripts[stream.target](stream)
        elif stream.target not in self.held:
            stream._answer(b"hello", 200)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = H2Peer(self, sock)
            self.peers.append(peer)

            def run(peer: H2Peer = peer) -> None:
                if not self.admit.is_set() and socket.socket.recv(peer.sock, 1, socket.MSG_PEEK):
                    self.greeted += 1
                self.admit.wait(PATIENCE)
                peer.run()

            thread = threading.Thread(target=run, daemon=True)
            self._threads.append(thread)
            thread.start()

    def url(self, target: str = "/", host: str = "127.0.0.1") -> str:
        """The URL of *target* here."""
        return f"https://{host}:{self.port}{target}"

    @property
    def accepted(self) -> int:
        """How many connections were accepted."""
        return len(self.peers)

    @property
    def streams(self) -> list[Stream]:
        """All requests."""
        return [stream for peer in self.peers for stream in peer.streams]
