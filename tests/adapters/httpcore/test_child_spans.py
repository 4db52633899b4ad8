"""Child spans: which there are under which setting, whose they are, when, and what they say."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from kit.clients import MODES, Flavour
from kit.matchers import PORT, SECONDS
from kit.server import Blackhole, Server, free_port
from kit.telemetry import Telemetry, attributes, failed
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

DIALLED = ["http.dns", "http.connect", "http.tls"]


async def run(
    flavour: Flavour, serve: Callable[..., Server], server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Server:
    """Two requests over TLS to a name: one that dials and one that does not."""
    server = serve(tls=server_tls)
    async with flavour.client(verify=client_tls) as client:
        await client.get(server.url(host="localhost"))
        await client.get(server.url(host="localhost"))
    return server


@pytest.mark.settings(spans="none")
async def test_spans_none_makes_no_child_spans(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """`spans="none"`: no child spans; the attributes say it all."""
    await run(flavour, serve, server_tls, client_tls)

    assert len(telemetry.spans()) == 2
    for name in ("dns", "connect", "tls"):
        assert telemetry.column(f"httptrace.time.{name}") == [SECONDS, None]


@pytest.mark.modes(*MODES)
@pytest.mark.settings(spans="connection")
async def test_spans_connection_makes_spans_of_getting_a_connection(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """`spans="connection"`: what it took to get a connection, and for a plain reused request nothing."""
    await run(flavour, serve, server_tls, client_tls)

    first, second = telemetry.requests()
    assert telemetry.tree(first) == [("http.getconn", DIALLED)]
    assert telemetry.tree(second) == []


@pytest.mark.modes(*MODES)
@pytest.mark.settings(spans="all")
async def test_spans_all_makes_a_span_of_every_step(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """`spans="all"`: also getting a connection that was there, and what every request does."""
    server = await run(flavour, serve, server_tls, client_tls)

    first, second = telemetry.requests()
    ours = ["http.send", "http.wait", "http.receive"]
    assert telemetry.tree(first) == [("http.getconn", DIALLED), *ours]
    assert [child.name for child in telemetry.children(second)] == ["http.getconn", *ours]
    assert [attributes(child) for child in telemetry.children(second)] == [
        {
            "http.conn.reused": True,
            "http.conn.wasidle": True,
            "httptrace.conn.id": attributes(second)["httptrace.conn.id"],
            "server.address": "localhost",
            "server.port": server.port,
        },
        {},
        {},
        {"httptrace.body.outcome": "complete", "httptrace.body.read_wait": SECONDS},
    ]


@pytest.mark.settings(spans="all")
async def test_receive_has_the_bodys_attributes(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """`http.receive` carries the `httptrace.body.*` attributes of an early close, too."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url()):
            pass

    span = telemetry.request()
    body = {name: value for name, value in attributes(span).items() if name.startswith("httptrace.body.")}
    said = attributes(telemetry.child("http.receive"))
    assert said.pop("httptrace.body.read_wait") == SECONDS
    body.pop("httptrace.body.read_wait", None)
    assert said == body
    assert set(said) == {"httptrace.body.outcome", "httptrace.body.bytes_read", "httptrace.body.closed_at"}


@pytest.mark.settings(spans="all")
async def test_child_spans_are_internal_and_below_the_request(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """Children are INTERNAL, of our own scope, in the trace of the request, and parents are the request or `http.getconn`."""
    await run(flavour, serve, server_tls, client_tls)

    requests = telemetry.requests()
    children = [span for span in telemetry.spans() if span not in requests]
    by_id = {span.context.span_id: span for span in telemetry.spans() if span.context}
    assert {span.kind for span in children} == {SpanKind.INTERNAL}
    assert {span.instrumentation_scope.name for span in children if span.instrumentation_scope} == {"otel_httptrace"}
    for child in children:
        assert child.parent is not None
        parent = by_id[child.parent.span_id]
        assert parent.name == "http.getconn" if child.name in DIALLED else parent in requests


@pytest.mark.settings(spans="all")
async def test_child_spans_lie_within_their_parents(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """Children begin and end within their parents, in order, and end before the request span does."""
    await run(flavour, serve, server_tls, client_tls)

    def times(span: ReadableSpan) -> tuple[int, int]:
        assert span.start_time is not None and span.end_time is not None
        return span.start_time, span.end_time

    ended = telemetry.spans()
    for request in telemetry.requests():
        for parent in (request, *telemetry.children(request)):
            began, over = times(parent)
            at = began
            for child in telemetry.children(parent):
                child_began, child_over = times(child)
                assert at <= child_began <= child_over <= over, (child.name, parent.name)
                at = child_over
                assert ended.index(child) < ended.index(request)


@pytest.mark.settings(spans="all")
async def test_durations_agree_with_the_attributes(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """A child span and the attribute of its phase tell the same time."""
    await run(flavour, serve, server_tls, client_tls)

    first, _ = telemetry.requests()
    for name in ("dns", "connect", "tls", "wait", "receive"):
        span = telemetry.child(f"http.{name}", first)
        took = (span.end_time or 0) - (span.start_time or 0)
        # The attribute's last step is a microsecond.
        assert 0 <= took - attributes(first)[f"httptrace.time.{name}"] * 1e9 < 1000


@pytest.mark.modes(*MODES)
async def test_child_spans_of_a_tls_connection_have_exactly_these_attributes(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """The whole of what the children of a new TLS connection say."""
    server = await run(flavour, serve, server_tls, client_tls)

    first, _ = telemetry.requests()
    lookup = attributes(telemetry.child("http.dns", first))
    # uvloop and the system's hosts file decide whether ::1 is among them.
    assert "127.0.0.1" in lookup.pop("dns.answers")
    assert lookup == {"dns.question.name": "localhost"}
    assert attributes(telemetry.child("http.getconn", first)) == {
        "http.conn.reused": False,
        "http.conn.wasidle": False,
        "httptrace.conn.id": attributes(first)["httptrace.conn.id"],
        "httptrace.conn.open_reason": "first_connection",
        "server.address": "localhost",
        "server.port": server.port,
    }
    assert attributes(telemetry.child("http.connect", first)) == {
        "server.address": "localhost",
        "server.port": server.port,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.address": "127.0.0.1",
        "network.local.port": PORT,
    }
    assert attributes(telemetry.child("http.tls", first)) == {
        "server.address": "localhost",
        "tls.protocol.name": "tls",
        "tls.protocol.version": "1.3",
        "tls.cipher": "TLS_AES_256_GCM_SHA384",
        "tls.next_protocol": "http/1.1",
        "tls.resumed": False,
    }


async def test_a_refused_connect_has_a_span_with_its_error(flavour: Flavour, telemetry: Telemetry) -> None:
    """Getting a connection that was refused has its span, with the error in .NET's word below and the exception's above."""
    port = free_port()
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")

    assert telemetry.tree(telemetry.request()) == [("http.getconn", ["http.connect"])]
    assert attributes(telemetry.child("http.connect")) == {
        "server.address": "127.0.0.1",
        "server.port": port,
        "network.transport": "tcp",
        "error.type": "connection_refused",
    }
    assert attributes(telemetry.child("http.getconn")) == {
        "server.address": "127.0.0.1",
        "server.port": port,
        "error.type": "ConnectError",
    }
    assert failed(telemetry.child("http.connect")) and failed(telemetry.child("http.getconn"))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_cancelled_connect_has_spans_without_error(flavour: Flavour, telemetry: Telemetry) -> None:
    """A cancelled connect has its spans, and no error."""
    begun: list[str] = []

    def note(name: str, info: object) -> None:
        begun.append(name)

    async def anote(name: str, info: object) -> None:
        begun.append(name)

    with Blackhole() as hole:
        async with flavour.client() as client:

            async def get() -> None:
                await client.get(hole.url(), extensions={"trace": note if flavour.sync else anote})

            await flavour.cancelled(get, when=lambda: begun)

    assert telemetry.tree(telemetry.request()) == [("http.getconn", ["http.connect"])]
    for name in ("http.getconn", "http.connect"):
        assert not failed(telemetry.child(name))
        assert "error.type" not in attributes(telemetry.child(name))


async def test_a_wait_for_the_pool_has_a_span(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A reused request that had to wait for its connection has `http.getconn`, as long as the wait."""
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: server.requests)
            start(client.get, server.url())
            await flavour.until(lambda: len(client.pool._requests) == 2)
            await flavour.sleep(0.05)
            server.go.set()

    _, span = telemetry.requests()
    (getconn,) = telemetry.children(span)
    assert getconn.name == "http.getconn"
    took = (getconn.end_time or 0) - (getconn.start_time or 0)
    assert took >= 50_000_000
    assert attributes(getconn)["http.conn.reused"] is True


async def test_tls_resumed_says_whether_a_session_was_resumed(
    flavour: Flavour, serve: Any, telemetry: Telemetry, server_tls: Any, client_tls: Any
) -> None:
    """`tls.resumed` says whether a session was taken up again; these clients never do."""
    server = serve(tls=server_tls)
    async with flavour.client(verify=client_tls) as client:
        await client.get(server.url("/close"))
        await client.get(server.url("/close"))

    for span in telemetry.requests():
        assert attributes(telemetry.child("http.tls", span))["tls.resumed"] is False
