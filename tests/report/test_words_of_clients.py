"""What failed is concluded alike in each client's words, and advice names what that client calls its settings."""

from __future__ import annotations

from typing import Any

import pytest
from kit.otlp import opening, reusing, row

from otel_httptrace.clients import CLIENTS
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.facts import ERRORS
from otel_httptrace.report.findings import Finding
from otel_httptrace.report.rows import Row
from otel_httptrace.report.verdicts.advice import KNOWN
from otel_httptrace.report.verdicts.settings import _SETTINGS, Settings


def first(*rows: Row) -> Finding:
    """The first finding."""
    return analyze(rows).findings[0]


def failing(phase: str, error: str, **rest: Any) -> Row:
    """A request that failed in a phase, after 0.4 s of it."""
    given: dict[str, Any] = {f"time__{phase}": 0.4, "status": None, "failed": True, "duration": 0.4, **rest}
    return row(failed_phase=phase, error__type=error, **given)


IDLE: dict[str, Any] = {
    "http__conn__reused": True, "conn__idle": 5.0, "conn__close_reason": "request_failed", "time__wait": 0.001,
}  # fmt: skip
AT_WORK: dict[str, Any] = {"http__conn__reused": True, "conn__idle": 0.01, "conn__close_reason": "request_failed"}

#: What failed, in the words of httpx and in those of urllib3, and what is concluded.
ALIKE = [
    ("wait", "ReadTimeout", "ReadTimeoutError", {}, "server_slow"),
    ("wait", "RemoteProtocolError", "RemoteDisconnected", {**AT_WORK, "response__bytes_received": 0}, "closed_without_answer"),
    ("wait", "ReadError", "ConnectionResetError", AT_WORK, "closed_without_answer"),
    ("send", "WriteError", "BrokenPipeError", AT_WORK, "closed_without_answer"),
    ("wait", "RemoteProtocolError", "RemoteDisconnected", {**IDLE, "response__bytes_received": 0}, "stale_keepalive"),
    ("wait", "ReadError", "ConnectionResetError", IDLE, "stale_keepalive"),
    ("send", "WriteError", "BrokenPipeError", IDLE, "stale_keepalive"),
    ("connect", "ConnectTimeout", "ConnectTimeoutError", {}, "connect_timeout"),
    ("tls", "ConnectTimeout", "ReadTimeoutError", {}, "tls_timeout"),
    ("proxy", "ConnectTimeout", "ConnectTimeoutError", {}, "proxy_timeout"),
    ("send", "WriteTimeout", "TimeoutError", {"tcp__unacked": 90_000, "tcp__retransmits": 0}, "upload_stalled"),
]  # fmt: skip


@pytest.mark.parametrize(("phase", "httpx", "urllib3", "rest", "verdict"), ALIKE)
def test_each_clients_words(phase: str, httpx: str, urllib3: str, rest: dict[str, Any], verdict: str) -> None:
    """The same failure is the same finding, as sure, whatever the client calls it."""
    one, other = first(failing(phase, httpx, **rest)), first(failing(phase, urllib3, **rest))

    assert one.verdict == other.verdict == verdict
    assert (one.sure, one.severity, one.rivals) == (other.sure, other.severity, other.rivals)
    assert other.sentence == one.sentence.replace(httpx, urllib3)


@pytest.mark.parametrize(
    ("phase", "cause", "errors"),
    [
        ("connect", "ECONNREFUSED", ("ConnectError", "NewConnectionError")),
        ("tls", "ECONNRESET", ("ConnectError", "ConnectionResetError")),
        ("connect", None, ("ConnectTimeout", "ConnectTimeoutError")),
    ],
)
def test_clients_that_fail_alike(phase: str, cause: str | None, errors: tuple[str, str]) -> None:
    """What failed for one cause is one finding, though each client has a class of its own for it."""
    known: dict[str, Any] = {} if cause is None else {"failed_cause": cause}
    (finding,) = analyze([failing(phase, error, **known) for error in errors]).findings

    assert finding.requests == 2
    assert " or ".join(sorted(errors)) in finding.sentence
    assert cause != "ECONNRESET" or "hung up in the handshake" in finding.advice


@pytest.mark.parametrize(
    ("lasted", "limit"), [((30.0, 30.2, 31.0), True), ((30.0, 30.2, 33.0), False), ((0.5, 0.5, 0.5), False)]
)
def test_bodies_that_end_after_the_same_time(lasted: tuple[float, ...], limit: bool) -> None:
    """Bodies that broke off after the same time each look like a limit that somebody set; others do not."""
    broken: dict[str, Any] = {"failed": True, "body__outcome": "failed", "error__type": "RemoteProtocolError"}
    finding = first(*(row(**broken, time__receive=time, body__read_wait=time) for time in lasted))

    assert finding.verdict == "body_failed"
    assert (f"each {lasted[0]:.1f} s after its headers" in finding.sentence) is limit
    assert ("a limit that somebody set" in finding.advice) is limit


def test_an_answer_that_http_client_cannot_read() -> None:
    """http.client has words of its own for what cannot be read: no bytes need to have been counted."""
    finding = first(failing("wait", "BadStatusLine", **AT_WORK))

    assert finding.verdict == "malformed_response"
    assert finding.rivals == ()


@pytest.mark.parametrize(
    ("error", "received", "beyond"),
    [
        ("RemoteProtocolError", 102_401, "had no end of its headers within 100.0 KiB"),
        ("LineTooLong", None, "had a line of more than 64.0 KiB in its headers"),
        ("HTTPException", None, "had more than 100 headers"),
    ],
)
def test_headers_beyond_what_the_client_reads(error: str, received: int | None, beyond: str) -> None:
    """Headers that are in order, and more than the client reads, are told as that; a byte less proves nothing."""
    known = {} if received is None else {"response__bytes_received": received}
    finding = first(failing("wait", error, **AT_WORK, **known))
    within = first(failing("wait", "RemoteProtocolError", **AT_WORK, response__bytes_received=102_400))

    assert (finding.verdict, finding.rivals) == ("malformed_response", ())
    assert f"1 answer from {finding.origin} {beyond}, which is the most that this client reads" in finding.sentence
    assert "no valid head" in within.sentence


def test_answers_that_follow_others() -> None:
    """Where each was on a connection that had carried another answer, that one may have been longer than it said."""
    after = failing("wait", "RemoteProtocolError", **AT_WORK, response__bytes_received=6)
    new = failing("wait", "RemoteProtocolError", http__conn__reused=False, response__bytes_received=6)

    assert "each on a connection that had carried another answer" in first(after, after).sentence
    assert "that had carried another answer" not in first(after, new).sentence


def test_a_response_that_timed_out_half_way() -> None:
    """Where a body stopped coming the advice is about the timeout, in either client's words."""
    told = {
        first(row(body__outcome="failed", error__type=error, body__bytes_read=5, failed=True)).advice
        for error in ("ReadTimeout", "ReadTimeoutError")
    }
    assert told == {"no byte came for as long as the read timeout: look at the server, or allow it more time"}


def test_a_timeout_of_nobody() -> None:
    """`TimeoutError` is anybody's: only while sending it is the client's."""
    assert first(failing("wait", "TimeoutError")).verdict == "failed"


def test_all_errors_are_the_clients_own() -> None:
    """No error of a client's is taken for one of what makes the request's body."""
    assert ERRORS <= KNOWN
    for error in sorted(ERRORS):
        finding = first(failing("send", error))
        assert "what makes the request's body" not in finding.advice, error


# What each client calls its settings.


def made_by(client: str, rows: list[Row]) -> list[Row]:
    """The same, made by a client."""
    for one in rows:
        one.client = client
    return rows


#: For each client, what its findings must say: limit of idle connections, of servers, idle time, closing, sharing.
SAID = {
    "httpx": ("max_keepalive_connections", "max_connections", "keepalive_expiry", "client.stream", "make one client"),
    "httpx2": ("max_keepalive_connections", "max_connections", "keepalive_expiry", "client.stream", "make one client"),
    "requests": ("pool_maxsize", "pool_connections", "requests has no limit", "session.get", "make one Session"),
    "botocore": ("max_pool_connections", "group of servers", "botocore has no limit", "['Body']", "make one client for each service"),
    "urllib3": ("maxsize", "num_pools", "urllib3 has no limit", "drain_conn", "make one PoolManager"),
}  # fmt: skip


@pytest.mark.parametrize("client", SAID)
def test_settings_by_their_names(client: str) -> None:
    """Advice names what can be set by the name that it has in the client at fault, and by no other client's."""
    kept, origins, idle, close, share = SAID[client]
    told = [
        first(*made_by(client, [opening("keepalive_limit") for _ in range(3)])),
        first(*made_by(client, [opening("pool_full") for _ in range(5)])),
        first(*made_by(client, [failing("wait", "ReadError", **IDLE)])),
        first(*made_by(client, [row(body__outcome="never_closed", http__conn__reused=True)])),
        first(
            *made_by(client, [opening("first_connection"), *(opening("new_client", conn__id=at) for at in range(9))])
        ),
    ]
    assert [one.verdict for one in told] == [
        "keepalive_limit_too_low", "pool_full", "stale_keepalive", "responses_never_closed", "client_per_request",
    ]  # fmt: skip
    for finding, word in zip(told, (kept, origins, idle, close, share), strict=True):
        assert word in finding.advice, finding.advice
        if not client.startswith("httpx"):
            assert "httpx" not in finding.sentence + finding.advice
            assert "keepalive_expiry" not in finding.sentence + finding.advice


def test_several_clients() -> None:
    """Where several clients are at fault, each one's setting is named, that of most requests first."""
    mixed = [
        *made_by("requests", [opening("keepalive_limit") for _ in range(4)]),
        *made_by("urllib3", [opening("keepalive_limit") for _ in range(3)]),
    ]
    finding = first(*mixed)
    assert "over pool_maxsize or maxsize" in finding.sentence
    assert finding.advice.index("pool_maxsize") < finding.advice.index("maxsize (urllib3.PoolManager")


def test_each_client_has_words() -> None:
    """A client has words of its own, or those of httpx, whose settings they are."""
    assert {client.name for client in CLIENTS} - set(_SETTINGS) == {"httpx", "httpx2"}
    assert all(isinstance(one, Settings) for one in _SETTINGS.values())


def test_the_scope_tells_the_client() -> None:
    """Which client made a request is told by the scope of its span, or of a part of that; without one it is not known."""
    from otel_httptrace.report.rows import _client

    assert {client.upstream.scope: _client(client.upstream.scope) for client in CLIENTS} == {
        client.upstream.scope: client.name.removesuffix("2") for client in CLIENTS
    }
    assert _client("opentelemetry.instrumentation.botocore.s3") == "botocore"
    assert (_client("opentelemetry.instrumentation.flask"), _client("")) == ("", "")
    assert reusing().client == ""
