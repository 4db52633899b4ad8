"""Each verdict's rivals: where the rival is what happened, the verdict keeps silent, or is not certain."""

from __future__ import annotations

from typing import Any

import pytest
from kit.otlp import opening, reusing, row

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Sure, Thresholds
from otel_httptrace.report.rows import Row, Step
from otel_httptrace.report.spans import Link
from otel_httptrace.report.verdicts.definitions import FAILURES
from otel_httptrace.report.verdicts.kind import DEFINITIONS

#: What a request that failed in a phase has in common.
BEFORE: dict[str, Any] = {"failed": True, "status": None}


def failed(phase: str, error: str, **rest: Any) -> Row:
    """A request that failed before its body."""
    return row(**{**BEFORE, "failed_phase": phase, "error__type": error, **rest})


def step(name: str, duration: float = 0.5, **attributes: Any) -> Step:
    """A child span."""
    return Step(name, 0.0, duration, {key.replace("__", "."): of for key, of in attributes.items()}, 2)


LATE: dict[str, Any] = {"timeout": 1.0, "stalled": 2.0}
PROXY = (step("http.connect", server__address="proxy.test", server__port=3128, error__type="timed_out"),)
IDLE: dict[str, Any] = {"http__conn__reused": True, "conn__idle": 5.0, "time__wait": 0.001}
CLOSED: dict[str, Any] = {"conn__close_reason": "request_failed"}


def gone(**rest: Any) -> Row:
    """A request whose connection was closed instead of an answer."""
    return failed("wait", "RemoteProtocolError", **{**CLOSED, **rest})


def timeouts() -> Any:
    """Of each phase of a dial: a timeout that struck late, and one that was the proxy's."""
    for phase in ("dns", "connect", "proxy", "tls"):
        time = {f"time__{phase}": 3.0}
        yield (f"{phase}_timeout", "this process stood still"), [failed(phase, "ConnectTimeout", **time, **LATE)]
        if phase in ("dns", "connect"):
            yield (f"{phase}_timeout", "it was the proxy"), [failed(phase, "ConnectTimeout", steps=PROXY, **time)]


STREAM: dict[str, Any] = {"failed_cause": "INTERNAL_ERROR", "http__conn__wasidle": True, "conn__idle": 5.0}

#: By verdict and the beginning of the rival's name: rows that the rival brought about.
PLAYED: dict[tuple[str, str], list[Row]] = {
    **dict(timeouts()),
    ("proxy_unreachable", "this process stood still"): [
        failed("connect", "ConnectTimeout", steps=PROXY, time__connect=3.0, **LATE)
    ],
    ("proxy_unreachable", "this process had no file"): [
        failed("connect", "ConnectError", steps=PROXY, failed_cause="EMFILE")
    ],
    ("http2_stream_reset", "something in the answer"): [
        failed("wait", "RemoteProtocolError", http__conn__wasidle=True, failed_cause="ProtocolError")
    ],
    ("malformed_response", "this program closed"): [
        gone(response__bytes_received=9, conn__close_reason="client_closed")
    ],
    ("malformed_response", "the server reset one"): [
        failed("wait", "RemoteProtocolError", response__bytes_received=9, **STREAM)
    ],
    ("malformed_response", "the server retired"): [gone(response__bytes_received=9, conn__close_reason="goaway")],
    ("malformed_response", "the connection ended"): [gone(response__bytes_received=28)],
    ("upload_slow", "this process stood still"): [reusing(time__send=6.0, time__wait=1.0, stalled=5.0)],
    ("upload_stalled", "this process stood still"): [failed("send", "WriteTimeout", time__send=3.0, **LATE)],
    ("upload_stalled", "the other side is gone"): [failed("send", "WriteTimeout", time__send=3.0, timeout=3.0)],
    ("connection_dead", "the server had the request"): [
        failed("wait", "ReadTimeout", time__wait=1.0, conn__idle=5.0, tcp__unacked=0, tcp__retransmits=0)
        for _ in range(2)
    ]
    + [reusing() for _ in range(9)],
    ("connection_dead", "the request was still"): [
        failed("wait", "ReadTimeout", time__wait=1.0, conn__idle=5.0, tcp__unacked=4000, tcp__retransmits=0)
        for _ in range(2)
    ]
    + [reusing() for _ in range(9)],
    ("connection_dead", "this process stood still"): [
        failed("wait", "ReadTimeout", time__wait=3.0, conn__idle=5.0, **LATE) for _ in range(2)
    ]
    + [reusing() for _ in range(9)],
    ("server_slow", "what was written was never"): [
        failed("wait", "ReadTimeout", time__wait=1.0, tcp__unacked=1, tcp__retransmits=3)
    ],
    ("server_slow", "the request was still"): [
        failed("wait", "ReadTimeout", time__wait=1.0, tcp__unacked=90_000, tcp__retransmits=0)
    ],
    ("server_slow", "this process stood still"): [reusing(time__wait=6.0, stalled=5.9)],
    ("stale_keepalive", "an answer that cannot"): [gone(**IDLE, response__bytes_received=9)],
    ("stale_keepalive", "the server reset one"): [failed("wait", "RemoteProtocolError", **STREAM)],
    ("stale_keepalive", "the server retired"): [gone(**{**IDLE, "conn__close_reason": "goaway"})],
    ("stale_keepalive", "this program closed"): [gone(**{**IDLE, "conn__close_reason": "client_closed"})],
    ("stale_keepalive", "the server ended while"): [gone(**{**IDLE, "time__wait": 2.0})],
    ("closed_without_answer", "an answer that cannot"): [gone(response__bytes_received=9)],
    ("closed_without_answer", "the server reset one"): [
        failed("wait", "RemoteProtocolError", **{**STREAM, "conn__idle": 0.0})
    ],
    ("closed_without_answer", "the server retired"): [gone(conn__close_reason="goaway")],
    ("closed_without_answer", "this program closed"): [gone(conn__close_reason="client_closed")],
    ("closed_without_answer", "the server had closed the idle"): [gone(**IDLE, response__bytes_received=0)],
    ("body_failed", "this program closed"): [
        reusing(failed=True, body__outcome="failed", error__type="ReadError", conn__close_reason="client_closed")
    ],
    ("body_failed", "this process stood still"): [
        reusing(failed=True, body__outcome="failed", error__type="ReadTimeout", time__receive=3.0, **CLOSED, **LATE)
    ],
    ("body_failed", "the server reset one"): [
        reusing(failed=True, body__outcome="failed", error__type="RemoteProtocolError", **STREAM)
    ],
    ("body_failed", "the server retired"): [
        reusing(failed=True, body__outcome="failed", error__type="RemoteProtocolError", conn__close_reason="goaway")
    ],
    ("call_repeated", "separate calls"): [
        row(number, 0.5, status=503 if number < 2 else 200, target="GET /x") for number in (0.0, 1.0, 2.5)
    ],
    ("body_not_read", "an exception of the application"): [
        opening("first_connection", conn__close_reason="body_not_read", body__outcome="closed_early",
                body__closed_by="ValueError") for _ in range(3)
    ],
    ("body_not_read", "the body was complete"): [
        opening("first_connection", conn__close_reason="body_not_read", body__outcome="closed_early",
                body__bytes_read=50, http__response__body__size=50) for _ in range(3)
    ],
    ("pool_saturated", "this process stood still"): [
        reusing(time__pool=1.0, pool__connections=1, pool__limit=1, pool__waiting=0, stalled=0.9)
    ],
    ("dns_slow", "this process stood still"): [opening("first_connection", time__dns=2.0, stalled=1.9)],
    ("address_fallback", "the address that won"): [
        opening("first_connection", time__connect=0.5, steps=(
            step("http.dns", dns__answers=["::1", "127.0.0.1"]),
            step("http.connect", network__peer__address="127.0.0.1"),
        ))
    ],
    ("tls_slow", "this process stood still"): [opening("first_connection", time__tls=2.0, stalled=1.9)],
    ("body_slow_server", "a stream of events"): [
        reusing(time__receive=60.0, body__read_wait=59.0, http__response__body__size=9_000)
    ],
    ("body_slow_server", "this process stood still"): [reusing(time__receive=20.0, body__read_wait=19.0, stalled=19.0)],
}  # fmt: skip


def findings(rows: list[Row]) -> dict[str, Finding]:
    """By verdict."""
    return {finding.verdict: finding for finding in analyze(rows).findings}


PAIRS = [(verdict.name, rival.cause) for verdict in DEFINITIONS.values() for rival in verdict.rivals]


@pytest.mark.parametrize(("verdict", "rival"), PAIRS)
def test_a_rival(verdict: str, rival: str) -> None:
    """Where a rival is what happened, the verdict keeps silent, or is not certain and names it."""
    (rows,) = [rows for (of, begins), rows in PLAYED.items() if of == verdict and rival.startswith(begins)]
    defined, limits = DEFINITIONS[verdict], Thresholds()
    finding = findings(rows).get(verdict)

    # It has the symptom, and the definition alone tells, whatever verdict comes before it.
    alike = [one for one in rows if all(asked.holds(one, limits) for asked in defined.asks)]
    assert alike
    for one in alike:
        assert not defined.holds(one, limits) or rival in [left.cause for left in defined.left(one, limits)]
    if finding is not None:
        assert finding.sure is not Sure.CERTAIN
        assert rival in [one.cause for one in finding.rivals]


def test_every_scenario_is_of_a_rival() -> None:
    """No scenario is of a pair that there is not: each rival has one."""
    assert len(PLAYED) == len(PAIRS)


@pytest.mark.parametrize(("verdict", "rival"), [pair for pair in PAIRS if pair[0] in {one.name for one in FAILURES}])
def test_what_failed_is_told_all_the_same(verdict: str, rival: str) -> None:
    """Whatever a rival silences, each request that failed is in one finding, and that one stands first."""
    (rows,) = [rows for (of, begins), rows in PLAYED.items() if of == verdict and rival.startswith(begins)]
    broken = [one for one in rows if one.failed]
    found = [finding for finding in analyze(rows).findings if finding.verdict in {one.name for one in FAILURES}]

    assert sum(finding.requests for finding in found) >= len(broken)


def test_a_stream_of_events() -> None:
    """A stream that is meant to last is judged by its longest gap, and not by its length; it may have had nothing to send."""
    lasting: dict[str, Any] = {"time__receive": 600.0, "body__read_wait": 599.0, "http__response__body__size": 9_000}
    finding = findings([reusing(**lasting, body__max_gap=30.0)])["body_slow_server"]

    assert findings([reusing(**lasting, body__max_gap=2.0)]) == {}
    assert finding.sure is Sure.LIKELY
    assert "up to 30.0 s of it without a byte" in finding.sentence
    assert [rival.cause for rival in finding.rivals] == [
        "a stream of events that is meant to last, and had nothing to send"
    ]
    # A download has something to send until it is over.
    lasting["http__response__body__size"] = 2_000_000
    assert findings([reusing(**lasting, body__max_gap=30.0)])["body_slow_server"].sure is Sure.CERTAIN


def test_a_process_that_stood_still() -> None:
    """Timeouts at one instant, of requests that had taken more and less, are this process's; begun together they are not."""
    known: dict[str, Any] = {"failed_phase": "wait", "error__type": "ReadTimeout", **BEFORE}
    stalled = [row(start, 10 - start, conn__id=number, **known) for number, start in enumerate((0.0, 4.0, 8.0))]
    together = [row(0.0, 5.0, conn__id=number, **known) for number in range(3)]
    shared = [row(start, 10 - start, conn__id=7, **known) for start in (0.0, 4.0, 8.0)]

    assert list(findings(stalled)) == ["process_stalled"]
    assert list(findings(together)) == list(findings(shared)) == ["server_slow"]


def test_old_connections_that_are_dead() -> None:
    """None of the older connections and all of the younger ones get an answer: it is their age, with the number."""
    dead = [failed("wait", "ReadTimeout", time__wait=1.0, conn__idle=idle, **CLOSED) for idle in (1.4, 1.6)]
    well = [reusing(conn__idle=0.3) for _ in range(6)]
    finding = findings([*dead, *well])["connection_dead"]

    assert finding.sure is Sure.LIKELY
    assert "set keepalive_expiry below 1.4 s (between 300 ms and that)" in finding.advice
    # One that was older still went well, or the younger ones fail as well: then it is not their age.
    assert list(findings([*dead, *well, reusing(conn__idle=9.0)])) == ["server_slow"]
    younger = [failed("wait", "ReadTimeout", time__wait=1.0, conn__idle=0.1, **CLOSED) for _ in range(3)]
    assert list(findings([*dead, *well, *younger])) == ["server_slow"]


def test_old_connections_that_are_dead_behind_a_proxy() -> None:
    """What acknowledged the requests need not be the server: their age tells, if by chance it would be 1 in 20 or less."""
    known: dict[str, Any] = {"conn__idle": 1.4, "timeout": 1.0, "tcp__unacked": 0, "tcp__retransmits": 0}
    dead = [failed("wait", "ReadTimeout", time__wait=1.0, **known, **CLOSED) for _ in range(2)]
    finding = findings([*dead, *(reusing(conn__idle=0.3) for _ in range(5))])["connection_dead"]

    assert finding.sure is Sure.LIKELY
    assert [one.cause for one in finding.rivals] == [
        "the server had the request, and was slow after the pause (asleep, a cold start)"
    ]
    assert "what acknowledged the requests, a load balancer or a proxy, had forgotten the way on" in finding.sentence
    assert "nothing was acknowledged" not in finding.sentence
    assert "TCP keep-alive" not in finding.advice
    assert list(findings([*dead, *(reusing(conn__idle=0.3) for _ in range(4))])) == ["server_slow"]


def test_a_stall_that_cannot_be_excluded() -> None:
    """Where the phase had several operations nothing tells when the one that timed out began: then it is not certain."""
    finding = findings([failed("proxy", "ReadTimeout", time__proxy=3.0, timeout=1.0)])["proxy_timeout"]
    due = findings([failed("proxy", "ReadTimeout", time__proxy=1.01, timeout=1.0)])["proxy_timeout"]

    assert (finding.sure, [one.cause.partition(":")[0] for one in finding.rivals]) == (
        Sure.LIKELY,
        ["this process stood still"],
    )
    assert due.sure is Sure.CERTAIN


@pytest.mark.parametrize("newest_first", [False, True])
def test_connections_lost_by_an_exception(newest_first: bool) -> None:
    """Connections that an exception of the application's lost are told with that, and not as bodies left unread."""
    line = "app.py:7 in digest"
    lost: dict[str, Any] = {"conn__close_reason": "body_not_read", "body__outcome": "closed_early",
                            "body__closed_at": line}  # fmt: skip
    rows = [opening("first_connection", **lost, body__closed_by="ValueError")]
    for _ in range(3):
        link = Link("", rows[-1].span_id, {"httptrace.link": "connection_lost_by", "httptrace.body.closed_at": line})
        rows.append(opening("body_not_read", **lost, body__closed_by="ValueError", links=(link,)))

    assert list(findings(rows[::-1] if newest_first else rows)) == ["application_failed"]


def test_an_upload_that_is_slow() -> None:
    """Time in sending is not the server's to think: it is told as an upload, with what the kernel still had."""
    slow = findings([reusing(time__send=5.0, time__wait=3.5, tcp__unacked=90_000, tcp__retransmits=0)])

    assert list(slow) == ["upload_slow"]
    assert "took up to 5.0 s to be written, and up to 8.5 s until the answer began; the kernel still had" in (
        slow["upload_slow"].sentence
    )
    assert list(findings([reusing(time__send=0.1, time__wait=6.0)])) == ["server_slow"]


def test_attempts_of_one_call() -> None:
    """What was sent again in one span is one call, with its total."""
    attempts = [
        row(start, 0.5, status=status, target="GET /x", parent_id="p")
        for start, status in ((0.0, 503), (1.0, 503), (3.0, 200))
    ]
    for each in attempts:
        each.trace_id = "t"
    finding = findings(attempts)["call_repeated"]

    assert finding.sure is Sure.CERTAIN
    assert finding.numbers == {"calls": 1, "attempts": 3, "longest": pytest.approx(3.5)}
    for number, each in enumerate(attempts):
        each.parent_id = str(number)
    assert findings(attempts) == {}


def test_statuses() -> None:
    """Errors that the server answers with are a finding where they are many, and one is none."""
    rows = [reusing(status=500) for _ in range(30)] + [reusing() for _ in range(211)]
    (finding,) = analyze(rows).findings

    assert finding.verdict == "error_statuses"
    assert finding.sentence.endswith("(30 of 241) were errors of the server's: 200 x 211, 500 x 30")
    assert findings([reusing(status=500), *rows[30:]]) == {}


def test_what_is_harmless_comes_last() -> None:
    """One cancelled request is told after hundreds of lost connections; a failure is not."""
    lost = [opening("keepalive_expired") for _ in range(100)]
    gave_up, refused = row(status=None, failed_phase="wait"), failed("connect", "ConnectError")

    assert list(findings([gave_up, refused, *lost])) == ["failed", "keepalive_expired", "cancelled_in"]


def test_every_open_reason_concludes() -> None:
    """Each value of open_reason is told, at its cost, with whose setting it is and what to change; or it is no fault."""
    from otel_httptrace.core.ledger import Reason  # noqa: PLC0415
    from otel_httptrace.report.verdicts.reasons import REASONS  # noqa: PLC0415

    assert {reason.value for reason in REASONS} == {reason.value for reason in Reason}
    for reason in REASONS:
        rows = [opening(reason.value, start=number, time__tls=0.01) for number in range(4)]
        found = findings(rows)
        assert list(found) == ([reason.verdict] if reason.verdict and reason.value != "body_not_read" else []) or (
            reason.value == "body_not_read"
        )
        for finding in found.values():
            assert finding.requests >= 4
            assert finding.seconds == pytest.approx(0.08)
            assert finding.advice


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_criterion_printed_is_the_one_tested(name: str) -> None:
    """A verdict's criterion names what is asked, and every threshold that it is asked with."""
    told = DEFINITIONS[name].criterion(Thresholds())

    assert all(one.said(Thresholds()) in told for one in DEFINITIONS[name].asks)
    assert not DEFINITIONS[name].number or f"({DEFINITIONS[name].number})" in told
