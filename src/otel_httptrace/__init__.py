"""What a request made with httpx, requests, urllib3 or botocore really did, on its OpenTelemetry span.

How long the pool, DNS, connect, TLS, the server and the body took; whether the
connection was new or reused and, if new, why none could be reused, which
earlier request lost it and which line of code closed that response unread.

    from otel_httptrace import HTTPTraceInstrumentor

    HTTPTraceInstrumentor().instrument()

PYTEST_DONT_REWRITE: pytest rewrites the assertions of each package that brings it a plugin, and
warns of one that has been imported by then, as opentelemetry-instrument does with this one. With
``-W error`` it would not start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .instrumentor import HTTPTraceInstrumentor
    from .server.instrumentor import HTTPTraceServerInstrumentor

__all__ = ["HTTPTraceInstrumentor", "HTTPTraceServerInstrumentor", "__version__"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it brings opentelemetry.propagate, whose import fails
    # if OTEL_PROPAGATORS names what is not installed. `httptrace doctor` has to start
    # all the same, to say so.
    if name == "HTTPTraceInstrumentor":
        from .instrumentor import HTTPTraceInstrumentor  # noqa: PLC0415

        return HTTPTraceInstrumentor
    if name == "HTTPTraceServerInstrumentor":
        from .server.instrumentor import HTTPTraceServerInstrumentor  # noqa: PLC0415

        return HTTPTraceServerInstrumentor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
