"""Both ends of requests, and servers alone: what is concluded, what is not, and who is not blamed."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from kit.otlp import PEER, opening, reusing, row, served
from rich.console import Console

from otel_httptrace.report import schema
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Severity, Sure, Thresholds
from otel_httptrace.report.rows import Other, Row, Sent, Served
from otel_httptrace.report.spans import Source
from otel_httptrace.report.text import render


def found(rows: list[Row], **thresholds: Any) -> dict[str, Finding]:
    """The findings, by verdict."""
    return {finding.verdict: finding for finding in analyze(rows, Thresholds(**thresholds)).findings}


def only(rows: list[Row], verdict: str) -> Finding:
    """The one finding, in whatever order the rows come."""
    (finding,) = analyze(rows).findings
    (other,) = analyze(rows[::-1]).findings
    assert finding.verdict == other.verdict == verdict
    assert (finding.sentence, finding.sure) == (other.sentence, other.sure)
    return finding


_PORTS = itertools.count(50_000)


class Connection:
    """A client's connection, and what its server has of it."""

    def __init__(self, conn: int, *, proxied: bool = False) -> None:
        self.port = next(_PORTS)
        self.conn = conn
        self.opener = opening("first_connection", conn__id=conn, conn__requests=0, network__local__port=self.port)
        # What stands between opens connections of its own.
        self.server_port = next(_PORTS) if proxied else self.port
        self.first = served(self.opener, conn=conn + 1000, port=self.server_port)
        self.rows: list[Row] = [self.opener, self.first]

    def fails(self, idle: float, wait: float = 0.001, **rest: Any) -> Row:
        """A request that gets no answer, for the connection is closed."""
        failed = row(
            failed=True, status=None, failed_phase="wait", error__type="RemoteProtocolError", conn__id=self.conn,
            http__conn__reused=True, conn__requests=1, conn__idle=idle, conn__close_reason="request_failed",
            response__bytes_received=0, time__wait=wait, **rest,
        )  # fmt: skip
        self.rows.append(failed)
        return failed

    def told(self, reason: str = "keepalive_timeout", idle: float = 5.0, requests: int = 1, **rest: Any) -> None:
        """The server says how it ended, on the first span of another connection of that peer."""
        self.rows.append(served(lost=(reason, idle, self.server_port, requests), **rest))


def test_a_stale_connection_that_the_server_tells_of() -> None:
    """The server's word on that very connection makes it certain, with its timeout beside the client's idle time."""
    lost = Connection(1)
    lost.fails(idle=5.0004)
    lost.told()
    finding = only(lost.rows, "stale_keepalive")

    assert (finding.sure, finding.rivals, finding.severity) == (Sure.CERTAIN, (), Severity.FAILED)
    assert finding.sentence == (
        "1 request to http://api.test failed (RemoteProtocolError) on a connection that had been idle for 5.0 s: the "
        "server says that its keep-alive timeout closed these connections, after 5.0 s"
    )
    assert finding.numbers == {"idle": 5.0004, "longest_idle": 5.0004, "survived": 0.0, "keepalive": 5.0, "told": 1}

    # It came late, which alone would say that the server had it in work.
    lost = Connection(2)
    lost.fails(idle=5.0004, wait=0.3)
    lost.told()
    assert only(lost.rows, "stale_keepalive").sure is Sure.CERTAIN


def test_a_stale_connection_that_the_server_tells_of_in_part() -> None:
    """Where it tells of some of the connections, the others look the same, and no more is said."""
    lost, other = Connection(1), Connection(2)
    lost.fails(idle=5.0004)
    other.fails(idle=5.1)
    lost.told()
    finding = only([*lost.rows, *other.rows], "stale_keepalive")

    assert (finding.sure, finding.requests) == (Sure.LIKELY, 2)
    assert "closed 1 of these connections, after 5.0 s" in finding.sentence


@pytest.mark.parametrize(
    "told",
    [
        lambda lost: None,
        # Another reason; a connection that had carried more; one that was closed long after this request was sent; another
        # server process, and another peer, each with the same port.
        lambda lost: lost.told("client_closed"),
        lambda lost: lost.told(requests=2),
        lambda lost: lost.told(idle=9.0),
        lambda lost: lost.told(source=Source("orders", "two")),
        lambda lost: lost.told(peer="10.0.3.8"),
    ],
    ids=["nothing", "the client's doing", "more requests", "later", "another process", "another peer"],
)
def test_what_does_not_tell_of_a_stale_connection(told: Callable[[Connection], None]) -> None:
    """What the server says of anything else proves nothing: the verdict is what it was."""
    lost = Connection(1)
    lost.fails(idle=5.0004)
    told(lost)
    finding = found(lost.rows)["stale_keepalive"]

    assert finding.sure is Sure.LIKELY
    assert "the server says" not in finding.sentence
    assert finding.numbers == {"idle": 5.0004, "longest_idle": 5.0004, "survived": 0.0}


def test_a_stale_connection_behind_a_proxy() -> None:
    """Something stands between: what the server says of its connections is nothing about the client's."""
    lost = Connection(1, proxied=True)
    lost.fails(idle=5.0004)
    lost.told()

    assert found(lost.rows)["stale_keepalive"].sure is Sure.LIKELY


@pytest.mark.parametrize("proxied", [False, True])
def test_a_request_that_the_server_had(proxied: bool) -> None:
    """A request of which the server has a span was not lost to a keep-alive timeout, whatever it looks like."""
    lost = Connection(1, proxied=proxied)
    failed = lost.fails(idle=5.0004)
    lost.rows.append(served(failed, conn=1001, before=1, closed="error"))
    finding = only(lost.rows, "closed_without_answer")

    assert (finding.sure, finding.rivals) == (Sure.CERTAIN, ())
    assert "the server has a span of 1 of them, and says why their connections ended: 1 x error" in finding.sentence
    assert finding.because == "the server had them: it has a span of each"


# What the server's span has of a wait.


def waiting(wait: float, there: float, *, port: int | None = 40000, failed: bool = False, **rest: Any) -> list[Row]:
    """A request that waited, and what the server's span has of it."""
    if failed:
        client = row(
            failed=True, status=None, failed_phase="wait", error__type="ReadTimeout", time__wait=wait, duration=wait,
            http__conn__reused=False, conn__id=7, network__local__port=40000, **rest,
        )  # fmt: skip
    else:
        client = opening(
            "first_connection", conn__id=7, network__local__port=40000, time__wait=wait, duration=wait, **rest
        )
    return [client, served(client, port=port, duration=there)]


def test_time_between_the_two_ends() -> None:
    """The server's span is 40 ms of the client's 900: where the rest went is said as far as it is known."""
    finding = only(waiting(0.9, 0.04), "time_between")

    assert (finding.severity, finding.sure) == (Severity.SLOW, Sure.LIKELY)
    assert finding.seconds == pytest.approx(0.86)
    assert finding.sentence == (
        "1 request to http://api.test waited 900 ms for the response headers, and the server's own span of it is "
        "40.0 ms: at least 860 ms went by outside of it"
    )
    # The connection is the same: nothing stands between.
    assert [rival.cause.partition(":")[0] for rival in finding.rivals] == [
        "this process stood still",
        "the network on the way, there or back",
        "the server, before or after its span",
    ]
    between = only(waiting(0.9, 0.04, port=40001), "time_between")
    assert "something stands between client and server (1 of 1)" in between.sentence
    assert "what stands between: a proxy, a load balancer" in [rival.cause for rival in between.rivals]


@pytest.mark.parametrize(
    "rows",
    [
        # The server took most of it; the difference is small; the process stood still; nothing is known from there.
        waiting(0.9, 0.6),
        waiting(0.25, 0.06),
        waiting(0.9, 0.04, stalled=0.8),
        waiting(0.9, 0.04)[:1],
    ],
    ids=["slow there", "small", "stalled", "one end"],
)
def test_no_time_between(rows: list[Row]) -> None:
    """Nothing is between where the server took the time, or this process did, or one end is missing."""
    assert "time_between" not in found(rows)


def test_several_requests_in_one_span_are_not_compared() -> None:
    """A redirect that upstream's one span covers has two halves there: neither is compared with the whole."""
    rows = waiting(0.9, 0.04)
    assert "time_between" not in found([*rows, served(rows[0], duration=0.03)])


def test_the_only_half_of_several_requests_in_one_span() -> None:
    """Of a redirect to a server that tells of nothing, the first server's span is not compared with the whole."""
    client, there = waiting(6.0, 0.04)
    client.before.append(Sent(0.0, 0.05, failed=False, status=302, attributes={}))
    assert only([client, there], "server_slow").sure is Sure.LIKELY


def test_a_server_that_streams_is_not_proven_slow() -> None:
    """A server's span may last as long as the body: what the client received meanwhile proves nothing of the wait."""
    streamed = waiting(6.0, 9.0, time__receive=8.5)
    assert only(streamed, "server_slow").sure is Sure.LIKELY
    assert only(waiting(6.0, 14.5, time__receive=8.5), "server_slow").sure is Sure.CERTAIN
    # Neither most of the wait nor little of it.
    assert only(waiting(6.0, 4.0), "server_slow").sure is Sure.LIKELY


def test_a_server_that_was_slow_and_one_that_was_not() -> None:
    """The server's own span makes it certain that it was slow, or that it was not."""
    slow = only(waiting(6.0, 5.9), "server_slow")
    assert (slow.sure, slow.rivals) == (Sure.CERTAIN, ())
    gave_up = only(waiting(6.0, 5.9, failed=True), "server_slow")
    assert (gave_up.sure, gave_up.severity) == (Sure.CERTAIN, Severity.FAILED)

    assert list(found(waiting(6.0, 0.04))) == ["time_between"]
    quick = only(waiting(6.0, 0.04, failed=True), "time_between")
    assert quick.severity is Severity.FAILED
    assert "1 of them gave up (ReadTimeout)" in quick.sentence
    # From the client alone it is what it was.
    assert list(found(waiting(6.0, 0.04)[:1])) == ["server_slow"]


def test_a_connection_is_not_dead_where_the_server_had_the_request() -> None:
    """Timeouts on old connections alone look like a NAT's doing; not where the server has spans of them."""
    young = [reusing(conn__idle=0.01) for _ in range(30)]
    old = [
        row(failed=True, status=None, failed_phase="wait", error__type="ReadTimeout", time__wait=1.0, conn__idle=9.0)
        for _ in range(2)
    ]
    assert list(found([*young, *old])) == ["connection_dead"]
    assert list(found([*young, *old, *(served(one, duration=0.9, before=2) for one in old)])) == ["server_slow"]


# The server alone.


def single(number: int = 30, *, known: bool = False, **rest: Any) -> list[Row]:
    """Connections that carry a request each, one after the other."""
    rows: list[Row] = []
    for at in range(number):
        client = opening("new_client", conn__id=at) if known else None
        rows += [*([client] if client is not None else []), served(client, start=at, **rest)]
    return rows


def test_clients_that_do_not_reuse() -> None:
    """By peer: which share of its connections carried one request, and what the other end did."""
    rows = single(49, closed="client_left")
    kept = served(conn=1, start=90)
    rows += [kept, served(conn=1, before=1, start=91)]
    finding = found(rows)["clients_do_not_reuse"]

    assert finding.sentence == (
        "98 % of the connections from 10.0.3.7 to orders:8000 carried one request (49 of 50), and the other end closed "
        "them (49 x client_left): each request pays for a new one"
    )
    assert "io.Copy(io.Discard, resp.Body)" in finding.advice
    # Nobody knows how many there are behind an address.
    assert (finding.sure, finding.requests, finding.origin) == (Sure.LIKELY, 50, "orders:8000")
    assert finding.rivals[0].cause.startswith("many clients behind one address")


@pytest.mark.parametrize(
    "rows",
    [
        # Too few; reused; at a time; the server's doing, in each way; the server's timeout; told by the client, too.
        single(19),
        [one for conn in range(30) for one in (served(conn=conn, start=conn), served(conn=conn, before=1, start=conn))],
        [served(start=0, duration=1) for _ in range(30)],
        [served(start=at / 1000, duration=0.0001, httptrace__server__conn__age=at / 1000) for at in range(30)],
        *(single(closed=why) for why in ("worker_sync", "max_requests", "shutdown", "error", "upgraded")),
        single(lost=("keepalive_timeout", 5.0, 41000, 1)),
        single(known=True),
    ],
)
def test_clients_that_are_not_to_blame(rows: list[Row]) -> None:
    """A few, a burst, or what the server did itself: the clients are not blamed for that."""
    assert "clients_do_not_reuse" not in found(rows)


def test_peers_are_told_apart() -> None:
    """One peer that does not reuse is found beside others that do."""
    good = [served(conn=1, before=number, start=number, peer="10.0.3.8") for number in range(200)]
    finding = only([*single(), *good], "clients_do_not_reuse")

    assert (finding.numbers or {})["peer"] == PEER
    assert (finding.numbers or {})["connections"] == 30


@pytest.mark.parametrize(
    ("rest", "why", "sure"),
    [
        ({"closed": "worker_sync"}, "gunicorn's sync worker never keeps a connection", Sure.CERTAIN),
        (
            {"closed": "connection_close", "network__protocol__version": "1.0"},
            "the requests are HTTP/1.0 (from 10.0.3.7)",
            Sure.CERTAIN,
        ),
        ({"closed": "connection_close"}, "each answer ends with Connection: close", Sure.LIKELY),
    ],
)
def test_a_server_that_keeps_no_connection(rest: dict[str, Any], why: str, sure: Sure) -> None:
    """Why it does: who asked for it is not said where that is not known."""
    finding = only(single(**rest), "server_keeps_none")

    assert finding.sentence == f"orders:8000 kept none of the connections of 30 requests: {why}"
    assert finding.sure is sure
    # It does keep some: then it is somebody's word on these.
    assert "server_keeps_none" not in found([*single(**rest), served(conn=1, before=1)])
    assert "server_keeps_none" not in found(single(19, **rest))


def test_clients_that_leave() -> None:
    """Who left, how many, and whether it was always after the same time; what their own spans say is left to these."""
    rows: list[Row] = [
        served(start=at, duration=5.0 + at / 100, closed="client_left", conn=at, before=3) for at in range(4)
    ]
    finding = only([*rows, served(conn=9, before=1)], "clients_left")
    assert finding.sentence == (
        "4 of 5 requests from 10.0.3.7 to orders:8000 were left by the client before the response was over, always after "
        "about 5.0 s: a timeout"
    )
    assert (finding.sure, finding.severity) == (Sure.LIKELY, Severity.SLOW)

    assert not found(rows[:2])
    quick = only([served(duration=0.01 * at, closed="client_left", before=1) for at in range(1, 4)], "clients_left")
    assert quick.severity is Severity.WASTE
    clients = [row(http__conn__reused=True, conn__close_reason="body_not_read") for _ in range(4)]
    told = [served(client, closed="client_left", before=3) for client in clients]
    assert list(found([*told, *clients])) == ["body_not_read"]


def test_what_the_keepalive_timeout_closes() -> None:
    """Its own timer, and the peer came again: after how long it struck, and that a request may be lost so."""
    rows: list[Row] = [served(start=at, lost=("keepalive_timeout", 5.0 + at / 10, 41000 + at, 2)) for at in range(3)]
    finding = only(rows, "keepalive_timeout_closes")

    assert finding.sentence == (
        "3 of 3 connections from 10.0.3.7 to orders:8000 had to be opened after this server's keep-alive timeout had closed "
        "one, idle for 5.0 to 5.2 s: a request that comes at that moment is lost"
    )
    assert finding.sure is Sure.CERTAIN
    assert not found([served(lost=("client_closed", 5.0, 41000 + at, 2)) for at in range(3)])
    assert not found(rows[:2])


def test_a_server_that_fails_or_retires_its_connections() -> None:
    """Exceptions of the application cost the connection, too; limits and restarts are told apart from these."""
    failed = only([*single(3, closed="error", failed=True), served(conn=9, before=1)], "server_failed")
    assert failed.severity is Severity.FAILED
    assert failed.sentence.startswith("3 of 4 requests to orders:8000 ended with an exception of the application")

    for why, told in (("max_requests", "as many requests as they may"), ("shutdown", "was told to stop")):
        finding = only(single(3, closed=why), "server_retires")
        assert told in finding.sentence
        assert finding.severity is Severity.WASTE
    assert not found(single(2, closed="error"))


def test_what_is_kept_is_bounded() -> None:
    """Of both ends and of what servers tell no more is kept than the bounds say, and what is over them still counts."""
    from otel_httptrace.report import ends
    from otel_httptrace.report.analysis import Analysis

    analysis = Analysis()
    for number in range(ends._MOST + 10):
        client = opening("new_client", conn__id=number, time__wait=0.9)
        analysis.add(client)
        analysis.add(served(client, conn=number, closed="error", peer=f"10.{number % 3000}.0.1"))
    kept = analysis._ends
    assert {len(one) for one in (kept._halves, kept._opened, kept._peers, kept._told)} == {ends._MOST}
    (failed,) = [one for one in analysis.report().findings if one.verdict == "server_failed"]
    assert failed.requests >= 5_000
    assert sum(server.requests for server in analysis.report().servers) == ends._MOST + 10


# What is shown.


def test_a_half_without_ours() -> None:
    """A SERVER span of any instrumentation is the other half of its parent: its length is known, its connection is not."""
    client = opening("first_connection", conn__id=7, network__local__port=40000, time__wait=0.9, duration=0.9)
    there = served(client, duration=0.04)
    bare = Served(
        **{
            **{name: getattr(there, name) for name in Served.__dataclass_fields__},
            "attributes": {"client.port": 40000, "client.address": PEER},
            "port": None,
        }
    )
    report = analyze([client, bare])

    assert [finding.verdict for finding in report.findings] == ["time_between"]
    assert (report.servers, report.both_ends) == ((), True)
    assert client.other == Other(bare.half, None)


def test_the_servers_half_is_shown() -> None:
    """Text and JSON name the server, its connections, and its half of a request; without a server neither does."""
    lost = Connection(1)
    lost.fails(idle=5.0004)
    lost.told()
    report = analyze(lost.rows)
    shown = io.StringIO()
    render(report, Console(file=shown, width=120))
    text = " ".join(shown.getvalue().split())

    assert "seen by the server orders:8000" in text
    assert "requests 2 connections opened 2 reuse 0 %" in text
    assert "closed while idle keepalive_timeout 1" in text
    assert "the server, orders, took 10.0 ms, its connection 1001, the first on it" in text
    assert "client and server see the same TCP connection: nothing stands between" in text
    assert "the server closed the connection, idle for 5.0 s: keepalive_timeout" in text

    document = json.loads(schema.dumps(report))
    (server,) = document["servers"]
    assert (server["server"], server["requests"], server["connections_opened"]) == ("orders:8000", 2, 2)
    assert (server["peers"], server["lost_between_requests"]) == ({PEER: 2}, {"keepalive_timeout": 1})
    halves = {one["span_id"]: one["server"] for one in document["slowest"]}
    assert halves[lost.opener.span_id]["same_connection"] is True
    assert halves[lost.opener.span_id]["connection"] == 1001
    assert document["thresholds"]["between"] == 0.2

    alone = json.loads(schema.dumps(analyze([opening("first_connection"), reusing()])))
    assert "servers" not in alone
    assert "between" not in alone["thresholds"]
    assert all("server" not in one for one in alone["slowest"])


def test_a_report_of_a_server_alone() -> None:
    """Where no client has told of anything the report is about the server, and says whether something was found."""
    for rows, said in ((single(30), "clients_do_not_reuse"), (single(3), "No problems found in 3 requests")):
        shown = io.StringIO()
        render(analyze(rows), Console(file=shown, width=120))
        assert shown.getvalue().startswith(f"{len(rows)} requests seen by servers: orders:8000\n")
        assert said in shown.getvalue()
