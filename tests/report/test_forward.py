"""What was received is sent on, and nobody waits for it."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from kit.backend import Asked, Backend, Reply, free_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_httptrace.report.forward import Forwarder, headers
from otel_httptrace.report.receiver import Batch

PROTOBUF = "application/x-protobuf"


def batch(body: bytes = b"spans", items: int = 3, path: str = "/v1/traces", encoding: str = "") -> Batch:
    """A batch of spans, or of what the path says."""
    return Batch(path, PROTOBUF, encoding, body, items, {"/v1/traces": "spans", "/v1/logs": "log records"}[path])


class Scripted:
    """A backend that answers with these, then with 200."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = iter(replies)
        self.backend = Backend(self._answer)
        self.times: list[float] = []

    def _answer(self, asked: Asked) -> Reply:
        self.times.append(time.monotonic())
        return next(self._replies, Reply())

    @property
    def bodies(self) -> list[bytes]:
        return [asked.body for asked in self.backend.asked]

    def __enter__(self) -> Scripted:
        self.backend.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.backend.__exit__(*exc_info)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "otlp-forwarder":
            thread.join(10)
            assert not thread.is_alive()


def test_batches_are_forwarded_as_they_came() -> None:
    """Bytes, content type, compression and order are kept, and the user's headers are sent with them."""
    packed = gzip.compress(b"spans")
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20abc, x-tenant = one",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-tenant=two",
    }
    with Scripted() as scripted:
        forwarder = Forwarder(f"{scripted.backend.url}/otlp/", environ)
        forwarder.send(batch(packed, encoding="gzip"))
        forwarder.send(batch(b"logs", path="/v1/logs"))
        assert forwarder.close() is None

    first, second = scripted.backend.asked
    assert (first.method, first.path, first.body) == ("POST", "/otlp/v1/traces", packed)
    assert (first.headers["content-type"], first.headers["content-encoding"]) == (PROTOBUF, "gzip")
    assert (first.headers["authorization"], first.headers["x-tenant"]) == ("Basic abc", "one")
    assert (second.path, second.body, second.headers["x-tenant"]) == ("/otlp/v1/logs", b"logs", "two")
    assert not {"content-encoding", "authorization"} & second.headers.keys()


@pytest.mark.parametrize("status", [429, 502, 503, 504, 0])
def test_retryable_failures_are_tried_again(status: int) -> None:
    """What the specification calls retryable, and a broken connection, is tried again, with more time in between."""
    with Scripted(Reply(status=status), Reply(status=status)) as scripted:
        forwarder = Forwarder(scripted.backend.url, {}, first_pause=0.05)
        forwarder.send(batch())
        assert forwarder.close() is None

    assert scripted.bodies == [b"spans"] * 3
    first, second, third = scripted.times
    assert second - first >= 0.025
    assert third - second >= 0.05


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    """Retry-After is honoured, as a number and as a date."""
    # A date has no fraction of a second.
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    with Scripted(Reply(status=503, headers={"Retry-After": value})) as scripted:
        forwarder = Forwarder(scripted.backend.url, {}, first_pause=0.01)
        forwarder.send(batch())
        assert forwarder.close(10) is None

    first, second = scripted.times
    assert second - first >= (1 if form == "seconds" else 0.9)


@pytest.mark.parametrize("value", ["soon", "²", "-1", "0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_useless_retry_after_is_ignored(value: str) -> None:
    """A Retry-After that asks for nothing leaves the pause as it is."""
    with Scripted(Reply(status=503, headers={"Retry-After": value})) as scripted:
        forwarder = Forwarder(scripted.backend.url, {}, first_pause=0.01)
        forwarder.send(batch())
        assert forwarder.close() is None

    assert len(scripted.bodies) == 2


def test_no_answer_in_time() -> None:
    """An attempt that takes too long is tried again, and counts as lost in the end."""
    go_on = threading.Event()

    def stall(asked: Asked) -> Reply:
        go_on.wait(10)
        return Reply()

    with Backend(stall) as backend:
        forwarder = Forwarder(backend.url, {}, timeout=0.05, patience=0.3, first_pause=0.01)
        forwarder.send(batch())
        line = forwarder.close()
        go_on.set()

    assert line == f"not delivered to {backend.url}: 3 spans (it did not answer in time)"
    assert len(backend.asked) > 1


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ([Reply(status=400)], "3 spans (it answered 400 Bad Request)"),
        ([Reply(status=401), Reply(status=401)], "3 spans, 2 log records (it answered 401 Unauthorized)"),
        ([Reply(status=307, headers={"Location": "/else"})], "3 spans (it answered 307 Temporary Redirect)"),
    ],
)
def test_a_refused_batch_is_not_sent_again(replies: list[Reply], told: str) -> None:
    """What is refused for good is not sent again; what comes next is, and the end says in one line what was lost."""
    with Scripted(*replies) as scripted:
        forwarder = Forwarder(scripted.backend.url, {})
        forwarder.send(batch())
        forwarder.send(batch(b"logs", 2, "/v1/logs"))
        line = forwarder.close()

    assert line == f"not delivered to {scripted.backend.url}: {told}"
    assert scripted.bodies == [b"spans", b"logs"]


def test_a_partial_success_is_reported_and_not_sent_again() -> None:
    """A partial success says how many were rejected, and is not sent again."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    reply = Reply(answer.SerializeToString(), headers={"Content-Type": PROTOBUF})
    with Scripted(reply, Reply(b"\xff", headers={"Content-Type": PROTOBUF})) as scripted:
        forwarder = Forwarder(scripted.backend.url, {})
        forwarder.send(batch())
        forwarder.send(batch())
        assert forwarder.close() == f"not delivered to {scripted.backend.url}: 2 spans (it took a part only)"

    assert len(scripted.bodies) == 2


def test_an_endpoint_that_refuses_costs_no_time() -> None:
    """An endpoint that refuses costs nobody time: not the sender, and at the end no more than it may."""
    port = free_port()
    forwarder = Forwarder(f"http://user:secret@127.0.0.1:{port}", {}, first_pause=0.01)
    before = time.monotonic()
    for _ in range(50):
        forwarder.send(batch())
    assert time.monotonic() - before < 0.3
    line = forwarder.close(0.3)

    assert time.monotonic() - before < 3
    assert line is not None
    assert line.startswith(f"not delivered to http://127.0.0.1:{port}: 150 spans (it cannot be reached: ")
    assert "secret" not in line


def test_a_batch_that_fails_for_too_long_is_given_up() -> None:
    """A batch that fails for too long is given up, and the next has its chance."""
    with Scripted(*[Reply(status=503)] * 3) as scripted:
        forwarder = Forwarder(scripted.backend.url, {}, patience=0.2, first_pause=0.15)
        forwarder.send(batch(b"one", 1))
        forwarder.send(batch(b"two", 2))
        line = forwarder.close()

    assert line == f"not delivered to {scripted.backend.url}: 1 spans (it answered 503 Service Unavailable)"
    assert scripted.bodies[0] == b"one"
    assert scripted.bodies[-1] == b"two"


def test_the_queue_is_bounded() -> None:
    """What a stalled endpoint cannot take in time is counted as lost; what waited is sent once it can be."""
    stalled, go_on = threading.Event(), threading.Event()

    def stall(asked: Asked) -> Reply:
        stalled.set()
        go_on.wait(10)
        return Reply()

    with Backend(stall) as backend:
        forwarder = Forwarder(backend.url, {}, max_bytes=100)
        forwarder.send(batch(b"x" * 40))
        assert stalled.wait(10)
        for _ in range(4):
            forwarder.send(batch(b"y" * 40))
        go_on.set()
        assert forwarder.close() == f"not delivered to {backend.url}: 9 spans (it cannot keep up)"

    assert [len(asked.body) for asked in backend.asked] == [40, 40]


def test_the_end_is_bounded() -> None:
    """An endpoint that never answers holds the end up for as long as it may, and what is under way counts as lost."""
    stalled, go_on = threading.Event(), threading.Event()

    def stall(asked: Asked) -> Reply:
        stalled.set()
        go_on.wait(10)
        return Reply()

    with Backend(stall) as backend:
        forwarder = Forwarder(backend.url, {})
        forwarder.send(batch())
        assert stalled.wait(10)
        forwarder.send(batch())
        line = forwarder.close(0.2)
        assert line == f"not delivered to {backend.url}: 6 spans (it did not answer within 0.2 s at the end)"
        forwarder.send(batch())
        assert forwarder.close() == f"not delivered to {backend.url}: 9 spans (it came after the end)"
        go_on.set()


def test_an_endpoint_that_speaks_grpc_is_recognised() -> None:
    """What speaks something else is told apart, and of port 4317 it is said what it is for."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()

        def http2() -> None:
            while True:
                try:
                    connection, _ = sock.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18))
                    connection.recv(65536)

        thread = threading.Thread(target=http2, daemon=True)
        thread.start()
        port = sock.getsockname()[1]
        forwarder = Forwarder(f"http://127.0.0.1:{port}", {}, first_pause=0.01)
        forwarder._port = 4317
        forwarder.send(batch())
        line = forwarder.close(0.3)
        sock.shutdown(socket.SHUT_RDWR)
    thread.join(10)

    assert line == (
        f"not delivered to http://127.0.0.1:{port}: 3 spans (it broke off, or does not speak HTTP; "
        "port 4317 usually speaks gRPC: OTLP/HTTP is needed here, 4318)"
    )


@pytest.mark.parametrize("endpoint", ["", "localhost:4318", "grpc://localhost:4317", "http://", "http://[", "ftp://x"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    """What is no URL of HTTP is refused at once, with what is expected."""
    with pytest.raises(ValueError, match="an OTLP/HTTP endpoint like http://localhost:4318 was expected"):
        Forwarder(endpoint, {})


def test_an_endpoint_of_one_signal() -> None:
    """An endpoint with a signal's path is taken for what comes before it."""
    forwarder = Forwarder("http://localhost:4318/otlp/v1/traces?x=y", {})

    assert forwarder.endpoint == "http://localhost:4318/otlp"
    assert forwarder.close() is None


@pytest.mark.parametrize("value", ["secret", "a=secret\n", "ä=secret", "=secret", "a=x%0asecret"])
def test_bad_headers_are_refused_without_being_shown(value: str) -> None:
    """Headers that cannot be sent are refused at once, without being shown."""
    environ: dict[str, Any] = {"OTEL_EXPORTER_OTLP_HEADERS": f"good=1,{value}"}
    if value.endswith("\n"):
        # White space around it is no part of it.
        assert headers(environ)["/v1/traces"] == {"good": "1", "a": "secret"}
        return
    with pytest.raises(ValueError, match=r"^OTEL_EXPORTER_OTLP_HEADERS: ") as refused:
        headers(environ)

    assert "secret" not in str(refused.value)
