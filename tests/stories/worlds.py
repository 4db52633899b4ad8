# The other side of each story. A world knows what really happened: which origin
# it was, how many connections came. Whatever a verdict says is held against it.

"""What the programs of the stories talk to: scripted servers, and a resolver's answers."""

from __future__ import annotations

import json
import select
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from kit.http2 import H2Server
from kit.server import PATIENCE, Answer, Blackhole, Peer, Request, Script, Server, answer, chunk, free_port, head

#: Far more than the buffers of a socket hold.
MUCH = b"x" * 1_000_000

#: An answer that is its connection's last.
LAST = answer(b"hello", "Connection: close")


@dataclass
class World:
    """Where a program runs.

    Args:
        urls: the program's first arguments.
        server: that it talks to, if it is one of ours.
        names: what the resolver answers, as tests/stories/resolver.py wants it.
        last: the program's last arguments.
        environ: variables that the program is run with.
    """

    urls: tuple[str, ...]
    server: Server | H2Server | None = None
    names: dict[str, Any] | None = None
    last: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    #: More servers of the same kind.
    others: list[Server] = field(default_factory=list)

    @property
    def accepted(self) -> int | None:
        """How many connections came; None where nobody counts."""
        return None if self.server is None else sum(server.accepted for server in (self.server, *self.others))


class Always(dict[str, Answer]):
    """The same answer to everything."""

    def __init__(self, what: Answer) -> None:
        super().__init__()
        self.what = what

    def __missing__(self, target: str) -> Answer:
        return self.what


def always(what: Answer, kind: Callable[..., Server] = Server, **options: Any) -> Server:
    """A server with one answer to everything."""
    server = kind(**options)
    server.routes = Always(what)
    return server


@contextmanager
def serving(what: Answer, path: str = "", host: str | None = None, **options: Any) -> Iterator[World]:
    """A server with one answer, called by its address, or by *host*."""
    with always(what, **options) as server:
        yield World((server.url(path, host=host),), server)


def together(number: int, what: bytes) -> Answer:
    """The first answer is given once *number* requests are under way."""

    def script(peer: Peer, request: Request) -> None:
        if len(peer.server.requests) >= number:
            peer.server.go.set()
        peer.server.go.wait(PATIENCE)
        peer.send(what)

    return script


def after(seconds: float, what: bytes) -> Script:
    """An answer that takes *seconds*."""

    def script(peer: Peer, request: Request) -> None:
        time.sleep(seconds)
        peer.send(what)

    return script


def slow_at_first(number: int, first: float, others: float, what: bytes) -> Answer:
    """The first *number* answers take *first* seconds, all others *others*."""

    def script(peer: Peer, request: Request) -> None:
        time.sleep(first if len(peer.server.requests) <= number else others)
        peer.send(what)

    return script


def never_all_idle(total: int, what: bytes) -> Answer:
    """Of *total* requests one is always left unanswered, until the last is there."""
    turn = threading.Condition()
    # Of each run's server.
    answered = Counter[Server]()

    def script(peer: Peer, request: Request) -> None:
        server = peer.server
        with turn:
            turn.notify_all()
            turn.wait_for(
                lambda: len(server.requests) - answered[server] > 1 or len(server.requests) == total, PATIENCE
            )
            answered[server] += 1
        peer.send(what)

    return script


def in_rounds(number: int, rounds: int, what: bytes) -> Answer:
    """*rounds* times *number* answers are given together, once as many were asked for; all others at once."""
    turn = threading.Condition()

    def script(peer: Peer, request: Request) -> None:
        with turn:
            mine = peer.server.requests.index(request)
            last = (mine // number + 1) * number
            turn.notify_all()
            if last <= number * rounds:
                turn.wait_for(lambda: len(peer.server.requests) >= last, PATIENCE)
        peer.send(what)

    return script


def event_stream(*, terminator: float) -> Answer:
    """Tokens, ``[DONE]``, and *terminator* seconds later the end of the body; with 0 both in one packet."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        for token in ("It", " is", " so."):
            peer.send(chunk(f"data: {json.dumps({'token': token})}\n\n".encode()))
        done, end = chunk(b"data: [DONE]\n\n"), chunk(b"")
        if terminator:
            peer.send(done)
            time.sleep(terminator)
            peer.send(end)
        else:
            peer.send(done + end)

    return script


def third(then: Script) -> Answer:
    """The third request meets *then*, all others an answer."""

    def script(peer: Peer, request: Request) -> None:
        if len(peer.server.requests) == 3:
            then(peer, request)
        else:
            peer.send(answer())

    return script


def no_answer(peer: Peer, request: Request) -> None:
    """Close instead of answering."""
    peer.close()


def no_answer_but_reset(peer: Peer, request: Request) -> None:
    """Reset the connection instead of answering."""
    peer.reset()


def silence(peer: Peer, request: Request) -> None:
    """No answer, and the connection stays."""
    peer.until_closed()


def no_more(peer: Peer) -> None:
    """Close, whatever was still to come."""
    peer.close()


def reset(peer: Peer) -> None:
    """Reset the connection."""
    peer.reset()


def and_close(what: bytes) -> Answer:
    """*what*, and then the connection is closed."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(what)
        peer.close()

    return script


def third_new_one_fails(peer: Peer, request: Request) -> None:
    """A connection for each request, and the third is closed instead of answered."""
    if len(peer.server.requests) != 3:
        peer.send(answer(b"hello", "Connection: close"))
    peer.close()


def half(size: int, how: Callable[[Peer], object]) -> Script:
    """Half of a body of *size* bytes, and then *how*."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(head(f"Content-Length: {size}") + b"x" * (size // 2))
        # Time for the client to take it: a reset discards what it has not read.
        time.sleep(0.1)
        how(peer)

    return script


def trickle(seconds: float, parts: int) -> Answer:
    """The head at once, and a body that takes *seconds*."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(head(f"Content-Length: {100 * parts}"))
        for _ in range(parts):
            time.sleep(seconds / parts)
            peer.send(b"x" * 100)

    return script


def until_left(first: bytes) -> Answer:
    """*first*, and nothing more until the client is gone."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(first)
        peer.until_closed()

    return script


class Impatient(Server):
    """Closes a connection that has carried a burst of three, and then has been idle for a while."""

    idle = 0.2

    def serve(self, peer: Peer) -> None:
        for _ in range(3):
            if peer.read_request() is None:
                return
            peer.send(answer())
        readable, _, _ = select.select([peer.sock], [], [], self.idle)
        if not readable:
            peer.close()
            peer.until_closed()


@contextmanager
def name(what: Answer, seconds: float, *addresses: str) -> Iterator[World]:
    """A server whose name takes *seconds* to be looked up."""
    with always(what) as server:
        yield World((server.url(host="prices.test"),), server, {"prices.test": [seconds, list(addresses)]})


@contextmanager
def no_name(seconds: float, error: int = socket.EAI_AGAIN) -> Iterator[World]:
    """A resolver that gives up after *seconds*."""
    with Server() as server:
        yield World((server.url(host="prices.test"),), server, {"prices.test": [seconds, int(error)]})


@contextmanager
def unreachable() -> Iterator[World]:
    """Nobody answers the connect."""
    with Blackhole() as hole:
        yield World((hole.url(),))


@contextmanager
def refused() -> Iterator[World]:
    """Nobody listens."""
    yield World((f"http://127.0.0.1:{free_port()}/",))


@contextmanager
def silent() -> Iterator[World]:
    """A server for TLS that accepts, and says nothing."""
    with always(answer(), kind=Silent) as server:
        yield World((server.url().replace("http:", "https:"),), None)


@contextmanager
def silent_proxy() -> Iterator[World]:
    """A proxy that accepts, and says nothing."""
    with always(answer(), kind=Silent) as proxy, Server() as server:
        yield World(
            (f"https://{server.host}:{server.port}/",), server, environ={"HTTPS_PROXY": proxy.url(""), "NO_PROXY": ""}
        )


class Silent(Server):
    """Accepts, and says nothing until the client is gone."""

    def serve(self, peer: Peer) -> None:
        peer.until_closed()


@contextmanager
def slow_to_accept(seconds: float) -> Iterator[World]:
    """A port that answers a connect only once there is room in its queue: then the kernel's next try succeeds."""
    with Blackhole() as hole, ExitStack() as stack:
        listener = hole._listener
        # However long the program takes to start: the shutdown below ends it.
        listener.settimeout(None)

        def serve() -> None:
            time.sleep(seconds)
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                stack.enter_context(sock)
                threading.Thread(target=talk, args=(sock,), daemon=True).start()

        def talk(sock: socket.socket) -> None:
            while sock.recv(65536):
                sock.sendall(answer())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield World((hole.url(host="prices.test"),), None, {"prices.test": [0, ["127.0.0.1"]]})
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@contextmanager
def addresses(*found: str, silent: bool = False) -> Iterator[World]:
    """A name with these addresses, of which 127.0.0.1 works; ::1 refuses, or if *silent* does not answer."""
    with always(answer()) as server, ExitStack() as stack:
        if silent:
            # On the same port, its queue is full and nobody accepts.
            listener = stack.enter_context(socket.socket(socket.AF_INET6))
            listener.bind(("::1", server.port))
            listener.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket(socket.AF_INET6))
                filler.setblocking(False)
                filler.connect_ex(("::1", server.port))
        yield World((server.url(host="prices.test"),), server, {"prices.test": [0, found]})


class _Slow:
    """TLS that is in no hurry to answer.

    It counts from the ClientHello: a client that is busy sends it late, and its handshake takes as long all the same.
    """

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        self._context = context
        self._seconds = seconds

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        sock.recv(1, socket.MSG_PEEK)
        time.sleep(self._seconds)
        return self._context.wrap_socket(sock, **options)


@contextmanager
def tls(handshake: float, what: Answer) -> Iterator[World]:
    """A server whose handshakes take *handshake* seconds, and where to find the CA to trust."""
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder, always(what, tls=_Slow(context, handshake)) as server:
        trusted = Path(folder) / "ca.pem"
        ca.cert_pem.write_to_path(trusted)
        yield World((server.url(),), server, last=(str(trusted),))


@contextmanager
def several(number: int) -> Iterator[World]:
    """So many origins."""
    with ExitStack() as stack:
        servers = [stack.enter_context(always(answer())) for _ in range(number)]
        yield World(tuple(server.url() for server in servers), servers[0], others=servers[1:])
