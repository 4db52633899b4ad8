"""The server's half as a whole: the founding story, both ends, and that no harm is done."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.servers import NUMBERS, Running, Seen, until
from kit.sockets import Client, Conn
from kit.telemetry import Telemetry
from kit.webapps import asgi
from opentelemetry.trace import SpanKind

from otel_httptrace.server.watch import Watch

ROOT = Path(__file__).parent.parent.parent


def told_of(server: Running) -> tuple[int, dict[bool, int], Counter[str]]:
    """Connections opened, requests by whether theirs was reused, and connections closed by why: of this server."""
    mine = [
        (name, attributes, number)
        for name in ("connections.opened", "requests")
        for attributes, number in server.points(f"httptrace.server.{name}")
        if attributes.get("server.port") == server.port
    ]
    requests = {one["http.conn.reused"]: number for name, one, number in mine if name == "requests"}
    return sum(number for name, _, number in mine if name == "connections.opened"), requests, server.closed()


def twenty_at_five(client: Client, one: Callable[[Conn | None], Conn | None]) -> None:
    """Twenty requests by five workers: each is given its last connection, and answers the one to use next."""

    def worker(_: int) -> None:
        conn: Conn | None = None
        for _ in range(4):
            conn = one(conn)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(worker, range(5)))
    client.over()


def test_the_founding_story(fresh: Callable[..., Running]) -> None:
    """A client in any language that closes a response unread connects for every request: the server alone tells."""
    server = fresh("uvicorn-httptools")
    client = server.client()

    def reads(conn: Conn | None) -> Conn:
        conn = conn or client.connect()
        conn.get()
        return conn

    twenty_at_five(client, reads)
    until(lambda: server.closed().total() == 5)
    assert told_of(server) == (5, {False: 5, True: 15}, {"client_closed": 5})

    def closes_unread(conn: Conn | None) -> None:
        conn = client.connect()
        conn.send(conn.head("/stream"))
        conn.some()
        conn.close()

    twenty_at_five(client, closes_unread)
    until(lambda: server.closed().total() == 25)
    assert told_of(server) == (25, {False: 25, True: 15}, {"client_closed": 5, "client_left": 20})


def test_both_ends_agree(seen: Seen, fresh: Callable[..., Running]) -> None:
    """Without a proxy, client and server say the same of every request: reused, how many before, which connection."""
    total = int(os.environ.get("HTTPTRACE_TEST_REQUESTS", "400"))
    server = fresh("uvicorn-h11")
    telemetry = Telemetry()
    telemetry.instrument()
    try:
        # No more threads than connections: httpcore's pool loses requests where they have to wait for one.
        with httpx.Client(trust_env=False) as client, ThreadPoolExecutor(4) as pool:

            def send(number: int) -> None:
                # Some are to be closed by the server, some by what the client says.
                path = "close" if number % 7 == 0 else "ok"
                headers = {"Connection": "close"} if number % 11 == 0 else {}
                client.get(f"http://127.0.0.1:{server.port}/{path}?n={next(NUMBERS)}", headers=headers)

            list(pool.map(send, range(total)))
        ours = {span.context.span_id: span.attributes or {} for span in telemetry.requests() if span.context}
        spans = [span for span in seen.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
        theirs = {span.parent.span_id: span.attributes or {} for span in spans if span.parent is not None}
    finally:
        telemetry.uninstrument()
        telemetry.shutdown()
    assert len(ours) == total
    connections = set()
    for span_id, client_says in ours.items():
        server_says = theirs[span_id]
        assert server_says["http.conn.reused"] == client_says["http.conn.reused"]
        assert server_says["httptrace.server.conn.requests"] == client_says["httptrace.conn.requests"]
        connections.add((client_says["httptrace.conn.id"], server_says["httptrace.server.conn.id"]))
        # The client's includes the time on the way, and stands only where it waited.
        assert ("httptrace.server.conn.idle" in server_says) == client_says["http.conn.reused"]
    assert len(connections) == len({one for one, _ in connections}) == len({other for _, other in connections})


def test_what_ended_between_requests_is_told_on_the_next_connection(seen: Seen, fresh: Callable[..., Running]) -> None:
    """No request's span can say why an idle connection ended: the next connection's first one does, once for each."""
    server = fresh("uvicorn-httptools", keep_alive=1)
    client = server.client()

    def told() -> dict[str, Any]:
        known = until(lambda: server.requests().get(client.sent[-1].number))
        return {name.rpartition(".")[2]: of for name, of in known.items() if name.startswith("httptrace.server.lost.")}

    first, second = client.connect(), client.connect()
    for conn in (first, first, second):
        conn.get()
        assert told() == {}
    second.close()
    until(lambda: server.closed().total() == 1)
    first.ended()
    until(lambda: server.closed().total() == 2)

    conn = client.connect()
    conn.get()
    lost = told()
    assert lost.pop("idle") >= 0.9
    assert lost == {"close_reason": "keepalive_timeout", "port": first.local_port, "requests": 2}
    conn.get()
    assert told() == {}
    client.connect().get()
    lost = told()
    assert 0 <= lost.pop("idle") < 0.9
    assert lost == {"close_reason": "client_closed", "port": second.local_port, "requests": 1}
    client.connect().get()
    assert told() == {}
    client.over()


def test_no_request_span(seen: Seen, fresh: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an instrumentation that makes spans there are metrics."""
    monkeypatch.setattr(Seen, "app", lambda self: asgi)
    server = fresh("uvicorn-h11")
    client = server.client()
    client.connect().get()
    client.over()
    until(lambda: server.closed().total() == 1)
    assert told_of(server) == (1, {False: 1}, {"client_closed": 1})
    assert client.sent[0].number not in server.requests()


def test_an_unsampled_span_is_left_alone(seen: Seen) -> None:
    """A span that is not recorded is neither described nor held."""
    from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan

    watch = seen.instrumentor._watch
    assert watch is not None
    for span in (INVALID_SPAN, NonRecordingSpan(INVALID_SPAN.get_span_context())):
        watch.span_started(span, {"client": ("127.0.0.1", 40000)})
        assert "end" not in vars(span)


@pytest.mark.contained
@pytest.mark.parametrize(
    "broken", ["accepted", "began", "closing", "hung_up", "lost", "answered", "done", "span_started"]
)
def test_a_fault_of_ours_harms_nothing(
    broken: str, seen: Seen, fresh: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Whatever of ours fails: the requests are answered, and it is logged."""
    server = fresh("uvicorn-httptools", keep_alive=1)
    # What has failed before is logged once.
    watch = seen.instrumentor._watch
    assert watch is not None
    monkeypatch.setattr(watch.guard, "_logged", set())
    monkeypatch.setattr(watch.guard, "failing", {})

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Watch, broken, fails)
    client = server.client()
    with caplog.at_level(logging.ERROR, "otel_httptrace"):
        conn = client.connect()
        assert [conn.get().body, conn.get().body] == [b"ok", b"ok"]
        assert conn.get("/close").status == 200
        conn.ended()
        left = client.connect()
        left.send(left.head("/stream"))
        left.some()
        left.reset()
        until(lambda: caplog.records)
    assert all(record.name == "otel_httptrace" for record in caplog.records)


def test_a_forked_child_starts_clean(seen: Seen) -> None:
    """The parent's connections are not the child's: a worker counts its own."""
    watch = seen.instrumentor._watch
    assert watch is not None
    conn = watch.ledger.accepted(80, "10.0.0.1", 4000, at=0)
    child = os.fork() if hasattr(os, "fork") else pytest.skip("no fork")
    if child == 0:
        os._exit(0 if not watch.ledger.open() and not watch.ledger.counted() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert watch.ledger.lost(conn)


def test_connections_in_many_threads() -> None:
    """Accepted and lost from many threads at once: none is lost count of."""
    from otel_httptrace.server.ledger import Ledger

    ledger = Ledger(max_peers=4)

    def work(thread: int) -> None:
        for number in range(2000):
            conn = ledger.accepted(80, f"10.0.{thread}.{number % 3}", 4000, at=number)
            conn.ended(conn.began(number), number)
            ledger.lost(conn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts.opened for _, counts in ledger.counted()) == 8000
    assert sum(counts.closed.total() for _, counts in ledger.counted()) == 8000
