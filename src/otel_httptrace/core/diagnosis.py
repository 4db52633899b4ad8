# What is worth a sentence, and what it must say: decided here, worded elsewhere
# (telemetry/sentences.py). A plain reused request is worth none. Of what is not
# known nothing is said: a fact that was not seen is not among the facts.

"""What a person is to be told about an exchange that was not ordinary."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from .evidence import SLOW, STALL
from .ledger import BLAMED, PLAIN_OPENINGS, Connection, Limits, Reason
from .timeline import (
    CANCELLED,
    COMPLETE,
    CONNECT,
    DNS,
    FAILED,
    NEVER_CLOSED,
    POOL,
    PORTS,
    PROXY,
    RECEIVE,
    SEND,
    TLS,
    WAIT,
    Exchange,
    Origin,
    body_size,
    dials,
)

#: A wait for the pool, or a step of a dial, that took so long is told, for a person sees it in a trace: nanoseconds.
LONG: Final = 200_000_000

#: What else it can wait for, and have gone over.
STREAM: Final = "stream"
INHERITED: Final = "inherited"


class Told(Enum):
    """What happened; with a word more it is what the sentence is about."""

    #: It waited long, for the pool or for a stream of an HTTP/2 connection.
    WAITED = "waited"
    #: A connection had to be opened; because.
    OPENED = "opened"
    #: It took long, and went well; what did.
    SLOW = "slow"
    #: It went over a connection that is another's, too.
    SHARED = "shared"
    #: A connection was lost with it; because.
    LOST = "lost"
    #: It failed; in which phase.
    FAILED = "failed"
    #: It was cancelled; in which phase.
    CANCELLED = "cancelled"
    #: Its response was never closed.
    LEAKED = "leaked"


class Diagnosis(NamedTuple):
    """One thing to be told."""

    told: Told
    #: Of `OPENED` and `LOST` the reason, of `FAILED` and `CANCELLED` the phase, of the others their only word.
    word: str
    #: When it happened.
    at: int
    #: What is known: durations in nanoseconds, sizes in bytes.
    facts: dict[str, object]


def diagnoses(exchange: Exchange) -> list[Diagnosis]:
    """What is to be told of *exchange*, in the order in which it happened; nothing of a plain one."""
    found = []
    if exchange.acquired_at - exchange.started >= LONG and (exchange.time_pool or 0) >= LONG:
        found.append(Diagnosis(Told.WAITED, POOL, exchange.acquired_at, _pool(exchange)))
    conn = exchange.conn
    if conn is not None and (exchange.time_stream or 0) >= LONG:
        found.append(Diagnosis(Told.WAITED, STREAM, exchange.send_at or exchange.over_at, _stream(exchange, conn)))
    if conn is not None and conn.inherited and exchange.send_at:
        found.append(Diagnosis(Told.SHARED, INHERITED, exchange.send_at, {"conn": conn.id}))
    if conn is not None and exchange.dial is not None and exchange.send_at and not exchange.reused:
        opening = _opened(exchange, conn)
        if opening is not None:
            found.append(opening)
    found += _slow(exchange)
    ending = _ended(exchange)
    if ending is not None:
        found.append(ending)
    return found


def slow(exchange: Exchange) -> bool:
    """Whether it took so long that one of its parts may be told as slow."""
    return exchange.over_at - exchange.started >= SLOW


def _slow(exchange: Exchange) -> Iterator[Diagnosis]:
    # What failed or was cancelled in one of these phases is told as that.
    failed, sent, waited = exchange.failed_phase, exchange.time_send or 0, exchange.time_wait or 0
    waited = waited if waited >= SLOW and failed != WAIT else 0
    if sent >= SLOW and failed != SEND:
        at = exchange.wait_at or exchange.over_at
        yield Diagnosis(Told.SLOW, SEND, at, _slow_way(exchange, sent, proven=not waited and failed is None))
    if waited:
        yield Diagnosis(Told.SLOW, WAIT, exchange.headers_at, _slow_way(exchange, waited, proven=failed is None))
    took = exchange.over_at - exchange.headers_at
    if exchange.outcome == COMPLETE and took >= SLOW:
        facts: dict[str, object] = {"waited": min(exchange.read_wait, took), "gap": min(exchange.longest_wait, took)}
        yield Diagnosis(Told.SLOW, RECEIVE, exchange.over_at, facts | _known(took=took, read=exchange.bytes_read))


def _slow_way(exchange: Exchange, took: int, *, proven: bool) -> dict[str, object]:
    conn, evidence = exchange.conn, exchange.evidence
    facts = _known(took=took, conn=conn.id if conn is not None else None)
    if proven and evidence is not None:
        # Of a connection that carries several requests it is not known whose bytes they are.
        said = evidence.socket if conn is not None and not conn.multiplexed else None
        facts |= _known(
            unacked=said.unacked or None if said is not None else None,
            stalled=evidence.stalled if evidence.stalled >= STALL else None,
        )
    return facts


# How it got its connection.


def _opened(exchange: Exchange, conn: Connection) -> Diagnosis | None:
    dial, reason = exchange.dial, conn.open_reason
    if dial is None or reason is None:
        return None
    phases = {phase: took for phase, took in _dialled(exchange) if took is not None}
    slow: dict[str, object] = {f"{phase}_took": took for phase, took in phases.items() if took >= LONG}
    if reason in PLAIN_OPENINGS and not slow:
        return None
    limits, loss = exchange.ledger.limits, conn.explained_by
    facts = _known(
        opened=conn.id,
        origin=_origin(exchange.origin),
        opening=sum(phases.values()) or None,
        made_at=exchange.ledger.made_at,
        lost_at=loss.closed_at if loss is not None and reason in BLAMED else None,
        expiry=limits.keepalive_expiry,
        limit=limits.connections if not limits.of_each_origin else None,
        **_kept(limits),
    )
    return Diagnosis(Told.OPENED, reason.value, max(conn.created_at, exchange.started), facts | slow)


def _dialled(exchange: Exchange) -> list[tuple[str, int | None]]:
    dial = exchange.dial
    if dial is None:
        return []
    proxy = dial.proxy
    proxied = proxy.ended - proxy.started if proxy is not None and proxy.ended else None
    return [(DNS, dial.dns), (CONNECT, dial.connect), (PROXY, proxied), (TLS, dial.tls)]


def _pool(exchange: Exchange) -> dict[str, object]:
    connections = exchange.pool[0] if exchange.pool is not None else None
    return _known(took=exchange.time_pool, connections=connections, limit=exchange.ledger.limits.connections)


def _stream(exchange: Exchange, conn: Connection) -> dict[str, object]:
    evidence = exchange.evidence
    if evidence is None:
        return {}
    return _known(
        conn=conn.id, took=exchange.time_stream, streams=evidence.stream_limit, stream_limit=evidence.stream_limit
    )


# How it ended.


def _ended(exchange: Exchange) -> Diagnosis | None:
    phase, at = exchange.failed_phase, exchange.over_at
    if phase is not None:
        return Diagnosis(
            Told.FAILED if exchange.error is not None else Told.CANCELLED, phase, at, _cut(exchange, phase)
        )
    if exchange.outcome == FAILED:
        return Diagnosis(Told.FAILED, RECEIVE, at, _cut(exchange, RECEIVE))
    if exchange.outcome == CANCELLED:
        return Diagnosis(Told.CANCELLED, RECEIVE, at, _cut(exchange, RECEIVE))
    conn = exchange.conn
    if conn is None:
        return None
    if exchange.outcome == NEVER_CLOSED:
        dropped = True if exchange.close_reason == Reason.RESPONSE_LEAKED.value else None
        return Diagnosis(
            Told.LEAKED, NEVER_CLOSED, at, _known(conn=conn.id, made_at=exchange.closed_at, dropped=dropped)
        )
    if exchange.close_reason is None:
        return None
    return Diagnosis(Told.LOST, exchange.close_reason, at, _lost(exchange, conn))


def _lost(exchange: Exchange, conn: Connection) -> dict[str, object]:
    evidence, limits, size = exchange.evidence, exchange.ledger.limits, body_size(exchange)
    return _known(
        conn=conn.id,
        closed_at=exchange.closed_at,
        closed_via=exchange.closed_via,
        closed_by=evidence.closed_by if evidence is not None else None,
        client_closed_at=evidence.conn_closed_at if evidence is not None else None,
        **_left(exchange.bytes_read, size),
        expiry=limits.keepalive_expiry,
        **_kept(limits),
    )


def _left(read: int | None, size: int | None) -> dict[str, object]:
    if size == 0:
        # Of nothing nothing was read.
        return {"empty": True}
    return {"whole": size} if size is not None and read == size else _known(read=read, size=size)


def _kept(limits: Limits) -> dict[str, int | None]:
    # Of the whole pool, or of each origin: they have other names.
    return {"kept" if limits.of_each_origin else "keepalive": limits.keepalive}


def _cut(exchange: Exchange, phase: str) -> dict[str, object]:
    conn, dial, evidence = exchange.conn, exchange.dial, exchange.evidence
    used = conn if conn is not None and exchange.send_at else None
    facts = _known(
        conn=used.id if used is not None else None,
        lost=used.id if used is not None and exchange.close_reason is not None else None,
        origin=_origin(exchange.origin),
        took=_took(exchange, phase),
        error=exchange.error,
        before=exchange.carried_before if exchange.reused else None,
        idle=exchange.idle if exchange.reused else None,
    )
    if phase == POOL:
        facts |= _pool(exchange)
    if phase == WAIT and not (used is not None and used.multiplexed and exchange.error is not None):
        facts["received"] = exchange.received
    if phase == RECEIVE:
        facts |= _known(read=exchange.bytes_read, size=body_size(exchange))
    if dial is not None and dial.attempts:
        last = dial.attempts[-1]
        facts["forward" if not dials(exchange.origin, last.host, last.port) else "address"] = _authority(
            last.host, last.port
        )
        if last.lookups:
            facts["name"] = last.lookups[-1].name
    if phase == CONNECT and dial is not None and (dial.dns or 0) >= LONG:
        # The timeout of a connect counts the lookup.
        facts["looked_up"] = dial.dns
    if dial is not None and dial.proxy is not None and dial.proxy.server is not None:
        facts["proxy"] = _authority(dial.proxy.server, dial.proxy.port)
    if evidence is not None:
        said = evidence.socket
        facts |= _known(
            cause=evidence.cause if evidence.cause != exchange.error else None,
            timeout=int(evidence.timeout * 1e9) if evidence.timeout is not None else None,
            stalled=evidence.stalled if evidence.stalled >= STALL else None,
            foreign_loop=True if evidence.foreign_loop else None,
            unacked=said.unacked or None if said is not None else None,
            held_at=evidence.held_at,
            held_for=evidence.held_for,
        )
        if exchange.close_reason == Reason.CLIENT_CLOSED.value:
            facts |= _known(client_closed_at=evidence.conn_closed_at)
    return facts


def _took(exchange: Exchange, phase: str) -> int | None:
    known = {
        POOL: exchange.time_pool,
        SEND: exchange.time_send,
        WAIT: exchange.time_wait,
        RECEIVE: exchange.time_receive,
        **dict(_dialled(exchange)),
    }
    return known.get(phase)


def _origin(origin: Origin | None) -> str | None:
    if origin is None:
        return None
    port = origin.port if origin.port != PORTS.get(origin.scheme) else None
    return f"{origin.scheme}://{_authority(origin.host, port)}"


def _authority(host: str, port: int | None) -> str:
    if ":" in host:
        host = f"[{host}]"
    return host if port is None else f"{host}:{port}"


def _known(**facts: object) -> dict[str, object]:
    return {name: value for name, value in facts.items() if value is not None}
