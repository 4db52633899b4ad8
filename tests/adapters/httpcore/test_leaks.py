"""Responses that nobody closes: seen while they are open, and when they are collected; nothing is disturbed by it."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from kit.clients import Flavour
from kit.http2 import H2Server
from kit.matchers import LINE, Seconds
from kit.server import Server
from kit.telemetry import Telemetry, attributes
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor


def where(server: Server) -> tuple[tuple[str, Any], ...]:
    """The origin's attributes on a metric."""
    return (("server.address", server.host), ("server.port", server.port))


async def test_open_responses_are_counted(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """While responses are neither read nor closed the gauges say how many there are, and how old the oldest is."""
    async with flavour.client() as client:
        first = await client.open("GET", server.url("/half"))
        await flavour.sleep(0.05)
        second = await client.open("GET", server.url("/half"))
        assert telemetry.metric("httptrace.responses.open") == {where(server): 2}
        assert telemetry.metric("httptrace.responses.open.max_age") == {where(server): Seconds(0.05)}
        await first.close()
        assert telemetry.metric("httptrace.responses.open") == {where(server): 1}
        server.go.set()
        await second.read()
        assert telemetry.metric("httptrace.responses.open") == {where(server): 0}
        assert telemetry.metric("httptrace.responses.open.max_age") == {where(server): 0}


async def test_a_read_response_is_not_open(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A response that was read is not open, though nobody has closed it."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url())
        async for _ in response.parts():
            pass
        assert telemetry.metric("httptrace.responses.open") == {}
        assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"complete": 1}
        await response.close()


async def test_a_collection_of_metrics_picks_up_what_was_leaked(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """What the garbage collector finalised is reported when metrics are collected, without another request."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        assert telemetry.requests() == []
        assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"never_closed": 1}
        assert telemetry.metric("httptrace.responses.open") == {}
        assert telemetry.column("httptrace.body.outcome") == ["never_closed"]


async def test_the_next_exchange_picks_up_what_was_leaked(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """And so it is by the next request, of whatever client."""
    async with flavour.client() as client, flavour.client() as other:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        await other.get(server.url())
        assert telemetry.column("httptrace.body.outcome") == ["never_closed", "complete"]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_a_forgotten_iteration_ends_once(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A response that everybody forgot in the middle of an iteration ends once, as what the library made of it."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        parts = response.parts()
        assert await parts.__anext__() == b"first"
        del response, parts
        gc.collect()
        # An asynchronous generator that is dropped is closed by the event loop, when it comes to it.
        await flavour.until(lambda: telemetry.metrics() and telemetry.requests())

    told = telemetry.told(telemetry.request())
    assert told["httptrace.body.outcome"] in ("never_closed", "closed_early")
    assert told["httptrace.body.bytes_read"] == 5


async def test_a_leaked_http2_stream(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """A leaked stream is reported, and the connection goes on for the others."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:
            task = start(client.open, "GET", server.url("/held"))
            await flavour.until(lambda: server.streams)
            server.streams[0].begin()
        # The block's own `start` knows the task, and the task its response.
        del task, start
        gc.collect()
        await client.get(server.url())

    assert telemetry.column("httptrace.body.outcome") == ["never_closed", "complete"]
    assert telemetry.column("http.conn.reused") == [False, True]
    assert server.accepted == 1


def test_no_warning_and_no_output(server: Server) -> None:
    """An application that turns warnings into errors and leaks a response does not change because it is observed."""
    script = """
        import gc, sys, httpx
        from otel_httptrace import HTTPTraceInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        HTTPTraceInstrumentor().instrument(tracer_provider=TracerProvider())
        client = httpx.Client()
        for _ in range(3):
            client.send(client.build_request("GET", sys.argv[1]), stream=True)
            gc.collect()
        client.close()
    """
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), server.url("/half")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_collected_within_the_sdks_own_lock(server: Server, telemetry: Telemetry) -> None:
    """The collector may run anywhere, inside a span processor too: nothing of ours takes a lock there."""
    held: list[Any] = []

    class Dropping(SpanProcessor):
        lock = threading.Lock()

        def on_end(self, span: ReadableSpan) -> None:
            # Anything of ours that ended a span in here would come back and wait for ever.
            assert self.lock.acquire(timeout=5)
            try:
                held.clear()
                gc.collect()
            finally:
                self.lock.release()

    telemetry.tracer_provider.add_span_processor(Dropping())
    with httpx.Client() as client:
        held.append(client.send(client.build_request("GET", server.url("/half")), stream=True))
        client.get(server.url())
        telemetry.metrics()

    assert sorted(telemetry.column("httptrace.body.outcome")) == ["complete", "never_closed"]


def test_collected_in_another_thread(server: Server, telemetry: Telemetry) -> None:
    """Collected in another thread than it was made in, it is reported all the same."""
    with httpx.Client() as client:
        held = [client.send(client.build_request("GET", server.url("/half")), stream=True)]

        def drop() -> None:
            held.clear()
            gc.collect()

        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
        telemetry.metrics()

    assert telemetry.column("httptrace.body.outcome") == ["never_closed"]


def test_collecting_in_another_thread(server: Server, telemetry: Telemetry) -> None:
    """While another thread collects, in which a finaliser lets others run, a request has all its facts, at once."""
    collecting, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            collecting.set()
            assert go_on.wait(10)

    def collect() -> None:
        Slow()
        gc.collect()

    thread = threading.Thread(target=collect)
    with httpx.Client() as client:
        thread.start()
        assert collecting.wait(10)
        try:
            with client.stream("GET", server.url("/half")):
                pass
            assert telemetry.column("httptrace.body.closed_at") == [LINE]
            assert telemetry.metric("httptrace.connections.closed") != {}
        finally:
            go_on.set()
            thread.join()


def test_a_client_that_goes_with_its_responses(server: Server, telemetry: Telemetry) -> None:
    """A client that is collected, unclosed, with open responses: their spans end, and its connections are no longer open."""
    client = httpx.Client()
    responses = [client.send(client.build_request("GET", server.url("/half")), stream=True) for _ in range(3)]
    assert telemetry.counted("http.client.open_connections", "http.connection.state") == {"active": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del client, responses
        gc.collect()

    assert telemetry.metric("httptrace.responses.open") == {where(server): 0}
    assert telemetry.counted("http.client.open_connections", "http.connection.state") == {"active": 0}
    assert telemetry.column("httptrace.body.outcome") == ["never_closed"] * 3
    assert sum(telemetry.metric("httptrace.connections.closed").values()) == 3


def test_nothing_is_kept_of_leaked_responses(server: Server, telemetry: Telemetry) -> None:
    """Once leaked responses and their client are gone, nothing of theirs is left in us."""
    import weakref

    client = httpx.Client(limits=httpx.Limits(max_connections=None))
    kept = []
    for _ in range(20):
        response = client.send(client.build_request("GET", server.url("/half")), stream=True)
        kept.append(weakref.ref(response.stream))
        del response
    client.close()
    del client
    gc.collect()
    telemetry.metrics()

    assert [ref() for ref in kept] == [None] * 20
    lifetime: Any = telemetry.instrumentor._lifetime
    assert (len(lifetime.process.exchanges), len(lifetime.process.ledgers)) == (0, 0)
    assert telemetry.column("httptrace.body.outcome") == ["never_closed"] * 20


@pytest.mark.settings(span_end="headers")
def test_a_leak_with_span_end_headers(server: Server, telemetry: Telemetry) -> None:
    """With `span_end="headers"` a leak is exported once it is known, with the headers' timestamp."""
    with httpx.Client() as client:
        client.send(client.build_request("GET", server.url("/half")), stream=True)
        gc.collect()
        telemetry.metrics()

    span = telemetry.request()
    assert attributes(span)["httptrace.body.outcome"] == "never_closed"


@pytest.mark.parametrize("leaked", [False, True], ids=["read", "leaked"])
def test_nothing_of_ours_runs_as_a_finaliser(server: Server, telemetry: Telemetry, leaked: bool) -> None:
    """No code of ours in Python runs while a response and its client are collected: what is raised in there is lost."""
    ours: list[str] = []
    client = httpx.Client()
    response = client.send(client.build_request("GET", server.url("/half")), stream=True)
    if not leaked:
        server.go.set()
        response.read()
    client.close()

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and "otel_httptrace" in frame.f_code.co_filename:
            ours.append(frame.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        del client, response
        gc.collect()
    finally:
        sys.setprofile(None)
    telemetry.metrics()

    assert ours == []
    assert telemetry.column("httptrace.body.outcome") == ["never_closed" if leaked else "complete"]
