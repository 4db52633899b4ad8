"""OTLP as protobuf and as JSON say the same."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.otlp import story, value
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otel_httptrace.report.otlp import FormatError, from_json, from_protobuf, parse_json, to_json
from otel_httptrace.report.spans import Link, Source, Span

TRACE, SPAN, PARENT = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174", "eee19b7ec3c1b173"

# Protobuf's strings are any text but surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.none()
values = st.recursive(scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(texts, of, max_size=3))
any_values = values.map(value) | st.binary(max_size=20).map(lambda of: AnyValue(bytes_value=of))
attributes = st.dictionaries(texts, any_values, max_size=4).map(
    lambda of: [KeyValue(key=key, value=item) for key, item in of.items()]
)
times = st.integers(0, 2**64 - 1)


def ids(length: int) -> st.SearchStrategy[bytes]:
    return st.just(b"") | st.binary(min_size=length, max_size=length)


@st.composite
def requests(draw: Any) -> ExportTraceServiceRequest:
    """Any export request."""
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource = request.resource_spans.add(schema_url=draw(texts))
        resource.resource.attributes.extend(draw(attributes))
        for _ in range(draw(st.integers(0, 2))):
            scope = resource.scope_spans.add()
            scope.scope.name, scope.scope.version = draw(texts), draw(texts)
            for _ in range(draw(st.integers(0, 2))):
                span = scope.spans.add(
                    trace_id=draw(ids(16)),
                    span_id=draw(ids(8)),
                    parent_span_id=draw(ids(8)),
                    trace_state=draw(texts),
                    name=draw(texts),
                    kind=draw(st.integers(0, 5)),
                    flags=draw(st.integers(0, 2**32 - 1)),
                    start_time_unix_nano=draw(times),
                    end_time_unix_nano=draw(times),
                    attributes=draw(attributes),
                )
                if draw(st.booleans()):
                    span.status.code, span.status.message = draw(st.integers(0, 2)), draw(texts)
                for _ in range(draw(st.integers(0, 2))):
                    span.links.add(trace_id=draw(ids(16)), span_id=draw(ids(8)), attributes=draw(attributes))
                if draw(st.booleans()):
                    span.events.add(name=draw(texts), time_unix_nano=draw(times), attributes=draw(attributes))
    return request


@given(requests())
def test_json_says_what_protobuf_says(request: ExportTraceServiceRequest) -> None:
    """Whatever protobuf says, JSON says, too: the same spans, and the same message again."""
    line = to_json(request)

    assert b"\n" not in line
    assert from_json(json.loads(line)) == list(from_protobuf(request))
    assert parse_json(line, ExportTraceServiceRequest()) == request


def test_a_line_of_a_file() -> None:
    """Ids are hexadecimal, enums numbers, 64-bit integers strings, and nothing else is as it is not."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name", value=value("shop"))
    scope = resource.scope_spans.add()
    scope.scope.name = "test"
    span = scope.spans.add(
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(SPAN),
        parent_span_id=bytes.fromhex(PARENT),
        name="GET",
        kind=3,
        start_time_unix_nano=1544712660000000000,
        end_time_unix_nano=1544712661000000000,
    )
    span.status.code = Status.STATUS_CODE_ERROR
    for key, item in {"i": 7, "d": 0.5, "b": True, "l": ["x"], "inf": float("inf")}.items():
        span.attributes.add(key=key, value=value(item))
    span.attributes.add(key="y", value=AnyValue(bytes_value=b"\xff\x00"))
    span.links.add(trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(PARENT))

    assert json.loads(to_json(request)) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "test"},
                        "spans": [
                            {
                                "traceId": TRACE,
                                "spanId": SPAN,
                                "parentSpanId": PARENT,
                                "name": "GET",
                                "kind": 3,
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": "1544712661000000000",
                                "attributes": [
                                    {"key": "i", "value": {"intValue": "7"}},
                                    {"key": "d", "value": {"doubleValue": 0.5}},
                                    {"key": "b", "value": {"boolValue": True}},
                                    {"key": "l", "value": {"arrayValue": {"values": [{"stringValue": "x"}]}}},
                                    {"key": "inf", "value": {"doubleValue": "Infinity"}},
                                    {"key": "y", "value": {"bytesValue": "/wA="}},
                                ],
                                "links": [{"traceId": TRACE, "spanId": PARENT}],
                                "status": {"code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_other_signals_are_lines_too() -> None:
    """Logs and metrics keep the ids that they have."""
    logs, metrics = ExportLogsServiceRequest(), ExportMetricsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(
        trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN)
    )
    point = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="m").sum.data_points.add(as_int=1)
    point.exemplars.add(trace_id=bytes.fromhex(TRACE), as_int=1)

    for request in (logs, metrics):
        line = to_json(request)
        assert TRACE in line.decode()
        assert parse_json(line, type(request)()) == request


GOOD: dict[str, Any] = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "test"},
                    "spans": [
                        {
                            "traceId": TRACE,
                            "spanId": SPAN,
                            "parentSpanId": PARENT,
                            "name": "GET",
                            "kind": 3,
                            "startTimeUnixNano": "10",
                            "endTimeUnixNano": "20",
                            "attributes": [{"key": "a", "value": {"intValue": "1"}}],
                            "links": [{"traceId": TRACE, "spanId": PARENT, "attributes": []}],
                            "status": {"code": 2},
                        }
                    ],
                }
            ],
        }
    ]
}
EXPECTED = Span(
    TRACE, SPAN, PARENT, "GET", 10, 20, True, True, "test", Source("shop", ""), {"a": 1}, (Link(TRACE, PARENT, {}),)
)


def changed(field: str, content: Any) -> dict[str, Any]:
    """The good request, with a field of its span, or of what is around it, replaced."""
    data = copy.deepcopy(GOOD)
    resource = data["resourceSpans"][0]
    scope = resource["scopeSpans"][0]
    for where in (data, resource, resource["resource"], scope, scope["scope"], scope["spans"][0]):
        if field in where:
            found = where
    found[field] = content
    return data


def base64_of(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def snake(data: Any) -> Any:
    """With the names that fields have in the protobuf file."""
    if isinstance(data, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): snake(of) for key, of in data.items()}
    return [snake(of) for of in data] if isinstance(data, list) else data


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        snake(GOOD),
        changed("startTimeUnixNano", 10),
        changed("startTimeUnixNano", 10.0),
        changed("kind", "SPAN_KIND_CLIENT"),
        changed("status", {"code": "STATUS_CODE_ERROR", "message": "x"}),
        changed("traceId", TRACE.upper()),
        changed("traceId", base64_of(TRACE)),
        changed("spanId", base64_of(SPAN)),
        changed("attributes", [{"key": "a", "value": {"intValue": 1}, "unknown": 1}]),
        changed("attributes", [{"key": "a", "value": {"unknownValue": 1, "int_value": "1"}}]),
        changed("name", "GET") | {"unknown": [1]},
        {"batches": GOOD["resourceSpans"]},
        changed(
            "scopeSpans", None
        ) and {
            "batches": [
                {
                    "resource": GOOD["resourceSpans"][0]["resource"],
                    "instrumentationLibrarySpans": [
                        {
                            "instrumentationLibrary": {"name": "test"},
                            "spans": GOOD["resourceSpans"][0]["scopeSpans"][0]["spans"],
                        }
                    ],
                }
            ]
        },
    ],
)  # fmt: skip
def test_older_and_looser_json_is_read_alike(data: Any) -> None:
    """What protobuf's JSON mapping allows, and what older senders wrote, is read alike."""
    assert from_json(data) == [EXPECTED]


@pytest.mark.parametrize("absent", [None, ...])
def test_what_is_missing_has_its_default(absent: Any) -> None:
    """Every field may be absent or null."""
    span = dict.fromkeys(GOOD["resourceSpans"][0]["scopeSpans"][0]["spans"][0], absent)
    span = {key: of for key, of in span.items() if of is None}
    data = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}

    assert from_json(data) == [Span("", "", "", "", 0, 0, False, False, "", Source("", ""), {}, ())]


@pytest.mark.parametrize("content", [True, False, 0, -1, 2.5, "text", "", [], ["x"], [[]], {}, {"x": {}}, {"kind": []}])
@pytest.mark.parametrize("kind", ["string", "bool", "int", "double", "bytes", "array", "kvlist"])
def test_values_of_a_wrong_type(kind: str, content: Any) -> None:
    """A value is of the type that it says it is, or the request is refused."""
    try:
        (span,) = from_json(changed("attributes", [{"key": "a", "value": {f"{kind}Value": content}}]))
    except FormatError as error:
        assert "expected" in str(error)  # noqa: PT017 - or it is read
    else:
        types = {
            "string": str,
            "bool": bool,
            "int": int,
            "double": float,
            "bytes": bytes,
            "array": list,
            "kvlist": dict,
        }
        assert type(span.attributes["a"]) is types[kind]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "the whole: an object was expected, not a list"),
        ({"resourceSpans": {}}, "resourceSpans: a list was expected, not an object"),
        ({"resourceSpans": ["x"]}, "resourceSpans: an object was expected, not a string"),
        (changed("resource", 1), "resource: an object was expected, not a number"),
        (changed("scopeSpans", [1]), "scopeSpans: an object was expected, not a number"),
        (changed("spans", [True]), "spans: an object was expected, not a boolean"),
        (changed("scope", []), "scope: an object was expected, not a list"),
        (changed("traceId", "xyz"), "an id: 32 hexadecimal digits were expected"),
        (changed("traceId", TRACE[1:]), "an id: 32 hexadecimal digits were expected"),
        (changed("spanId", 12), "an id: 16 hexadecimal digits were expected"),
        (changed("spanId", "+" * 16), "an id: 16 hexadecimal digits were expected"),
        (changed("kind", 1.5), "kind: an integer or a name was expected, not a number"),
        (changed("status", "bad"), "status: an object was expected, not a string"),
        (changed("startTimeUnixNano", "soon"), "startTimeUnixNano: nanoseconds since 1970 were expected, in 64 bits"),
        (changed("startTimeUnixNano", -1), "startTimeUnixNano: nanoseconds since 1970 were expected, in 64 bits"),
        (changed("endTimeUnixNano", [1]), "endTimeUnixNano: nanoseconds since 1970 were expected, in 64 bits"),
        (changed("endTimeUnixNano", "9" * 5000), "endTimeUnixNano: nanoseconds since 1970 were expected, in 64 bits"),
        (changed("attributes", {"a": 1}), "attributes: a list was expected, not an object"),
        (changed("attributes", [3]), "attributes: an object was expected, not a number"),
        (changed("attributes", [{"key": 3, "value": {}}]), "key: a string was expected, not a number"),
        (changed("attributes", [{"key": "a", "value": "x"}]), "value: an object was expected, not a string"),
        (changed("attributes", [{"key": "a", "value": {"intValue": str(2**63)}}]), "intValue: more than 64 bits"),
        (changed("links", "x"), "links: a list was expected, not a string"),
        (changed("links", ["x"]), "links: an object was expected, not a string"),
    ],
)
def test_a_wrong_type_is_refused_in_one_line(data: Any, told: str) -> None:
    """What is not of its type is refused in one line that says what was expected, and shows nothing of it."""
    with pytest.raises(FormatError) as refused:
        from_json(data)

    assert str(refused.value) == told


keys = st.sampled_from(
    ["resourceSpans", "resource", "attributes", "scopeSpans", "scope", "spans", "name", "kind", "status", "code", "links",
     "traceId", "span_id", "startTimeUnixNano", "key", "value", "stringValue", "intValue", "arrayValue", "values", "x"]
)  # fmt: skip
anything = st.recursive(scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(keys, of, max_size=5))


@given(anything)
def test_whatever_comes_is_spans_or_a_format_error(data: Any) -> None:
    """Anything at all is a list of spans or a FormatError."""
    try:
        found = from_json(data)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017 - or it is read
    else:
        assert all(isinstance(span, Span) for span in found)


def test_what_is_nested_too_deeply_is_refused() -> None:
    """What is nested without end is refused."""
    deep: dict[str, Any] = {"stringValue": "x"}
    for _ in range(2000):
        deep = {"arrayValue": {"values": [deep]}}

    with pytest.raises(FormatError, match="nested too deeply"):
        from_json(changed("attributes", [{"key": "a", "value": deep}]))


def test_the_story_is_the_same_in_json_and_protobuf() -> None:
    """The founding story is the same in both shapes."""
    for request in story():
        assert from_json(json.loads(to_json(request))) == list(from_protobuf(request))
