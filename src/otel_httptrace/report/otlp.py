"""OTLP in its two shapes, protobuf and JSON, to spans and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtobufSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from .spans import Link, Source, Span

#: What tells one process from another, in this order.
_INSTANCE: Final = ("service.instance.id", "process.pid", "host.name")


def source(attributes: dict[str, Any]) -> Source:
    """Who sent it, by the attributes of its resource."""
    service = str(attributes.get("service.name", ""))
    return Source(service, next((str(attributes[name]) for name in _INSTANCE if name in attributes), ""))


def from_protobuf(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of an export request."""
    for resource in request.resource_spans:
        sender = source(_attributes(resource.resource.attributes))
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    client=span.kind == ProtobufSpan.SPAN_KIND_CLIENT,
                    failed=span.status.code == Status.STATUS_CODE_ERROR,
                    scope=scope.scope.name,
                    source=sender,
                    attributes=_attributes(span.attributes),
                    links=tuple(
                        Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
                        for link in span.links
                    ),
                )


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind is not None else None
