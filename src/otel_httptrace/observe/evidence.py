# Called on the rare paths alone: something was raised, closed in use, sent again
# or slow. Whatever is asked here is asked once, at that moment, and nothing of
# what it is asked of (an exception, a frame, a socket) is kept.

"""Evidence, taken where something failed, waited or was lost."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..callsite import Place, text
from ..core.evidence import SLOW, Evidence
from ..core.ledger import Connection, Ledger
from ..core.timeline import POOL, WAIT, Attempt, Exchange, Step
from . import causes, errors, kernel, loops
from .marks import answer

#: The kernel tells when data came last in ticks, of which there are a hundred a second or more: nanoseconds.
_TICK: Final = 10_000_000
#: How many generators there may be around a body.
_MOST_GENERATORS: Final = 32
#: On HTTP/2, a wait for a stream that is shorter is not told.
_MILLISECOND: Final = 1_000_000


#: What `Timeout.which` may be, apart from the empty string.
POOL_TIMEOUT: Final = "pool"
CONNECT_TIMEOUT: Final = "connect"
READ_TIMEOUT: Final = "read"
WRITE_TIMEOUT: Final = "write"


class Timeout(NamedTuple):
    """A timeout of the client's that struck: which one, and how many seconds it was set to, if that is known."""

    which: str = ""
    seconds: float | None = None


def configured(which: str, value: Any) -> Timeout:
    """The timeout *which*, set to *value*."""
    # What is no number, and OTLP's JSON has no other, is not what struck.
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return Timeout(which, float(value) if known else None)


def of(exchange: Exchange) -> Evidence:
    """The evidence of *exchange*, which has some from now on."""
    if exchange.evidence is None:
        exchange.evidence = Evidence()
    return exchange.evidence


# What failed.


def raised(exchange: Exchange, error: BaseException, at: int, timeout: Timeout) -> None:
    """*exchange* ended in *error*, which is being handled now.

    Args:
        exchange: whose end has been noted.
        error: what came out of the pool or the body.
        at: when.
        timeout: which of the configured ones struck, if any.
    """
    conn, cancelled = exchange.conn, errors.cancelled(error)
    if conn is not None:
        if exchange.evidence is None or exchange.evidence.socket is None:
            _ask(exchange, conn.probe.stream(), at, cancelled=cancelled)
        if exchange.failed_phase == POOL and conn.multiplexed:
            waited_for_stream(exchange, conn, at)
    if cancelled:
        return
    evidence = of(exchange)
    evidence.cause = causes.cause(error)
    if conn is not None and loops.foreign(conn.loop):
        evidence.foreign_loop = True
    evidence.timeout = timeout.seconds
    if timeout.seconds is not None:
        allowed = int(timeout.seconds * 1e9)
        for waited in _waited(exchange, timeout.which, allowed, evidence.struck_at or at):
            evidence.held_up(waited - allowed)
    if exchange.failed_phase == WAIT:
        _held_up_by_kernel(exchange, evidence)
    if exchange.failed_phase == POOL and timeout.which == POOL_TIMEOUT:
        _waited_in_vain(exchange, evidence, at)


def _waited_in_vain(exchange: Exchange, evidence: Evidence, at: int) -> None:
    ledger = exchange.ledger
    evidence.holders = ledger.holders(exchange.target if ledger.limits.of_each_origin else None)
    for oldest in evidence.holders[:1]:
        evidence.held_for = at - oldest.since
        if oldest.made_at is not None:
            evidence.held_at = text(oldest.made_at.application)


def _waited(exchange: Exchange, which: str, allowed: int, at: int) -> list[int]:
    """How long the wait took that a timeout was set for, where that was one wait and when it began is known."""
    conn, dial = exchange.conn, exchange.dial
    if which == POOL_TIMEOUT and not exchange.waits_again:
        return [at - exchange.started]
    if which == READ_TIMEOUT and exchange.failed_phase == WAIT and conn is not None:
        # Of several reads each has its own; on HTTP/2 others read, too.
        return [at - exchange.wait_at] if not exchange.received and not conn.multiplexed else []
    if which == CONNECT_TIMEOUT and dial is not None:
        last = dial.last
        if isinstance(last, Step):
            return [last.ended - last.started]
        if isinstance(last, Attempt):
            return [_dialled(last, allowed)]
    return []


def _dialled(attempt: Attempt, allowed: int) -> int:
    # How long at least one timeout ran. With asyncio and trio it is for the lookup and all addresses together. With
    # sockets that block a lookup has none and each address its own: so if addresses were not tried for as long as
    # that, it was not one of theirs.
    tried = attempt.ended - attempt.connect_started
    if attempt.resolving or tried < allowed:
        return attempt.ended - attempt.started
    answers = attempt.lookups[-1].answers if attempt.lookups else ()
    return tried - allowed * (max(len(answers), 1) - 1)


def _held_up_by_kernel(exchange: Exchange, evidence: Evidence) -> None:
    # Data that came, and nobody has read it: when it came is not enough, as a connection is young, or carried another
    # answer, just before. On TLS and HTTP/2 it need not be the answer, but a session ticket or settings.
    conn, said = exchange.conn, evidence.socket
    if conn is None or conn.multiplexed or conn.origin.scheme != "http" or exchange.received or said is None:
        return
    if said.unread and said.quiet is not None:
        evidence.held_up(said.quiet - _TICK)


# The kernel's word.


def closing(exchange: Exchange, stream: Any, at: int, *, cancelled: bool) -> None:
    """The connection of *exchange* is about to be closed by the exception that ends that."""
    of(exchange).struck_at = at
    _ask(exchange, stream, at, cancelled=cancelled)


def written_slowly(exchange: Exchange, stream: Any, *, at_once: bool) -> None:
    """The request has been written, which took a second or more.

    Args:
        exchange: whose.
        stream: the network stream.
        at_once: whether it has no body, whose parts the application may take its time for.
    """
    said = answer(lambda: kernel.ask(stream))
    if said is None:
        return
    evidence = of(exchange)
    evidence.socket = said
    if at_once and said.unacked == 0 and said.sent is not None:
        # It was on its way, all of it, and the code that wrote it did not get to go on.
        evidence.held_up(min(said.sent - _TICK, exchange.wait_at - exchange.send_at))


def answered_slowly(exchange: Exchange, at: int) -> None:
    """The answer has come, a second or more after the request began to be written."""
    conn = exchange.conn
    if conn is None or not exchange.send_at or not exchange.wait_at:
        return
    # It is there also where the kernel says nothing: what took so long is no plain request.
    evidence = of(exchange)
    before = evidence.socket
    said = answer(lambda: kernel.ask(conn.probe.stream()))
    if said is None:
        return
    # What had not arrived when the request had been written says more than that all has by now.
    evidence.socket = said if before is None else said.as_of(before)
    if said.quiet is not None and said.quiet - _TICK < at - exchange.wait_at:
        # The answer was there, and nobody read it.
        evidence.held_up(said.quiet - _TICK)


def received_slowly(exchange: Exchange) -> None:
    """The body is over, a second or more after the headers, and the connection is still this exchange's."""
    conn = exchange.conn
    said = answer(lambda: kernel.ask(conn.probe.stream())) if conn is not None else None
    if said is not None:
        of(exchange).socket = said


def _ask(exchange: Exchange, stream: Any, at: int, *, cancelled: bool) -> None:
    since = exchange.headers_at or exchange.wait_at or exchange.send_at
    if not exchange.send_at or (cancelled and at - since < SLOW):
        return
    said = answer(lambda: kernel.ask(stream))
    if said is not None:
        of(exchange).socket = said


def connected(attempt: Attempt, sock: Callable[[], Any]) -> None:
    """A connect has succeeded: was it slow, the kernel knows whether its SYN had to be sent again.

    Args:
        attempt: which is over.
        sock: answers its socket.
    """
    if attempt.ended - attempt.connect_started >= SLOW:
        attempt.resent = answer(lambda: kernel.resent(sock()))


# Who closed what.


# What leaves a loop over a body drops its iterator, which a generator notices by
# a GeneratorExit before anybody handles the exception: that is on its way, and no
# code can see it. The code that has the response closes it next, and there it is seen.


def left(exchange: Exchange) -> None:
    """The body is being closed before its end: perhaps by an exception on its way through the caller."""
    error = _passing()
    if isinstance(error, GeneratorExit):
        of(exchange).awaits_close = True
    elif error is not None and (exchange.evidence is None or exchange.evidence.handled != id(error)):
        of(exchange).closed_by = errors.name_of(error)


def awaits_close(exchange: Exchange) -> bool:
    """Whether the end of an iterator has closed the body, and is still all that is to be seen."""
    evidence = exchange.evidence
    if evidence is None or not evidence.awaits_close:
        return False
    evidence.awaits_close = False
    left(exchange)
    return evidence.awaits_close


def _passing() -> BaseException | None:
    # A generator that is closed while an exception is handled has that as the context of its GeneratorExit.
    error = sys.exc_info()[1]
    for _ in range(_MOST_GENERATORS):
        if not isinstance(error, GeneratorExit) or error.__context__ is None:
            break
        error = error.__context__
    return error


def begun(exchange: Exchange) -> None:
    """The application sends a request, and will close its response by itself."""
    handled = errors.handled()
    if handled is not None:
        # By its id: it is alive as long as it is handled, and that is until the request is over, or it says nothing.
        of(exchange).handled = id(handled)


def client_closed(ledger: Ledger, place: Place | None) -> None:
    """The pool is being closed at *place*, and perhaps requests are under way."""
    if place is None:
        return
    for conn in list(ledger.live):
        for exchange in list(conn.users):
            evidence = of(exchange)
            evidence.conn_closed_at, evidence.conn_closed_via = text(place.application), text(place.library)


# HTTP/2.


def assigned(exchange: Exchange, conn: Connection, at: int) -> None:
    """The pool gave *exchange* a connection that it shares with others, or dials."""
    if len(conn.users) > 1:
        evidence = of(exchange)
        evidence.assigned_at, evidence.ahead = at, len(conn.users) - 1


def waited_for_stream(exchange: Exchange, conn: Connection, at: int) -> None:
    """*exchange* has a stream of *conn*, or has given up: perhaps the connection was at its limit until now."""
    evidence = exchange.evidence
    if evidence is None or not evidence.assigned_at:
        return
    since = max(evidence.assigned_at, conn.opened_at)
    if at - since < _MILLISECOND:
        return
    # Those before it may all have ended by now. If they were as many as may be, so many were open for as long as it
    # waited; if they were fewer, it waited for something else.
    limit = conn.probe.stream_limit()
    if limit is not None and evidence.ahead >= limit:
        evidence.stream_since, evidence.stream_limit = since, limit
        if not exchange.failed_phase:
            exchange.acquired_at = exchange.acquired_at or since


def refused(exchange: Exchange, at: int) -> None:
    """The connection could not take *exchange*, which perhaps had been sent: it will be sent again."""
    if exchange.send_at:
        evidence = of(exchange)
        evidence.resends += 1
        evidence.earlier += at - (exchange.acquired_at or exchange.send_at)
