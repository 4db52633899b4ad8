"""Our own instrumentation, in this process."""

from __future__ import annotations

from ...report.rows import Row


class Recorder:
    """Our own instrumentation, and the rows that it yields."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

        from ...instrumentor import HTTPTraceInstrumentor  # noqa: PLC0415

        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        HTTPTraceInstrumentor().instrument(tracer_provider=provider, code_location=False)

    def take(self) -> list[Row]:
        """The requests since the last time, in the order in which they began."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans  # noqa: PLC0415

        from ...report.otlp import from_protobuf  # noqa: PLC0415
        from ...report.rows import rows  # noqa: PLC0415

        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return sorted(rows(from_protobuf(encode_spans(spans))), key=lambda row: row.start)
