# A schedule is a random list of what a program may do, one after the other, on
# real sockets. Beside it a small model, which knows nothing of our ledger, keeps
# the truth: what was done, which connection the server saw it on, and who closed
# that. From these alone it says what the two reasons may be. Mostly that is one.
#
# HTTPTRACE_SCHEDULES=10000 plays as many; a failure names its seed.

"""Not one wrong reason in any schedule."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit.clients import Client, Flavour, Response
from kit.proxies import AnsweringProxy, share
from kit.server import Peer, Server
from kit.telemetry import Telemetry

from otel_httptrace.adapters.httpcore.seams import innermost
from otel_httptrace.observe.marks import attached

SCHEDULES = int(os.environ.get("HTTPTRACE_SCHEDULES", "300"))
SEED = int(os.environ.get("HTTPTRACE_SEED", "0")) or random.SystemRandom().randrange(10**6)

#: What a pool is set to, and why it then closes idle connections by itself.
LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "roomy": ({"max_connections": 100, "max_keepalive_connections": 20}, ""),
    "two": ({"max_connections": 2, "max_keepalive_connections": None}, "pool_full"),
    "two, both kept": ({"max_connections": 2, "max_keepalive_connections": 2}, "pool_full"),
    "one kept": ({"max_connections": None, "max_keepalive_connections": 1}, "keepalive_limit"),
}


@dataclass(eq=False)
class Site:
    """What connections are opened to: a server, or through a forward proxy an origin, or all of them where they share."""

    urls: list[str]
    server: Server

    def url(self, target: str, chance: random.Random) -> str:
        """The URL of *target*, at one of its origins."""
        return chance.choice(self.urls) + target


@dataclass(eq=False)
class Link:
    """A connection, as the model knows it."""

    peer: Peer
    site: Site
    busy: bool = True
    aged: bool = False


@dataclass
class Verdict:
    """What may be said of one request."""

    doing: str
    reused: bool
    opened: str | None
    closed: set[str | None]


@dataclass
class Model:
    """The truth about one pool."""

    connected: set[Site]
    evicts: str
    links: list[Link] = field(default_factory=list)
    #: By site: losses that no new connection has made up for.
    pending: dict[Site, list[str]] = field(default_factory=dict)
    closed: Counter[str] = field(default_factory=Counter)

    def lose(self, link: Link, reason: str) -> None:
        """The connection is gone."""
        self.links.remove(link)
        self.pending.setdefault(link.site, []).append(reason)
        self.closed[reason] += 1

    def why(self, site: Site) -> str:
        """Why a connection to *site* is opened: it makes up for the loss that was noticed last."""
        losses = self.pending.get(site)
        if losses:
            return losses.pop()
        if any(link.site is site for link in self.links):
            return "all_busy"
        return "new_client" if site in self.connected else "first_connection"


class Play:
    """One schedule, while it is played."""

    def __init__(
        self, flavour: Flavour, sites: list[Site], connected: set[Site], chance: random.Random, proxy: str | None
    ) -> None:
        self.flavour = flavour
        self.sites = sites
        self.chance = chance
        self.kind = chance.choice(list(LIMITS))
        limits, evicts = LIMITS[self.kind]
        self.model = Model(connected, evicts)
        self.client: Client = flavour.client(limits=flavour.httpx.Limits(**limits), proxy=proxy)
        self.verdicts: list[Verdict] = []
        self.held: list[tuple[Response, Link, Verdict]] = []
        self.number = 0
        self.done: list[str] = []

    async def play(self) -> None:
        """All of it, to the end of the client."""
        actions: list[Callable[[Site], Any]] = [
            *[self.read] * 5, *[self.early] * 3, *[self.hold] * 2, *[self.release] * 3, self.last_one, self.dropped,
            self.aged, self.broken, self.timeout, self.reopened,
        ]  # fmt: skip
        if self.flavour.mode != "sync":
            actions.append(self.cancelled)
        for _ in range(self.chance.randrange(4, 14)):
            await self.chance.choice(actions)(self.chance.choice(self.sites))
        while self.held:
            await self.release(self.sites[0])
        # One more request, so that the pool looks at what the server has closed.
        await self.read(self.sites[0])
        await self.client.close()
        for link in list(self.model.links):
            self.model.lose(link, "client_closed")

    # One request: before it, its connection, and after it.

    def _url(self, site: Site, target: str) -> str:
        self.number += 1
        return site.url(f"{target}?{id(self)}-{self.number}", self.chance)

    def _looked(self) -> None:
        # The pool was called: it has closed what was too old, and what the server had closed.
        for link in list(self.model.links):
            if link.aged:
                self.model.lose(link, "keepalive_expired")
            elif link.peer.closed_by == "server" and not link.busy:
                self.model.lose(link, "server_closed")

    async def _settled(self) -> list[Link]:
        """What the pool has closed by itself; returns when the server knows it, too."""
        gone = len(self.model.links) - len(self.client.pool.connections)
        assert gone >= 0, "the pool has connections that no server saw"
        if not gone:
            return []
        assert self.model.evicts, "a connection was closed for no reason"

        def evicted() -> list[Link]:
            return [link for link in self.model.links if not link.busy and link.peer.closed_by == "client"]

        await self.flavour.until(lambda: len(evicted()) == gone)
        return evicted()

    async def _went(self, doing: str, site: Site, *, lost: str | None = None, busy: bool = False) -> Verdict:
        """A request has got as far as it will for now: on which connection, and what became of that?"""
        sent = f"{id(self)}-{self.number}"

        def on() -> list[Peer]:
            return [
                peer for peer in site.server.peers if peer.requests and peer.requests[-1].target.endswith(f"?{sent}")
            ]

        # Whoever gives up early may be quicker than the server's thread.
        await self.flavour.until(on)
        (peer,) = on()
        link = next((link for link in self.model.links if link.peer is peer), None)
        new = link is None
        assert new == (len(peer.requests) == 1)
        if link is None:
            link = Link(peer, site)
        for idle in [link for link in self.model.links if new and link.site is site and not link.busy]:
            # Nobody dials beside an idle connection: the pool has closed it first.
            await self.flavour.until(lambda: idle.peer.closed_by == "client")  # noqa: B023 - called before the loop goes on
            self.model.lose(idle, self.model.evicts)
        verdict = Verdict(f"{self.kind}: {doing}", not new, self.model.why(site) if new else None, {lost})
        if new:
            self.model.connected.add(site)
            self.model.links.append(link)
        link.busy = busy
        if lost is not None:
            self.model.links.remove(link)
        # An idle one of another server's goes to make room, or one too many when this is over.
        evicted = await self._settled()
        if lost is not None:
            self.model.links.append(link)
        self.verdicts.append(verdict)
        for gone in evicted:
            self.model.lose(gone, self.model.evicts)
        if lost is not None:
            self.model.lose(link, lost)
        elif busy:
            self.held.append((self._response, link, verdict))
        elif link not in self.model.links:
            # In its own close: one too many.
            verdict.closed = {self.model.evicts}
        return verdict

    # What a program may do.

    async def read(self, site: Site) -> None:
        """Ask, and read the response to its end."""
        self._looked()
        await self.client.get(self._url(site, "/"))
        await self._went("read", site)

    async def early(self, site: Site) -> None:
        """Ask, and close the response unread."""
        self._looked()
        async with self.client.stream("GET", self._url(site, "/")):
            pass
        await self._went("closed early", site, lost="body_not_read")

    async def hold(self, site: Site) -> None:
        """Ask, and keep the response open."""
        if len(self.held) > (0 if self.kind.startswith("two") else 3):
            return
        self._looked()
        self._response = await self.client.open("GET", self._url(site, "/"))
        await self._went("held", site, busy=True)

    async def release(self, site: Site) -> None:
        """Read or close one of the responses that are open."""
        if not self.held:
            return
        response, link, verdict = self.held.pop(self.chance.randrange(len(self.held)))
        if self.chance.random() < 0.5:
            await response.read()
            link.busy = False
            verdict.closed = {None}
        else:
            await response.close()
            verdict.closed = {"body_not_read"}
            self.model.lose(link, "body_not_read")
        self._looked()
        for gone in await self._settled():
            self.model.lose(gone, self.model.evicts)
            if gone is link:
                verdict.closed.add(self.model.evicts)

    async def last_one(self, site: Site) -> None:
        """Ask for what says `Connection: close`, and read it or not."""
        self._looked()
        url = self._url(site, self.chance.choice(("/close", "/http10")))
        async with self.client.stream("GET", url) as response:
            if self.chance.random() < 0.5:
                await response.read()
        await self._went("cannot be kept", site, lost="connection_close")

    async def dropped(self, site: Site) -> None:
        """The server closes one of its idle connections."""
        idle = [link for link in self.model.links if not link.busy and link.peer.closed_by is None]
        if idle:
            self.chance.choice(idle).peer.drop()

    async def aged(self, site: Site) -> None:
        """Time passes, more than `keepalive_expiry`: what is idle becomes older, in the library's eyes and in ours."""
        for connection in self.client.pool.connections:
            if connection.is_idle():
                innermost(connection)._expire_at -= 10
                attached(connection).idle_since -= 10 * 10**9
        for link in self.model.links:
            link.aged = not link.busy

    async def broken(self, site: Site) -> None:
        """The server closes instead of answering."""
        self._looked()
        with pytest.raises(self.flavour.httpx.TransportError):
            await self.client.get(self._url(site, "/no-answer"))
        await self._went("broken", site, lost="request_failed")

    async def timeout(self, site: Site) -> None:
        """The server does not answer in time."""
        self._looked()
        with pytest.raises(self.flavour.httpx.ReadTimeout):
            await self.client.get(self._url(site, "/silent"), timeout=self.flavour.httpx.Timeout(5, read=0.01))
        await self._went("timed out", site, lost="request_failed")

    async def cancelled(self, site: Site) -> None:
        """The caller gives up."""
        self._looked()
        before = len(site.server.requests)
        await self.flavour.cancelled(
            self.client.get, self._url(site, "/silent"), when=lambda: len(site.server.requests) > before
        )
        await self._went("cancelled", site, lost="request_cancelled")

    async def reopened(self, site: Site) -> None:
        """The pool is closed, and will be used again."""
        if self.held or self.chance.random() < 0.5:
            return
        pool = self.client.pool
        if self.flavour.mode == "sync":
            pool.close()
        else:
            await pool.aclose()
        for link in list(self.model.links):
            self.model.lose(link, "client_closed")


def reasons(telemetry: Telemetry, what: str, which: str) -> Counter[str]:
    """How many connections were opened or closed so far, by why."""
    return Counter(telemetry.counted(f"httptrace.connections.{what}", f"httptrace.conn.{which}_reason"))


@pytest.fixture(params=["direct", "forward proxy", "shared forward proxy"])
def way(request: pytest.FixtureRequest, flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the servers are reached."""
    if request.param.startswith("shared"):
        share(flavour, monkeypatch)
    return str(request.param)


async def test_random_schedules_have_the_right_reasons(
    flavour: Flavour,
    way: str,
    serve: Callable[..., Server],
    running: Callable[[Any], Any],
    telemetry: Telemetry,
) -> None:
    """In every random schedule both reasons are what the server and the program know them to be."""
    routes = {"/silent": lambda peer, request: peer.until_closed()}
    proxy = None
    if way == "direct":
        servers = [serve(routes) for _ in range(3)]
        sites = [Site([server.url("")], server) for server in servers]
    else:
        servers = [running(AnsweringProxy(routes))]
        proxy = servers[0].url("")
        urls = [f"http://{name}.test" for name in ("one", "two", "three")]
        # As the libraries have it, each connection is one origin's: see core/ledger.py.
        sites = [Site([url], servers[0]) for url in urls]
        if way.startswith("shared"):
            sites = [Site(urls, servers[0])]
    connected: set[Site] = set()
    unknown = requests = 0
    for number in range(SCHEDULES // 18):
        seed = f"{SEED}-{number}-{flavour}-{way}"
        before = reasons(telemetry, "closed", "close")
        telemetry.exporter.clear()
        play = Play(flavour, sites, connected, random.Random(seed), proxy)
        try:
            await play.play()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}, after {[verdict.doing for verdict in play.verdicts]}") from error

        spans = telemetry.requests()
        told = [dict(span.attributes or {}) for span in spans]
        opened = [attributes.get("httptrace.conn.open_reason") for attributes in told]
        closed = [attributes.get("httptrace.conn.close_reason") for attributes in told]
        assert len(told) == len(play.verdicts), seed
        story = [
            (verdict.doing, verdict.opened, was_opened, verdict.closed, was_closed)
            for verdict, was_opened, was_closed in zip(play.verdicts, opened, closed, strict=True)
        ]
        for verdict, was_opened, was_closed, attributes in zip(play.verdicts, opened, closed, told, strict=True):
            assert attributes.get("http.conn.reused") == verdict.reused, (seed, attributes, story)
            assert was_opened in (verdict.opened, "unknown" if verdict.opened else None), (seed, story)
            assert was_closed in {*verdict.closed, "unknown"}, (seed, story)
        now = reasons(telemetry, "closed", "close") - before
        unseen = now.pop("unknown", 0)
        assert now - play.model.closed == Counter(), (seed, story)
        assert sum((play.model.closed - now).values()) == unseen, (seed, story)
        unknown += unseen + opened.count("unknown")
        requests += len(told)
        # Those that the servers have closed, too: only live ones are looked through.
        for server in servers:
            server.peers[:] = [peer for peer in server.peers if not peer.over.is_set()]

    assert set(telemetry.metric("http.client.open_connections").values()) <= {0}
    assert unknown <= requests / 100
    print(f"{flavour}, {way}: {requests} requests, {unknown} unknown, seed {SEED}")
