# What tells why a request failed, waited, opened or lost something. Not every process sends it: an older version does
# not, and a kernel may not tell. It is read where it is, and typed as the rest.

"""Names of attributes that tell why, with their types."""

from __future__ import annotations

from typing import Final

FAILED_CAUSE: Final = "httptrace.failed_cause"
BYTES_RECEIVED: Final = "httptrace.response.bytes_received"
TIMEOUT: Final = "httptrace.timeout"
STALLED: Final = "httptrace.stalled"
INHERITED: Final = "httptrace.conn.inherited"
FOREIGN_LOOP: Final = "httptrace.conn.foreign_loop"
CONN_CLOSED_AT: Final = "httptrace.conn.closed_at"
CONN_CLOSED_VIA: Final = "httptrace.conn.closed_via"
BODY_CLOSED_BY: Final = "httptrace.body.closed_by"
BODY_MAX_GAP: Final = "httptrace.body.max_gap"
TIME_STREAM: Final = "httptrace.time.stream"
CONN_STREAMS: Final = "httptrace.conn.streams"
CONN_STREAM_LIMIT: Final = "httptrace.conn.stream_limit"
RESEND_COUNT: Final = "http.request.resend_count"
TCP_UNACKED: Final = "httptrace.tcp.unacked"
TCP_RETRANSMITS: Final = "httptrace.tcp.retransmits"
TCP_RTT: Final = "httptrace.tcp.rtt"
CONN_LOST_AT: Final = "httptrace.conn.lost_at"
POOL_HELD_AT: Final = "httptrace.pool.held_at"
POOL_HELD_FOR: Final = "httptrace.pool.held_for"
CLIENT_MADE_AT: Final = "httptrace.client.made_at"

#: Their types: a value of another is left out.
TYPES: Final[dict[str, type]] = {
    FAILED_CAUSE: str,
    BYTES_RECEIVED: int,
    TIMEOUT: float,
    STALLED: float,
    INHERITED: bool,
    FOREIGN_LOOP: bool,
    CONN_CLOSED_AT: str,
    CONN_CLOSED_VIA: str,
    BODY_CLOSED_BY: str,
    BODY_MAX_GAP: float,
    TIME_STREAM: float,
    CONN_STREAMS: int,
    CONN_STREAM_LIMIT: int,
    RESEND_COUNT: int,
    TCP_UNACKED: int,
    TCP_RETRANSMITS: int,
    TCP_RTT: float,
    CONN_LOST_AT: str,
    POOL_HELD_AT: str,
    POOL_HELD_FOR: float,
    CLIENT_MADE_AT: str,
}
