"""Which exchange is inside the pool, here and now."""

from __future__ import annotations

from contextvars import ContextVar

from ..core.timeline import Exchange

# Set around a pool's own call only, never across anything that the application
# resumes. What runs inside are the library, the backend, and the application's
# trace callbacks and request body: a task that one of these starts inherits the
# value, so every reader also checks that what it sees belongs to the exchange.
CURRENT: ContextVar[Exchange | None] = ContextVar("otel_httptrace_exchange", default=None)
