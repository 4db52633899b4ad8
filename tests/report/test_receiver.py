"""The embedded OTLP receiver takes whatever is sent to it, by whoever, and lives."""

from __future__ import annotations

import contextlib
import gzip
import hmac
import http.client
import json
import logging
import re
import select
import socket
import struct
import subprocess
import sys
import threading
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

from otel_httptrace.report.receiver import Batch, Receiver, new_token

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
def test_protobuf_is_taken_and_answered(
    send: Sender, received: list[Message], encoding: str | None, pack: Callable[[bytes], bytes]
) -> None:
    """Protobuf arrives as it was sent, compressed or not, and the answer is a full success."""
    sent = traces("one", "two")
    more = {} if encoding is None else {"Content_Encoding": encoding}
    got = send(pack(sent.SerializeToString()), **more)

    assert got == Got(200, PROTOBUF, b"")
    assert received == [sent]


def test_json_is_taken_and_answered_in_kind(send: Sender, received: list[Message]) -> None:
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


def test_all_three_signals_have_their_path(send: Sender, received: list[Message]) -> None:
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
        ("an object was expected, not a list", 400, {"body": b"[]", "content_type": JSON}),
        ("an object was expected, not null", 400, {"body": b"null", "content_type": JSON}),
        ("an object was expected, not a number", 400, {"body": b"0", "content_type": JSON}),
        ("an object was expected, not a string", 400, {"body": b'""', "content_type": JSON}),
        ("an object was expected, not a boolean", 400, {"body": b"false", "content_type": JSON}),
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
        ("Content-Length expected", 411, {"body": b"", "Content_Length": "\u00b2"}),
        ("Content-Length expected", 411, {"body": b"", "Content_Length": "-1"}),
        ("bytes are more than 10000", 413, {"body": b"", "Content_Length": "9" * 5_000}),
        ("Host is not this receiver's", 421, {"body": b"", "Host": "attacker.example"}),
        ("Host is not this receiver's", 421, {"body": b"", "Host": "127.0.0.1"}),
        ("Content-Length expected", 411, {"body": b"0\r\n\r\n", "Transfer_Encoding": "chunked"}),
        ("after decompression", 413, {"body": gzip.compress(bytes(1_000_000), mtime=0), "Content_Encoding": "gzip"}),
    ],
)
def test_what_cannot_be_read_is_refused(
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


def test_other_methods_are_told_to_post(send: Sender) -> None:
    """GET and its kind are told to POST; HEAD gets no body."""
    assert send(b"", method="GET").status == 405
    assert send(b"", method="PUT", path="/else").status == 404
    assert send(b"", method="HEAD")[::2] == (405, b"")


def test_a_body_that_ends_early(received: list[Message]) -> None:
    """A sender that leaves half-way is no request."""
    with Receiver(received.append) as receiver:
        host, _, port = urlsplit(receiver.endpoint).netloc.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(
                b"POST /v1/traces HTTP/1.1\r\nHost: %b\r\nContent-Type: application/x-protobuf\r\n"
                b"Content-Length: 50\r\n\r\nhalf" % urlsplit(receiver.endpoint).netloc.encode()
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
def test_a_partial_success_says_how_much_was_lost(path: str, response: Any, caplog: pytest.LogCaptureFixture) -> None:
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


def test_the_real_exporter_is_served_over_one_connection(received: list[Message]) -> None:
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


TOKEN = "right-token"


def sent(receiver: Receiver, request: bytes) -> bytes:
    """What *receiver* answers to these bytes, until it closes the connection."""
    host, _, port = urlsplit(receiver.endpoint).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def head(receiver: Receiver, *lines: str, path: str = "/v1/traces", host: str | None = None) -> bytes:
    """The head of a POST of protobuf, with *lines* besides."""
    host = host or urlsplit(receiver.endpoint).netloc
    return "\r\n".join((f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {PROTOBUF}", *lines, "", "")).encode(
        "latin-1"
    )


@pytest.mark.parametrize(
    "token",
    [None, "", "right-toke", "right-token2", "RIGHT-TOKEN", "\u00fc"],
    ids=["none", "empty", "less", "more", "case", "ü"],
)
@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics", "/v1/logs", "/else"])
def test_only_who_has_the_token(received: list[Message], token: str | None, path: str) -> None:
    """Without the token nothing is kept or forwarded, on any path, and the body is not even read."""
    forwarded: list[Batch] = []
    with Receiver(received.append, forward=forwarded.append, token=TOKEN) as receiver:
        send = Sender(receiver.endpoint)
        got = send(
            traces("one").SerializeToString(), path=path, **({} if token is None else {"x_httptrace_token": token})
        )
        # As big as is allowed, and never sent.
        unread = sent(receiver, head(receiver, f"Content-Length: {20 * 1024 * 1024}"))
        right = send(traces("two").SerializeToString(), x_httptrace_token=TOKEN)

    assert (got.status, "x-httptrace-token is missing or wrong" in refusal(got)) == (403, True)
    assert unread.startswith(b"HTTP/1.1 403 ")
    assert right.status == 200
    assert received == [traces("two")]
    assert [batch.items for batch in forwarded] == [1]


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a wrong token is refused does not depend on how much of it is right: hmac compares it."""
    compared = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with Receiver(lambda message: None, token=TOKEN) as receiver:
        assert Sender(receiver.endpoint)(b"", x_httptrace_token="wrong").status == 403

    assert compared == [(b"wrong", TOKEN.encode())]


def test_tokens_cannot_be_guessed() -> None:
    """A token has 256 bits of the system's randomness, in letters that a header and a variable can hold."""
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch("[A-Za-z0-9_-]{43,}", token) for token in tokens)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1"])
def test_both_names_of_loopback_are_accepted_as_host(received: list[Message], host: str) -> None:
    """Host may be either name of the loopback interface, with the port."""
    with Receiver(received.append) as receiver:
        port = urlsplit(receiver.endpoint).port
        assert sent(receiver, head(receiver, "Content-Length: 0", host=f"{host}:{port}")).startswith(b"HTTP/1.1 200 ")
        nameless = sent(receiver, b"POST /v1/traces HTTP/1.0\r\nContent-Length: 0\r\n\r\n")

    assert nameless.startswith(b"HTTP/1.1 400 ")
    assert len(received) == 1


def test_two_lengths_are_refused(received: list[Message]) -> None:
    """A request that has two lengths is refused: who forwards it may believe the other one."""
    with Receiver(received.append) as receiver:
        answer = sent(receiver, head(receiver, "Content-Length: 0", "Content-Length: 5") + b"GET /")

    assert answer.startswith(b"HTTP/1.1 411 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert received == []


HOSTILE = "/\x1b]0;owned\x07\x9b31m"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/traces HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: \xb2\r\n\r\n",
        b"POST " + HOSTILE.encode("latin-1") + b" HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
        b"Content-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Type: \x1b[31m\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Encoding: \x07\r\n"
        b"Content-Length: 0\r\n\r\n",
        HOSTILE.encode("latin-1") + b" / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/\x1b[31m\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
    ids=["length", "path", "type", "encoding", "method", "version", "line", "headers", "TLS"],
)
def test_the_terminal_is_the_users(request_: bytes) -> None:
    """Whatever is sent, no traceback and no control character gets to stderr, and the next is served."""
    code = (
        "import sys\n"
        "from otel_httptrace.report.receiver import Receiver\n"
        "with Receiver(lambda message: None) as receiver:\n"
        "    print(receiver.endpoint, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().strip()
        host, _, port = urlsplit(endpoint).netloc.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(request_.replace(b"HOST", urlsplit(endpoint).netloc.encode()))
            # Unread, what was answered makes the close a reset.
            sock.recv(1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert Sender(endpoint)(b"").status == 200
        _, told = process.communicate(timeout=30)

    assert b"Traceback" not in told
    assert [char for char in told.decode() if not char.isprintable() and char != "\n"] == []
    assert process.returncode == 0


def test_refusals_do_not_fill_the_terminal(send: Sender, caplog: pytest.LogCaptureFixture) -> None:
    """Five refusals are told, the last with the word that it is; all others are for who debugs."""
    for _ in range(20):
        send(b"", path="/else")

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 5
    assert [line.endswith("further ones are not shown") for line in told] == [False, False, False, False, True]


def test_a_refusal_can_be_read(received: list[Message]) -> None:
    """Who sends a body that is refused unread gets the answer, not a reset."""
    with Receiver(received.append, max_body=10, token=TOKEN) as receiver:
        for lines in (("Content-Length: 900000",), ("Content-Length: 900000", f"{'x-httptrace-token'}: {TOKEN}")):
            answer = sent(receiver, head(receiver, *lines) + b"x" * 900_000)
            assert answer[:13] in (b"HTTP/1.1 403 ", b"HTTP/1.1 413 ")
            assert b"Connection: close" in answer


class Gate:
    """Keeps a receiver from accepting until it is opened.

    Args:
        free: the receiver's places, which it stands in for.
    """

    def __init__(self, free: threading.BoundedSemaphore) -> None:
        self._free = free
        self._opened = threading.Event()
        self.open = self._opened.set
        self.release = free.release

    def acquire(self, blocking: bool) -> bool:
        """Take a place, once there is one to take."""
        self._opened.wait()
        return self._free.acquire(blocking=blocking)


@pytest.mark.skipif(sys.platform != "linux", reason="how often a packet was sent is told by Linux's TCP_INFO")
def test_256_connections_at_once_are_kept_waiting(received: list[Message]) -> None:
    """256 connections that come before one is accepted are all kept waiting: no packet of theirs is sent twice."""
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver(received.append))
        gate = Gate(receiver._server._free)
        receiver._server._free = gate  # type: ignore[assignment]
        stack.callback(gate.open)
        address = urlsplit(receiver.endpoint)
        waiting = [stack.enter_context(socket.socket()) for _ in range(256)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex((str(address.hostname), int(address.port or 0)))
        late = set(waiting)
        while late:
            _, connected, _ = select.select([], list(late), [], 10)
            assert connected, f"{len(late)} connections were not made"
            late -= set(connected)
        for sock in waiting:
            sock.setblocking(True)
            sock.settimeout(30)
            sock.sendall(head(receiver, "Content-Length: 0"))
        gate.open()
        for sock in waiting:
            assert sock.recv(12) == b"HTTP/1.1 200"
        # tcpi_total_retrans: linux/tcp.h, struct tcp_info, after 8 bytes and 23 numbers of four.
        again = [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:] for sock in waiting]

    assert again == [bytes(4)] * 256
    assert len(received) == 256


def test_more_than_it_serves(received: list[Message]) -> None:
    """Connections beyond those that it has threads for are closed at once, and served again when others are gone."""
    with Receiver(received.append) as receiver, contextlib.ExitStack() as stack:
        receiver._server._free = threading.BoundedSemaphore(2)
        address = (str(urlsplit(receiver.endpoint).hostname), int(urlsplit(receiver.endpoint).port or 0))
        held = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(3)]
        assert held[2].recv(1) == b""
        held[0].close()
        # It sees so in a thread of its own.
        answer = b""
        while not answer:
            with contextlib.suppress(OSError):
                answer = sent(receiver, head(receiver, "Content-Length: 0"))

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_byte_at_a_time(received: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has to come whole within its time, however busily it comes: head or body."""
    monkeypatch.setattr("otel_httptrace.report.receiver._REQUEST", 0.3)
    with Receiver(received.append) as receiver:
        host, _, port = urlsplit(receiver.endpoint).netloc.partition(":")
        for begun, answer in (
            (b"POST / HTTP/1.1\r\nx:", b""),
            (head(receiver, "Content-Length: 99999"), b"HTTP/1.1 408 "),
        ):
            with socket.create_connection((host, int(port)), timeout=30) as sock:
                sock.sendall(begun)
                # It would be answered never, were each byte waited for again.
                for _ in range(3000):
                    if select.select([sock], [], [], 0.02)[0]:
                        break
                    sock.sendall(b"x")
                else:
                    pytest.fail("it was waited for without an end")
                assert sock.recv(13) == answer

    assert received == []
