"""Waiting for the pool: how long, for what, and what the pool looked like."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
from kit.clients import Flavour
from kit.http2 import H2Server
from kit.matchers import LINE, SECONDS, Seconds
from kit.server import Peer, Request, Server, answer
from kit.telemetry import Telemetry, attributes, failed, seconds


def figures(span: Any) -> dict[str, int]:
    """The pool's figures on a span."""
    return {
        name.removeprefix("httptrace.pool."): value
        for name, value in attributes(span).items()
        if name.startswith("httptrace.pool.")
    }


async def test_a_pool_timeout_says_what_the_pool_was_like(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A request that never got a connection says how long it waited and what the pool was like; nothing else."""
    timeout = flavour.httpx.Timeout(10, pool=0.05)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=2), timeout=timeout) as client:
        responses = [await client.open("GET", server.url()) for _ in range(2)]
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        for response in responses:
            await response.read()

    (span,) = [span for span in telemetry.requests() if "httptrace.failed_phase" in attributes(span)]
    assert telemetry.told(span) == {
        "httptrace.failed_phase": "pool",
        "error.type": "PoolTimeout",
        "httptrace.failed_cause": "PoolTimeout",
        "httptrace.timeout": 0.05,
        "httptrace.time.pool": Seconds(0.05),
        "httptrace.pool.connections": 2,
        "httptrace.pool.idle": 0,
        "httptrace.pool.waiting": 0,
        "httptrace.pool.limit": 2,
        "httptrace.pool.held_at": LINE,
        "httptrace.pool.held_for": Seconds(0.05),
    }
    assert failed(span)
    assert telemetry.tree(span) == ["http.getconn"]
    getconn = telemetry.child("http.getconn", span)
    assert attributes(getconn) == {
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "error.type": "PoolTimeout",
    }
    assert failed(getconn)
    origin = (("server.address", "127.0.0.1"), ("server.port", server.port))
    assert telemetry.metric("httptrace.requests") == {
        (("http.conn.reused", False), *origin): 2,
        (("httptrace.failed_phase", "pool"), *origin): 1,
    }
    # On a busy machine one that did get its connection may have waited a millisecond, too.
    waited = [waited for waited in telemetry.column("httptrace.time.pool") if waited]
    assert telemetry.metric("http.client.request.time_in_queue") == {(*origin, ("url.scheme", "http")): len(waited)}


async def test_waiting_for_a_slot(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Requests that queue say how many were waiting before them; the request itself is left out."""
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: server.requests)
            for number in range(2, 5):
                start(client.get, server.url())
                await flavour.until(lambda: len(client.pool._requests) == number)  # noqa: B023 - called before the loop goes on
            await flavour.sleep(0.02)
            server.go.set()

    _, *waited = telemetry.requests()
    assert [figures(span) for span in waited] == [
        {"connections": 1, "idle": 0, "waiting": number, "limit": 1} for number in range(3)
    ]
    for span in waited:
        told = telemetry.told(span, "httptrace.time.pool")
        assert told["httptrace.time.pool"] == Seconds(0.02)
        assert told["http.conn.reused"] is True
    assert server.accepted == 1


async def test_no_wait_says_nothing(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """With room in the pool a slow server is no wait for it: that is `time.wait`."""

    def slow(peer: Peer, request: Request) -> None:
        server.go.wait(0.1)
        peer.send(answer())

    server.routes["/slow"] = slow
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=2)) as client:
        await client.get(server.url("/slow"))

    span = telemetry.request()
    assert attributes(span).get("httptrace.time.pool", 0.0) < 0.09
    assert attributes(span)["httptrace.time.wait"] == Seconds(0.09)


@pytest.mark.modes("asyncio", "uvloop", "trio")
@pytest.mark.parametrize("used_before", [False, True])
async def test_a_busy_event_loop_is_no_wait(
    flavour: Flavour, server: Server, telemetry: Telemetry, used_before: bool
) -> None:
    """Whom the pool gave a connection at once has not waited for it, however long the event loop was busy then."""

    async def busy(client: Any) -> None:
        while not client.pool._requests:
            await flavour.sleep(0)
        time.sleep(0.02)  # blocks the event loop: what this is about

    async with flavour.client() as client:
        if used_before:
            await client.get(server.url())
        async with flavour.together() as start:
            start(busy, client)
            start(client.get, server.url())

    span = telemetry.requests()[-1]
    assert seconds(span) > 0.02
    assert figures(span) == {}
    assert "httptrace.time.pool" not in attributes(span)


async def test_a_stall_on_the_way_into_the_pool_is_no_wait(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """For whom the pool makes a connection as he enters, it has no wait, however long other threads held him up."""
    async with flavour.client() as client:
        create = client.pool.create_connection

        def stalled(*args: Any) -> Any:
            time.sleep(0.02)  # what another thread or the machine may take: what this is about
            return create(*args)

        client.pool.create_connection = stalled
        await client.get(server.url())

    span = telemetry.request()
    assert seconds(span) > 0.02
    assert figures(span) == {}
    assert "httptrace.time.pool" not in attributes(span)


# Once the dial is over all of them send; httpcore gives two threads the same stream then, now and then, also without us.
@pytest.mark.modes("asyncio", "trio")
async def test_waiting_for_anothers_dial(
    flavour: Flavour,
    server: Server,
    h2_server: Callable[..., H2Server],
    telemetry: Telemetry,
    client_tls: ssl.SSLContext,
) -> None:
    """A wait for another request's HTTP/2 dial is `time.pool` with room left in the pool; without a limit none is said."""
    h2 = h2_server()
    h2.admit.clear()
    limits = flavour.httpx.Limits(max_connections=None)
    async with flavour.client(http2=True, verify=client_tls, limits=limits) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            start(client.get, h2.url())
            await flavour.until(lambda: h2.accepted)
            start(client.get, h2.url())
            await flavour.until(lambda: len(client.pool._requests) == 2)
            await flavour.sleep(0.05)
            h2.admit.set()

    _, dialled, waited = telemetry.requests()
    if attributes(dialled)["http.conn.reused"]:
        dialled, waited = waited, dialled
    told = telemetry.told(
        waited, "httptrace.time.pool", "httptrace.pool.connections", "httptrace.pool.idle", "httptrace.pool.waiting"
    )
    assert told["httptrace.time.pool"] == Seconds(0.05)
    assert figures(waited) == {"connections": 2, "idle": 1, "waiting": 0}
    assert "httptrace.time.tls" not in told
    assert attributes(dialled)["httptrace.time.tls"] == Seconds(0.05)
    assert h2.accepted == 1


# The libraries take the connection for failed then, and forget it unclosed.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.modes("asyncio", "trio")
async def test_cancelled_while_another_dials(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """Who gives up waiting for another's dial has failed in the `pool`, and the dial goes on."""
    h2 = h2_server()
    h2.admit.clear()
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:
            start(client.get, h2.url())
            await flavour.until(lambda: h2.accepted)
            await flavour.cancelled(client.get, h2.url(), when=lambda: len(client.pool._requests) == 2)
            h2.admit.set()

    one, two = telemetry.requests()
    assert telemetry.column("httptrace.failed_phase") == [None, "pool"]
    assert attributes(one)["httptrace.body.outcome"] == "complete"
    assert attributes(two)["httptrace.time.pool"] == SECONDS


# With more threads than connections httpcore 1.0.9 closes one under its user now and then, also without us.
@pytest.mark.modes("asyncio", "trio")
async def test_many_waiters_all_get_through(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Thirty requests over two connections: the limit holds, everything is counted, and nobody is left waiting."""
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=2)) as client:
        async with flavour.together() as start:
            for _ in range(30):
                start(client.get, server.url())

    assert server.accepted <= 2
    assert telemetry.column("httptrace.body.outcome") == ["complete"] * 30
    assert sum(telemetry.metric("httptrace.requests").values()) == 30
    for span in telemetry.requests():
        said = figures(span)
        assert not said or (said["limit"], said["connections"] <= 2) == (2, True)
