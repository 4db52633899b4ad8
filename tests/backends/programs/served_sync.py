"""For `gunicorn served_sync:app`: as short as an application can be; no instrumentation wraps that by itself."""

from collections.abc import Iterable
from typing import Any

from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


app = OpenTelemetryMiddleware(answer)
