"""What a request made with httpx or httpx2 really did, on its OpenTelemetry span.

How long the pool, DNS, connect, TLS, the server and the body took; whether the
connection was new or reused and, if new, why none could be reused, which
earlier request lost it and which line of code closed that response unread.

    from otel_httptrace import HTTPTraceInstrumentor

    HTTPTraceInstrumentor().instrument()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .instrumentor import HTTPTraceInstrumentor

__all__ = ["HTTPTraceInstrumentor", "__version__"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it brings opentelemetry.propagate, whose import fails
    # if OTEL_PROPAGATORS names what is not installed. `httptrace doctor` has to start
    # all the same, to say so.
    if name == "HTTPTraceInstrumentor":
        from .instrumentor import HTTPTraceInstrumentor  # noqa: PLC0415

        return HTTPTraceInstrumentor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
