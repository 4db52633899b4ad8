# OTLP/JSON is protobuf's JSON mapping with exceptions: ids are hexadecimal, not
# base64; enums are written as numbers; receivers ignore fields that they do not
# know. So `json_format` alone reads every id wrong.
#
# https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
# https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/
# https://protobuf.dev/programming-guides/json/
#
# From JSON, spans are made directly, without protobuf in between: that is what a
# file of a million of them takes its time for.

"""OTLP in its two shapes, protobuf and JSON, to spans and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from sys import intern
from typing import Any, Final, TypeVar

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtobufSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from ..telemetry import names
from .spans import Link, Source, Span

#: What tells one process from another, in this order.
_INSTANCE: Final = ("service.instance.id", "process.pid", "host.name")

_CLIENT: Final = frozenset({ProtobufSpan.SPAN_KIND_CLIENT, "SPAN_KIND_CLIENT"})
_SERVER: Final = frozenset({ProtobufSpan.SPAN_KIND_SERVER, "SPAN_KIND_SERVER"})
_FAILED: Final = frozenset({Status.STATUS_CODE_ERROR, "STATUS_CODE_ERROR"})

_AnyMessage = TypeVar("_AnyMessage", bound=Message)


class FormatError(ValueError):
    """What was read is not OTLP: the message says which field, and what it should have been."""


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
                    sentences=tuple(_sentences(span)) if span.events else (),
                    raised=_raised(span) if span.events else "",
                    server=span.kind == ProtobufSpan.SPAN_KIND_SERVER,
                )


def _sentences(span: ProtobufSpan) -> Iterator[tuple[int, str]]:
    for event in span.events:
        if event.name == names.EVENT_DIAGNOSIS:
            said = _attributes(event.attributes).get(names.MESSAGE)
            if isinstance(said, str):
                yield event.time_unix_nano, said


def _raised(span: ProtobufSpan) -> str:
    for event in reversed(span.events):
        if event.name == names.EVENT_EXCEPTION:
            return class_of(_attributes(event.attributes).get(names.EXCEPTION_TYPE))
    return ""


def class_of(name: Any) -> str:
    """The class that an event's ``exception.type`` names, without its module; empty if it is no text."""
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind is not None else None


# Whole requests, of any signal.


def to_json(request: Message) -> bytes:
    """One line of a file in the collector's format, without its end: OTLP/JSON, nothing left out.

    Args:
        request: of any signal.
    """
    data = json_format.MessageToDict(request, use_integers_for_enums=True)
    _each_id(data, lambda text: base64.b64decode(text).hex())
    return orjson.dumps(data)


def parse_json(data: bytes, request: _AnyMessage) -> _AnyMessage:
    """Fill *request* with OTLP/JSON.

    Raises:
        FormatError: it is something else.
    """
    try:
        read = orjson.loads(data)
        if type(read) is not dict:
            raise _unexpected("the whole", "an object", read)
        _each_id(read, lambda text: base64.b64encode(binascii.unhexlify(text)).decode())
        json_format.ParseDict(read, request, ignore_unknown_fields=True)
    except FormatError:
        raise
    except (ValueError, json_format.ParseError, RecursionError, TypeError, AttributeError) as error:
        # Neither parser promises an exception of its own for whatever is thrown at it.
        raise FormatError(str(error) or type(error).__name__) from error
    return request


_IDS: Final = frozenset({"traceId", "trace_id", "spanId", "span_id", "parentSpanId", "parent_span_id"})


def _each_id(data: Any, convert: Callable[[str], str]) -> None:
    # The keys are always field names: those of attributes are values of a field `key`.
    if isinstance(data, dict):
        for name, value in data.items():
            if isinstance(value, (dict, list)):
                _each_id(value, convert)
            elif name in _IDS and isinstance(value, str):
                try:
                    data[name] = convert(value)
                except ValueError:
                    raise FormatError(f"{name}: hexadecimal digits were expected") from None
    elif isinstance(data, list):
        for item in data:
            _each_id(item, convert)


# Spans from JSON. Each field may be absent, null, or called by its name in the
# protobuf file, with underscores. What is expected is tried first: looking for
# the other name costs only where a field is absent.


def from_json(data: Any) -> list[Span]:
    """The spans of an export request in OTLP/JSON: all of them or none.

    Ids may also be base64, as Tempo and whoever uses protobuf's own JSON mapping write them, and a resource's
    scopes may bear the name that they had before OTLP 0.15.

    Args:
        data: as a JSON parser returns it.

    Raises:
        FormatError: a field is not of its type.
    """
    try:
        return list(_json_spans(data))
    except RecursionError:
        raise FormatError("nested too deeply") from None


def _json_spans(data: Any) -> Iterator[Span]:
    if type(data) is not dict:
        raise _unexpected("the whole", "an object", data)
    for resource in _list(data, "resourceSpans", "resource_spans", "batches"):
        resource = _object(resource, "resourceSpans")  # noqa: PLW2901 - null is as good as {}
        attributes = _object(resource.get("resource"), "resource").get("attributes")
        sender = source(_json_attributes(attributes))
        for scoped in _list(
            resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans", "instrumentation_library_spans"
        ):
            scoped = _object(scoped, "scopeSpans")  # noqa: PLW2901
            scope = scoped.get("scope", scoped.get("instrumentationLibrary"))
            name = _text(_object(scope, "scope").get("name"), "scope.name")
            for span in _list(scoped, "spans"):
                yield _json_span(_object(span, "spans"), name, sender)


def _json_span(span: dict[str, Any], scope: str, sender: Source) -> Span:
    get = span.get
    status = get("status")
    links, events = get("links"), get("events")
    kind = _enum(get("kind"), "kind")
    return Span(
        trace_id=_id(get("traceId") or get("trace_id"), 32),
        span_id=_id(get("spanId") or get("span_id"), 16),
        parent_id=_id(get("parentSpanId") or get("parent_span_id"), 16),
        name=_text(get("name"), "name"),
        start=_time(get("startTimeUnixNano") or get("start_time_unix_nano"), "startTimeUnixNano"),
        end=_time(get("endTimeUnixNano") or get("end_time_unix_nano"), "endTimeUnixNano"),
        client=kind in _CLIENT,
        failed=bool(status) and _enum(_object(status, "status").get("code"), "status.code") in _FAILED,
        scope=scope,
        source=sender,
        attributes=_json_attributes(get("attributes")),
        links=tuple(_json_links(links)) if links else (),
        sentences=tuple(_json_sentences(events)) if events else (),
        raised=_json_raised(events) if events else "",
        server=kind in _SERVER,
    )


def _json_sentences(events: Any) -> Iterator[tuple[int, str]]:
    if not isinstance(events, list):
        raise _unexpected("events", "a list", events)
    for event in events:
        get = _object(event, "events").get
        if get("name") == names.EVENT_DIAGNOSIS:
            said = _json_attributes(get("attributes")).get(names.MESSAGE)
            if isinstance(said, str):
                yield _time(get("timeUnixNano") or get("time_unix_nano"), "timeUnixNano"), said


def _json_raised(events: Any) -> str:
    # That they are a list was seen to before.
    for event in reversed(events):
        get = _object(event, "events").get
        if get("name") == names.EVENT_EXCEPTION:
            return class_of(_json_attributes(get("attributes")).get(names.EXCEPTION_TYPE))
    return ""


def _json_links(links: Any) -> Iterator[Link]:
    if not isinstance(links, list):
        raise _unexpected("links", "a list", links)
    for link in links:
        get = _object(link, "links").get
        yield Link(
            _id(get("traceId") or get("trace_id"), 32),
            _id(get("spanId") or get("span_id"), 16),
            _json_attributes(get("attributes")),
        )


def _json_attributes(pairs: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if pairs is None:
        return attributes
    if type(pairs) is not list:
        raise _unexpected("attributes", "a list", pairs)
    for pair in pairs:
        try:
            value = pair["value"]
            (kind,) = value
            # A name is the same object in every span: it is kept once, and found faster.
            attributes[intern(pair["key"])] = _KINDS[kind](value[kind])
        except (KeyError, TypeError, ValueError):  # noqa: PERF203 - quicker than to ask
            # Something is absent, or more than expected, or wrong: the slow way tells which.
            get = _object(pair, "attributes").get
            attributes[_text(get("key"), "key")] = _json_value(get("value"))
    return attributes


def _json_value(value: Any) -> Any:
    for kind, content in _object(value, "value").items():
        if content is not None and kind in _KINDS:
            return _KINDS[kind](content)
    return None


def _json_text(content: Any) -> str | None:
    return content if type(content) is str or content is None else _text(content, "stringValue")


def _json_bool(content: Any) -> bool | None:
    if content is True or content is False or content is None:
        return content
    raise _unexpected("boolValue", "true or false", content)


def _json_int(content: Any) -> int | None:
    if type(content) is str and len(content) < _SAFE:
        try:
            return int(content)
        except ValueError:
            pass
    if content is None:
        return None
    number = _integer(content, "intValue")
    if _LEAST <= number <= _MOST:
        return number
    raise FormatError("intValue: more than 64 bits")


#: An integer of fewer characters fits.
_SAFE: Final = 19
_LEAST: Final = -(1 << 63)
_MOST: Final = (1 << 63) - 1


def _json_double(content: Any) -> float | None:
    if type(content) is float or content is None:
        return content
    try:
        # Also "NaN" and "Infinity", which JSON has no numbers for.
        if isinstance(content, (int, str)) and not isinstance(content, bool):
            return float(content)
    except (ValueError, OverflowError):
        pass
    raise FormatError("doubleValue: a number was expected")


def _json_bytes(content: Any) -> bytes | None:
    if content is None:
        return None
    try:
        # Both alphabets, padded or not, as protobuf's mapping asks for.
        text = _text(content, "bytesValue").replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise FormatError("bytesValue: base64 was expected") from None


def _json_array(content: Any) -> list[Any] | None:
    return None if content is None else [_json_value(item) for item in _list(_object(content, "arrayValue"), "values")]


def _json_kvlist(content: Any) -> dict[str, Any] | None:
    return None if content is None else _json_attributes(_object(content, "kvlistValue").get("values"))


_KINDS: Final[dict[str, Callable[[Any], Any]]] = {
    "stringValue": _json_text,
    "string_value": _json_text,
    "boolValue": _json_bool,
    "bool_value": _json_bool,
    "intValue": _json_int,
    "int_value": _json_int,
    "doubleValue": _json_double,
    "double_value": _json_double,
    "bytesValue": _json_bytes,
    "bytes_value": _json_bytes,
    "arrayValue": _json_array,
    "array_value": _json_array,
    "kvlistValue": _json_kvlist,
    "kvlist_value": _json_kvlist,
}


def _id(value: Any, digits: int) -> str:
    if not value:
        return ""
    try:
        # Padded base64 is shorter than hexadecimal for the same bytes, so that no id can be both.
        read = binascii.unhexlify(value) if len(value) == digits else base64.b64decode(value, validate=True)
        if type(value) is str and len(read) * 2 == digits:
            return read.hex()
    except (ValueError, TypeError):
        pass
    raise FormatError(f"an id: {digits} hexadecimal digits were expected")


def _time(value: Any, name: str) -> int:
    if not value:
        return 0
    try:
        number = int(value) if type(value) is str else _integer(value, name)
    except ValueError:
        number = -1
    if 0 <= number <= _LATEST:
        return number
    raise FormatError(f"{name}: nanoseconds since 1970 were expected, in 64 bits")


_LATEST: Final = (1 << 64) - 1


def _integer(value: Any, name: str) -> int:
    if type(value) is int:
        return value
    try:
        if type(value) is str or (type(value) is float and value.is_integer()):
            return int(value)
    except ValueError:
        pass
    raise FormatError(f"{name}: an integer was expected")


def _enum(value: Any, name: str) -> int | str:
    if value is None:
        return 0
    if type(value) is int or type(value) is str:
        return value
    raise _unexpected(name, "an integer or a name", value)


def _text(value: Any, name: str) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    raise _unexpected(name, "a string", value)


def _object(value: Any, name: str) -> dict[str, Any]:
    if type(value) is dict:
        return value
    if value is None:
        return {}
    raise _unexpected(name, "an object", value)


def _list(parent: dict[str, Any], *fields: str) -> list[Any]:
    for field in fields:
        value = parent.get(field)
        if value is not None:
            if type(value) is list:
                return value
            raise _unexpected(field, "a list", value)
    return []


_JSON_TYPES: Final = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    type(None): "null",
}


def _unexpected(name: str, expected: str, value: Any) -> FormatError:
    # Never the value itself: it may be anything, and anyone's.
    return FormatError(f"{name}: {expected} was expected, not {_JSON_TYPES.get(type(value), 'an object')}")
