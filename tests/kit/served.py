"""Run by gunicorn in the tests: the application of `webapps`, instrumented; what is told goes into a file.

The file is written anew whenever something has changed, and once more when the process ends.
"""

from __future__ import annotations

import atexit
import base64
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from gunicorn.workers.base import Worker
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

from kit.servers import Seen
from kit.webapps import wsgi

seen = Seen()
seen.instrument()

_instrumented = seen.app()


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """For workers that run an ASGI application."""
    if scope["type"] != "lifespan":
        await _instrumented(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # uvicorn ends by the signal that it was sent, and runs no exit handler. Its connections are closed by now.
    _write()
    await send({"type": "lifespan.shutdown.complete"})


#: For those that run a WSGI application.
wsgi_app: Any = OpenTelemetryMiddleware(wsgi, tracer_provider=seen.tracer_provider)

_FILE = Path(os.environ["HTTPTRACE_TEST_SEEN"])


def _find() -> Any:
    """Gunicorn's worker, or what its uvicorn worker runs; None as long as that has not begun."""
    found = [it for it in gc.get_objects() if isinstance(it, (Worker, uvicorn.Server))]
    servers = [it for it in found if isinstance(it, uvicorn.Server)]
    return servers[0] if servers else next((it for it in found if type(it).__name__ != "UvicornWorker"), None)


_server: Any = None


def _stopping() -> bool:
    global _server  # noqa: PLW0603 - found once, and kept
    _server = _server or _find()
    if isinstance(_server, uvicorn.Server):
        return _server.started and not any(it.is_serving() for it in _server.servers)
    return _server is not None and not _server.alive


def _write() -> None:
    told = {
        "requests": seen.requests(),
        "spans": base64.b64encode(encode_spans(seen.exporter.get_finished_spans()).SerializeToString()).decode(),
        "closed": seen.points("httptrace.server.connections.closed"),
        "stopping": _stopping(),
        "open": seen.points("httptrace.server.connections.open"),
    }
    text = json.dumps(told)
    if not _FILE.exists() or _FILE.read_text() != text:
        # Whole, or not at all.
        new = _FILE.with_suffix(f".{threading.get_ident()}")
        new.write_text(text)
        new.replace(_FILE)


def _watch() -> None:
    while True:
        _write()
        time.sleep(0.02)


threading.Thread(target=_watch, daemon=True).start()
atexit.register(_write)
