"""HTTP/2 on real servers, which share a connection between requests."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from kit.servers import KINDS_H2, NUMBERS, Running, Seen, running, until
from kit.sockets import PATIENCE


class Http2:
    """A connection on which the client speaks HTTP/2 from the first byte."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.numbers: list[int] = []
        self._flush()
        self._events: list[h2.events.Event] = []

    def _flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def send(self, *paths: str, body: bool = False) -> list[int]:
        """Send requests, all in one write; answers their streams."""
        streams = []
        for path in paths:
            number = next(NUMBERS)
            self.numbers.append(number)
            stream = self.h2.get_next_available_stream_id()
            head = [(":method", "POST" if body else "GET"), (":path", f"{path}?n={number}"), (":scheme", "http")]
            self.h2.send_headers(stream, [*head, (":authority", "test")], end_stream=not body)
            streams.append(stream)
        self._flush()
        return streams

    def finish(self, stream: int) -> None:
        """Send the end of a request's body."""
        self.h2.end_stream(stream)
        self._flush()

    def until(self, kind: type[h2.events.Event], stream: int) -> h2.events.Event:
        """Read until this has happened on a stream."""
        while True:
            for event in self._events:
                if isinstance(event, kind) and getattr(event, "stream_id", None) == stream:
                    self._events.remove(event)
                    return event
            data = self.sock.recv(65536)
            assert data, "the server has closed"
            self._events += self.h2.receive_data(data)
            self._flush()

    def get(self, path: str = "/ok") -> None:
        """Send a request and read its answer."""
        # The end in a frame of its own: uvicorn 0.54 with zttp 0.0.35 does not see one that comes with the head.
        (stream,) = self.send(path, body=True)
        self.finish(stream)
        self.until(h2.events.StreamEnded, stream)

    def goaway(self) -> None:
        """Say that it will send no more."""
        self.h2.close_connection()
        self._flush()

    def ended(self) -> None:
        """Wait until the server has closed."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        self.close()

    def close(self) -> None:
        """Close it."""
        self.sock.close()


@pytest.fixture(params=KINDS_H2)
def serve(seen: Seen, request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    """Starts a server with these options."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(seen, request.param, KINDS_H2, **options))


def told(server: Running, conn: Http2) -> list[Any]:
    """Of each request of *conn*: how many came before it, whether there is an idle time, and the reason of the close."""
    until(lambda: set(conn.numbers) <= set(server.requests()))
    spans = server.requests()
    ids = {spans[number]["httptrace.server.conn.id"] for number in conn.numbers}
    assert len(ids) == 1
    found = []
    for number in conn.numbers:
        span = {name.rpartition(".")[2]: value for name, value in spans[number].items() if ".conn." in name}
        assert span["reused"] == (span["requests"] > 0)
        found.append((span["requests"], "idle" in span, span.get("close_reason")))
    return found


def closed(server: Running, reason: str) -> None:
    """One connection has ended, for this reason."""
    until(server.closed)
    assert server.closed() == Counter({reason: 1})


def test_one_after_the_other(serve: Callable[..., Running]) -> None:
    """Each request is told how many came before; between two of them the connection was idle."""
    server = serve()
    conn = Http2(server.port)
    for _ in range(3):
        conn.get()
    conn.close()
    closed(server, "client_closed")
    assert told(server, conn) == [(0, False, None), (1, True, None), (2, True, None)]


def test_side_by_side(serve: Callable[..., Running]) -> None:
    """Requests that share a connection: all but the first reuse it, and none of them found it idle."""
    server = serve()
    conn = Http2(server.port)
    streams = conn.send("/ok", "/ok", "/ok", body=True)
    until(lambda: server.busy() == 1)
    for stream in streams:
        conn.finish(stream)
        conn.until(h2.events.StreamEnded, stream)
    conn.close()
    closed(server, "client_closed")
    assert told(server, conn) == [(0, False, None), (1, False, None), (2, False, None)]


def test_left(serve: Callable[..., Running]) -> None:
    """A client that closes while requests are under way has left them all."""
    server = serve()
    conn = Http2(server.port)
    for stream in conn.send("/stream", "/stream", body=True):
        conn.finish(stream)
        conn.until(h2.events.DataReceived, stream)
    conn.close()
    closed(server, "client_left")
    assert told(server, conn) == [(0, False, "client_left"), (1, False, "client_left")]


def test_goaway(serve: Callable[..., Running]) -> None:
    """The client says that it will send no more: the server closes."""
    server = serve()
    conn = Http2(server.port)
    conn.get()
    conn.goaway()
    conn.ended()
    closed(server, "goaway")
    assert told(server, conn) == [(0, False, None)]


def test_idle_too_long(serve: Callable[..., Running]) -> None:
    """The keep-alive timeout is one connection's, not one request's."""
    server = serve(keep_alive=1)
    conn = Http2(server.port)
    conn.get()
    conn.get()
    conn.ended()
    closed(server, "keepalive_timeout")


def test_no_http2(serve: Callable[..., Running]) -> None:
    """A frame that there is not: the server closes."""
    server = serve()
    conn = Http2(server.port)
    conn.get()
    # DATA on stream 0, which the protocol forbids.
    conn.sock.sendall(b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x")
    conn.ended()
    closed(server, "error")


def test_a_failure_costs_the_stream_alone(serve: Callable[..., Running]) -> None:
    """The application fails: the connection is kept for the next request."""
    server = serve()
    conn = Http2(server.port)
    conn.get("/fail")
    conn.get()
    conn.close()
    closed(server, "client_closed")
    assert told(server, conn) == [(0, False, None), (1, True, None)]


def test_shutdown(serve: Callable[..., Running]) -> None:
    """The server is told to stop."""
    server = serve()
    conn = Http2(server.port)
    conn.get()
    server.stop()
    conn.ended()
    closed(server, "shutdown")
