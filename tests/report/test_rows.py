"""From received spans to rows."""

from __future__ import annotations

from typing import Any

import pytest
from kit.otlp import UPSTREAM_SCOPE, Export, read, story
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.rows import Assembler, rows
from otel_httptrace.report.spans import Link, Source
from otel_httptrace.telemetry import names


def test_rows_are_the_requests_in_order() -> None:
    """Requests come in their order, with their parts nested, and nothing that is not theirs."""
    first, second, third = read(story())

    assert [round(row.start - 10**9, 3) for row in (first, second, third)] == [0, 0.02, 0.04]
    assert (first.duration, first.failed, third.failed) == (0.01, False, True)
    assert first.phases == {"wait": 0.008, "receive": 0.001}
    assert [(step.name, step.start, step.duration, step.depth) for step in second.steps] == [
        ("http.getconn", 0.0, 0.004, 1),
        ("http.dns", 0.0, 0.002, 2),
        ("http.connect", 0.002, 0.002, 2),
    ]
    assert second.steps[1].attributes == {"dns.answers": ["::1", "127.0.0.1"]}
    assert second.lost_by == Link(first.trace_id, first.span_id, second.links[0].attributes)
    assert first.lost_by is None
    assert (first.observed, third.observed) == (True, False)
    assert (first.connection, third.connection) == ((Source("", ""), 1), None)


@pytest.mark.parametrize("of", [True, 3, 0.5, "text", [1, "two"], {"deep": [True]}, None])
def test_every_kind_of_value_is_read(of: Any) -> None:
    """Every kind of value that OTLP has is read."""
    export = Export()
    export.get(0, 1, key=of)
    (row,) = read([export.request])

    assert row.attributes == {"key": of}


def test_children_may_come_late() -> None:
    """A request waits for its children for as many spans as the window holds, and no longer."""
    export = Export()
    request = export.get(0, 10)
    export.span("http.getconn", 0, 4, request)
    for _ in range(3):
        export.get(20, 1)
    late, *others = from_protobuf(export.request)
    child = others.pop(0)

    patient, hasty = rows([late, *others, child], window=4), rows([late, *others, child], window=3)

    assert next(patient).steps != []
    assert next(hasty).steps == []


def test_memory_is_bounded_by_the_window() -> None:
    """Of children whose request never comes, and of requests that wait, no more are kept than the window holds."""
    export = Export()
    never = export.get(0, 1)
    for _ in range(50):
        export.span("http.dns", 0, 1, export.span("unrelated", 0, 1, scope="application"))
        export.get(0, 1)
    assembler = Assembler(window=10)
    handed_out = [row for span in from_protobuf(export.request) for row in assembler.add(span)]

    assert never.span_id.hex() == handed_out[0].span_id
    assert len(handed_out) == 51 - len(assembler._requests)
    assert len(assembler._requests) <= 10
    assert len(assembler._children) <= 10
    assert assembler.foreign == 50


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://api.test/a?b=c", "http://api.test"),
        ("https://api.test:443/", "https://api.test"),
        ("https://user:password@api.test:8443/x", "https://api.test:8443"),
        ("http://[::1]:80/", "http://[::1]"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://api.test:99999/", ""),
        ("nonsense", ""),
    ],
)
@pytest.mark.parametrize("name", ["url__full", "http__url"])
def test_an_origin_is_scheme_host_and_port(name: str, url: str, origin: str) -> None:
    """An origin is scheme, host and port: no path, no query, no password, no port that goes without saying."""
    export = Export()
    export.get(0, 1, **{name: url})

    assert read([export.request])[0].origin == origin


@pytest.mark.parametrize(
    ("name", "of", "expected"),
    [
        (names.TIME_WAIT, 1, 1.0),
        (names.TIME_WAIT, "1", None),
        (names.TIME_WAIT, True, None),
        (names.TIME_WAIT, -0.5, None),
        (names.TIME_WAIT, float("nan"), None),
        (names.TIME_WAIT, float("inf"), None),
        (names.CONN_REUSED, 0, None),
        (names.CONN_ID, True, None),
        (names.CONN_OPEN_REASON, ["body_not_read"], None),
        ("http.status_code", "200", None),
        ("someone.elses", [1], [1]),
    ],
)
def test_known_attributes_are_of_their_type(name: str, of: Any, expected: Any) -> None:
    """What is known by name is of its type, or left out, whatever a file says; a report can be made of it."""
    export = Export()
    export.get(0, 1, **{name.replace(".", "__"): of, "http__method": "GET"})
    (row,) = read([export.request])

    assert row.attributes == {"http.method": "GET"} | ({name: expected} if expected is not None else {})
    assert row.phases == ({"wait": expected} if name == names.TIME_WAIT and expected is not None else {})
    assert analyze([row]).requests == 1


def test_spans_of_other_instrumentations_are_not_ours() -> None:
    """A CLIENT span of another instrumentation is none of ours; where the source names no scope it may be."""
    export = Export()
    export.get(0, 1)
    export.span("GET", 0, 1, scope="opentelemetry.instrumentation.urllib")
    ours, theirs = from_protobuf(export.request)
    theirs.client = True
    assert [row.span_id for row in rows([ours, theirs])] == [ours.span_id]

    theirs.scope = ""
    assert len(list(rows([ours, theirs]))) == 2
    strict = Assembler(unnamed=False)
    assert [row for span in (ours, theirs) for row in strict.add(span)] == []
    assert ([row.span_id for row in strict.finish()], strict.foreign) == ([ours.span_id], 1)
    # ddtrace's, which names none either, is told by its attributes.
    theirs.attributes["_dd.top_level"] = 1
    assert [row.span_id for row in rows([ours, theirs])] == [ours.span_id]
    assert ours.scope == UPSTREAM_SCOPE


def test_requests_without_a_url_belong_to_where_their_connection_leads() -> None:
    """Of a span that names no URL, as botocore's, the origin is that for which its connection was opened."""
    export = Export()

    def request(start: float, conn: int) -> Span:
        span = export.span(
            "ListBuckets", start, 10, scope="opentelemetry.instrumentation.botocore", httptrace__conn__id=conn
        )
        span.kind = Span.SPAN_KIND_CLIENT
        return span

    opener = request(0, 7)
    export.span("http.getconn", 0, 4, opener, server__address="s3.test", server__port=443)
    export.span("http.tls", 2, 2, opener)
    request(20, 7)
    request(40, 8)
    found = read([export.request])

    assert [row.origin for row in found] == ["https://s3.test", "https://s3.test", ""]
    assert {row.client for row in found} == {"botocore"}
