"""DNS: observed where it happens, never repeated."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from kit.clients import MODES, Flavour
from kit.dns import Resolver
from kit.matchers import PORT, SECONDS, Like, Seconds
from kit.server import Server, free_port
from kit.telemetry import Telemetry, attributes, failed

ALL_MODES = pytest.mark.modes(*MODES)
# uvloop resolves in C: only what the system itself resolves can be asked there.
PATCHABLE = pytest.mark.modes("sync", "asyncio", "trio")


@ALL_MODES
async def test_a_dial_makes_one_lookup_with_its_answers(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A name is looked up once for a dial: its time, its name and its answers are told."""
    async with flavour.client() as client:
        await client.get(server.url(host="localhost"))
        await client.get(server.url(host="localhost"))

    first, second = telemetry.requests()
    assert telemetry.told(first) == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": PORT,
        "httptrace.time.dns": SECONDS,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }
    assert "httptrace.time.dns" not in telemetry.told(second)
    assert telemetry.tree(first) == [("http.getconn", ["http.dns", "http.connect"])]
    said = attributes(telemetry.child("http.dns", first))
    assert said.pop("dns.question.name") == "localhost"
    assert set(said.pop("dns.answers")) in ({"127.0.0.1"}, {"127.0.0.1", "::1"})
    assert said == {}
    assert telemetry.metric("dns.lookup.duration") == {(("dns.question.name", "localhost"),): 1}


@ALL_MODES
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "::1"])
async def test_numeric_hosts_are_no_lookup(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, host: str
) -> None:
    """An address in any spelling needs no resolver, and none is reported."""
    server = serve(host="::1" if ":" in host else "127.0.0.1")
    async with flavour.client() as client:
        await client.get(server.url(host=host))

    span = telemetry.request()
    assert "httptrace.time.dns" not in telemetry.told(span)
    assert telemetry.tree(span) == [("http.getconn", ["http.connect"])]
    assert telemetry.metric("dns.lookup.duration") == {}


@ALL_MODES
async def test_a_name_that_does_not_exist(flavour: Flavour, telemetry: Telemetry) -> None:
    """A name under `.invalid` fails the `dns` phase; nothing was connected to."""
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get("http://nowhere.invalid/")

    span = telemetry.request()
    assert telemetry.told(span) == {
        "httptrace.time.dns": SECONDS,
        "httptrace.failed_phase": "dns",
        "error.type": "ConnectError",
        "httptrace.failed_cause": Like("EAI_NONAME|EAI_AGAIN"),
    }
    assert failed(span)
    assert telemetry.tree(span) == [("http.getconn", ["http.dns"])]
    said = attributes(telemetry.child("http.dns"))
    assert said["dns.question.name"] == "nowhere.invalid"
    # Without any resolver to ask, a machine says that it may be asked again.
    assert said["error.type"] in ("host_not_found", "try_again")
    assert "dns.answers" not in said


@PATCHABLE
@pytest.mark.parametrize(
    ("error", "word", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such name"), "host_not_found", "EAI_NONAME"),
        (socket.gaierror(socket.EAI_NODATA, "no address"), "host_not_found", "EAI_NODATA"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "try_again", "EAI_AGAIN"),
        (socket.gaierror(socket.EAI_FAIL, "never"), "no_recovery", "EAI_FAIL"),
        (TimeoutError("slow"), "timed_out", None),
        (socket.gaierror(socket.EAI_MEMORY, "no memory"), "gaierror", "EAI_MEMORY"),
        (OSError(errno.EMFILE, "too many"), "too_many_open_files", "EMFILE"),
        (OSError(errno.ENFILE, "too many"), "too_many_open_files", "ENFILE"),
        (OSError("odd"), "OSError", "OSError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_lookups_error_is_one_of_five_words(
    flavour: Flavour, resolver: Resolver, telemetry: Telemetry, error: Exception, word: str, cause: str | None
) -> None:
    """A lookup's error is one of five words, else the exception's class name, on the span and on the metric."""
    resolver.answers["origin.test"] = error
    async with flavour.client() as client:
        with pytest.raises((flavour.httpx.ConnectError, flavour.httpx.ConnectTimeout, TimeoutError)) as raised:
            await client.get("http://origin.test/")

    span = telemetry.request()
    assert telemetry.told(span) == {
        "httptrace.time.dns": SECONDS,
        "httptrace.failed_phase": "dns",
        "error.type": type(raised.value).__name__,
        "httptrace.failed_cause": cause or type(raised.value).__name__,
        **({} if raised.type is not flavour.httpx.ConnectTimeout else {"httptrace.timeout": 10.0}),
    }
    assert attributes(telemetry.child("http.dns")) == {"dns.question.name": "origin.test", "error.type": word}
    assert failed(telemetry.child("http.dns"))
    assert telemetry.metric("dns.lookup.duration") == {(("dns.question.name", "origin.test"), ("error.type", word)): 1}


@PATCHABLE
async def test_answers_keep_their_order(
    flavour: Flavour, server: Server, resolver: Resolver, telemetry: Telemetry
) -> None:
    """Answers come in the resolver's order, also where the first cannot be connected to."""
    resolver.answers["origin.test"] = ["127.0.0.2", "127.0.0.1"]
    async with flavour.client() as client:
        await client.get(server.url(host="origin.test"))

    assert attributes(telemetry.child("http.dns")) == {
        "dns.question.name": "origin.test",
        "dns.answers": ("127.0.0.2", "127.0.0.1"),
    }
    span = telemetry.request()
    assert telemetry.tree(span) == [("http.getconn", ["http.dns", "http.connect"])]
    assert telemetry.told(span)["network.peer.address"] == "127.0.0.1"
    assert attributes(telemetry.child("http.connect"))["server.address"] == "origin.test"


@PATCHABLE
async def test_an_ipv6_answer_first(flavour: Flavour, server: Server, resolver: Resolver, telemetry: Telemetry) -> None:
    """Where the IPv6 address comes first and the IPv4 one wins, both are told."""
    resolver.answers["origin.test"] = ["::1", "127.0.0.1"]
    async with flavour.client() as client:
        await client.get(server.url(host="origin.test"))

    assert attributes(telemetry.child("http.dns"))["dns.answers"] == ("::1", "127.0.0.1")
    assert attributes(telemetry.child("http.connect"))["network.type"] == "ipv4"


@PATCHABLE
async def test_a_slow_lookup_is_time_dns(
    flavour: Flavour, server: Server, resolver: Resolver, telemetry: Telemetry
) -> None:
    """A resolver that takes 0.1 s costs `time.dns`, not `time.connect`."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    # From when it is asked on: a client takes its time to be made, too.
    gate = resolver.gates["origin.test"] = threading.Event()
    wait = gate.wait
    gate.wait = lambda timeout=None: wait(0.1)  # type: ignore[method-assign]
    async with flavour.client() as client:
        await client.get(server.url(host="origin.test"))

    told = telemetry.told(telemetry.request())
    assert told["httptrace.time.dns"] == Seconds(0.09)
    assert told["httptrace.time.connect"] == Seconds(below=0.09)


@pytest.mark.modes("asyncio", "trio")
async def test_a_lookup_that_outlives_the_timeout(flavour: Flavour, resolver: Resolver, telemetry: Telemetry) -> None:
    """A connect timeout within a lookup fails the `dns` phase as `timed_out`, while a thread may still be in it."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    gate = resolver.gates["origin.test"] = threading.Event()
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectTimeout):
            # trio waits for the thread unless told otherwise: open the gate a while later.
            timer = threading.Timer(1.5, gate.set)
            timer.start()
            await client.get("http://origin.test/", timeout=0.5)
    gate.set()
    timer.join()

    span = telemetry.request()
    assert telemetry.told(span) == {
        "httptrace.time.dns": Seconds(0.09),
        "httptrace.failed_phase": "dns",
        "error.type": "ConnectTimeout",
        "httptrace.failed_cause": "ConnectTimeout",
        "httptrace.timeout": 0.5,
    }
    assert attributes(telemetry.child("http.dns")) == {"dns.question.name": "origin.test", "error.type": "timed_out"}
    assert telemetry.metric("dns.lookup.duration") == {
        (("dns.question.name", "origin.test"), ("error.type", "timed_out")): 1
    }


@PATCHABLE
async def test_cancelled_in_a_lookup(flavour: Flavour, resolver: Resolver, telemetry: Telemetry) -> None:
    """A cancelled lookup has its time, and no error."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    gate = resolver.gates["origin.test"] = threading.Event()
    async with flavour.client() as client:
        await flavour.cancelled(client.get, "http://origin.test/", when=lambda: resolver.asked)
        gate.set()

    span = telemetry.request()
    assert telemetry.told(span) == {"httptrace.time.dns": SECONDS, "httptrace.failed_phase": "dns"}
    assert not failed(span)
    assert attributes(telemetry.child("http.dns")) == {"dns.question.name": "origin.test"}


@PATCHABLE
async def test_the_resolver_is_asked_what_it_would_have_been(
    flavour: Flavour, server: Server, resolver: Resolver, bare_telemetry: Telemetry
) -> None:
    """Instrumented or not, the resolver gets the same calls with the same arguments."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    async with flavour.client() as client:
        await client.get(server.url("/close", host="origin.test"))
    bare = list(resolver.asked)
    resolver.asked.clear()
    bare_telemetry.instrument()
    async with flavour.client() as client:
        await client.get(server.url("/close", host="origin.test"))

    assert bare
    assert resolver.asked == bare


@PATCHABLE
async def test_one_lookup_per_dial(flavour: Flavour, server: Server, resolver: Resolver, telemetry: Telemetry) -> None:
    """As many lookups are reported as were made: one per connection."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    async with flavour.client() as client:
        for _ in range(3):
            await client.get(server.url("/close", host="origin.test"))

    assert len([name for name, *_ in resolver.asked]) == 3
    assert telemetry.metric("dns.lookup.duration") == {(("dns.question.name", "origin.test"),): 3}
    assert [telemetry.tree(span) for span in telemetry.requests()] == [
        [("http.getconn", ["http.dns", "http.connect"])]
    ] * 3


@ALL_MODES
async def test_other_lookups_are_none_of_ours(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """What the application looks up by itself, and from within a request's own callback, is not reported."""

    def look_up(name: str, info: object) -> None:
        socket.getaddrinfo("localhost", 80)

    async def alook_up(name: str, info: object) -> None:
        socket.getaddrinfo("localhost", 80)

    socket.getaddrinfo("localhost", 80)
    async with flavour.client() as client:
        await client.get(server.url(), extensions={"trace": look_up if flavour.sync else alook_up})
    socket.getaddrinfo("localhost", 80)

    assert telemetry.metric("dns.lookup.duration") == {}
    assert "httptrace.time.dns" not in telemetry.told(telemetry.request())


@ALL_MODES
async def test_a_socks_proxy_is_looked_up_and_the_target_is_not(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """With a SOCKS proxy only what is resolved here is reported: the proxy's own name."""
    from kit.proxies import Socks

    with Socks() as proxy:
        async with flavour.client(proxy=f"socks5://localhost:{proxy.port}") as client:
            await client.get(server.url(host="localhost"))

    assert telemetry.tree(telemetry.request()) == [("http.getconn", ["http.dns", "http.connect", "http.proxy"])]
    assert attributes(telemetry.child("http.dns"))["dns.question.name"] == "localhost"
    assert proxy.asked == ["localhost"]


@PATCHABLE
async def test_a_lookup_that_succeeds_before_a_refused_connect(
    flavour: Flavour, resolver: Resolver, telemetry: Telemetry
) -> None:
    """After a lookup that succeeded, the phase that fails is the connect."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://origin.test:{free_port()}/")

    span = telemetry.request()
    assert telemetry.told(span) == {
        "httptrace.time.dns": SECONDS,
        "httptrace.time.connect": SECONDS,
        "httptrace.failed_phase": "connect",
        "error.type": "ConnectError",
        "httptrace.failed_cause": "ECONNREFUSED",
    }
    assert telemetry.tree(span) == [("http.getconn", ["http.dns", "http.connect"])]
    assert attributes(telemetry.child("http.connect"))["error.type"] == "connection_refused"


@pytest.mark.modes("asyncio")
@pytest.mark.parametrize("threads", [1, 2], ids=["busy", "free"])
async def test_a_lookup_that_waits_for_a_thread(
    flavour: Flavour, resolver: Resolver, telemetry: Telemetry, threads: int
) -> None:
    """Where the event loop's executor has no thread free, the lookup says for how long the resolver was not asked."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    gate = threading.Event()
    resolver.gates["origin.test"] = gate
    executor = ThreadPoolExecutor(threads)
    asyncio.get_running_loop().set_default_executor(executor)
    executor.submit(gate.wait)
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectTimeout):
            await client.get("http://origin.test/", timeout=0.5)
    gate.set()

    told = attributes(telemetry.child("http.dns"))
    assert ("httptrace.dns.queued" in told) is (threads == 1)
    if threads == 1:
        asked = attributes(telemetry.request())["httptrace.time.dns"]
        assert told["httptrace.dns.queued"] == pytest.approx(asked, abs=0.1)
