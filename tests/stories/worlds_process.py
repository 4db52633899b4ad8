"""What the programs talk to where it is the process itself, or what stands between it and its server."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme
from kit.http2 import H2Server
from kit.proxies import Proxy
from kit.server import PATIENCE, Answer, Blackhole, Peer, Request, Server, answer, chunk, free_port, head

from .worlds import World, always


def issued() -> tuple[trustme.CA, ssl.SSLContext]:
    """A new authority, and a certificate of its for this machine."""
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return ca, context


@contextmanager
def untrusted() -> Iterator[World]:
    """A server whose certificate nobody here trusts."""
    _, context = issued()
    with always(answer(), tls=context) as server:
        yield World((server.url(""),), None)


@contextmanager
def gone() -> Iterator[World]:
    """Nobody listens."""
    yield World((f"http://127.0.0.1:{free_port()}",))


@contextmanager
def nameless() -> Iterator[World]:
    """A name that the resolver does not know."""
    yield World(("http://orders.test",), names={"orders.test": [0, int(socket.EAI_NONAME)]})


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one for all that come after."""

    def script(peer: Peer, request: Request) -> None:
        what = answers[min(peer.server.requests.index(request), len(answers) - 1)]
        if isinstance(what, bytes):
            peer.send(what)
        else:
            what(peer, request)

    return script


def works_until_killed(seconds: float, how: Callable[[Peer], object]) -> Callable[[Peer, Request], object]:
    """A worker that has the request for *seconds*, and then ends in the way that *how* says."""

    def script(peer: Peer, request: Request) -> None:
        time.sleep(seconds)
        how(peer)

    return script


def events(*pauses: float) -> Answer:
    """A stream of events, each after a pause."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        for pause in pauses:
            time.sleep(pause)
            peer.send(chunk(b"data: tick\n\n"))
        peer.send(chunk(b""))

    return script


@contextmanager
def streams(limit: int | None, seconds: float) -> Iterator[World]:
    """A server for HTTP/2 that allows *limit* streams at a time; the first summaries, all that may be, take *seconds*."""
    ca, context = issued()
    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as folder, H2Server(context, "/summary") as server:
        server.limit = limit
        trusted = Path(folder) / "ca.pem"
        ca.cert_pem.write_to_path(trusted)

        def serve() -> None:
            done, pause = 0, seconds
            while not stopped.wait(0.005):
                asked = [stream for stream in server.streams if stream.target == "/summary"]
                if len(asked) - done >= (limit or 6):
                    time.sleep(pause)
                    pause = 0.0
                    for stream in asked[done:]:
                        stream.answer()
                    done = len(asked)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield World((server.url(""),), server, last=(str(trusted),))
        stopped.set()
        thread.join(PATIENCE)


@contextmanager
def dead_proxy(*, listens: bool) -> Iterator[World]:
    """A proxy in the environment that is gone, or of which nobody answers; the server behind it is well."""
    with Blackhole() as hole, Server() as server:
        proxy = hole.url("") if listens else f"http://127.0.0.1:{free_port()}"
        yield World((f"https://{server.host}:{server.port}/",), server, environ={"HTTPS_PROXY": proxy, "NO_PROXY": ""})


@contextmanager
def refusing_proxy() -> Iterator[World]:
    """A proxy that answers, and says that it cannot reach the server."""
    with Proxy(refuse=answer(b"", status="502 Bad Gateway")) as proxy:
        yield World(("https://api.test/",), environ={"HTTPS_PROXY": proxy.url(""), "NO_PROXY": ""})
