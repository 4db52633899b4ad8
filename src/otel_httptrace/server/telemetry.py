# Attributes go on the span as it starts, in one call: whatever happens later,
# they are on it. Only the reason of a close comes at the end, if there is one.
# Where the span's end comes before that is known, it is held: while the response
# is not over, or an exception is being handled, which may go on to close the
# connection. The server's call is about to return in both cases.
#
# Requests and connections are counted by the ledger; OpenTelemetry is asked
# only where a connection ends, and when a reader collects.

"""What the ledger knows, on the request span of a server and in metrics."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import Span, SpanKind

from ..telemetry.units import SECOND, seconds
from . import names
from .adapters.fallback import Inferred
from .ledger import Connection, Counts, Ledger, Reason, Request, Where
from .sentences import of_end, of_loss

_CONNECTION_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


def is_request_span(span: Any) -> bool:
    """Whether *span* is the one of a server's request, and is recorded."""
    return getattr(span, "kind", None) is SpanKind.SERVER and span.is_recording()


def describe(span: Span, request: Request, sentences: bool) -> None:
    """Say on the span of *request*, which is starting, what it came on, and whether in a sentence, too."""
    said: dict[str, Any] = {
        names.CONN_REUSED: request.before > 0,
        names.CONN_ID: request.conn.id,
        names.CONN_REQUESTS: request.before,
        names.CONN_AGE: seconds(request.age),
    }
    if request.idle is not None:
        said[names.CONN_IDLE] = seconds(request.idle)
    if not request.before:
        _describe_connection(said, request.conn)
    span.set_attributes(said)
    if not request.before and sentences and request.conn.after is not None:
        _say(span, of_loss(request.conn.after, request.conn.peer))


def _say(span: Span, sentence: str | None, at: int | None = None) -> None:
    if sentence is not None:
        span.add_event(names.EVENT_DIAGNOSIS, {names.MESSAGE: sentence}, at)


def _describe_connection(said: dict[str, Any], conn: Connection) -> None:
    # Said once for each connection. The peer is who is at the other end of it, whatever a forwarding header says.
    if conn.peer_port is not None:
        said[names.NETWORK_PEER_ADDRESS] = conn.peer
        said[names.NETWORK_PEER_PORT] = conn.peer_port
    lost = conn.after
    if lost is not None:
        said[names.LOST_CLOSE_REASON] = lost.reason.value
        said[names.LOST_IDLE] = seconds(lost.idle)
        said[names.LOST_REQUESTS] = lost.requests
        if lost.port is not None:
            said[names.LOST_PORT] = lost.port


def describe_inferred(span: Span, inferred: Inferred) -> None:
    """Say on a span, which is starting, what follows from the client's address and port."""
    span.set_attributes(
        {
            names.CONN_REUSED: inferred.before > 0,
            names.CONN_ID: inferred.number,
            names.CONN_REQUESTS: inferred.before,
            names.CONN_INFERRED: True,
        }
    )


def describe_end(request: Request, reason: Reason, sentences: bool) -> None:
    """Say on the span of *request* that its connection ends with it, and whether in a sentence, too."""
    if request.span is not None and request.span.is_recording():
        request.span.set_attribute(names.CONN_CLOSE_REASON, reason.value)
        if sentences:
            # Nothing on a span is later than its end, which may be held.
            _say(request.span, of_end(request, reason), request.ended_at)


def hold(request: Request, contain: Callable[[str], object]) -> None:
    """Let the span of *request* end when the request does, if the code that started it ends it before.

    An application that fails closes its connection after the instrumentation has ended the span; a WSGI server
    decides when the last part of the body is out, which ends the span, too. The end keeps its time.
    """
    span = request.span

    def end(end_time: int | None = None) -> None:
        try:
            if request.ended_at is None:
                request.ended_at = end_time if end_time is not None else time.time_ns()
            if request.settle is not None and not request.over:
                request.settle()
            if request.over and (request.released or sys.exc_info()[1] is None):
                release(request, span)
        except BaseException:
            contain("end")

    try:
        span.end = end
    except AttributeError:
        # No instance attributes: it ends when it is told to.
        pass


def release(request: Request, span: Any) -> None:
    """Make the end of *span* that was held, if it was."""
    request.released = True
    if request.ended_at is None or "end" not in getattr(span, "__dict__", ()):
        return
    # The one that takes the attribute away ends the span: once, in any order.
    try:
        del span.end
    except AttributeError:
        return
    span.end(request.ended_at)


_Said = tuple[tuple[str, Any], ...]
_Callback = Callable[[CallbackOptions], Iterable[Observation]]


class Metrics:
    """The instruments that show a ledger.

    Args:
        meter: makes the instruments.
        ledger: counts.
        former: those of an earlier start. A meter that has an instrument already ignores the callbacks
            of a second one of that name: on the same meter this ledger is shown by the earlier ones.
    """

    def __init__(self, meter: Meter, ledger: Ledger, former: Metrics | None = None) -> None:
        self._meter = meter
        self._ledger = ledger
        #: What was open at an earlier collection: a backend keeps the last value that it heard.
        self._seen: set[_Said] = set()
        self._durations = meter.create_histogram(
            names.METRIC_CONNECTION_DURATION,
            unit="s",
            description="How long connections that the server accepted were open, by why they ended.",
            explicit_bucket_boundaries_advisory=_CONNECTION_SECONDS,
        )
        known = former is not None and former._meter is meter
        self._shown: list[Metrics] = former._shown if former is not None and known else [self]
        self._shown[0] = self
        if not known:
            self._show(meter)

    def lost(self, conn: Connection, at: int) -> None:
        """A connection ended."""
        said: dict[str, Any] = dict(_on(conn.where.port))
        if conn.reason is not None:
            said[names.CONN_CLOSE_REASON] = conn.reason.value
        self._durations.record((at - conn.at) / SECOND, said)

    def _show(self, meter: Meter) -> None:
        for name, unit, description, count in (
            (names.METRIC_CONNECTIONS_OPENED, "{connection}", "Connections that the server accepted.", _opened),
            (names.METRIC_CONNECTIONS_CLOSED, "{connection}", "Connections that ended, by why.", _closed),
            (names.METRIC_REQUESTS, "{request}", "Requests, by whether their connection had carried one.", _requests),
        ):
            meter.create_observable_counter(name, [self._counted(count)], unit=unit, description=description)
        meter.create_observable_up_down_counter(
            names.METRIC_CONNECTIONS_OPEN,
            [self._open],
            unit="{connection}",
            description="Connections that are open, by whether they carry a request.",
        )

    def _counted(self, count: Callable[[Counts], Iterable[tuple[_Said, int]]]) -> _Callback:
        shown = self._shown

        def callback(options: CallbackOptions) -> Iterator[Observation]:
            for where, counts in shown[0]._ledger.counted():
                for said, number in count(counts):
                    if number:
                        yield Observation(number, dict((*_from(where), *said)))

        return callback

    def _open(self, options: CallbackOptions) -> Iterator[Observation]:
        now: Counter[_Said] = Counter()
        shown = self._shown[0]
        for (port, busy), number in shown._ledger.open().items():
            now[(*_on(port), (names.HTTP_CONNECTION_STATE, "active" if busy else "idle"))] = number
        shown._seen.update(now)
        for said in list(shown._seen):
            yield Observation(now[said], dict(said))


def _on(port: int | None) -> _Said:
    return () if port is None else ((names.SERVER_PORT, port),)


def _from(where: Where) -> _Said:
    return _on(where.port) if where.peer is None else (*_on(where.port), (names.NETWORK_PEER_ADDRESS, where.peer))


def _opened(counts: Counts) -> Iterable[tuple[_Said, int]]:
    return [((), counts.opened)]


def _closed(counts: Counts) -> Iterable[tuple[_Said, int]]:
    return [(((names.CONN_CLOSE_REASON, reason.value),), number) for reason, number in counts.closed.items()]


def _requests(counts: Counts) -> Iterable[tuple[_Said, int]]:
    return [(((names.CONN_REUSED, reused),), number) for reused, number in counts.requests.items()]
