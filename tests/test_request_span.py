"""The request span: what it says, when it ends, and that it ends once."""

from __future__ import annotations

from kit.clients import Flavour
from kit.matchers import LINE, SECONDS
from kit.server import Server
from kit.telemetry import Telemetry


async def test_a_new_connection(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A request that dialled says so, with the time of every phase."""
    async with flavour.client() as client:
        await client.get(server.url())

    assert telemetry.told(telemetry.request()) == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }


async def test_a_reused_connection(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A plain keep-alive request has about ten attributes and no child span."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url())

    _, span = telemetry.requests()
    assert telemetry.told(span) == {
        "http.conn.reused": True,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 1,
        "httptrace.conn.idle": SECONDS,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }
    assert telemetry.tree(span) == []
    assert server.targets == [["/", "/"]]
