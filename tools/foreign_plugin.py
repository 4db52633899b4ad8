"""pytest plugin for foreign_suites.py: instruments before the first test is collected, and reports at the end."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_httptrace.clients import CLIENTS

_UPSTREAM = "opentelemetry.instrumentation.httpx"


class _Counts(SpanProcessor):
    spans = 0
    annotated = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.kind is trace.SpanKind.CLIENT:
            self.spans += 1
            self.annotated += "httptrace.conn.id" in (span.attributes or {})


class _Faults(logging.Handler):
    """What we log is a fault that was contained: the test passes, but it is one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record).replace("\n", " | "))


_counts, _faults, _reader = _Counts(), _Faults(), InMemoryMetricReader()


def _instrument(mode: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(_counts)
    meters = MeterProvider([_reader], shutdown_on_exit=False)
    logging.getLogger("otel_httptrace").addHandler(_faults)
    if mode == "upstream":
        for upstream in {client.upstream.instrumentor: client.upstream for client in CLIENTS}.values():
            try:
                module = importlib.import_module(upstream.module)
            except ImportError:
                # Of a client that is not in this environment.
                continue
            getattr(module, upstream.instrumentor)().instrument(tracer_provider=provider, meter_provider=meters)
        return
    from otel_httptrace import HTTPTraceInstrumentor  # noqa: PLC0415
    from otel_httptrace.guard import Guard  # noqa: PLC0415

    # A fault of ours fails the test that it happens in.
    Guard.loud = True
    HTTPTraceInstrumentor().instrument(
        spans="all",
        tracer_provider=provider,
        meter_provider=meters,
        # As under opentelemetry-instrument: upstream is turned on by somebody else, here by its own tests.
        skip_dep_check=mode == "ours alone",
    )
    if mode == "ours+span":
        for library in ("httpcore", "httpcore2"):
            _span_around_every_request(importlib.import_module(library), provider.get_tracer(_UPSTREAM))


def _span_around_every_request(httpcore: Any, tracer: trace.Tracer) -> None:
    """Put around the pools of *httpcore* what upstream puts around httpx's transports."""

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def handle_request(pool: Any, request: Any) -> Any:
            with tracer.start_as_current_span("GET", kind=trace.SpanKind.CLIENT):
                return inner(pool, request)

        return handle_request

    def async_around(inner: Callable[..., Any]) -> Callable[..., Any]:
        async def handle_async_request(pool: Any, request: Any) -> Any:
            with tracer.start_as_current_span("GET", kind=trace.SpanKind.CLIENT):
                return await inner(pool, request)

        return handle_async_request

    sync, asynchronous = httpcore.ConnectionPool, httpcore.AsyncConnectionPool
    sync.handle_request = around(sync.handle_request)
    asynchronous.handle_async_request = async_around(asynchronous.handle_async_request)


_instrument(os.environ["FOREIGN_MODE"])


def pytest_unconfigure() -> None:
    """Say what was seen."""
    _reader.get_metrics_data()  # the callbacks, too, run on what the suite has left
    lines = [_counts.spans, _counts.annotated, *_faults.seen]
    Path(os.environ["FOREIGN_REPORT"]).write_text("".join(f"{line}\n" for line in lines))
