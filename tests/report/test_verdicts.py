"""Each verdict: what makes it, what does not, and what it says. Programs that lead to them are in tests/stories."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from kit.otlp import ORIGIN, opening, reusing, row

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Severity, Sure, Thresholds
from otel_httptrace.report.rows import Row, Step
from otel_httptrace.report.spans import Link, Source
from otel_httptrace.report.verdicts import VERDICTS
from otel_httptrace.telemetry import names


def found(*rows: Row, **thresholds: Any) -> list[Finding]:
    """The findings of *rows*."""
    return list(analyze(rows, Thresholds(**thresholds)).findings)


def only(*rows: Row, **thresholds: Any) -> Finding:
    """The one finding of *rows*."""
    (finding,) = found(*rows, **thresholds)
    return finding


def losing(at: str | None = "app.py:7 in check", via: str | None = None, **rest: Any) -> Row:
    """A request that closed its response unread, on a connection of its own."""
    known = {"body__closed_at": at} if at else {}
    known |= {"body__closed_via": via} if via else {}
    return opening(
        "first_connection", conn__close_reason="body_not_read", **{"body__outcome": "closed_early", **known, **rest}
    )


def replacing(lost: Row, *, linked: bool = True, attributes: bool = True, **rest: Any) -> Row:
    """The request that had to open a connection after *lost*."""
    described = {names.LINK: names.LINK_CONNECTION_LOST_BY, names.CONN_CLOSE_REASON: "body_not_read"}
    if names.BODY_CLOSED_AT in lost.attributes and attributes:
        described[names.BODY_CLOSED_AT] = lost.attributes[names.BODY_CLOSED_AT]
    links = (Link(lost.trace_id, lost.span_id, described),) if linked else ()
    return opening("body_not_read", links=links, **rest)


# Connections: stories 1, 2, 5, 9, 15.


def test_body_not_read_counts_by_line() -> None:
    """Lost connections are counted by line, with what their replacements cost."""
    first, second = losing(), losing()
    through = [losing(via="sdk/stream.py:3 in close", body__bytes_read=10) for _ in range(3)]
    rows = [first, second, *through]
    other, one = found(*rows, *(replacing(each) for each in rows), reusing())

    assert (one.verdict, one.severity, one.sure) == ("body_not_read", Severity.WASTE, Sure.CERTAIN)
    assert (one.line, one.via, one.origin) == ("app.py:7 in check", None, ORIGIN)
    assert one.sentence == (
        f"20 % of the connections to {ORIGIN} (2 of 10) were lost because responses were closed before they had been "
        "read, at app.py:7 in check; 2 new connections had to be opened and 2 lookups made, 20.0 ms in all"
    )
    assert one.advice.startswith("read the body to its end before closing")
    assert (other.line, other.via) == ("app.py:7 in check", "sdk/stream.py:3 in close")
    assert "by way of sdk/stream.py:3 in close; 3 new connections had to be opened" in other.sentence
    assert [evidence.span_id for evidence in one.evidence][1:] == [first.span_id, second.span_id]


def test_a_library_that_closed_it() -> None:
    """Where a library closed it the advice is for that: one's own code cannot read on."""
    (finding,) = found(*(losing(via="sdk/stream.py:3 in close", body__bytes_read=10) for _ in range(2)))

    assert "inside a library (sdk/stream.py:3), where your code can't read on" in finding.advice
    assert "read the body" not in finding.advice


def test_one_line_and_many_servers() -> None:
    """A line is one cause, whatever servers it talks to: one finding, which lists them."""
    lost = [losing(origin=f"http://host{number % 5}.test") for number in range(15)]
    finding = only(*lost, *(replacing(each, origin=each.origin) for each in lost))

    assert (finding.requests, finding.origin, len(finding.origins)) == (15, "", 5)
    assert "to 5 servers: http://host0.test (3), http://host1.test (3), http://host2.test (3) and 2 more" in (
        finding.sentence
    )


def test_many_lines_that_lose_one_each() -> None:
    """Lines that each lost fewer than make a finding are told together, if there are enough."""
    finding = only(*(losing(f"app.py:{number} in check") for number in range(20)))

    assert (finding.requests, finding.line) == (20, None)
    assert "at 20 lines: app.py:0 in check, app.py:1 in check, app.py:2 in check and 17 more" in finding.sentence


def test_body_not_read_by_links_alone() -> None:
    """Where the losers' own spans are not there, their successors' links name the line."""
    finding = only(replacing(losing()), replacing(losing()))

    assert (finding.line, finding.requests) == ("app.py:7 in check", 2)


def test_body_not_read_without_links_attributes() -> None:
    """Where links have lost their attributes (Jaeger), the loser's own span names the line."""
    lost = [losing(), losing()]
    finding = only(*lost, *(replacing(each, attributes=False) for each in lost))

    assert finding.numbers == {"lost": 2, "opened": 4, "anew": 2, "lookups": 2, "seconds": pytest.approx(0.02)}


def test_body_not_read_at_a_line_not_seen() -> None:
    """Without a line it is still a finding, and says so."""
    finding = only(losing(None), losing(None), replacing(losing(None), linked=False))

    assert finding.line is None
    assert "at a line that was not seen" in finding.sentence
    assert "1 new connection had to be opened" in finding.sentence


def test_one_lost_connection_is_no_finding() -> None:
    """Once is below the threshold, which can be set."""
    assert found(losing()) == []
    assert only(losing(), lost_connections=1).verdict == "body_not_read"


def test_keepalive_limit_is_told_from_three_on() -> None:
    """Connections opened because idle ones had been dropped, from three on."""
    rows = [opening("keepalive_limit") for _ in range(3)]
    finding = only(*rows, opening("all_busy"))

    assert found(*rows[:2]) == []
    assert finding.verdict == "keepalive_limit_too_low"
    assert finding.sentence.startswith(f"75 % of the connections to {ORIGIN} (3 of 4) were opened because the pool had")


def test_client_per_request_is_told_of_short_lived_clients() -> None:
    """Clients made within a minute, each for few requests; not one that lives, nor few in an hour."""
    brief = [opening("new_client", start=number) for number in range(3)]
    finding = only(*brief)
    lived: list[Row] = []
    for number in range(5):
        one = opening("new_client", start=number)
        lived += [one, *(reusing(start=number, conn__id=one.attributes[names.CONN_ID]) for _ in range(2))]

    assert finding.verdict == "client_per_request"
    assert finding.sentence.startswith(
        f"one process made 3 clients for {ORIGIN} within a minute; the first connection of each"
    )
    assert found(*lived) == []
    assert only(*lived, client_requests=3).verdict == "client_per_request"
    assert found(*(opening("new_client", start=number * 61) for number in range(9))) == []
    assert found(*(opening("first_connection", start=number) for number in range(9))) == []


def test_client_per_request_points_at_short_lived_clients_only() -> None:
    """A client that lives is no example of it, however long it took to connect, and its line is not the one at fault."""
    brief = [opening("new_client", start=number, client__made_at="shop.py:3") for number in range(3)]
    lived = opening("new_client", start=4, time__tls=0.2, client__made_at="main.py:9")
    finding = only(*brief, lived, *(reusing(start=5, conn__id=lived.attributes[names.CONN_ID]) for _ in range(5)))
    unlike = only(*brief, opening("new_client", start=4, client__made_at="main.py:9"))

    assert {one.span_id for one in finding.evidence} == {row.span_id for row in brief}
    assert (finding.line, finding.requests, sum(share.requests for share in finding.origins)) == ("shop.py:3", 3, 3)
    assert f"3 clients for {ORIGIN} within a minute, at shop.py:3;" in finding.sentence
    assert ", 3 of them at shop.py:3;" in unlike.sentence


def test_clients_of_several_processes() -> None:
    """Each process has to have clients of its own; connections of the same number in two processes are two."""
    processes = [Source("shop", name) for name in ("one", "two", "three")]
    apart = [opening("new_client", conn__id=7, source=process) for process in processes]
    many = [opening("new_client", source=processes[0]) for _ in range(3)]

    assert found(*apart) == []
    assert only(*apart, *many, *(reusing(conn__id=7, source=processes[1]) for _ in range(2))).requests == 5


def test_server_closes_idle_names_the_shortest_pause() -> None:
    """Connections opened because the server had closed idle ones, with the shortest pause before them."""
    rows = [reusing(0), opening("server_closed", 7), reusing(8), opening("server_closed", 13.01)]
    finding = only(*rows)

    assert found(*rows[:2]) == []
    assert finding.verdict == "server_closes_idle"
    assert (
        "(2 of 2) were opened because the server, or what lies between, had closed an idle one, after at most 5.0 s of idleness"
        in (finding.sentence)
    )


def test_a_longer_expiry_than_the_servers_wins_nothing() -> None:
    """Nobody is told to keep connections for longer than this very server was seen to do."""
    expired = [opening("keepalive_expired", number * 10) for number in range(3)]
    closed = [reusing(100), opening("server_closed", 107), reusing(108), opening("server_closed", 113.01)]
    alone, both = only(*expired), {one.verdict: one for one in found(*expired, *closed)}

    assert alone.advice.startswith("set keepalive_expiry (httpx.Limits) above the pause between requests")
    assert both["keepalive_expired"].advice.startswith("a longer keepalive_expiry wins nothing here")
    assert "within 5.0 s" in both["keepalive_expired"].advice
    assert "set keepalive_expiry well below 5.0 s" in both["server_closes_idle"].advice


# The pool: stories 3, 4.

FULL: dict[str, Any] = {"pool__connections": 10, "pool__idle": 0, "pool__limit": 10}


def test_pool_saturated_needs_a_long_wait_at_the_limit() -> None:
    """Waits for a pool at its limit, from 0.2 s on; not those where there was room."""
    finding = only(reusing(time__pool=0.5, pool__waiting=29, **FULL), reusing(time__pool=0.1, pool__waiting=40, **FULL))
    roomy = {**FULL, "pool__connections": 1}

    assert (finding.verdict, finding.severity) == ("pool_saturated", Severity.SLOW)
    assert finding.sentence == f"1 request to {ORIGIN} waited up to 500 ms for the pool: limit 10, up to 30 waiting"
    assert found(reusing(time__pool=0.5, pool__waiting=0, **roomy)) == []
    assert found(reusing(time__pool=0.5, pool__waiting=0, pool__connections=10, pool__idle=0)) == []


def timed_out(*holders: Row | str, **rest: Any) -> Row:
    """A request that ended in PoolTimeout while *holders* held the pool."""
    ids = [holder if isinstance(holder, str) else holder.span_id for holder in holders]
    links = tuple(Link("0" * 32, holder, {names.LINK: names.LINK_POOL_HELD_BY}) for holder in ids)
    known = {"failed_phase": "pool", "error__type": "PoolTimeout", "time__pool": 1.0, "pool__waiting": 0, **FULL}
    return row(failed=True, status=None, links=links, **{**known, **rest})


def leaking(**rest: Any) -> Row:
    """A request whose response nobody closed."""
    return opening("all_busy", body__outcome="never_closed", body__closed_at="app.py:9 in fetch", **rest)


def test_responses_never_closed_explains_pool_timeouts() -> None:
    """PoolTimeouts of a pool that leaked responses hold are the leak's, not a small pool's."""
    leaks = [leaking(start=0), leaking(start=100)]
    finding = only(*leaks, timed_out(*leaks, start=10_800, duration=1))

    assert (finding.verdict, finding.severity, finding.sure) == (
        "responses_never_closed",
        Severity.FAILED,
        Sure.CERTAIN,
    )
    assert finding.sentence == (
        f"2 responses from {ORIGIN} were never closed, opened at app.py:9 in fetch, and hold the pool; the oldest had "
        "been open for 3.0 h: 1 request got no connection (PoolTimeout)"
    )


def test_the_order_of_spans_does_not_matter() -> None:
    """A holder's span may come before the request that waited for it, or after."""
    leaks = [leaking(), leaking()]
    waited = timed_out(*leaks)

    assert found(waited, *leaks)[0].verdict == found(*leaks, waited)[0].verdict == "responses_never_closed"


def test_holders_that_ended_well_are_no_leak() -> None:
    """PoolTimeouts of a pool that honest requests hold are a small pool's."""
    holders = [reusing(), reusing()]
    finding = only(*holders, timed_out(*holders))

    assert (finding.verdict, finding.severity) == ("pool_saturated", Severity.FAILED)
    assert finding.sentence.endswith("limit 10, up to 1 waiting; 1 of them in vain (PoolTimeout)")


def test_a_wait_in_vain_that_began_below_the_limit() -> None:
    """A PoolTimeout that neither a leak nor a pool seen at its limit explains is told as a failure, and once."""
    holders = [reusing(), reusing()]
    finding = only(*holders, timed_out(*holders, pool__connections=0))

    assert (finding.verdict, finding.severity, finding.requests) == ("failed", Severity.FAILED, 1)
    assert "PoolTimeout" in finding.sentence


def by_urllib3(made: Row) -> Row:
    """*made*, by a client whose pool counts the connections that were not given back."""
    return dataclasses.replace(made, client="urllib3")


EMPTY: dict[str, Any] = {"error__type": "EmptyPoolError", "pool__connections": 0, "pool__limit": 1, "duration": 1.0}


def test_a_connection_that_was_lost_and_not_given_back() -> None:
    """Who waits in vain for a pool that is not full is told the line that lost its connection without giving it back."""
    lost = by_urllib3(losing())
    waited = by_urllib3(timed_out(lost, **EMPTY))

    for rows in ((lost, waited), (waited, lost)):
        finding = only(*rows)
        assert (finding.verdict, finding.severity, finding.line) == (
            "body_not_read",
            Severity.FAILED,
            "app.py:7 in check",
        )
        assert finding.sentence.endswith(
            "at app.py:7 in check; closing gave none back to the pool, so 1 request waited up to 1.0 s for one in vain "
            "(EmptyPoolError)"
        )
        assert "release_conn() after it" in finding.advice


def test_a_wait_for_it_that_somebody_cancelled() -> None:
    """A wait without a limit, which a person or a timer of the program's ends, is told so, too, and as no failure."""
    lost = by_urllib3(losing())
    rest = {name: value for name, value in EMPTY.items() if name != "error__type"}
    cancelled = by_urllib3(row(status=None, failed_phase="pool", time__pool=1.0, **rest))
    finding = only(lost, cancelled)

    assert (finding.verdict, finding.severity) == ("body_not_read", Severity.SLOW)
    assert finding.sentence.endswith("1 request waited up to 1.0 s for one in vain, and was cancelled")


@pytest.mark.parametrize("full", [{"pool__connections": 1}, {"client": "httpx"}], ids=["full", "another client"])
def test_a_lost_connection_that_nobody_waits_for(full: dict[str, Any]) -> None:
    """It is not told of a pool that is full, nor of a client whose pool counts open connections."""
    lost, waited = losing(), timed_out(**{**EMPTY, **{key: full[key] for key in full if key != "client"}})
    if "client" not in full:
        lost, waited = by_urllib3(lost), by_urllib3(waited)
    told = found(lost, waited)

    assert [finding.verdict for finding in told if "waited up to 1.0 s for one in vain" in finding.sentence] == []
    assert told[0].verdict in ("pool_saturated", "failed")


def test_a_leak_beside_a_small_pool() -> None:
    """One leaked response in a busy pool is a finding, and so is the pool."""
    holders = [reusing() for _ in range(7)]
    verdicts = [finding.verdict for finding in found(*holders, leaking(), timed_out(*holders, leaking()))]

    assert sorted(verdicts) == ["pool_saturated", "responses_never_closed"]


def test_holders_not_in_the_data() -> None:
    """Where no holder's span is there, a leak is possible, and no more is said than that."""
    finding = only(timed_out("a" * 16, "b" * 16))

    assert (finding.verdict, finding.sure, finding.line) == ("responses_never_closed", Sure.POSSIBLE, None)
    assert "held by 2 requests whose responses are still open, or are not in this data" in finding.sentence


def test_a_leak_without_a_timeout() -> None:
    """A response never closed is waste as long as nobody fails for it."""
    finding = only(leaking())

    assert (finding.severity, finding.requests) == (Severity.WASTE, 1)
    assert finding.sentence == (
        f"1 response from {ORIGIN} was never closed, opened at app.py:9 in fetch: each keeps a connection of the pool "
        "for good"
    )


# Dialling: stories 7, 8, 10, 11.


def step(name: str, duration: float, **attributes: Any) -> Step:
    """A child span."""
    return Step(name, 0.0, duration, {key.replace("__", "."): of for key, of in attributes.items()}, 2)


def test_dns_slow_is_told_from_a_second_on() -> None:
    """A lookup of a second or longer, by name, beside what else took how long; a slow connect is none."""
    slow = opening(
        "first_connection",
        time__dns=5.1,
        time__tls=0.02,
        steps=(step("http.dns", 5.1, dns__question__name="api.test"),),
    )
    finding = only(slow, opening("all_busy", time__connect=3.0))

    assert finding.verdict == "dns_slow"
    assert finding.sentence == (
        "looking up api.test took up to 5.1 s (1 of 2 lookups took 1.0 s or longer); the connect took 6.0 ms at most, "
        "TLS 20.0 ms"
    )


def test_a_slow_lookup_that_failed() -> None:
    """A lookup that failed slowly is slow; one that ran into the connect timeout is that, and no second finding."""
    failed = row(failed=True, status=None, failed_phase="dns", error__type="ConnectError", time__dns=2.0)
    timeout = row(failed=True, status=None, failed_phase="dns", error__type="ConnectTimeout", time__dns=2.0)

    what_failed, slow = found(failed)
    assert (what_failed.verdict, slow.verdict) == ("failed", "dns_slow")
    assert "nothing was connected to" in slow.sentence
    assert only(timeout).verdict == "dns_timeout"


@pytest.mark.parametrize("phase", ["dns", "connect", "proxy", "tls"])
def test_connect_timeouts_are_told_by_phase(phase: str) -> None:
    """One exception, four verdicts, by the phase that failed."""
    known: dict[str, Any] = {f"time__{phase}": 0.5}
    finding = only(row(failed=True, status=None, failed_phase=phase, error__type="ConnectTimeout", **known))

    assert (finding.verdict, finding.severity) == (f"{phase}_timeout", Severity.FAILED)
    assert finding.sentence.startswith(f"1 request to {ORIGIN} ran into ConnectTimeout in the {phase} phase")
    assert finding.sentence.endswith("which had taken 500 ms")


def test_a_proxy_that_does_not_answer() -> None:
    """CONNECT runs into the read timeout: in the proxy's phase that is a failure to connect; while waiting, it is not."""
    known: dict[str, Any] = {"failed": True, "status": None, "error__type": "ReadTimeout"}
    finding = only(row(failed_phase="proxy", time__proxy=0.5, **known))

    assert finding.verdict == "proxy_timeout"
    assert finding.sentence.startswith(f"1 request to {ORIGIN} ran into ReadTimeout in the proxy phase")
    assert (
        "httptrace.failed_phase is proxy, error.type is ConnectTimeout, ConnectTimeoutError, ReadTimeout or ReadTimeoutError"
        in finding.criterion
    )
    assert only(row(failed_phase="wait", time__wait=0.5, **known)).verdict == "server_slow"


def test_refused_at_once_is_no_timeout() -> None:
    """A connection refused at once is none of these, but it is told."""
    refused = row(failed=True, status=None, failed_phase="connect", error__type="ConnectError", time__connect=0.001)
    finding = only(refused, reusing())

    assert (finding.verdict, finding.severity, finding.sure) == ("failed", Severity.FAILED, Sure.CERTAIN)
    assert finding.sentence == f"1 of 2 requests to {ORIGIN} failed while connecting: ConnectError"


def connecting(answers: list[str], peer: str, duration: float = 0.3) -> Row:
    """A request that opened a connection to *peer*, one of *answers*."""
    steps = (
        step("http.dns", 0.001, dns__question__name="api.test", dns__answers=answers),
        step("http.connect", duration, network__peer__address=peer),
    )
    return opening("first_connection", time__connect=duration, steps=steps)


def test_address_fallback_needs_another_family() -> None:
    """A slow connect that ended on another family than the first address's."""
    finding = only(connecting(["2001:db8::1", "192.0.2.1"], "192.0.2.1"))

    assert finding.verdict == "address_fallback"
    assert "its first address, 2001:db8::1, did not answer, 192.0.2.1 did" in finding.sentence
    for innocent in (
        connecting(["192.0.2.1"], "192.0.2.1"),
        connecting(["192.0.2.1", "2001:db8::1"], "192.0.2.1"),
        connecting(["192.0.2.1", "192.0.2.2"], "192.0.2.2"),
        connecting(["2001:db8::1", "192.0.2.1"], "192.0.2.1", duration=0.2),
    ):
        assert found(innocent) == []


def test_tls_slow_is_told_from_half_a_second_on() -> None:
    """A handshake of half a second or longer, with its version and whether it was resumed; not that of reused ones."""
    slow = opening(
        "first_connection",
        time__tls=0.7,
        steps=(step("http.tls", 0.7, tls__protocol__version="1.3", tls__resumed=False),),
    )
    finding = only(slow)

    assert finding.verdict == "tls_slow"
    assert finding.sentence == f"1 TLS handshake with {ORIGIN} took up to 700 ms (version 1.3, not resumed)"
    assert found(opening("first_connection", time__tls=0.4), reusing()) == []


def test_waste_that_makes_two_steps_slow() -> None:
    """Connections opened in vain through a slow resolver and a slow handshake are told before both, and once."""
    rows = [
        opening("body_not_read", time__dns=2.0, time__tls=2.0, conn__close_reason="body_not_read") for _ in range(5)
    ]

    assert [one.verdict for one in found(*rows)] == ["body_not_read", "dns_slow", "tls_slow"]


# Requests and responses: stories 6, 12, 13, 14.


def disconnected(idle: float, **rest: Any) -> Row:
    """A request that failed on a connection that had been idle."""
    known = {"failed_phase": "wait", "error__type": "RemoteProtocolError", "conn__idle": idle}
    return row(failed=True, status=None, **{"http__conn__reused": True, **known, **rest})


def test_stale_keepalive_is_told_of_failures_after_idleness() -> None:
    """Failures after idleness that nobody survived are the server's keep-alive, likely; else possibly."""
    finding = only(disconnected(5.02), disconnected(5.5), reusing(conn__idle=4.9))

    assert (finding.verdict, finding.severity, finding.sure) == ("stale_keepalive", Severity.FAILED, Sure.LIKELY)
    assert (
        "on a connection that had been idle for 5.0 to 5.5 s: the server, or what lies between, drops idle ones at about 5.0 s"
        in (finding.sentence)
    )
    assert only(disconnected(5), reusing(conn__idle=60)).sure is Sure.POSSIBLE


def test_what_is_no_stale_keepalive() -> None:
    """Not on a new connection, nor after bytes were received, nor on a timeout, nor on a connection just used."""
    new = disconnected(5, http__conn__reused=False)
    del new.attributes[names.CONN_IDLE]
    assert only(new).verdict == "closed_without_answer"
    assert only(disconnected(5, error__type="ReadTimeout")).verdict == "server_slow"
    assert only(disconnected(0.01)).verdict == "closed_without_answer"
    received = reusing(conn__idle=5, body__outcome="failed", error__type="RemoteProtocolError", failed=True)
    assert only(received).verdict == "body_failed"


def test_who_had_a_request_that_was_not_answered() -> None:
    """Closed later than a round trip it was in work, unless not all of it had been acknowledged."""
    had = [
        only(disconnected(0.01, time__wait=wait, tcp__unacked=unacked)).sentence.rpartition(", ")[2]
        for wait, unacked in ((0.01, 0), (3.0, 0), (3.0, 900))
    ]
    assert had == ["had them", "had them in work", "had not taken in all of them"]


def test_slow_bodies_are_the_servers_or_the_consumers() -> None:
    """A slow body is the server's if the time went into reads, else the consumer's; a slow first byte is neither."""
    server = only(reusing(time__receive=12.0, body__read_wait=11.0))
    consumer = only(reusing(time__receive=12.0, body__read_wait=1.0))
    first_byte = only(reusing(time__wait=12.0, time__receive=0.1))

    assert server.verdict == "body_slow_server"
    assert server.sentence == (
        f"1 response body from {ORIGIN} took up to 12.0 s; 11.0 s of 12.0 s were spent waiting for bytes: the server, or "
        "the way from it, is slow"
    )
    assert consumer.verdict == "body_slow_consumer"
    assert first_byte.verdict == "server_slow"
    assert found(reusing(time__receive=9.0, body__read_wait=9.0, time__wait=4.0)) == []


def test_a_response_that_never_began() -> None:
    """A ReadTimeout before the headers is the server's slowness, and a failure, however short the client's patience."""
    gave_up = row(failed=True, status=None, failed_phase="wait", error__type="ReadTimeout", time__wait=0.5)
    finding = only(gave_up)

    assert (finding.verdict, finding.severity) == ("server_slow", Severity.FAILED)
    assert finding.sentence.endswith("and then nothing came; 1 of them never did (ReadTimeout)")


def test_a_response_that_leaked_is_not_slow() -> None:
    """The time of a body nobody closed is nobody's slowness."""
    assert only(leaking(time__receive=60.0, body__read_wait=50.0)).verdict == "responses_never_closed"


@pytest.mark.parametrize("phase", ["pool", "dns", "connect", "tls", "send", "wait"])
def test_cancelled_before_the_body(phase: str) -> None:
    """A phase that failed without an error was cancelled."""
    finding = only(row(status=None, failed_phase=phase))

    assert (finding.verdict, finding.numbers) == ("cancelled_in", {"phase": phase, "connections_lost": 0})
    assert finding.sentence.endswith(f"({phase}), after 10.0 ms; no connection was lost")


def test_cancelled_in_the_body() -> None:
    """A cancelled body, and the connection that it cost."""
    finding = only(reusing(body__outcome="cancelled", conn__close_reason="request_cancelled"))

    assert finding.numbers == {"phase": "receive", "connections_lost": 1}
    assert finding.sentence == (
        f"1 request to {ORIGIN} was cancelled by the caller while reading the response body (receive), after 10.0 ms; 1 "
        "connection lost with it"
    )


def test_body_failed_counts_by_error() -> None:
    """Bodies that failed half-way, by error, after how much of how much."""
    rows = [
        reusing(
            failed=True, body__outcome="failed", error__type=error, body__bytes_read=5, http__response__body__size=10
        )
        for error in ("ReadError", "ReadTimeout", "ReadError")
    ]
    more, fewer = found(*rows)

    assert more.sentence == f"2 responses from {ORIGIN} failed half-way (ReadError), after 5 B of 10 B, for one"
    assert fewer.sentence == f"1 response from {ORIGIN} failed half-way (ReadTimeout), after 5 B of 10 B"


# All together.


def test_the_worst_finding_comes_first() -> None:
    """What failed comes before what was slow, and that before what was waste."""
    rows = [losing(), losing(), opening("all_busy", time__dns=2.0), disconnected(5)]

    assert [finding.verdict for finding in found(*rows)] == ["stale_keepalive", "dns_slow", "body_not_read"]


def test_every_verdict_is_listed() -> None:
    """`--fail-on` knows every verdict that there is, each once."""
    assert len(set(VERDICTS)) == len(VERDICTS)
    assert set(VERDICTS) >= {"failed", "body_not_read", "keepalive_expired", "connection_close", "error_statuses"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nonsense": "1"}, "no threshold is called 'nonsense'; there are lost_connections, "),
        ({"dns": "soon"}, "dns='soon': expected a number of seconds"),
        ({"dns": "-1"}, "dns='-1': expected a number of seconds"),
        ({"dns": "nan"}, "dns='nan': expected a number of seconds"),
        ({"clients": "1.5"}, "clients='1.5': expected an integer"),
    ],
)
def test_thresholds_that_are_none(settings: dict[str, str], message: str) -> None:
    """A threshold's name and kind are checked, and the message says what would do."""
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        Thresholds.parse(settings)
    assert str(raised.value).startswith(message)


def test_thresholds_are_set_by_name() -> None:
    """Thresholds are set by name; the others keep their defaults."""
    assert Thresholds.parse({"dns": "0.5", "clients": "7"}) == Thresholds(dns=0.5, clients=7)


def test_what_is_kept_of_rows_is_bounded() -> None:
    """However many origins, lines and connections there are, what is kept of them is limited."""
    from otel_httptrace.report.verdicts import Verdicts

    verdicts = Verdicts(Thresholds())
    for number in range(3000):
        verdicts.add(losing(f"app.py:{number} in f", origin=f"http://{number}.test"))
    tallies = verdicts._body_not_read.tallies

    assert sum(1 for _ in tallies) == 2000
