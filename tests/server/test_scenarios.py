"""What a scripted client does to real servers, and what is told of it: reused, requests, idle, age and reason."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from kit.servers import KINDS, Running, number_of, until
from kit.sockets import Client

#: Between two requests, in seconds: well over what a busy machine adds.
PAUSE = 0.15
#: A keep-alive timeout that a script waits for.
SOON = 0.3

SCENARIOS: list[Scenario] = []

UVICORN = tuple(kind for kind in KINDS if kind.startswith("uvicorn-"))
#: On trio not all of these are played, but some, in test_wires.py.
KEEPING = tuple(kind for kind in KINDS if kind not in ("gunicorn-sync", "hypercorn-trio"))
ASGI = tuple(kind for kind in KEEPING if kind != "gunicorn-gthread")
#: Those whose application can close a connection by a header: the other workers of gunicorn's leave it out.
SAYING = (*UVICORN, "gunicorn-uvicorn", "hypercorn")
SYNC = ("gunicorn-sync",)


class Expected(NamedTuple):
    """What is told of one request."""

    requests: int
    close_reason: str | None = None


class Scenario(NamedTuple):
    """A script, and what is told of it.

    Args:
        play: what the client does.
        told: of each request that it sent, in that order; None of one that reaches no application.
        closed: why its connections end.
        kinds: on which servers.
        options: of the server; without, one that all scripts use.
    """

    play: Callable[[Client, Running], object]
    told: tuple[Expected | None, ...]
    closed: tuple[str, ...]
    kinds: tuple[str, ...]
    options: dict[str, Any]


def scenario(
    *told: Expected | None, closed: str | tuple[str, ...], kinds: tuple[str, ...] = KEEPING, **options: Any
) -> Callable[[Any], Any]:
    """A script that ends so."""

    def add(play: Any) -> Any:
        ends = (closed,) if isinstance(closed, str) else closed
        SCENARIOS.append(Scenario(play, told, ends, kinds, options))
        return play

    return add


@scenario(Expected(0), closed="client_closed")
def one_request(client: Client, server: Running) -> None:
    """A client that does not keep its connection."""
    conn = client.connect()
    conn.get()
    conn.close()


@scenario(Expected(0), Expected(1), Expected(2), closed="client_closed")
def three_requests(client: Client, server: Running) -> None:
    """A client that keeps it, and waits in between."""
    conn = client.connect()
    for _ in range(3):
        conn.get()
        time.sleep(PAUSE)
    conn.close()


@scenario(Expected(0), closed="client_closed")
def reset_while_idle(client: Client, server: Running) -> None:
    """A client whose host is gone between two requests."""
    conn = client.connect()
    conn.get()
    conn.reset()


@scenario(closed="client_closed")
def nothing_sent(client: Client, server: Running) -> None:
    """A health check that only connects."""
    client.connect().close()


@scenario(Expected(0), Expected(0), Expected(1), Expected(1), closed=("client_closed", "client_closed"))
def two_connections(client: Client, server: Running) -> None:
    """Two connections in turn: each counts its own."""
    first, second = client.connect(), client.connect()
    for conn in (first, second, first, second):
        conn.get()
    first.close()
    second.close()


@scenario(Expected(0), closed="keepalive_timeout", keep_alive=SOON)
def idle_too_long(client: Client, server: Running) -> None:
    """The server's keep-alive timeout closes an idle connection."""
    conn = client.connect()
    conn.get()
    conn.ended()


@scenario(Expected(0), Expected(1), closed="keepalive_timeout", keep_alive=SOON)
def idle_too_long_at_last(client: Client, server: Running) -> None:
    """Used again within the timeout, and then not."""
    conn = client.connect()
    conn.get()
    time.sleep(PAUSE)
    conn.get()
    conn.ended()


@scenario(Expected(0, "connection_close"), closed="connection_close")
def client_says_close(client: Client, server: Running) -> None:
    """`Connection: close` in the request."""
    conn = client.connect()
    conn.get("/ok", "Connection: close")
    conn.ended()


@scenario(Expected(0), Expected(1, "connection_close"), closed="connection_close")
def client_says_close_at_last(client: Client, server: Running) -> None:
    """`Connection: close` in the second request."""
    conn = client.connect()
    conn.get()
    conn.get("/ok", "Connection: close")
    conn.ended()


@scenario(Expected(0, "connection_close"), closed="connection_close")
def http_1_0(client: Client, server: Running) -> None:
    """HTTP/1.0: an old proxy in between."""
    conn = client.connect()
    conn.get(version="1.0")
    conn.ended()


@scenario(Expected(0), Expected(1, "connection_close"), closed="connection_close", kinds=SAYING)
def application_says_close(client: Client, server: Running) -> None:
    """`Connection: close` in the second response."""
    conn = client.connect()
    conn.get()
    conn.get("/close")
    conn.ended()


@scenario(Expected(0, "client_left"), closed="client_left")
def leaves_mid_response(client: Client, server: Running) -> None:
    """A client that reads a part of a response and closes."""
    conn = client.connect()
    conn.send(conn.head("/stream"))
    conn.some()
    conn.close()


@scenario(Expected(0), Expected(1, "client_left"), closed="client_left")
def resets_mid_response(client: Client, server: Running) -> None:
    """A client that is killed in its second response."""
    conn = client.connect()
    conn.get()
    conn.send(conn.head("/stream"))
    conn.some()
    conn.reset()


@scenario(Expected(0, "client_left"), closed="client_left")
def leaves_mid_upload(client: Client, server: Running) -> None:
    """A client that closes before the body of its request is complete."""
    conn = client.connect()
    conn.send(conn.head("/ok", "Content-Length: 10", method="POST") + b"half")
    until(lambda: server.busy() == 1)
    conn.close()


@scenario(Expected(0), Expected(1), closed="client_closed")
def slow_upload(client: Client, server: Running) -> None:
    """A body in two parts is under way in between, not idle."""
    conn = client.connect()
    conn.send(conn.head("/ok", "Content-Length: 8", method="POST") + b"half")
    until(lambda: server.busy() == 1)
    conn.send(b"half")
    conn.read()
    conn.get()
    conn.close()


@scenario(
    Expected(0),
    Expected(1),
    Expected(2),
    closed="client_closed",
    kinds=("gunicorn-gthread", "gunicorn-asgi", "hypercorn"),
)
def pipelined_one_by_one(client: Client, server: Running) -> None:
    """Three requests in one write, each answered in a task or thread of its own."""
    conn = client.connect()
    conn.send(conn.head("/ok") + conn.head("/ok") + conn.head("/ok"))
    for _ in range(3):
        conn.read()
    conn.close()


@scenario(Expected(0), None, None, closed="client_closed", kinds=(*UVICORN, "gunicorn-uvicorn"))
def pipelined(client: Client, server: Running) -> None:
    """Three requests in one write: upstream's spans of the others are no request spans, but children of the first."""
    conn = client.connect()
    conn.send(conn.head("/ok") + conn.head("/ok") + conn.head("/ok"))
    for _ in range(3):
        conn.read()
    conn.close()


@scenario(Expected(0), Expected(1), Expected(2), Expected(3), closed="client_closed")
def without_a_body(client: Client, server: Running) -> None:
    """Answers that have none: HEAD, 204, 304."""
    conn = client.connect()
    conn.get(method="HEAD")
    assert conn.get("/none").status == 204
    assert conn.get("/unchanged").status == 304
    conn.get()
    conn.close()


@scenario(Expected(0), Expected(1), closed="client_closed", kinds=("gunicorn-gthread",))
def half_closed(client: Client, server: Running) -> None:
    """A client that has no more to ask, and reads the answer."""
    conn = client.connect()
    conn.get()
    conn.send(conn.head("/ok"))
    conn.sock.shutdown(socket.SHUT_WR)
    conn.read()
    conn.ended()


@scenario(Expected(0), Expected(1, "client_left"), closed="client_left", kinds=ASGI)
def half_closed_mid_response(client: Client, server: Running) -> None:
    """A client that has no more to ask while it is being answered: an ASGI server takes it for gone."""
    conn = client.connect()
    conn.get()
    conn.send(conn.head("/stream"))
    conn.some()
    conn.sock.shutdown(socket.SHUT_WR)
    conn.ended()


@scenario(Expected(0), closed="upgraded", kinds=("uvicorn-h11", "uvicorn-httptools", "hypercorn"), ws="wsproto")
def becomes_a_websocket(client: Client, server: Running) -> None:
    """After a request it is switched over, and carries no other."""
    conn = client.connect()
    conn.get()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    conn.send(conn.head("/ok", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    assert b" 101 " in conn.some()
    conn.close()
    upgraded = client.sent.pop().number
    span = until(lambda: server.requests().get(upgraded))
    assert not [name for name in span if "httptrace" in name]


@scenario(closed="error")
def no_http(client: Client, server: Running) -> None:
    """What comes is no HTTP."""
    conn = client.connect()
    conn.send(b"\x16\x03\x01 this is TLS\r\n\r\n")
    conn.ended()


@scenario(Expected(0, "error"), closed="error", kinds=UVICORN)
def application_fails(client: Client, server: Running) -> None:
    """The application fails before it has answered."""
    conn = client.connect()
    assert conn.get("/fail").status == 500
    conn.ended()


@scenario(Expected(0, "error"), closed="error", kinds=UVICORN)
def application_fails_having_answered(client: Client, server: Running) -> None:
    """A framework answers with 500 and raises all the same: uvicorn closes."""
    conn = client.connect()
    assert conn.get("/caught").status == 500
    conn.ended()


@scenario(Expected(0, "error"), closed="error")
def application_fails_mid_response(client: Client, server: Running) -> None:
    """The application fails in the middle of its answer."""
    conn = client.connect()
    conn.send(conn.head("/fail-mid"))
    conn.ended()


@scenario(Expected(0, "error"), closed="error", kinds=(*UVICORN, "hypercorn", "gunicorn-uvicorn"))
def application_answers_nothing(client: Client, server: Running) -> None:
    """The application returns without an answer."""
    conn = client.connect()
    assert conn.get("/nothing").status == 500
    conn.ended()


@scenario(Expected(0), closed="shutdown", fresh=True, kinds=tuple(kind for kind in KEEPING if kind != "gunicorn-asgi"))
def shutdown_while_idle(client: Client, server: Running) -> None:
    """The server is told to stop while a connection is idle."""
    conn = client.connect()
    conn.get()
    server.stop()
    conn.ended()


@scenario(
    *(Expected(0), Expected(1, "shutdown")),
    closed="shutdown",
    kinds=tuple(kind for kind in KEEPING if kind != "gunicorn-gthread"),
    fresh=True,
)
def shutdown_while_busy(client: Client, server: Running) -> None:
    """The server is told to stop while a request is under way: it answers, and closes."""
    conn = client.connect()
    conn.get()
    conn.send(conn.head("/ok", "Content-Length: 4", method="POST"))
    until(lambda: server.busy() == 1)
    server.stopping()
    conn.send(b"body")
    conn.read()
    conn.ended()


@scenario(Expected(0), Expected(1), closed="shutdown", kinds=("gunicorn-gthread",), fresh=True)
def shutdown_while_busy_and_promised(client: Client, server: Running) -> None:
    """Gthread has decided to keep it when the request began, and closes it later."""
    shutdown_while_busy(client, server)


@scenario(Expected(0), closed="max_requests", fresh=True, kinds=UVICORN, max_requests=1)
def worker_had_its_requests(client: Client, server: Running) -> None:
    """The server stops because it has carried as many requests as it may."""
    conn = client.connect()
    conn.get()
    conn.ended()


@scenario(
    *(Expected(0), Expected(1), Expected(2, "max_requests")),
    closed="max_requests",
    kinds=("hypercorn",),
    keep_alive_max_requests=3,
)
def connection_had_its_requests(client: Client, server: Running) -> None:
    """The server closes a connection that has carried as many requests as one may."""
    conn = client.connect()
    for _ in range(3):
        conn.get()
    conn.ended()


@scenario(
    Expected(0, "max_requests"),
    closed="max_requests",
    fresh=True,
    kinds=("gunicorn-gthread", "gunicorn-asgi"),
    max_requests=1,
)
def worker_closes_with_its_last_request(client: Client, server: Running) -> None:
    """Gunicorn says so in the answer to the last request that the worker may carry."""
    conn = client.connect()
    conn.get()
    conn.ended()


@scenario(
    Expected(0, "error"), closed="error", kinds=("hypercorn", "gunicorn-gthread", "gunicorn-asgi", "gunicorn-sync")
)
def application_fails_and_the_server_closes(client: Client, server: Running) -> None:
    """The application fails before it has answered."""
    conn = client.connect()
    assert conn.get("/fail").status == 500
    conn.ended()


@scenario(Expected(0, "worker_sync"), closed="worker_sync", kinds=SYNC)
def sync_worker(client: Client, server: Running) -> None:
    """Gunicorn's sync worker keeps no connection."""
    conn = client.connect()
    conn.get()
    conn.ended()


@scenario(*[Expected(0, "worker_sync")] * 3, closed=("worker_sync",) * 3, kinds=SYNC)
def sync_worker_again(client: Client, server: Running) -> None:
    """A connection for each request."""
    for _ in range(3):
        conn = client.connect()
        conn.get()
        conn.ended()


@scenario(Expected(0, "worker_sync"), closed="worker_sync", kinds=SYNC)
def sync_worker_and_a_client_that_asks_for_it(client: Client, server: Running) -> None:
    """What the client says makes no difference: it would not have been kept."""
    conn = client.connect()
    conn.get("/ok", "Connection: close")
    conn.ended()


@scenario(Expected(0, "worker_sync"), closed="worker_sync", kinds=SYNC)
def sync_worker_and_http_1_0(client: Client, server: Running) -> None:
    """Nor does the version."""
    conn = client.connect()
    conn.get(version="1.0")
    conn.ended()


@scenario(Expected(0, "client_left"), closed="client_left", kinds=SYNC)
def sync_worker_left_mid_response(client: Client, server: Running) -> None:
    """A client that reads a part of a response and closes."""
    leaves_mid_response(client, server)


@scenario(closed="client_closed", kinds=SYNC)
def sync_worker_nothing_sent(client: Client, server: Running) -> None:
    """A health check that only connects."""
    client.connect().close()


@scenario(closed="error", kinds=SYNC)
def sync_worker_no_http(client: Client, server: Running) -> None:
    """What comes is no HTTP."""
    no_http(client, server)


@scenario(Expected(0, "error"), closed="error", kinds=SYNC)
def sync_worker_fails_mid_response(client: Client, server: Running) -> None:
    """The application fails in the middle of its answer."""
    application_fails_mid_response(client, server)


@scenario(None, closed="connection_close", kinds=UVICORN, limit_concurrency=1)
def too_many_at_once(client: Client, server: Running) -> None:
    """The server answers 503 and closes, as it has as many connections as it may: the application sees nothing."""
    conn = client.connect()
    assert conn.get().status == 503
    conn.ended()


CASES = [pytest.param(kind, case, id=f"{kind}-{case.play.__name__}") for case in SCENARIOS for kind in case.kinds]


def test_there_are_enough() -> None:
    """Servers times reasons: at least sixty."""
    assert len(CASES) >= 60


@pytest.mark.parametrize(("kind", "case"), [case for case in CASES if "gunicorn" not in str(case.id)])
def test_scenario(kind: str, case: Scenario, shared: Callable[..., Running], fresh: Callable[..., Running]) -> None:
    """What is told of each request and connection is what the client did."""
    check(kind, case, shared, fresh)


def check(kind: str, case: Scenario, shared: Callable[..., Running], fresh: Callable[..., Running]) -> None:
    """Play a script, and compare what is told with what the client did."""
    options = dict(case.options)
    server = (fresh if options.pop("fresh", False) else shared)(kind, **options)
    before = server.closed()
    client = server.client()
    try:
        case.play(client, server)
        closed = Counter(case.closed)
        until(lambda: (server.closed() - before).total() >= len(case.closed))
        assert server.closed() - before == closed
        numbers = [sent.number for sent in client.sent]
        (spans,) = until(lambda: all_of(server, numbers, case.told))
    finally:
        client.over()
    said = {number_of(span.attributes): [text for _, text in span.sentences] for span in server.spans()}
    for index, (sent, expected) in enumerate(zip(client.sent, case.told, strict=True)):
        if expected is None:
            assert sent.number not in spans
            continue
        told = {name: value for name, value in spans[sent.number].items() if "httptrace" in name or ".conn." in name}
        wanted = list(sentences(spans[sent.number]))
        assert len(said[sent.number]) == len(wanted), said[sent.number]
        assert all(map(re.fullmatch, wanted, said[sent.number])), said[sent.number]
        # Of another script's connection.
        lost = [told.pop(name) for name in list(told) if name.startswith("httptrace.server.lost.")]
        earlier = [other for other in client.sent[:index] if other.conn is sent.conn]
        age, idle = told.pop("httptrace.server.conn.age"), told.pop("httptrace.server.conn.idle", None)
        reason = {} if expected.close_reason is None else {"httptrace.server.conn.close_reason": expected.close_reason}
        first = spans[next(other.number for other in client.sent if other.conn is sent.conn)]
        assert told == {
            "http.conn.reused": expected.requests > 0,
            "httptrace.server.conn.id": first["httptrace.server.conn.id"],
            "httptrace.server.conn.requests": expected.requests,
            **reason,
        }
        over = sent.answered_at or time.monotonic()
        assert 0 <= age <= over - sent.conn.dialled_at
        peer = tuple(spans[sent.number].get(f"network.peer.{name}") for name in ("address", "port"))
        if expected.requests == 0:
            where = server.listener.address
            assert peer == ((None, None) if isinstance(where, str) else (where[0], sent.conn.local_port))
        else:
            assert (peer, lost) == ((None, None), [])
        if not earlier:
            assert idle is None
        elif earlier[-1].answered_at is not None and earlier[-1].answered_at <= sent.sent_at:
            # At most from when it was asked before to when it has answered now.
            assert 0 <= idle <= min(age, over - earlier[-1].sent_at)
            # A server on a busy machine may notice late that it has answered.
            pause = sent.sent_at - earlier[-1].answered_at
            assert idle >= pause / 2 or pause < PAUSE


def sentences(told: dict[str, Any]) -> Iterator[str]:
    """What must be said of a request with these attributes: patterns."""
    time_, conn = r"\d+(\.\d)? (s|ms|µs)", told["httptrace.server.conn.id"]
    before = told.get("httptrace.server.lost.requests")
    who = {
        "keepalive_timeout": "this server's keep-alive timeout",
        "client_closed": "the client" if before == 1 else None,
    }.get(told.get("httptrace.server.lost.close_reason", ""))
    if who is not None:
        carried = "1 request" if before == 1 else f"{before} requests"
        peer = re.escape(told["network.peer.address"])
        yield f"A new connection of {peer}: {who} had closed one before, which had carried {carried} and had been idle for {time_}."
    ends = f"Connection {conn} ends with this request: "
    text = {
        "client_left": f"The client left before this request was over, {time_} after it had begun: it closed connection {conn}.",
        "error": ends + "the application failed, or what came was no HTTP.",
        "max_requests": ends + "it, or its worker, has carried as many requests as it may.",
        "shutdown": ends + "the server, or the worker, was told to stop.",
    }.get(told.get("httptrace.server.conn.close_reason", ""))
    if text is not None:
        yield text


def all_of(server: Running, numbers: list[int], told: tuple[Expected | None, ...]) -> list[Any]:
    """The spans of these requests, once all have ended."""
    spans = server.requests()
    wanted = [number for number, expected in zip(numbers, told, strict=True) if expected is not None]
    return [{number: spans[number] for number in numbers if number in spans}] if set(wanted) <= set(spans) else []
