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
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from ..clients import pool_timeouts, scopes
from ..config import Config
from ..core.diagnosis import diagnoses, slow
from ..core.evidence import Evidence
from ..core.ledger import BLAMED, Loss
from ..core.timeline import FAILED, NEVER_CLOSED, POOL, Exchange, Step
from ..guard import Guard
from . import attributes, names, sentences
from .units import readable_seconds

_logger = logging.getLogger("otel_httptrace")

# Looked up once, as every request asks for it: see core/ledger.py.
_CLIENT: Final = SpanKind.CLIENT

# Where the API keeps the current span, by its own word. Its get_current_span()
# also asks whether that is an instance of an abstract class, which costs as much
# as two attributes; what is asked of the span here says more.
CURRENT_SPAN: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))

#: The instrumentation scopes of the spans that we annotate, one for each request sent; and those whose spans may be of
#: several, one after the other. Those may have scopes of their own for parts of what they instrument.
_SCOPES_OF_ONE: Final = frozenset(scopes(several=False))
_SCOPES_OF_SEVERAL: Final = frozenset(scopes(several=True))
_PARTS: Final = tuple(f"{scope}." for scope in _SCOPES_OF_SEVERAL)

#: What the exceptions are called that tell that the pool had no connection to give in time.
_POOL_TIMEOUTS: Final = pool_timeouts()

#: What suppresses instrumentation: all, all by the word from before there was an API for it, and that of HTTP.
SUPPRESSED: Final = (
    _SUPPRESS_INSTRUMENTATION_KEY,
    "suppress_instrumentation",
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
)
_ALL, _ALL_FORMERLY, _ = SUPPRESSED

#: Set on a span that an exchange has claimed: the next one is another exchange's.
_CLAIMED: Final = "_otel_httptrace_claimed"
_MAX_HOLDERS: Final = 8

#: Spans of these kinds are of no request to somebody else.
_NO_REQUEST: Final = (SpanKind.INTERNAL, SpanKind.SERVER)


def suppressed() -> bool:
    """Whether instrumentation is suppressed in the current context."""
    context = context_api.get_current()
    # Read as a mapping: get_value would fetch the current context for each key.
    return bool(context) and any(map(context.get, SUPPRESSED))


def upstreams_own(exchange: Exchange, context: Context) -> bool:
    """Whether it was upstream that has suppressed instrumentation in *context*, below the span that it made."""
    if exchange.below is None:
        return False
    return context.get(CURRENT_SPAN) is exchange.below and not suppresses_all(context)


def _unsampled() -> Any:
    """The current span, if it belongs to a trace that is not recorded; else None.

    Such a one does not say who made it. Whoever suppresses HTTP instrumentation there need not be upstream: then a
    request is counted that was not to be.
    """
    span: Any = context_api.get_current().get(CURRENT_SPAN)
    try:
        return span if span.get_span_context().is_valid and not span.is_recording() else None
    except AttributeError:
        return None


def suppresses_all(context: Context) -> bool:
    """Whether all instrumentation is suppressed in *context*."""
    return bool(context.get(_ALL) or context.get(_ALL_FORMERLY))


#: Nanoseconds that a thread may take to begin, on a busy machine.
_QUEUED: Final = 100_000_000


class Several:
    """Of a request span that one exchange after the other may claim: the newest tells on it, those before on children.

    Which is the newest is known only when upstream ends the span. So until then nothing is said on it.
    """

    __slots__ = ("error", "exchange", "over", "sent", "span", "spans", "upstream_ended")

    def __init__(self, spans: Spans, span: Any, exchange: Exchange) -> None:
        self.spans = spans
        #: These are None once the span is over: they have the span, and the span has this, and what goes round is freed
        #: only by the garbage collector, which may be turned off.
        self.span: Any = span
        #: The newest, and how many before it had been sent.
        self.exchange: Exchange | None = exchange
        self.sent = 0
        #: It is over, by this error if it failed, and is yet to be described.
        self.over = False
        self.error: BaseException | None = None
        self.upstream_ended: int | None = None

    def upstream_ends(self, end_time: int | None = None) -> None:
        """Stands in for the span's own ``end``."""
        span, exchange = self.span, self.exchange
        try:
            self.upstream_ended = end_time if end_time is not None else time.time_ns()
            if exchange is not None and exchange.finished:
                self.spans.end_of_several(span, self, exchange)
        except BaseException:
            exchange = self.exchange
            if span is not None and span.is_recording() and (exchange is None or exchange.finished):
                span.__dict__.pop("end", None)
                span.end(end_time)
            self.spans.guard.contain("end", critical=True)


class Spans:
    """Reports exchanges on spans.

    Args:
        tracer: makes child spans.
        config: which child spans there are, and when the request span ends.
        guard: contains our faults.
    """

    def __init__(self, tracer: Tracer, config: Config, guard: Guard) -> None:
        self._tracer = tracer
        self.guard = guard
        self._children = config.spans != "none"
        self._all = config.spans == "all"
        self._at_headers = config.span_end == "headers"
        self._told = False

    def claim(self, exchange: Exchange) -> None:
        """Take the request span that is current for *exchange*, if there is one."""
        context = context_api.get_current()
        span: Any = context.get(CURRENT_SPAN)
        # Only upstream's own, never any other that happens to be current.
        try:
            scope = span.instrumentation_scope.name
            if scope not in _SCOPES_OF_ONE:
                several = scope in _SCOPES_OF_SEVERAL or scope.startswith(_PARTS)
                if not several or not self._claim_one_of_several(exchange, span, context):
                    self._unclaimed(exchange)
                return
            if span.kind is not _CLIENT:
                self._unclaimed(exchange)
                return
        except AttributeError:
            self._unclaimed(exchange)
            return
        if span.is_recording() and not getattr(span, _CLAIMED, False):
            try:
                setattr(span, _CLAIMED, True)
            except AttributeError:
                # No instance attributes: see `awaits_body`.
                pass
            exchange.span = span
            exchange.context = span.get_span_context()

    @staticmethod
    def _unclaimed(exchange: Exchange) -> None:
        # Under suppression upstream would not have made a span to claim. But some suppress it below their own.
        if suppressed():
            exchange.below = _unsampled()
            exchange.silent = not upstreams_own(exchange, context_api.get_current())

    def _claim_one_of_several(self, exchange: Exchange, span: Any, context: Context) -> bool:
        if span.kind in _NO_REQUEST:
            return False
        exchange.below = span
        # Those that make such spans suppress others below them, which is not meant for us.
        exchange.silent = (_ALL in context or _ALL_FORMERLY in context) and suppresses_all(context)
        if not span.is_recording():
            return True
        several: Several | None = getattr(span, _CLAIMED, None)
        if several is None:
            several = Several(self, span, exchange)
            try:
                setattr(span, _CLAIMED, several)
                span.end = several.upstream_ends
            except AttributeError:
                # No instance attributes: then it is said as soon as the exchange is over.
                exchange.ends_early = True
        else:
            self._take_over(several, exchange, span)
        exchange.span = span
        exchange.context = span.get_span_context()
        return True

    def _take_over(self, several: Several, exchange: Exchange, span: Any) -> None:
        before, several.exchange = several.exchange, exchange
        if before is None:
            return
        over, several.over = several.over, False
        error, several.error = several.error, None
        several.sent += bool(before.send_at)
        if several.sent:
            exchange.evidence = exchange.evidence or Evidence()
            exchange.evidence.resends += several.sent
        if over:
            self._describe_earlier(before, error, span)

    def end_of_several(self, span: Any, several: Several, exchange: Exchange) -> None:
        """End *span*, which upstream has ended, too: *exchange* is the last of *several*, and is over."""
        exchange.upstream_ended = several.upstream_ended
        if several.over:
            several.over = False
            error, several.error = several.error, None
            exchange.span = span
            try:
                self._describe(exchange, error)
            except BaseException:
                self.guard.contain("describe")
            finally:
                exchange.span = None
        several.exchange = several.span = None
        self._end(span, exchange)

    def _describe_earlier(self, exchange: Exchange, error: BaseException | None, span: Any) -> None:
        # On a span of its own, within the request span.
        if not self._children:
            return
        described = attributes.request(exchange)
        if exchange.status:
            described[names.HTTP_RESPONSE_STATUS_CODE] = exchange.status
        started = exchange.wall + exchange.started
        child = self._tracer.start_span(
            names.SPAN_EXCHANGE,
            context=trace.set_span_in_context(span),
            kind=SpanKind.INTERNAL,
            attributes=described,
            start_time=started,
        )
        exchange.span = child
        try:
            if exchange.error is not None:
                child.set_status(Status(StatusCode.ERROR))
            self._say_more(exchange, child, error)
        finally:
            exchange.span = None
            child.end(max(started, exchange.wall + exchange.over_at))

    def awaits_body(self, exchange: Exchange) -> None:
        """Keep the request span open until `end`."""
        span = exchange.span
        if span is None or exchange.below is not None:
            return
        try:
            span.end = partial(self._upstream_ends, span, exchange)
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

    def _upstream_ends(self, span: Any, exchange: Exchange, end_time: int | None = None) -> None:
        try:
            exchange.upstream_ended = end_time if end_time is not None else time.time_ns()
            if exchange.finished:
                self._end(span, exchange)
        except BaseException:
            if exchange.upstream_ended is None:
                exchange.upstream_ended = exchange.wall + exchange.headers_at
            self.guard.contain("end", critical=True)

    def end(self, exchange: Exchange) -> bool:
        """End the request span, if it was kept open; False: not before upstream has done so."""
        span = exchange.span
        if span is None:
            return True
        if exchange.below is not None:
            several: Several | None = getattr(span, _CLAIMED, None)
            if several is not None and several.exchange is exchange and several.upstream_ended is not None:
                self.end_of_several(span, several, exchange)
            return True
        if exchange.upstream_ended is not None:
            self._end(span, exchange)
            return True
        return "end" not in getattr(span, "__dict__", ())

    def _end(self, span: Any, exchange: Exchange) -> None:
        at = exchange.upstream_ended
        if not self._at_headers and exchange.over_at:
            over = exchange.wall + exchange.over_at
            # Not before upstream: a transport within its span may have read this body, and sent again.
            if at is None or over > at or exchange.outcome is NEVER_CLOSED:
                at = over
        # The one that takes the attribute away ends the span: once, in any order. Nothing is to come in between.
        try:
            del span.end
        except AttributeError:
            return
        try:
            span.end(at)
        except BaseException:
            if span.is_recording():
                # Once more, as nobody else will.
                span.end(at)
                raise
            # It is over, and what its processor made of that is not ours.
            self.guard.contain("on_end")

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """Say everything on the request span, and make its children."""
        if exchange.below is not None and not exchange.ends_early:
            several: Several = getattr(exchange.span, _CLAIMED)
            if several.exchange is exchange:
                several.over, several.error = True, error
                if several.upstream_ended is None:
                    # The rest is for upstream's end: nothing is left to `end`.
                    exchange.span = None
            else:
                self._describe_earlier(exchange, error, exchange.span)
            return
        self._describe(exchange, error)

    def _describe(self, exchange: Exchange, error: BaseException | None) -> None:
        span: Span = exchange.span
        if exchange.ends_early and exchange.below is None:
            if not exchange.failed_phase:
                self._child(
                    exchange, names.SPAN_RECEIVE, exchange.headers_at, exchange.over_at, attributes.body(exchange)
                )
            return
        told = attributes.usual(exchange)
        if told is not None:
            span.set_attributes(told)
            if self._all:
                self._say_more(exchange, span, error)
            return
        span.set_attributes(attributes.request(exchange))
        if not self._all and attributes.plain(exchange) and not slow(exchange):
            # There is nothing else to say.
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
        if exchange.dial is not None or exchange.failed_phase == POOL or exchange.lost_by is not None or self._all:
            self._link(exchange, span)
        if self._children:
            for one in diagnoses(exchange):
                span.add_event(names.EVENT_DIAGNOSIS, {names.MESSAGE: sentences.say(one)}, exchange.wall + one.at)
            self._make_children(exchange)

    # Links.

    def _link(self, exchange: Exchange, span: Span) -> None:
        for context, described in self._links(exchange):
            span.add_link(context, described)

    def _links(self, exchange: Exchange) -> Iterator[tuple[SpanContext, dict[str, Any]]]:
        conn = exchange.conn
        if conn is not None and exchange.send_at:
            loss = conn.explained_by
            if exchange.lost_by is not None:
                yield from self._lost_by(exchange.lost_by)
            elif exchange.reused:
                if self._all and conn.opened_by is not None:
                    yield conn.opened_by, {names.LINK: names.LINK_CONNECTION_OPENED_BY}
            elif loss is not None and conn.open_reason in BLAMED:
                yield from self._lost_by(loss)
        if exchange.failed_phase == POOL and exchange.error in _POOL_TIMEOUTS:
            holders = exchange.evidence.holders if exchange.evidence is not None else []
            contexts = [holder.context for holder in holders if holder.context is not None]
            for context in contexts[:_MAX_HOLDERS]:
                yield context, {names.LINK: names.LINK_POOL_HELD_BY}

    @staticmethod
    def _lost_by(loss: Loss) -> Iterator[tuple[SpanContext, dict[str, Any]]]:
        if loss.context is not None:
            described = {names.LINK: names.LINK_CONNECTION_LOST_BY, names.CONN_CLOSE_REASON: loss.reason.value}
            if loss.closed_at is not None:
                described[names.BODY_CLOSED_AT] = loss.closed_at
            yield loss.context, described

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
                if lookup.queued >= _QUEUED:
                    described[names.DNS_QUEUED] = readable_seconds(min(lookup.queued, lookup.ended - lookup.started))
                self._child(exchange, names.SPAN_DNS, lookup.started, lookup.ended, described, lookup.error, parent)
            if not attempt.resolving:
                described = attributes.connect(attempt, exchange.origin)
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
            made[0].end(over)
        finally:
            # Whatever came in between, this included: nobody else will.
            for span in made:
                if span.is_recording():
                    span.end(over)
        return within
