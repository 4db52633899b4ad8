"""What is told of urllib3's requests on spans, links and metrics."""

from __future__ import annotations

import gc
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
import requests
import urllib3
import urllib3.http2
from botocore.config import Config as BotoConfig
from kit.dns import Resolver
from kit.matchers import Like, Port, Seconds
from kit.proxies import Proxy, Socks
from kit.server import Server, answer, head
from kit.telemetry import Telemetry, attributes, names, seconds
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.contrib.socks import SOCKSProxyManager
from urllib3.exceptions import NewConnectionError

#: What upstream writes on the spans of requests and urllib3.
_UPSTREAMS = {"user_agent.original"}


@pytest.fixture
def session() -> Any:
    """A session that takes nothing from the machine."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def told(telemetry: Telemetry, span: Any, *keep: str) -> dict[str, Any]:
    """What we said on a span."""
    return {name: value for name, value in telemetry.told(span, *keep).items() if name not in _UPSTREAMS}


def test_a_request_that_dials_and_one_that_does_not(telemetry: Telemetry, server: Server, session: Any) -> None:
    """A request on a kept connection has the ten attributes that httpx's has, and one that dials says how."""
    for _ in range(2):
        session.get(server.url())
    first, second = telemetry.requests()
    assert told(telemetry, first) == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": Port(),
        "httptrace.time.connect": Seconds(0),
        "httptrace.time.wait": Seconds(0),
        "httptrace.time.receive": Seconds(0),
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }
    assert telemetry.tree(first) == [("http.getconn", ["http.connect"])]
    assert told(telemetry, second) == {
        "http.conn.reused": True,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 1,
        "httptrace.conn.idle": Seconds(0),
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "httptrace.time.wait": Seconds(0),
        "httptrace.time.receive": Seconds(0),
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }
    assert telemetry.tree(second) == []


def test_where_a_client_per_request_was_made(telemetry: Telemetry, server: Server) -> None:
    """A request that dials as its client is new names the line that made the client, whichever kind that is."""
    first = inspect.currentframe().f_lineno  # type: ignore[union-attr]
    urllib3.PoolManager().request("GET", server.url())
    session = requests.Session()
    manager = urllib3.PoolManager()
    pool = HTTPConnectionPool("127.0.0.1", server.port)
    with session:
        session.trust_env = False
        session.get(server.url())
    manager.request("GET", server.url())
    pool.request("GET", "/")

    assert [
        (one["httptrace.conn.open_reason"], one.get("httptrace.client.made_at"))
        for one in map(attributes, telemetry.requests())
    ] == [
        ("first_connection", None),
        *(
            (
                "new_client",
                f"test_telemetry.py:{first + offset} in test_where_a_client_per_request_was_made",
            )
            for offset in (2, 3, 4)
        ),
    ]


def test_a_lookup_is_told_of_the_request_that_made_it(resolver: Resolver, telemetry: Telemetry, server: Server) -> None:
    """The name, its answers, and the time, as the one lookup that urllib3 made."""
    resolver.answers["origin.test"] = ["127.0.0.1"]
    urllib3.PoolManager().request("GET", server.url(host="origin.test"))
    span = telemetry.request()
    assert attributes(span)["httptrace.time.dns"] >= 0
    assert attributes(telemetry.child("http.dns")) == {
        "dns.question.name": "origin.test",
        "dns.answers": ("127.0.0.1",),
    }
    assert len(resolver.asked) == 1
    assert telemetry.metric("dns.lookup.duration") == {(("dns.question.name", "origin.test"),): 1}


def test_tls_is_told(telemetry: Telemetry, serve: Any, server_tls: Any, client_tls: Any) -> None:
    """The handshake has a span with what was agreed upon."""
    server = serve(tls=server_tls)
    urllib3.PoolManager(ssl_context=client_tls).request("GET", server.url(host="localhost"))
    span = telemetry.request()
    assert names(telemetry.descendants(span)) == ["http.getconn", "http.dns", "http.connect", "http.tls"]
    shaken = attributes(telemetry.child("http.tls"))
    assert shaken["server.address"] == "localhost"
    assert shaken["tls.protocol.version"] == "1.3"
    assert shaken["tls.resumed"] is False
    assert attributes(span)["httptrace.time.tls"] > 0


def test_a_tunnel_is_told(telemetry: Telemetry, serve: Any, running: Any, server_tls: Any, client_tls: Any) -> None:
    """Through CONNECT the peer is the proxy, and what it was asked has a span."""
    server, proxy = serve(tls=server_tls), running(Proxy())
    urllib3.ProxyManager(proxy.url(), ssl_context=client_tls).request("GET", server.url())
    span = telemetry.request()
    assert names(telemetry.descendants(span)) == ["http.getconn", "http.connect", "http.proxy", "http.tls"]
    assert attributes(span)["network.peer.port"] == proxy.port
    assert attributes(telemetry.child("http.proxy")) == {"server.address": "127.0.0.1", "server.port": proxy.port}
    assert attributes(telemetry.child("http.tls"))["server.address"] == "127.0.0.1"
    key = (("http.conn.reused", False), ("server.address", "127.0.0.1"), ("server.port", server.port))
    assert telemetry.metric("httptrace.requests") == {key: 1}


@pytest.fixture
def http2() -> Iterator[None]:
    """urllib3 with HTTP/2, as long as the test lasts."""
    urllib3.http2.inject_into_urllib3()
    yield
    urllib3.http2.extract_from_urllib3()


# urllib3 itself never takes back the connection of the last.
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
@pytest.mark.usefixtures("http2")
def test_http2_is_read_before_there_is_a_response(telemetry: Telemetry, h2_server: Any, client_tls: Any) -> None:
    """The body has its size, and one that was to be streamed is over, though nobody can give its connection back."""
    server = h2_server()
    with urllib3.PoolManager(ssl_context=client_tls) as manager:
        for preload in (True, True, False):
            manager.request("GET", f"https://127.0.0.1:{server.port}/", preload_content=preload)
    assert telemetry.column("http.conn.reused") == [False, True, True]
    assert telemetry.column("http.response.body.size") == [5, 5, 5]
    assert telemetry.column("httptrace.body.outcome") == ["complete"] * 3
    assert len(server.peers) == 1
    gc.collect()


def test_a_socks_proxy_is_the_peer(telemetry: Telemetry, server: Server, running: Any) -> None:
    """What it was connected to is the proxy, by its socket, and what the proxy was asked then has a span."""
    proxy = running(Socks())
    SOCKSProxyManager(f"socks5h://127.0.0.1:{proxy.port}").request("GET", f"http://localhost:{server.port}/")
    span = telemetry.request()
    peer = {"network.peer.address": "127.0.0.1", "network.peer.port": proxy.port}
    address = {"server.address": "127.0.0.1", "server.port": proxy.port}
    assert names(telemetry.descendants(span)) == ["http.getconn", "http.connect", "http.proxy"]
    assert attributes(span).items() >= peer.items()
    assert attributes(telemetry.child("http.connect")).items() >= {**address, **peer}.items()
    assert attributes(telemetry.child("http.proxy")) == address
    assert attributes(span)["httptrace.time.proxy"] == Seconds()
    assert proxy.asked == ["localhost"]


def test_a_socks_proxy_that_refuses_failed_as_a_proxy(telemetry: Telemetry, server: Server, running: Any) -> None:
    """It could be connected to, which its peer shows, and refused what it was asked."""
    proxy = running(Socks(reply=5))
    with pytest.raises(NewConnectionError):
        SOCKSProxyManager(f"socks5://127.0.0.1:{proxy.port}", retries=False).request("GET", server.url())
    found = attributes(telemetry.request())
    assert (found["httptrace.failed_phase"], found["httptrace.failed_cause"]) == ("proxy", "SOCKS5Error")
    assert found["network.peer.port"] == proxy.port
    assert telemetry.child("http.connect").status.status_code is StatusCode.UNSET
    assert telemetry.child("http.proxy").status.status_code is StatusCode.ERROR


def test_a_forward_proxy_is_the_peer_of_every_origin(telemetry: Telemetry, serve: Any, running: Any) -> None:
    """Metrics go by the origin that was asked for, and one connection serves them all."""
    one, other, proxy = serve(), serve(), running(Proxy())
    manager = urllib3.ProxyManager(proxy.url())
    for server in (one, other):
        manager.request("GET", server.url())
    assert telemetry.column("network.peer.port") == [proxy.port, proxy.port]
    assert telemetry.column("http.conn.reused") == [False, True]
    assert telemetry.counted("httptrace.requests", "server.port") == {one.port: 1, other.port: 1}


def test_the_span_ends_with_the_body(telemetry: Telemetry, server: Server, session: Any) -> None:
    """A streamed body's span is exported when that has been read, and ends then."""
    response = session.get(server.url("/half"), stream=True)
    assert telemetry.requests() == []
    server.go.set()
    assert response.content == b"firstother"
    span = telemetry.request()
    received = attributes(span)["httptrace.time.receive"]
    assert seconds(span) >= received > 0
    assert attributes(span)["http.response.body.size"] == 10


@pytest.mark.settings(span_end="headers")
def test_the_span_may_end_with_the_headers(telemetry: Telemetry, server: Server, session: Any) -> None:
    """Its end is then what upstream took for it, though it is exported with the body."""
    response = session.get(server.url("/half"), stream=True)
    server.go.set()
    threading.Event().wait(0.05)
    assert response.content == b"firstother"
    span = telemetry.request()
    assert attributes(span)["httptrace.time.receive"] >= 0.05 > seconds(span) - attributes(span)["httptrace.time.wait"]


def test_redirects_are_exchanges_within_the_span(telemetry: Telemetry, server: Server, session: Any) -> None:
    """The span tells the last; each before it is a child with what a request span would have."""
    session.get(server.url("/redirect"))
    span = telemetry.request()
    assert attributes(span)["http.request.resend_count"] == 1
    assert attributes(span)["httptrace.conn.requests"] == 1
    earlier = telemetry.child("http.exchange")
    assert telemetry.tree(span) == [("http.exchange", [("http.getconn", ["http.connect"])])]
    assert attributes(earlier)["http.response.status_code"] == 302
    assert attributes(earlier)["httptrace.conn.open_reason"] == "first_connection"
    assert attributes(earlier)["http.response.body.size"] == 0
    assert "http.request.resend_count" not in attributes(earlier)
    assert seconds(earlier) <= seconds(span)


def test_an_attempt_that_failed_is_an_exchange_within_the_span(telemetry: Telemetry, serve: Any) -> None:
    """What was sent again says so, with the error of the attempt before, whose status is ERROR."""

    def drops_first(peer: Any, request: Any) -> None:
        if len(peer.server.requests) == 1:
            peer.close()
        else:
            peer.send(answer())

    server = serve({"/drops": drops_first})
    urllib3.PoolManager().request("GET", server.url("/drops"))
    span = telemetry.request()
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(span)
    assert attributes(span)["http.request.resend_count"] == 1
    earlier = telemetry.child("http.exchange")
    assert earlier.status.status_code is StatusCode.ERROR
    assert attributes(earlier)["error.type"] == "RemoteDisconnected"
    assert attributes(earlier)["httptrace.response.bytes_received"] == 0
    assert [dict(link.attributes or {})["httptrace.conn.close_reason"] for link in span.links] == ["request_failed"]
    assert telemetry.counted("httptrace.requests.failed", "error.type") == {"RemoteDisconnected": 1}
    assert telemetry.counted("httptrace.requests", "http.conn.reused") == {False: 2}


@pytest.mark.settings(spans="none")
def test_no_child_spans_where_none_are_wanted(telemetry: Telemetry, server: Server, session: Any) -> None:
    """With `spans="none"` the earlier exchanges are not told either."""
    session.get(server.url("/redirect"))
    assert telemetry.children(telemetry.request()) == []


def test_the_outermost_span_is_the_one(telemetry: Telemetry, server: Server, session: Any) -> None:
    """With the instrumentations of requests and urllib3 both on, requests' is annotated, and there is no other."""
    session.get(server.url())
    span = telemetry.request()
    assert telemetry.scope(span) == "opentelemetry.instrumentation.requests"
    assert attributes(span)["httptrace.body.outcome"] == "complete"


def test_a_span_of_the_applications_is_not_touched(telemetry: Telemetry, server: Server, session: Any) -> None:
    """With URLs excluded upstream there is no request span: metrics only."""
    with telemetry.tracer().start_as_current_span("mine"), suppress_http_instrumentation():
        session.get(server.url())
    (mine,) = telemetry.spans()
    assert attributes(mine) == {}
    assert telemetry.metric("httptrace.requests") == {}


def test_suppressed(telemetry: Telemetry, server: Server, session: Any) -> None:
    """What an application suppresses is not counted, and what upstream suppresses below its span is."""
    with suppress_instrumentation():
        session.get(server.url())
    with suppress_http_instrumentation():
        session.get(server.url())
    assert telemetry.requests() == []
    assert telemetry.metric("httptrace.requests") == {}
    session.get(server.url())
    assert telemetry.counted("httptrace.requests", "http.conn.reused") == {True: 1}


def test_suppressed_below_the_span(telemetry: Telemetry, server: Server, session: Any) -> None:
    """What is suppressed below the request span, by something other than upstream, counts as suppressed."""

    class Quiet(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            with suppress_instrumentation():
                return super().send(*args, **kwargs)

    session.mount("http://", Quiet())
    session.get(server.url())
    assert told(telemetry, telemetry.request()) == {}
    assert telemetry.metric("httptrace.requests") == {}


def test_a_length_that_no_backend_takes(telemetry: Telemetry, server: Server, session: Any) -> None:
    """OTLP's integers have 64 bits: a Content-Length beyond them is left out, and would cost the exporter its batch."""
    server.routes["/endless"] = head(f"Content-Length: {2**63}")
    server.routes["/long"] = head(f"Content-Length: {2**63 - 1}")
    for path in ("/endless", "/long"):
        session.get(server.url(path), stream=True).close()
    sizes = [attributes(span).get("http.response.body.size") for span in telemetry.requests()]
    assert sizes == [None, 2**63 - 1]


def test_unsampled(bare_telemetry: Telemetry, server: Server, session: Any) -> None:
    """Requests of a trace that is not recorded are counted all the same."""
    telemetry = Telemetry(ParentBased(ALWAYS_OFF))
    bare_telemetry.instrument(tracer_provider=telemetry.tracer_provider)
    session.get(server.url())
    assert telemetry.spans() == []
    assert bare_telemetry.counted("httptrace.requests", "http.conn.reused") == {False: 1}
    telemetry.shutdown()


def test_who_holds_the_pool(telemetry: Telemetry, server: Server) -> None:
    """A request that the pool had no connection for names the one that kept its slot, which is closed long since."""
    pool = HTTPConnectionPool(server.host, server.port, maxsize=1, block=True)
    response = pool.request("GET", "/", preload_content=False)
    response.close()
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        pool.request("GET", "/empty", pool_timeout=0.05)
    _, waited = telemetry.requests()
    assert [(link.to, link.attributes["httptrace.link"]) for link in telemetry.links(waited)] == [("/", "pool_held_by")]
    assert told(telemetry, waited) == {
        "httptrace.failed_phase": "pool",
        "error.type": "EmptyPoolError",
        "httptrace.failed_cause": "EmptyPoolError",
        "httptrace.timeout": 0.05,
        "httptrace.time.pool": Seconds(0.05),
        "httptrace.pool.connections": 0,
        "httptrace.pool.idle": 0,
        "httptrace.pool.waiting": 0,
        "httptrace.pool.limit": 1,
        "httptrace.pool.held_for": Seconds(0.05),
        "httptrace.pool.held_at": Like(r"test_telemetry\.py:\d+ in test_who_holds_the_pool"),
    }


def test_a_slot_given_back_late_is_held_no_more(telemetry: Telemetry, server: Server) -> None:
    """As requests does it: closed first, then given back."""
    pool = HTTPConnectionPool(server.host, server.port, maxsize=1, block=True)
    response = pool.request("GET", "/", preload_content=False)
    response.close()
    response.release_conn()
    thread = threading.Thread(target=pool.request, args=("GET", "/held"))
    thread.start()
    while len(server.requests) < 2:
        threading.Event().wait(0.005)
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        pool.request("GET", "/empty", pool_timeout=0.05)
    server.go.set()
    thread.join()
    waited = next(span for span in telemetry.requests() if attributes(span).get("httptrace.failed_phase"))
    assert [link.to for link in telemetry.links(waited)] == ["/held"]


def test_a_timeout_is_told_with_what_it_was_set_to(telemetry: Telemetry, server: Server, session: Any) -> None:
    """A read timeout while the answer is awaited."""
    with pytest.raises(requests.ReadTimeout):
        session.get(server.url("/held"), timeout=(5, 0.1))
    found = told(telemetry, telemetry.request())
    assert (found["httptrace.timeout"], found["httptrace.failed_phase"]) == (0.1, "wait")
    # Not known: `http.client` buffers what has come.
    assert "httptrace.response.bytes_received" not in found


def test_chunks_are_counted_as_they_came(telemetry: Telemetry, server: Server, session: Any) -> None:
    """Without their framing, by whichever way they are read."""
    assert list(session.get(server.url("/chunked"), stream=True).iter_content(2))
    assert session.get(server.url("/chunked")).text == "onethree"
    urllib3.PoolManager().request("GET", server.url("/chunked"))
    assert telemetry.column("http.response.body.size") == [8, 8, 8]


def test_sizes_of_what_was_left(telemetry: Telemetry, server: Server, session: Any) -> None:
    """Of a body that was left what was announced, and how much of it was read."""
    with session.get(server.url("/big"), stream=True) as response:
        next(response.iter_content(1000))
    found = told(telemetry, telemetry.request())
    assert (found["http.response.body.size"], found["httptrace.body.bytes_read"]) == (300_000, 1000)


def test_connections_are_counted(telemetry: Telemetry, server: Server, session: Any) -> None:
    """Opened, closed and open ones, by why."""
    for _ in range(2):
        session.get(server.url(), stream=True).close()
    session.get(server.url())
    assert telemetry.counted("httptrace.connections.opened", "httptrace.conn.open_reason") == {
        "first_connection": 1,
        "body_not_read": 2,
    }
    assert telemetry.counted("httptrace.connections.closed", "httptrace.conn.close_reason") == {"body_not_read": 2}
    assert telemetry.counted("http.client.open_connections", "http.connection.state") == {"idle": 1}
    assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"closed_early": 2, "complete": 1}
    session.close()
    assert telemetry.counted("httptrace.connections.closed", "httptrace.conn.close_reason") == {
        "body_not_read": 2,
        "client_closed": 1,
    }


def test_open_responses_are_counted(telemetry: Telemetry, server: Server, session: Any) -> None:
    """Those that are neither read nor closed."""
    response = session.get(server.url(), stream=True)
    assert list(telemetry.metric("httptrace.responses.open").values()) == [1]
    response.close()
    assert list(telemetry.metric("httptrace.responses.open").values()) in ([], [0])


# The story that all this grew from.


def _fetch(session: Any, url: str, *, read: bool) -> None:
    with session.get(url, stream=True) as response:
        if read:
            _ = response.content


def _fetch_with_urllib3(manager: Any, url: str, *, read: bool) -> None:
    response = manager.request("GET", url, preload_content=False)
    if read:
        response.read()
    else:
        response.close()


def _fetch_object(client: Any, url: str, *, read: bool) -> None:
    body = client.get_object(Bucket="bucket", Key="key")["Body"]
    if read:
        body.read()
    body.close()


def _requests(server: Server) -> tuple[Any, Callable[..., None]]:
    session = requests.Session()
    session.trust_env = False
    return session, _fetch


def _urllib3(server: Server) -> tuple[Any, Callable[..., None]]:
    return urllib3.PoolManager(maxsize=10), _fetch_with_urllib3


def s3(server: Server, **options: Any) -> Any:
    """A client of S3, at *server*."""
    return boto3.session.Session().client(
        "s3",
        region_name="eu-west-1",
        endpoint_url=server.url(),
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=BotoConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, **options),
    )


def _boto3(server: Server) -> tuple[Any, Callable[..., None]]:
    return s3(server), _fetch_object


@pytest.mark.parametrize("made", [_requests, _urllib3, _boto3], ids=["requests", "urllib3", "boto3"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_twenty_requests_at_concurrency_five(telemetry: Telemetry, serve: Any, made: Any, read: bool) -> None:
    """Read, they open a connection for each of five; unread, twenty: each says why, and which line lost the one before."""
    server = serve({"/bucket/key": answer(b"x" * 1000)})
    client, fetch = made(server)
    barrier = threading.Barrier(5)

    def work() -> None:
        for _ in range(4):
            # Five at once, as they would be under load.
            barrier.wait(10)
            fetch(client, server.url("/bucket/key"), read=read)

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(work) for _ in range(5)]:
            done.result()
    opened = telemetry.counted("httptrace.connections.opened", "httptrace.conn.open_reason")
    assert sum(opened.values()) == server.accepted
    outcomes = telemetry.counted("httptrace.bodies", "httptrace.body.outcome")
    if read:
        assert server.accepted <= 5
        assert outcomes == {"complete": 20}
        assert set(opened) <= {"first_connection", "all_busy"}
    else:
        assert server.accepted == 20
        assert outcomes == {"closed_early": 20}
        assert opened["body_not_read"] >= 15
        lost = [
            span for span in telemetry.requests() if attributes(span)["httptrace.conn.open_reason"] == "body_not_read"
        ]
        for span in lost:
            (link,) = [
                link for link in span.links if dict(link.attributes or {})["httptrace.link"] == "connection_lost_by"
            ]
            assert fetch.__name__ in str(dict(link.attributes or {})["httptrace.body.closed_at"])
        assert {attributes(span)["httptrace.body.closed_at"].split(" in ")[1] for span in telemetry.requests()} == {
            fetch.__name__
        }


# botocore.


def test_an_object_that_is_streamed(telemetry: Telemetry, serve: Any) -> None:
    """The span is botocore's, and ends with the body, which the application reads."""
    server = serve({"/bucket/key": answer(b"x" * 1000)})
    client = s3(server)
    body = client.get_object(Bucket="bucket", Key="key")["Body"]
    assert telemetry.spans() == []
    assert len(body.read()) == 1000
    span = telemetry.request()
    assert telemetry.scope(span) == "opentelemetry.instrumentation.botocore"
    assert span.name == "S3.GetObject"
    assert attributes(span)["httptrace.body.outcome"] == "complete"
    assert attributes(span)["http.response.body.size"] == 1000
    assert attributes(span)["network.peer.port"] == server.port


def test_an_object_that_is_dropped(telemetry: Telemetry, serve: Any) -> None:
    """A body that nobody reads or closes is told with the line that asked for it."""
    server = serve({"/bucket/key": answer(b"x" * 300_000)})
    client = s3(server)
    client.get_object(Bucket="bucket", Key="key")
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    gc.collect()
    telemetry.metrics()
    found = attributes(telemetry.request())
    assert found["httptrace.body.outcome"] == "never_closed"
    assert found["httptrace.conn.close_reason"] == "response_leaked"
    assert f":{line} in test_an_object_that_is_dropped" in found["httptrace.body.closed_at"]
    said = [str((event.attributes or {})["httptrace.message"]) for event in telemetry.request().events]
    assert [
        one.endswith("; the garbage collector closed it, for the code had dropped the response.") for one in said
    ] == [True]


def test_calls_that_botocore_sends_again(telemetry: Telemetry, serve: Any) -> None:
    """Its own retries are exchanges within the span of the call."""

    def flaky(peer: Any, request: Any) -> None:
        fails = len(peer.server.requests) == 1
        peer.send(answer(b"", status="500 Internal Server Error" if fails else "200 OK"))

    server = serve({"/bucket/key": flaky})
    s3(server).head_object(Bucket="bucket", Key="key")
    span = telemetry.request()
    assert attributes(telemetry.child("http.exchange"))["http.response.status_code"] == 500
    assert attributes(span)["http.request.resend_count"] == 1
    assert server.accepted == 1


def test_an_upload_that_waits_to_be_asked(telemetry: Telemetry, serve: Any) -> None:
    """`Expect: 100-continue`, which botocore handles by itself."""

    def upload(peer: Any, request: Any) -> None:
        peer.send(answer(b""))

    server = serve({"/bucket/key": upload})
    s3(server).put_object(Bucket="bucket", Key="key", Body=b"x" * 1000)
    assert attributes(telemetry.request())["httptrace.body.outcome"] == "complete"
