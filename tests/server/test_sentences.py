"""What is said in a sentence on the request spans of servers: on those of requests that were not ordinary."""

from __future__ import annotations

import pytest
from kit.servers import Seen, running, until

from otel_httptrace.server.ledger import Ledger, Reason
from otel_httptrace.server.sentences import of_end, of_loss

MS = 1_000_000


@pytest.mark.parametrize(
    ("reason", "requests", "said"),
    [
        (Reason.KEEPALIVE_TIMEOUT, 1, "this server's keep-alive timeout had closed one before, which had carried 1 request"),
        (Reason.KEEPALIVE_TIMEOUT, 7, "this server's keep-alive timeout had closed one before, which had carried 7 requests"),
        (Reason.CLIENT_CLOSED, 1, "the client had closed one before, which had carried 1 request"),
        (Reason.CLIENT_CLOSED, 2, None),
    ],
)  # fmt: skip
def test_of_a_connection_before(reason: Reason, requests: int, said: str | None) -> None:
    """A keep-alive timeout is told; a client's own close only if the connection had carried a single request."""
    ledger = Ledger()
    conn = ledger.accepted(80, "192.0.2.7", 4711, 0)
    for number in range(requests):
        conn.ended(conn.began(number * MS), number * MS)
    conn.closing(reason, (requests - 1) * MS + 5000 * MS)
    ledger.lost(conn)
    after = ledger.accepted(80, "192.0.2.7", 4712, 6000 * MS)
    after.began(6000 * MS)

    assert after.after is not None
    expected = f"A new connection of 192.0.2.7: {said} and had been idle for 5.0 s." if said is not None else None
    assert of_loss(after.after, after.peer) == expected


def test_of_a_connection_that_ends() -> None:
    """A request is told with which its connection ends, but not where all of that kind do; and how long it had run."""
    said = {}
    for reason in Reason:
        conn = Ledger().accepted(80, "192.0.2.7", 4711, 1000 * MS)
        request = conn.began(1500 * MS)
        conn.closing(reason, 1512 * MS)
        sentence = of_end(request, reason)
        if sentence is not None:
            said[reason] = sentence

    assert said == {
        Reason.CLIENT_LEFT: "The client left before this request was over, 12.0 ms after it had begun: it closed "
        "connection 1.",
        Reason.ERROR: "Connection 1 ends with this request: the application failed, or what came was no HTTP.",
        Reason.MAX_REQUESTS: "Connection 1 ends with this request: it, or its worker, has carried as many requests as it "
        "may.",
        Reason.SHUTDOWN: "Connection 1 ends with this request: the server, or the worker, was told to stop.",
    }


@pytest.mark.parametrize(("spans", "number"), [("connection", 1), ("None ", 0)])
def test_without_child_spans(spans: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting that leaves out child spans leaves out sentences, on the server's side, too; no event is after the end."""
    monkeypatch.setenv("OTEL_PYTHON_HTTPTRACE_SPANS", spans)
    seen = Seen()
    seen.instrument()
    try:
        with running(seen, "uvicorn-h11") as server:
            client = server.client()
            conn = client.connect()
            conn.get("/fail")
            conn.ended()
            client.over()
            (span,) = until(seen.exporter.get_finished_spans)
    finally:
        seen.shutdown()

    assert (span.attributes or {})["httptrace.server.conn.close_reason"] == "error"
    events = [event for event in span.events if event.name == "httptrace.diagnosis"]
    assert len(events) == number
    assert all(span.start_time <= event.timestamp <= span.end_time for event in events)
