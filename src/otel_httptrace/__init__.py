"""What a request made with httpx or httpx2 really did, on its OpenTelemetry span.

How long the pool, DNS, connect, TLS, the server and the body took; whether the
connection was new or reused and, if new, why none could be reused, which
earlier request lost it and which line of code closed that response unread.

    from otel_httptrace import HTTPTraceInstrumentor

    HTTPTraceInstrumentor().instrument()
"""

from __future__ import annotations

from .instrumentor import HTTPTraceInstrumentor
from .version import __version__

__all__ = ["HTTPTraceInstrumentor", "__version__"]
