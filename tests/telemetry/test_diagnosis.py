"""What a person reads on one span: the line, how long, and a sentence."""

from __future__ import annotations

import gc
import re
import time
from typing import Any

import pytest
from kit.clients import Flavour
from kit.matchers import LINE, PORT, Seconds
from kit.server import Peer, Request, Server, answer, free_port, head
from kit.telemetry import Telemetry, attributes

from otel_httptrace.core.diagnosis import Diagnosis, Told
from otel_httptrace.core.ledger import Reason
from otel_httptrace.core.timeline import CONNECT, DNS, POOL, PROXY, RECEIVE, SEND, TLS, WAIT
from otel_httptrace.telemetry.sentences import ADDITIONS, SENTENCES, say
from otel_httptrace.telemetry.units import readable_seconds

HERE = r"kit/\S+\.py:\d+ in \S+"
TOOK = r"[\d.]+ (?:s|ms|µs)"
UNREAD = rf"Connection \d+ was lost at {HERE}: this response was closed before it had been read to its end"


def sentences(span: Any) -> list[str]:
    """What is said of a request, in the order in which it happened."""
    events = [event for event in span.events if event.name == "httptrace.diagnosis"]
    assert events == sorted(events, key=lambda event: event.timestamp)
    assert all(span.start_time <= event.timestamp <= span.end_time for event in events), (span, events)
    assert all(set(event.attributes) == {"httptrace.message"} for event in events)
    return [event.attributes["httptrace.message"] for event in events]


def says(span: Any, *patterns: str) -> None:
    """Its sentences are like these, whole."""
    # A busy machine does hold us up: that is told, and not what this is about.
    found = [re.sub(r"; this process did not get to run it for [\d.]+ [mµ]?s", "", said) for said in sentences(span)]
    assert len(found) == len(patterns), found
    assert [re.fullmatch(*pair) is not None for pair in zip(patterns, found, strict=True)] == [True] * len(found), found


async def test_a_plain_request_says_nothing(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """First connections and reused ones have no sentence, and a reused request no attribute that is new."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url())

    first, reused = telemetry.requests()
    assert [list(first.events), list(reused.events)] == [[], []]
    assert attributes(first)["network.local.port"] == PORT
    assert {"network.local.port", "httptrace.conn.lost_at", "httptrace.client.made_at"} & set(
        attributes(reused)
    ) == set()


@pytest.mark.modes("sync")
def test_a_slow_body(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A body that took a second is told, on a reused connection too: how much of it was waiting, and for how long at once."""

    def script(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Length: 10") + b"x" * 5)
        time.sleep(1.05)
        peer.send(b"x" * 5)

    server.routes["/slow"] = script
    with flavour.httpx.Client() as client:
        client.get(server.url())
        client.get(server.url("/slow"))

    plain, slow = telemetry.requests()
    says(plain)
    says(
        slow,
        r"The body took 1\.\d s from the headers to its end, 10 bytes; 1\.\d s of that were spent waiting for bytes, "
        r"1\.\d s at most at a time, and the rest in this program\.",
    )
    assert telemetry.tree(slow) == []


@pytest.mark.modes("sync")
def test_a_slow_answer(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """An answer that begins a second after the request had been sent is told, on a reused connection, too."""

    def script(peer: Peer, request: Request) -> None:
        time.sleep(1.05)
        peer.send(answer())

    server.routes["/slow"] = script
    with flavour.httpx.Client() as client:
        client.get(server.url())
        client.get(server.url("/slow"))

    plain, slow = telemetry.requests()
    says(plain)
    says(slow, r"The response on connection \d+ began 1\.\d s after the request had been sent\.")
    assert telemetry.tree(slow) == []


@pytest.mark.modes("sync", "asyncio")
async def test_a_body_read_but_for_its_end(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Of a body whose last byte was read, but not its end, no share is told as if something were missing."""
    server.routes["/whole"] = answer(b"x" * 2048)
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/whole")) as response:
            await anext(response.parts())

    # With asyncio the line is the kit's, with sync the test's.
    unread = UNREAD.replace("kit/", "")
    says(telemetry.request(), rf"{unread}; all of its 2\.0 KiB had been read, and only its end had not\.")


async def test_an_empty_body_not_read(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Of an empty body it is said that it was empty, and not how much of nothing had been read."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/empty")):
            pass

    says(telemetry.request(), rf"{UNREAD}; the body was empty, and had to be read to its end all the same\.")


async def test_a_body_not_read(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who closes unread is told what it cost, and who had to dial whose line that was: on the span itself."""
    server.routes["/culprit"] = answer(b"x" * 2048)
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/culprit")):
            pass
        await client.get(server.url())

    culprit, victim = telemetry.requests()
    line = attributes(culprit)["httptrace.body.closed_at"]
    assert line == LINE
    assert attributes(victim)["httptrace.conn.lost_at"] == line
    assert attributes(telemetry.child("http.getconn", victim))["httptrace.conn.open_reason"] == "body_not_read"
    says(culprit, rf"{UNREAD}; 0 bytes of 2\.0 KiB had been read\.")
    says(
        victim,
        rf"Opened a new connection because of {re.escape(line)}, which took {TOOK}: the one before was closed with a response that "
        rf"had not been read to its end; it is connection \d+ of the process, to http://127\.0\.0\.1:{server.port}\.",
    )


async def test_no_line_where_lines_are_not_wanted(flavour: Flavour, server: Server, bare_telemetry: Telemetry) -> None:
    """Without `code_location` the sentences are told all the same, and no line."""
    bare_telemetry.instrument(code_location=False)
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/half")):
            pass
        await client.get(server.url())
    async with flavour.client() as client:
        await client.get(server.url())

    spans = bare_telemetry.requests()
    assert [len(sentences(span)) for span in spans] == [1, 1, 1]
    said = [*(sentence for span in spans for sentence in sentences(span)), *map(str, map(attributes, spans))]
    assert [text for text in said if ".py" in text] == []


async def test_no_sentence_without_child_spans(flavour: Flavour, server: Server, bare_telemetry: Telemetry) -> None:
    """`spans="none"`: no event, and the lines are there."""
    bare_telemetry.instrument(spans="none")
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/half")):
            pass
        await client.get(server.url())

    culprit, victim = bare_telemetry.requests()
    assert [list(culprit.events), list(victim.events)] == [[], []]
    assert attributes(victim)["httptrace.conn.lost_at"] == attributes(culprit)["httptrace.body.closed_at"] == LINE


async def test_a_client_per_request(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who opens a connection because its client is new names the line that made the client."""

    async def ask() -> None:
        async with flavour.client() as client:
            await client.get(server.url())

    for _ in range(2):
        await ask()

    first, again = telemetry.requests()
    assert attributes(first).get("httptrace.client.made_at") is None
    made_at = attributes(again)["httptrace.client.made_at"]
    assert made_at == LINE
    assert re.fullmatch(HERE, made_at), made_at
    says(
        again,
        rf"Opened a new connection, which took {TOOK}: the client made at {re.escape(made_at)} is new, and had none; another client of "
        rf"this process had connected to that origin before; it is connection \d+ of the process, to \S+\.",
    )


async def test_a_client_made_before_us(flavour: Flavour, server: Server, bare_telemetry: Telemetry) -> None:
    """Where a client was made before we were there nothing is said of that; where we saw it, also after a restart."""
    async with flavour.client() as early, flavour.client() as other:
        bare_telemetry.instrument()
        await other.get(server.url())
        await early.get(server.url())
    async with flavour.client() as first, flavour.client() as second:
        bare_telemetry.uninstrument()
        bare_telemetry.instrument()
        await first.get(server.url())
        await second.get(server.url())

    made = [attributes(span).get("httptrace.client.made_at") for span in bare_telemetry.requests()]
    reasons = bare_telemetry.column("httptrace.conn.open_reason")
    assert reasons == ["first_connection", "new_client"] * 2
    assert made == [None, None, None, LINE]


async def test_who_holds_the_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who waited for the pool in vain is told which line made the oldest request that holds it, and for how long."""
    timeout = flavour.httpx.Timeout(10, pool=0.05)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=2), timeout=timeout) as client:
        first = await client.open("GET", server.url("/half"))
        await flavour.sleep(0.02)
        second = await client.open("GET", server.url("/half"))
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        await first.close()
        await second.close()

    (span,) = [span for span in telemetry.requests() if "httptrace.failed_phase" in attributes(span)]
    told = attributes(span)
    assert told["httptrace.pool.held_at"] == LINE
    assert told["httptrace.pool.held_for"] == Seconds(0.07)
    says(
        span,
        rf"The pool had no connection within {TOOK}: PoolTimeout; {re.escape(told['httptrace.pool.held_at'])} made the request "
        rf"that has held one for longest, {TOOK}; as the wait began the pool had 2 of at most 2 connections; the timeout was "
        r"50\.0 ms\.",
    )


async def test_a_leak_that_holds_the_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A response that nobody can close any more holds the pool, too, and is told with its line."""
    timeout = flavour.httpx.Timeout(10, pool=0.05)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1), timeout=timeout) as client:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())

    leaked, waited = telemetry.requests()
    assert attributes(waited)["httptrace.pool.held_at"] == attributes(leaked)["httptrace.body.closed_at"] == LINE
    says(
        leaked,
        rf"This response was never closed; its request was made at {HERE}: connection \d+ could not be used again\.",
    )


async def test_a_wait_for_the_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who waited long for the pool is told, though there was a connection in the end."""
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: server.requests)
            start(client.get, server.url())
            await flavour.until(lambda: len(client.pool._requests) == 2)
            await flavour.sleep(0.22)
            server.go.set()

    held, waited = telemetry.requests()
    says(held)
    says(
        waited,
        r"It took \d+ ms until the pool had a connection for this request; as the wait began the pool had 1 of at most 1 "
        r"connections\.",
    )


async def test_a_failure(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who failed is told how, and that it cost the connection; the next one that it was for that."""
    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/no-answer"))
        await client.get(server.url())

    _, failed, victim = telemetry.requests()
    says(
        failed,
        rf"No response could be read from connection \d+ within {TOOK}: RemoteProtocolError; 0 bytes of a response had "
        rf"come; (?:\d+ bytes written had not been acknowledged; )?the connection had been idle for {TOOK}, after 1 request; "
        r"connection \d+ was lost with it\.",
    )
    says(
        victim,
        rf"Opened a new connection, which took {TOOK}: the one before was lost with a request that failed; it is connection \d+ of the process, "
        rf"to \S+\.",
    )
    assert "httptrace.conn.lost_at" not in attributes(victim)


async def test_a_refused_connect(flavour: Flavour, telemetry: Telemetry) -> None:
    """Who could not connect is told to what, and the system's own word for why."""
    address = f"127.0.0.1:{free_port()}"
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://{address}/")

    span = telemetry.request()
    says(span, rf"Connecting to {re.escape(address)} failed after {TOOK}: ConnectError \(ECONNREFUSED\)\.")
    assert "network.local.port" not in attributes(span)


async def test_a_cancellation(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Who was cancelled is told where, and that it cost the connection."""
    async with flavour.client() as client:
        await flavour.cancelled(client.get, server.url("/held"), when=lambda: server.requests)
        server.go.set()

    says(
        telemetry.request(),
        rf"Cancelled while it waited for the response, for {TOOK}; 0 bytes of a response had come; "
        r"connection \d+ was lost with it\.",
    )


async def test_nothing_confidential(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """No query, header, credential or body byte is in a sentence."""
    url = server.url("/half?token=hunter2").replace("http://", "http://hunter2:hunter2@")
    server.routes["/half?token=hunter2"] = server.routes["/half"]
    async with flavour.client(headers={"Cookie": "hunter2"}) as client:
        async with client.stream("GET", url):
            pass
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/no-answer"), headers={"Cookie": "hunter2"})

    said = [sentence for span in telemetry.requests() for sentence in sentences(span)]
    # A slow machine may give it more to say.
    assert len(said) >= 3
    assert [sentence for sentence in said if "hunter2" in sentence or "/half" in sentence] == []


async def test_durations_that_a_person_reads(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """On what dialled, durations are whole microseconds, in few digits; on a plain request they keep their steps."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url())

    opened, reused = (
        {name: value for name, value in attributes(span).items() if name.startswith("httptrace.time.")}
        for span in telemetry.requests()
    )
    assert {name: value for name, value in opened.items() if value != round(value, 6)} == {}
    assert {name: value for name, value in reused.items() if value * 2**20 != int(value * 2**20)} == {}


@pytest.mark.parametrize(("nanoseconds", "told"), [(1_179_999, 0.001179), (999, 0.0), (5_000_000_000, 5.0)])
def test_readable_durations(nanoseconds: int, told: float) -> None:
    """They are cut, not rounded, so that the phases are no more than the whole."""
    assert readable_seconds(nanoseconds) == told


# The table.

PHASES = (POOL, DNS, CONNECT, PROXY, TLS, SEND, WAIT, RECEIVE)
OPENED_ONLY = {Reason.FIRST_CONNECTION, Reason.NEW_CLIENT, Reason.ALL_BUSY}


def test_everything_has_a_sentence() -> None:
    """Each reason to open and to close a connection, and each phase that can fail or be cancelled."""
    assert set(SENTENCES) == set(Told)
    assert set(SENTENCES[Told.OPENED]) == {reason.value for reason in Reason}
    assert set(SENTENCES[Told.LOST]) == {reason.value for reason in set(Reason) - OPENED_ONLY}
    assert tuple(SENTENCES[Told.SLOW]) == (SEND, WAIT, RECEIVE)
    assert tuple(SENTENCES[Told.FAILED]) == tuple(SENTENCES[Told.CANCELLED]) == PHASES


FACTS = {
    **dict.fromkeys(
        ("conn", "opened", "lost", "before", "keepalive", "kept", "limit", "connections", "read", "size", "received"), 7
    ),
    **dict.fromkeys(
        ("took", "opening", "expiry", "timeout", "idle", "stalled", "held_for", "waited", "gap"), 1500000000
    ),
    "whole": 7,
    "looked_up": 2000000000,
    "forward": "[::1]:3128",
    **dict.fromkeys(("dns_took", "connect_took", "proxy_took", "tls_took"), 2000000000),
    **{name: f"{name}.py:1 in it" for name in ("made_at", "lost_at", "closed_at", "client_closed_at", "held_at")},
    "unacked": 7,
    "origin": "http://[::1]:80",
    "address": "[::1]:80",
    "proxy": "[::1]:3128",
    "name": "host",
    "error": "ReadError",
    "cause": "ECONNRESET",
    "closed_by": "KeyError",
    "closed_via": "sdk.py:2 in call",
    "streams": 7,
    "stream_limit": 7,
    "foreign_loop": True,
    "empty": True,
    "dropped": True,
}


@pytest.mark.parametrize(("told", "word"), [(told, word) for told, texts in SENTENCES.items() for word in texts])
def test_each_sentence(told: Told, word: str) -> None:
    """It can be said with all that may be known and with the least, has no gap then, and leaves an address whole."""
    least = {"conn": 7, "opened": 7, "error": "ReadError", "took": 1, "waited": 0}
    for facts in (FACTS, least):
        said = say(Diagnosis(told, word, 0, facts))
        assert said[0].isupper() and said.endswith(".") and len(said) < 1100
        assert re.search(r"[{}]| ,| ;|  |\.\.|: *\.|\[(?!::1\])", said) is None, said


def test_additions_are_said_once() -> None:
    """What a sentence says of itself is not added to it, and all else that is known is."""
    facts = FACTS | {"expiry": 1}
    said = say(Diagnosis(Told.FAILED, WAIT, 0, facts))

    assert said.count("ECONNRESET") == 1
    assert [text for fact, text in ADDITIONS.items() if fact not in facts] == []
    assert "7 bytes of a response had come" in said and "after 7 requests" in said
