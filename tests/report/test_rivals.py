"""Each verdict's rivals: where the rival is what happened, the verdict keeps silent, or is not certain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kit.otlp import opening, reusing, row, served

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Sure, Thresholds
from otel_httptrace.report.rows import Other, Row, Sent, Step
from otel_httptrace.report.spans import Link, Source
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


def late_there(*, port: int = 40000, **rest: Any) -> list[Row]:
    """A request that waited for 0.9 s, of which the server's span has 40 ms: both ends."""
    client = opening("first_connection", network__local__port=40000, time__wait=0.9, duration=0.91, **rest)
    there = served(client, port=port, duration=0.04)
    client.other = Other(there.half, port == 40000)
    return [there, client]


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
    ("upload_slow", "what makes the body"): [reusing(time__send=6.0, time__wait=1.0, tcp__unacked=0)],
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
    ("closed_without_answer", "the server closes connections after"): [
        gone(http__conn__reused=True, conn__requests=1, conn__idle=0.01, time__wait=0.001),
        gone(http__conn__reused=True, conn__requests=1, conn__idle=0.01, time__wait=0.001, time__send=0.02, tcp__unacked=9),
    ],
    ("closed_without_answer", "the server refused in TLS"): [
        gone(origin="https://a", http__conn__reused=False, failed_cause="TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        gone(origin="https://a", http__conn__reused=False, time__wait=0.001),
    ],
    ("error_statuses", "a gateway or a proxy"): [row(status=503, failed=True) for _ in range(3)],
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
    ("body_failed", "this program did not read"): [
        reusing(failed=True, body__outcome="failed", error__type="ReadError", time__receive=9.0, body__read_wait=0.1)
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
    ("time_between", "this process stood still"): late_there(stalled=0.8),
    ("time_between", "the network"): late_there(tcp__rtt=0.4, tcp__retransmits=0),
    ("time_between", "what stands between"): late_there(port=40001),
    ("time_between", "the server, before or after"): late_there(tcp__rtt=0.001, tcp__retransmits=0, stalled=0.01),
    ("clients_left", "what stands between closed it"): [served(closed="client_left") for _ in range(3)],
    ("clients_do_not_reuse", "this server's keep-alive timeout"): [
        served(start=number, lost=("keepalive_timeout", 5.0, 41000 + number, 1)) for number in range(30)
    ],
    ("clients_do_not_reuse", "it is told by the client's address"): [
        served(start=number, httptrace__server__conn__inferred=True) for number in range(30)
    ],
    ("clients_do_not_reuse", "many clients behind one"): [
        served(start=number, lost=("client_closed", 0.0, 41000 + number, 1)) for number in range(30)
    ],
    ("server_keeps_none", "the clients asked for it"): [
        served(start=number, closed="connection_close") for number in range(30)
    ],
    ("redirect_loop", "a program that does not"): [
        reusing(0.02 * number, status=302, target="GET http://a/poll") for number in range(9)
    ],
    ("requests_refused", "a program that expects"): [reusing(status=401) for _ in range(3)],
    ("redirected", "another request that began"): [
        reusing(number + hop / 50, status=200 if hop else 307, target=f"GET http://a/items{'/' * hop}")
        for number in range(3) for hop in range(2)
    ],
    ("waited_to_retry", "what else the program does"): [
        replace(reusing(duration=4.0, time__wait=1.0), before=[Sent(0.0, 0.5, False, 503, {})])
    ],
    ("connect_slow", "this process stood still"): [
        opening("first_connection", time__connect=2.0, steps=(step("http.connect", 2.0),), stalled=1.9)
    ],
    ("connect_slow", "another address was tried"): [
        opening("first_connection", time__connect=2.0, steps=(
            step("http.dns", dns__answers=["::1", "127.0.0.1"]),
            step("http.connect", 2.0, network__peer__address="127.0.0.1"),
        ))
    ],
    ("connect_slow", "the way there takes"): [
        opening("first_connection", time__connect=2.0, steps=(step("http.connect", 2.0, httptrace__connect__resent=0),))
    ],
    ("proxy_slow", "this process stood still"): [opening("first_connection", time__proxy=2.0, stalled=1.9)],
}  # fmt: skip


def findings(rows: list[Row]) -> dict[str, Finding]:
    """By verdict."""
    return {finding.verdict: finding for finding in analyze(rows).findings}


PAIRS = [(verdict.name, rival.cause) for verdict in DEFINITIONS.values() for rival in verdict.rivals]


@pytest.mark.parametrize(("verdict", "rival"), PAIRS)
def test_a_verdict_gives_way_to_its_rival(verdict: str, rival: str) -> None:
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
    (well,) = findings([reusing(duration=1.6, stalled=1.2)]).values()
    assert {one.what for one in findings([reusing(conn__inherited=True)])["connection_inherited"].evidence} == {
        "answered with 200 after 10.0 ms"
    }
    assert well.evidence[0].what == "the process stood still for 1.2 s of 1.6 s"
    assert well.sentence.startswith("this process stood still for 1.2 s or longer at a time, as 1 request to ")
    assert list(findings(together)) == list(findings(shared)) == ["server_slow"]


def test_old_connections_that_are_dead() -> None:
    """None of the older connections and all of the younger ones get an answer: it is their age, with the number."""
    dead = [failed("wait", "ReadTimeout", time__wait=1.0, conn__idle=idle, **CLOSED) for idle in (1.4, 1.6)]
    well = [reusing(conn__idle=0.3) for _ in range(6)]
    finding = findings([*dead, *well])["connection_dead"]

    assert finding.sure is Sure.LIKELY
    assert "set keepalive_expiry well below 1.4 s (between 300 ms and that)" in finding.advice
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


@pytest.mark.parametrize(("waited", "told"), [(0.02, "server_slow"), (0.6, "upload_stalled")])
def test_an_acknowledgement_may_be_put_off(waited: float, told: str) -> None:
    """That a request is not acknowledged yet says nothing before half a second: no upload is told of a GET cut short."""
    cut = reusing(
        failed=True, error__type="ReadTimeout", failed_phase="wait", time__wait=waited, timeout=waited,
        tcp__unacked=219, tcp__retransmits=0,
    )  # fmt: skip

    assert list(findings([cut])) == [told]


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


def test_many_errors_of_a_server_are_a_finding() -> None:
    """Errors that the server answers with are a finding where they are many, and one is none."""
    rows = [reusing(status=500) for _ in range(30)] + [reusing() for _ in range(211)]
    (finding,) = analyze(rows).findings

    assert finding.verdict == "error_statuses"
    assert finding.sentence.endswith("(30 of 241) were errors of the server's: 200 x 211, 500 x 30")
    assert findings([reusing(status=500), *rows[30:]]) == {}


def test_what_is_harmless_comes_last() -> None:
    """One cancelled request is told after hundreds of lost connections; a failure is not."""
    lost = [opening("keepalive_expired") for _ in range(100)]
    gave_up, refused = row(status=None, failed_phase="wait"), failed("connect", "ConnectError", start=5.0)

    assert list(findings([gave_up, refused, *lost])) == ["failed", "keepalive_expired", "cancelled_in"]


def test_every_open_reason_concludes() -> None:
    """Each value of open_reason is told, at its cost, with whose setting it is and what to change; or it is no fault."""
    from otel_httptrace.core.ledger import Reason
    from otel_httptrace.report.verdicts.reasons import REASONS

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


def test_an_error_status_that_raised_is_the_servers() -> None:
    """An exception that the application raises for the server's error is no fault of the application's, many or few."""
    raised: dict[str, Any] = {"failed": True, "body__outcome": "closed_early", "body__closed_by": "HTTPStatusError",
                              "conn__close_reason": "body_not_read", "body__closed_at": "app.py:7 in get"}  # fmt: skip
    (many,) = analyze([reusing(status=500, **raised) for _ in range(5)]).findings
    (few,) = analyze([reusing(status=500, **raised) for _ in range(2)]).findings
    (client,) = analyze([reusing(status=404, **raised) for _ in range(4)]).findings

    assert (many.verdict, many.requests, many.sure) == ("error_statuses", 5, Sure.CERTAIN)
    assert "read the body before raise_for_status()" in many.advice
    assert (few.verdict, few.requests) == ("application_failed", 2)
    assert "had a status of errors (500 x 2)" in few.sentence
    assert "had a status of errors (404 x 4)" in client.sentence


def test_who_gave_the_status() -> None:
    """A gateway's status is not said to be the server's, and the proxy it came through is named."""
    rows = [opening("first_connection", status=503, failed=True, steps=PROXY)] + [reusing(status=503) for _ in range(4)]
    (proxied,) = analyze(rows).findings
    (gateway,) = analyze([reusing(status=502) for _ in range(4)]).findings

    assert proxied.sure is Sure.LIKELY
    assert "through the proxy proxy.test:3128" in proxied.advice
    assert "errors: 502 x 4" in gateway.sentence
    assert "a gateway's" in gateway.advice


def test_streams_that_end_with_their_connection() -> None:
    """Many streams of one HTTP/2 connection are one connection that was closed."""
    h2: dict[str, Any] = {"http__conn__wasidle": False, "conn__id": 1, "time__wait": 0.6}
    (finding,) = analyze([gone(**h2) for _ in range(6)]).findings

    assert finding.verdict == "closed_without_answer"
    assert finding.sentence.startswith("1 HTTP/2 connection to http://api.test was closed")
    assert "6 requests on it failed" in finding.sentence


def test_an_answer_that_had_begun() -> None:
    """Where bytes came before the timeout, the report does not say that nothing came."""
    (finding,) = analyze([failed("wait", "ReadTimeout", time__wait=1.0, response__bytes_received=38)]).findings

    assert finding.verdict == "server_slow"
    assert "nothing came" not in finding.sentence
    assert "38 B came" in finding.sentence


def test_an_exception_of_another_request() -> None:
    """A response given up because another request failed is told after that failure."""
    first, second = analyze(
        [failed("wait", "ReadTimeout", time__wait=1.0, tcp__unacked=0, timeout=1.0)]
        + [reusing(body__outcome="closed_early", body__closed_by="ReadTimeout", failed=True) for _ in range(3)]
    ).findings

    assert (first.verdict, second.verdict) == ("server_slow", "application_failed")
    assert "ReadTimeout of another request" in second.sentence


def test_attempts_in_vain_come_after_their_cause() -> None:
    """Calls whose every attempt failed are failed by that cause, not by having been repeated."""
    rows = [
        failed("connect", "ConnectError", start=start, failed_cause="ECONNREFUSED", parent_id="a", target="POST /x")
        for start in (0.0, 0.5, 1.5)
    ]
    for one in rows:
        one.trace_id = "7" * 32

    assert [finding.verdict for finding in analyze(rows).findings] == ["failed", "call_repeated"]


@pytest.mark.parametrize(
    ("phase", "error", "cause", "says"),
    [
        ("proxy", "RemoteProtocolError", None, "the proxy closed the connection"),
        ("send", "ReadTimeout", "ReadTimeout", "WINDOW_UPDATE"),
        ("send", "ValueError", "ValueError", "what makes the request's body"),
        ("wait", "ReadError", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "a client certificate"),
        ("tls", "ConnectError", "UNEXPECTED_EOF_WHILE_READING", "hung up in the handshake"),
    ],
)
def test_advice_blames_who_it_was(phase: str, error: str, cause: str | None, says: str) -> None:
    """What nothing else explains is not put down to the server where its exception says otherwise."""
    (finding,) = analyze(
        [failed(phase, error, origin="https://a", **({"failed_cause": cause} if cause else {}))]
    ).findings

    assert finding.verdict == "failed"
    assert says in finding.advice


def test_a_timeout_that_is_short() -> None:
    """A dial's timeout below a second is told: it may be that, and not what it struck on."""
    (short,) = analyze([failed("tls", "ConnectTimeout", time__tls=0.1, timeout=0.1)]).findings
    (long,) = analyze([failed("tls", "ConnectTimeout", time__tls=5.0, timeout=5.0)]).findings

    assert "ConnectTimeout of 100 ms" in short.sentence
    assert "the timeout is too short" in short.advice
    assert "too short" not in long.advice


def test_who_made_the_body_may_be_slow() -> None:
    """A slow upload is the way's for certain only if the kernel had more to send than the last part."""
    sending: dict[str, Any] = {"time__send": 6.0, "time__wait": 0.1, "stalled": 0.01}

    assert findings([reusing(**sending, tcp__unacked=2_000_000)])["upload_slow"].sure is Sure.CERTAIN
    assert "or what makes the body" in findings([reusing(**sending, tcp__unacked=0)])["upload_slow"].sentence


def test_connections_closed_at_one_moment() -> None:
    """Idle connections that are all found closed at once may have been closed by a restart."""
    once = findings([opening("server_closed", start=0.1 * number) for number in range(4)])["server_closes_idle"]
    often = findings([opening("server_closed", start=6.0 * number) for number in range(4)])["server_closes_idle"]

    assert (once.sure, often.sure) == (Sure.LIKELY, Sure.CERTAIN)
    assert "restarted" in once.advice


VAIN: dict[str, Any] = {"time__pool": 1.0, "pool__connections": 1, "pool__limit": 1, "pool__waiting": 0}


@pytest.mark.parametrize(
    ("holder", "sure", "says"),
    [
        (None, Sure.LIKELY, "no request that was seen held any of it"),
        ({"time__wait": 4.0}, Sure.CERTAIN, "waited for the server's answer, for up to 4.0 s"),
        ({"time__receive": 4.0, "body__read_wait": 0.1}, Sure.CERTAIN, "in this program, for up to 3.9 s"),
        ({"time__receive": 4.0, "body__read_wait": 3.9}, Sure.CERTAIN, "waited for the server's bodies"),
        ({"body__outcome": "closed_early", "body__closed_by": "PoolTimeout"}, Sure.CERTAIN, "waited for it themselves"),
    ],
)
def test_who_held_the_pool(holder: dict[str, Any] | None, sure: Sure, says: str) -> None:
    """Who waited for the pool in vain is told what those did who held it, so that nobody raises a limit for nothing."""
    links: tuple[Link, ...] = ()
    rows: list[Row] = []
    if holder is not None:
        rows = [reusing(duration=4.5, span_id="f" * 16, **holder)]
        links = (Link("0" * 32, "f" * 16, {}),)
    rows.append(failed("pool", "PoolTimeout", links=links, **VAIN))
    finding = findings(rows)["pool_saturated"]

    assert says in finding.sentence
    assert finding.sure is sure


def test_a_slow_server_before_the_pool_that_it_fills() -> None:
    """Where requests that the server left without an answer held the pool, that comes first."""
    slow = failed("wait", "ReadTimeout", duration=6.0, time__wait=6.0, span_id="f" * 16, timeout=6.0)
    link = Link("0" * 32, "f" * 16, {})
    rows = [slow] + [failed("pool", "PoolTimeout", links=(link,), **VAIN) for _ in range(5)]

    assert [finding.verdict for finding in analyze(rows).findings] == ["server_slow", "pool_saturated"]


def test_a_lookup_that_waited_for_a_thread() -> None:
    """The resolver is not blamed for the time that it was not asked in, whether the lookup failed or not."""
    queued = (step("http.dns", 2.0, dns__question__name="a.test", httptrace__dns__queued=1.9),)
    slow = findings([opening("first_connection", time__dns=2.0, steps=queued)])["dns_slow"]
    late = findings([failed("dns", "ConnectTimeout", time__dns=2.0, steps=queued)])["dns_timeout"]
    asked = findings([opening("first_connection", time__dns=2.0)])["dns_slow"]

    for finding in (slow, late):
        assert "up to 1.9 s" in finding.sentence
        assert "the resolver is not to blame" in finding.advice
    assert "look at the resolver" in asked.advice


def test_cancelled_for_a_sibling() -> None:
    """Requests cancelled just after another one failed are told so; those cancelled at other times are not."""
    cancelled: dict[str, Any] = {"status": None, "failed_phase": "wait", "time__wait": 0.3, "duration": 0.3}
    rows = [row(0.0, 0.3, status=500, failed=True)] + [row(**cancelled, start=0.001 * number) for number in range(6)]
    later = [row(0.0, 0.3, status=500, failed=True)] + [row(**cancelled, start=5.0) for _ in range(6)]

    assert (
        "6 of them just after another request of this process had failed (500)"
        in findings(rows)["cancelled_in"].sentence
    )
    assert "just after" not in findings(later)["cancelled_in"].sentence


def test_cancelled_for_the_one_thing_that_failed() -> None:
    """What was cancelled just after the one thing that failed is told with that; not where others were cancelled, too."""
    cancelled: dict[str, Any] = {**CLOSED, "status": None, "failed_phase": "wait", "time__wait": 0.3, "duration": 0.3}
    cancelled["conn__close_reason"] = "request_cancelled"
    malformed = gone(response__bytes_received=41, duration=0.3)
    rows = [malformed, *(row(**cancelled, start=0.001 * number) for number in range(6))]
    refused = row(failed=True, status=None, failed_phase="connect", error__type="ConnectError", start=9.0)

    (told,) = findings(rows).values()
    assert told.sentence.endswith("; 6 other requests were cancelled just after, with 6 connections")
    begun_after = {**cancelled, "duration": 0.002, "time__wait": 0.002}
    for more in (row(**cancelled, start=5.0), refused, row(**begun_after, start=0.301)):
        assert "cancelled_in" in findings([*rows, more])


def given_up(phase: str, start: float, duration: float, **rest: Any) -> Row:
    """A request that its caller gave up."""
    known: dict[str, Any] = {f"time__{phase}": duration, **rest}
    known |= {"body__outcome": "cancelled"} if phase == "receive" else {"status": None, "failed_phase": phase}
    return row(start, duration, **known)


@pytest.mark.parametrize(
    ("rows", "together"),
    [
        ([given_up("wait", 0.0, 1.0), given_up("connect", 0.4, 0.61), given_up("receive", 0.8, 0.2)], True),
        ([given_up(phase, 2.0 * at, 1.0) for at, phase in enumerate(("wait", "receive", "wait"))], True),
        ([given_up("wait", 0.0, 1.0), given_up("receive", 0.4, 0.7)], False),
        ([given_up("wait", 0.0, 1.0), given_up("receive", 0.5, 0.5), given_up("wait", 7.0, 0.1)], False),
        ([given_up("wait", 0.0, 1.0), given_up("receive", 0.5, 0.5, source=Source("other", "2"))], False),
    ],
    ids=["at one instant", "after the same time", "at different times", "some of them", "in two processes"],
)
def test_cancelled_in_several_phases(rows: list[Row], together: bool) -> None:
    """What was given up at one instant, or each after the same time, is one finding in however many phases."""
    found = [finding for finding in analyze(rows).findings if finding.verdict == "cancelled_in"]

    assert len(found) == (1 if together else 2)
    assert sum(finding.requests for finding in found) == len(rows)
    assert all(("phases" in (finding.numbers or {})) is together for finding in found)


def test_given_up_while_bytes_came() -> None:
    """Of bodies that came a little at a time until a timer gave them up, it is said that no read timeout helps."""
    dripping = [given_up("receive", 2.0 * at, 1.5, body__max_gap=0.1) for at in range(3)]
    silent = [given_up("receive", 2.0 * at, 1.5, body__max_gap=1.4) for at in range(3)]

    said = "bytes of the body came all that time, at most 100 ms apart: no read timeout strikes then"
    assert said in findings(dripping)["cancelled_in"].sentence
    assert said not in findings(silent)["cancelled_in"].sentence


@pytest.mark.parametrize("verdict", ["error_statuses", "server_slow", "closed_without_answer", "body_failed"])
def test_one_of_a_servers_addresses(verdict: str) -> None:
    """What befell all requests to one of a server's addresses, and none to the others, is told of that address."""
    known: dict[str, dict[str, Any]] = {
        "error_statuses": {"status": 500},
        "server_slow": {"time__wait": 9.0, "duration": 9.0},
        "closed_without_answer": {**BEFORE, **CLOSED, "failed_phase": "wait", "error__type": "ReadError"},
        "body_failed": {**CLOSED, "failed": True, "body__outcome": "failed", "error__type": "ReadError"},
    }
    bad = [reusing(network__peer__address="10.0.0.2", **known[verdict]) for _ in range(5)]
    well = [reusing(network__peer__address="10.0.0.1") for _ in range(5)]
    also_there = [reusing(network__peer__address="10.0.0.2") for _ in range(30)]
    also_here = reusing(network__peer__address="10.0.0.1", **known[verdict])
    unknown = reusing(**known[verdict])

    told = findings([*bad, *well])[verdict]
    assert told.numbers is not None and told.numbers["address"] == "10.0.0.2"
    assert told.sentence.endswith(
        "; all of them had gone to 10.0.0.2, one of 2 addresses, and 5 requests to the other did not do so"
    )
    for rows in (bad, [*bad, *well, *also_there], [*bad, *well, also_here], [*bad, *well, unknown]):
        assert "address" not in (findings(rows)[verdict].numbers or {})


def test_a_port_at_which_nothing_ever_went_well() -> None:
    """Where every connection is closed at once, it may be the wrong port or scheme; not where others went well."""
    at_once = [gone(http__conn__reused=False, time__wait=0.001) for _ in range(3)]

    assert "the right scheme" in findings(at_once)["closed_without_answer"].advice
    assert "the right scheme" not in findings([*at_once, reusing()])["closed_without_answer"].advice


def test_a_body_that_was_read_slowly() -> None:
    """Where the program was between reads most of the time, the server may have given it up; else that is not said."""
    broken: dict[str, Any] = {"failed": True, "body__outcome": "failed", "error__type": "ReadError", **CLOSED}
    slow = findings([reusing(**broken, time__receive=9.0, body__read_wait=0.1)])["body_failed"]
    quick = findings([reusing(**broken, time__receive=9.0, body__read_wait=8.9)])["body_failed"]

    assert (slow.sure, quick.sure) == (Sure.LIKELY, Sure.CERTAIN)
    assert "between reads" in slow.advice


def test_cancelled_by_a_timer() -> None:
    """Requests given up one after the other, each after the same time, are a timeout around them; those at once are not."""
    gone_at: dict[str, Any] = {"status": None, "failed_phase": "wait", "time__wait": 1.0, "duration": 1.0}
    timer = findings([row(**gone_at, start=1.5 * number) for number in range(4)])["cancelled_in"]
    at_once = findings([row(**gone_at, start=0.001 * number) for number in range(4)])["cancelled_in"]

    assert "each was given up after about 1.0 s" in timer.advice
    assert "look at who cancels" in at_once.advice
