"""Turned on, off, and by `opentelemetry-instrument`: nothing is imported, and every original put back."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from kit.servers import KINDS, NUMBERS, Seen, running, until
from kit.sockets import Client, Conn

from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor


def test_everything_is_put_back() -> None:
    """Each hook looks like what it stands in for; turned off, every original is there again, the identical one."""
    import uvicorn.protocols.http.h11_impl
    import uvicorn.protocols.http.httptools_impl  # noqa: F401

    if "uvicorn-zttp" in KINDS:
        pass

    if sys.platform != "win32":
        import gunicorn.asgi.protocol
        import gunicorn.workers.gthread
        import gunicorn.workers.sync  # noqa: F401

    instrumentor = HTTPTraceServerInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    instrumentor.instrument()
    try:
        assert instrumentor._patches is not None
        replaced = [(owner, name, vars(owner)[name]) for owner, name in instrumentor._patches.replaced()]
        assert len(replaced) > 50
        for owner, name, hook in replaced:
            original = hook.__wrapped__
            assert getattr(owner, name) is hook
            assert inspect.getfullargspec(hook) == inspect.getfullargspec(original), (owner, name)
            assert inspect.iscoroutinefunction(hook) == inspect.iscoroutinefunction(original), (owner, name)
            assert (hook.__name__, hook.__qualname__, hook.__doc__) == (
                *(original.__name__, original.__qualname__),
                original.__doc__,
            )
    finally:
        instrumentor.uninstrument()
    for owner, name, hook in replaced:
        assert getattr(owner, name) is hook.__wrapped__
        assert getattr(owner, name) is not hook


def test_turned_off_with_connections_open() -> None:
    """A connection of before answers on, and nothing is told of it; turned on again, of new ones only."""
    seen = Seen()
    if seen.instrumentor.is_instrumented_by_opentelemetry:
        seen.instrumentor.uninstrument()
    seen.instrument()
    try:
        with running(seen, "uvicorn-h11") as server:
            client = server.client()
            conn = client.connect()
            conn.get()
            seen.instrumentor.uninstrument()
            conn.get()
            seen.instrument()
            conn.get()
            client.connect().get()
            client.over()
            until(lambda: len(server.requests()) == 4)
        told = [server.requests()[sent.number].get("httptrace.server.conn.requests") for sent in client.sent]
        assert told == [0, None, None, 0]
    finally:
        seen.shutdown()


def run(*args: str, **env: str) -> str:
    """What a program prints."""
    environ = {**os.environ, **env}
    return subprocess.run(args, capture_output=True, text=True, env=environ, timeout=50, check=True).stdout


def test_nothing_is_imported() -> None:
    """Turned on, it imports no server, and nothing of the standard library that OpenTelemetry's API does not."""
    code = (
        "import sys\n"
        "import opentelemetry.metrics, opentelemetry.trace, opentelemetry.instrumentation.instrumentor, wrapt\n"
        "before = set(sys.modules)\n"
        "from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor\n"
        "HTTPTraceServerInstrumentor().instrument()\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    imported = set(run(sys.executable, "-c", code).split())
    assert not imported & {"uvicorn", "hypercorn", "gunicorn", "h11", "h2", "asyncio", "ssl", "socket", "httpcore"}


def test_opentelemetry_instrument(tmp_path: Path) -> None:
    """`opentelemetry-instrument uvicorn app:app`: nothing in the application's code."""
    (tmp_path / "app.py").write_text(
        "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/ok')\nasync def ok():\n    return 'ok'\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    program = subprocess.Popen(
        [
            *(
                str(Path(sys.executable).parent / "opentelemetry-instrument"),
                str(Path(sys.executable).parent / "uvicorn"),
                "app:app",
                f"--port={port}",
            ),
            *("--timeout-keep-alive=1", "--log-level=critical"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "",
        },
    )
    try:
        client = Client(port, NUMBERS)

        def connect() -> Conn | None:
            try:
                return client.connect()
            except ConnectionRefusedError:
                return None

        conn = until(connect)
        conn.get()
        conn.get("/ok", "Connection: close")
        conn.ended()
        # Its exporter gives out what it has as it ends.
        program.send_signal(signal.SIGINT)
        out, _ = program.communicate(timeout=40)
    finally:
        program.kill()
        program.communicate()
    decoder, spans = json.JSONDecoder(), []
    while out := out.lstrip():
        span, end = decoder.raw_decode(out)
        out = out[end:]
        if span["kind"] == "SpanKind.SERVER":
            attributes = span["attributes"]
            spans.append([attributes.get(f"httptrace.server.conn.{name}") for name in ("requests", "close_reason")])
    assert spans == [[0, None], [1, "connection_close"]]
