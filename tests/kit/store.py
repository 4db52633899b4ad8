"""A backend that keeps what is exported to it, and a way to export to one what is written by hand (OTLP over gRPC)."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, cast

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    TraceServiceStub,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from .otlp import pairs
from .programs import PATIENCE


class Store:
    """Takes traces over OTLP/gRPC on the loopback, for as long as a `with` lasts.

    Args:
        port: a free one, if it must be known before there is a store; otherwise any.
        refuses: what every request is answered, in place of taking it.
    """

    def __init__(self, port: int = 0, refuses: grpc.StatusCode | None = None) -> None:
        store = self
        self._lock = threading.Lock()
        self._spans: list[Span] = []

        class Servicer(TraceServiceServicer):  # type: ignore[misc]
            def Export(  # noqa: N802 - the name of the service
                self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
            ) -> ExportTraceServiceResponse:
                found = [
                    span
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
                if refuses is not None:
                    context.abort(refuses, "as the test wants it")
                with store._lock:
                    store._spans += found
                return ExportTraceServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(Servicer(), self._server)
        #: Host and port.
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"

    @property
    def spans(self) -> list[Span]:
        """All that has come, in its order."""
        with self._lock:
            return list(self._spans)

    def traces(self) -> dict[bytes, Counter[bytes]]:
        """How often each span has come, by the ids of traces and of spans."""
        found: dict[bytes, Counter[bytes]] = defaultdict(Counter)
        for span in self.spans:
            found[span.trace_id][span.span_id] += 1
        return dict(found)

    def __enter__(self) -> Store:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(None).wait()


def span(trace: bytes, number: int, name: str = "GET", *, parent: int = 0, status: int = 0, **attributes: Any) -> Span:
    """A span of a trace: ids by *number* and *parent*; an attribute's dots are written as two underscores."""
    return Span(
        name=name,
        kind=Span.SPAN_KIND_CLIENT if not parent else Span.SPAN_KIND_INTERNAL,
        trace_id=trace,
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        start_time_unix_nano=10**18,
        end_time_unix_nano=10**18 + 10**7,
        status=Status(code=cast("Status.StatusCode.ValueType", status)),
        attributes=pairs({name.replace("__", "."): value for name, value in attributes.items()}),
    )


def export(address: str, spans: Sequence[Span], size: int = 512) -> None:
    """Send *spans* to *address*, so many in a request, as two processes of one host; an error if one is refused."""
    with grpc.insecure_channel(address) as channel:
        stub = TraceServiceStub(channel)
        for start in range(0, len(spans), size):
            request = ExportTraceServiceRequest()
            resource = request.resource_spans.add()
            process = {"service.name": "by-hand", "service.instance.id": "one", "process.pid": 1 + start // size % 2}
            resource.resource.attributes.extend(pairs(process))
            resource.scope_spans.add().spans.extend(spans[start : start + size])
            stub.Export(request, timeout=PATIENCE)
