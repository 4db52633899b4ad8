"""What the benchmarks share: clients whose network is in memory, and the instrumentation to be measured."""

from __future__ import annotations

import importlib
import io
import socket
from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

from otel_httptrace import HTTPTraceInstrumentor
from otel_httptrace.clients import CLIENTS

LIBRARIES = {"httpx": "httpcore", "httpx2": "httpcore2", "requests": "urllib3", "urllib3": "urllib3"}
#: Those that have no asynchronous client.
SYNC_ONLY = ("requests", "urllib3")
MODES = ("bare", "upstream", "none", "connection", "all")  # the last three: ours, by its `spans`
PROCESSORS = ("none", "simple", "batch")

_BODY = b'{"items": [' + b'{"id": 1, "name": "a thing"}, ' * 15 + b"{}]}"
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nServer: nobody\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


def _extra_info(info: str) -> Any:
    # A connection that is up, as httpcore's own streams describe it.
    return {"is_readable": False, "server_addr": ("192.0.2.1", 80), "client_addr": ("192.0.2.2", 50000)}.get(info)


def backend(library: str, asynchronous: bool) -> Any:
    """Make a network backend whose connections answer each request at once, and live for ever."""
    core = importlib.import_module(LIBRARIES[library])

    class Stream(core.NetworkStream):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._answer = b""

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            answer, self._answer = self._answer, b""
            return answer

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            if buffer:
                self._answer = _RESPONSE

        def close(self) -> None:
            pass

        def get_extra_info(self, info: str) -> Any:
            return _extra_info(info)

    class AsyncStream(core.AsyncNetworkStream):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._answer = b""

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            answer, self._answer = self._answer, b""
            return answer

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            if buffer:
                self._answer = _RESPONSE

        async def aclose(self) -> None:
            pass

        def get_extra_info(self, info: str) -> Any:
            return _extra_info(info)

    class Backend(core.NetworkBackend):  # type: ignore[misc, name-defined]
        def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Stream:
            return Stream()

    class AsyncBackend(core.AsyncNetworkBackend):  # type: ignore[misc, name-defined]
        async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> AsyncStream:
            return AsyncStream()

    return AsyncBackend() if asynchronous else Backend()


class _Socket:
    """Is connected, and answers each request at once; nobody has closed it, as its descriptor says."""

    def __init__(self) -> None:
        self._pair = socket.socketpair()

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(_RESPONSE)

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.1", 80)

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.2", 50000)

    def sendall(self, data: bytes) -> None:
        pass

    def settimeout(self, timeout: float | None) -> None:
        pass

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        for end in self._pair:
            end.close()


def _client_on_urllib3(library: str) -> Any:
    def connect(*_: Any, **__: Any) -> _Socket:
        return _Socket()

    # Not a class of connections of our own: what programs use are urllib3's.
    importlib.import_module("urllib3.util.connection").create_connection = connect  # type: ignore[attr-defined]
    package = importlib.import_module(library)
    if library == "requests":
        session = package.Session()
        session.trust_env = False
        return session

    class Manager(package.PoolManager):  # type: ignore[misc, name-defined]
        def get(self, url: str) -> Any:
            return self.request("GET", url)

    return Manager()


def client(library: str, asynchronous: bool) -> Any:
    """Make a real client: of its parts only the network is not real."""
    if library in SYNC_ONLY:
        return _client_on_urllib3(library)
    package = importlib.import_module(library)
    # Without TLS the certificates need not be loaded, which takes longer than the rest of the start.
    transport = (package.AsyncHTTPTransport if asynchronous else package.HTTPTransport)(verify=False)
    transport._pool._network_backend = backend(library, asynchronous)
    return (package.AsyncClient if asynchronous else package.Client)(transport=transport)


class _NoExporter(SpanExporter):
    def export(self, spans: Iterable[Any]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def instrument(library: str, mode: str, processor: str) -> InMemoryMetricReader:
    """Turn on what *mode* says, with the SDK for traces and metrics, whose results nobody fetches.

    Args:
        library: whose upstream instrumentor it is.
        mode: one of `MODES`.
        processor: what is done with a span that has ended: ``none`` of it, or that it goes to an
            exporter that does nothing by the SDK's ``simple`` or ``batch`` processor.
    """
    processors: dict[str, Any] = {
        "none": SpanProcessor,
        "simple": lambda: SimpleSpanProcessor(_NoExporter()),
        "batch": lambda: BatchSpanProcessor(_NoExporter()),
    }
    tracers = TracerProvider()
    tracers.add_span_processor(processors[processor]())
    reader = InMemoryMetricReader()
    providers = {"tracer_provider": tracers, "meter_provider": MeterProvider([reader])}
    if mode == "upstream":
        # All that there are for what the program has imported, as opentelemetry-instrument and ours turn on: requests
        # brings urllib3.
        importlib.import_module(library)
        for found in (client.upstream for client in CLIENTS if client.imported_classes()):
            getattr(importlib.import_module(found.module), found.instrumentor)().instrument(**providers)
    elif mode != "bare":
        # Else its own instrumentation would be turned on with those of all others that are imported.
        importlib.import_module(library)
        HTTPTraceInstrumentor().instrument(spans=mode, **providers)
    return reader
