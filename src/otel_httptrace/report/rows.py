"""One row per request, from received spans: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ..telemetry import names

#: The phases of a request in their order, each with the attribute that has its time.
PHASES: dict[str, str] = {
    "pool": names.TIME_POOL,
    "dns": names.TIME_DNS,
    "connect": names.TIME_CONNECT,
    "proxy": names.TIME_PROXY,
    "tls": names.TIME_TLS,
    "send": names.TIME_SEND,
    "wait": names.TIME_WAIT,
    "receive": names.TIME_RECEIVE,
}


@dataclass(frozen=True)
class Step:
    """A child span: times in seconds since its request began."""

    name: str
    start: float
    duration: float
    attributes: dict[str, Any]
    depth: int


@dataclass(frozen=True)
class Link:
    """A link of a request to another: hexadecimal ids, and attributes."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One request.

    Args:
        name: of the span.
        trace_id: hexadecimal, as is ``span_id``.
        start: seconds since the epoch, of which ``duration`` is the length in seconds.
        failed: whether its status is ERROR.
        attributes: of the span, by the names of `telemetry.names`.
        phases: seconds by phase, those that were observed.
    """

    name: str
    trace_id: str
    span_id: str
    start: float
    duration: float
    failed: bool
    attributes: dict[str, Any]
    phases: dict[str, float]
    links: tuple[Link, ...] = ()
    steps: tuple[Step, ...] = field(default=())

    @property
    def observed(self) -> bool:
        """Whether otel-httptrace saw it."""
        return any(name.startswith("httptrace.") or name == names.CONN_REUSED for name in self.attributes)

    @property
    def lost_by(self) -> Link | None:
        """The request that lost the connection which this one had to open anew."""
        return next(
            (link for link in self.links if link.attributes.get(names.LINK) == names.LINK_CONNECTION_LOST_BY), None
        )


def rows(requests: Iterable[ExportTraceServiceRequest]) -> list[Row]:
    """Requests in the order in which they began. Spans that are neither requests nor parts of one are left out."""
    clients: dict[bytes, Span] = {}
    children: dict[bytes, list[Span]] = {}
    for scope, span in _spans(requests):
        if scope == names.UPSTREAM_SCOPE and span.kind == Span.SPAN_KIND_CLIENT:
            clients[span.span_id] = span
        elif span.parent_span_id:
            children.setdefault(span.parent_span_id, []).append(span)
    found = [_row(span, children) for span in clients.values()]
    return sorted(found, key=lambda row: row.start)


def _spans(requests: Iterable[ExportTraceServiceRequest]) -> Iterator[tuple[str, Span]]:
    for request in requests:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    yield scope.scope.name, span


def _row(span: Span, children: dict[bytes, list[Span]]) -> Row:
    attributes = _attributes(span.attributes)
    return Row(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        start=span.start_time_unix_nano / 1e9,
        duration=max(0, span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        failed=span.status.code == 2,
        attributes=attributes,
        phases={phase: attributes[name] for phase, name in PHASES.items() if name in attributes},
        links=tuple(Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        steps=tuple(_steps(span, span, children, 1)),
    )


def _steps(request: Span, parent: Span, children: dict[bytes, list[Span]], depth: int) -> Iterator[Step]:
    for child in sorted(children.get(parent.span_id, ()), key=lambda span: span.start_time_unix_nano):
        yield Step(
            name=child.name,
            start=(child.start_time_unix_nano - request.start_time_unix_nano) / 1e9,
            duration=max(0, child.end_time_unix_nano - child.start_time_unix_nano) / 1e9,
            attributes=_attributes(child.attributes),
            depth=depth,
        )
        yield from _steps(request, child, children, depth + 1)


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind is not None else None
