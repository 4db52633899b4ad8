"""What a few bytes can become is limited, and what SDKs send is far from the limits."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
from kit.otlp import story
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_httptrace.report.bounds import TooMuchError, check_json, check_protobuf, inflate
from otel_httptrace.report.otlp import to_json

MIB = 1024 * 1024
#: What is packed into 64 KB at most.
PACKED = 64 * 1024

#: In a process of its own: receive what is in a file, fold it and keep it as a file; print the status and what that took.
RECEIVE = """
import http.client, os, sys, time
from urllib.parse import urlsplit
from otel_httptrace.cli.intake import Intake
from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.receiver import Receiver

body, kind = open(sys.argv[1], "rb").read(), sys.argv[2]

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

with open(os.devnull, "wb") as file:
    collector = Intake(Thresholds(), file)
    with Receiver(collector.keep) as receiver:
        # What this machine does in a time, for comparison: some 0.1 s.
        began = time.process_time()
        for _ in range(3_000_000):
            pass
        unit = time.process_time() - began
        before, began = peak(), time.process_time()
        connection = http.client.HTTPConnection(urlsplit(receiver.endpoint).netloc)
        connection.request("POST", "/v1/traces", body, {"Content-Type": kind, "Content-Encoding": "gzip"})
        status = connection.getresponse().status
        collector.close()
    print(status, peak() - before, (time.process_time() - began) / unit, flush=True)
os._exit(0)
"""


def message(number: int, *fields: int, inner: bytes) -> bytes:
    """So many times *inner* within messages, whose numbers these are."""
    body = inner * number
    for field in reversed(fields):
        length, rest = b"", len(body)
        while rest > 0x7F:
            length += bytes([rest & 0x7F | 0x80])
            rest >>= 7
        body = bytes([field << 3 | 2]) + length + bytes([rest]) + body
    return body


SPANS = b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}'
#: What becomes most of few bytes: so many empty objects, where spans may be, or attributes, or where requests are made of them.
BOMBS: dict[str, Callable[[int], bytes]] = {
    "resources": lambda number: message(number, inner=b"\x0a\x00"),
    "spans": lambda number: message(number, 1, 2, inner=b"\x12\x00"),
    "requests": lambda number: message(number, 1, 2, inner=b"\x12\x02\x30\x03"),
    "attributes": lambda number: message(number, 1, 2, 2, inner=b"\x4a\x00"),
    "a name": lambda number: message(1, 1, 2, 2, 5, inner=bytes(number)),
    "JSON resources": lambda number: b'{"resourceSpans":[%b{}]}' % (b"{}," * number),
    "JSON spans": lambda number: SPANS % (b"{}," * number + b"{}"),
    "JSON requests": lambda number: SPANS % (b'{"kind":3},' * number + b"{}"),
    "JSON attributes": lambda number: SPANS % b'{"kind":3,"attributes":[%b{}]}' % (b"{}," * number),
    "JSON name": lambda number: SPANS % b'{"kind":3,"name":"%b"}' % (b"x" * number),
    "JSON of no telemetry": lambda number: b'{"x":[%b0]}' % (b"0," * number),
}


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is told by Linux's /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_64_kb_of_gzip_cost_bounded_memory_and_time(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """64 KB of gzip, whatever they become, cost less than 64 MiB, and processor time as three loops of 3,000,000."""
    bomb = BOMBS[name]
    file = tmp_path_factory.mktemp("bomb") / "body"
    kind = "application/json" if name.startswith("JSON") else "application/x-protobuf"
    statuses = []
    # What is parsed uncounted, what is counted and all but too much, what just can be unpacked, and what cannot.
    for size in (130_000, 300_000, 3_000_000, 30_000_000):
        body = bomb(size // (len(bomb(2)) - len(bomb(1))))
        packed = gzip.compress(body, 6, mtime=0)
        if len(packed) < PACKED - 1024 and kind == "application/x-protobuf":
            # The more is sent the more is allowed: a field that nobody knows, which does not shrink.
            noise = message(1, 15, inner=random.Random(1).randbytes(PACKED - 1024 - len(packed)))
            packed = gzip.compress(body + noise, 6, mtime=0)
        assert len(packed) <= PACKED
        file.write_bytes(packed)
        ran = subprocess.run(
            [sys.executable, "-c", RECEIVE, str(file), kind], capture_output=True, text=True, timeout=50, check=True
        )
        status, memory, loops = ran.stdout.split()
        statuses.append(status)
        assert int(memory) * 1024 < 64 * MIB, (size, status)
        assert float(loops) < 30, (size, status)
    assert statuses[0] == "200"
    assert statuses[-1] == "413"


@pytest.fixture(scope="module")
def telemetry() -> ExportTraceServiceRequest:
    """Spans as they really are, 3,000 in a request: six of an SDK's batches."""
    chance = random.Random(1)
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.CopyFrom(story()[0].resource_spans[0])
    spans = resource.scope_spans[0].spans
    templates = [
        span for part in story() for found in part.resource_spans for scope in found.scope_spans for span in scope.spans
    ]
    while len(spans) < 3_000:
        span = spans.add()
        span.CopyFrom(chance.choice(templates))
        span.trace_id, span.span_id = chance.randbytes(16), chance.randbytes(8)
        span.start_time_unix_nano += chance.randrange(10**9)
    return request


def test_real_telemetry_is_far_from_the_limits(telemetry: ExportTraceServiceRequest) -> None:
    """Real batches pass as they are and compressed as well as can be, with half of what is allowed to spare."""
    protobuf, json = telemetry.SerializeToString(), to_json(telemetry)
    for data in (protobuf, json):
        packed = gzip.compress(data, 9, mtime=0)
        assert inflate(packed, len(data)) == data
        assert len(data) < 32 * len(packed)
    check_protobuf(protobuf, ExportTraceServiceRequest)
    check_json(json)
    check_protobuf(protobuf, ExportTraceServiceRequest, len(gzip.compress(protobuf, 9, mtime=0)) // 2)
    check_json(json, len(gzip.compress(json, 9, mtime=0)) // 2)


@pytest.mark.parametrize("fields", [(), (1,), (1, 2), (1, 2, 2), (1, 2, 2, 9), (1, 2, 2, 13), (1, 1, 1, 2, 5)])
def test_fields_are_counted_wherever_they_are(fields: tuple[int, ...]) -> None:
    """However deep empty fields lie there can be too many of them, unless there is that much of other things beside."""
    dense = message(400_000, *fields, inner=b"\x0a\x00")
    beside = message(1, 15, inner=bytes(3 * MIB))

    with pytest.raises(TooMuchError, match=r"more than 23000. values"):
        check_protobuf(dense, ExportTraceServiceRequest)
    check_protobuf(dense + beside, ExportTraceServiceRequest)
    with pytest.raises(TooMuchError, match=r"more than 23000. values"):
        check_protobuf(dense + beside, ExportTraceServiceRequest, 100_000)


@pytest.mark.parametrize("data", [b"", b"\x1f", gzip.compress(b"x" * 100, mtime=0)[:-1]])
def test_what_is_cut_off(data: bytes) -> None:
    """A compressed body that is cut off anywhere is told to be."""
    with pytest.raises(EOFError):
        inflate(data, MIB)


def test_a_body_of_the_exact_limit_is_taken() -> None:
    """A body of exactly as many bytes as are allowed is taken, and one of a byte more is not."""
    assert len(inflate(gzip.compress(bytes(1000), mtime=0), 1000)) == 1000
    with pytest.raises(TooMuchError, match="more than 999 bytes"):
        inflate(gzip.compress(bytes(1000), mtime=0), 999)
