"""Connections: which one, whether reused, to whom; directly, through proxies, over Unix sockets and HTTP/2."""

from __future__ import annotations

import copy
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.clients import MODES, Flavour
from kit.http2 import H2Server
from kit.matchers import PORT, SECONDS, Seconds
from kit.proxies import AnsweringProxy, Proxy, Socks, share
from kit.server import Server, answer, free_port
from kit.telemetry import Telemetry, attributes, failed

ALL_MODES = pytest.mark.modes(*MODES)
READ = {
    "httptrace.time.wait": SECONDS,
    "httptrace.time.receive": SECONDS,
    "httptrace.body.outcome": "complete",
    "http.response.body.size": 5,
}


def opened(peer: tuple[str, int], reason: str = "first_connection", /, **more: Any) -> dict[str, Any]:
    """What is said of a request that opened the first connection."""
    return {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": reason,
        "network.peer.address": peer[0],
        "network.peer.port": peer[1],
        "network.local.port": PORT,
        "httptrace.time.connect": SECONDS,
        **READ,
        **more,
    }


def reused(peer: tuple[str, int], **more: Any) -> dict[str, Any]:
    """What is said of the second request on the first connection."""
    return {
        "http.conn.reused": True,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 1,
        "httptrace.conn.idle": SECONDS,
        "network.peer.address": peer[0],
        "network.peer.port": peer[1],
        **READ,
        **more,
    }


# Direct.


async def test_connections_are_numbered_and_counted(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Ids tell connections apart, and `requests` counts what one has carried before."""
    async with flavour.client() as client:
        for target in ("/", "/", "/close", "/", "/"):
            await client.get(server.url(target))

    assert [telemetry.told(span)["httptrace.conn.id"] for span in telemetry.requests()] == [1, 1, 1, 2, 2]
    assert telemetry.column("httptrace.conn.requests") == [0, 1, 2, 0, 1]
    assert telemetry.column("http.conn.reused") == [False, True, True, False, True]
    assert server.targets == [["/", "/", "/close"], ["/", "/"]]


async def test_ids_are_unique_in_the_process(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Two clients never share a connection's number, not even after instrumenting again."""
    async with flavour.client() as client:
        await client.get(server.url())
    async with flavour.client() as client:
        await client.get(server.url())
    telemetry.uninstrument()
    telemetry.instrument()
    async with flavour.client() as client:
        await client.get(server.url())

    ids = telemetry.column("httptrace.conn.id")
    assert len(set(ids)) == 3


async def test_idle_time_counts_from_the_end_of_the_last_body(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """`httptrace.conn.idle` is the time since the last use, from the end of that body on."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url())
        await flavour.sleep(0.1)
        await response.read()
        await flavour.sleep(0.05)
        await client.get(server.url())

    _, span = telemetry.requests()
    assert attributes(span)["httptrace.conn.idle"] == Seconds(0.05, below=0.15)


async def test_the_peer_is_an_address(flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry) -> None:
    """`network.peer.address` is where the connection goes, not the name in the URL."""
    server = serve()
    async with flavour.client() as client:
        await client.get(server.url(host="localhost"))

    assert telemetry.column("network.peer.address") == ["127.0.0.1"]
    assert telemetry.column("network.peer.port") == [server.port]


async def test_an_ipv6_peer_is_reported(flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry) -> None:
    """Over IPv6 the address is one, and the connect span says the type of network."""
    server = serve(host="::1")
    async with flavour.client() as client:
        await client.get(server.url())

    assert telemetry.told(telemetry.request()) == opened(("::1", server.port))
    assert attributes(telemetry.child("http.connect"))["network.type"] == "ipv6"


@pytest.mark.parametrize("stability", ["http", "http/dup"])
async def test_the_peer_replaces_upstreams_host_name(
    flavour: Flavour,
    server: Server,
    bare_telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    stability: str,
) -> None:
    """Under either semantic convention `network.peer.address` is the real one; `server.address` stays."""
    from opentelemetry.instrumentation import _semconv

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", stability)
    monkeypatch.setattr(_semconv._OpenTelemetrySemanticConventionStability, "_initialized", False)
    monkeypatch.setattr(
        _semconv._OpenTelemetrySemanticConventionStability, "_OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING", {}
    )
    bare_telemetry.instrument()
    async with flavour.client() as client:
        await client.get(server.url(host="localhost"))
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://localhost:{free_port()}/")

    connected, failed_span = bare_telemetry.requests()
    said = attributes(connected)
    assert (said["network.peer.address"], said["network.peer.port"]) == ("127.0.0.1", server.port)
    assert said["server.address"] == "localhost"
    # What upstream wrote on a request that never connected stays.
    assert attributes(failed_span)["network.peer.address"] == "localhost"
    assert attributes(failed_span)["error.type"] == "ConnectError"


@ALL_MODES
async def test_a_unix_sockets_peer_is_its_path(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, tmp_path: Path
) -> None:
    """Over a Unix socket the peer is its path, without a port, and the transport is said."""
    path = str(tmp_path / "s")
    server = serve(uds=path)
    async with flavour.client(uds=path) as client:
        await client.get("http://service/")
        await client.get("http://service/")

    first, second = telemetry.requests()
    expected = opened((path, 0), **{"network.transport": "unix"})
    del expected["network.peer.port"], expected["network.local.port"]
    assert telemetry.told(first) == expected
    expected = reused((path, 0), **{"network.transport": "unix"})
    del expected["network.peer.port"]
    assert telemetry.told(second) == expected
    assert telemetry.tree(first) == [("http.getconn", ["http.connect"])]
    assert attributes(telemetry.child("http.connect", first)) == {
        "server.address": path,
        "network.transport": "unix",
        "network.peer.address": path,
    }
    assert telemetry.metric("httptrace.connections.opened") == {
        (
            ("httptrace.conn.open_reason", "first_connection"),
            ("server.address", "service"),
            ("server.port", 80),
        ): 1
    }
    assert server.accepted == 1


async def test_origins_in_one_pool_are_kept_apart(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """Origins in one pool are kept apart: each has its own connection, number and count."""
    one, two = serve(), serve()
    async with flavour.client() as client:
        for server in (one, two, one, two):
            await client.get(server.url())

    assert [telemetry.told(span)["httptrace.conn.id"] for span in telemetry.requests()] == [1, 2, 1, 2]
    assert telemetry.column("httptrace.conn.requests") == [0, 0, 1, 1]
    assert telemetry.column("network.peer.port") == [one.port, two.port, one.port, two.port]
    assert telemetry.column("httptrace.conn.open_reason")[:2] == ["first_connection", "first_connection"]


async def test_concurrent_requests_have_connections_of_their_own(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """On HTTP/1.1 as many connections as requests at once, and they are reused one each."""
    async with flavour.client() as client:
        for _ in range(2):
            server.go.clear()
            before = len(server.requests)
            async with flavour.together() as start:
                for _ in range(3):
                    start(client.get, server.url("/held"))
                await flavour.until(lambda: len(server.requests) == before + 3)  # noqa: B023 - called before the loop goes on
                server.go.set()

    ids = telemetry.column("httptrace.conn.id")
    assert len(set(ids[:3])) == 3
    assert sorted(ids[:3]) == sorted(ids[3:])
    assert telemetry.column("http.conn.reused") == [False] * 3 + [True] * 3
    assert server.accepted == 3


async def test_a_tls_handshake_has_its_time_and_span(
    flavour: Flavour,
    serve: Callable[..., Server],
    telemetry: Telemetry,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    """Over TLS the handshake has its time and its span."""
    server = serve(tls=server_tls)
    async with flavour.client(verify=client_tls) as client:
        await client.get(server.url())
        await client.get(server.url())

    first, second = telemetry.requests()
    assert telemetry.told(first) == opened(("127.0.0.1", server.port), **{"httptrace.time.tls": SECONDS})
    assert telemetry.told(second) == reused(("127.0.0.1", server.port))
    assert telemetry.tree(first) == [("http.getconn", ["http.connect", "http.tls"])]
    assert telemetry.tree(second) == []


async def test_an_untrusted_certificate_fails_the_tls_phase(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, server_tls: ssl.SSLContext
) -> None:
    """A certificate that is not trusted fails the `tls` phase; the peer was connected to, and says so."""
    server = serve(tls=server_tls)
    async with flavour.client(verify=ssl.create_default_context()) as client:
        # On asyncio httpcore before 1.0.6 lets it through as it is.
        through = flavour.mode == "asyncio" and flavour.before("httpcore", "1.0.6")
        error = ssl.SSLCertVerificationError if through else flavour.httpx.ConnectError
        with pytest.raises(error):
            await client.get(server.url())

    span = telemetry.request()
    assert telemetry.told(span) == {
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.tls": SECONDS,
        "httptrace.failed_phase": "tls",
        "error.type": error.__name__,
        "httptrace.failed_cause": "CERTIFICATE_VERIFY_FAILED",
    }
    assert failed(span)
    assert attributes(telemetry.child("http.tls"))["error.type"] == "SSLCertVerificationError"
    assert "error.type" not in attributes(telemetry.child("http.connect"))
    assert telemetry.metric("httptrace.connections.opened") == {}


async def test_tls_that_never_answers(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """A handshake that times out is told from a connect that does."""
    server = serve()
    server.serve = lambda peer: peer.until_closed()  # type: ignore[method-assign]
    async with flavour.client(verify=client_tls) as client:
        with pytest.raises(flavour.httpx.ConnectTimeout):
            await client.get(server.url().replace("http:", "https:"), timeout=0.1)

    told = telemetry.told(telemetry.request())
    assert told["httptrace.failed_phase"] == "tls"
    assert told["httptrace.time.tls"] == Seconds(0.09)
    assert told["httptrace.time.connect"] == Seconds(below=0.09)


# Proxies.


async def test_the_peer_of_a_forward_proxy_is_the_proxy(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """Through a forward proxy the peer is the proxy, and without TLS to it there is no proxy phase."""
    server, proxy = serve(), running(Proxy())
    async with flavour.client(proxy=proxy.url("")) as client:
        await client.get(server.url())
        await client.get(server.url())

    first, second = telemetry.requests()
    assert telemetry.told(first) == opened(("127.0.0.1", proxy.port))
    assert telemetry.told(second) == reused(("127.0.0.1", proxy.port))
    assert telemetry.tree(first) == [("http.getconn", ["http.connect"])]
    connect = attributes(telemetry.child("http.connect", first))
    assert (connect["server.address"], connect["server.port"]) == ("127.0.0.1", proxy.port)
    assert telemetry.metric("httptrace.connections.opened") == {
        (
            ("httptrace.conn.open_reason", "first_connection"),
            ("server.address", "127.0.0.1"),
            ("server.port", server.port),
        ): 1
    }


def needs_tls_to_proxies(flavour: Flavour) -> None:
    """Skips the test where an asynchronous client has no way to trust a proxy's certificate."""
    if not flavour.sync and flavour.before("httpx", "0.27.1"):
        pytest.skip("httpx before 0.27.1 forgets the proxy's ssl_context when asynchronous")


async def test_forward_proxy_over_tls(
    flavour: Flavour,
    serve: Callable[..., Server],
    running: Callable[[Any], Any],
    telemetry: Telemetry,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    """TLS to a forward proxy is `time.proxy` and `http.proxy`, and no `http.tls`."""
    needs_tls_to_proxies(flavour)
    server, proxy = serve(), running(Proxy(tls=server_tls))
    async with flavour.client(proxy=flavour.httpx.Proxy(proxy.url(""), ssl_context=client_tls)) as client:
        await client.get(server.url())

    span = telemetry.request()
    assert telemetry.told(span) == opened(("127.0.0.1", proxy.port), **{"httptrace.time.proxy": SECONDS})
    assert telemetry.tree(span) == [("http.getconn", ["http.connect", "http.proxy"])]
    assert attributes(telemetry.child("http.proxy")) == {"server.address": "127.0.0.1", "server.port": proxy.port}


@pytest.mark.parametrize("tls_to_proxy", [False, True], ids=["plain", "tls"])
async def test_a_connect_tunnel_is_no_exchange(
    flavour: Flavour,
    serve: Callable[..., Server],
    running: Callable[[Any], Any],
    telemetry: Telemetry,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    tls_to_proxy: bool,
) -> None:
    """Through CONNECT the proxy's handshake and the server's are told apart, and the tunnel is no exchange."""
    if tls_to_proxy:
        needs_tls_to_proxies(flavour)
    server, proxy = serve(tls=server_tls), running(Proxy(tls=server_tls if tls_to_proxy else None))
    via = flavour.httpx.Proxy(proxy.url(""), ssl_context=client_tls if tls_to_proxy else None)
    async with flavour.client(proxy=via, verify=client_tls) as client:
        await client.get(server.url())
        await client.get(server.url())

    first, second = telemetry.requests()
    assert telemetry.told(first) == opened(
        ("127.0.0.1", proxy.port), **{"httptrace.time.proxy": SECONDS, "httptrace.time.tls": SECONDS}
    )
    assert telemetry.told(second) == reused(("127.0.0.1", proxy.port))
    assert telemetry.tree(first) == [("http.getconn", ["http.connect", "http.proxy", "http.tls"])]
    assert attributes(telemetry.child("http.proxy", first)) == {
        "server.address": "127.0.0.1",
        "server.port": proxy.port,
    }
    assert attributes(telemetry.child("http.tls", first))["server.address"] == "127.0.0.1"
    assert telemetry.tree(second) == []
    assert proxy.targets == [[f"127.0.0.1:{server.port}"]]


async def test_a_proxy_that_refuses(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """A CONNECT that the proxy refuses fails the `proxy` phase."""
    proxy = running(Proxy(refuse=answer(b"no", status="403 Forbidden")))
    async with flavour.client(proxy=proxy.url("")) as client:
        with pytest.raises(flavour.httpx.ProxyError):
            await client.get("https://127.0.0.1:1/")

    span = telemetry.request()
    assert telemetry.told(span) == {
        "network.peer.address": "127.0.0.1",
        "network.peer.port": proxy.port,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.proxy": SECONDS,
        "httptrace.failed_phase": "proxy",
        "error.type": "ProxyError",
        "httptrace.failed_cause": "ProxyError",
    }
    assert telemetry.tree(span) == [("http.getconn", ["http.connect", "http.proxy"])]
    assert attributes(telemetry.child("http.proxy"))["error.type"] == "ProxyError"


@ALL_MODES
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_socks_handshake_is_time_proxy(
    flavour: Flavour,
    serve: Callable[..., Server],
    running: Callable[[Any], Any],
    telemetry: Telemetry,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    tls: bool,
) -> None:
    """Through SOCKS5 the handshake is `time.proxy`, and what the proxy resolves is not reported as a lookup."""
    server, proxy = serve(tls=server_tls if tls else None), running(Socks())
    async with flavour.client(proxy=f"socks5://127.0.0.1:{proxy.port}", verify=client_tls) as client:
        await client.get(server.url(host="localhost"))
        await client.get(server.url(host="localhost"))

    first, second = telemetry.requests()
    handshake = {"httptrace.time.tls": SECONDS} if tls else {}
    assert telemetry.told(first) == opened(("127.0.0.1", proxy.port), **handshake, **{"httptrace.time.proxy": SECONDS})
    assert telemetry.told(second) == reused(("127.0.0.1", proxy.port))
    assert telemetry.tree(first) == [("http.getconn", ["http.connect", "http.proxy", *(["http.tls"] if tls else [])])]
    assert proxy.asked == ["localhost"]


# The libraries leave the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_socks5_proxy_that_refuses(
    flavour: Flavour, running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """A SOCKS5 proxy that cannot connect fails the `proxy` phase."""
    proxy = running(Socks(reply=5))
    async with flavour.client(proxy=f"socks5://127.0.0.1:{proxy.port}") as client:
        with pytest.raises(flavour.httpx.ProxyError):
            await client.get("http://127.0.0.1:1/")

    told = telemetry.told(telemetry.request())
    assert told["httptrace.failed_phase"] == "proxy"
    assert attributes(telemetry.child("http.proxy"))["error.type"] == "ProxyError"


async def test_through_a_forward_proxy_any_plain_origin_shares(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """A connection to a forward proxy carries requests to every plain-HTTP origin, as far as the library lets it."""
    one, two, proxy = serve(), serve(), running(Proxy())
    async with flavour.client(proxy=proxy.url("")) as client:
        await client.get(one.url())
        await client.get(two.url())
        await client.get(one.url())

    assert sum(not was for was in telemetry.column("http.conn.reused")) == proxy.accepted
    assert telemetry.column("http.conn.reused")[2] is True


@pytest.fixture
def shared(flavour: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools use a connection to a forward proxy for every plain-HTTP origin."""
    share(flavour, monkeypatch)


async def test_a_connection_bound_to_its_origin_explains_no_other(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """Through a forward proxy a request is dialled beside an idle connection for another origin: a loss there is not why."""
    one, two, three, proxy = serve(), serve(), serve(), running(Proxy())
    async with flavour.client(proxy=proxy.url("")) as client:
        await client.get(one.url())
        await client.get(two.url())
        async with client.stream("GET", one.url()):
            pass
        await client.get(three.url())
        await client.get(one.url())

    # Nothing had been lost when the second one dialled all the same: so will the fourth, whatever was lost.
    assert proxy.accepted == 4
    first = "first_connection"
    assert telemetry.column("httptrace.conn.open_reason") == [first, first, None, first, "body_not_read"]


@pytest.mark.usefixtures("shared")
async def test_a_shared_connection_explains_the_next_for_any_origin(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """Where a pool shares connections to a forward proxy, one lost for an origin explains the next for another."""
    one, two, proxy = serve(), serve(), running(Proxy())
    async with flavour.client(proxy=proxy.url("")) as client:
        await client.get(one.url())
        async with client.stream("GET", two.url()):
            pass
        await client.get(one.url())
        response = await client.open("GET", two.url())
        await client.get(one.url())
        await response.read()

    assert proxy.accepted == 3
    told = telemetry.column("httptrace.conn.open_reason")
    assert told == ["first_connection", None, "body_not_read", None, "all_busy"]
    _, culprit, victim, *_ = telemetry.requests()
    (link,) = victim.links
    assert culprit.context is not None
    assert link.context.span_id == culprit.context.span_id
    # Requests count under what they were for; connections, under what they were opened for.
    requests: dict[Any, int] = {}
    for said, number in telemetry.metric("httptrace.requests").items():
        port = dict(said)["server.port"]
        requests[port] = requests.get(port, 0) + number
    assert requests == {one.port: 3, two.port: 2}
    assert telemetry.counted("httptrace.connections.opened", "server.port") == {one.port: 3}
    assert telemetry.counted("httptrace.bodies", "server.port") == {one.port: 3, two.port: 2}


@pytest.mark.usefixtures("shared")
async def test_a_failure_on_a_shared_connection(
    flavour: Flavour, serve: Callable[..., Server], running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """A request that fails on a shared connection counts under its own origin, and explains the next one's dial."""
    routes = {"/silent": lambda peer, request: peer.until_closed()}
    proxy = running(AnsweringProxy(routes))
    async with flavour.client(proxy=proxy.url("")) as client:
        await client.get("http://one.test/")
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get("http://two.test/silent", timeout=flavour.httpx.Timeout(5, read=0.01))
        await client.get("http://three.test/")

    assert telemetry.column("httptrace.conn.open_reason") == ["first_connection", None, "request_failed"]
    counted = telemetry.counted("httptrace.requests", "server.address")
    assert counted == {"one.test": 1, "two.test": 1, "three.test": 1}


@pytest.mark.usefixtures("shared")
async def test_first_and_new_through_a_shared_proxy(
    flavour: Flavour, running: Callable[[Any], Any], telemetry: Telemetry
) -> None:
    """Shared, it is the proxy that a process has been connected to, not the origin; a pool closed once says so for any."""
    one, other = running(AnsweringProxy()), running(AnsweringProxy())
    async with flavour.client(proxy=one.url("")) as client:
        await client.get("http://one.test/")
    async with flavour.client(proxy=one.url("")) as client:
        await client.get("http://two.test/")
        if flavour.sync:
            client.pool.close()
        else:
            await client.pool.aclose()
        await client.get("http://three.test/")
    async with flavour.client(proxy=other.url("")) as client:
        await client.get("http://two.test/")

    told = telemetry.column("httptrace.conn.open_reason")
    assert told == ["first_connection", "new_client", "client_closed", "first_connection"]


@pytest.mark.usefixtures("shared")
async def test_a_tunnel_is_never_shared(
    flavour: Flavour,
    serve: Callable[..., Server],
    running: Callable[[Any], Any],
    telemetry: Telemetry,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    """Through CONNECT a connection is its origin's for good: lost for one, it explains nothing of another."""
    one, two, proxy = serve(tls=server_tls), serve(tls=server_tls), running(Proxy())
    async with flavour.client(proxy=proxy.url(""), verify=client_tls) as client:
        async with client.stream("GET", one.url()):
            pass
        await client.get(two.url())
        await client.get(one.url())

    told = telemetry.column("httptrace.conn.open_reason")
    assert told == ["first_connection", "first_connection", "body_not_read"]


# HTTP/2.


@ALL_MODES
async def test_http2_reuse_says_whether_it_was_idle(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """On HTTP/2 a reused connection also says whether it was idle."""
    server = h2_server()
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        await client.get(server.url())

    first, second = telemetry.requests()
    assert telemetry.told(first) == opened(("127.0.0.1", server.port), **{"httptrace.time.tls": SECONDS})
    assert telemetry.told(second) == reused(("127.0.0.1", server.port), **{"http.conn.wasidle": True})
    assert attributes(telemetry.child("http.tls", first))["tls.next_protocol"] == "h2"
    assert server.accepted == 1


async def test_http2_streams_share_a_connection(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """A stream beside another one is reused and not idle."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 3)
            for stream in server.streams[1:]:
                stream.answer()

    _, one, two = telemetry.requests()
    peer = ("127.0.0.1", server.port)
    assert telemetry.told(one) == reused(peer, **{"http.conn.wasidle": True})
    expected = reused(peer, **{"http.conn.wasidle": False, "httptrace.conn.requests": 2})
    del expected["httptrace.conn.idle"]
    assert telemetry.told(two) == expected
    assert server.accepted == 1


# Once the dial is over all of them send; httpcore gives two threads the same stream then, now and then, also without us.
@pytest.mark.modes("asyncio", "trio")
async def test_a_shared_http2_dial(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """Of requests that wait for one dial, one has dialled; for the others it was the pool."""
    server = h2_server()
    server.admit.clear()
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:
            for _ in range(3):
                start(client.get, server.url())
            await flavour.until(lambda: len(client.pool._requests) == 3 and server.greeted)
            await flavour.sleep(0.05)
            server.admit.set()

    told = [telemetry.told(span, "httptrace.time.pool") for span in telemetry.requests()]
    dialled = [one for one in told if not one["http.conn.reused"]]
    waited = [one for one in told if one["http.conn.reused"]]
    assert (len(dialled), len(waited), server.accepted) == (1, 2, 1)
    assert dialled[0]["httptrace.time.tls"] == Seconds(0.05)
    assert dialled[0]["httptrace.conn.requests"] in (0, 1, 2)
    for one in waited:
        assert one["httptrace.time.pool"] == Seconds(0.05)
        assert one["http.conn.wasidle"] is False or "httptrace.conn.idle" not in one
        assert not {"httptrace.time.connect", "httptrace.time.tls", "httptrace.conn.open_reason"} & set(one)
    assert sorted(one["httptrace.conn.requests"] for one in told) == [0, 1, 2]


async def test_an_http2_stream_reset_costs_no_connection(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """A stream that the server resets fails its own request and nothing else."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            task = start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            server.streams[1].reset()
            await flavour.until(lambda: task.done)
            error = task.error
        assert isinstance(error, flavour.httpx.RemoteProtocolError)
        await client.get(server.url())

    assert telemetry.column("http.conn.reused") == [False, True, True]
    assert telemetry.column("httptrace.failed_phase") == [None, "wait", None]
    assert telemetry.column("httptrace.conn.close_reason") == [None, None, None]
    assert server.accepted == 1


async def test_an_http2_body_left_early_costs_no_connection(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: ssl.SSLContext
) -> None:
    """Closing an HTTP/2 response early is closed early, and the connection lives on."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:

            async def leave() -> None:
                async with client.stream("GET", server.url("/held")):
                    pass

            start(leave)
            await flavour.until(lambda: server.streams)
            server.streams[0].begin()
        await client.get(server.url())

    left, after = telemetry.requests()
    assert telemetry.told(left)["httptrace.body.outcome"] == "closed_early"
    assert "httptrace.conn.close_reason" not in telemetry.told(left)
    assert telemetry.told(after)["http.conn.reused"] is True
    assert server.accepted == 1


def test_the_matcher_for_ports_takes_only_ports() -> None:
    """The matcher for ports takes ports only."""
    assert PORT == 80 and PORT != "80" and copy.copy(PORT) == 8080
