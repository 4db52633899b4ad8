"""Reports made by hand, for what shows them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Evidence, Finding, Severity, Sure
from otel_httptrace.report.rows import PHASES, Row, Step
from otel_httptrace.report.spans import Link, Source
from otel_httptrace.report.summary import Report
from otel_httptrace.telemetry import names

BEGAN = 1_790_000_000.0
BILLING = Source("billing", "4711")
LINE = "billing/client.py:42 in charge"


def row(
    number: int,
    start: float,
    phases: dict[str, float],
    *,
    connection: int | None = None,
    origin: str = "https://api.example.com",
    status: int | None = 200,
    failed: bool = False,
    source: Source = BILLING,
    rest: float = 0.0,
    **attributes: Any,
) -> Row:
    """A request that began *start* seconds after the first, with ids made of its *number*."""
    known: dict[str, Any] = {"http.request.method": "GET", "url.full": f"{origin}/charge/{number}?token=s3cr3t"}
    if connection is not None:
        known[names.CONN_ID] = connection
    known.update({PHASES[phase]: seconds for phase, seconds in phases.items()})
    known.update({getattr(names, name): value for name, value in attributes.items()})
    return Row(
        name="GET",
        trace_id=f"{number + 1:032x}",
        span_id=f"{number + 1:016x}",
        start=BEGAN + start,
        duration=sum(phases.values()) + rest,
        failed=failed,
        source=source,
        origin=origin,
        status=status,
        attributes=known,
        phases=phases,
    )


def dial(request: Row) -> None:
    """Give *request* the child spans of the phases in which it got a connection."""
    before = request.phases.get("pool", 0.0)
    known = ("dns", "connect", "proxy", "tls")
    length = before + sum(request.phases.get(phase, 0.0) for phase in known)
    request.steps.append(Step(names.SPAN_GETCONN, 0.0, length, {names.CONN_REUSED: False}, 1))
    attributes: dict[str, dict[str, Any]] = {
        "dns": {names.DNS_QUESTION_NAME: "api.example.com", names.DNS_ANSWERS: ["2001:db8::7", "192.0.2.7"]},
        "connect": {names.NETWORK_PEER_ADDRESS: "192.0.2.7", names.NETWORK_PEER_PORT: 443, names.NETWORK_TYPE: "ipv4"},
        "tls": {names.TLS_PROTOCOL_VERSION: "1.3", names.TLS_NEXT_PROTOCOL: "http/1.1", names.TLS_RESUMED: False},
    }
    for phase in known:
        if phase in request.phases:
            length = request.phases[phase]
            request.steps.append(Step(f"http.{phase}", before, length, attributes.get(phase, {}), 2))
            before += length


def link(kind: str, to: Row, **attributes: Any) -> Link:
    """A link to another request."""
    return Link(to.trace_id, to.span_id, {names.LINK: kind, **attributes})


def early_close(requests: int = 40, workers: int = 5, seed: int = 1) -> list[Row]:
    """The founding story: most responses are closed unread, so most requests have to look up and dial again."""
    chance = random.Random(seed)
    found: list[Row] = []
    free = [0.001 * worker for worker in range(workers)]
    held: list[tuple[int, Row] | None] = [None] * workers
    lost: list[Row | None] = [None] * workers
    carried: dict[int, int] = {}
    connections = 0
    for number in range(requests):
        worker = min(range(workers), key=lambda one: free[one])
        start = free[worker]
        phases: dict[str, float] = {}
        known: dict[str, Any] = {}
        mine = held[worker]
        if mine is None:
            connections += 1
            connection = connections
            phases |= {"dns": chance.uniform(0.004, 0.03), "connect": 0.008, "tls": chance.uniform(0.02, 0.03)}
            reason = "body_not_read" if lost[worker] else "first_connection" if connection == 1 else "all_busy"
            known |= {"CONN_REUSED": False, "CONN_OPEN_REASON": reason, "CONN_REQUESTS": 0}
        else:
            connection = mine[0]
            known |= {"CONN_REUSED": True, "CONN_REQUESTS": carried[connection], "CONN_IDLE": 0.004}
        carried[connection] = carried.get(connection, 0) + 1
        phases["wait"] = chance.uniform(0.02, 0.07)
        closed = chance.random() < 0.7
        phases["receive"] = 0.0004 if closed else chance.uniform(0.004, 0.02)
        known |= {"BODY_OUTCOME": "closed_early" if closed else "complete", "HTTP_RESPONSE_BODY_SIZE": 1_048_576}
        if closed:
            known |= {
                "CONN_CLOSE_REASON": "body_not_read",
                "BODY_CLOSED_AT": LINE,
                "BODY_CLOSED_VIA": "stripe/_http_client.py:310 in close",
                "BODY_BYTES_READ": 65_536,
            }
        request = row(number, start, phases, connection=connection, **known)
        if mine is None:
            dial(request)
            loser = lost[worker]
            if loser is not None:
                request.links = (link(names.LINK_CONNECTION_LOST_BY, loser),)
        held[worker] = None if closed else (connection, request)
        lost[worker] = request if closed else None
        free[worker] = start + request.duration + chance.uniform(0.002, 0.012)
        found.append(request)
    return found


def mixed() -> list[Row]:
    """Requests of two processes to four origins: HTTP/2, a full pool, failures, a cancellation, one not observed."""
    found = early_close(24, 3)
    other = Source("mailer", "12")
    number = len(found)

    def add(*arguments: Any, **more: Any) -> Row:
        nonlocal number
        request = row(number, *arguments, **more)
        number += 1
        found.append(request)
        return request

    for stream in range(12):
        add(
            0.05 + 0.02 * stream,
            {"wait": 0.12, "receive": 0.05},
            connection=9,
            origin="https://h2.example.com",
            source=other,
            CONN_REUSED=stream > 0,
            BODY_OUTCOME="complete",
            NETWORK_PROTOCOL_VERSION="2",
            **({"CONN_OPEN_REASON": "first_connection"} if stream == 0 else {}),
        )
    slow = "http://search.internal:9200"
    for k in range(4):
        add(
            0.1 * k,
            {"wait": 0.35, "receive": 0.02},
            connection=20,
            origin=slow,
            CONN_REUSED=k > 0,
            BODY_OUTCOME="complete",
        )
    holders = found[-2:]
    for k in range(3):
        blocked = add(
            0.2 + 0.01 * k,
            {"pool": 0.25},
            origin=slow,
            status=None,
            failed=True,
            FAILED_PHASE="pool",
            ERROR_TYPE="PoolTimeout",
            POOL_CONNECTIONS=2,
            POOL_IDLE=0,
            POOL_WAITING=k,
            POOL_LIMIT=2,
        )
        blocked.links = tuple(link(names.LINK_POOL_HELD_BY, holder) for holder in holders)
    add(
        0.3,
        {"wait": 0.08},
        connection=20,
        origin=slow,
        status=None,
        FAILED_PHASE="wait",
        CONN_REUSED=True,
        CONN_CLOSE_REASON="request_cancelled",
    )
    add(
        0.45,
        {"dns": 0.002, "connect": 0.004, "wait": 0.05, "receive": 0.2},
        connection=21,
        origin=slow,
        failed=True,
        CONN_REUSED=False,
        CONN_OPEN_REASON="request_cancelled",
        BODY_OUTCOME="failed",
        ERROR_TYPE="RemoteProtocolError",
        BODY_BYTES_READ=100,
        HTTP_RESPONSE_BODY_SIZE=5_000,
        CONN_CLOSE_REASON="request_failed",
    )
    add(
        0.7,
        {"wait": 0.03, "receive": 0.002},
        connection=22,
        origin=slow,
        CONN_REUSED=False,
        CONN_OPEN_REASON="request_failed",
        BODY_OUTCOME="complete",
        CONN_CLOSE_REASON="connection_close",
    )
    add(
        0.2,
        {"pool": 0.01, "proxy": 0.03, "tls": 0.03, "send": 0.02, "wait": 0.05, "receive": 0.01},
        connection=23,
        origin="https://upload.example.com",
        CONN_REUSED=False,
        CONN_OPEN_REASON="first_connection",
        BODY_OUTCOME="complete",
        rest=0.02,
    )
    add(0.4, {}, origin="https://upload.example.com", rest=0.2)
    return found


def many(requests: int = 10_000, connections: int | None = None, seed: int = 7) -> list[Row]:
    """That many requests, on so many connections, or, without a number, as in the founding story."""
    if connections is None:
        return early_close(requests, 20, seed)
    chance = random.Random(seed)
    free = [0.0] * connections
    found = []
    for number in range(requests):
        lane = number % connections
        new = free[lane] == 0.0
        phases = {"dns": 0.004, "connect": 0.01} if new else {}
        phases |= {"wait": chance.expovariate(20), "receive": 0.002}
        reason: dict[str, Any] = {"CONN_OPEN_REASON": "all_busy"} if new else {}
        request = row(
            number,
            free[lane] + chance.expovariate(50),
            phases,
            connection=lane + 1,
            CONN_REUSED=not new,
            BODY_OUTCOME="complete",
            **reason,
        )
        free[lane] = request.start - BEGAN + request.duration
        found.append(request)
    return found


def report(rows: list[Row], *findings: Finding, **changes: Any) -> Report:
    """The report of *rows*, with these findings instead of its own, and other changes."""
    return replace(analyze(rows), findings=findings, **changes)


def body_not_read(rows: list[Row]) -> Finding:
    """The verdict of the founding story."""
    lost = [request for request in rows if request.attributes.get(names.CONN_CLOSE_REASON) == "body_not_read"]
    return Finding(
        verdict="body_not_read",
        severity=Severity.WASTE,
        origin="https://api.example.com",
        sentence=f"{len(lost)} of {len(rows)} responses were closed before they were read, and each cost its connection, "
        "a lookup and a handshake.",
        advice="Read the body before closing the response, or ask for less of it: HEAD, or a Range.",
        sure=Sure.CERTAIN,
        because="the connection was seen to close with the response",
        criterion="at least lost_connections=2 connections to one origin were lost by bodies that were not read",
        requests=len(lost),
        seconds=1.4,
        line=LINE,
        via="stripe/_http_client.py:310 in close",
        evidence=tuple(
            Evidence(request.trace_id, request.span_id, f"closed after {request.duration * 1000:.0f} ms, unread")
            for request in lost[:3]
        ),
    )


def pool_saturated(rows: list[Row]) -> Finding:
    """A verdict about requests that failed."""
    waited = [request for request in rows if request.attributes.get(names.FAILED_PHASE) == "pool"]
    return Finding(
        verdict="pool_saturated",
        severity=Severity.FAILED,
        origin="http://search.internal:9200",
        sentence=f"{len(waited)} requests waited 250 ms for the pool and failed: its limit is 2, and 2 more were waiting.",
        advice="Raise max_connections above the concurrency, or cut the concurrency.",
        sure=Sure.LIKELY,
        because="",
        criterion="a request waited for pool_wait=0.2 s or longer while the pool was at its limit",
        requests=len(waited),
        seconds=0.75,
        evidence=(
            *(Evidence(request.trace_id, request.span_id, "gave up") for request in waited[:1]),
            Evidence("f" * 32, "e" * 16, "held a connection, and is not in this page"),
        ),
    )
