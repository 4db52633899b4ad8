# A plain keep-alive request has about ten attributes, and each is paid for on
# the request, on the wire and in the backend: what would say nothing is left
# out. What was not observed is absent, never zero.

"""From records to attributes: pure functions."""

from __future__ import annotations

from typing import Any, Final

from ..core.ledger import BLAMED, Connection, Reason, ended_by
from ..core.timeline import BODILESS, COMPLETE, POOL, SEND, WAIT, Address, Attempt, Exchange, Origin, Step, body_size
from . import evidence, names
from .proxies import set_by
from .units import NOTEWORTHY, SECOND, STEPS, Seconds, readable_seconds
from .units import seconds as _seconds

__all__ = [
    "NOTEWORTHY",
    "Attributes",
    "body",
    "body_size",
    "connect",
    "getconn",
    "plain",
    "proxy",
    "request",
    "tls",
    "usual",
]

Attributes = dict[str, Any]


def plain(exchange: Exchange) -> bool:
    """Whether it is what nearly every request is: on a connection that was there, read to its end, and kept."""
    return (
        exchange.outcome is COMPLETE
        and exchange.dial is None
        and exchange.close_reason is None
        and (exchange.carried_before is not None or exchange.conn is None or not exchange.conn.inherited)
        and exchange.acquired_at - exchange.started < NOTEWORTHY
        and (exchange.evidence is None or not exchange.evidence.tells)
    )


def usual(exchange: Exchange) -> Attributes | None:
    """What `request` answers for what nearly every request is, at a third of the price; None for any other.

    Such a one is `plain`, has all of these ten attributes, and no other.
    """
    conn = exchange.conn
    # No call in here: this is for every request.
    if (
        exchange.outcome is not COMPLETE
        or not exchange.reused
        or exchange.evidence is not None
        or exchange.close_reason is not None
        or exchange.dial is not None
        or conn is None
        or conn.multiplexed
    ):
        return None
    peer, carried, idle, headers_at = conn.peer, exchange.carried_before, exchange.idle, exchange.headers_at
    send_at, wait_at, status = exchange.send_at, exchange.wait_at, exchange.status
    received = exchange.over_at - headers_at
    if (
        peer is None
        or peer.port is None
        or carried is None
        or idle is None
        or not send_at
        or not wait_at
        or exchange.acquired_at - exchange.started >= NOTEWORTHY
        or wait_at - send_at >= NOTEWORTHY
        or received >= NOTEWORTHY
        or exchange.method == b"HEAD"
        or status in BODILESS
        or status < 200
    ):
        return None
    return {
        names.CONN_REUSED: True,
        names.CONN_ID: conn.id,
        names.CONN_REQUESTS: carried,
        names.CONN_IDLE: idle * STEPS // SECOND / STEPS,
        names.NETWORK_PEER_ADDRESS: peer.host,
        names.NETWORK_PEER_PORT: peer.port,
        names.TIME_WAIT: (headers_at - wait_at) * STEPS // SECOND / STEPS,
        names.TIME_RECEIVE: received * STEPS // SECOND / STEPS,
        names.BODY_OUTCOME: COMPLETE,
        names.HTTP_RESPONSE_BODY_SIZE: exchange.bytes_read,
    }


def request(exchange: Exchange) -> Attributes:
    """The attributes of the request span."""
    conn = exchange.conn
    seconds = _seconds if plain(exchange) else readable_seconds
    attributes: Attributes = {}
    if conn is not None and exchange.send_at:
        attributes[names.CONN_REUSED] = exchange.reused
        attributes[names.CONN_ID] = conn.id
        if exchange.carried_before is not None:
            attributes[names.CONN_REQUESTS] = exchange.carried_before
        else:
            _adopted(conn, attributes)
        if exchange.reused:
            if conn.multiplexed:
                attributes[names.CONN_WAS_IDLE] = exchange.was_idle
            if exchange.idle is not None:
                attributes[names.CONN_IDLE] = seconds(exchange.idle)
        else:
            _opened(conn, exchange, attributes)
        if exchange.close_reason is not None:
            _closed(exchange, exchange.close_reason, attributes)
    peer = conn.peer if conn is not None else None
    if exchange.dial is not None:
        _dial(exchange, attributes)
        peer = exchange.dial.peer or peer
    if peer is not None:
        attributes[names.NETWORK_PEER_ADDRESS] = peer.host
        if peer.port is not None:
            attributes[names.NETWORK_PEER_PORT] = peer.port
        elif conn is not None and conn.transport is not None:
            attributes[names.NETWORK_TRANSPORT] = conn.transport
    if exchange.acquired_at - exchange.started >= NOTEWORTHY or exchange.failed_phase == POOL:
        _pool(exchange, attributes)
    if exchange.send_at:
        _sent(exchange, attributes, seconds)
    if exchange.failed_phase is not None:
        _failed(exchange, attributes)
    elif exchange.outcome is not None:
        received = exchange.over_at - exchange.headers_at
        attributes[names.TIME_RECEIVE] = seconds(received)
        attributes[names.BODY_OUTCOME] = exchange.outcome
        if received >= NOTEWORTHY:
            _waited(exchange, received, attributes, seconds)
        if exchange.outcome is not COMPLETE:
            _left(exchange, attributes)
        size = body_size(exchange)
        if size is not None:
            attributes[names.HTTP_RESPONSE_BODY_SIZE] = size
    if exchange.evidence is not None:
        evidence.add(exchange, exchange.evidence, attributes)
    return attributes


def _adopted(conn: Connection, attributes: Attributes) -> None:
    if conn.inherited:
        attributes[names.CONN_INHERITED] = True


def _opened(conn: Connection, exchange: Exchange, attributes: Attributes) -> None:
    reason = conn.open_reason
    if reason is None or exchange.dial is None:
        return
    attributes[names.CONN_OPEN_REASON] = reason.value
    loss = conn.explained_by
    if loss is not None and loss.closed_at is not None and reason in BLAMED:
        attributes[names.CONN_LOST_AT] = loss.closed_at
    if reason is Reason.NEW_CLIENT and exchange.ledger.made_at is not None:
        attributes[names.CLIENT_MADE_AT] = exchange.ledger.made_at


def _waited(exchange: Exchange, received: int, attributes: Attributes, seconds: Seconds) -> None:
    attributes[names.BODY_READ_WAIT] = seconds(min(exchange.read_wait, received))
    if received >= SECOND:
        attributes[names.BODY_MAX_GAP] = seconds(min(exchange.longest_wait, received))


def _sent(exchange: Exchange, attributes: Attributes, seconds: Seconds) -> None:
    received = exchange.headers_at or exchange.over_at
    written = exchange.wait_at or received
    if written - exchange.send_at >= NOTEWORTHY or exchange.failed_phase == SEND:
        attributes[names.TIME_SEND] = seconds(written - exchange.send_at)
    if exchange.wait_at:
        attributes[names.TIME_WAIT] = seconds(received - written)


def _dial(exchange: Exchange, attributes: Attributes) -> None:
    dial = exchange.dial
    if dial is None:
        return
    for name, duration in (
        (names.TIME_DNS, dial.dns),
        (names.TIME_CONNECT, dial.connect),
        (names.TIME_PROXY, dial.proxy.ended - dial.proxy.started if dial.proxy and dial.proxy.ended else None),
        (names.TIME_TLS, dial.tls),
    ):
        if duration is not None:
            attributes[name] = readable_seconds(duration)
    local = dial.local
    if local is not None and local.port is not None and exchange.send_at and not exchange.reused:
        attributes[names.NETWORK_LOCAL_PORT] = local.port


def _pool(exchange: Exchange, attributes: Attributes) -> None:
    waited = exchange.time_pool or 0
    # Most of the time before it was acquired may have gone into an attempt before.
    if waited < NOTEWORTHY and exchange.failed_phase != POOL:
        return
    attributes[names.TIME_POOL] = readable_seconds(waited)
    if exchange.pool is not None:
        connections, idle, waiting = exchange.pool
        attributes[names.POOL_CONNECTIONS] = connections
        attributes[names.POOL_IDLE] = idle
        attributes[names.POOL_WAITING] = waiting
        limit = exchange.ledger.limits.connections
        if limit is not None:
            attributes[names.POOL_LIMIT] = limit


def _failed(exchange: Exchange, attributes: Attributes) -> None:
    attributes[names.FAILED_PHASE] = exchange.failed_phase
    if exchange.error is not None:
        # Upstream writes it only under the new conventions (OTEL_SEMCONV_STABILITY_OPT_IN).
        attributes[names.ERROR_TYPE] = exchange.error
        evidence.add_failed(exchange, attributes)


def _left(exchange: Exchange, attributes: Attributes) -> None:
    attributes[names.BODY_BYTES_READ] = exchange.bytes_read
    if exchange.closed_at is not None:
        attributes[names.BODY_CLOSED_AT] = exchange.closed_at
    if exchange.closed_via is not None:
        attributes[names.BODY_CLOSED_VIA] = exchange.closed_via
    if exchange.evidence is not None and exchange.evidence.closed_by is not None:
        attributes[names.BODY_CLOSED_BY] = exchange.evidence.closed_by


def body(exchange: Exchange) -> Attributes:
    """The ``httptrace.body.*`` attributes, for ``http.receive`` or where the request span is over already."""
    waited = min(exchange.read_wait, exchange.over_at - exchange.headers_at)
    seconds = _seconds if plain(exchange) else readable_seconds
    attributes: Attributes = {names.BODY_OUTCOME: exchange.outcome, names.BODY_READ_WAIT: seconds(waited)}
    if exchange.outcome != COMPLETE:
        _left(exchange, attributes)
    return attributes


def _closed(exchange: Exchange, reason: str, attributes: Attributes) -> None:
    attributes[names.CONN_CLOSE_REASON] = reason
    ended = ended_by(exchange) if reason == Reason.CONNECTION_CLOSE.value else None
    if ended is not None:
        attributes[names.CONN_ENDED_BY] = ended.value


def connect(attempt: Attempt, target: Origin | None) -> Attributes:
    """The attributes of ``http.connect``."""
    attributes: Attributes = {names.SERVER_ADDRESS: attempt.host, names.NETWORK_TRANSPORT: attempt.transport}
    if attempt.port is not None:
        attributes[names.SERVER_PORT] = attempt.port
    _end(attempt.peer, names.NETWORK_PEER_ADDRESS, names.NETWORK_PEER_PORT, attributes)
    _end(attempt.local, names.NETWORK_LOCAL_ADDRESS, names.NETWORK_LOCAL_PORT, attributes)
    if attempt.transport == "tcp" and attempt.peer is not None:
        attributes[names.NETWORK_TYPE] = "ipv6" if ":" in attempt.peer.host else "ipv4"
    proxy = set_by(target, attempt.host, attempt.port) if attempt.transport == "tcp" else None
    if proxy is not None:
        attributes[names.PROXY_SET_BY] = proxy
    if attempt.resent is not None:
        attributes[names.CONNECT_RESENT] = attempt.resent
    return attributes


def _end(address: Address | None, host: str, port: str, attributes: Attributes) -> None:
    if address is not None:
        attributes[host] = address.host
        if address.port is not None:
            attributes[port] = address.port


def tls(step: Step) -> Attributes:
    """The attributes of ``http.tls``."""
    attributes: Attributes = {}
    if step.server is not None:
        attributes[names.SERVER_ADDRESS] = step.server
    for detail, name in _TLS_DETAILS:
        if detail in step.details:
            attributes[name] = step.details[detail]
    return attributes


_TLS_DETAILS: Final = (
    ("name", names.TLS_PROTOCOL_NAME),
    ("version", names.TLS_PROTOCOL_VERSION),
    ("cipher", names.TLS_CIPHER),
    ("alpn", names.TLS_NEXT_PROTOCOL),
    ("resumed", names.TLS_RESUMED),
)


def proxy(step: Step) -> Attributes:
    """The attributes of ``http.proxy``: the proxy's address."""
    attributes: Attributes = {}
    if step.server is not None:
        attributes[names.SERVER_ADDRESS] = step.server
    if step.port is not None:
        attributes[names.SERVER_PORT] = step.port
    return attributes


def getconn(exchange: Exchange) -> Attributes:
    """The attributes of ``http.getconn``."""
    attributes: Attributes = {}
    conn = exchange.conn
    if conn is not None and exchange.send_at:
        attributes[names.CONN_REUSED] = exchange.reused
        attributes[names.CONN_WAS_IDLE] = exchange.reused and exchange.was_idle
        attributes[names.CONN_ID] = conn.id
        if conn.open_reason is not None and exchange.dial is not None and not exchange.reused:
            attributes[names.CONN_OPEN_REASON] = conn.open_reason.value
    origin = exchange.origin
    if origin is not None:
        attributes[names.SERVER_ADDRESS] = origin.host
        if origin.port is not None:
            attributes[names.SERVER_PORT] = origin.port
    if exchange.failed_phase in (None, SEND, WAIT) or exchange.error is None:
        return attributes
    attributes[names.ERROR_TYPE] = exchange.error
    return attributes
