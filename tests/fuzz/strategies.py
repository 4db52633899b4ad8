# Random bytes do not get past a parser's first look. So there are two ways in. What
# is valid, built of the names that the parsers know and of values that they do not expect; and
# what is valid, damaged: cut, doubled, moved, overwritten.

"""What to send."""

from __future__ import annotations

import gzip
import json
from typing import Any, Final

from hypothesis import strategies as st
from kit.otlp import story
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_httptrace.report.otlp import to_json
from otel_httptrace.telemetry import names

#: All names of attributes that anything is made of.
ATTRIBUTES: Final = sorted(
    {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    | {"url.full", "http.url", "http.request.method", "http.response.status_code", "service.name", "process.pid"}
)
WORDS: Final = [
    "GET",
    "http.getconn",
    "http.dns",
    "http.connect",
    "opentelemetry.instrumentation.httpx",
    "otel_httptrace",
]

texts = st.one_of(
    st.sampled_from([*WORDS, *ATTRIBUTES, "body_not_read", "closed_early", "connection_lost_by", "https://a.test/"]),
    st.text(max_size=20),
    st.sampled_from(["\x1b]0;x\x07", "\u202e", "</script>", "[bold]", "1e999", "-0", "9" * 5000, "\u2028", "NaN"]),
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(
        [0, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 1e308, 10**18, 10**18 + 10**7, 946_684_800 * 10**9]
    ),
)
atoms = st.one_of(st.none(), st.booleans(), numbers, texts)
#: Anything that JSON can say, within reason.
anything = st.recursive(
    atoms,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=15,
)
hexadecimal = st.one_of(
    st.sampled_from(["ab" * 16, "cd" * 8, "ef" * 8, "", "0", "AB" * 16, "W47/95gDgQPSabYzgT/GDA==", "ab" * 1000]), texts
)


def dumped(value: Any) -> bytes:
    """JSON, also where it is none: NaN, lone surrogates."""
    return json.dumps(value).encode()


def sometimes(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs there, as a rule."""
    return st.integers(0, 15).flatmap(lambda chance: anything if chance == 15 else right)


def fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with these fields, of the right kind as a rule; now and then one is missing."""
    present = st.fixed_dictionaries({name: sometimes(strategy) for name, strategy in strategies.items()})
    missing = st.one_of(st.none(), st.none(), st.none(), st.sampled_from(sorted(strategies)))
    return st.tuples(present, missing).map(lambda both: {name: of for name, of in both[0].items() if name != both[1]})


def some(strategy: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[list[Any]]:
    """A short list, empty now and then."""
    return st.lists(sometimes(strategy), min_size=1, max_size=most) | st.just([])


values: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.one_of(
        fields(stringValue=texts),
        fields(intValue=st.one_of(numbers, numbers.map(str)), doubleValue=numbers),
        fields(boolValue=st.booleans()),
        fields(bytesValue=texts),
        fields(arrayValue=fields(values=some(values))),
        fields(kvlistValue=fields(values=some(attributes))),
    )
)
attributes: st.SearchStrategy[dict[str, Any]] = fields(key=st.sampled_from(ATTRIBUTES), value=values)
times = st.one_of(
    st.sampled_from(["1700000000000000000", "1700000000010000000", 1_700_000_000_000_000_000]),
    numbers,
    numbers.map(str),
)
otlp_spans = fields(
    traceId=hexadecimal,
    spanId=hexadecimal,
    parentSpanId=hexadecimal,
    name=texts,
    kind=st.sampled_from([3, "SPAN_KIND_CLIENT", 1]),
    startTimeUnixNano=times,
    endTimeUnixNano=times,
    attributes=some(attributes, 8),
    links=some(fields(traceId=hexadecimal, spanId=hexadecimal, attributes=some(attributes))),
    status=fields(code=st.sampled_from([0, 1, 2, "STATUS_CODE_ERROR"])),
)
otlp = fields(
    resourceSpans=some(
        fields(
            resource=fields(attributes=some(attributes)),
            scopeSpans=some(fields(scope=fields(name=st.sampled_from(WORDS)), spans=some(otlp_spans, 6))),
        )
    )
)

tags = fields(
    key=st.sampled_from([*ATTRIBUTES, "span.kind", "error", "otel.scope.name", "otel.status_code"]),
    type=st.sampled_from(["string", "int64", "float64", "bool", "binary"]),
    value=st.one_of(atoms, st.sampled_from(["client", "opentelemetry.instrumentation.httpx", '["a"]'])),
)
jaeger_spans = fields(
    traceID=hexadecimal,
    spanID=hexadecimal,
    parentSpanID=hexadecimal,
    operationName=texts,
    references=some(
        fields(refType=st.sampled_from(["CHILD_OF", "FOLLOWS_FROM"]), traceID=hexadecimal, spanID=hexadecimal)
    ),
    startTime=st.one_of(st.sampled_from([1_789_999_999_000_000]), numbers),
    duration=numbers,
    tags=some(tags, 8),
    processID=st.sampled_from(["p1", "p2"]),
    warnings=some(texts),
)
jaeger = fields(
    data=some(
        fields(
            traceID=hexadecimal,
            spans=some(jaeger_spans, 6),
            processes=st.dictionaries(
                st.sampled_from(["p1", "p2"]),
                fields(serviceName=st.sampled_from(["shop", "other"]), tags=some(tags)),
                max_size=2,
            ),
            warnings=some(texts),
        )
    ),
    errors=some(fields(msg=texts, code=numbers)),
)
tempo_search = fields(
    traces=some(fields(traceID=st.sampled_from(["ab", "cd" * 16, "ef" * 16]), startTimeUnixNano=times)),
    metrics=anything,
)
tempo_trace = st.one_of(
    fields(trace=otlp, status=st.sampled_from(["PARTIAL", "COMPLETE", 1, 0]), message=texts),
    otlp,
    otlp.map(lambda found: {"batches": found["resourceSpans"]} if "resourceSpans" in found else found),
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of this kind, some of them cut out, doubled, moved, or overwritten."""
    data = draw(whole)
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        piece, rest = data[at : at + length], data[at + length :]
        with_ = draw(
            st.one_of(
                st.just(b""),
                st.just(piece * 2),
                st.just(piece[::-1]),
                st.binary(max_size=8),
                st.sampled_from(
                    [
                        b"\x00",
                        b"\xff",
                        b"{",
                        b"]",
                        b'"',
                        b"\\",
                        b"\n",
                        b"null",
                        b"-1",
                        b"1e400",
                        b"\xff" * 10,
                        b"[" * 2000,
                    ]
                ),
            )
        )
        data = data[:at] + with_ + rest
    return data


def protobuf(found: Any) -> bytes:
    """As protobuf, what of an OTLP/JSON object that has."""
    from otel_httptrace.report.otlp import FormatError, parse_json

    try:
        return parse_json(dumped(found), ExportTraceServiceRequest()).SerializeToString()
    except FormatError:
        return b""


STORY: Final = [to_json(request) for request in story()]

requests_json = damaged(st.one_of(otlp.map(dumped), st.sampled_from(STORY), anything.map(dumped)))
requests_protobuf = damaged(
    st.one_of(
        otlp.map(protobuf),
        st.sampled_from([request.SerializeToString() for request in story()]),
        st.binary(max_size=200),
    )
)
lines = st.lists(requests_json, max_size=4).map(b"\n".join)
files = st.one_of(
    damaged(lines), damaged(lines.map(gzip.compress)), lines.map(gzip.compress), damaged(st.just(b"\x28\xb5\x2f\xfd"))
)
jaeger_answers = damaged(st.one_of(jaeger.map(dumped), anything.map(dumped)))
tempo_answers = st.lists(
    st.one_of(tempo_trace.map(dumped), damaged(tempo_trace.map(dumped)), anything.map(dumped)), min_size=1, max_size=3
).flatmap(
    lambda traces: st.one_of(tempo_search.map(dumped), damaged(tempo_search.map(dumped))).map(
        lambda search: b"\n".join(part.replace(b"\n", b" ") for part in (search, *traces))
    )
)

#: By the name of the target.
INPUTS: Final[dict[str, st.SearchStrategy[bytes]]] = {
    "otlp_json": requests_json,
    "otlp_protobuf": requests_protobuf,
    "file": files,
    "jaeger": jaeger_answers,
    "tempo": tempo_answers,
}
