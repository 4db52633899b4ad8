"""The embedded OTLP receiver takes whatever is sent to it, by whoever, and lives."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_httptrace.report.receiver import Batch, Receiver

PROTOBUF, JSON = "application/x-protobuf", "application/json"


class Got(NamedTuple):
    """An answer of the receiver's."""

    status: int
    content_type: str
    body: bytes


class Sender:
    """Sends anything to a receiver, on a connection of its own each."""

    def __init__(self, endpoint: str) -> None:
        self._host = urlsplit(endpoint).netloc

    def __call__(
        self,
        body: bytes,
        content_type: str | None = PROTOBUF,
        path: str = "/v1/traces",
        method: str = "POST",
        **more: str,
    ) -> Got:
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        if content_type is not None:
            headers["Content-Type"] = content_type
        connection = http.client.HTTPConnection(self._host, timeout=10)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Got(response.status, response.getheader("Content-Type") or "", response.read())
        finally:
            connection.close()


@pytest.fixture
def received() -> list[Message]:
    """What the receiver handed on."""
    return []


@pytest.fixture
def send(received: list[Message]) -> Iterator[Sender]:
    """Sends to a receiver that takes at most 10,000 bytes."""
    with Receiver(received.append, max_body=10_000) as receiver:
        yield Sender(receiver.endpoint)


def traces(*spans: str) -> ExportTraceServiceRequest:
    """An export request with spans of these names."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for span in spans:
        scope.spans.add(name=span)
    return request


def refusal(got: Got) -> str:
    """The message of a ``google.rpc.Status``, whose field 2 it is."""
    if got.content_type == JSON:
        return str(json.loads(got.body)["message"])
    # The same wire format as a span's field 2 in any message with a string there.
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope

    return InstrumentationScope.FromString(got.body).version


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [(None, bytes), ("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
    ids=["none", "identity", "gzip", "deflate"],
)
def test_protobuf(send: Sender, received: list[Message], encoding: str | None, pack: Callable[[bytes], bytes]) -> None:
    """Protobuf arrives as it was sent, compressed or not, and the answer is a full success."""
    sent = traces("one", "two")
    more = {} if encoding is None else {"Content_Encoding": encoding}
    got = send(pack(sent.SerializeToString()), **more)

    assert got == Got(200, PROTOBUF, b"")
    assert received == [sent]


def test_json(send: Sender, received: list[Message]) -> None:
    """JSON is taken and answered in kind; fields that are not known are ignored, as the specification asks."""
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "one"}], "fromTheFuture": 1}]}]}
    got = send(json.dumps(body).encode(), "application/json; charset=utf-8")

    assert (got.status, got.content_type, json.loads(got.body)) == (200, JSON, {})
    assert received == [traces("one")]


def test_json_has_hexadecimal_ids(send: Sender, received: list[Message]) -> None:
    """Ids in JSON are hexadecimal, as OTLP has them, not base64, as protobuf's own mapping does."""
    trace, span = "5b8efff798038103d269b633813fc60c", "EEE19B7EC3C1B174"
    link = {"trace_id": trace, "spanId": span.lower()}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": trace, "spanId": span, "links": [link]}]}]}]}
    assert send(json.dumps(body).encode(), JSON).status == 200

    expected = traces()
    added = expected.resource_spans[0].scope_spans[0].spans.add(trace_id=bytes.fromhex(trace))
    added.span_id = bytes.fromhex(span)
    added.links.add(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(span))
    assert received == [expected]


def test_what_came_is_handed_on(received: list[Message]) -> None:
    """A forwarder gets every request as it came, compressed or not, even if it could not be kept; what cannot be read it does not."""
    handed_on: list[Batch] = []

    def full(message: Message) -> None:
        raise OSError("disk full")

    body = gzip.compress(traces("one", "two").SerializeToString())
    as_json = b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{}]}]}]}'
    for keep in (received.append, full):
        with Receiver(keep, forward=handed_on.append) as receiver:
            send = Sender(receiver.endpoint)
            send(body, Content_Encoding="gzip")
            send(as_json, JSON, "/v1/logs")
            send(b"{", JSON, "/v1/logs")

        assert handed_on == [
            Batch("/v1/traces", PROTOBUF, "gzip", body, 2, "spans"),
            Batch("/v1/logs", JSON, "", as_json, 1, "log records"),
        ]
        handed_on.clear()


def test_metrics_and_logs(send: Sender, received: list[Message]) -> None:
    """All three signals have their path."""
    assert send(b"", path="/v1/metrics").status == 200
    assert send(b"", path="/v1/logs?x=y").status == 200

    assert [type(message).__name__ for message in received] == [
        "ExportMetricsServiceRequest",
        "ExportLogsServiceRequest",
    ]


@pytest.mark.parametrize(
    ("told", "status", "arguments"),
    [
        ("not an OTLP request", 400, {"body": b"\xff" * 100}),
        ("not an OTLP request", 400, {"body": b"{", "content_type": JSON}),
        ("not an OTLP request", 400, {"body": b"\xff\xfe", "content_type": JSON}),
        ("not an OTLP request", 400, {"body": b"[1]", "content_type": JSON}),
        ("not an OTLP request", 400, {"body": b"[" * 9_000, "content_type": JSON}),
        (
            "traceId: hexadecimal digits were expected",
            400,
            {
                "body": b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "W47/95gDgQPSabYzgT/GDA=="}]}]}]}',
                "content_type": JSON,
            },
        ),
        ("not gzip", 400, {"body": b"plain", "Content_Encoding": "gzip"}),
        ("gzip data is cut off", 400, {"body": gzip.compress(b"x" * 999, mtime=0)[:-9], "Content_Encoding": "gzip"}),
        ("br is not supported", 415, {"body": b"", "Content_Encoding": "br"}),
        ("text/plain: application/x-protobuf", 415, {"body": b"", "content_type": "text/plain"}),
        ("is missing", 415, {"body": b"", "content_type": None}),
        ("no such path: /v2/traces", 404, {"body": b"", "path": "/v2/traces"}),
        ("10001 bytes are more than 10000", 413, {"body": b"x" * 10_001}),
        ("Content-Length expected", 411, {"body": b"", "Content_Length": "many"}),
        ("Content-Length expected", 411, {"body": b"0\r\n\r\n", "Transfer_Encoding": "chunked"}),
        ("after decompression", 413, {"body": gzip.compress(bytes(1_000_000), mtime=0), "Content_Encoding": "gzip"}),
    ],
)
def test_refused(
    send: Sender,
    received: list[Message],
    caplog: pytest.LogCaptureFixture,
    told: str,
    status: int,
    arguments: dict[str, Any],
) -> None:
    """What cannot be read is refused with the status and a message that says what is wrong, and the next is served."""
    with caplog.at_level(logging.WARNING, "otel_httptrace.report"):
        got = send(**arguments)

    assert got.status == status
    assert told in refusal(got)
    assert [told in record.getMessage() for record in caplog.records] == [True]
    assert received == []
    assert send(traces("next").SerializeToString()).status == 200
    assert received == [traces("next")]


def test_a_long_message_is_a_valid_status(send: Sender) -> None:
    """A message longer than one length byte can say is encoded as protobuf wants it."""
    path = "/v1/" + "x" * 500

    assert refusal(send(b"", path=path)).startswith(f"no such path: {path};")


def test_other_methods(send: Sender) -> None:
    """GET and its kind are told to POST; HEAD gets no body."""
    assert send(b"", method="GET").status == 405
    assert send(b"", method="PUT", path="/else").status == 404
    assert send(b"", method="HEAD")[::2] == (405, b"")


def test_a_body_that_ends_early(received: list[Message]) -> None:
    """A sender that leaves half-way is no request."""
    import socket

    with Receiver(received.append) as receiver:
        host, _, port = urlsplit(receiver.endpoint).netloc.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(
                b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
                b"Content-Length: 50\r\n\r\nhalf"
            )
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the body ended after 4 of 50 bytes" in answer
    assert received == []


@pytest.mark.parametrize(
    ("path", "response"),
    [
        ("/v1/traces", ExportTraceServiceResponse),
        ("/v1/metrics", ExportMetricsServiceResponse),
        ("/v1/logs", ExportLogsServiceResponse),
    ],
)
def test_partial_success(path: str, response: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where what came cannot be kept the sender is told how much was lost, and why: success in part."""

    def full(message: Message) -> None:
        raise OSError("disk full")

    with Receiver(full) as receiver:
        send = Sender(receiver.endpoint)
        body = traces("one", "two").SerializeToString() if path == "/v1/traces" else b""
        got = send(body, path=path)

    answer = response.FromString(got.body).partial_success
    assert (got.status, answer.error_message) == (200, "disk full")
    if path == "/v1/traces":
        assert answer.rejected_spans == 2
    assert "not kept: disk full" in caplog.text


def test_the_real_exporter(received: list[Message]) -> None:
    """The SDK's own OTLP exporter, with gzip, is served over one connection."""
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    with Receiver(received.append) as receiver:
        provider = TracerProvider(shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=Compression.Gzip)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        for name in ("one", "two"):
            provider.get_tracer("test").start_span(name).end()
        provider.shutdown()

    names = [
        span.name
        for message in received
        if isinstance(message, ExportTraceServiceRequest)
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert names == ["one", "two"]
