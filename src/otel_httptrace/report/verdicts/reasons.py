# Every value of open_reason ends here or in a verdict of its own: what it cost, whose
# setting it is, and what to change. A connection that was lost by a failure, a leak or
# a cancellation is told with that, and here only where nothing tells of that.

"""Why new connections were opened: the reasons that need no more than counting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...telemetry import names
from ..findings import Severity
from .conditions import is_
from .definitions import Definition


@dataclass(frozen=True)
class Reopening:
    """One value of `httptrace.conn.open_reason`.

    Args:
        value: as it is sent.
        verdict: the verdict that tells of it; empty if it needs none.
        told: what happened to the connection that could have been used, as the end of a sentence.
        whose: whose setting or doing it is.
        advice: what to change.
        cause: verdicts of which it is a symptom: where one of them has a finding, this is not told again.
    """

    value: str
    verdict: str
    told: str
    whose: str
    advice: str
    cause: tuple[str, ...] = ()


#: The advice on `keepalive_expired` where it is known how long the server keeps idle connections.
TOO_LATE: Final = (
    "a longer keepalive_expiry wins nothing here: this server, or a proxy between, closes idle connections within {gap}; send "
    "more often, or raise that limit too"
)
REASONS: Final = (
    Reopening("first_connection", "", "there had been none to this server", "nobody's", "nothing: each server needs one"),
    Reopening(
        "all_busy", "", "all that there were carried a request", "the number of requests at a time",
        "nothing: it is what a pool is for",
    ),
    Reopening(
        "new_client", "client_per_request", "this client was new, and another had connected before", "this program's",
        "make one client at start-up and share it",
    ),
    Reopening(
        "body_not_read", "body_not_read", "the one before was closed with a response not read to its end",
        "this program's", "read the body to its end before closing",
    ),
    Reopening(
        "response_leaked", "connections_leaked", "the one before was held by a response that nobody had closed",
        "this program's", "close every response: use it in a `with` block", ("responses_never_closed",),
    ),
    Reopening(
        "keepalive_expired", "keepalive_expired", "the one before had been idle for longer than keepalive_expiry",
        "this client's setting: keepalive_expiry, 5 s unless set",
        "set keepalive_expiry (httpx.Limits) above the pause between requests, but below the server's keep-alive time "
        "(5 s for uvicorn and Node.js, 75 s for nginx, unless set)",
    ),
    Reopening(
        "keepalive_limit", "keepalive_limit_too_low", "the pool had dropped an idle one over max_keepalive_connections",
        "this client's setting: max_keepalive_connections", "raise max_keepalive_connections",
    ),
    Reopening(
        "pool_full", "pool_full", "the pool had dropped an idle one to make room for another server",
        "this client's setting: max_connections, 100 unless set",
        "raise max_connections (httpx.Limits) above the number of servers times the requests at a time to each, or use "
        "a client for each group of servers",
    ),
    Reopening(
        "server_closed", "server_closes_idle", "the server had closed the idle one", "the server's keep-alive time",
        "send more often, or accept it",
    ),
    Reopening(
        "connection_close", "connection_close", "the one before could carry one response only (Connection: close, or HTTP/1.0)",
        "the server's, or what lies between, or a header of this program's own",
        "if this program sends `Connection: close`, do not; else turn keep-alive on in the server or proxy that answers so",
    ),
    Reopening(
        "request_failed", "connections_failed", "the one before was lost with a request that failed", "the doing of what made that request fail",
        "look at the requests that failed", ("*failed",),
    ),
    Reopening(
        "request_cancelled", "connections_cancelled", "the one before was lost with a request that was cancelled",
        "the caller's: a timeout around the call, a client that went away",
        "cancel less, or give requests a timeout of their own; over HTTP/2 a cancelled request costs no connection",
        ("cancelled_in",),
    ),
    Reopening(
        "goaway", "connections_retired", "the server had retired the one before (GOAWAY), or its stream ids were used up",
        "the server's: a limit of requests or of age, or a restart",
        "raise the server's limit of requests for a connection (nginx: keepalive_requests), or accept it",
        ("http2_goaway",),
    ),
    Reopening("upgraded", "", "the one before had been handed over (101, CONNECT)", "this program's", "nothing: the connection did what it was opened for"),
    Reopening(
        "client_closed", "client_used_after_close", "the client had been closed, and was used again", "this program's",
        "close the client only when nothing uses it any more: in the shutdown of the whole program", ("client_closed_in_use",),
    ),
    Reopening("unknown", "reopened_unknown", "the end of the one before was not seen", "not known",
           "instrument before the first client is made; connections opened before that are not seen"),
)  # fmt: skip
"""Every value of `httptrace.conn.open_reason`, and what is concluded from it."""

#: Of these the verdict has words of its own.
_OWN: Final = frozenset({"client_per_request", "body_not_read", "keepalive_limit_too_low", "server_closes_idle", ""})


def _counted() -> Iterator[Definition]:
    for reason in REASONS:
        if reason.verdict not in _OWN:
            yield Definition(
                reason.verdict, (23,), Severity.WASTE, (is_(names.CONN_OPEN_REASON, reason.value),),
                f"the client saw it: {reason.told}", number="reopened", within="in all",
            )  # fmt: skip


REOPENED: Final = tuple(_counted())
COUNTED: Final = {reason.value: reason for reason in REASONS if reason.verdict not in _OWN}
