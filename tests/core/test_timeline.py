"""The timeline of one exchange, sans I/O: facts go in with a time, in any order, and durations come out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_httptrace.core.ledger import Ledger, Limits, Process
from otel_httptrace.core.timeline import (
    CANCELLED,
    CLOSED_EARLY,
    COMPLETE,
    CONNECT,
    DNS,
    FAILED,
    NEVER_CLOSED,
    POOL,
    PROXY,
    SEND,
    TLS,
    WAIT,
    Address,
    Attempt,
    Dial,
    Exchange,
    Lookup,
    Step,
)


def exchange(at: int = 0) -> Exchange:
    """One that has just begun."""
    return Exchange(Ledger(Process(), Limits()), object(), at, 0)


def answered(at: int = 100) -> Exchange:
    """One whose headers are in, after 10 in the pool, 20 writing and 70 waiting."""
    made = exchange()
    made.sending(10)
    made.wait_at, made.headers_at = 30, at
    return made


# An exchange.


def test_phases_of_a_plain_exchange_leave_no_gap() -> None:
    """Pool, send, wait and receive follow each other without a gap."""
    made = answered()
    made.body_ended(150)

    assert (made.time_pool, made.time_send, made.time_wait, made.time_receive) == (10, 20, 70, 50)
    assert (made.outcome, made.failed_phase, made.error) == (COMPLETE, None, None)


def test_what_was_not_seen_is_none() -> None:
    """What was not seen is None, never zero."""
    made = exchange()

    assert (made.time_pool, made.time_send, made.time_wait, made.time_receive) == (None,) * 4
    assert made.phase == POOL


@pytest.mark.parametrize("cancelled", [False, True])
def test_failed_in_a_phase(cancelled: bool) -> None:
    """An exception before the headers fails the phase it came in; a cancellation is no error."""
    error = None if cancelled else "ReadTimeout"
    waiting = exchange()
    waiting.request_failed(5, "ReadTimeout", cancelled=cancelled)
    assert (waiting.failed_phase, waiting.time_pool, waiting.error) == (POOL, 5, error)

    sending = exchange()
    sending.sending(10)
    sending.request_failed(15, "ReadTimeout", cancelled=cancelled)
    assert (sending.failed_phase, sending.time_send, sending.time_wait, sending.error) == (SEND, 5, None, error)

    written = exchange()
    written.sending(10)
    written.wait_at = 20
    written.request_failed(50, "ReadTimeout", cancelled=cancelled)
    assert (written.failed_phase, written.time_send, written.time_wait, written.error) == (WAIT, 10, 30, error)


def test_the_first_end_counts() -> None:
    """Whatever comes after an end changes nothing: a body's end, a close and a collection may all be told."""
    endings: dict[str, Any] = {
        COMPLETE: lambda made: made.body_ended(150),
        FAILED: lambda made: made.body_raised(150, "ReadError", cancelled=False),
        CANCELLED: lambda made: made.body_raised(150, "CancelledError", cancelled=True),
        CLOSED_EARLY: lambda made: made.body_left(150),
    }
    for outcome, end in endings.items():
        made = answered()
        end(made)
        error = made.error
        for later in (*endings.values(), lambda made: made.body_forgotten()):
            later(made)
        made.request_failed(200, "Late", cancelled=False)
        assert (made.outcome, made.over_at, made.error, made.failed_phase) == (outcome, 150, error, None)


def test_forgotten_ends_with_the_last_byte() -> None:
    """A response that nobody closed ended with its last byte, or with its head if there was none."""
    unread = answered()
    unread.body_forgotten()
    assert (unread.outcome, unread.over_at, unread.time_receive) == (NEVER_CLOSED, 100, 0)

    begun = answered()
    begun.last_byte_at = 130
    begun.body_forgotten()
    assert (begun.outcome, begun.over_at, begun.time_receive) == (NEVER_CLOSED, 130, 30)


def test_an_upgrade_has_no_body() -> None:
    """After a hand-over there is nothing to receive."""
    made = answered()
    made.upgraded, made.over_at = True, 100

    assert made.time_receive is None


# A dial.


def attempt(started: int, **more: Any) -> Attempt:
    """An attempt to connect."""
    return Attempt("origin.test", 80, "tcp", started, **more)


def test_a_dial_with_everything() -> None:
    """Lookup, connect, proxy and TLS are told apart, and do not overlap."""
    dial = Dial()
    first = attempt(10)
    dial.attempt_started(first)
    first.lookups.append(Lookup("origin.test", 10, 30, ("127.0.0.1",)))
    dial.step_over(40)
    dial.proxy_started(Step(40))
    assert dial.current_phase == PROXY
    dial.step_over(60)
    dial.handshake_started(Step(60))
    assert dial.current_phase == TLS
    dial.step_over(90)
    dial.over(90)

    assert (dial.dns, dial.connect, dial.tls) == (20, 10, 30)
    assert dial.proxy is not None
    assert (dial.proxy.started, dial.proxy.ended) == (40, 60)
    assert dial.done


def test_an_unseen_dial_has_no_times() -> None:
    """A dial of which nothing was seen has no times, and no peer."""
    dial = Dial()

    assert (dial.dns, dial.connect, dial.proxy, dial.tls, dial.peer) == (None,) * 5


def test_retries_add_up_to_one_connect_time() -> None:
    """Attempts and the pauses between them are all connecting; the newest peer counts."""
    dial = Dial()
    dial.attempt_started(attempt(0))
    dial.step_over(10, "connection_refused", failed=True)
    dial.backoff_began(10)
    assert dial.current_phase == CONNECT
    dial.backoff_over(60)
    second = attempt(60)
    dial.attempt_started(second)
    second.peer = Address("127.0.0.1", 80)
    dial.step_over(65)

    assert dial.connect == 10 + 50 + 5
    assert dial.peer == Address("127.0.0.1", 80)


@pytest.mark.parametrize(("ended", "error"), [(0, None), (20, "host_not_found")], ids=["in it", "failed in it"])
def test_a_failed_lookup_is_the_dns_phase(ended: int, error: str | None) -> None:
    """While a lookup is under way, or has failed, the phase is `dns` and nothing was connected to."""
    dial = Dial()
    only = attempt(10)
    dial.attempt_started(only)
    only.lookups.append(Lookup("origin.test", 10, ended, error=error, failed=bool(ended)))
    assert dial.current_phase == DNS
    dial.over(30, "ConnectError", failed=True)

    assert dial.current_phase == DNS
    assert (dial.dns, dial.connect) == ((ended or 30) - 10, None)


def test_an_end_without_a_start() -> None:
    """Ends of what never began are of no consequence."""
    dial = Dial()
    dial.step_over(10)
    dial.backoff_over(20)
    dial.over(30)

    assert (dial.dns, dial.connect, dial.tls) == (None, None, None)


STEPS = st.sampled_from(
    [
        "attempt",
        "lookup",
        "looked up",
        "connected",
        "refused",
        "tls",
        "proxy",
        "over",
        "failed",
        "backoff",
        "backed off",
    ]
)


@given(st.lists(st.tuples(STEPS, st.integers(1, 50))))
def test_any_order_of_facts(steps: list[tuple[str, int]]) -> None:
    """Facts may come in any order, twice or never: durations are never negative, and phases fit into the time there was."""
    now, made = 0, exchange()
    made.dial = dial = Dial()
    for step, passed in steps:
        now += passed
        if step == "attempt":
            dial.attempt_started(attempt(now))
        elif step == "lookup" and isinstance(dial.last, Attempt):
            dial.last.lookups.append(Lookup("origin.test", now))
        elif step == "looked up" and isinstance(dial.last, Attempt) and dial.last.lookups:
            dial.last.lookups[-1].ended = dial.last.lookups[-1].ended or now
        elif step in ("connected", "refused"):
            dial.step_over(now, "connection_refused" if step == "refused" else None, failed=step == "refused")
        elif step == "tls":
            dial.handshake_started(Step(now))
        elif step == "proxy":
            dial.proxy_started(Step(now))
        elif step == "over":
            dial.over(now)
        elif step == "failed":
            dial.over(now, "ConnectError", failed=True)
        elif step == "backoff":
            dial.backoff_began(now)
        elif step == "backed off":
            dial.backoff_over(now)
    made.request_failed(now + 1, "ConnectError", cancelled=False)

    for duration in (dial.dns, dial.connect, dial.tls, made.time_pool):
        assert duration is None or duration >= 0
    assert made.failed_phase in (CONNECT, DNS, PROXY, TLS, SEND)
    assert repr(made)


@given(
    st.lists(
        st.sampled_from(["sending", "waiting", "headers", "byte", "ended", "raised", "left", "forgotten", "failed"]),
        max_size=12,
    )
)
def test_there_is_exactly_one_end_in_any_order(facts: list[str]) -> None:
    """Whatever is told in whatever order there is one end, and it stays."""
    made, now, ends = exchange(), 0, []
    for fact in facts:
        now += 10
        if fact == "sending":
            made.sending(now)
        elif fact == "waiting":
            made.wait_at = now
        elif fact == "headers":
            made.headers_at = now
        elif fact == "byte":
            made.last_byte_at = now
        elif fact == "ended":
            made.body_ended(now)
        elif fact == "raised":
            made.body_raised(now, "ReadError", cancelled=False)
        elif fact == "left":
            made.body_left(now)
        elif fact == "forgotten" and made.headers_at:
            made.body_forgotten()
        elif fact == "failed":
            made.request_failed(now, "ConnectError", cancelled=False)
        if made.over_at:
            ends.append((made.over_at, made.outcome, made.failed_phase, made.error))

    assert len(set(ends)) <= 1
    assert made.outcome is None or made.failed_phase is None
