# None of this is on a plain request: see core/evidence.py.

"""From evidence to attributes: pure functions."""

from __future__ import annotations

from typing import Any

from ..core.evidence import STALL, Evidence
from ..core.ledger import Reason
from ..core.timeline import WAIT, Exchange
from . import names
from .units import readable_seconds as seconds


def add(exchange: Exchange, evidence: Evidence, attributes: dict[str, Any]) -> None:
    """Put on the request span what *evidence* there is."""
    if exchange.error is not None:
        if evidence.cause is not None:
            attributes[names.FAILED_CAUSE] = evidence.cause
        if evidence.timeout is not None:
            attributes[names.TIMEOUT] = evidence.timeout
        if evidence.foreign_loop:
            attributes[names.CONN_FOREIGN_LOOP] = True
    if evidence.stalled >= STALL:
        attributes[names.STALLED] = seconds(evidence.stalled)
    if evidence.conn_closed_at is not None and exchange.close_reason == Reason.CLIENT_CLOSED.value:
        attributes[names.CONN_CLOSED_AT] = evidence.conn_closed_at
        if evidence.conn_closed_via is not None:
            attributes[names.CONN_CLOSED_VIA] = evidence.conn_closed_via
    if evidence.held_for is not None:
        attributes[names.POOL_HELD_FOR] = seconds(evidence.held_for)
        if evidence.held_at is not None:
            attributes[names.POOL_HELD_AT] = evidence.held_at
    if evidence.resends:
        attributes[names.HTTP_REQUEST_RESEND_COUNT] = evidence.resends
    _socket(evidence, attributes)
    _streams(exchange, evidence, attributes)


def _socket(evidence: Evidence, attributes: dict[str, Any]) -> None:
    said = evidence.socket
    if said is None:
        return
    if said.unacked is not None:
        attributes[names.TCP_UNACKED] = said.unacked
    if said.retransmits is not None:
        attributes[names.TCP_RETRANSMITS] = said.retransmits
    if said.rtt is not None:
        attributes[names.TCP_RTT] = seconds(said.rtt)


def _streams(exchange: Exchange, evidence: Evidence, attributes: dict[str, Any]) -> None:
    waited = exchange.time_stream
    if waited is None:
        return
    attributes[names.TIME_STREAM] = seconds(waited)
    if evidence.stream_limit is not None:
        # As many as may be were open: that is what it waited for.
        attributes[names.CONN_STREAMS] = attributes[names.CONN_STREAM_LIMIT] = evidence.stream_limit


def add_failed(exchange: Exchange, attributes: dict[str, Any]) -> None:
    """Put on the request span what is known of a request that failed before its body."""
    conn = exchange.conn
    if conn is None or not exchange.send_at:
        return
    if conn.multiplexed:
        # Upstream writes it only with a response.
        attributes[names.NETWORK_PROTOCOL_VERSION] = "2"
    if exchange.received < 0:
        return
    if exchange.failed_phase == WAIT and not (conn.multiplexed and exchange.error == "LocalProtocolError"):
        # On HTTP/2, headers that had come would have been an answer; but what h2 cannot read may be of any stream.
        attributes[names.RESPONSE_BYTES_RECEIVED] = 0 if conn.multiplexed else exchange.received
