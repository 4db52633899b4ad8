# What an input costs must follow from its length, or a short one can stop a machine.
# Families of inputs of one shape are read at one length and at four times that: peak
# memory has a bound for each byte, and time must not grow faster than length does. Times are of the
# processor, compared within a run: of each length the best of several.

"""What a byte of input may cost, in memory and in time."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from .targets import Answers, targets

#: Bytes of memory for a byte of input, and for any input besides. An empty object is two bytes or three.
PER_BYTE: Final = 250
BESIDES: Final = 3 * 1024 * 1024
#: How much longer four times the length may take: 4 where time is linear, 16 where it is quadratic.
GROWTH: Final = 9.0

CLIENT: Final = {
    "traceId": "ab" * 16,
    "name": "GET",
    "kind": 3,
    "startTimeUnixNano": "1700000000000000000",
    "endTimeUnixNano": "1700000000010000000",
}


def attribute(key: str, **value: Any) -> dict[str, Any]:
    """An attribute as OTLP/JSON has it."""
    return {"key": key, "value": value}


def request(spans: list[dict[str, Any]]) -> bytes:
    """An export request with these spans, as of httpx."""
    scope = {"name": "opentelemetry.instrumentation.httpx"}
    return json.dumps(
        {"resourceSpans": [{"scopeSpans": [{"scope": scope, "spans": spans}]}]}, separators=(",", ":")
    ).encode()


def within(before: str, one: str, after: str) -> Callable[[int], bytes]:
    """So many times *one*, separated by commas."""
    return lambda number: (before + ",".join([one] * number) + after).encode()


def client(number: int, **more: Any) -> dict[str, Any]:
    """A request of httpx's."""
    return {**CLIENT, "spanId": f"{number + 1:016x}", **more}


def child(number: int, parent: int) -> dict[str, Any]:
    """A span of a lookup."""
    return {
        **CLIENT,
        "kind": 1,
        "name": "http.dns",
        "spanId": f"{number + 1:016x}",
        "parentSpanId": f"{parent + 1:016x}",
    }


_SPANS = '{"resourceSpans":[{"scopeSpans":[{"spans":[', "]}]}]}"
_ATTRIBUTES = _SPANS[0] + '{"kind":3,"attributes":[', "]}" + _SPANS[1]

#: Of each shape, how to make it with so many parts, and how many parts.
SHAPES: Final[dict[str, tuple[Callable[[int], bytes], int]]] = {
    "resources": (within('{"resourceSpans":[', "{}", "]}"), 8_000),
    "scopes": (within('{"resourceSpans":[{"scopeSpans":[', "{}", "]}]}"), 8_000),
    "spans": (within(_SPANS[0], "{}", _SPANS[1]), 8_000),
    "requests": (within(_SPANS[0], '{"kind":3}', _SPANS[1]), 3_000),
    "attributes": (within(_ATTRIBUTES[0], "{}", _ATTRIBUTES[1]), 8_000),
    "links": (within(_SPANS[0] + '{"kind":3,"links":[', "{}", "]}" + _SPANS[1]), 8_000),
    "values": (within(_ATTRIBUTES[0] + '{"key":"x","value":{"arrayValue":{"values":[', "{}", "]}}}" + _ATTRIBUTES[1]), 8_000),
    "a name": (lambda number: request([client(0, name="x\x1b" * number)]), 20_000),
    "unknown fields": (within('{"x":[', "0", "]}"), 20_000),
    "different names": (
        lambda number: request([client(0, attributes=[attribute(f"{name}", intValue=1) for name in range(number)])]),
        1_500,
    ),
    "origins": (
        lambda number: request(
            [client(one, attributes=[attribute("url.full", stringValue=f"http://{one}/")]) for one in range(number)]
        ),
        300,
    ),
    "reasons": (
        lambda number: request(
            [
                client(
                    one,
                    attributes=[
                        attribute("url.full", stringValue="http://a/"),
                        attribute("http.conn.reused", boolValue=False),
                        attribute("httptrace.conn.id", intValue=one),
                        attribute("httptrace.conn.open_reason", stringValue=f"reason{one}"),
                        attribute("httptrace.body.closed_at", stringValue=f"line{one}"),
                        attribute("httptrace.body.outcome", stringValue="closed_early"),
                    ],
                )
                for one in range(number)
            ]
        ),
        150,
    ),
    "children of one": (lambda number: request([client(0), *(child(one, 0) for one in range(1, number))]), 500),
    "children of children": (lambda number: request([client(0), *(child(one, one - 1) for one in range(1, number))]), 500),
    "the same span": (lambda number: request([client(0)] * number), 500),
    "connections at once": (
        lambda number: request(
            [
                client(one, attributes=[attribute("http.conn.reused", boolValue=False), attribute("httptrace.conn.id", intValue=one)])
                for one in range(number)
            ]
        ),
        300,
    ),
    "blamed on one": (
        lambda number: request(
            [
                client(
                    one,
                    attributes=[attribute("httptrace.conn.open_reason", stringValue="body_not_read")],
                    links=[
                        {
                            "traceId": "ab" * 16,
                            "spanId": f"{1:016x}",
                            "attributes": [attribute("httptrace.link", stringValue="connection_lost_by")],
                        }
                    ],
                )
                for one in range(number)
            ]
        ),
        200,
    ),
}  # fmt: skip

JAEGER: Final[dict[str, tuple[Callable[[int], bytes], int]]] = {
    "traces": (within('{"data":[', '{"traceID":"a"}', "]}"), 190),
    "spans": (within('{"data":[{"traceID":"ab","processes":{"p":{"serviceName":"shop"}},"spans":[', '{"processID":"p","tags":[]}', "]}]}"), 3_000),
    "tags": (
        within(
            '{"data":[{"traceID":"ab","processes":{"p":{"serviceName":"shop"}},"spans":[{"processID":"p","traceID":"ab","spanID":"1",'
            '"operationName":"GET","startTime":1789999999000000,"duration":1,"tags":[',
            '{"key":"a","value":1}',
            "]}]}]}",
        ),
        4_000,
    ),
    "processes": (lambda number: b'{"data":[{"traceID":"ab","processes":{%b}}]}' % b",".join(b'"%d":{"serviceName":"shop"}' % one for one in range(number)), 3_000),
    "warnings": (within('{"data":[{"traceID":"ab","warnings":[', '"x"', "]}]}"), 8_000),
    "an id": (lambda number: b'{"data":[{"traceID":"ab","processes":{"p":{"serviceName":"shop"}},"spans":[{"processID":"p","traceID":"%b"}]}]}' % (b"a" * number), 30_000),
    "a number": (lambda number: b'{"data":[{"traceID":"ab","processes":{"p":{"serviceName":"shop"}},"spans":[{"processID":"p","traceID":"ab","tags":[{"key":"a","type":"int64","value":"%b"}]}]}]}' % (b"9" * number), 30_000),
}  # fmt: skip

CASES: Final[list[tuple[str, str, Callable[[int], bytes], int]]] = [
    *[("otlp_json", name, make, number) for name, (make, number) in SHAPES.items()],
    *[("file", name, *SHAPES[name]) for name in ("spans", "requests", "different names", "children of children")],
    ("file", "lines", lambda number: request([client(0)]) + b"\n{}" * number, 5_000),
    ("file", "broken lines", lambda number: b"{\n" * number, 10_000),
    ("file", "empty lines", lambda number: b"\n" * number, 50_000),
    ("file", "members of gzip", lambda number: gzip.compress(b"{}\n", mtime=0) * number, 1_000),
    ("file", "a line", lambda number: b"x" * number, 100_000),
    *[("otlp_protobuf", f"field {field:#x}", lambda number, field=field: protobuf(field, number), 8_000) for field in (0x0A, 0x12, 0x22, 0x4A, 0x5A, 0x6A)],
    *[("jaeger", name, make, number) for name, (make, number) in JAEGER.items()],
    ("tempo", "traces found", within('{"traces":[', '{"traceID":"ab"}', "]}"), 90),
    ("tempo", "spans", lambda number: b'{"traces":[{"traceID":"ab"}]}\n' + SHAPES["spans"][0](number), 8_000),
]  # fmt: skip


def protobuf(field: int, number: int) -> bytes:
    """A span with so many empty fields of this tag: links, events, attributes, or what is none."""
    body = bytes([field, 0]) * number
    for tag in (0x12, 0x12, 0x0A):
        length, rest = b"", len(body)
        while rest > 0x7F:
            length += bytes([rest & 0x7F | 0x80])
            rest >>= 7
        body = bytes([tag]) + length + bytes([rest]) + body
    return body


@pytest.fixture(scope="module")
def read() -> Iterator[dict[str, Callable[[bytes], None]]]:
    """The targets, warm: what is imported and compiled once is of no input."""
    answers = Answers()
    with answers.backend:
        found = targets(answers)
        for target in found.values():
            target(SHAPES["requests"][0](3))
        yield found


@pytest.mark.parametrize(
    ("name", "shape", "make", "number"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_memory_is_bounded_by_the_size_of_the_input(
    read: dict[str, Callable[[bytes], None]], name: str, shape: str, make: Callable[[int], bytes], number: int
) -> None:
    """Reading an input, and making all that is made of it, takes no more than so many bytes for each of its own."""
    data = make(number)
    tracemalloc.start()
    try:
        read[name](data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BESIDES + PER_BYTE * len(data)


@pytest.mark.parametrize(
    ("name", "shape", "make", "number"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_time_is_not_quadratic_in_the_size_of_the_input(
    read: dict[str, Callable[[bytes], None]], name: str, shape: str, make: Callable[[int], bytes], number: int
) -> None:
    """Four times the input takes no more than nine times as long, so that no shape of it is quadratic."""
    short, long = make(number), make(4 * number)
    grown = []
    for _ in range(4):
        grown.append(_timed(read[name], long) / _timed(read[name], short))
        if min(grown) < GROWTH:
            break
    assert min(grown) < GROWTH


def _timed(target: Callable[[bytes], None], data: bytes) -> float:
    began = time.process_time()
    target(data)
    # What is the same for any input, as asking over a socket: without it a short one would seem cheap.
    return time.process_time() - began + 0.005
