"""Links: which request lost the connection, who holds the pool, who opened what is reused."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from kit.clients import Flavour
from kit.matchers import LINE
from kit.server import Peer, Request, Server, answer, head
from kit.telemetry import Link, Telemetry, attributes, collect
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased, Sampler, SamplingResult


def lost_by(to: str, reason: str, **more: Any) -> Link:
    """A link to the request that lost the connection."""
    return Link(to, {"httptrace.link": "connection_lost_by", "httptrace.conn.close_reason": reason, **more})


async def test_a_body_not_read(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """The request that had to dial links to the one that closed its body unread, with the line that did it."""
    server.routes["/culprit"] = answer()
    async with flavour.client() as client:
        await client.get(server.url("/missing"))
        async with client.stream("GET", server.url("/culprit")):
            pass
        await client.get(server.url())

    innocent, culprit, victim = telemetry.requests()
    assert telemetry.links(innocent) == telemetry.links(culprit) == []
    where = attributes(culprit)["httptrace.body.closed_at"]
    assert where == LINE
    assert telemetry.links(victim) == [lost_by("/culprit", "body_not_read", **{"httptrace.body.closed_at": where})]


async def test_a_new_connection_links_to_the_failure(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A connection that broke with a request is linked to it."""
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/no-answer"))
        await client.get(server.url())

    assert telemetry.links(telemetry.requests()[1]) == [lost_by("/no-answer", "request_failed")]


async def test_a_new_connection_links_to_the_cancellation(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A connection that was dropped with a cancelled request is linked to it."""
    async with flavour.client() as client:
        await flavour.cancelled(client.get, server.url("/held"), when=lambda: server.requests)
        server.go.set()
        await client.get(server.url())

    assert telemetry.links(telemetry.requests()[1]) == [lost_by("/held", "request_cancelled")]


async def test_a_pool_wait_links_to_the_leak(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A connection held by a response that nobody closed is linked to the request, with the line that made it."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        await client.get(server.url())

    culprit, victim = telemetry.requests()
    (link,) = telemetry.links(victim)
    assert link.to == "/half"
    assert link.attributes["httptrace.link"] == "connection_lost_by"
    assert link.attributes["httptrace.body.closed_at"] == attributes(culprit)["httptrace.body.closed_at"]
    assert set(link.attributes) <= {"httptrace.link", "httptrace.conn.close_reason", "httptrace.body.closed_at"}


@pytest.mark.parametrize("target", ["/close", "/http10"])
async def test_a_connection_that_could_not_be_kept_blames_nobody(
    flavour: Flavour, server: Server, telemetry: Telemetry, target: str
) -> None:
    """A connection that could not be kept is nobody's fault."""
    async with flavour.client() as client:
        await client.get(server.url(target))
        await client.get(server.url())

    assert [telemetry.links(span) for span in telemetry.requests()] == [[], []]


async def test_a_loss_is_blamed_once(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A lost connection explains one new one, so one link; the next new one was opened for another reason."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/half")):
            pass
        first = await client.open("GET", server.url())
        second = await client.open("GET", server.url())
        await first.read()
        await second.read()

    assert [[link.to for link in telemetry.links(span)] for span in telemetry.requests()] == [[], ["/half"], []]


class NotThis(Sampler):
    """Samples everything but requests for one target."""

    def __init__(self, target: str) -> None:
        self._target = target

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> SamplingResult:
        """Drop the target."""
        said = kwargs.get("attributes") or (args[1] if len(args) > 1 else None) or {}
        dropped = str(said.get("http.url", "")).endswith(self._target)
        return SamplingResult(Decision.DROP if dropped else Decision.RECORD_AND_SAMPLE, said)

    def get_description(self) -> str:
        """A name."""
        return "NotThis"


async def test_no_link_to_a_culprit_without_a_span(flavour: Flavour, server: Server) -> None:
    """A culprit that was not sampled, or suppressed, leaves its reason and no link."""
    telemetry = Telemetry(NotThis("/half"))
    telemetry.instrument()
    try:
        async with flavour.client() as client:
            async with client.stream("GET", server.url("/half")):
                pass
            await client.get(server.url())
            with suppress_instrumentation():
                async with client.stream("GET", server.url("/")):
                    pass
            await client.get(server.url())
    finally:
        telemetry.uninstrument()
        telemetry.shutdown()

    assert telemetry.column("httptrace.conn.open_reason") == ["body_not_read", "body_not_read"]
    assert [telemetry.links(span) for span in telemetry.requests()] == [[], []]


# Who holds the pool.


async def test_the_holders_of_a_full_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A PoolTimeout links to the requests that hold the connections, the oldest first."""
    for number in range(3):
        server.routes[f"/{number}"] = answer()
    timeout = flavour.httpx.Timeout(10, pool=0.02)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=3), timeout=timeout) as client:
        responses = [await client.open("GET", server.url(f"/{number}")) for number in range(3)]
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        for response in responses:
            await response.read()

    (span,) = [span for span in telemetry.requests() if attributes(span).get("httptrace.failed_phase") == "pool"]
    assert telemetry.links(span) == [Link(f"/{number}", {"httptrace.link": "pool_held_by"}) for number in range(3)]


async def test_at_most_eight_holders(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Of more than eight holders the oldest eight are linked; how many there are the attributes say."""
    server.routes.update({f"/{number}": answer() for number in range(10)})
    timeout = flavour.httpx.Timeout(10, pool=0.02)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=10), timeout=timeout) as client:
        responses = [await client.open("GET", server.url(f"/{number}")) for number in range(10)]
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        for response in responses:
            await response.read()

    (span,) = [span for span in telemetry.requests() if attributes(span).get("httptrace.failed_phase") == "pool"]
    assert [link.to for link in telemetry.links(span)] == [f"/{number}" for number in range(8)]
    assert attributes(span)["httptrace.pool.connections"] == 10


async def test_the_oldest_request_comes_first(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Holders are in the order in which the requests were made, not their connections."""
    server.routes.update({f"/{number}": answer() for number in range(3)})
    timeout = flavour.httpx.Timeout(10, pool=0.02)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=2), timeout=timeout) as client:
        first = await client.open("GET", server.url("/0"))
        responses = [await client.open("GET", server.url("/1"))]
        await first.read()
        responses.append(await client.open("GET", server.url("/2")))
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        for response in responses:
            await response.read()

    (span,) = [span for span in telemetry.requests() if attributes(span).get("httptrace.failed_phase") == "pool"]
    assert server.accepted == 2
    assert [link.to for link in telemetry.links(span)] == ["/1", "/2"]


async def test_a_leaked_response_holds_the_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A slot never comes back from a collected response: the PoolTimeout names the request that leaked it."""
    timeout = flavour.httpx.Timeout(10, pool=0.02)
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1), timeout=timeout) as client:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())

    leaked, failed = telemetry.requests()
    assert attributes(leaked)["httptrace.body.outcome"] == "never_closed"
    assert telemetry.links(failed) == [Link("/half", {"httptrace.link": "pool_held_by"})]


async def test_other_failures_name_no_holders(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A read timeout, or a cancelled wait for the pool, links to no holder."""
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/held"), timeout=flavour.httpx.Timeout(10, read=0.2))
        server.go.set()
        response = await client.open("GET", server.url())
        await flavour.cancelled(client.get, server.url(), when=lambda: len(client.pool._requests) == 2)
        await response.read()

    kinds = [link.attributes["httptrace.link"] for span in telemetry.requests() for link in telemetry.links(span)]
    assert kinds == ["connection_lost_by"]


# Who opened it.


@pytest.mark.settings(spans="all")
async def test_spans_all_links_to_the_opener(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """With `spans="all"` a reused request links to the one that opened its connection."""
    async with flavour.client() as client:
        for target in ("/missing", "/", "/"):
            await client.get(server.url(target))

    opened_by = Link("/missing", {"httptrace.link": "connection_opened_by"})
    assert [telemetry.links(span) for span in telemetry.requests()] == [[], [opened_by], [opened_by]]


async def test_no_opener_by_default(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A reused request has no link otherwise."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url())

    assert [telemetry.links(span) for span in telemetry.requests()] == [[], []]


# What links must not do.


def test_nothing_is_kept_alive(server: Server, telemetry: Telemetry) -> None:
    """Neither the culprit's span, nor its response or request, lives on for a link that may come."""
    kept: list[weakref.ref[Any]] = []

    def keep(name: str, info: object) -> None:
        if not kept:
            kept.append(weakref.ref(trace.get_current_span()))

    with httpx.Client() as client:

        def lose() -> None:
            request = client.build_request("GET", server.url("/half"), extensions={"trace": keep})
            response = client.send(request, stream=True)
            kept.extend((weakref.ref(request), weakref.ref(response)))
            response.close()

        lose()
        telemetry.exporter.clear()
        collect()
        assert [ref() for ref in kept] == [None, None, None]
        client.get(server.url())

    (victim,) = telemetry.requests()
    assert len(victim.links) == 1


def test_unsampled_requests_have_no_links(server: Server) -> None:
    """With nothing sampled nothing is linked, and nothing breaks."""
    telemetry = Telemetry(ParentBased(ALWAYS_OFF))
    telemetry.instrument()
    try:
        with httpx.Client() as client:
            with client.stream("GET", server.url()):
                pass
            client.get(server.url())
    finally:
        telemetry.uninstrument()
        telemetry.shutdown()

    assert telemetry.spans() == []
    assert telemetry.counted("httptrace.connections.opened", "httptrace.conn.open_reason") == {
        "first_connection": 1,
        "body_not_read": 1,
    }


# The founding story.


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
async def test_twenty_unread_requests_blame_those_before(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, read: bool
) -> None:
    """Twenty requests, five at a time: unread, each after the first five dials because of the one before, and says so."""
    together = threading.Barrier(5)

    def in_step(peer: Peer, request: Request) -> None:
        # Five at a time are really under way at once.
        together.wait(10)
        peer.send(answer())

    server = serve({"/work": in_step})
    async with flavour.client() as client:

        async def worker() -> None:
            for _ in range(4):
                async with client.stream("GET", server.url("/work", host="localhost")) as response:
                    if read:
                        await response.read()

        async with flavour.together() as start:
            for _ in range(5):
                start(worker)

    reasons = Counter(telemetry.column("httptrace.conn.open_reason"))
    lookups = sum(telemetry.metric("dns.lookup.duration").values())
    opened = [span for span in telemetry.requests() if "httptrace.conn.open_reason" in attributes(span)]
    assert server.accepted == len(opened) == lookups
    if read:
        assert reasons == {"first_connection": 1, "all_busy": 4, None: 15}
        assert [telemetry.links(span) for span in telemetry.requests()] == [[]] * 20
    else:
        assert reasons == {"first_connection": 1, "all_busy": 4, "body_not_read": 15}
        for span in opened[5:]:
            assert telemetry.links(span) == [lost_by("/work", "body_not_read", **{"httptrace.body.closed_at": LINE})]


def test_the_innocent_call_site_is_never_named(server: Server, telemetry: Telemetry) -> None:
    """With two call sites in one program, one of which reads its bodies, only the other is ever named."""

    def careless(client: httpx.Client) -> None:
        with client.stream("GET", server.url("/half")):
            pass

    def careful(client: httpx.Client) -> None:
        with client.stream("GET", server.url()) as response:
            response.read()

    with httpx.Client() as client:
        for _ in range(5):
            careless(client)
            careful(client)

    named = {
        str((link.attributes or {})["httptrace.body.closed_at"]).rpartition(" in ")[2]
        for span in telemetry.requests()
        for link in span.links
    }
    assert {name.rpartition(".")[2] for name in named} == {"careless"}
    assert {link.to for span in telemetry.requests() for link in telemetry.links(span)} == {"/half"}


def test_a_head_of_its_own(server: Server, telemetry: Telemetry) -> None:
    """A response that was cut off before its body is read counts as failed and is linked so."""

    def cut(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Length: 10"))
        peer.close()

    server.routes["/cut"] = cut
    with httpx.Client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(server.url("/cut"))
        client.get(server.url())

    assert telemetry.links(telemetry.requests()[1]) == [lost_by("/cut", "request_failed")]
