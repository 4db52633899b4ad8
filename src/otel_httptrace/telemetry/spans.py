# One CLIENT span per request there is already: upstream's. We say more on it,
# and keep it open until the body is over. Upstream ends it when the headers are
# in, by calling `span.end()`; that call is noted, and made when it is time.
#
# Everything is said at once, when the exchange is over: one `set_attributes`,
# and child spans with the times of what they describe. So nothing is half-told
# when something fails, and a request that is in flight costs nothing.

"""The request span and its children."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from ..config import Config
from ..core.ledger import BLAMED
from ..core.timeline import COMPLETE, FAILED, NEVER_CLOSED, POOL, Exchange, Step
from ..guard import Guard
from . import attributes, names

_logger = logging.getLogger("otel_httptrace")

# Looked up once, as every request asks for it: see core/ledger.py.
_CLIENT: Final = SpanKind.CLIENT

# Where the API keeps the current span, by its own word. Its get_current_span()
# also asks whether that is an instance of an abstract class, which costs as much
# as two attributes; what is asked of the span here says more.
_CURRENT_SPAN: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))

#: Set on a span that an exchange has claimed: the next one is another exchange's.
_CLAIMED: Final = "_otel_httptrace_claimed"
_MAX_HOLDERS: Final = 8


class Spans:
    """Reports exchanges on spans.

    Args:
        tracer: makes child spans.
        config: which child spans there are, and when the request span ends.
        guard: contains our faults.
    """

    def __init__(self, tracer: Tracer, config: Config, guard: Guard) -> None:
        self._tracer = tracer
        self._guard = guard
        self._children = config.spans != "none"
        self._all = config.spans == "all"
        self._at_headers = config.span_end == "headers"
        self._told = False

    def claim(self, exchange: Exchange) -> bool:
        """Take the request span that is current for *exchange*; False if there is none."""
        span: Any = context_api.get_current().get(_CURRENT_SPAN)
        # Only upstream's own, never any other that happens to be current.
        try:
            if span.instrumentation_scope.name != names.UPSTREAM_SCOPE or span.kind is not _CLIENT:
                return False
        except AttributeError:
            return False
        if span.is_recording() and not getattr(span, _CLAIMED, False):
            try:
                setattr(span, _CLAIMED, True)
            except AttributeError:
                # No instance attributes: see `awaits_body`.
                pass
            exchange.span = span
            exchange.context = span.get_span_context()
        return True

    def awaits_body(self, exchange: Exchange) -> None:
        """Keep the request span open until `end`."""
        span = exchange.span
        if span is None:
            return

        def end(end_time: int | None = None) -> None:
            try:
                exchange.upstream_ended = end_time if end_time is not None else time.time_ns()
                if exchange.finished:
                    self._end(span, exchange)
            except BaseException:
                if exchange.upstream_ended is None:
                    exchange.upstream_ended = exchange.wall + exchange.headers_at
                self._guard.contain("end", critical=True)

        try:
            span.end = end
        except AttributeError:
            # No instance attributes: it ends when the headers are in, so what is known
            # by now is said now, and what will be of the body goes on a child span.
            exchange.ends_early = True
            span.set_attributes(attributes.request(exchange))
            self._say_more(exchange, span, None)
            if not self._told:
                self._told = True
                _logger.warning(
                    "otel-httptrace: spans of type %s cannot be kept open until the response body is over; "
                    "the body is reported on http.receive spans instead",
                    type(span).__qualname__,
                )

    def end(self, exchange: Exchange) -> bool:
        """End the request span, if it was kept open; False: not before upstream has done so."""
        span = exchange.span
        if span is None:
            return True
        if exchange.upstream_ended is not None:
            self._end(span, exchange)
            return True
        return "end" not in getattr(span, "__dict__", ())

    def _end(self, span: Any, exchange: Exchange) -> None:
        # Whoever takes the attribute away ends the span: once, in any order.
        try:
            del span.end
        except AttributeError:
            return
        at = exchange.upstream_ended
        if not self._at_headers and exchange.over_at:
            over = exchange.wall + exchange.over_at
            # Not before upstream: a transport within its span may have read this body, and sent again.
            if at is None or over > at or exchange.outcome is NEVER_CLOSED:
                at = over
        try:
            span.end(at)
        except BaseException:
            if span.is_recording():
                # Once more, as nobody else will.
                span.end(at)
                raise
            # It is over, and what its processor made of that is not ours.
            self._guard.contain("on_end")

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """Say everything on the request span, and make its children."""
        span: Span = exchange.span
        if exchange.ends_early:
            if not exchange.failed_phase:
                self._child(
                    exchange, names.SPAN_RECEIVE, exchange.headers_at, exchange.over_at, attributes.body(exchange)
                )
            return
        span.set_attributes(attributes.request(exchange))
        if (
            exchange.outcome is COMPLETE
            and exchange.dial is None
            and not self._all
            and exchange.acquired_at - exchange.started < attributes.NOTEWORTHY
        ):
            # What nearly every request is: there is nothing else to say.
            return
        self._say_more(exchange, span, error)

    def _say_more(self, exchange: Exchange, span: Span, error: BaseException | None) -> None:
        if exchange.outcome == FAILED and error is not None:
            # By its class alone: h11 quotes the bytes that it cannot parse in its message,
            # and a stack trace ends with that. What record_exception would add is no more.
            name = exchange.error or type(error).__qualname__
            span.set_status(Status(StatusCode.ERROR, name))
            span.set_attribute(names.ERROR_TYPE, name)
            at = exchange.wall + exchange.over_at
            span.add_event(names.EVENT_EXCEPTION, {names.EXCEPTION_TYPE: f"{type(error).__module__}.{name}"}, at)
        if exchange.dial is not None or exchange.failed_phase == POOL or self._all:
            self._link(exchange, span)
        if self._children:
            self._make_children(exchange)

    # Links.

    def _link(self, exchange: Exchange, span: Span) -> None:
        for context, described in self._links(exchange):
            span.add_link(context, described)

    def _links(self, exchange: Exchange) -> Iterator[tuple[SpanContext, dict[str, Any]]]:
        conn = exchange.conn
        if conn is not None and exchange.send_at:
            loss = conn.explained_by
            if exchange.reused:
                if self._all and conn.opened_by is not None:
                    yield conn.opened_by, {names.LINK: names.LINK_CONNECTION_OPENED_BY}
            elif loss is not None and conn.open_reason in BLAMED and loss.context is not None:
                described = {names.LINK: names.LINK_CONNECTION_LOST_BY, names.CONN_CLOSE_REASON: loss.reason.value}
                if loss.closed_at is not None:
                    described[names.BODY_CLOSED_AT] = loss.closed_at
                yield loss.context, described
        if exchange.failed_phase == POOL and exchange.error == "PoolTimeout":
            for context in exchange.ledger.holders()[:_MAX_HOLDERS]:
                yield context, {names.LINK: names.LINK_POOL_HELD_BY}

    # Child spans.

    def _make_children(self, exchange: Exchange) -> None:
        waited = exchange.time_pool
        got = exchange.send_at
        parent: Context | None = None
        if (
            self._all
            or exchange.dial is not None
            or not got
            or (waited is not None and waited >= attributes.NOTEWORTHY)
        ):
            parent = self._getconn(exchange, got or exchange.over_at)
        if exchange.dial is not None:
            self._dial(exchange, parent)
        if self._all:
            for name, started, ended in (
                (names.SPAN_SEND, exchange.send_at, exchange.wait_at or exchange.headers_at or exchange.over_at),
                (names.SPAN_WAIT, exchange.wait_at, exchange.headers_at or exchange.over_at),
            ):
                if started:
                    self._child(exchange, name, started, ended, {})
            if exchange.outcome is not None:
                self._child(
                    exchange, names.SPAN_RECEIVE, exchange.headers_at, exchange.over_at, attributes.body(exchange)
                )

    def _getconn(self, exchange: Exchange, ended: int) -> Context:
        described = attributes.getconn(exchange)
        error = described.get(names.ERROR_TYPE)
        return self._child(exchange, names.SPAN_GETCONN, exchange.started, ended, described, error)

    def _dial(self, exchange: Exchange, parent: Context | None) -> None:
        dial = exchange.dial
        if dial is None:
            return
        for attempt in dial.attempts:
            for lookup in attempt.lookups:
                described: dict[str, Any] = {names.DNS_QUESTION_NAME: lookup.name}
                if lookup.answers:
                    described[names.DNS_ANSWERS] = lookup.answers
                self._child(exchange, names.SPAN_DNS, lookup.started, lookup.ended, described, lookup.error, parent)
            if not attempt.resolving:
                described = attributes.connect(attempt)
                started = attempt.connect_started
                self._child(exchange, names.SPAN_CONNECT, started, attempt.ended, described, attempt.error, parent)
        if dial.proxy is not None:
            self._step(exchange, names.SPAN_PROXY, dial.proxy, attributes.proxy(dial.proxy), parent)
        for step in dial.handshakes:
            self._step(exchange, names.SPAN_TLS, step, attributes.tls(step), parent)

    def _step(
        self, exchange: Exchange, name: str, step: Step, described: dict[str, Any], parent: Context | None
    ) -> None:
        self._child(exchange, name, step.started, step.ended, described, step.error, parent)

    def _child(
        self,
        exchange: Exchange,
        name: str,
        started: int,
        ended: int,
        described: dict[str, Any],
        error: str | None = None,
        parent: Context | None = None,
    ) -> Context:
        # Answers the context of its own children.
        if error is not None:
            described[names.ERROR_TYPE] = error
        over = exchange.wall + (ended or exchange.over_at)
        start = partial(
            self._tracer.start_span,
            context=parent if parent is not None else trace.set_span_in_context(exchange.span),
            kind=SpanKind.INTERNAL,
            attributes=described,
            start_time=exchange.wall + started,
        )
        made: list[Span] = []
        try:
            # Started and noted in one step: a signal handler of the application's that raised in between would
            # leave it open for good.
            made.extend(map(start, (name,)))
            if error is not None:
                made[0].set_status(Status(StatusCode.ERROR))
            within = trace.set_span_in_context(made[0])
        finally:
            for span in made:
                try:
                    span.end(over)
                except BaseException:  # noqa: PERF203 - of one
                    # Unless it was its processor that failed, once more: nobody else will.
                    if span.is_recording():
                        span.end(over)
                    raise
        return within
