# A server tells of clients that nobody has instrumented. So the clients of most of these
# stories are scripts on sockets, as they may be in any language; where both ends are needed
# it is httpx. The servers are real.

"""What a story consists of that a server tells."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from string import Template
from typing import Any

import httpx
from kit.servers import NUMBERS, Running, exported, until
from kit.telemetry import Telemetry

from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.spans import Span

from .story import Found, Guide, Search


class Stage:
    """A server that runs, and who uses it.

    Args:
        server: the server.
        telemetry: of the client, where that is instrumented, too.
    """

    def __init__(self, server: Running, telemetry: Telemetry | None) -> None:
        self.server = server
        self.client = server.client()
        self.telemetry = telemetry
        #: Requests that are to have a span.
        self.sent = 0

    def numbered(self, path: str) -> str:
        """A URL of the server's, for one request."""
        self.sent += 1
        return f"http://127.0.0.1:{self.server.port}{path}?n={next(NUMBERS)}"

    def spans(self, before: set[str]) -> list[Span]:
        """What both ends have told, but for spans of *before*."""
        self.client.over()
        number = self.sent + len(self.client.sent)
        served = until(
            lambda: (
                found
                if len(found := [one for one in self.server.spans() if one.span_id not in before]) >= number
                else None
            )
        )
        return [*served, *(exported(self.telemetry.spans()) if self.telemetry is not None else ())]


Play = Callable[[Stage], None]


@dataclass(frozen=True)
class ServerCase:
    """A client against a server.

    Args:
        what: happens, in a sentence.
        play: what the client does.
        kinds: on which servers, as in `kit.servers.KINDS`.
        found: what the report must say, and nothing else; None: it finds nothing.
        says: a part of that sentence.
        options: of the server.
        both: whether the client is instrumented.
        thresholds: lowered where the story would take long.
        finds: how many of the server's requests the query finds.
        event: a part of a sentence on a span that the query finds. None where the server sees nothing, or where it
            would be on each request.
    """

    what: str
    play: Play
    kinds: tuple[str, ...]
    found: Found | None = None
    says: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    both: bool = False
    thresholds: Thresholds = Thresholds()  # noqa: RUF009 - it is frozen
    finds: int = 0
    event: str | None = None

    @property
    def search(self) -> Search | None:
        """What finds it in Jaeger: as the guide says."""
        return None


@dataclass(frozen=True)
class ServerStory:
    """An incident that a server tells. The fields are those of `Story`."""

    number: int
    title: str
    query: str
    look: str
    advice: str
    cases: tuple[ServerCase, ...]
    controls: tuple[ServerCase, ...]
    guide: Guide

    def queries(self, thresholds: Thresholds) -> tuple[str, ...]:
        """The query with its *thresholds*: one."""
        return (Template(self.query).substitute({name: f"{value:g}" for name, value in vars(thresholds).items()}),)


def patient() -> httpx.Client:
    """A client of ours that is sure of its connections: it does not look whether one has been closed.

    No client can be quicker than a close that is on its way; one that does not look always comes a moment too late.
    """
    client = httpx.Client(trust_env=False, limits=httpx.Limits(keepalive_expiry=None))
    pool: Any = client._transport._pool  # type: ignore[attr-defined]
    opened = pool._network_backend.connect_tcp

    def connect_tcp(*arguments: Any, **options: Any) -> Any:
        stream = opened(*arguments, **options)
        known = stream.get_extra_info
        stream.get_extra_info = lambda info: False if info == "is_readable" else known(info)
        return stream

    pool._network_backend.connect_tcp = connect_tcp
    return client


# What clients do.


def reads_and_keeps(stage: Stage) -> None:
    """One connection for all."""
    conn = stage.client.connect()
    for _ in range(12):
        conn.get()


def closes_unread(stage: Stage) -> None:
    """As in Go, where a body is closed and not read."""
    for _ in range(12):
        conn = stage.client.connect()
        conn.send(conn.head("/stream"))
        conn.some()
        conn.close()


def client_per_request(stage: Stage) -> None:
    """Each answer is read, and each connection closed."""
    for _ in range(12):
        before = stage.server.closed().total()
        conn = stage.client.connect()
        conn.get()
        conn.close()

        def closed(before: int = before) -> bool:
            return stage.server.closed().total() > before

        until(closed)


def one_at_a_time_in_a_burst(stage: Stage) -> None:
    """Twelve at once, as a crawler that starts."""
    conns = [stage.client.connect() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        barrier = threading.Barrier(12)

        def get(conn: Any) -> None:
            barrier.wait(20)
            conn.get()

        list(pool.map(get, conns))


def idles_too_long(stage: Stage) -> None:
    """The server closes each, as nothing comes for too long; and it comes again."""
    for _ in range(4):
        conn = stage.client.connect()
        conn.get()
        conn.ended()


def idles_not_too_long(stage: Stage) -> None:
    """It closes its connections itself."""
    for _ in range(4):
        conn = stage.client.connect()
        conn.get()
        conn.close()


def comes_a_moment_too_late(stage: Stage) -> None:
    """A request on a connection that the server's keep-alive timeout has closed; and it is sent again."""
    with patient() as client:
        client.get(stage.numbered("/ok"))
        closed = stage.server.closed().total()
        until(lambda: stage.server.closed().total() > closed)
        with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            client.get(f"http://127.0.0.1:{stage.server.port}/ok")
        client.get(stage.numbered("/ok"))


def comes_in_time(stage: Stage) -> None:
    """The same, before the timeout."""
    with patient() as client:
        for _ in range(3):
            client.get(stage.numbered("/ok"))


def asks(path: str, times: int = 12, *headers: str, version: str = "1.1") -> Play:
    """One request for each connection, if the server closes it."""

    def play(stage: Stage) -> None:
        for _ in range(times):
            conn = stage.client.connect()
            conn.get(path, *headers, version=version)
            conn.close()

    play.__name__ = f"asks_for{path.replace('/', '_').replace('-', '_')}"
    return play


def fails(path: str, times: int = 3) -> Play:
    """The application fails while it answers."""

    def play(stage: Stage) -> None:
        for _ in range(times):
            conn = stage.client.connect()
            conn.send(conn.head(path))
            conn.ended()

    play.__name__ = f"asks_for{path.replace('/', '_').replace('-', '_')}"
    return play


def leaves(stage: Stage) -> None:
    """It is gone before the answer is over."""
    for _ in range(3):
        conn = stage.client.connect()
        conn.get()
        conn.send(conn.head("/stream"))
        conn.some()
        conn.reset()


def blocked_by_another(stage: Stage) -> None:
    """One request blocks the server's event loop, and another one waits for it."""
    with httpx.Client(trust_env=False) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.get, stage.numbered("/block"))
        until(stage.server.busy)
        client.get(stage.numbered("/ok"))
        first.result()


def slow_itself(stage: Stage) -> None:
    """The handler takes as long."""
    with httpx.Client(trust_env=False) as client:
        client.get(stage.numbered("/block"))


def search(**tags: str) -> Search:
    """What is filled into Jaeger's search."""
    return Search(" ".join(f"{name.replace('__', '.')}={value}" for name, value in tags.items()))


@contextlib.contextmanager
def instrumented(*, both: bool) -> Iterator[Telemetry | None]:
    """The client's half, if it is asked for."""
    if not both:
        yield None
        return
    telemetry = Telemetry()
    telemetry.instrument()
    try:
        yield telemetry
    finally:
        telemetry.uninstrument()
        telemetry.shutdown()
