"""Export requests and rows, written by hand."""

from __future__ import annotations

import itertools
from typing import Any, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_httptrace.clients import scopes
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.rows import PHASES, Row, Served, Step, both_ends, rows
from otel_httptrace.report.spans import Link, Source
from otel_httptrace.report.spans import Span as Received
from otel_httptrace.telemetry import names

MS = 1_000_000
#: Whose spans are requests.
UPSTREAM_SCOPE = scopes()[0]


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
            kind=Span.SPAN_KIND_CLIENT if scope == UPSTREAM_SCOPE else Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=10**18 + int(start * MS),
            end_time_unix_nano=10**18 + int((start + duration) * MS),
            attributes=pairs({name.replace("__", "."): of for name, of in attributes.items()}),
        )
        span.status.code = cast("Status.StatusCode.ValueType", status)
        for other, described in links:
            span.links.add(trace_id=other.trace_id, span_id=other.span_id, attributes=pairs(described))
        return span

    def get(self, start: float, duration: float, **rest: Any) -> Span:
        """A request."""
        return self.span("GET", start, duration, scope=UPSTREAM_SCOPE, **rest)


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


def read(requests: list[ExportTraceServiceRequest]) -> list[Row]:
    """The rows of export requests, in the order in which they began."""
    found = rows(span for request in requests for span in from_protobuf(request))
    return sorted(found, key=lambda row: row.start)


_numbers = itertools.count(1)

ORIGIN = "http://api.test"
#: What names of ours begin with, after "httptrace.".
OURS = frozenset(
    {"conn", "time", "body", "pool", "failed_phase", "failed_cause", "timeout", "stalled", "tcp", "response", "client"}
)
PROCESS = Source("shop", "one")


def row(
    start: float = 0.0,
    duration: float = 0.01,
    *,
    failed: bool = False,
    origin: str = ORIGIN,
    source: Source = PROCESS,
    status: int | None = 200,
    links: tuple[Link, ...] = (),
    steps: tuple[Step, ...] = (),
    span_id: str | None = None,
    parent_id: str = "",
    target: str = "",
    **attributes: Any,
) -> Row:
    """One request; of attributes' names the dots are written as two underscores, and "httptrace." may be left out."""
    known = {}
    for name, value in attributes.items():
        dotted = name.replace("__", ".")
        ours = dotted.partition(".")[0] in OURS
        known[f"httptrace.{dotted}" if ours else dotted] = value
    return Row(
        name="GET",
        trace_id=f"{next(_numbers):032x}",
        span_id=span_id or f"{next(_numbers):016x}",
        start=1_800_000_000 + start,
        duration=duration,
        failed=failed,
        source=source,
        origin=origin,
        status=status,
        attributes=known,
        phases={phase: known[name] for phase, name in PHASES.items() if name in known},
        links=links,
        steps=list(steps),
        parent_id=parent_id,
        target=target,
    )


def opening(why: str, start: float = 0.0, **rest: Any) -> Row:
    """A request that had to open a connection, in 10 ms, with a lookup."""
    return row(start, **{
        "http__conn__reused": False, "conn__open_reason": why, "conn__id": next(_numbers), "time__dns": 0.004,
        "time__connect": 0.006, "body__outcome": "complete", **rest,
    })  # fmt: skip


def reusing(start: float = 0.0, **rest: Any) -> Row:
    """A request on a connection that had carried another."""
    return row(start, **{"http__conn__reused": True, "conn__idle": 0.01, "body__outcome": "complete", **rest})


#: The server of the requests that are written by hand, and where it says that they came from.
SERVER = Source("orders", "one")
PEER = "10.0.3.7"


def served(
    client: Row | None = None,
    *,
    conn: int | None = None,
    before: int = 0,
    port: int | None = None,
    start: float = 0.0,
    duration: float = 0.01,
    failed: bool = False,
    source: Source = SERVER,
    peer: str = PEER,
    closed: str | None = None,
    lost: tuple[str, float, int, int] | None = None,
    **attributes: Any,
) -> Served:
    """What a server tells of a request.

    Args:
        client: the request; without it nobody has told of it.
        conn: the number of the server's connection, and how many requests it had carried *before*.
        port: the peer's.
        start: as of `row`, by a clock that is an hour off, as are ``duration``, ``failed``, ``source``.
        peer: the peer's address.
        closed: why the connection ended with it.
        lost: of the connection of that peer that ended before: why, after how many idle seconds, its port, and how
            many requests it had carried.
        attributes: more of them, as of `row`.
    """
    known: dict[str, Any] = {
        "httptrace.server.conn.id": next(_numbers) if conn is None else conn,
        "httptrace.server.conn.requests": before,
        "http.conn.reused": before > 0,
        "server.port": 8000,
        "client.address": peer,
        "network.protocol.version": "1.1",
    }
    if before:
        known["httptrace.server.conn.idle"] = 0.01
    else:
        known |= {"network.peer.address": peer, "network.peer.port": port or 40000 + next(_numbers)}
    if closed is not None:
        known["httptrace.server.conn.close_reason"] = closed
    if lost is not None:
        known |= {
            f"httptrace.server.lost.{name}": of
            for name, of in zip(("close_reason", "idle", "port", "requests"), lost, strict=True)
        }
    known |= {name.replace("__", "."): of for name, of in attributes.items()}
    span = Received(
        trace_id=client.trace_id if client is not None else f"{next(_numbers):032x}",
        span_id=f"{next(_numbers):016x}",
        parent_id=client.span_id if client is not None else "",
        name="GET /",
        start=int((1_800_003_600 + start) * 1e9),
        end=int((1_800_003_600 + start + duration) * 1e9),
        client=False,
        failed=failed,
        scope="opentelemetry.instrumentation.asgi",
        source=source,
        attributes={name: of for name, of in known.items() if of is not None},
        links=(),
        server=True,
    )
    (found,) = both_ends([span])
    assert isinstance(found, Served)
    return found
