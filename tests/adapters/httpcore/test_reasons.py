# Why was a connection opened, and why closed? Each scenario is told in one
# sentence, runs on every flavour against a server that knows the truth, and says
# what must come out: by request why it opened a connection (None: it reused one)
# and how it lost one, by connection why it was closed, and who closed it first.
# A control beside it changes one thing, and the reason with it.

"""Verdicts: every value of `open_reason` and `close_reason`, and what must not cause it."""

from __future__ import annotations

import gc
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit.clients import Client, Flavour
from kit.http2 import H2Server
from kit.proxies import Proxy
from kit.server import Blackhole, Peer, Server
from kit.telemetry import Telemetry


class World:
    """What a scenario plays in: servers, and clients that are closed when it is over."""

    def __init__(self, flavour: Flavour, serve: Callable[..., Server], h2: Callable[..., H2Server], tls: Any) -> None:
        self.flavour = flavour
        self.serve = serve
        self.h2 = h2
        self.tls = tls
        self.server = serve()
        self.clients: list[Client] = []

    def client(self, *, limits: dict[str, Any] | None = None, **options: Any) -> Client:
        """A client that is closed at the end."""
        if limits is not None:
            options["limits"] = self.flavour.httpx.Limits(**limits)
        self.clients.append(self.flavour.client(**options))
        return self.clients[-1]

    async def unread(self, client: Client, url: str, **options: Any) -> None:
        """Ask, and close the response without having read it."""
        async with client.stream("GET", url, **options):
            pass

    async def busy(self, client: Client, *urls: str) -> None:
        """Ask for *urls* while a request is under way, whose answer is held back until they are through."""
        before = len(self.server.requests)
        self.server.go.clear()
        async with self.flavour.together() as start:
            start(client.get, self.server.url("/held"))
            await self.flavour.until(lambda: len(self.server.requests) == before + 1)
            for url in urls:
                await client.get(url)
            self.server.go.set()

    async def at_once(self, client: Client, number: int) -> None:
        """Ask *number* times at the same time, one after the other begun."""
        before = len(self.server.requests)
        self.server.go.clear()
        async with self.flavour.together() as start:
            for count in range(1, number + 1):
                start(client.get, self.server.url("/held"))
                await self.flavour.until(lambda: len(self.server.requests) == before + count)  # noqa: B023 - called before the loop goes on
            self.server.go.set()


@dataclass
class Scenario:
    """What happens, and what must be said of it."""

    #: What happens, in a sentence.
    story: str
    play: Callable[[World], Awaitable[None]]
    #: By request: why it opened a connection; None where it reused one, or got none.
    opened: list[str | None]
    #: By request: how its connection was lost with it, if it was.
    lost: list[str | None]
    #: Why connections were closed in the end.
    closed: dict[str, int]
    #: Who closed first, by connection as the (first) server accepted them.
    closed_by: list[str | None] = field(default_factory=list)
    #: Where the libraries really differ: only for this one.
    only: str | None = None


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, table: dict[str, Scenario] = SCENARIOS, **expected: Any
) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Put what is decorated into the table; its docstring is the story."""

    def put(play: Callable[[World], Awaitable[None]]) -> None:
        table[name] = Scenario((play.__doc__ or "").strip(), play, **expected)

    return put


# first_connection, new_client, all_busy.


@scenario("one request", opened=["first_connection"], lost=[None], closed={"client_closed": 1}, closed_by=["client"])
async def one_request(world: World) -> None:
    """The first request of the process to this origin."""
    await world.client().get(world.server.url())


@scenario(
    "reuse", opened=["first_connection", None], lost=[None] * 2, closed={"client_closed": 1}, closed_by=["client"]
)
async def reuse(world: World) -> None:
    """Two requests, one after the other: nothing is opened for the second."""
    client = world.client()
    await client.get(world.server.url())
    await client.get(world.server.url())


@scenario(
    "a client per request",
    opened=["first_connection", "new_client"],
    lost=[None] * 2,
    closed={"client_closed": 2},
    closed_by=["client"] * 2,
)
async def a_client_per_request(world: World) -> None:
    """Each request has a client of its own."""
    await world.client().get(world.server.url())
    await world.client().get(world.server.url())


@scenario(
    "another client, another origin",
    opened=["first_connection", "first_connection"],
    lost=[None] * 2,
    closed={"client_closed": 2},
    closed_by=["client"],
)
async def another_client_another_origin(world: World) -> None:
    """Two clients for two origins: neither has been connected to before."""
    await world.client().get(world.server.url())
    await world.client().get(world.serve().url())


@scenario(
    "a dial that failed",
    opened=[None, "first_connection"],
    lost=[None] * 2,
    closed={"client_closed": 1},
    closed_by=["client"],
)
async def a_dial_that_failed(world: World) -> None:
    """A dial that failed does not make the process have connected."""
    client, server = world.client(), world.server

    def refuse(peer: Peer) -> None:
        peer.receive()
        peer.reset()

    serve, server.serve = server.serve, refuse  # type: ignore[method-assign]
    tls = world.client(verify=world.tls)
    with pytest.raises(world.flavour.httpx.ConnectError):
        await tls.get(server.url().replace("http:", "https:"))
    server.serve = serve  # type: ignore[method-assign]
    server.peers.clear()
    await client.get(server.url())


@scenario(
    "all busy",
    opened=["first_connection", "all_busy"],
    lost=[None] * 2,
    closed={"client_closed": 2},
    closed_by=["client"] * 2,
)
async def all_busy(world: World) -> None:
    """A second request while the only connection carries one."""
    await world.busy(world.client(), world.server.url())


@scenario(
    "an open response is busy",
    opened=["first_connection", "all_busy", None],
    lost=[None] * 3,
    closed={"client_closed": 2},
    closed_by=["client"] * 2,
)
async def an_open_response_is_busy(world: World) -> None:
    """A response that is still referenced, and not read, keeps its connection busy."""
    client = world.client()
    response = await client.open("GET", world.server.url())
    await client.get(world.server.url())
    await response.read()
    await client.get(world.server.url())


# body_not_read.


@scenario(
    "unread",
    opened=["first_connection", "body_not_read"],
    lost=["body_not_read", None],
    closed={"body_not_read": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def unread(world: World) -> None:
    """A response is closed unread, and the next request has to dial."""
    client = world.client()
    await world.unread(client, world.server.url())
    await client.get(world.server.url())


@scenario("read", opened=["first_connection", None], lost=[None] * 2, closed={"client_closed": 1}, closed_by=["client"])
async def read(world: World) -> None:
    """The same, with the body read before the close."""
    client = world.client()
    async with client.stream("GET", world.server.url()) as response:
        await response.read()
    await client.get(world.server.url())


@scenario(
    "an empty body unread",
    opened=["first_connection", "body_not_read"],
    lost=["body_not_read", None],
    closed={"body_not_read": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def an_empty_body_unread(world: World) -> None:
    """An unread body costs the connection even if it is empty."""
    client = world.client()
    await world.unread(client, world.server.url("/empty"))
    await client.get(world.server.url())


@scenario(
    "each loss explains one",
    opened=["first_connection", "body_not_read", "all_busy"],
    lost=["body_not_read", None, None],
    closed={"body_not_read": 1, "client_closed": 2},
    closed_by=["client"] * 3,
)
async def each_loss_explains_one(world: World) -> None:
    """One connection is lost, two are opened at once: the loss explains the first of them."""
    client = world.client()
    await world.unread(client, world.server.url())
    await world.at_once(client, 2)


@scenario(
    "most recent first",
    opened=["first_connection", "all_busy", "request_failed", "body_not_read"],
    lost=["request_failed", "body_not_read", None, None],
    closed={"body_not_read": 1, "request_failed": 1, "client_closed": 2},
    closed_by=["client"] * 4,
)
async def most_recent_first(world: World) -> None:
    """Two connections are lost in different ways: the newest loss explains the first new one."""
    client, server = world.client(), world.server
    first = await client.open("GET", server.url("/half"), timeout=world.flavour.httpx.Timeout(10, read=0.2))
    await world.unread(client, server.url())
    with pytest.raises(world.flavour.httpx.ReadTimeout):
        await first.read()
    server.go.set()
    await world.at_once(client, 2)


@scenario(
    "lost at another origin",
    opened=["first_connection", "first_connection", "body_not_read"],
    lost=["body_not_read", None, None],
    closed={"body_not_read": 1, "client_closed": 2},
    closed_by=["client"] * 2,
)
async def lost_at_another_origin(world: World) -> None:
    """What was lost at one origin explains nothing at another."""
    client = world.client()
    await world.unread(client, world.server.url())
    await client.get(world.serve().url())
    await client.get(world.server.url())


@scenario(
    "lost long ago",
    opened=["first_connection", "keepalive_expired"],
    lost=["body_not_read", None],
    closed={"body_not_read": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def lost_long_ago(world: World) -> None:
    """Lost longer ago than the expiry: had it been kept, it would have expired by now."""
    client = world.client(limits={"keepalive_expiry": 0.05})
    await world.unread(client, world.server.url())
    await world.flavour.sleep(0.1)
    await client.get(world.server.url())


@scenario(
    "a spare one is there",
    opened=["first_connection", "all_busy", None],
    lost=[None, "body_not_read", None],
    closed={"body_not_read": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def a_spare_one_is_there(world: World) -> None:
    """A connection is lost while another one is idle: nothing is opened, and nobody is to blame."""
    client = world.client()
    response = await client.open("GET", world.server.url())
    await world.unread(client, world.server.url())
    await response.read()
    await client.get(world.server.url())


# response_leaked.


@scenario(
    "leaked",
    opened=["first_connection", "response_leaked", "all_busy"],
    lost=[None, None, None],
    closed={"client_closed": 3},
    closed_by=["client"] * 3,
)
async def leaked(world: World) -> None:
    """A response is collected without having been closed: it explains one new connection."""
    client = world.client()
    response = await client.open("GET", world.server.url())
    del response
    gc.collect()
    await world.at_once(client, 2)


# keepalive_expired, keepalive_limit, pool_full.


@scenario(
    "expired",
    opened=["first_connection", "keepalive_expired"],
    lost=[None] * 2,
    closed={"keepalive_expired": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def expired(world: World) -> None:
    """Idle for longer than `keepalive_expiry`."""
    client = world.client(limits={"keepalive_expiry": 0.05})
    await client.get(world.server.url())
    await world.flavour.sleep(0.1)
    await client.get(world.server.url())


@scenario(
    "not yet expired",
    opened=["first_connection", None],
    lost=[None] * 2,
    closed={"client_closed": 1},
    closed_by=["client"],
)
async def not_yet_expired(world: World) -> None:
    """Idle for as long, and the expiry is longer."""
    client = world.client(limits={"keepalive_expiry": 30})
    await client.get(world.server.url())
    await world.flavour.sleep(0.1)
    await client.get(world.server.url())


@scenario(
    "expired, and closed by the server too",
    opened=["first_connection", "keepalive_expired"],
    lost=[None] * 2,
    closed={"keepalive_expired": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def expired_and_closed_by_the_server_too(world: World) -> None:
    """Idle for longer than the expiry, though the server has closed it since."""
    client = world.client(limits={"keepalive_expiry": 0.05})
    await client.get(world.server.url())
    world.server.peers[0].drop()
    await world.flavour.sleep(0.1)
    await client.get(world.server.url())


@scenario(
    "no keep-alive",
    opened=["first_connection", "keepalive_limit"],
    lost=["keepalive_limit", "keepalive_limit"],
    closed={"keepalive_limit": 2},
    closed_by=["client"] * 2,
)
async def no_keep_alive(world: World) -> None:
    """`max_keepalive_connections=0`: each connection is dropped as its response is closed."""
    client = world.client(limits={"max_keepalive_connections": 0})
    await client.get(world.server.url())
    await client.get(world.server.url())


@scenario(
    "over the keep-alive limit",
    opened=["first_connection", "all_busy", None, "keepalive_limit"],
    lost=[None] * 4,
    closed={"keepalive_limit": 2, "client_closed": 1},
    closed_by=["client"] * 3,
)
async def over_the_keep_alive_limit(world: World) -> None:
    """Two at a time with one to be kept: as the second is done, the idle one of the first goes."""
    client = world.client(limits={"max_keepalive_connections": 1})
    for _ in range(2):
        first = await client.open("GET", world.server.url())
        second = await client.open("GET", world.server.url())
        await first.read()
        await second.read()


SCENARIOS["over the keep-alive limit"].only = "httpx2"


@scenario(
    "over the keep-alive limit, 1.0.9",
    opened=["first_connection", "all_busy", None, "keepalive_limit"],
    lost=["keepalive_limit", None, "keepalive_limit", None],
    closed={"keepalive_limit": 2, "client_closed": 1},
    closed_by=["client"] * 3,
)
async def over_the_keep_alive_limit_1_0_9(world: World) -> None:
    """The same: httpcore 1.0.9 counts the busy one too, so the first to be free goes."""
    await SCENARIOS["over the keep-alive limit"].play(world)


SCENARIOS["over the keep-alive limit, 1.0.9"].only = "httpx"


@scenario(
    "within the keep-alive limit",
    opened=["first_connection", "all_busy", None, None],
    lost=[None] * 4,
    closed={"client_closed": 2},
    closed_by=["client"] * 2,
)
async def within_the_keep_alive_limit(world: World) -> None:
    """Two at a time with two to be kept."""
    client = world.client(limits={"max_keepalive_connections": 2})
    for _ in range(2):
        first = await client.open("GET", world.server.url())
        second = await client.open("GET", world.server.url())
        await first.read()
        await second.read()


@scenario(
    "beside a busy one, 1.0.9",
    opened=["first_connection", "all_busy", "keepalive_limit"],
    lost=[None, "keepalive_limit", "keepalive_limit"],
    closed={"keepalive_limit": 2, "client_closed": 1},
    closed_by=["client"] * 3,
)
async def beside_a_busy_one_1_0_9(world: World) -> None:
    """A limit of 1 and a request under way: httpcore 1.0.9 counts the busy connection and keeps no other."""
    await world.busy(world.client(limits={"max_keepalive_connections": 1}), *[world.server.url()] * 2)


SCENARIOS["beside a busy one, 1.0.9"].only = "httpx"


@scenario(
    "beside a busy one, httpcore2",
    opened=["first_connection", "all_busy", None],
    lost=["keepalive_limit", None, None],
    closed={"keepalive_limit": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def beside_a_busy_one_httpcore2(world: World) -> None:
    """The same: httpcore2 counts idle connections only and keeps one."""
    await world.busy(world.client(limits={"max_keepalive_connections": 1}), *[world.server.url()] * 2)


SCENARIOS["beside a busy one, httpcore2"].only = "httpx2"


@scenario(
    "a pool of one, two origins",
    opened=["first_connection", "first_connection", "pool_full"],
    lost=[None] * 3,
    closed={"pool_full": 2, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def a_pool_of_one_two_origins(world: World) -> None:
    """The idle connection of one origin makes room for another's, and back."""
    client, other = world.client(limits={"max_connections": 1}), world.serve()
    await client.get(world.server.url())
    await client.get(other.url())
    await client.get(world.server.url())


@scenario(
    "a pool of two, three origins",
    opened=["first_connection"] * 3 + ["pool_full"],
    lost=[None] * 4,
    closed={"pool_full": 2, "client_closed": 2},
    closed_by=["client"] * 2,
)
async def a_pool_of_two_three_origins(world: World) -> None:
    """The idle connection of one origin makes room for the third."""
    client = world.client(limits={"max_connections": 2})
    for server in (world.server, world.serve(), world.serve(), world.server):
        await client.get(server.url())


@scenario(
    "a pool of two, two origins",
    opened=["first_connection", "first_connection", None],
    lost=[None] * 3,
    closed={"client_closed": 2},
    closed_by=["client"],
)
async def a_pool_of_two_two_origins(world: World) -> None:
    """With room for both, both are kept."""
    client, other = world.client(limits={"max_connections": 2}), world.serve()
    await client.get(world.server.url())
    await client.get(other.url())
    await client.get(world.server.url())


# server_closed, connection_close.


@scenario(
    "closed while idle",
    opened=["first_connection", "server_closed"],
    lost=[None] * 2,
    closed={"server_closed": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def closed_while_idle(world: World) -> None:
    """The server closes the idle connection between two requests."""
    client = world.client()
    await client.get(world.server.url())
    world.server.peers[0].drop()
    await client.get(world.server.url())


@scenario(
    "another one closed while idle",
    opened=["first_connection", "all_busy", None, "server_closed"],
    lost=[None] * 4,
    closed={"server_closed": 1, "client_closed": 2},
    closed_by=["client", "server", "client"],
)
async def another_one_closed_while_idle(world: World) -> None:
    """The server closes one of two idle connections: the other is reused, and the lost one explains the next."""
    client = world.client()
    await world.at_once(client, 2)
    world.server.peers[1].drop()
    await world.at_once(client, 2)


@scenario(
    "the server says close",
    opened=["first_connection", "connection_close"],
    lost=["connection_close", None],
    closed={"connection_close": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def the_server_says_close(world: World) -> None:
    """`Connection: close` in the response."""
    client = world.client()
    await client.get(world.server.url("/close"))
    await client.get(world.server.url())


@scenario(
    "the client says close",
    opened=["first_connection", "connection_close"],
    lost=["connection_close", None],
    closed={"connection_close": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def the_client_says_close(world: World) -> None:
    """`Connection: close` in the request."""
    client = world.client()
    await client.get(world.server.url(), headers={"Connection": "close"})
    await client.get(world.server.url())


@scenario(
    "HTTP/1.0",
    opened=["first_connection", "connection_close"],
    lost=["connection_close", None],
    closed={"connection_close": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def http_1_0(world: World) -> None:
    """A server that speaks HTTP/1.0."""
    client = world.client()
    await client.get(world.server.url("/http10"))
    await client.get(world.server.url())


@scenario(
    "unread, and it says close",
    opened=["first_connection", "connection_close"],
    lost=["connection_close", None],
    closed={"connection_close": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def unread_and_it_says_close(world: World) -> None:
    """`Connection: close` and closed unread: reading would not have saved it."""
    client = world.client()
    await world.unread(client, world.server.url("/close"))
    await client.get(world.server.url())


@scenario(
    "a body that ends with the connection",
    opened=["first_connection", "connection_close"],
    lost=["connection_close", None],
    closed={"connection_close": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def a_body_that_ends_with_the_connection(world: World) -> None:
    """A response without a length ends as the server closes: it could not be kept, and nothing has failed."""
    client = world.client()
    await client.get(world.server.url("/until-close"))
    await client.get(world.server.url())


# request_failed, request_cancelled.


@scenario(
    "reset in the body",
    opened=["first_connection", "request_failed"],
    lost=["request_failed", None],
    closed={"request_failed": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def reset_in_the_body(world: World) -> None:
    """The server resets the connection half-way through the body."""
    client = world.client()
    response = await client.open("GET", world.server.url("/half-reset"))
    world.server.go.set()
    with pytest.raises(world.flavour.httpx.ReadError):
        await response.read()
    await client.get(world.server.url())


@scenario(
    "timeout in the body",
    opened=["first_connection", "request_failed"],
    lost=["request_failed", None],
    closed={"request_failed": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def timeout_in_the_body(world: World) -> None:
    """The rest of the body does not come in time."""
    client = world.client()
    with pytest.raises(world.flavour.httpx.ReadTimeout):
        await client.get(world.server.url("/half"), timeout=world.flavour.httpx.Timeout(10, read=0.2))
    world.server.go.set()
    await client.get(world.server.url())


@scenario(
    "timeout before the head",
    opened=["first_connection", "request_failed"],
    lost=["request_failed", None],
    closed={"request_failed": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def timeout_before_the_head(world: World) -> None:
    """The answer does not come in time."""
    client = world.client()
    with pytest.raises(world.flavour.httpx.ReadTimeout):
        await client.get(world.server.url("/held"), timeout=world.flavour.httpx.Timeout(10, read=0.2))
    world.server.go.set()
    await client.get(world.server.url())


@scenario(
    "closed instead of answered",
    opened=["first_connection", None, "request_failed"],
    lost=[None, "request_failed", None],
    closed={"request_failed": 1, "client_closed": 1},
    closed_by=["server", "client"],
)
async def closed_instead_of_answered(world: World) -> None:
    """The server closes a reused connection as a request comes: not idle, so the request failed."""
    client = world.client()
    await client.get(world.server.url())
    with pytest.raises(world.flavour.httpx.RemoteProtocolError):
        await client.get(world.server.url("/no-answer"))
    await client.get(world.server.url())


@scenario(
    "an error response",
    opened=["first_connection", None, None],
    lost=[None] * 3,
    closed={"client_closed": 1},
    closed_by=["client"],
)
async def an_error_response(world: World) -> None:
    """A 500 is no failure of the connection."""
    client = world.client()
    for target in ("/error", "/missing", "/"):
        await client.get(world.server.url(target))


@scenario(
    "cancelled before the head",
    opened=["first_connection", "request_cancelled"],
    lost=["request_cancelled", None],
    closed={"request_cancelled": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def cancelled_before_the_head(world: World) -> None:
    """The caller gives up waiting for the answer."""
    client, server = world.client(), world.server
    await world.flavour.cancelled(client.get, server.url("/held"), when=lambda: server.requests)
    server.go.set()
    await client.get(server.url())


@scenario(
    "cancelled in the body",
    opened=["first_connection", "request_cancelled"],
    lost=["request_cancelled", None],
    closed={"request_cancelled": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def cancelled_in_the_body(world: World) -> None:
    """The caller gives up reading the body."""
    client, server = world.client(), world.server
    response = await client.open("GET", server.url("/half"))
    await world.flavour.cancelled(response.read, when=lambda: True)
    server.go.set()
    await client.get(server.url())


@scenario(
    "cancelled in the pool",
    opened=["first_connection", None, None],
    lost=[None] * 3,
    closed={"client_closed": 1},
    closed_by=["client"],
)
async def cancelled_in_the_pool(world: World) -> None:
    """The caller gives up waiting for the pool: no connection is lost."""
    client, server = world.client(limits={"max_connections": 1}), world.server
    response = await client.open("GET", server.url())
    await world.flavour.cancelled(client.get, server.url(), when=lambda: len(client.pool._requests) == 2)
    await response.read()
    await client.get(server.url())


# goaway.


@scenario(
    "GOAWAY with the answer",
    opened=["first_connection", "goaway"],
    lost=["goaway", None],
    closed={"goaway": 1, "client_closed": 1},
)
async def goaway_with_the_answer(world: World) -> None:
    """The server retires the connection along with an answer."""
    client, server = world.client(http2=True, verify=world.tls), world.h2("/held")
    async with world.flavour.together() as start:
        start(client.get, server.url("/held"))
        await world.flavour.until(lambda: server.streams)
        (stream,) = server.streams

        def answer_and_go() -> None:
            stream._answer(b"hello", 200)
            stream.peer._goaway(None)

        stream.peer.do(answer_and_go)
    await client.get(server.url())


@scenario("HTTP/2 without GOAWAY", opened=["first_connection", None], lost=[None, None], closed={"client_closed": 1})
async def http_2_without_goaway(world: World) -> None:
    """The same, and the connection goes on."""
    client, server = world.client(http2=True, verify=world.tls), world.h2()
    await client.get(server.url())
    await client.get(server.url())


@scenario(
    "GOAWAY while idle",
    opened=["first_connection", "goaway"],
    lost=[None, None],
    closed={"goaway": 1, "client_closed": 1},
)
async def goaway_while_idle(world: World) -> None:
    """GOAWAY comes while the connection is idle: the next request finds it there, and moves on."""
    client, server = world.client(http2=True, verify=world.tls), world.h2()
    await client.get(server.url())
    server.peers[0].goaway()
    server.peers[0].close()
    await world.flavour.until(server.peers[0].over.is_set)
    await client.get(server.url())


@scenario(
    "HTTP/2 closed without a word",
    opened=["first_connection", None, "request_failed"],
    lost=[None, "request_failed", None],
    closed={"request_failed": 1, "client_closed": 1},
)
async def http_2_closed_without_a_word(world: World) -> None:
    """An idle HTTP/2 connection is closed without GOAWAY: no pool looks, so the next request fails on it."""
    client, server = world.client(http2=True, verify=world.tls), world.h2()
    await client.get(server.url())
    server.peers[0].close()
    await world.flavour.until(server.peers[0].over.is_set)
    with pytest.raises(world.flavour.httpx.RemoteProtocolError):
        await client.get(server.url())
    await client.get(server.url())


# upgraded, client_closed.


@scenario(
    "upgraded",
    opened=["first_connection", "upgraded"],
    lost=[None, None],
    closed={"upgraded": 1, "client_closed": 1},
    closed_by=["client"] * 2,
)
async def upgraded(world: World) -> None:
    """After 101 the connection is the application's."""
    client = world.client()
    await world.unread(client, world.server.url("/upgrade"), headers={"Connection": "upgrade", "Upgrade": "echo"})
    await client.get(world.server.url())


@scenario(
    "the pool was closed and used again",
    opened=["first_connection", "client_closed"],
    lost=[None, None],
    closed={"client_closed": 2},
    closed_by=["client"] * 2,
)
async def the_pool_was_closed_and_used_again(world: World) -> None:
    """A pool that was closed opens again because it was closed."""
    client = world.client()
    await client.get(world.server.url())
    if world.flavour.sync:
        client.pool.close()
    else:
        await client.pool.aclose()
    await client.get(world.server.url())


@scenario(
    "the client is closed under a response",
    opened=["first_connection"],
    lost=["client_closed"],
    closed={"client_closed": 1},
    closed_by=["client"],
)
async def the_client_is_closed_under_a_response(world: World) -> None:
    """The client is closed while a response is open."""
    client = world.client()
    response = await client.open("GET", world.server.url())
    await client.close()
    await response.close()


@scenario(
    name="unread, then elsewhere through a forward proxy",
    opened=["first_connection", "first_connection"],
    lost=["body_not_read", None],
    closed={"body_not_read": 1, "client_closed": 1},
)
async def unread_then_elsewhere_through_a_forward_proxy(world: World) -> None:
    """Both libraries bind a connection to a forward proxy to its first origin: another could not have used it."""
    with Proxy() as proxy:
        client = world.client(proxy=proxy.url(""))
        await world.unread(client, world.server.url())
        await client.get(world.serve().url())
        await client.close()


@scenario(
    name="busy, then elsewhere through a forward proxy",
    opened=["first_connection", "first_connection"],
    lost=[None, None],
    closed={"client_closed": 2},
)
async def busy_then_elsewhere_through_a_forward_proxy(world: World) -> None:
    """The connection in use could not have carried the other origin's request, so it is not why."""
    other = world.serve()
    with Proxy() as proxy:
        client = world.client(proxy=proxy.url(""))
        await world.busy(client, other.url())
        await client.close()


def total(telemetry: Telemetry, what: str) -> int:
    """How many connections were opened or closed so far."""
    return sum(telemetry.metric(f"httptrace.connections.{what}").values())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_scenario_has_the_right_reasons(
    flavour: Flavour,
    name: str,
    serve: Callable[..., Server],
    h2_server: Callable[..., H2Server],
    client_tls: ssl.SSLContext,
    telemetry: Telemetry,
) -> None:
    """Each scenario's verdicts are right, request by request and connection by connection."""
    await verdict(SCENARIOS[name], flavour, World(flavour, serve, h2_server, client_tls), telemetry)


async def verdict(told: Scenario, flavour: Flavour, world: World, telemetry: Telemetry) -> None:
    """Play a scenario, and see whether what is said of it is true."""
    if told.only not in (None, flavour.library):
        pytest.skip(f"as the libraries differ: {told.only} only")

    await told.play(world)
    still_open = sum(telemetry.metric("http.client.open_connections").values())
    assert still_open == total(telemetry, "opened") - total(telemetry, "closed")
    for client in world.clients:
        await client.close()

    server = world.server
    if told.closed_by:
        await flavour.until(lambda: None not in server.closed_by)
    opened, closed = (
        telemetry.counted(f"httptrace.connections.{what}", f"httptrace.conn.{verb}_reason")
        for what, verb in (("opened", "open"), ("closed", "close"))
    )
    assert telemetry.column("httptrace.conn.open_reason") == told.opened
    assert opened == Counter(reason for reason in told.opened if reason is not None)
    assert closed == told.closed
    assert telemetry.column("httptrace.conn.close_reason") == told.lost
    assert set(telemetry.metric("http.client.open_connections").values()) <= {0}
    if told.closed_by:
        assert server.closed_by == told.closed_by


def test_every_reason_has_a_scenario() -> None:
    """The table has every value of both reasons, `unknown` aside: that one has tests of its own."""
    opened = {reason for told in SCENARIOS.values() for reason in told.opened if reason is not None}
    closed = {reason for told in SCENARIOS.values() for reason in told.closed}
    every = {
        "all_busy",
        "body_not_read",
        "client_closed",
        "connection_close",
        "first_connection",
        "goaway",
        "keepalive_expired",
        "keepalive_limit",
        "new_client",
        "pool_full",
        "request_cancelled",
        "request_failed",
        "response_leaked",
        "server_closed",
        "upgraded",
    }
    assert opened == every
    assert closed == every - {"all_busy", "first_connection", "new_client", "response_leaked"}


async def test_opened_before_us_and_lost_unseen(flavour: Flavour, server: Server, bare_telemetry: Telemetry) -> None:
    """A response that was open before `instrument()` and is closed after it: how it lost its connection is not known."""
    telemetry = bare_telemetry
    async with flavour.client() as client:
        before = await client.open("GET", server.url())
        telemetry.instrument()
        first = await client.open("GET", server.url())
        await before.close()
        await client.get(server.url())
        await first.read()

    assert telemetry.column("httptrace.conn.open_reason") == ["all_busy", "unknown"]
    assert server.accepted == 3


def test_blackholes_do_not_count() -> None:
    """The kit's port that never answers is one: a connect to it does not come back at once."""
    import socket

    with Blackhole() as hole, socket.socket() as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.connect(("127.0.0.1", hole.port))
