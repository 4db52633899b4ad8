# A symptom has more than one cause. So each verdict lists the other causes of what
# it looks at, and for each the recorded fact that excludes it, and the one that
# shows that it is that cause instead:
#
#   - a request of which a rival is shown is none of this verdict's;
#   - where every rival is excluded, by facts, the finding is certain;
#   - else it is likely or possible, and says which rivals are left, and what would decide.
#
# This table is what is tested, what is printed with a finding, and what docs/report.md
# shows. tests/report/test_rivals.py plays each rival, and holds the verdict to it.

"""What each verdict asks of a request, and what else might look so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...telemetry import names
from ..facts import (
    BROKEN,
    CONNECT_TIMEOUTS,
    DISCONNECTED,
    MOST_OF_HEAD,
    NO_FILES,
    READ_TIMEOUTS,
    UNREADABLE,
    WRITE_TIMEOUTS,
    answered_badly,
    broke,
    cause,
    closed_by,
    fallback,
    first_timed_out,
    http2,
    proxy,
    sends_no_body,
    stood_still,
    stood_still_at_most,
    timed_out,
)
from ..findings import Severity, Sure, Thresholds
from ..rows import Row
from .conditions import (
    Condition,
    above,
    absent,
    at_least,
    below,
    both,
    either,
    is_,
    no,
    present,
    that,
    took,
    true,
)
from .seen_there import OUTSIDE, QUICK_NETWORK, QUICK_THERE, REACHED, SAME, SLOW_THERE, TIMED_OUT_THERE


@dataclass(frozen=True)
class Together:
    """What is asked of several requests, beside what is asked of each.

    Args:
        said: the words for it, with the thresholds in force, from the conjunction on.
        holds: whether it is so; of what, depends on the verdict.
    """

    said: Callable[[Thresholds], str]
    holds: Callable[..., bool]


@dataclass(frozen=True)
class Rival:
    """Another cause of the same symptom.

    Args:
        cause: what it is.
        excluded: the recorded fact that it is not so.
        shown: the recorded fact that it is so; None where nothing but the absence of `excluded` can tell.
    """

    cause: str
    excluded: Condition
    shown: Condition | None = None


@dataclass(frozen=True)
class Definition:
    """A verdict.

    Args:
        name: as in ``--fail-on``.
        stories: those it answers, by number.
        severity: of its findings; of those that may be worse, the least.
        asks: what has to be so of a request.
        because: why it is so where no rival is left.
        rivals: other causes of what is asked for.
        number: the threshold for how many such requests make a finding; empty if one does.
        otherwise: how sure it is where a rival is left.
        within: what is counted together for *number*.
        together: what is asked of several.
        proof: what the server can say of it: then it is so, and no rival is left.
        refuted: what the server can say of it: then it is not so. Where no server says anything neither counts.
    """

    name: str
    stories: tuple[int, ...]
    severity: Severity
    asks: tuple[Condition, ...]
    because: str
    rivals: tuple[Rival, ...] = ()
    number: str = ""
    otherwise: Sure = Sure.LIKELY
    within: str = "of one server"
    together: Together | None = None
    proof: Condition | None = None
    refuted: Condition | None = None

    def holds(self, row: Row, limits: Thresholds) -> bool:
        """Whether *row* is a case of it: all that is asked for is so, and no rival is shown."""
        if not all(one.holds(row, limits) for one in self.asks):
            return False
        if self.refuted is not None and self.refuted.holds(row, limits):
            return False
        return self.proven(row, limits) or not any(
            rival.shown is not None and rival.shown.holds(row, limits) for rival in self.rivals
        )

    def proven(self, row: Row, limits: Thresholds) -> bool:
        """Whether the server's word for it is there."""
        return self.proof is not None and self.proof.holds(row, limits)

    def left(self, row: Row, limits: Thresholds) -> list[Rival]:
        """The rivals that *row*'s facts do not exclude."""
        if self.proven(row, limits):
            return []
        return [rival for rival in self.rivals if not rival.excluded.holds(row, limits)]

    def criterion(self, limits: Thresholds) -> str:
        """What is asked for, in words, with the thresholds in force."""
        said = ", ".join(one.said(limits) for one in self.asks)
        shown = [rival.shown.said(limits) for rival in self.rivals if rival.shown is not None]
        said += f"; not {' and not '.join(f'({one})' for one in shown)}" if shown else ""
        if self.together is not None:
            said += f"; {self.together.said(limits)}"
        return (
            f"{said}; at least {getattr(limits, self.number):,} {self.within} ({self.number})" if self.number else said
        )


#: Seconds between an attempt and the next, in one span and in none, and attempts of one call at most.
PAUSE: Final = 60.0
PAUSE_ALONE: Final = 10.0
ATTEMPTS: Final = 10
#: Seconds between ends that are one instant, and how many ends that takes.
INSTANT: Final = 0.02
MANY: Final = 3
#: One in how many is no chance any more.
CHANCE: Final = 20

_FAILED: Final = that("the request failed, and not only by its status", broke)
_TIMED_OUT: Final = that("error.type is a timeout's", timed_out)
_WRITE_TIMED_OUT: Final = both(is_(names.FAILED_PHASE, "send"), is_(names.ERROR_TYPE, *WRITE_TIMEOUTS))
_BEFORE: Final = is_(names.FAILED_PHASE, "send", "wait")
_HTTP2: Final = that("the protocol is HTTP/2", http2)
_NO_FILES: Final = that(
    f"{names.FAILED_CAUSE}, or error.type of the lookup or connect, is EMFILE, ENFILE or too_many_open_files",
    lambda row: cause(row) in NO_FILES,
)
_APPLICATION: Final = that(
    f"{names.BODY_CLOSED_BY} is an exception other than a cancellation, and the body itself had not failed",
    lambda row: closed_by(row) is not None,
)
_CLOSED_BY_US: Final = is_(names.CONN_CLOSE_REASON, "client_closed")
_PROXIED: Final = that("the address dialled is a proxy's", lambda row: proxy(row) is not None)
_DISCONNECTED: Final = is_(names.ERROR_TYPE, *DISCONNECTED)
_LIVED_ON: Final = absent(names.CONN_CLOSE_REASON)
_GOAWAY: Final = is_(names.CONN_CLOSE_REASON, "goaway")
_CODE: Final = is_(
    names.FAILED_CAUSE, "INTERNAL_ERROR", "REFUSED_STREAM", "CANCEL", "ENHANCE_YOUR_CALM", "STREAM_CLOSED", "PROTOCOL_ERROR",
    "FLOW_CONTROL_ERROR", "HTTP_1_1_REQUIRED", "NO_ERROR",
)  # fmt: skip
_ACKNOWLEDGED: Final = is_(names.TCP_UNACKED, 0)
_NOT_DELIVERED: Final = both(above(names.TCP_UNACKED, 0), above(names.TCP_RETRANSMITS, 0))
#: Seconds for which an acknowledgement may be put off (RFC 9293, section 3.8.6.3): until then its absence says nothing.
_PUT_OFF: Final = 0.5
_UPLOADING: Final = both(
    above(names.TCP_UNACKED, 0),
    is_(names.TCP_RETRANSMITS, 0),
    that(
        f"{names.TIME_SEND} and {names.TIME_WAIT} together >= {_PUT_OFF} s",
        lambda row: row.phases.get("send", 0.0) + row.phases.get("wait", 0.0) >= _PUT_OFF,
    ),
)


def _still(row: Row, limits: Thresholds) -> bool:
    found = stood_still(row)
    longest = max(row.phases.values(), default=row.duration)
    # A moment's delay did not make a long wait.
    return found is not None and found >= limits.stall and found >= longest / 4


def _ran(row: Row, limits: Thresholds) -> bool:
    found = stood_still_at_most(row)
    return found is not None and found < limits.stall


_STOOD_STILL: Final = Condition(
    lambda limits: (
        f"{names.STALLED}, or what exceeds {names.TIMEOUT}, >= {limits.stall} s (stall), a quarter of the longest phase or more"
    ),
    _still,
)
RAN: Final = Condition(
    lambda limits: f"{names.STALLED}, or what exceeds {names.TIMEOUT}, is known and < {limits.stall} s (stall)", _ran
)


def _crossing(row: Row, limits: Thresholds) -> bool | None:
    # The close answered the request if it came later than a round trip after it.
    wait = row.phases.get("wait", 0.0 if row.attributes.get(names.FAILED_PHASE) == "send" else None)
    if wait is None:
        return None
    rtt = row.attributes.get(names.TCP_RTT)
    return wait <= max(limits.crossed, 2.0 * float(rtt) if rtt is not None else 0.0)


_CROSSED: Final = Condition(
    lambda limits: f"closed within {limits.crossed} s (crossed), or two of {names.TCP_RTT}, of the request written",
    lambda row, limits: _crossing(row, limits) is True,
)
_AT_WORK: Final = Condition(
    lambda limits: (
        f"closed later than {limits.crossed} s (crossed), and two of {names.TCP_RTT}, after the request was written"
    ),
    lambda row, limits: _crossing(row, limits) is False,
)

STALL: Final = Rival("this process stood still: a blocked event loop, or no CPU", RAN, _STOOD_STILL)
_FILES: Final = Rival(
    "this process had no file descriptor left",
    either(_TIMED_OUT, that("the cause is known", lambda row: cause(row) not in (None, "OSError"))),
    _NO_FILES,
)
#: Of failures that a timeout did not bring about a stall is no cause.
_TIMER: Final = Rival(STALL.cause, either(RAN, no(_TIMED_OUT)), _STOOD_STILL)
_BY_US: Final = Rival("this program closed the client", no(_CLOSED_BY_US), _CLOSED_BY_US)
_MALFORMED: Final = Rival(
    "an answer that cannot be parsed",
    either(is_(names.RESPONSE_BYTES_RECEIVED, 0), is_(names.ERROR_TYPE, *BROKEN)),
    both(above(names.RESPONSE_BYTES_RECEIVED, 0), is_(names.ERROR_TYPE, "RemoteProtocolError")),
)
_STREAM: Final = Rival(
    "the server reset one HTTP/2 stream",
    present(names.CONN_CLOSE_REASON),
    both(_HTTP2, _LIVED_ON, is_(names.ERROR_TYPE, "RemoteProtocolError")),
)
_RETIRED: Final = Rival("the server retired the connection (GOAWAY)", no(_GOAWAY), _GOAWAY)
_DEAD: Final = Rival(
    "what was written was never delivered: a dead connection, a firewall or NAT that forgot it",
    _ACKNOWLEDGED,
    _NOT_DELIVERED,
)
_UPLOAD: Final = Rival(
    "the request was still on its way up", either(_ACKNOWLEDGED, that("no body was sent", sends_no_body)), _UPLOADING
)
#: A part of a file, in httpx. If more was left as the last part was written, then nobody waited for that to be made.
_PART: Final = 65_536
SLOW_BODY: Final = Rival("what makes the body (a generator, a file) is slow", above(names.TCP_UNACKED, _PART))
#: With TLS 1.3 a server refuses a client after the handshake, for this: it closes instead of an answer, or sends an alert.
_ALERT: Final = that(f"{names.FAILED_CAUSE} is an alert of TLS", lambda row: "ALERT" in str(cause(row) or ""))
REFUSED_IN_TLS: Final = Rival(
    "the server refused in TLS, as for want of a client certificate",
    either(
        that("the scheme is http", lambda row: not row.origin.startswith("https:")),
        true(names.CONN_REUSED),
        _AT_WORK,
    ),
    _ALERT,
)
#: A server that keeps no connection, and does not say so, looks so with the second request on each.
CLOSES_UNSAID: Final = Rival(
    "the server closes connections after an answer, and did not say so (Connection: close)",
    either(absent(names.CONN_IDLE), _AT_WORK, above(names.CONN_REQUESTS, 1)),
)
#: Seconds after which a server gives up a client that does not read, at the least.
_PATIENCE: Final = 1.0
SLOW_READER: Final = Rival(
    "this program did not read for so long that the server gave up",
    either(
        that(
            f"{names.BODY_READ_WAIT} is half of {names.TIME_RECEIVE} or more, or they differ by less than {_PATIENCE} s",
            lambda row: (
                row.phases.get("receive", 0.0) - row.attributes.get(names.BODY_READ_WAIT, 0.0)
                < max(_PATIENCE, row.phases.get("receive", 0.0) / 2)
            ),
        ),
        _TIMED_OUT,
    ),
)
_EXCEPTION: Final = Rival("an exception of the application's ended it", absent(names.BODY_CLOSED_BY), _APPLICATION)
_LEFT_WHOLE: Final = Rival(
    "the body was complete, and what it says could not be used (decoded, parsed)",
    either(
        present(names.BODY_CLOSED_BY),
        that(
            f"{names.BODY_BYTES_READ} is not all of {names.HTTP_RESPONSE_BODY_SIZE}",
            lambda row: (
                not row.attributes.get(names.BODY_BYTES_READ)
                or row.attributes.get(names.BODY_BYTES_READ) != row.attributes.get(names.HTTP_RESPONSE_BODY_SIZE)
            ),
        ),
    ),
)


_ANSWERED_LATE: Final = either(
    no(_FAILED), both(is_(names.FAILED_PHASE, "wait"), is_(names.ERROR_TYPE, *READ_TIMEOUTS))
)


def _dial_timeout(phase: str, *errors: str) -> Definition:
    rivals = [STALL]
    if phase in ("dns", "connect"):
        rivals.append(Rival("it was the proxy that was dialled", no(_PROXIED), _PROXIED))
    return Definition(
        f"{phase}_timeout",
        (8,),
        Severity.FAILED,
        (is_(names.FAILED_PHASE, phase), is_(names.ERROR_TYPE, *errors)),
        "the phase was under way when the timeout struck, and it struck when it was due",
        tuple(rivals),
    )


FAILURES: Final = (
    Definition(
        "connection_inherited", (24,), Severity.FAILED, (true(names.CONN_INHERITED),),
        "the connection was opened before a fork, by another process",
    ),
    Definition(
        "connection_of_other_loop", (27,), Severity.FAILED, (true(names.CONN_FOREIGN_LOOP),),
        "the connection was opened in another event loop",
    ),
    Definition(
        "client_closed_in_use", (21,), Severity.FAILED, (_FAILED, _CLOSED_BY_US),
        "this process closed the client's pool while these requests were under way",
    ),
    Definition(
        "too_many_open_files", (25,), Severity.FAILED, (_FAILED, _NO_FILES),
        "the operating system said so",
    ),
    Definition(
        "application_failed", (20,), Severity.FAILED, (_APPLICATION,),
        "that exception passed through the caller while the response was closed, and the body itself had not failed",
    ),
    Definition(
        "process_stalled", (19,), Severity.SLOW, (_STOOD_STILL,),
        "timeouts struck later than they were due, or this process was seen not to run",
        together=Together(
            lambda limits: f"or at least {MANY} timeouts on as many connections ended within {INSTANT} s of each other, whose requests had "
            f"taken {limits.stall} s (stall), and a fifth of the longest, more or less",
            lambda durations, connections, limits: len(durations) >= MANY
            and connections >= MANY
            and max(durations) - min(durations) >= max(limits.stall, max(durations) / 5),
        ),
    ),
    Definition(
        "proxy_unreachable", (31,), Severity.FAILED,
        (_FAILED, is_(names.FAILED_PHASE, "dns", "connect"), _PROXIED),
        "the address that was dialled is the proxy's, not the server's",
        (_TIMER, _FILES),
    ),
    _dial_timeout("dns", *CONNECT_TIMEOUTS),
    _dial_timeout("connect", *CONNECT_TIMEOUTS),
    _dial_timeout("proxy", *CONNECT_TIMEOUTS, *READ_TIMEOUTS),
    # urllib3's read timeout is that of the handshake, too.
    _dial_timeout("tls", *CONNECT_TIMEOUTS, *READ_TIMEOUTS),
    Definition(
        "http2_goaway", (16,), Severity.FAILED, (_FAILED, _GOAWAY),
        "the server's GOAWAY was read",
    ),
    Definition(
        "http2_stream_reset", (16,), Severity.FAILED,
        (_FAILED, _HTTP2, is_(names.ERROR_TYPE, "RemoteProtocolError"), _LIVED_ON),
        "the server sent that error code for the stream, and the connection lived on",
        (Rival("something in the answer that HTTP/2 does not allow", _CODE),),
    ),
    Definition(
        "malformed_response", (17,), Severity.FAILED,
        (
            _FAILED, is_(names.FAILED_PHASE, "wait"),
            either(
                both(is_(names.ERROR_TYPE, "RemoteProtocolError"), above(names.RESPONSE_BYTES_RECEIVED, 0)),
                is_(names.ERROR_TYPE, *UNREADABLE),
            ),
        ),
        "bytes of an answer had come, and could not be parsed",
        (
            _BY_US, _STREAM, _RETIRED,
            # httpcore raises the same for both.
            Rival(
                "the connection ended in the middle of a head that was in order",
                either(is_(names.ERROR_TYPE, *UNREADABLE), above(names.RESPONSE_BYTES_RECEIVED, MOST_OF_HEAD)),
            ),
        ),
    ),
    Definition(
        "upload_stalled", (22,), Severity.FAILED,
        (
            _FAILED,
            either(
                _WRITE_TIMED_OUT,
                both(is_(names.FAILED_PHASE, "wait"), is_(names.ERROR_TYPE, *READ_TIMEOUTS), _UPLOADING),
            ),
        ),
        "the kernel had bytes of the request that the other side had not acknowledged",
        (
            # The kernel goes on sending while the process does not run: what it still has the other side did not take.
            Rival(STALL.cause, either(RAN, both(_WRITE_TIMED_OUT, above(names.TCP_UNACKED, 0))),
                  _STOOD_STILL),
            Rival("the other side is gone, or does not read", above(names.TCP_UNACKED, 0)),
        ),
    ),
    Definition(
        "upload_slow", (22,), Severity.SLOW,
        (
            Condition(
                lambda limits: f"{names.TIME_SEND} and {names.TIME_WAIT} together >= {limits.wait} s (wait), the former half of it or more",
                lambda row, limits: row.phases.get("send", 0.0) + row.phases.get("wait", 0.0) >= limits.wait
                and row.phases.get("send", 0.0) >= row.phases.get("wait", 0.0),
            ),
            no(_FAILED),
        ),
        "the time from the first byte of the request written to the last was measured, this process ran then, and the kernel had more "
        "to send than the last part",
        (STALL, SLOW_BODY),
    ),
    Definition(
        "connection_dead", (18,), Severity.FAILED,
        (
            _FAILED, is_(names.FAILED_PHASE, "wait"), is_(names.ERROR_TYPE, *READ_TIMEOUTS),
            no(above(names.RESPONSE_BYTES_RECEIVED, 0)),
        ),
        "the kernel sent the request again and again, and the other side acknowledged nothing",
        (
            # What acknowledged it need not be the server: load balancers and proxies do, and forget the way on.
            Rival("the server had the request, and was slow after the pause (asleep, a cold start)", _NOT_DELIVERED),
            Rival("the request was still on its way up", either(_NOT_DELIVERED, that("no body was sent", sends_no_body)),
                  _UPLOADING),
            STALL,
        ),
        together=Together(
            lambda limits: f"and {names.TCP_UNACKED} > 0 and {names.TCP_RETRANSMITS} > 0, or at least 2 had been idle for {limits.stale_idle} s "
            "(stale_idle) or longer, and for longer than any that went well, and these are more than 4 times as many as other "
            f"timeouts, and so many that by chance the oldest would be those in at most 1 of {CHANCE} cases",
            lambda old, well, young: old > 1 and well > 4 * young and math.comb(old + well, old) >= CHANCE,
        ),
        refuted=REACHED,
    ),
    Definition(
        "time_between", (46,), Severity.SLOW, (_ANSWERED_LATE, OUTSIDE, QUICK_THERE),
        "the time from the request written to the headers received exceeds all that the server's span took",
        (
            STALL,
            Rival("the network on the way, there or back", QUICK_NETWORK),
            Rival("what stands between: a proxy, a load balancer", SAME),
            Rival(
                "the server, before or after its span: its accept backlog, threads or an event loop that are all busy, a middleware",
                that("nothing that is recorded", lambda row: False),
            ),
        ),
    ),
    Definition(
        "server_slow", (12,), Severity.SLOW,
        (
            either(
                took("wait", "wait"),
                both(is_(names.FAILED_PHASE, "wait"), is_(names.ERROR_TYPE, *READ_TIMEOUTS)),
            ),
        ),
        "the other side's kernel had acknowledged the whole request, and this process was there to read the answer",
        (_DEAD, _UPLOAD, STALL), proof=SLOW_THERE, refuted=QUICK_THERE,
    ),
    Definition(
        "stale_keepalive", (6,), Severity.FAILED,
        (_FAILED, _BEFORE, _DISCONNECTED, at_least(names.CONN_IDLE, "stale_idle")),
        "no request went well on a connection that had been idle for longer, and the close crossed the request",
        (
            _MALFORMED,
            _STREAM,
            _RETIRED,
            _BY_US,
            Rival("the server ended while it worked on the request: killed, or out of time", _CROSSED, _AT_WORK),
        ),
        proof=TIMED_OUT_THERE, refuted=REACHED,
    ),
    Definition(
        "closed_without_answer", (32,), Severity.FAILED, (_FAILED, _BEFORE, _DISCONNECTED),
        "the connection was closed when the server had had the request for longer than a round trip",
        (
            _MALFORMED,
            _STREAM,
            _RETIRED,
            _BY_US,
            Rival(
                "the server had closed the idle connection before the request came", either(absent(names.CONN_IDLE), _AT_WORK,
                below(names.CONN_IDLE, "stale_idle")),
            ),
            CLOSES_UNSAID,
            REFUSED_IN_TLS,
        ),
        proof=REACHED, refuted=TIMED_OUT_THERE,
    ),
    Definition(
        "body_failed", (14,), Severity.FAILED, (is_(names.BODY_OUTCOME, "failed"),),
        "reading the body raised that error",
        (
            _BY_US,
            _TIMER,
            Rival(_STREAM.cause, either(present(names.CONN_CLOSE_REASON), no(_HTTP2)), _STREAM.shown),
            _RETIRED,
            SLOW_READER,
        ),
    ),
    Definition(
        "failed", (26,), Severity.FAILED, (_FAILED,),
        "the request ended with that error",
    ),
)  # fmt: skip
"""What a failed request may be a case of: the first that holds is its verdict."""

OTHERS: Final = (
    Definition(
        "error_statuses", (26,), Severity.FAILED, (that("the response's status is 5xx or 429", answered_badly),),
        "the server answered so",
        (
            Rival(
                "a gateway or a proxy answered in the server's place",
                that("the status is neither 502, 503 nor 504", lambda row: row.status not in (502, 503, 504)),
            ),
        ),
        number="statuses",
    ),
    Definition(
        "call_repeated", (29,), Severity.FAILED,
        (that("its URL is known", lambda row: bool(row.target)),),
        "they have the same parent span, and each began after the one before had failed",
        (
            Rival(
                "separate calls that happen to follow each other",
                that("they have a parent span in common", lambda row: bool(row.parent_id)),
            ),
        ),
        otherwise=Sure.POSSIBLE,
        together=Together(
            lambda limits: "and each was made to the same URL and in the same span as the one before (or in none), which had failed or "
            f"got 408, 409, 429 or 5xx at most {PAUSE:g} s before ({PAUSE_ALONE:g} s in none, and each time later than the time before); at most {ATTEMPTS} in all",
            lambda pause, parent: -0.001 <= pause <= (PAUSE if parent else PAUSE_ALONE),
        ),
    ),
    Definition(
        "body_not_read", (1, 2), Severity.WASTE, (is_(names.CONN_CLOSE_REASON, "body_not_read"),),
        "each of these connections was closed together with a response whose end had not been read, and no exception "
        "passed through the caller",
        (_EXCEPTION, _LEFT_WHOLE), number="lost_connections",
    ),
    Definition(
        "pool_saturated", (3,), Severity.SLOW,
        (
            took("pool", "pool_wait"),
            Condition(
                lambda limits: f"{names.POOL_CONNECTIONS} has reached {names.POOL_LIMIT}",
                lambda row, limits: names.POOL_LIMIT in row.attributes
                and row.attributes.get(names.POOL_CONNECTIONS, 0) >= row.attributes[names.POOL_LIMIT],
            ),
        ),
        "every connection that the pool may open was in use when the wait began",
        (
            Rival(STALL.cause, no(_STOOD_STILL), _STOOD_STILL),
        ),
    ),
    Definition(
        "responses_never_closed", (4,), Severity.WASTE, (is_(names.BODY_OUTCOME, "never_closed"),),
        "these responses were collected, or the process ended, without any of them having been closed",
        number="leaked_responses", within="in all",
    ),
    Definition(
        "http2_stream_limit", (28,), Severity.SLOW, (at_least(names.TIME_STREAM, "pool_wait"),),
        "the connection carried as many streams as the server allows when the wait began",
    ),
    Definition(
        "dns_slow", (7,), Severity.SLOW,
        (
            took("dns", "dns"),
            no(both(is_(names.FAILED_PHASE, "dns"), either(is_(names.ERROR_TYPE, *CONNECT_TIMEOUTS), absent(names.ERROR_TYPE)))),
        ),
        "the lookup was timed where the client made it",
        (Rival(STALL.cause, RAN, _STOOD_STILL),),
    ),
    Definition(
        "client_per_request", (9,), Severity.WASTE,
        (is_(names.CONN_OPEN_REASON, "new_client"),),
        "each of these connections was the first of a pool, while another pool had connected there before",
        number="clients", within="clients of one process for one server within a minute, counting the first",
        together=Together(
            lambda limits: f"and at most {limits.client_requests} requests on each such connection (client_requests)",
            lambda requests, limits: requests <= limits.client_requests,
        ),
    ),
    Definition(
        "address_fallback", (10,), Severity.SLOW,
        (
            Condition(
                lambda limits: f"an http.connect of {limits.fallback} s (fallback) or longer ended at an address of another family than "
                "the first of dns.answers",
                lambda row, limits: fallback(row, limits.fallback) is not None,
            ),
        ),
        "the resolver named that address first, and another family's took over after a while",
        (
            Rival(
                "the address that won was slow itself, and the first one refused at once",
                that("an http.connect to the first address ran into a timeout", first_timed_out),
            ),
        ),
    ),
    Definition(
        "tls_slow", (11,), Severity.SLOW,
        (took("tls", "tls"), no(is_(names.FAILED_PHASE, "dns", "connect", "proxy", "tls"))),
        "the handshake was timed where the client made it",
        (Rival(STALL.cause, RAN, _STOOD_STILL),),
    ),
    Definition(
        "body_slow_server", (12, 30), Severity.SLOW,
        (
            took("receive", "receive"),
            that(f"{names.BODY_READ_WAIT} is half of it or more",
                 lambda row: row.attributes.get(names.BODY_READ_WAIT, -1.0) * 2 >= row.phases["receive"]),
            no(is_(names.BODY_OUTCOME, "never_closed")),
            either(at_least(names.BODY_MAX_GAP, "gap"), absent(names.BODY_MAX_GAP), above(names.HTTP_RESPONSE_BODY_SIZE, 2**20)),
        ),
        "the time within reads and the time between them were told apart, and it was a body of data, not a stream of events",
        (
            Rival("a stream of events that is meant to last, and had nothing to send", above(names.HTTP_RESPONSE_BODY_SIZE, 2**20)),
            Rival(STALL.cause, no(_STOOD_STILL), _STOOD_STILL),
        ),
    ),
    Definition(
        "body_slow_consumer", (12,), Severity.SLOW,
        (
            took("receive", "receive"),
            that(f"{names.BODY_READ_WAIT} is less than half of it",
                 lambda row: 0 <= row.attributes.get(names.BODY_READ_WAIT, -1.0) * 2 < row.phases["receive"]),
            no(is_(names.BODY_OUTCOME, "never_closed")),
        ),
        "the time within reads and the time between them were told apart",
    ),
    Definition(
        "cancelled_in", (13,), Severity.SLOW,
        (
            that("the request was cancelled", lambda row: row.cancelled),
        ),
        "the cancellation passed through the request in that phase",
    ),
    Definition(
        "keepalive_limit_too_low", (5,), Severity.WASTE, (is_(names.CONN_OPEN_REASON, "keepalive_limit"),),
        "the pool was seen to drop idle connections over that limit",
        number="keepalive_limit", within="in all",
    ),
    Definition(
        "server_closes_idle", (15,), Severity.WASTE, (is_(names.CONN_OPEN_REASON, "server_closed"),),
        "the idle connection's socket had been closed by the other side", number="server_closed",
    ),
)  # fmt: skip
