"""The ledger of a server's connections, without a server: what it decides, and that it never loses count."""

from __future__ import annotations

import gc
from collections import Counter
from types import FunctionType, ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_httptrace.server.ledger import BETWEEN_REQUESTS, OTHER, Connection, Ledger, Loss, Reason, Request, Where
from otel_httptrace.server.names import METRIC_CONNECTIONS_CLOSED, METRIC_CONNECTIONS_OPENED, METRIC_REQUESTS
from otel_httptrace.server.telemetry import Metrics

MS = 1_000_000


def test_idle_age_and_requests() -> None:
    """Each request is told how many came before it, for how long nothing did, and how old the connection is."""
    conn = Ledger().accepted(80, "10.0.0.1", 4000, at=0)
    first = conn.began(2 * MS)
    conn.ended(first, 5 * MS)
    second = conn.began(9 * MS)
    assert (first.before, first.idle, first.age) == (0, None, 2 * MS)
    assert (second.before, second.idle, second.age) == (1, 4 * MS, 9 * MS)


def test_a_shared_connection_is_not_idle() -> None:
    """On HTTP/2 a request that joins others has no idle time; it ends where the last of them ends."""
    conn = Ledger().accepted(80, "10.0.0.1", 4000, at=0)
    first = conn.began(1)
    assert conn.began(2).idle is None
    conn.ended(first, 10)
    assert conn.began(11).idle is None


def test_who_was_first() -> None:
    """What closes it first is the reason; a word that was given counts once the server closes."""
    ledger = Ledger()

    def conn() -> Connection:
        return ledger.accepted(80, "10.0.0.1", 4000, at=0)

    told = conn()
    told.told(Reason.SHUTDOWN)
    told.told(Reason.CONNECTION_CLOSE)
    assert told.closing() is Reason.SHUTDOWN

    left = conn()
    left.told(Reason.SHUTDOWN)
    left.began(1)
    assert left.hung_up() is Reason.CLIENT_LEFT
    assert left.closing(Reason.ERROR) is Reason.CLIENT_LEFT

    assert conn().hung_up() is Reason.CLIENT_CLOSED
    assert conn().closing() is Reason.UNKNOWN
    assert repr(left) == "<Connection 2: 1 requests, closing because client_left>"


def test_who_left_while_the_last_part_was_written() -> None:
    """The client's end meanwhile: it had all if that was written, and left if it was not or the server closes before."""

    def left(*, unsent: bool = False) -> tuple[Connection, Request]:
        conn = Ledger().accepted(80, "10.0.0.1", 4000, at=0)
        request = conn.began(1)
        request.answering = True
        assert conn.hung_up(2) is None
        assert conn.hung_up(3, unsent=unsent) is (Reason.CLIENT_LEFT if unsent else None)
        return conn, request

    conn, request = left()
    conn.ended(request, 5)
    assert (conn.closing(Reason.CONNECTION_CLOSE), conn.closing_at) == (Reason.CLIENT_CLOSED, 5)

    conn, request = left(unsent=True)
    conn.ended(request, 5)
    assert (conn.closing(), conn.closing_at) == (Reason.CLIENT_LEFT, 3)

    conn, _ = left()
    assert conn.closing(Reason.CONNECTION_CLOSE) is Reason.CLIENT_LEFT


def test_what_is_lost_unseen_is_unknown() -> None:
    """A socket that is gone, and nobody has said why: no guess. Told twice, it counts once."""
    ledger = Ledger()
    conn = ledger.accepted(80, "10.0.0.1", 4000, at=0)
    assert ledger.lost(conn)
    assert not ledger.lost(conn)
    ((where, counts),) = ledger.counted()
    assert where == Where(80, "10.0.0.1")
    assert counts.closed == {Reason.UNKNOWN: 1}


def test_what_explains_a_new_connection() -> None:
    """The last connection of that peer that ended between requests, once; at most sixteen wait, and none of others'."""
    ledger = Ledger(max_peers=1)

    def used(peer: str, port: int, reason: Reason | None) -> Connection:
        conn = ledger.accepted(80, peer, port, at=0)
        request = conn.began(1)
        if reason is not Reason.CLIENT_LEFT:
            conn.ended(request, 3)
        conn.closing(reason, at=10)
        ledger.lost(conn)
        return conn

    for reason in set(Reason) - BETWEEN_REQUESTS:
        used("10.0.0.1", 3000, reason)
    unused = ledger.accepted(80, "10.0.0.1", 3500, at=0)
    unused.closing(Reason.CLIENT_CLOSED, at=10)
    ledger.lost(unused)
    assert used("10.0.0.1", 4000, Reason.KEEPALIVE_TIMEOUT).after is None
    assert used("10.0.0.1", 4001, None).after == Loss(4000, Reason.KEEPALIVE_TIMEOUT, 7, 1)

    # Nor is what counts with others: of those it is remembered who was the last to lose one.
    used("10.0.0.2", 4002, Reason.KEEPALIVE_TIMEOUT)
    used("10.0.0.3", 4003, Reason.CLIENT_CLOSED)
    assert used("10.0.0.2", 4004, None).after is None
    assert used("10.0.0.3", 4005, None).after == Loss(4003, Reason.CLIENT_CLOSED, 7, 1)

    many = [ledger.accepted(80, "10.0.0.1", 6000 + number, at=0) for number in range(20)]
    for conn in many:
        conn.ended(conn.began(1), 2)
    for conn in many:
        conn.hung_up(at=5)
        ledger.lost(conn)
    explained = [used("10.0.0.1", 7000, None).after for _ in range(20)]
    assert [loss and loss.port for loss in explained] == [*range(6019, 6003, -1), None, None, None, None]


def test_a_fork_starts_from_nothing() -> None:
    """In a forked process the connections are the parent's: theirs to count, and their end is nothing to us."""
    ledger = Ledger()
    inherited = ledger.accepted(80, "10.0.0.1", 4000, at=0)
    ledger.begin()
    assert not ledger.lost(inherited)
    assert ledger.counted() == []
    assert not ledger.open()


def test_memory_is_flat() -> None:
    """100,000 connections of as many peers leave behind no more than a few hundred entries, and every one counted."""
    ledger = Ledger()
    for number in range(100_000):
        conn = ledger.accepted(80, f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", 4000, at=number)
        conn.ended(conn.began(number), number)
        conn.hung_up(number)
        ledger.lost(conn)
    assert len(ledger._counts) == 201
    assert len(ledger._losses) == 200
    assert not ledger._live
    counts = dict(ledger.counted())
    assert sum(one.opened for one in counts.values()) == 100_000
    assert sum(one.requests[False] for one in counts.values()) == 100_000
    assert counts[Where(80, OTHER)].opened == 99_800


def test_the_sdk_is_shown_no_more() -> None:
    """Peers that come and go between collections: what a reader keeps of them stops growing, and no total is wrong."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    ledger = Ledger(max_peers=3)
    metrics = Metrics(meters.get_meter("test"), ledger)
    kept = []
    for turn in range(6):
        for number in range(3):
            conn = ledger.accepted(80, f"10.0.{turn}.{number}", 4000, at=turn)
            conn.ended(conn.began(turn), turn)
            conn.hung_up()
            ledger.lost(conn)
            metrics.lost(conn, turn)
        data = reader.get_metrics_data()
        assert data is not None
        points: list[tuple[str, Any]] = [
            (metric.name, point)
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
            for point in metric.data.data_points
        ]
        for name in (METRIC_CONNECTIONS_OPENED, METRIC_CONNECTIONS_CLOSED, METRIC_REQUESTS):
            assert sum(point.value for of, point in points if of == name) == 3 * (turn + 1)
        kept.append(sum(type(one).__name__ == "_SumAggregation" for one in reachable(reader)))
    meters.shutdown()
    assert kept[1:] == [kept[1]] * 5


def reachable(start: object) -> list[object]:
    """All objects that *start* keeps, but for modules and what they hold."""
    found: dict[int, object] = {}
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) not in found and not isinstance(one, (ModuleType, type, FunctionType)):
            found[id(one)] = one
            waiting += gc.get_referents(one)
    return list(found.values())


#: A step: which connection (or a new one, by its peer), and what happens to it.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["accepted", "began", "answering", "ended", "told", "closing", "hung_up", "lost"]),
        st.sampled_from(list(Reason)),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_count_ever_falls(steps: list[tuple[int, str, Reason]]) -> None:
    """Whatever comes in whatever order: counts only grow, and what was opened is open or closed."""
    ledger = Ledger(max_peers=2)
    conns = []
    shown: Counter[tuple[Any, ...]] = Counter()
    for at, (which, what, reason) in enumerate(steps):
        if what == "accepted":
            conns.append(ledger.accepted(80, f"10.0.0.{which}", 4000, at))
        elif conns:
            conn = conns[which % len(conns)]
            if what == "began":
                conn.began(at)
            elif what == "answering" and conn.under_way:
                conn.under_way[-1].answering = True
            elif what == "ended" and conn.under_way:
                conn.ended(conn.under_way[0], at)
            elif what == "told":
                conn.told(reason)
            elif what == "closing":
                conn.closing(reason)
            elif what == "hung_up":
                conn.hung_up()
            elif what == "lost":
                ledger.lost(conn)
        now: Counter[tuple[Any, ...]] = Counter()
        for where, counts in ledger.counted():
            now[where, "opened"] = counts.opened
            now.update({(where, "closed", why): number for why, number in counts.closed.items()})
            now.update({(where, "requests", reused): number for reused, number in counts.requests.items()})
        assert all(now[key] >= number for key, number in shown.items())
        shown = now
        closed = sum(counts.closed.total() for _, counts in ledger.counted())
        assert (
            closed + sum(ledger.open().values()) == sum(counts.opened for _, counts in ledger.counted()) == len(conns)
        )
