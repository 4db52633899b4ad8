"""What the core has recorded, as OpenTelemetry."""

from __future__ import annotations

from typing import Final

from opentelemetry import context as context_api
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from ..core.ledger import Connection, Process
from ..core.timeline import Exchange, Lookup
from .metrics import Metrics
from .spans import Spans

# The last is what instrumentations used before there was an API for it.
_SUPPRESSED: Final = (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation")


def suppressed() -> bool:
    """Whether instrumentation is suppressed in the current context."""
    context = context_api.get_current()
    # Read as a mapping: get_value would fetch the current context for each key.
    return bool(context) and any(map(context.get, _SUPPRESSED))


class Reporter:
    """The `Sink`: spans and metrics of what is not suppressed."""

    def __init__(self, spans: Spans, metrics: Metrics) -> None:
        self._spans = spans
        self._metrics = metrics
        # The spans' own, without a call in between: these are for every request.
        self.awaits_body = spans.awaits_body
        self.end = spans.end

    def begins(self, process: Process) -> None:
        """See `Sink`."""
        self._metrics.begin(process)

    def claim(self, exchange: Exchange) -> None:
        """See `Sink`."""
        # Under suppression upstream would not have made a span to claim.
        if not self._spans.claim(exchange) and suppressed():
            exchange.silent = True

    def suppressed(self) -> bool:
        """See `Sink`."""
        return suppressed()

    def looked_up(self, exchange: Exchange, lookup: Lookup) -> None:
        """See `Sink`."""
        if not exchange.silent:
            self._metrics.looked_up(exchange, lookup)

    def opened(self, exchange: Exchange, conn: Connection) -> None:
        """See `Sink`."""
        if not exchange.silent:
            self._metrics.opened(conn)

    def closed(self, conn: Connection, at: int, *, silent: bool) -> None:
        """See `Sink`."""
        if not silent:
            self._metrics.closed(conn, at)

    def failed(self, exchange: Exchange) -> None:
        """See `Sink`."""
        if not exchange.silent and not suppressed():
            self._metrics.failed(exchange)

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """See `Sink`."""
        # Written out, for this is for every request: see `suppressed`.
        context = context_api.get_current()
        if exchange.silent or (context and any(map(context.get, _SUPPRESSED))):
            return
        self._metrics.finished(exchange)
        if exchange.span is not None:
            self._spans.describe(exchange, error)
