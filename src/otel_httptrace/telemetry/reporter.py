"""What the core has recorded, as OpenTelemetry."""

from __future__ import annotations

from typing import Final

from opentelemetry import context as context_api
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, Context

from ..core.ledger import Connection, Process
from ..core.timeline import Exchange, Lookup
from .metrics import Metrics
from .spans import ALL, CURRENT_SPAN, Spans, unsampled

_SUPPRESSED: Final = (*ALL, _SUPPRESS_HTTP_INSTRUMENTATION_KEY)


def suppressed() -> bool:
    """Whether instrumentation is suppressed in the current context."""
    context = context_api.get_current()
    # Read as a mapping: get_value would fetch the current context for each key.
    return bool(context) and any(map(context.get, _SUPPRESSED))


def _upstreams_own(exchange: Exchange, context: Context) -> bool:
    """Whether it was upstream that has suppressed instrumentation in *context*, below the span that it made."""
    if exchange.below is None:
        return False
    ask = context.get
    return ask(CURRENT_SPAN) is exchange.below and not (ask(ALL[0]) or ask(ALL[1]))


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
        # Under suppression upstream would not have made a span to claim. But some suppress it below their own.
        if not self._spans.claim(exchange) and suppressed():
            exchange.below = unsampled()
            exchange.silent = not _upstreams_own(exchange, context_api.get_current())

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
        if not exchange.silent and (not suppressed() or _upstreams_own(exchange, context_api.get_current())):
            self._metrics.failed(exchange)

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """See `Sink`."""
        # Written out, for this is for every request: see `suppressed` and `_upstreams_own`.
        context = context_api.get_current()
        if exchange.silent:
            return
        if context and (exchange.below is None or context.get(CURRENT_SPAN) is not exchange.below):
            if any(map(context.get, _SUPPRESSED)):
                return
        elif context.get(ALL[0]) or context.get(ALL[1]):
            return
        self._metrics.finished(exchange)
        if exchange.span is not None:
            self._spans.describe(exchange, error)
