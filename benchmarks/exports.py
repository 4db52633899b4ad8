"""Bytes per request on the wire: of a service's exports, upstream's instrumentation alone and each setting of ours.

A real client, with the real instrumentation, SDK and OTLP exporter; not real are
the network, which is in memory, and time, which is simulated: so an hour of
traffic takes seconds, and the figures repeat to the byte. What does not compress
in life must not here: ids are random, and times have all their nanoseconds.

The service handles some 100 requests a second with ten workers, and each calls one
of four others over HTTPS. Its client spans continue traces that began elsewhere, as
in a service whose framework is instrumented too; only the client spans are counted.

- `keepalive`: bodies are read, and each request goes over a connection that has
  carried others. It is one span.
- `keepalive-3`: the same with three calls for each request handled: they share a
  trace, whose id then compresses.
- `keepalive-root`: the same, but each call is the root of its own trace, as in a
  program whose framework is not instrumented.
- `unread`: responses are closed without having been read, as in the founding
  story, so each request dials: a lookup, a connect and TLS, each a span.
- `unread-http`: the same without TLS.

What is counted are bodies of export requests, those of the exporter over HTTP; its
headers (some 200 bytes) are shared by the 512 spans of a batch.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import importlib
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = {"httpx": "httpcore", "httpx2": "httpcore2"}
#: How many calls there are for each request handled; 0: outside of any.
WORKLOADS = {"keepalive": 1, "keepalive-3": 3, "keepalive-root": 0, "unread": 1, "unread-http": 1}
#: Whose conventions: OTEL_SEMCONV_STABILITY_OPT_IN.
CONVENTIONS = {"default": "", "new": "http", "both": "http/dup"}
#: Name and keywords of `instrument()`; upstream alone has none.
SETTINGS: dict[str, dict[str, Any] | None] = {
    "upstream": None,
    "default": {},
    "spans=none": {"spans": "none"},
    "spans=all": {"spans": "all"},
    "span_end=headers": {"span_end": "headers"},
    "code_location=false": {"code_location": False},
}
#: The SDK's own (OTEL_BSP_MAX_EXPORT_BATCH_SIZE).
BATCH = 512
#: Others, for comparison.
SIZES = (32, 128, 512, 2048)
ORIGINS = ("orders.shop.example.com", "customers.shop.example.com", "search.example.com", "billing.example.com")
WORKERS = 10
#: With their hosts some 60 characters.
_PATHS = ("/api/v1/orders/{}?expand=items", "/api/v1/customers/{}/invoices", "/api/v1/status", "/api/v1/search?q={}")
_SMALL, _LARGE = 600, 40_000


class Clock:
    """Simulated time: it goes on when it is read, as reading takes its time, and when there is nothing to do."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.now = 1_790_000_000_123_456_789

    def read(self) -> int:
        """The time in nanoseconds."""
        self.now += self._chance.randrange(200, 20_000)
        return self.now

    def replace(self) -> None:
        """Be the clock of this process: to be called before anybody has imported one by name."""
        time.time_ns = time.monotonic_ns = self.read
        time.time = time.monotonic = time.perf_counter = timeit.default_timer = lambda: self.read() / 1e9


class _Selector(selectors.DefaultSelector):
    # Waiting takes no time: it is what moves the clock.
    clock: Clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.clock.now += int(max(timeout, 0) * 1e9)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop in simulated time, with a name server of its own."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        selector = _Selector()
        selector.clock = clock
        super().__init__(selector)
        self._chance = chance

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Two addresses for every name, after a while."""
        await asyncio.sleep(self._chance.lognormvariate(-6.5, 0.7))
        number = ORIGINS.index(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"198.51.100.{10 * number + last}", port)) for last in (1, 2)
        ]


class _TLS:
    # What the backend's stream says of its TLS, as `ssl` would.
    session_reused = False

    def version(self) -> str:
        return "TLSv1.3"

    def cipher(self) -> tuple[str, str, int]:
        return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"


class Network:
    """A backend for a pool: answers after a while, with bodies that come in one piece or in several."""

    def __init__(self, library: str, chance: random.Random, *, large: float) -> None:
        core: Any = importlib.import_module(LIBRARIES[library])
        network = self
        self.dialled = 0

        class Stream(core.AsyncNetworkStream):  # type: ignore[misc]
            def __init__(self, peer: tuple[str, int]) -> None:
                self._peer = peer
                self._local = ("192.0.2.2", chance.randrange(32768, 60999))
                self._tls: _TLS | None = None
                self._answer: list[tuple[float, bytes]] = []

            async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
                if not self._answer:
                    return b""
                delay, data = self._answer.pop(0)
                await asyncio.sleep(delay)
                return data

            async def write(self, buffer: bytes, timeout: float | None = None) -> None:
                if buffer:
                    self._answer = list(answer(chance, large))

            async def aclose(self) -> None:
                pass

            async def start_tls(self, *_: Any, **__: Any) -> Any:
                await asyncio.sleep(chance.lognormvariate(-5, 0.4))
                self._tls = _TLS()
                return self

            def get_extra_info(self, info: str) -> Any:
                return {
                    "is_readable": False,
                    "server_addr": self._peer,
                    "client_addr": self._local,
                    "ssl_object": self._tls,
                }.get(info)

        class Backend(core.AsyncNetworkBackend):  # type: ignore[misc]
            async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Any:
                network.dialled += 1
                found: Any = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                await asyncio.sleep(chance.lognormvariate(-6, 0.5))
                return Stream(found[0][4])

        self.backend = Backend()


def answer(chance: random.Random, large: float) -> Iterator[tuple[float, bytes]]:
    """What a server says, and how long after what it said before."""
    size = _LARGE if chance.random() < large else chance.randrange(_SMALL // 2, _SMALL * 2)
    head = (
        "HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nServer: nobody\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    first = min(size, 1400)
    yield chance.lognormvariate(-3.7, 0.7), head.encode() + b"x" * first
    for sent in range(first, size, 16_384):
        yield chance.lognormvariate(-7, 1), b"x" * min(16_384, size - sent)


async def read(client: Any, url: str) -> None:
    """A request whose response is read."""
    await client.get(url)


async def unread(client: Any, url: str) -> None:
    """A request of which only the status is wanted."""
    async with client.stream("GET", url) as response:
        response.raise_for_status()


@contextmanager
def handling(chance: random.Random, workload: str) -> Iterator[None]:
    """Be within the span of a framework, of a trace that began elsewhere."""
    from opentelemetry import context, trace

    if not WORKLOADS[workload]:
        yield
        return
    around = trace.SpanContext(
        chance.getrandbits(128), chance.getrandbits(64), is_remote=True, trace_flags=trace.TraceFlags(1)
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(around)))
    try:
        yield
    finally:
        context.detach(token)


async def traffic(
    library: str, workload: str, chance: random.Random, enough: Callable[[], bool], look: Callable[[], None]
) -> None:
    """Requests, until there are *enough* of them; then, while there are still connections, a *look*."""
    package: Any = importlib.import_module(library)
    transport = package.AsyncHTTPTransport(
        verify=False, limits=package.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
    )
    kept = workload.startswith("keepalive")
    network = Network(library, chance, large=0.25 if kept else 1.0)
    transport._pool._network_backend = network.backend
    scheme = "http" if workload == "unread-http" else "https"
    ask = read if kept else unread

    async with package.AsyncClient(transport=transport) as client:
        if kept:
            # As many connections as there will ever be.
            await asyncio.gather(*(ask(client, f"{scheme}://{host}/") for host in ORIGINS for _ in range(WORKERS)))
            enough()
        dialled = network.dialled

        async def worker() -> None:
            while not enough():
                with handling(chance, workload):
                    for _ in range(WORKLOADS[workload] or 1):
                        path = chance.choice(_PATHS).format(chance.randrange(1_000_000, 10_000_000))
                        await ask(client, f"{scheme}://{chance.choice(ORIGINS)}{path}")
                await asyncio.sleep(chance.expovariate(1 / 0.07))

        await asyncio.gather(*(worker() for _ in range(WORKERS)))
        assert not kept or network.dialled == dialled, "a request dialled"
        look()


def instrument(library: str, setting: str, exporter: Any) -> Any:
    """Turn it on, with a reader of its metrics."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    resource = Resource.create(
        {
            "service.name": "checkout",
            "service.namespace": "shop",
            "service.instance.id": "12461068-aa5c-45c3-8b51-0f8a6eb19d01",
            "deployment.environment.name": "production",
            "host.name": "node-12.example.com",
        }
    )
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    reader = InMemoryMetricReader()
    providers = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider([reader], resource=resource, shutdown_on_exit=False),
    }
    keywords = SETTINGS[setting]
    if keywords is None:
        upstream: Any = importlib.import_module("opentelemetry.instrumentation.httpx")
        name = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}[library]
        getattr(upstream, name)().instrument(**providers)
    else:
        from otel_httptrace import HTTPTraceInstrumentor

        HTTPTraceInstrumentor().instrument(**providers, **keywords)
    return reader


def exports(library: str, workload: str, setting: str, batches: int) -> tuple[list[list[Any]], Any]:
    """Spans in batches, as the SDK would hand them to the exporter, and the metrics, in this process.

    Takes the clock of this process away from it.
    """
    clock = Clock(seed=1)
    clock.replace()
    random.seed(2)  # the SDK's ids

    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    spans: list[Any] = []

    class Exporter(SpanExporter):
        def export(self, ended: Sequence[Any]) -> Any:
            spans.extend(ended)
            return SpanExportResult.SUCCESS

    reader = instrument(library, setting, Exporter())
    warm = not workload.startswith("keepalive")

    def enough() -> bool:
        nonlocal warm
        if not warm:
            warm = True
            spans.clear()
        return len(spans) >= batches * BATCH

    metrics: list[Any] = []
    chance = random.Random(3)
    loop = Loop(clock, chance)
    try:
        loop.run_until_complete(
            traffic(library, workload, chance, enough, lambda: metrics.append(reader.get_metrics_data()))
        )
    finally:
        loop.close()
    return [spans[first : first + BATCH] for first in range(0, batches * BATCH, BATCH)], metrics[0]


def on_the_wire(send: Callable[[Any], bytes]) -> Callable[[Any], tuple[int, int]]:
    """Bytes as they are, and with the gzip of the exporter over HTTP."""

    def both(batch: Any) -> tuple[int, int]:
        data = send(batch)
        return len(data), len(gzip.compress(data))

    return both


def worker(library: str, workload: str, setting: str, batches: int, folder: Path | None) -> dict[str, Any]:
    """What is measured, in this process; a *folder* gets the export requests."""
    made, metrics = exports(library, workload, setting, batches)

    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.trace import SpanKind

    sizes = [on_the_wire(lambda batch: encode_spans(batch).SerializePartialToString())(batch) for batch in made]
    for number, batch in enumerate(made if folder is not None else ()):
        assert folder is not None
        (folder / f"{number:03}.pb").write_bytes(encode_spans(batch).SerializePartialToString())
    requests = sum(span.kind is SpanKind.CLIENT for batch in made for span in batch)
    series = {
        metric.name: sum(
            # As Prometheus has a histogram: its buckets, a sum and a count.
            len(point.bucket_counts) + 2 if hasattr(point, "bucket_counts") else 1
            for point in metric.data.data_points
        )
        for resource in metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    spans = [span for batch in made for span in batch]
    by_size = {}
    for size in (size for size in SIZES if size <= len(spans)):
        whole = spans[: len(spans) // size * size]
        zipped = sum(
            len(gzip.compress(encode_spans(whole[first : first + size]).SerializePartialToString()))
            for first in range(0, len(whole), size)
        )
        by_size[str(size)] = zipped / len(whole) * len(spans) / requests
    raw, zipped = on_the_wire(lambda data: encode_metrics(data).SerializePartialToString())(metrics)
    return {
        "requests": requests,
        "spans": batches * BATCH / requests,
        "raw": sum(size for size, _ in sizes) / requests,
        "gzip": sum(size for _, size in sizes) / requests,
        "attributes": statistics.fmean(
            len(span.attributes) for batch in made for span in batch if span.kind is SpanKind.CLIENT
        ),
        "gzip by batch size": by_size,
        "metrics": {"series": series, "raw": raw, "gzip": zipped},
    }


def measure(library: str, workload: str, setting: str, conventions: str, *, batches: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--worker", library, workload, setting, "--batches", str(batches)]
    environ = {**os.environ, "PYTHONHASHSEED": "0", "OTEL_SEMCONV_STABILITY_OPT_IN": CONVENTIONS[conventions]}
    for name in [name for name in environ if name.startswith("OTEL_") and name != "OTEL_SEMCONV_STABILITY_OPT_IN"]:
        del environ[name]
    done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return {
        "library": library,
        "workload": workload,
        "setting": setting,
        "conventions": conventions,
        **json.loads(done.stdout),
    }


def measure_all(libraries: Sequence[str], batches: int) -> list[dict[str, Any]]:
    """Every setting; conventions where a request is one span; of other libraries than the first, the default."""
    cases = [
        (library, workload, setting, conventions)
        for library in libraries
        for workload in WORKLOADS
        for setting in SETTINGS
        for conventions in CONVENTIONS
        if setting in ("upstream", "default") or (library == libraries[0] and not workload.startswith("keepalive-"))
        if conventions == "default"
        or (library == libraries[0] and workload.startswith("keepalive") and setting in ("upstream", "default"))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda case: measure(*case, batches=batches), cases))
    alone = {
        (one["library"], one["workload"], one["conventions"]): one for one in found if one["setting"] == "upstream"
    }
    for one in found:
        upstream = alone[one["library"], one["workload"], one["conventions"]]
        one["ratio"] = {unit: one[unit] / upstream[unit] for unit in ("raw", "gzip")}
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """The results for people."""
    lines = [f"{'':54}{'spans':>6}{'attributes':>11}{'raw':>8}{'gzip':>8}{'ratios':>8}"]
    for one in found:
        who = f"{one['library']:8}{one['workload']:15}{one['conventions']:9}{one['setting']:22}"
        lines.append(
            f"{who}{one['spans']:6.2f}{one['attributes']:11.1f}{one['raw']:8.1f}{one['gzip']:8.1f}"
            f"{one['ratio']['raw']:8.2f}{one['ratio']['gzip']:6.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="to docs/scale.json, for docs/scale.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        library, workload, setting = options.worker
        print(json.dumps(worker(library, workload, setting, options.batches, options.save)))
        return
    found = measure_all(options.libraries, options.batches)
    if options.write:
        import figures

        figures.write("exports", found)
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
