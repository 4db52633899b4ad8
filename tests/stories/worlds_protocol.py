"""What the programs of stories 16 to 23 talk to: servers that break HTTP, fall silent, or read slowly."""

from __future__ import annotations

import gzip
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h2.errors
import trustme
from kit.http2 import H2Server, Stream
from kit.server import PATIENCE, Answer, Peer, Request, Server, answer, chunk, head

from .worlds import World, always

#: What an application cannot use: it says that it is compressed, and is not.
UNDECODABLE = answer(b'{"news": []}' * 2_000, "Content-Encoding: gzip")
DECODABLE = answer(gzip.compress(b'{"news": []}' * 2_000), "Content-Encoding: gzip")


class H2World(World):
    """The same for HTTP/2."""

    http2: H2Server

    @property
    def accepted(self) -> int | None:
        """How many connections came."""
        return self.http2.accepted


@contextmanager
def http2(**scripts: Callable[[Stream], object]) -> Iterator[World]:
    """A server over HTTP/2 with a script for some paths, and where to find the CA to trust."""
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder, H2Server(context) as server:
        server.scripts = {f"/{name}": script for name, script in scripts.items()}
        trusted = Path(folder) / "ca.pem"
        ca.cert_pem.write_to_path(trusted)
        world = H2World((server.url(""),), last=(str(trusted),))
        world.http2 = server
        yield world


def stream_reset(stream: Stream) -> None:
    """The stream is reset, and the connection stays."""
    stream.reset_now(int(h2.errors.ErrorCodes.INTERNAL_ERROR))


def retired(stream: Stream) -> None:
    """The connection is retired, and this request was not looked at."""
    stream.peer._goaway(stream.number - 2)


def on(numbers: tuple[int, ...], then: Callable[[Peer, Request], object]) -> Answer:
    """The requests with these numbers, counted from 1, meet *then*, all others an answer."""

    def script(peer: Peer, request: Request) -> None:
        if peer.server.requests.index(request) + 1 in numbers:
            then(peer, request)
        else:
            peer.send(answer())

    return script


def says(what: bytes) -> Callable[[Peer, Request], object]:
    """*what*, and the end of the connection."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(what)
        peer.close()

    return script


def never_ends(peer: Peer, request: Request) -> None:
    """A body that goes on until the client leaves."""
    peer.send(head("Transfer-Encoding: chunked") + chunk(b"first"))
    peer.until_closed()


class Reader(Server):
    """Reads as much of a request as *taken*, then nothing until *pause* is over, then the rest, and answers.

    Args:
        taken: bytes.
        pause: seconds; None: for as long as the client lives.
        think: seconds that the answer takes, once all is read.
    """

    def __init__(self, taken: int = 0, pause: float | None = None, think: float = 0, **options: Any) -> None:
        super().__init__(**options)
        # What is acknowledged and not read is little.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._taken, self._pause, self._think = taken, pause, think

    def serve(self, peer: Peer) -> None:
        """See `Server`."""
        got = b""
        while len(got) < self._taken or b"\r\n\r\n" not in got:
            data = peer.sock.recv(4096)
            if not data:
                return
            got += data
        if self._pause is None:
            self.go.wait(PATIENCE)
            return
        time.sleep(self._pause)
        head, _, body = got.partition(b"\r\n\r\n")
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
        left = int(length) - len(body)
        while left > 0:
            data = peer.receive()
            if not data:
                return
            left -= len(data)
        time.sleep(self._think)
        peer.send(answer())
        peer.until_closed()


@contextmanager
def reading(**options: Any) -> Iterator[World]:
    """A `Reader`."""
    with Reader(**options) as server:
        yield World((server.url("/upload"),), server)


@contextmanager
def service(job: Answer, feed: Answer) -> Iterator[World]:
    """A server with a job to do, and a feed."""
    with Server({"/job": job, "/feed": feed}) as server:
        yield World((server.url(""),), server)


@contextmanager
def uncounted(what: Answer, host: str) -> Iterator[World]:
    """A server whose connections are not counted, for some are given up while they are opened."""
    with always(what) as server:
        yield World((server.url(host=host),))
