"""The request span: what it says, when it ends, and that it ends once."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
from kit.clients import MODES, Flavour, Parts, Response
from kit.matchers import LINE, PORT, SECONDS, Seconds
from kit.server import PATIENCE, Blackhole, Peer, Request, Server, answer, chunk, free_port, head
from kit.telemetry import Telemetry, attributes, failed, seconds
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

#: Left half-way, trio says of every asynchronous generator that it should not have been.
LEAVING = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


def on_reused(server: Server, **more: Any) -> dict[str, Any]:
    """What is said of a request on a reused connection, its head in."""
    return {
        "http.conn.reused": True,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 1,
        "httptrace.conn.idle": SECONDS,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        **more,
    }


def status(span: ReadableSpan) -> tuple[StatusCode, str | None]:
    """Status and error.type of a span."""
    return span.status.status_code, attributes(span).get("error.type")


UNSET = (StatusCode.UNSET, None)


@pytest.mark.modes(*MODES)
async def test_a_new_connection_has_the_time_of_every_phase(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A request that dialled says so, with the time of every phase."""
    async with flavour.client() as client:
        await client.get(server.url())

    span = telemetry.request()
    assert telemetry.told(span) == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": PORT,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 5,
    }
    assert telemetry.tree(span) == [("http.getconn", ["http.connect"])]
    assert status(span) == UNSET


@pytest.mark.modes(*MODES)
async def test_a_reused_connection_has_ten_attributes_and_no_child_span(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A plain keep-alive request has about ten attributes and no child span."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url())

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(
        server, **{"httptrace.body.outcome": "complete", "http.response.body.size": 5}
    )
    assert telemetry.tree(span) == []
    assert server.targets == [["/", "/"]]


async def test_upstreams_attributes_stay_and_there_is_one_client_span(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """What upstream wrote on its span is still there, and there is no second CLIENT span."""
    async with flavour.client() as client:
        await client.get(server.url())

    (span,) = telemetry.requests()
    assert {
        name: value
        for name, value in attributes(span).items()
        if name in ("http.method", "http.url", "http.status_code")
    } == {
        "http.method": "GET",
        "http.url": server.url(),
        "http.status_code": 200,
    }


# Phases.


async def test_waiting_for_the_server_is_told_from_receiving(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A server that thinks for 0.2 s costs `time.wait`; one that pauses in the body, `time.receive` and `read_wait`."""

    def thinks(peer: Peer, request: Request) -> None:
        server.go.wait(0.2)
        peer.send(answer())

    def pauses(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Length: 5") + b"he")
        server.go.wait(0.2)
        peer.send(b"llo")

    server.routes.update({"/thinks": thinks, "/pauses": pauses})
    async with flavour.client() as client:
        await client.get(server.url())
        await client.get(server.url("/thinks"))
        await client.get(server.url("/pauses"))

    _, waited, received = telemetry.requests()
    # Not all of it: the server may think before this process gets to note that the request is sent.
    read = {"httptrace.body.outcome": "complete", "http.response.body.size": 5}
    assert telemetry.told(waited) == on_reused(server, **read, **{"httptrace.time.wait": Seconds(0.1)})
    assert telemetry.told(received, "httptrace.body.read_wait") == on_reused(
        server,
        **read,
        **{
            "httptrace.conn.requests": 2,
            "httptrace.time.receive": Seconds(0.1),
            "httptrace.body.read_wait": Seconds(0.1),
        },
    )
    assert seconds(received) >= 0.1


async def test_a_slow_consumer_is_told_from_a_slow_server(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """While the application is busy with a part of the body, `time.receive` grows and `read_wait` does not."""
    async with flavour.client() as client:
        await client.get(server.url())
        async with client.stream("GET", server.url()) as response:
            async for _ in response.parts():
                await flavour.sleep(0.1)

    _, span = telemetry.requests()
    told = telemetry.told(span, "httptrace.body.read_wait")
    assert told["httptrace.time.receive"] == Seconds(0.1)
    assert told["httptrace.body.read_wait"] <= told["httptrace.time.receive"] - 0.1


async def test_a_slow_upload_is_time_send(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Writing the request is its own phase when it takes a millisecond."""

    async def parts() -> Any:
        yield b"some"
        await flavour.sleep(0.05)
        yield b"more"

    def sync_parts() -> Any:
        yield b"some"
        server.go.wait(0.05)
        yield b"more"

    async with flavour.client() as client:
        await client.get(server.url())
        await client.request("POST", server.url(), content=sync_parts() if flavour.sync else parts())

    _, span = telemetry.requests()
    assert telemetry.told(span, "httptrace.time.send") == on_reused(
        server,
        **{
            "httptrace.time.send": Seconds(0.05),
            "httptrace.body.outcome": "complete",
            "http.response.body.size": 5,
        },
    )
    assert server.requests[1].body == b"4\r\nsome\r\n4\r\nmore\r\n0\r\n\r\n"


@pytest.mark.settings(spans="all")
async def test_phases_do_not_overlap(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """The phases' sum is at most the exchange."""
    async with flavour.client() as client:
        for target in ("/", "/big", "/chunked", "/error"):
            await client.get(server.url(target, "localhost"))

    for span in telemetry.requests():
        phases = [value for name, value in attributes(span).items() if name.startswith("httptrace.time.")]
        assert 0 < sum(phases) <= seconds(span)


# Bodies.


@pytest.mark.parametrize(
    ("target", "size"),
    [("/", 5), ("/big", 300_000), ("/chunked", 8), ("/empty", 0), ("/hint", 5), ("/until-close", 5), ("/http10", 5)],
)
async def test_a_complete_body_has_its_size(
    flavour: Flavour, server: Server, telemetry: Telemetry, target: str, size: int
) -> None:
    """A complete body has its size in payload bytes, however it was framed."""
    async with flavour.client() as client:
        response = await client.get(server.url(target))

    told = telemetry.told(telemetry.request())
    assert len(response.content) == size
    assert (told["httptrace.body.outcome"], told["http.response.body.size"]) == ("complete", size)
    assert "httptrace.body.bytes_read" not in told


@pytest.mark.parametrize(("method", "target"), [("HEAD", "/"), ("GET", "/no-content"), ("GET", "/not-modified")])
async def test_responses_without_a_body_have_no_size(
    flavour: Flavour, server: Server, telemetry: Telemetry, method: str, target: str
) -> None:
    """HEAD, 204 and 304 are complete, and `http.response.body.size` is absent whatever Content-Length says."""
    async with flavour.client() as client:
        await client.get(server.url())
        await client.request(method, server.url(target))

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(server, **{"httptrace.body.outcome": "complete"})


@LEAVING
async def test_a_body_left_in_the_middle_is_closed_early(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A body left in the middle is closed early: what came is counted, and it is no error."""
    async with flavour.client() as client:
        await client.get(server.url())
        async with client.stream("GET", server.url("/half")) as response:
            async for part in response.parts():
                assert part == b"first"
                break

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(
        server,
        **{
            "httptrace.body.outcome": "closed_early",
            "httptrace.body.bytes_read": 5,
            "httptrace.body.closed_at": LINE,
            "http.response.body.size": 10,
            "httptrace.conn.close_reason": "body_not_read",
        },
    )
    assert status(span) == UNSET


@pytest.mark.parametrize(
    ("target", "size"),
    [("/", {"http.response.body.size": 5}), ("/chunked", {}), ("/empty", {"http.response.body.size": 0})],
)
async def test_an_unread_body_is_closed_early_even_if_empty(
    flavour: Flavour, server: Server, telemetry: Telemetry, target: str, size: dict[str, int]
) -> None:
    """A body that was not read is closed early even if it is empty, for it costs the connection."""
    async with flavour.client() as client:
        await client.get(server.url())
        async with client.stream("GET", server.url(target)):
            pass
        await flavour.until(lambda: server.closed_by == ["client"])

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(
        server,
        **size,
        **{
            "httptrace.body.outcome": "closed_early",
            "httptrace.body.bytes_read": 0,
            "httptrace.body.closed_at": LINE,
            "httptrace.conn.close_reason": "body_not_read",
        },
    )


async def test_closing_twice_changes_nothing(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Closing again changes nothing, before or after the end of the body."""
    async with flavour.client() as client:
        early = await client.open("GET", server.url("/half"))
        await early.close()
        await early.close()
        late = await client.open("GET", server.url())
        await late.read()
        await late.close()
        await late.close()

    assert telemetry.column("httptrace.body.outcome") == ["closed_early", "complete"]


@LEAVING
async def test_an_exception_in_the_callers_block_is_closed_early(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """Only what the body's own read and close see counts."""
    async with flavour.client() as client:
        with pytest.raises(LookupError):
            async with client.stream("GET", server.url("/half")) as response:
                async for _ in response.parts():
                    raise LookupError

    span = telemetry.request()
    assert telemetry.column("httptrace.body.outcome") == ["closed_early"]
    assert status(span) == UNSET


@pytest.mark.parametrize(("target", "error"), [("/half-closed", "RemoteProtocolError"), ("/half-reset", "ReadError")])
async def test_a_body_that_breaks_is_a_failed_request(
    flavour: Flavour, server: Server, telemetry: Telemetry, target: str, error: str
) -> None:
    """A network error while the body is read: ERROR and `error.type` on the request span."""
    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(getattr(flavour.httpx, error)):
            async with client.stream("GET", server.url(target)) as response:
                async for _ in response.parts():
                    server.go.set()

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(
        server,
        **{
            "httptrace.body.outcome": "failed",
            "httptrace.body.bytes_read": 5,
            "http.response.body.size": 10,
            "httptrace.conn.close_reason": "request_failed",
            "error.type": error,
            "httptrace.failed_cause": "ECONNRESET" if target == "/half-reset" else error,
        },
    )
    assert failed(span)


async def test_a_body_that_times_out(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A read timeout in the body is a failed body, with the time it waited in `read_wait`."""
    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/half"), timeout=flavour.httpx.Timeout(10, read=0.2))

    _, span = telemetry.requests()
    assert telemetry.told(span, "httptrace.body.read_wait") == on_reused(
        server,
        **{
            "httptrace.time.receive": Seconds(0.05),
            "httptrace.body.read_wait": Seconds(0.05),
            "httptrace.body.outcome": "failed",
            "httptrace.body.bytes_read": 5,
            "http.response.body.size": 10,
            "httptrace.conn.close_reason": "request_failed",
            "error.type": "ReadTimeout",
            "httptrace.failed_cause": "ReadTimeout",
            "httptrace.timeout": 0.2,
        },
    )
    assert failed(span)


async def test_a_failed_body_overwrites_the_status_of_an_error_response(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """Upstream has said ERROR and the status code for a 500: a failed body takes its place, no other outcome does."""

    def half(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Length: 10", status="500 Internal Server Error") + b"first")
        peer.close()

    server.routes["/error-half"] = half
    async with flavour.client() as client:
        await client.get(server.url("/error"))
        async with client.stream("GET", server.url("/error")):
            pass
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/error-half"))

    assert [span.status.status_code for span in telemetry.requests()] == [StatusCode.ERROR] * 3
    assert telemetry.column("error.type")[2] == "RemoteProtocolError"
    assert telemetry.column("error.type")[:2] in ([None, None], ["500", "500"])


async def test_cancelled_in_the_body(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A cancellation while the body is read is its outcome, never a status."""
    async with flavour.client() as client:
        await client.get(server.url())
        begun: list[bytes] = []

        async def read() -> None:
            async with client.stream("GET", server.url("/half")) as response:
                async for part in response.parts():
                    begun.append(part)  # noqa: PERF401 - each is there at once

        await flavour.cancelled(read, when=lambda: begun)
        server.go.set()
        await flavour.until(lambda: server.closed_by == ["client"])

    _, span = telemetry.requests()
    assert telemetry.told(span) == on_reused(
        server,
        **{
            "httptrace.body.outcome": "cancelled",
            "httptrace.body.bytes_read": 5,
            "http.response.body.size": 10,
            "httptrace.conn.close_reason": "request_cancelled",
        },
    )
    assert status(span) == UNSET


async def test_cancelled_while_waiting_for_the_head(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A cancellation before the headers says in which phase, and is no error of ours."""
    async with flavour.client() as client:
        await client.get(server.url())
        await flavour.cancelled(client.get, server.url("/held"), when=lambda: len(server.requests) == 2)

    _, span = telemetry.requests()
    told = telemetry.told(span)
    expected = on_reused(
        server, **{"httptrace.failed_phase": "wait", "httptrace.conn.close_reason": "request_cancelled"}
    )
    del expected["httptrace.time.receive"]
    assert told == expected
    assert status(span) == UNSET


# The standard library's `create_connection` does not close its socket on the way out.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_cancelled_connect_has_its_time_and_no_connection(flavour: Flavour, telemetry: Telemetry) -> None:
    """A cancelled connect has its time up to then, and no connection."""
    tried: list[str] = []

    def trace(name: str, info: object) -> None:
        tried.append(name)

    async def atrace(name: str, info: object) -> None:
        tried.append(name)

    with Blackhole() as hole:
        async with flavour.client() as client:
            extensions = {"trace": trace if flavour.sync else atrace}

            async def get() -> None:
                await client.get(hole.url(), extensions=extensions)

            await flavour.cancelled(get, when=lambda: tried)

    span = telemetry.request()
    assert telemetry.told(span) == {
        "httptrace.time.connect": SECONDS,
        "httptrace.failed_phase": "connect",
    }
    assert status(span) == UNSET


async def test_cancelled_while_waiting_for_the_pool(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A cancelled wait for the pool has its time and the pool's figures."""
    limits = flavour.httpx.Limits(max_connections=1)
    async with flavour.client(limits=limits) as client:
        holding = await client.open("GET", server.url())
        await flavour.cancelled(client.get, server.url(), when=lambda: len(client.pool._requests) == 2)
        await holding.read()

    _, span = telemetry.requests()
    assert telemetry.told(span) == {
        "httptrace.failed_phase": "pool",
        "httptrace.time.pool": SECONDS,
        "httptrace.pool.connections": 1,
        "httptrace.pool.idle": 0,
        "httptrace.pool.waiting": 0,
        "httptrace.pool.limit": 1,
    }
    assert status(span) == UNSET
    assert telemetry.tree(span) == ["http.getconn"]


async def test_the_client_is_closed_under_an_open_response(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """Closing the client closes the connection; the span ends when the response is closed, once."""
    client = flavour.client()
    response = await client.open("GET", server.url("/half"))
    await client.close()
    await response.close()

    told = telemetry.told(telemetry.request())
    assert told["httptrace.body.outcome"] == "closed_early"
    assert told["httptrace.conn.close_reason"] == "client_closed"


async def test_a_refused_connection_has_its_failed_phase(flavour: Flavour, telemetry: Telemetry) -> None:
    """A request that never connected has its failed phase, and `error.type` under the old conventions, too."""
    port = free_port()
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")

    span = telemetry.request()
    told = telemetry.told(span)
    assert told == {
        "httptrace.time.connect": SECONDS,
        "httptrace.failed_phase": "connect",
        "error.type": "ConnectError",
        "httptrace.failed_cause": "ECONNREFUSED",
    }
    assert failed(span)
    connect = telemetry.child("http.connect")
    assert attributes(connect)["error.type"] == "connection_refused"


async def test_a_connect_timeout_has_its_time(flavour: Flavour, telemetry: Telemetry) -> None:
    """A connect that timed out has its time, in `time.connect`."""
    with Blackhole() as hole:
        async with flavour.client() as client:
            with pytest.raises(flavour.httpx.ConnectTimeout):
                await client.get(hole.url(), timeout=0.05)

    span = telemetry.request()
    told = telemetry.told(span)
    assert told == {
        "httptrace.time.connect": Seconds(0.04),
        "httptrace.failed_phase": "connect",
        "error.type": "ConnectTimeout",
        "httptrace.failed_cause": "ConnectTimeout",
        "httptrace.timeout": 0.05,
    }
    assert failed(span)
    assert attributes(telemetry.child("http.connect"))["error.type"] == "timed_out"


async def test_a_server_that_does_not_answer_fails_the_wait(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A server that closes instead of answering fails the wait."""
    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/no-answer"))

    _, span = telemetry.requests()
    told = telemetry.told(span)
    failure = {
        "httptrace.failed_phase": "wait",
        "error.type": "RemoteProtocolError",
        "httptrace.failed_cause": "RemoteProtocolError",
        "httptrace.response.bytes_received": 0,
    }
    expected = on_reused(server, **failure, **{"httptrace.conn.close_reason": "request_failed"})
    del expected["httptrace.time.receive"]
    assert told == expected
    assert failed(span)


async def test_a_request_body_that_raises_fails_the_send(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """An exception of the application's own body iterator is a failed request, in the phase it happened in."""

    def sync_parts() -> Any:
        yield b"some"
        raise LookupError("mine")

    async def parts() -> Any:
        yield b"some"
        raise LookupError("mine")

    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(LookupError, match="mine"):
            await client.request("POST", server.url(), content=sync_parts() if flavour.sync else parts())

    _, span = telemetry.requests()
    told = telemetry.told(span)
    assert told["httptrace.failed_phase"] == "send"
    assert told["httptrace.time.send"] == SECONDS
    assert told["httptrace.conn.close_reason"] == "request_failed"


# Garbage and exit.


async def test_collected_without_having_been_closed(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A response that nobody closed ends with its last byte, and says where the request was made."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        opened = time.time_ns()
        del response
        gc.collect()
        await flavour.sleep(0.1)
        await client.get(server.url())

    leaked, _ = telemetry.requests()
    told = telemetry.told(leaked)
    assert told == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": PORT,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.wait": SECONDS,
        "httptrace.time.receive": SECONDS,
        "httptrace.body.outcome": "never_closed",
        "httptrace.body.bytes_read": 0,
        "httptrace.body.closed_at": LINE,
        "http.response.body.size": 10,
    }
    # Before the pause, by a clock that may be set meanwhile.
    assert (leaked.end_time or 0) < opened + 50_000_000
    assert status(leaked) == UNSET


EXITING = """
    import httpx, sys
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    from otel_httptrace import HTTPTraceInstrumentor

    provider = TracerProvider()
    HTTPTraceInstrumentor().instrument(tracer_provider=provider)
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(
        formatter=lambda span: span.to_json(indent=None) + "\\n")))
    client = httpx.Client()
    response = client.send(client.build_request("GET", sys.argv[1]), stream=True)
"""


def test_a_process_that_exits_exports_its_open_spans(server: Server) -> None:
    """A process that exits with an open response still exports its span, before the exporter shuts down."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(EXITING), server.url("/half")],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    spans = [json.loads(line) for line in ran.stdout.splitlines()]
    (span,) = [span for span in spans if span["kind"] == "SpanKind.CLIENT"]
    assert span["attributes"]["httptrace.body.outcome"] == "never_closed"
    assert span["status"] == {"status_code": "UNSET"}


# When it ends.


@pytest.mark.settings(span_end="headers")
async def test_span_end_headers_still_has_the_bodys_outcome(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """With `span_end="headers"` the timestamp is the headers', and the body's outcome is there all the same."""

    def pauses(peer: Peer, request: Request) -> None:
        peer.send(head("Content-Length: 5") + b"he")
        server.go.wait(PATIENCE)
        peer.send(b"llo")

    server.routes["/pauses"] = pauses
    async with flavour.client() as client:
        await client.get(server.url())
        response = await client.open("GET", server.url("/pauses"))
        assert len(telemetry.requests()) == 1, "exported before the body was over"
        await flavour.sleep(0.1)
        server.go.set()
        await response.read()

    _, span = telemetry.requests()
    assert seconds(span) < 0.1
    assert telemetry.told(span) == on_reused(
        server,
        **{"httptrace.time.receive": Seconds(0.09), "httptrace.body.outcome": "complete", "http.response.body.size": 5},
    )


@pytest.mark.settings(span_end="body")
async def test_span_end_body_covers_the_body(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """With `span_end="body"` the span is open until the body is over, and covers it."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        await flavour.sleep(0.1)
        assert telemetry.requests() == []
        server.go.set()
        await response.read()

    assert seconds(telemetry.request()) >= 0.1


# What is an exchange.


async def test_redirects_are_exchanges_of_their_own(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Each hop of a redirect has its span, its outcome and its place on the connection."""
    async with flavour.client(follow_redirects=True) as client:
        await client.get(server.url("/redirect"))

    hop, last = telemetry.requests()
    assert attributes(hop)["http.status_code"] == 302
    assert telemetry.told(last) == on_reused(
        server, **{"httptrace.body.outcome": "complete", "http.response.body.size": 5}
    )


async def test_auth_rounds_are_exchanges_of_their_own(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A challenge and its answer are two exchanges."""

    def guarded(peer: Peer, request: Request) -> None:
        if "authorization" in request.headers:
            peer.send(answer())
        else:
            challenge = 'WWW-Authenticate: Digest realm="here", nonce="n", qop="auth"'
            peer.send(answer(b"who?", challenge, status="401 Unauthorized"))

    server.routes["/guarded"] = guarded
    async with flavour.client() as client:
        await client.get(server.url("/guarded"), auth=flavour.httpx.DigestAuth("me", "secret"))

    assert telemetry.column("http.status_code") == [401, 200]
    assert telemetry.column("http.conn.reused") == [False, True]
    assert telemetry.column("httptrace.body.outcome") == ["complete", "complete"]


async def test_retries_are_one_exchange(flavour: Flavour, telemetry: Telemetry) -> None:
    """Httpcore's `retries=` repeats only the dial: one span, one `http.connect` per attempt, one `time.connect`."""
    port = free_port()
    async with flavour.client(retries=1) as client:
        with pytest.raises(flavour.httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")

    span = telemetry.request()
    assert telemetry.tree(span) == [("http.getconn", ["http.connect", "http.connect"])]
    assert attributes(span)["httptrace.failed_phase"] == "connect"


async def test_a_retry_that_connects(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A retry that succeeds leaves no error behind, and its back-off counts as connecting."""
    refused = free_port()
    connected: list[int] = []

    async with flavour.client(retries=2) as client:
        inner = client.pool._network_backend

        class Refusing:
            """The real backend, whose first two connects go to a port where nobody listens."""

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> Any:
                connected.append(port)
                return inner.connect_tcp(host, refused if len(connected) < 3 else port, *args, **options)

        client.pool._network_backend = Refusing()
        await client.get(server.url())

    assert len(connected) == 3
    span = telemetry.request()
    told = telemetry.told(span)
    # The second attempt follows at once, the third after half a second.
    assert told["httptrace.time.connect"] == Seconds(0.5)
    assert told["httptrace.body.outcome"] == "complete"
    assert status(span) == UNSET
    assert telemetry.tree(span) == [("http.getconn", ["http.connect"] * 3)]
    errors = [attributes(child).get("error.type") for child in telemetry.descendants(span)[1:]]
    assert errors == ["connection_refused", "connection_refused", None]


# Hand-overs.


async def test_an_upgrade_ends_the_span_at_the_headers(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """After 101 the span ends at the headers and says nothing of a body; the connection closes as `upgraded`, later."""
    headers = {"Connection": "upgrade", "Upgrade": "echo"}
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/upgrade"), headers=headers) as response:
            span = telemetry.request()
            stream = response.raw.extensions["network_stream"]
            if flavour.sync:
                stream.write(b"ping")
                assert stream.read(10) == b"ping"
            else:
                await stream.write(b"ping")
                assert await stream.read(10) == b"ping"

    assert telemetry.told(span) == {
        "http.conn.reused": False,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 0,
        "httptrace.conn.open_reason": "first_connection",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": PORT,
        "httptrace.time.connect": SECONDS,
        "httptrace.time.wait": SECONDS,
    }
    assert telemetry.counted("httptrace.connections.closed", "httptrace.conn.close_reason") == {"upgraded": 1}
    assert telemetry.metric("httptrace.bodies") == {}


async def test_connect_made_by_the_application(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A successful CONNECT of the application's own is a hand-over, too."""
    server.routes[f"127.0.0.1:{server.port}"] = head(status="200 Connection established")
    async with flavour.client() as client:
        async with client.stream("CONNECT", server.url(), extensions={"target": f"127.0.0.1:{server.port}".encode()}):
            span = telemetry.request()

    told = telemetry.told(span)
    assert {name for name in told if "body" in name or name == "httptrace.time.receive"} == set()
    assert telemetry.metric("httptrace.bodies") == {}


async def test_a_refused_connect_has_a_body(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A CONNECT that is refused is a response like any other."""
    target = f"127.0.0.1:{server.port}"
    server.routes[target] = answer(b"no", status="403 Forbidden")
    async with flavour.client() as client:
        await client.request("CONNECT", server.url(), extensions={"target": target.encode()})

    assert telemetry.column("httptrace.body.outcome") == ["complete"]


async def test_a_trickling_body_ends_with_its_last_part(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A streamed body is over when its last part has been read, wherever the parts were split."""

    def trickle(peer: Peer, request: Request) -> None:
        peer.send(head("Transfer-Encoding: chunked"))
        for part in (b"a", b"bb", b"ccc"):
            peer.send(chunk(part))
        peer.send(chunk(b""))

    server.routes["/trickle"] = trickle
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/trickle")) as response:
            body = b"".join([part async for part in response.parts()])

    assert body == b"abbccc"
    told = telemetry.told(telemetry.request())
    assert (told["httptrace.body.outcome"], told["http.response.body.size"]) == ("complete", 6)


@LEAVING
async def test_all_but_the_terminator_is_closed_early(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """All payload read but not the last chunk: closed early, for the connection is lost all the same."""

    def endless(peer: Peer, request: Request) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunk(b"data: [DONE]"))
        server.go.wait(10)

    server.routes["/events"] = endless
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/events")) as response:
            async for part in response.parts():
                if part.endswith(b"[DONE]"):
                    break

    told = telemetry.told(telemetry.request())
    assert told["httptrace.body.outcome"] == "closed_early"
    assert told["httptrace.body.bytes_read"] == 12
    assert told["httptrace.conn.close_reason"] == "body_not_read"


def rest(response: Response) -> Parts:
    """What is left of a body, read past the iterator in use: so the openai SDK drains a stream at [DONE]."""
    stream = response.raw.stream
    return Parts(iter(stream) if response.flavour.sync else stream.__aiter__())


@LEAVING
@pytest.mark.modes(*MODES)
async def test_drained_by_another_iteration(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A body that one iteration began and another read to its end is complete, all of it, and kept its connection."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/half")) as response:
            parts = response.parts()
            first = await parts.__anext__()
            server.go.set()
            others = [part async for part in rest(response)]
        await client.get(server.url())

    assert (first, others) == (b"first", [b"other"])
    drained, late = (telemetry.told(span) for span in telemetry.requests())
    assert (drained["httptrace.body.outcome"], drained["http.response.body.size"]) == ("complete", 10)
    told = attributes(telemetry.requests()[0])
    assert 0 <= told.get("httptrace.body.read_wait", 0) <= told["httptrace.time.receive"]
    assert late == on_reused(server, **{"http.response.body.size": 5, "httptrace.body.outcome": "complete"})


@LEAVING
async def test_left_by_both_iterations(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Another iteration that does not get to the end either changes nothing, nor does how it is dropped."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/chunked")) as response:
            parts = response.parts()
            first = await parts.__anext__()
            others = rest(response)
            second = await others.__anext__()
            del others

    assert (first, second) == (b"one", b"three")
    told = telemetry.told(telemetry.request())
    assert (told["httptrace.body.outcome"], told["httptrace.body.bytes_read"]) == ("closed_early", 8)


@pytest.mark.modes("sync")
async def test_another_iteration_of_a_closed_connection(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """The first iterator's close cost the connection; that another one then fails is not what happened to the body."""
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/half")) as response:
            parts = response.raw.iter_raw()
            assert next(parts) == b"first"
            parts.close()
            with pytest.raises(flavour.httpx.ReadError):
                await rest(response).__anext__()

    span = telemetry.request()
    assert telemetry.column("httptrace.body.outcome") == ["closed_early"]
    assert status(span) == UNSET
