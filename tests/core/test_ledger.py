"""The ledger of one pool, sans I/O: why connections are opened and closed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_httptrace.core.ledger import TRANSITIONS, Connection, Ledger, Limits, Process, Reason, State
from otel_httptrace.core.timeline import CLOSED_EARLY, COMPLETE, FAILED, Exchange, Origin, Shared

HERE = Origin("http", "origin.test", 80)
THERE = Origin("http", "other.test", 80)
PROXY = Shared(Origin("http", "proxy.test", 3128))
SECOND = 1_000_000_000
LENGTH = [(b"Content-Length", b"5")]


def ledger(process: Process | None = None, **limits: Any) -> Ledger:
    """A pool's, with these limits."""
    return Ledger(process or Process(), Limits(**limits))


def dialled(book: Ledger, at: int, origin: Origin = HERE, reach: Shared | None = None) -> tuple[Connection, Exchange]:
    """A connection just opened by an exchange that is on it."""
    exchange = Exchange(book, object(), at, 0)
    conn = book.created(origin, at, reach)
    book.acquired(conn, exchange, at)
    conn.dialler = exchange
    assert book.opened(conn, at)
    exchange.sending(at)
    book.carries(conn, exchange)
    exchange.headers_at = at
    exchange.response_headers = LENGTH
    return conn, exchange


def read(book: Ledger, exchange: Exchange, at: int) -> None:
    """Its body was read to the end and its response closed."""
    exchange.body_ended(at)
    book.released(exchange, at)
    book.finished(exchange, at)


def left(book: Ledger, conn: Connection, exchange: Exchange, at: int) -> None:
    """Its response was closed unread, and its connection with it."""
    exchange.body_left(at)
    book.closed(conn, at)
    book.finished(exchange, at)


# The transitions.


@given(state=st.sampled_from(State), wanted=st.sampled_from(State))
def test_a_connection_changes_its_state_as_the_table_allows(state: State, wanted: State) -> None:
    """A connection changes its state as the table allows, and otherwise stays what it is."""
    conn = Connection(ledger(), HERE, 1, 0)
    conn.state = state

    moved = conn.move(wanted)

    assert moved is (wanted in TRANSITIONS[state])
    assert conn.state is (wanted if moved else state)


def test_the_table_is_whole() -> None:
    """Every state is in the table, nothing leaves `CLOSED`, and everything leads there."""
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == frozenset()
    assert all(State.CLOSED in after for state, after in TRANSITIONS.items() if state is not State.CLOSED)


# Why opened.


def test_first_and_new_client() -> None:
    """The first pool of the process to connect to an origin, and any other after it."""
    process = Process()
    one, two = ledger(process), ledger(process)
    assert dialled(one, 1)[0].open_reason is Reason.FIRST_CONNECTION
    assert dialled(two, 1)[0].open_reason is Reason.NEW_CLIENT
    assert dialled(two, 2, THERE)[0].open_reason is Reason.FIRST_CONNECTION


def test_a_failed_dial_connects_nothing() -> None:
    """A dial that failed leaves the origin unconnected, and what it was to replace still to be replaced."""
    book = ledger()
    first = book.created(HERE, 0)
    book.dial_failed(first)
    conn, exchange = dialled(book, 1)
    assert conn.open_reason is Reason.FIRST_CONNECTION
    left(book, conn, exchange, 2)
    again = book.created(HERE, 3)
    assert again.open_reason is Reason.BODY_NOT_READ
    book.dial_failed(again)
    assert book.created(HERE, 4).open_reason is Reason.BODY_NOT_READ


def test_a_connection_being_dialled_counts_as_busy() -> None:
    """A connection that is being dialled counts as open and busy."""
    book = ledger()
    book.created(HERE, 0)
    assert book.created(HERE, 1).open_reason is Reason.ALL_BUSY


def test_each_loss_explains_one() -> None:
    """Most recent first, each loss explains one new connection."""
    book = ledger()
    one, a = dialled(book, 1)
    two, b = dialled(book, 1)
    a.body_raised(2, "ReadError", cancelled=False)
    book.closed(one, 2)
    book.finished(a, 2)
    left(book, two, b, 3)

    assert [book.created(HERE, at).open_reason for at in (4, 5, 6)] == [
        Reason.BODY_NOT_READ,
        Reason.REQUEST_FAILED,
        Reason.ALL_BUSY,
    ]


def test_the_most_recent_loss_comes_first_after_a_failed_dial() -> None:
    """What a failed dial was to replace waits for the next one again, behind what has been lost since."""
    book = ledger()
    one, a = dialled(book, 1)
    two, b = dialled(book, 1)
    left(book, one, a, 2)
    trying = book.created(HERE, 3)
    b.body_raised(4, "ReadError", cancelled=False)
    book.closed(two, 4)
    book.finished(b, 4)
    book.dial_failed(trying)

    assert [book.created(HERE, at).open_reason for at in (5, 6)] == [Reason.REQUEST_FAILED, Reason.BODY_NOT_READ]


def test_those_who_hold_the_pool_longest_come_first() -> None:
    """The oldest request is named first, on whichever connection it is, and whether or not it has leaked it."""
    book = ledger()
    young, first = dialled(book, 1)
    read(book, first, 2)
    _, older = dialled(book, 3)
    _, leak = dialled(book, 4)
    younger = Exchange(book, object(), 5, 0)
    book.acquired(young, younger, 5)
    older.context, leak.context, younger.context = "older", "leak", "younger"
    leak.body_forgotten()
    book.leaked(leak, 6)
    book.finished(leak, 6)

    assert [(holder.context, holder.since) for holder in book.holders()] == [("older", 3), ("leak", 4), ("younger", 5)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"close", Reason.CONNECTION_CLOSE),
        (b"Keep-Alive , Close", Reason.CONNECTION_CLOSE),
        (b"keep-alive, X-Close-Later", Reason.BODY_NOT_READ),
        (b"closed", Reason.BODY_NOT_READ),
    ],
)
@pytest.mark.parametrize("side", ["request_headers", "response_headers"])
def test_close_is_a_word_of_its_own(side: str, value: bytes, reason: Reason) -> None:
    """`Connection` is a list, and only the token `close` in it ends the connection: on either side."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    setattr(exchange, side, [*getattr(exchange, side), (b"Connection", value)])
    exchange.body_left(2)

    assert book.closed(conn, 2) is reason


def test_an_old_loss_has_expired() -> None:
    """Lost longer ago than the expiry, it would have expired by now."""
    book = ledger(keepalive_expiry=5 * SECOND)
    conn, exchange = dialled(book, 1)
    left(book, conn, exchange, 1)
    assert book.created(HERE, 1 + 5 * SECOND).open_reason is Reason.KEEPALIVE_EXPIRED


def test_losses_do_not_cross_origins() -> None:
    """A loss explains a connection to its own origin only."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    left(book, conn, exchange, 1)
    assert book.created(THERE, 2).open_reason is Reason.FIRST_CONNECTION
    assert book.created(HERE, 3).open_reason is Reason.BODY_NOT_READ


def test_losses_cross_origins_where_connections_do() -> None:
    """A shared connection explains the next one of its proxy, for whatever origin; no direct one, and no other proxy's."""
    book, elsewhere = ledger(), Shared(Origin("http", "proxy.test", 3129))
    conn, exchange = dialled(book, 1, HERE, PROXY)
    left(book, conn, exchange, 1)
    assert book.created(HERE, 2).open_reason is Reason.FIRST_CONNECTION
    assert book.created(HERE, 2, elsewhere).open_reason is Reason.FIRST_CONNECTION
    assert book.created(THERE, 2, PROXY).open_reason is Reason.BODY_NOT_READ
    assert book.created(HERE, 3, PROXY).open_reason is Reason.ALL_BUSY


def test_new_client_where_connections_cross_origins() -> None:
    """Where connections are shared, a pool is new to the proxy that another has been connected through."""
    process = Process()
    dialled(ledger(process), 1, HERE, PROXY)
    book = ledger(process)
    assert book.created(THERE, 2, PROXY).open_reason is Reason.NEW_CLIENT
    assert book.created(HERE, 2).open_reason is Reason.FIRST_CONNECTION


def test_used_after_it_was_closed() -> None:
    """A pool that was closed opens because it was."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    read(book, exchange, 1)
    book.pool_closed(2)
    assert book.closed(conn, 2) is Reason.CLIENT_CLOSED
    assert book.created(HERE, 3).open_reason is Reason.CLIENT_CLOSED


# Why closed.


def test_closed_in_the_ways_there_are() -> None:
    """Who was on the connection, and how that went, says why it closed."""
    cases: dict[Reason, Any] = {
        Reason.BODY_NOT_READ: (CLOSED_EARLY, {}),
        Reason.REQUEST_FAILED: (FAILED, {}),
    }
    for reason, (outcome, options) in cases.items():
        book = ledger()
        conn, exchange = dialled(book, 1)
        exchange.outcome = outcome
        assert book.closed(conn, 1, **options) is reason
        assert exchange.close_reason == reason.value


@pytest.mark.parametrize(("cancelled", "reason"), [(True, Reason.REQUEST_CANCELLED), (False, Reason.REQUEST_FAILED)])
def test_closed_by_an_exception(cancelled: bool, reason: Reason) -> None:
    """An exception on its way out is a failure or a cancellation."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    assert book.closed(conn, 1, by=exchange, cancelled=cancelled) is reason


@pytest.mark.parametrize(
    ("version", "request_headers", "response_headers", "kept"),
    [
        (b"HTTP/1.1", [], [], True),
        (b"HTTP/1.0", [], [], False),
        (b"HTTP/1.1", [(b"Connection", b"Close")], [], False),
        (b"HTTP/1.1", [], [(b"connection", b"upgrade, close")], False),
        (b"HTTP/1.1", [], [(b"X-Connection", b"close")], True),
    ],
)
def test_either_side_may_end_keep_alive(
    version: bytes, request_headers: Any, response_headers: Any, kept: bool
) -> None:
    """Either side may say `Connection: close`; HTTP/1.0 need not. Then reading would not have saved it."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    exchange.http_version = version
    exchange.request_headers, exchange.response_headers = request_headers, [*LENGTH, *response_headers]
    exchange.body_left(1)
    assert book.closed(conn, 1) is (Reason.BODY_NOT_READ if kept else Reason.CONNECTION_CLOSE)


@pytest.mark.parametrize(
    ("idle_for", "readable", "reason"),
    [
        (1, True, Reason.SERVER_CLOSED),
        (1, None, Reason.UNKNOWN),
        (5 * SECOND, True, Reason.KEEPALIVE_EXPIRED),
        (5 * SECOND, None, Reason.KEEPALIVE_EXPIRED),
    ],
)
def test_a_connection_lost_while_idle_expired_or_was_closed(
    idle_for: int, readable: bool | None, reason: Reason
) -> None:
    """An idle connection that goes had expired, or was closed by the server; an expiry wins, and what is not known is said."""
    book = ledger(keepalive_expiry=5 * SECOND)
    conn, exchange = dialled(book, 1)
    read(book, exchange, 10)
    assert book.closed(conn, 10 + idle_for, readable=readable) is reason


def test_a_second_close_changes_nothing() -> None:
    """A second close says nothing, and changes nothing."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    left(book, conn, exchange, 1)
    assert book.closed(conn, 2) is None
    assert conn.close_reason is Reason.BODY_NOT_READ


def test_a_leak_is_a_loss() -> None:
    """A collected response's connection explains one new one, though it is still open."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    exchange.body_forgotten()
    book.leaked(exchange, 1)
    book.finished(exchange, 1)
    assert conn.state is State.LOST
    assert book.created(HERE, 2).open_reason is Reason.RESPONSE_LEAKED
    assert book.created(HERE, 3).open_reason is Reason.ALL_BUSY


def test_the_repr_of_a_ledger_is_one_line() -> None:
    """A ledger says in a line what a debugger would ask."""
    book = ledger()
    conn, exchange = dialled(book, 1)
    dialled(book, 1)
    left(book, conn, exchange, 2)
    assert repr(book) == "<Ledger 1 connections | 1 active 0 idle | last lost: body_not_read>"
    assert "closed" in repr(conn)


# What always holds.


class Pool(RuleBasedStateMachine):
    """A pool of HTTP/1.1 connections that does what pools do, in any order; the ledger must keep up."""

    @initialize(expiry=st.sampled_from([None, 20]))
    def begin(self, expiry: int | None) -> None:
        """Make it."""
        self.book = ledger(keepalive_expiry=expiry)
        self.expiry = expiry
        self.now = 1
        self.busy: dict[Connection, Exchange] = {}
        self.idle: dict[Connection, int] = {}
        self.opened = self.closed = 0
        #: By the model's own account: how connections were lost, the newest last.
        self.losses: list[tuple[Reason, int]] = []
        self.connected = False

    def _tick(self) -> int:
        self.now += 1
        return self.now

    def _lost(self, reason: Reason) -> None:
        self.losses.append((reason, self.now))
        self.closed += 1

    @rule()
    def request(self) -> None:
        """A request: on an idle connection if there is one, else on a new one."""
        at = self._tick()
        if self.idle:
            conn, since = self.idle.popitem()
            exchange = Exchange(self.book, object(), at, 0)
            self.book.acquired(conn, exchange, at)
            exchange.sending(at)
            self.book.carries(conn, exchange)
            exchange.headers_at = at
            exchange.response_headers = LENGTH
            assert (exchange.reused, exchange.was_idle, exchange.idle) == (True, True, at - since)
        else:
            if self.losses:
                reason, when = self.losses.pop()
                if self.expiry is not None and at - when >= self.expiry:
                    reason = Reason.KEEPALIVE_EXPIRED
            elif self.busy:
                reason = Reason.ALL_BUSY
            else:
                reason = Reason.FIRST_CONNECTION
            conn, exchange = dialled(self.book, at)
            self.opened += 1
            assert conn.open_reason is reason
            assert exchange.reused is False
        self.busy[conn] = exchange

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), how=st.sampled_from(["read", "unread", "close", "failed", "cancelled"]))
    def end(self, data: Any, how: str) -> None:
        """A request under way ends, in one of the ways there are."""
        at = self._tick()
        conn = data.draw(st.sampled_from(sorted(self.busy, key=lambda conn: conn.id)))
        exchange = self.busy.pop(conn)
        if how == "read":
            read(self.book, exchange, at)
            self.idle[conn] = at
            return
        if how == "close":
            exchange.response_headers = [*LENGTH, (b"Connection", b"close")]
        if how in ("unread", "close"):
            exchange.body_left(at)
        else:
            exchange.body_raised(at, "ReadError", cancelled=how == "cancelled")
        reason = {
            "unread": Reason.BODY_NOT_READ,
            "close": Reason.CONNECTION_CLOSE,
            "failed": Reason.REQUEST_FAILED,
            "cancelled": Reason.REQUEST_CANCELLED,
        }[how]
        assert self.book.closed(conn, at) is reason
        assert exchange.close_reason == reason.value
        self.book.finished(exchange, at)
        self._lost(reason)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def server_closes(self, data: Any) -> None:
        """The server closes an idle connection, and the pool notices."""
        at = self._tick()
        conn = data.draw(st.sampled_from(sorted(self.idle, key=lambda conn: conn.id)))
        since = self.idle.pop(conn)
        expired = self.expiry is not None and at - since >= self.expiry
        reason = Reason.KEEPALIVE_EXPIRED if expired else Reason.SERVER_CLOSED
        assert self.book.closed(conn, at, readable=True) is reason
        self._lost(reason)

    @rule(passed=st.integers(1, 30))
    def time_passes(self, passed: int) -> None:
        """Nothing happens for a while."""
        self.now += passed

    @invariant()
    def adds_up(self) -> None:
        """Opened less closed is open, idle ones are counted, and every state is what the pool's is."""
        if not hasattr(self, "book"):
            return
        assert set(self.book.live) == {*self.busy, *self.idle}
        assert self.opened - self.closed == len(self.book.live)
        assert set(self.book.idle) == set(self.idle)
        assert all(conn.idle for conn in self.idle)
        assert not any(conn.idle for conn in self.busy)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    st.lists(
        st.sampled_from(["created", "opened", "failed", "acquired", "released", "lost", "closed", "leaked", "pool"])
    )
)
def test_any_order_of_facts(facts: list[str]) -> None:
    """Facts may come in any order, twice or late: nothing raises, counts stay sound, a close has one reason."""
    book, now = ledger(connections=3), 0
    conn = book.created(HERE, now)
    exchange = Exchange(book, object(), now, 0)
    reasons = []
    for fact in facts:
        now += 1
        if fact == "created":
            conn = book.created(HERE, now)
        elif fact == "opened":
            book.opened(conn, now)
        elif fact == "failed":
            book.dial_failed(conn)
        elif fact == "acquired":
            book.acquired(conn, exchange, now)
        elif fact == "released":
            book.released(exchange, now)
        elif fact == "lost":
            book.lost(conn, Reason.UPGRADED, now, exchange)
        elif fact == "closed":
            reasons.append(book.closed(conn, now, readable=False))
        elif fact == "leaked":
            book.leaked(exchange, now)
        elif fact == "pool":
            book.pool_closed(now)
        # One that was opened for nobody is not noted as idle before somebody has left it.
        assert set(book.idle) <= {conn for conn in book.live if conn.idle}
        assert all(conn.state is not State.CLOSED for conn in book.live)
        assert conn.open_reason is not None
    assert repr(book)
    assert COMPLETE == "complete"
