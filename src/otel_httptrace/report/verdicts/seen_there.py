# The other end's word. A server's span of a request says that it came to an
# application, and how long that took; durations alone are compared, for the clocks
# of two machines differ. What no server said is no fact: without its half a verdict
# is what it was.

"""Conditions on a request that its other end tells, and on what servers tell of theirs."""

from __future__ import annotations

from typing import Final

from ...server import names as served
from ...telemetry import names
from ..rows import Half, Row, Served
from .conditions import Condition, is_, that


def _half(row: Row) -> Half | None:
    return row.other.half if row.other is not None else None


REACHED: Final = that("the server has a span of this request", lambda row: _half(row) is not None)
TIMED_OUT_THERE: Final = that(
    f"the server says ({served.LOST_CLOSE_REASON}) that its keep-alive timeout closed this connection",
    lambda row: row.other is not None and row.other.lost is not None and row.other.lost.reason == "keepalive_timeout",
)


def _worked(row: Row) -> float | None:
    half = _half(row)
    return half.seconds if half is not None else None


def _slow_there(row: Row) -> bool:
    # A server's span may last until the body has been sent. The client was receiving that, so it is no part of the wait.
    worked, wait = _worked(row), row.phases.get("wait", 0.0)
    return worked is not None and worked - row.phases.get("receive", 0.0) >= _MOST * wait


#: A server that took so much of a wait was what was waited for.
_MOST: Final = 0.8
SLOW_THERE: Final = that(
    f"the server's span of it, without {names.TIME_RECEIVE}, has {_MOST:.0%} of {names.TIME_WAIT} or more", _slow_there
)
QUICK_THERE: Final = that(
    f"the server's span of it is less than half as long as {names.TIME_WAIT}",
    lambda row: (worked := _worked(row)) is not None and worked * 2 < row.phases.get("wait", 0.0),
)


def outside(row: Row) -> float:
    """Seconds of the wait for its headers that are not in the server's span, at least: that ends no sooner."""
    worked = _worked(row)
    return row.phases.get("wait", 0.0) - worked if worked is not None else 0.0


OUTSIDE: Final = Condition(
    lambda limits: (
        f"{names.TIME_WAIT} exceeds the server's span of the request by {limits.between} s (between) or more"
    ),
    lambda row, limits: outside(row) >= limits.between,
)


def _quick_network(row: Row) -> bool:
    rtt, again = row.attributes.get(names.TCP_RTT), row.attributes.get(names.TCP_RETRANSMITS)
    return rtt is not None and again == 0 and 4.0 * rtt < outside(row)


QUICK_NETWORK: Final = that(
    f"four of {names.TCP_RTT} are less than that, and {names.TCP_RETRANSMITS} is 0", _quick_network
)
SAME: Final = that(
    "client and server see the same TCP connection (network.local.port is the peer's port)",
    lambda row: row.other is not None and row.other.same is True,
)


HTTP_1_0: Final = that(
    "the request was HTTP/1.0",
    lambda row: str(row.attributes.get("network.protocol.version", row.attributes.get("http.flavor", ""))) == "1.0",
)


def _lost_reason(row: Row) -> str | None:
    return row.lost.reason if isinstance(row, Served) and row.lost is not None else None


LOST_BY_CLIENT: Final = that(
    f"{served.CONN_CLOSE_REASON} is client_left, or {served.LOST_CLOSE_REASON} is client_closed",
    lambda row: row.attributes.get(served.CONN_CLOSE_REASON) == "client_left" or _lost_reason(row) == "client_closed",
)
LOST_BY_TIMEOUT: Final = is_(served.LOST_CLOSE_REASON, "keepalive_timeout")
