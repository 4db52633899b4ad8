"""A backend may answer whatever, however much, and however slowly."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit.backend import Asked, Backend, Reply
from kit.raw import Raw

from otel_httptrace.report.forward import Forwarder
from otel_httptrace.report.receiver import Batch
from otel_httptrace.report.sources import SourceError
from otel_httptrace.report.sources.api import API, TooLargeError
from otel_httptrace.report.sources.jaeger import JaegerSource
from otel_httptrace.report.sources.tempo import TempoSource

MIB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Tells how many bytes were allocated by Python at most."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def gzipped(data: bytes, times: int = 1) -> bytes:
    """*data*, packed so many times over."""
    for _ in range(times):
        data = gzip.compress(data, 6, mtime=0)
    return data


BIG = 300 * MIB


@pytest.fixture(scope="module")
def packed() -> bytes:
    """300 MiB of a JSON string, as gzip: 300 KB on the wire."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(b'"')] + [packer.compress(b"x" * MIB) for _ in range(BIG // MIB)]
    return b"".join([*parts, packer.compress(b'"'), packer.flush()])


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "gzip, gzip", "br"])
def test_little_on_the_wire(packed: bytes, peak: Callable[[], int], encoding: str, status: int) -> None:
    """300 KB that would unpack to 300 MiB take no more than three times what may be read, in whatever coding they come."""
    reply = Reply(gzipped(packed) if "," in encoding else packed, status, {"Content-Encoding": encoding})
    with Backend(lambda asked: reply) as backend, API("Jaeger", backend.url, environ={}, longest=8 * MIB) as api:
        with pytest.raises(SourceError) as fault:
            api.get("api/traces")
        assert peak() < 3 * 8 * MIB

    if status == 500:
        assert "answered 500" in str(fault.value)
    elif encoding in ("br", "gzip, gzip"):
        assert f"answered with Content-Encoding {encoding}, which was not asked for" in str(fault.value)
    else:
        assert isinstance(fault.value, TooLargeError)
        assert "answered with more than can be read: more than 8388608 bytes after decompression" in str(fault.value)


@pytest.mark.parametrize("body", [b"[" + b"{}," * MIB + b"0]", b"[" + b"0," * 2 * MIB + b"0]"])
def test_little_that_is_parsed(peak: Callable[[], int], body: bytes) -> None:
    """JSON of nothing but empty objects, 24 times as much in memory, is not parsed."""
    with Backend(lambda asked: Reply(body)) as backend, API("Jaeger", backend.url, environ={}) as api:
        with pytest.raises(TooLargeError, match="values: so many are not taken at once"):
            api.get("api/traces")
        assert peak() < 8 * len(body)


def drip(head: bytes, byte: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Write *head*, and then a byte again and again, until the client has gone."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.01):
            connection.sendall(byte)

    return script


@pytest.mark.parametrize(
    "script",
    [
        drip(OK + b"Content-Length: 1000000\r\n\r\n", b" "),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(OK + b"\r\n", b" "),
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        drip(b"HTTP/1.1 ", b"1"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
    ids=["body", "chunks", "to the end", "header", "status", "informational", "refusal"],
)
def test_a_byte_at_a_time(script: Callable[[socket.socket, threading.Event], None]) -> None:
    """An answer that comes, but not within its time, is given up, in whichever part of it that is."""
    with Raw(script) as raw, API("Jaeger", raw.url, environ={}, timeout=0.5) as api:
        with pytest.raises(SourceError) as fault:
            api.get("api/traces")

        assert str(fault.value) == f"Jaeger at {raw.url} did not answer within 0.5 s"
    for thread in threading.enumerate():
        if thread.name == "Jaeger-api":
            thread.join(10)
            assert not thread.is_alive()


def endless(connection: socket.socket, over: threading.Event) -> None:
    """An answer without an end, as quickly as it can be written."""
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")


def test_an_endless_answer_is_read_no_further_than_allowed(peak: Callable[[], int]) -> None:
    """An answer without an end is read no further than it may be."""
    with Raw(endless) as raw, API("Tempo", raw.url, environ={}, longest=MIB) as api:
        with pytest.raises(
            TooLargeError, match=f"Tempo at {raw.url} answered with more than can be read: 1,048,576 bytes"
        ):
            api.get("api/search")
        assert peak() < 4 * MIB


@pytest.mark.parametrize("charset", ["zlib_codec", "hex", "rot13", "idna", "undefined", "utf-16", "\x7f", "utf-8"])
def test_a_charset_of_its_own(charset: str) -> None:
    """Python's codecs that are no charsets are not let loose on what a backend says of its fault."""
    body = zlib.compress(b"x" * MIB) if charset == "zlib_codec" else b"storage \x1b[31mis down"
    reply = Reply(body, 500, {"Content-Type": f"text/plain; charset={charset}"})
    with Backend(lambda asked: reply) as backend, API("Tempo", backend.url, environ={}) as api:
        with pytest.raises(SourceError, match="answered 500 Internal Server Error") as fault:
            api.get("api/search")

    assert str(fault.value).isprintable()
    assert len(str(fault.value)) < 400


def test_more_than_is_read_at_once() -> None:
    """Where Jaeger's answer is too large, less is asked for until it is not; what then still is, is told, and the rest is read."""
    end = 1_790_000_000
    huge = end - 1000

    def answer(asked: Asked) -> Reply:
        low, high = int(asked.query["start"]), int(asked.query["end"])
        found = [
            {
                "traceID": f"{second:x}",
                "spans": [
                    {
                        "traceID": f"{second:x}",
                        "spanID": "1",
                        "operationName": "x" * (3 * MIB if second == huge else MIB // 3),
                        "startTime": second * 1_000_000,
                        "duration": 1,
                        "processID": "p1",
                    }
                ],
                "processes": {"p1": {"serviceName": "shop"}},
            }
            for second in (*range(end - 50, end), huge)
            if low <= second * 1_000_000 <= high
        ]
        return Reply({"data": found})

    with Backend(answer) as backend:
        source = JaegerSource(backend.url, "shop", end=end, environ={})
        source._api._longest = 2 * MIB
        spans = list(source)

    assert sorted(int(span.trace_id, 16) for span in spans) == list(range(end - 50, end))
    (problem,) = source.problems
    assert "there is more than can be read at once within " in problem
    assert problem.endswith(" ms: some are missing")


def test_a_trace_that_is_too_large() -> None:
    """A trace of Tempo's that is too large to be read is told, and the others are read."""
    span = {"traceId": "ab" * 16, "spanId": "cd" * 8, "startTimeUnixNano": "1", "endTimeUnixNano": "2"}

    def answer(asked: Asked) -> Reply:
        if asked.path == "/api/search":
            return Reply({"traces": [{"traceID": letter * 32} for letter in "abc"]})
        name = "x" * (3 * MIB) if asked.path.endswith("b" * 32) else "GET"
        return Reply({"batches": [{"scopeSpans": [{"spans": [{**span, "name": name}]}]}]})

    with Backend(answer) as backend:
        source = TempoSource(backend.url, environ={})
        source._api._longest = 2 * MIB
        spans = list(source)

    assert [span.name for span in spans] == ["GET", "GET"]
    assert list(source.problems) == [f"trace {'b' * 32} is too large to be read"]


#: Stands for a list in a list in a list, a thousand times; orjson reads no more than 1,024.
NESTED = "nested"


@pytest.mark.parametrize(
    "answer",
    [
        {"errors": [{"msg": NESTED}]},
        {"data": [{"traceID": "ab", "warnings": [NESTED]}]},
        {"data": [{"traceID": "ab", "processes": {"p": {"serviceName": "shop", "tags": [{"key": "process.pid", "value": NESTED}]}}}]},
        {"data": [{"traceID": "ab", "processes": {"p": {"serviceName": NESTED}}}]},
    ],
    ids=["error", "warning", "process", "service"],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 500])
def test_deeply_nested_answers_are_one_line(answer: dict[str, Any], status: int) -> None:
    """What is nested a thousand times is told in a line, or left out, wherever it is."""
    body = json.dumps(answer).replace(json.dumps(NESTED), "[" * 1000 + "]" * 1000).encode()
    with Backend(lambda asked: Reply(body, status, {"Content-Type": "application/json"})) as backend:
        source = JaegerSource(backend.url, "shop", environ={})
        try:
            assert list(source) == []
        except SourceError as error:
            assert str(error).isprintable()  # noqa: PT017
        assert all(problem.isprintable() for problem in source.problems)


def test_what_a_backend_answers_to_an_export(packed: bytes, peak: Callable[[], int]) -> None:
    """What is forwarded has arrived with a 200, however long the answer is: it is neither unpacked nor read to its end."""
    protobuf = {"Content-Type": "application/x-protobuf"}
    batch = Batch("/v1/traces", protobuf["Content-Type"], "", b"", 3, "spans")
    for reply in (Reply(packed, 200, {**protobuf, "Content-Encoding": "gzip"}), Reply(b"\n" * 20 * MIB, 200, protobuf)):
        with Backend(lambda asked: reply) as backend:  # noqa: B023 - called before the loop goes on
            forwarder = Forwarder(backend.url, {})
            before = peak()
            forwarder.send(batch)
            assert forwarder.close() is None
            assert peak() - before < 4 * MIB
            assert backend.asked[0].headers["accept-encoding"] == "identity"


def test_a_backend_that_answers_without_an_end() -> None:
    """A 200 that is never finished is not waited for longer than an attempt may take."""
    with Raw(drip(OK + b"Content-Length: 100000\r\n\r\n", b"\n")) as raw:
        forwarder = Forwarder(raw.url, {}, timeout=0.3)
        for _ in range(2):
            forwarder.send(Batch("/v1/traces", "application/x-protobuf", "", b"", 3, "spans"))
        assert forwarder.close(20) is None


def test_a_backend_that_is_always_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that answers with as many traces as there may be, whatever window it is asked for, is not asked for ever."""
    monkeypatch.setattr("otel_httptrace.report.sources.windows._MOST", 100)
    traces = [{"traceID": f"{number:x}", "spans": [], "processes": {}} for number in range(3)]
    with Backend(lambda asked: Reply({"data": traces})) as backend:
        source = JaegerSource(backend.url, "shop", end=1_790_000_000, environ={}, page=3)
        with pytest.raises(SourceError, match="100 searches have not been enough: look back less far, or set --limit"):
            list(source)
        assert len(backend.asked) == 100
