"""From received spans to rows, summaries and text."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_httptrace.report import text
from otel_httptrace.report.rows import Link, Row, rows
from otel_httptrace.report.summary import Culprit, Phase, summarize
from otel_httptrace.telemetry import names

MS = 1_000_000


def value(of: Any) -> AnyValue:
    """A value as OTLP has it."""
    if isinstance(of, bool):
        return AnyValue(bool_value=of)
    if isinstance(of, int):
        return AnyValue(int_value=of)
    if isinstance(of, float):
        return AnyValue(double_value=of)
    if isinstance(of, list):
        return AnyValue(array_value=ArrayValue(values=[value(item) for item in of]))
    if isinstance(of, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(of)))
    return AnyValue(string_value=of) if of is not None else AnyValue()


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=name, value=value(of)) for name, of in attributes.items()]


class Export:
    """One export request, written by hand."""

    def __init__(self) -> None:
        self.request = ExportTraceServiceRequest()
        self._number = 0

    def span(
        self,
        name: str,
        start: float,
        duration: float,
        parent: Span | None = None,
        scope: str = "otel_httptrace",
        links: tuple[tuple[Span, dict[str, Any]], ...] = (),
        status: int = 0,
        **attributes: Any,
    ) -> Span:
        """Times in milliseconds; an attribute's dots are written as two underscores."""
        self._number += 1
        found = self.request.resource_spans.add().scope_spans.add()
        found.scope.name = scope
        span: Span = found.spans.add(
            name=name,
            trace_id=bytes([0xAB] * 16),
            span_id=bytes([0] * 7 + [self._number]),
            parent_span_id=parent.span_id if parent is not None else b"",
            kind=Span.SPAN_KIND_CLIENT if scope == names.UPSTREAM_SCOPE else Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=10**18 + int(start * MS),
            end_time_unix_nano=10**18 + int((start + duration) * MS),
            attributes=pairs({name.replace("__", "."): of for name, of in attributes.items()}),
        )
        span.status.code = status
        for other, described in links:
            span.links.add(trace_id=other.trace_id, span_id=other.span_id, attributes=pairs(described))
        return span

    def get(self, start: float, duration: float, **rest: Any) -> Span:
        """A request."""
        return self.span("GET", start, duration, scope=names.UPSTREAM_SCOPE, **rest)


def story() -> list[ExportTraceServiceRequest]:
    """Two requests, of which the first lost the connection."""
    export = Export()
    first = export.get(
        0,
        10,
        http__conn__reused=False,
        httptrace__conn__id=1,
        httptrace__conn__open_reason="first_connection",
        httptrace__conn__close_reason="body_not_read",
        httptrace__time__wait=0.008,
        httptrace__time__receive=0.001,
        httptrace__body__outcome="closed_early",
        httptrace__body__closed_at="app.py:7 in check",
    )
    lost = {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "body_not_read",
        names.BODY_CLOSED_AT: "app.py:7 in check",
    }
    second = export.get(
        20,
        10,
        links=((first, lost),),
        http__conn__reused=False,
        httptrace__conn__id=2,
        httptrace__conn__open_reason="body_not_read",
        httptrace__conn__close_reason="body_not_read",
        httptrace__time__dns=0.002,
        httptrace__time__wait=0.004,
        httptrace__time__receive=0.002,
        httptrace__body__outcome="closed_early",
        httptrace__body__closed_at="app.py:7 in check",
    )
    getconn = export.span("http.getconn", 20, 4, second)
    export.span("http.connect", 22, 2, getconn)
    export.span("http.dns", 20, 2, getconn, dns__answers=["::1", "127.0.0.1"])
    export.get(40, 3, status=2, error__type="ConnectError")
    export.span("unrelated", 0, 99, scope="application")
    # Children may arrive before their parents, and in another request.
    other = ExportTraceServiceRequest()
    other.resource_spans.append(export.request.resource_spans[0])
    del export.request.resource_spans[0]
    return [export.request, other]


def test_rows() -> None:
    """Requests come in their order, with their parts nested, and nothing that is not theirs."""
    first, second, third = rows(story())

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


@pytest.mark.parametrize("of", [True, 3, 0.5, "text", [1, "two"], {"deep": [True]}, None])
def test_values(of: Any) -> None:
    """Every kind of value that OTLP has is read."""
    export = Export()
    export.get(0, 1, key=of)
    (row,) = rows([export.request])

    assert row.attributes == {"key": of}


def test_summary() -> None:
    """Counts, phases and the culprit are those of the rows."""
    found = summarize(rows(story()))

    assert (found.requests, found.opened, found.reused, found.lookups, found.failed) == (3, 2, 0, 1, 1)
    assert found.reuse == 0
    assert found.open_reasons == {"first_connection": 1, "body_not_read": 1}
    assert found.close_reasons == {"body_not_read": 2}
    assert found.outcomes == {"closed_early": 2}
    assert found.phases == (
        Phase("dns", 1, 0.002, 0.002, 0.002),
        Phase("wait", 2, 0.012, 0.006, 0.008),
        Phase("receive", 2, 0.003, 0.0015, 0.002),
    )
    assert found.culprits == (Culprit("app.py:7 in check", "body_not_read", 1),)


def test_nothing_received() -> None:
    """Of nothing there is nothing to say: no share of reuse, no typical request."""
    found = summarize([])

    assert found.reuse is None
    assert list(text.summary(found)) == ["requests    0   connections opened   0   lookups   0"]
    assert text.typical([]) is None


def test_the_text() -> None:
    """The whole of a summary, as it is printed."""
    assert list(text.summary(summarize(rows(story())))) == [
        "requests    3   connections opened   2   lookups   1   reuse 0%",
        "bodies          closed_early 2",
        "opened because  first_connection 1, body_not_read 1",
        "closed because  body_not_read 2",
        "failed          1",
        "time                total    median   longest   requests",
        "  dns              2.0 ms    2.0 ms    2.0 ms          1",
        "  wait            12.0 ms    6.0 ms    8.0 ms          2",
        "  receive          3.0 ms    1.5 ms    2.0 ms          2",
        "=> 1 of 2 connections were opened because of body_not_read: app.py:7 in check",
        "   read the body before closing, or ask for less (HEAD, Range)",
    ]


def test_a_waterfall() -> None:
    """One request to scale: its parts begin and end where they did, and the cause stands below."""
    _, second, _ = rows(story())

    assert list(text.waterfall(second, width=60)) == [
        f"trace {'ab' * 16} span 0000000000000002, connection 2 (new: body_not_read)",
        "  GET                10.0 ms ███████████████████████████████",
        "    http.getconn      4.0 ms ████████████",
        "      http.dns        2.0 ms ██████",
        "      http.connect    2.0 ms       ██████",
        "    wait              4.0 ms             ████████████",
        "    receive           2.0 ms                          ██████",
        "  body closed_early at app.py:7 in check",
        "  the connection before was lost by request 0000000000000001 at app.py:7 in check",
    ]


def test_a_waterfall_with_all_spans() -> None:
    """Where wait and receive have spans of their own they are not drawn twice."""
    export = Export()
    request = export.get(0, 4, http__conn__reused=True, httptrace__conn__id=9, httptrace__time__wait=0.002)
    export.span("http.wait", 1, 2, request)
    (row,) = rows([export.request])

    lines = list(text.waterfall(row, width=40))
    assert lines[0].endswith("connection 9 (reused)")
    assert [line.split()[0] for line in lines[1:]] == ["GET", "http.wait"]


def test_a_request_that_took_no_time() -> None:
    """A span without a length, or one that ends before it starts, is drawn all the same."""
    export = Export()
    export.get(5, -1)
    (row,) = rows([export.request])

    assert row.duration == 0
    assert list(text.waterfall(row))[1].split() == ["GET", "0", "µs", "█"]


def test_typical() -> None:
    """The typical request is the one of median duration."""
    chosen = text.typical([Row("GET", "", str(n), 0, duration, False, {}, {}) for n, duration in enumerate((3, 1, 2))])

    assert chosen is not None and chosen.duration == 2


@pytest.mark.parametrize(
    ("seconds", "told"), [(123.4, "123 s"), (1.25, "1.2 s"), (0.25, "250 ms"), (0.0042, "4.2 ms"), (0.000042, "42 µs")]
)
def test_seconds(seconds: float, told: str) -> None:
    """Durations have three digits at most, and a unit that fits."""
    assert text.seconds(seconds) == told
