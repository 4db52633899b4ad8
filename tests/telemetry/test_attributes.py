"""From an exchange to its attributes, sans I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_httptrace.core.ledger import Ledger, Limits, Process
from otel_httptrace.core.timeline import CLOSED_EARLY, COMPLETE, Address, Exchange, Origin
from otel_httptrace.telemetry import attributes

MILLISECOND = 0.001

#: Around a millisecond: 1,000,000 to 1,000,404 are told as less, in steps of 2**-20 s.
AROUND = st.integers(990_000, 1_010_000)


def exchange(*, pool: int = 0, send: int = 0, receive: int = 0) -> Exchange:
    """One that was complete, with so many nanoseconds in these phases and 1 s in `wait`."""
    book = Ledger(Process(), Limits())
    conn = book.adopted(Origin("http", "origin.test", 80), 1, busy=False)
    found = Exchange(book, object(), 1, 0)
    found.pool = (1, 1, 0)
    book.acquired(conn, found, 1 + pool)
    found.sending(1 + pool)
    found.wait_at = 1 + pool + send
    found.headers_at = found.wait_at + 10**9
    found.reading_since = found.headers_at
    found.body_read(found.headers_at + receive // 2, 5)
    found.reading_since = found.headers_at + receive // 2
    found.body_ended(found.headers_at + receive)
    found.status = 200
    return found


@given(receive=AROUND)
@example(receive=1_000_000)
@example(receive=1_000_404)
@example(receive=1_000_405)
def test_the_wait_for_bytes_goes_by_the_time_that_is_told(receive: int) -> None:
    """`read_wait` is there exactly where the `time.receive` that is told is a millisecond or more."""
    told = attributes.request(exchange(receive=receive))
    assert ("httptrace.body.read_wait" in told) == (told["httptrace.time.receive"] >= MILLISECOND)


@given(pool=AROUND, send=AROUND)
@example(pool=1_000_000, send=1_000_000)
@example(pool=1_000_404, send=1_000_404)
@example(pool=1_000_405, send=1_000_405)
def test_no_wait_is_told_as_less_than_a_millisecond(pool: int, send: int) -> None:
    """`time.pool` and `time.send` are there from what is told as a millisecond on, and the pool with the former."""
    told = attributes.request(exchange(pool=pool, send=send))
    assert told.get("httptrace.time.pool", MILLISECOND) >= MILLISECOND
    assert told.get("httptrace.time.send", MILLISECOND) >= MILLISECOND
    assert ("httptrace.time.pool" in told) == ("httptrace.pool.idle" in told)
    assert ("httptrace.time.pool" in told) == (pool > 1_000_404)
    assert ("httptrace.time.send" in told) == (send > 1_000_404)


@given(
    pool=AROUND,
    send=AROUND,
    receive=AROUND,
    changed=st.dictionaries(
        st.sampled_from(["status", "method", "idle", "carried_before", "reused"]), st.integers(0, 3)
    ),
    peer=st.sampled_from([None, Address("192.0.2.1", 80), Address("a socket", None)]),
)
@example(pool=0, send=0, receive=0, changed={}, peer=Address("192.0.2.1", 80))
@example(pool=0, send=0, receive=1_000_405, changed={}, peer=Address("192.0.2.1", 80))
def test_the_usual_is_told_as_anything_else(
    pool: int, send: int, receive: int, changed: dict[str, int], peer: Address | None
) -> None:
    """What is told of a usual request without a look at the rest is what is told of it with one."""
    found = exchange(pool=pool, send=send, receive=receive)
    values: dict[str, tuple[Any, ...]] = {
        "status": (204, 304, 100, 200),
        "method": (b"HEAD", b"GET", b"POST", b""),
        "idle": (None, 0, 1, 10**9),
        "carried_before": (None, 0, 1, 9),
        "reused": (False, True, True, True),
    }
    said = {"reused": 1, "idle": 2, "carried_before": 2} | changed
    for name, number in said.items():
        setattr(found, name, values[name][number])
    conn: Any = found.conn
    conn.peer = peer
    usual = attributes.usual(found)
    if usual is not None:
        assert attributes.plain(found)
        assert usual == attributes.request(found)
        assert list(usual) == list(attributes.request(found))
    else:
        longer = max(pool, send, receive) > 1_000_404
        assert longer or changed or peer is None or peer.port is None


@given(receive=st.integers(0, 3_000_000), late=st.integers(0, 10**9), outcome=st.sampled_from([COMPLETE, CLOSED_EARLY]))
def test_the_span_of_the_body_says_of_it_what_the_request_span_says(receive: int, late: int, outcome: str) -> None:
    """`http.receive` has the request span's `httptrace.body.*`, and `read_wait` however short, but never longer than it."""
    found = exchange(receive=receive)
    found.outcome = outcome
    # Closed under a read, which notices later.
    found.read_wait += late
    told = attributes.request(found)

    body = attributes.body(found)
    assert body["httptrace.body.read_wait"] <= told["httptrace.time.receive"]
    on_both = {name: value for name, value in told.items() if name.startswith("httptrace.body.")}
    assert body == {"httptrace.body.read_wait": body["httptrace.body.read_wait"], **on_both}


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ([(b"Content-Length", b"10")], 10),
        ([(b"Content-Length", b"10"), (b"Transfer-Encoding", b"chunked")], None),
        ([(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"10")], None),
        ([(b"Content-Length", b"10, 10")], None),
        ([], None),
    ],
)
def test_the_size_of_a_body_left_unread(headers: Any, size: int | None) -> None:
    """What Content-Length announces, unless Transfer-Encoding overrides it (RFC 9112, section 6.3)."""
    found = exchange()
    found.outcome, found.response_headers = CLOSED_EARLY, headers
    assert attributes.body_size(found) == size
