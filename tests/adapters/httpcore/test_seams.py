"""Every private name that we lean on is there, and means what we take it for: one test each, on both libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from kit.clients import Client, Flavour
from kit.http2 import H2Server
from kit.proxies import Proxy, share
from kit.server import Server

from otel_httptrace.adapters.httpcore import seams
from otel_httptrace.core.ledger import Limits
from otel_httptrace.core.timeline import Origin, Shared
from otel_httptrace.observe import marks
from otel_httptrace.observe.patches import Patches


async def used(flavour: Flavour, server: Server, **options: Any) -> Client:
    """A client that has an idle connection to *server*."""
    client = flavour.client(**options)
    await client.get(server.url())
    return client


async def test_limits_of_the_pool_are_read(flavour: Flavour) -> None:
    """`_max_connections`, `_max_keepalive_connections` and `_keepalive_expiry` are what the client was set to."""
    limits = flavour.httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=1.5)
    async with flavour.client(limits=limits) as client:
        assert seams.limits(client.pool, True) == Limits(7, 3, 1_500_000_000, True)
    limits = flavour.httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
    async with flavour.client(limits=limits) as client:
        assert seams.limits(client.pool, False) == Limits(None, None, None, False)


async def test_connections_of_the_pool_are_read(flavour: Flavour, server: Server) -> None:
    """`_connections` is the list that the pool's public `connections` shows."""
    client = await used(flavour, server)

    assert seams.connections(client.pool) == client.pool.connections
    assert len(client.pool.connections) == 1
    await client.close()


async def test_a_pool_with_a_proxy_is_recognised(flavour: Flavour, server: Server) -> None:
    """`_proxy_url` and `_proxy` tell a pool that goes through a proxy from one that does not."""
    with Proxy() as proxy:
        client = await used(flavour, server, proxy=proxy.url(""))
        assert seams.proxied(client.pool)
        await client.close()
    client = await used(flavour, server)
    assert not seams.proxied(client.pool)
    await client.close()


async def test_the_connection_leads_to_its_network_stream(flavour: Flavour, server: Server) -> None:
    """`_connection` leads to the HTTP/1.1 connection, whose `_network_stream` is the response's."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url())
        (connection,) = client.pool.connections

        assert type(seams.innermost(connection)).__name__.endswith("HTTP11Connection")
        public = response.raw.extensions["network_stream"]
        stream = seams.network_stream(connection)
        assert stream.get_extra_info("client_addr") == public.get_extra_info("client_addr")
        await response.read()


async def test_origins_of_connections_are_read(flavour: Flavour, server: Server) -> None:
    """`_origin` and `_remote_origin` are what a connection is for, through a proxy, too."""
    expected = Origin("http", "127.0.0.1", server.port)
    client = await used(flavour, server)
    assert seams.origin(client.pool.connections[0]) == expected
    await client.close()
    with Proxy() as proxy:
        client = await used(flavour, server, proxy=proxy.url(""))
        assert seams.origin(client.pool.connections[0]) == expected
        await client.close()


async def test_what_a_proxied_connection_is_for(
    flavour: Flavour, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_proxy_origin` is the proxy of a connection that says it would take any plain-HTTP origin; today none does."""
    with Proxy() as proxy:
        client = await used(flavour, server, proxy=proxy.url(""))
        (connection,) = client.pool.connections
        assert seams.shared(connection) is None
        share(flavour, monkeypatch)
        assert seams.shared(connection) == Shared(Origin("http", "127.0.0.1", proxy.port))
        await client.close()
        direct = await used(flavour, server)
        assert seams.shared(direct.pool.connections[0]) is None
        await direct.close()


async def test_h11_is_idle_between_two_messages_only(flavour: Flavour, server: Server) -> None:
    """`_h11_state.our_state` is IDLE between two messages only."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url())
        probe = seams.Probe(client.pool.connections[0], proxied=False)
        assert probe.clean() is False
        await response.read()
        assert probe.clean() is True
        assert probe.available() is True


async def test_http2_says_that_it_is_retired(
    flavour: Flavour, h2_server: Callable[..., H2Server], client_tls: Any
) -> None:
    """`_h2_state` says HTTP/2; `_connection_terminated` and `_used_all_stream_ids` that it is retired."""
    server = h2_server()
    async with flavour.client(verify=client_tls, http2=True) as client:
        await client.get(server.url("/"))
        (connection,) = client.pool.connections
        probe = seams.Probe(connection, proxied=False)
        inner = seams.innermost(connection)

        assert seams.multiplexes(connection)
        assert inner._connection_terminated is None
        assert inner._used_all_stream_ids is False
        assert (probe.goaway(), probe.clean()) == (False, None)
        inner._used_all_stream_ids = True
        assert probe.goaway()
        inner._used_all_stream_ids = False
        inner._connection_terminated = object()
        assert probe.goaway()
        inner._connection_terminated = None


async def test_http1_is_not_http2(flavour: Flavour, server: Server) -> None:
    """An HTTP/1.1 connection has no `_h2_state`, and is never retired by GOAWAY."""
    client = await used(flavour, server)
    (connection,) = client.pool.connections

    assert not seams.multiplexes(connection)
    assert not seams.Probe(connection, proxied=False).goaway()
    await client.close()


def test_missing_private_names_are_not_known() -> None:
    """Where nothing of all this is there, each answer is that it is not known."""
    nothing = object()

    assert seams.limits(nothing, True) == Limits(None, None, None, True)
    assert seams.connections(nothing) == []
    assert not seams.proxied(nothing)
    assert seams.innermost(nothing) is nothing
    assert seams.network_stream(nothing) is None
    assert not seams.multiplexes(nothing)
    assert seams.origin(nothing) is None
    assert seams.target(nothing) is None
    assert seams.shared(nothing) is None
    assert seams.address(nothing, "server_addr") is None
    assert marks.attached(nothing) is None
    assert not marks.attach(nothing, 1)
    probe = seams.Probe(nothing, proxied=False)
    assert (probe.readable(), probe.goaway(), probe.clean(), probe.available()) == (None, False, None, True)


def test_a_stand_in_that_has_everything() -> None:
    """A mock has every attribute one asks for: nothing of ours is found on it, and nothing goes on for ever."""
    mock = MagicMock()

    assert marks.attached(mock) is None
    assert isinstance(seams.innermost(mock), MagicMock)
    assert seams.limits(mock, True) == Limits(None, None, None, True)
    assert seams.connections(mock) == []
    assert seams.shared(mock) is None


@pytest.mark.parametrize("told", [("::1", 80, 0, 0), ("127.0.0.1", 80), "/run/app.sock", None, (), 5])
def test_an_end_of_a_stream_is_an_address_or_unknown(told: Any) -> None:
    """An end of a stream is a host and port, a path, or not known."""
    stream = MagicMock(get_extra_info=lambda name: told)
    found = seams.address(stream, "server_addr")

    expected = (told[:2] or None) if isinstance(told, tuple) else (told, None) if isinstance(told, str) else None
    assert (found and (found.host, found.port)) == expected


def test_replaced_by_two_at_once() -> None:
    """Of two threads that come to replace the same method at once one does, and the original comes back whole."""
    patches = Patches()

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def close(self: Any) -> None:
            original(self)

        return close

    class Meta(type):
        def __setattr__(cls, name: str, value: object) -> None:
            super().__setattr__(name, value)
            # The other thread comes by when the first has just put its wrapper there.
            patches.replace(cls, name, make)

    class Stream(metaclass=Meta):
        def close(self) -> None: ...

    original = Stream.close
    patches.replace(Stream, "close", make)
    assert Stream.close.__wrapped__ is original  # type: ignore[attr-defined]
