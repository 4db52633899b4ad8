"""Real servers on the loopback, in a thread or in a process of their own, and what we told of their connections."""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import itertools
import json
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gunicorn
import hypercorn.config
import trio
import trustme
import uvicorn
from hypercorn.asyncio import serve
from hypercorn.trio import serve as serve_on_trio
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.spans import Span
from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor

from .sockets import PATIENCE, Client
from .telemetry import _RESOURCE
from .webapps import asgi

#: Requests are told apart by their number, over all servers.
NUMBERS = itertools.count(1)

#: What a server's keep-alive timeout is, in seconds, where a script does not say another.
KEEP_ALIVE = 30


def until(done: Callable[[], Any]) -> Any:
    """Wait until *done* says so; answers what it said."""
    limit = time.monotonic() + PATIENCE
    while not (said := done()):
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.002)
    return said


class Seen:
    """What is told of the servers of this process."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(resource=_RESOURCE, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], _RESOURCE, shutdown_on_exit=False)
        self.instrumentor = HTTPTraceServerInstrumentor()
        self._ended: Counter[tuple[Any, str]] = Counter()

    def instrument(self) -> None:
        """Turn it on."""
        self.instrumentor.instrument(meter_provider=self.meter_provider)

    def app(self) -> Any:
        """The application, with upstream's instrumentation."""
        return OpenTelemetryMiddleware(asgi, tracer_provider=self.tracer_provider, exclude_spans=["send", "receive"])

    def requests(self) -> dict[int, dict[str, Any]]:
        """What is on the spans that have ended, by the number of the request."""
        found: dict[int, dict[str, Any]] = {}
        for span in self.exporter.get_finished_spans():
            if span.kind is SpanKind.SERVER:
                number = number_of(span.attributes or {})
                assert number not in found, "a span was exported twice"
                found[number] = dict(span.attributes or {})
        return found

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """The data points of a metric: attributes, and the value or how many there were."""
        data = self._reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), getattr(point, "value", None) or getattr(point, "count", 0))
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]

    def shutdown(self) -> None:
        """Turn it off, and be done with the providers."""
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def number_of(attributes: Any) -> int:
    """The number of the request that a span is of."""
    # By ASGI the one has the query, by WSGI the other.
    query = urlsplit(attributes.get("http.url") or attributes["http.target"]).query
    return int(parse_qs(query)["n"][0])


def exported(spans: Iterable[ReadableSpan]) -> list[Span]:
    """Spans as a collector would have them."""
    return list(from_protobuf(encode_spans(list(spans))))


#: What is below HTTP.
WIRES = ("tcp", "tcp6", "unix", "tls")


@functools.cache
def certificate() -> tuple[ssl.SSLContext, str]:
    """What a client trusts, and the file that has a server's key and certificate."""
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
        file.write(authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    atexit.register(os.unlink, file.name)
    return trusting, file.name


class Listener:
    """Where a server listens.

    Args:
        wire: one of `WIRES`.
    """

    def __init__(self, wire: str) -> None:
        self.tls = wire == "tls"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if wire == "unix":
            self._folder = tempfile.TemporaryDirectory()
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(str(Path(self._folder.name) / "socket"))
            self.sock.listen()
        elif wire == "tcp6":
            self.sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
        else:
            self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()
        #: None on a Unix socket.
        self.port = None if wire == "unix" else self.address[1]

    def forget(self) -> None:
        """Leave no file behind."""
        self.sock.close()
        if self._folder is not None:
            self._folder.cleanup()


class Running:
    """A server, and what is told of it."""

    def __init__(self, seen: Seen, listener: Listener) -> None:
        self.seen = seen
        self.listener = listener
        self.port: Any = listener.port

    def client(self) -> Client:
        """A client of it."""
        address = self.listener.address
        where = address if isinstance(address, str) else address[:2]
        return Client(self.port, NUMBERS, address=where, tls=certificate()[0] if self.listener.tls else None)

    def requests(self) -> dict[int, dict[str, Any]]:
        """What is on the spans that have ended, by the number of the request."""
        return self.seen.requests()

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """The data points of a metric: attributes, and the value or how many there were."""
        return self.seen.points(metric)

    def spans(self) -> list[Span]:
        """The spans that have ended, as a collector would have them."""
        return exported(self.seen.exporter.get_finished_spans())

    def closed(self) -> Counter[str]:
        """Connections that have ended, by why."""
        found: Counter[str] = Counter()
        for attributes, number in self.points("httptrace.server.connections.closed"):
            if attributes.get("server.port") == self.port:
                found[attributes["httptrace.server.conn.close_reason"]] += number
        return found

    def forget(self) -> None:
        """Be done with it."""
        self.listener.forget()

    def busy(self) -> int:
        """How many connections carry a request."""
        return sum(
            number
            for attributes, number in self.points("httptrace.server.connections.open")
            if (attributes.get("server.port"), attributes["http.connection.state"]) == (self.port, "active")
        )

    def stopping(self) -> None:
        """Tell it to stop, and wait until it is about to."""
        raise NotImplementedError

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        raise NotImplementedError


class Uvicorn(Running):
    """uvicorn in a thread."""

    def __init__(self, seen: Seen, http: str, wire: str = "tcp", **options: Any) -> None:
        settings: dict[str, Any] = {
            "timeout_keep_alive": options.pop("keep_alive", KEEP_ALIVE),
            "limit_max_requests": options.pop("max_requests", None),
            "log_config": None,
            "ws": "none",
            **options,
        }
        super().__init__(seen, Listener(wire))
        if self.listener.tls:
            settings["ssl_certfile"] = certificate()[1]
        self._server = uvicorn.Server(uvicorn.Config(seen.app(), http=http, **settings))
        self.thread = threading.Thread(target=self._server.run, args=([self.listener.sock],), daemon=True)
        self.thread.start()
        until(lambda: self._server.started)

    def stopping(self) -> None:
        """Tell it to stop, and wait until it is about to."""
        self._server.should_exit = True
        # It closes its listeners first.
        until(lambda: not any(server.is_serving() for server in self._server.servers))

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        self._server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class Hypercorn(Running):
    """hypercorn in a thread."""

    def __init__(self, seen: Seen, wire: str = "tcp", **options: Any) -> None:
        config = hypercorn.config.Config()
        super().__init__(seen, Listener(wire))
        with self.listener.sock as sock:
            config.bind = [f"fd://{os.dup(sock.fileno())}"]
        if self.listener.tls:
            config.certfile = config.keyfile = certificate()[1]
        # A client's end is seen at once, but the socket stays until the idle timer strikes.
        config.keep_alive_timeout = options.pop("keep_alive", 1)
        config.errorlog = config.accesslog = None
        config.graceful_timeout = 5
        for name, value in options.items():
            setattr(config, name, value)
        self._begin(seen.app(), config)
        self.thread.start()

    def _begin(self, app: Any, config: hypercorn.config.Config) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.thread = threading.Thread(target=self._run, args=(app, config), daemon=True)

    def _run(self, app: Any, config: hypercorn.config.Config) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(serve(app, config, shutdown_trigger=self._stop.wait))

    def stopping(self) -> None:
        """Tell it to stop, and wait until it is about to."""
        stopped = threading.Event()
        self._loop.call_soon_threadsafe(self._stop.set)
        # It is two steps from being told to having told its connections.
        for _ in range(20):
            stopped.clear()
            self._loop.call_soon_threadsafe(stopped.set)
            assert stopped.wait(PATIENCE)

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class HypercornOnTrio(Hypercorn):
    """hypercorn on trio, in a thread."""

    def _begin(self, app: Any, config: hypercorn.config.Config) -> None:
        stop = trio.Event()
        self._set = stop.set
        self._token: trio.lowlevel.TrioToken | None = None

        async def run() -> None:
            self._token = trio.lowlevel.current_trio_token()
            await serve_on_trio(app, config, shutdown_trigger=wait)

        async def wait() -> None:
            await stop.wait()

        self.thread = threading.Thread(target=trio.run, args=(run,), daemon=True)

    def stopping(self) -> None:
        """Tell it to stop, and wait until it is about to."""
        for _ in range(20):
            stopped = threading.Event()
            self._call(self._set)
            self._call(stopped.set)
            assert stopped.wait(PATIENCE)

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        self._call(self._set)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def _call(self, function: Callable[[], object]) -> None:
        token: trio.lowlevel.TrioToken = until(lambda: self._token)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(function)


class Gunicorn(Running):
    """gunicorn with one worker, in processes of its own."""

    def __init__(self, seen: Seen, worker: str, app: str, wire: str = "tcp", **options: Any) -> None:
        super().__init__(seen, Listener(wire))
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "seen"
        # Read when it has stopped.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        # Whole seconds.
        options["keep_alive"] = math.ceil(options.get("keep_alive", KEEP_ALIVE))
        settings = {"graceful_timeout": 5, **options}
        if self.listener.tls:
            settings["certfile"] = settings["keyfile"] = certificate()[1]
        with self.listener.sock as sock:
            os.set_inheritable(sock.fileno(), True)
            words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
            words += [f"--bind=fd://{sock.fileno()}", "--log-level=critical"]
            if gunicorn.version_info >= (25,):
                words.append("--no-control-socket")
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "gunicorn",
                    f"--worker-class={worker}",
                    *words,
                    f"kit.served:{app}",
                ],
                env={
                    **os.environ,
                    "HTTPTRACE_TEST_SEEN": str(self._file),
                    "PYTHONPATH": str(Path(__file__).parents[1]),
                },
                pass_fds=[sock.fileno()],
                stderr=self._complaints,
            )
        until(self._file.exists)

    def _told(self) -> Any:
        return json.loads(self._file.read_text())

    def requests(self) -> dict[int, dict[str, Any]]:
        """What is on the spans that have ended, by the number of the request."""
        return {int(number): attributes for number, attributes in self._told()["requests"].items()}

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """The data points of a metric."""
        return [(attributes, number) for attributes, number in self._told()[metric.rpartition(".")[2]]]

    def spans(self) -> list[Span]:
        """The spans that have ended, as a collector would have them."""
        return list(from_protobuf(ExportTraceServiceRequest.FromString(base64.b64decode(self._told()["spans"]))))

    def stopping(self) -> None:
        """Tell it to stop, and wait until it is about to."""
        self._process.send_signal(signal.SIGTERM)
        until(lambda: self._told()["stopping"])

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
        # What it told is still asked for.

    def forget(self) -> None:
        """Be done with it: it must not have complained of us."""
        with self._complaints as complaints:
            complaints.seek(0)
            complained = complaints.read().decode(errors="replace")
        self._folder.cleanup()
        super().forget()
        sys.stderr.write(complained)
        assert "otel_httptrace" not in complained, complained


#: By the name of a kind of server, what starts one.
KINDS: dict[str, Callable[..., Running]] = {
    f"uvicorn-{http}": lambda seen, http=http, **options: Uvicorn(seen, http, **options)
    for http in ("h11", "httptools", *(["zttp"] if find_spec("uvicorn.protocols.http.zttp_impl") else []))
}
#: uvicorn on HTTP/2: by the name of its class, as there is no other yet.
KINDS_H2: dict[str, Callable[..., Running]] = {"hypercorn": Hypercorn}
if find_spec("uvicorn.protocols.http.zttp_h2_impl"):
    KINDS_H2["uvicorn-zttp"] = lambda seen, **options: Uvicorn(
        seen, "uvicorn.protocols.http.zttp_h2_impl:ZttpH2Protocol", **options
    )
KINDS |= {
    "hypercorn": Hypercorn,
    "hypercorn-trio": HypercornOnTrio,
    "gunicorn-sync": lambda seen, **options: Gunicorn(seen, "sync", "wsgi_app", **options),
    "gunicorn-gthread": lambda seen, **options: Gunicorn(seen, "gthread", "wsgi_app", threads=4, **options),
    "gunicorn-asgi": lambda seen, **options: Gunicorn(seen, "asgi", "asgi_app", **options),
    "gunicorn-uvicorn": lambda seen, **options: Gunicorn(seen, "uvicorn.workers.UvicornWorker", "asgi_app", **options),
}


@contextlib.contextmanager
def sharing(seen: Seen) -> Iterator[Callable[..., Running]]:
    """A server of a kind and with these options, the same one whenever it is asked for, until this is left."""
    with contextlib.ExitStack() as stack:
        servers: dict[Any, Running] = {}

        def server(kind: str, **options: Any) -> Running:
            key = kind, tuple(options.items())
            if key not in servers:
                servers[key] = stack.enter_context(running(seen, kind, **options))
            return servers[key]

        yield server


@contextlib.contextmanager
def running(
    seen: Seen, kind: str, kinds: dict[str, Callable[..., Running]] = KINDS, **options: Any
) -> Iterator[Running]:
    """A server of this *kind*, until it is left."""
    server = kinds[kind](seen, **options)
    try:
        yield server
    finally:
        server.stop()
        server.forget()
