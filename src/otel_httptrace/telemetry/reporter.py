"""What the core has recorded, as OpenTelemetry."""

from __future__ import annotations

from opentelemetry import context as context_api

from ..core.ledger import Connection, Process
from ..core.timeline import Exchange, Lookup
from .metrics import Metrics
from .spans import CURRENT_SPAN, SUPPRESSED, Spans, suppressed, suppresses_all, upstreams_own

_ALL, _ALL_FORMERLY, _ = SUPPRESSED


class Reporter:
    """The `Sink`: spans and metrics of what is not suppressed."""

    def __init__(self, spans: Spans, metrics: Metrics) -> None:
        self._spans = spans
        self._metrics = metrics
        # The spans' own, without a call in between: these are for every request.
        self.claim = spans.claim
        self.awaits_body = spans.awaits_body
        self.end = spans.end

    def begins(self, process: Process) -> None:
        """See `Sink`."""
        self._metrics.begin(process)

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
        if not exchange.silent and (not suppressed() or upstreams_own(exchange, context_api.get_current())):
            self._metrics.failed(exchange)

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """See `Sink`."""
        # Written out, for this is for every request: see `suppressed` and `upstreams_own`.
        context = context_api.get_current()
        if exchange.silent:
            return
        if context and (exchange.below is None or context.get(CURRENT_SPAN) is not exchange.below):
            if any(map(context.get, SUPPRESSED)):
                return
        elif (_ALL in context or _ALL_FORMERLY in context) and suppresses_all(context):
            return
        self._metrics.finished(exchange)
        if exchange.span is not None:
            self._spans.describe(exchange, error)
