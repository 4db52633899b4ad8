"""Evidence: what a request that failed, waited or was slow can prove; nothing of it on any other."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import h2.errors
import pytest
from kit.clients import Flavour, Task
from kit.http2 import H2Server
from kit.matchers import LINE, SECONDS, Seconds
from kit.scripts import run_script
from kit.server import PATIENCE, Peer, Request, Server, answer, head
from kit.telemetry import Telemetry, attributes
from test_request_span import LEAVING, on_reused

from otel_httptrace.core.timeline import Exchange

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

#: Every name of evidence that a span may have.
NAMES = frozenset(
    {
        "http.request.resend_count",
        "httptrace.body.closed_by",
        "httptrace.body.max_gap",
        "httptrace.conn.closed_at",
        "httptrace.conn.closed_via",
        "httptrace.conn.foreign_loop",
        "httptrace.conn.inherited",
        "httptrace.conn.stream_limit",
        "httptrace.conn.streams",
        "httptrace.failed_cause",
        "httptrace.response.bytes_received",
        "httptrace.stalled",
        "httptrace.tcp.retransmits",
        "httptrace.tcp.rtt",
        "httptrace.tcp.unacked",
        "httptrace.time.stream",
        "httptrace.timeout",
    }
)
#: What the kernel says; a test of something else leaves it out, and how long a busy machine held us up.
OF_THE_MACHINE = frozenset(name for name in NAMES if name.startswith("httptrace.tcp.")) | {"httptrace.stalled"}


def evidence(span: Any, *machine: str) -> dict[str, Any]:
    """The evidence on a span."""
    left_out = OF_THE_MACHINE - set(machine)
    return {name: value for name, value in attributes(span).items() if name in NAMES and name not in left_out}


# Nothing of it.


async def test_a_plain_request_has_none(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A request on a connection that is kept has its ten attributes: none of these, be its body chunked or empty."""
    async with flavour.client() as client:
        for target in ("/", "/", "/chunked", "/empty", "/error", "/big"):
            await client.get(server.url(target))
        async with client.stream("GET", server.url()) as response:
            await response.read()

    assert [evidence(span, *OF_THE_MACHINE) for span in telemetry.requests()] == [{}] * 7
    expected = on_reused(server, **{"httptrace.body.outcome": "complete", "http.response.body.size": 5})
    assert telemetry.told(telemetry.requests()[1]) == expected


async def test_a_plain_request_over_http2_has_none(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """One request after another over HTTP/2: none."""
    server = h2_server()
    async with flavour.client(http2=True, verify=client_tls) as client:
        for _ in range(3):
            await client.get(server.url())

    assert [evidence(span, *OF_THE_MACHINE) for span in telemetry.requests()] == [{}] * 3


# What failed.


def _resets(peer: Peer, request: Request) -> None:
    peer.reset()


def _half_a_head(peer: Peer, request: Request) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.close()


def _malformed(peer: Peer, request: Request) -> None:
    peer.send(b"HTTP/9.9 what\r\nnothing: more\r\n\r\n")


def _surplus(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 5") + b"hello world")


def _silent_then_malformed(peer: Peer, request: Request) -> None:
    peer.send(head(status="103 Early Hints"))
    peer.server.go.wait(PATIENCE)
    peer.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "cause", "received"),
    [
        (_resets, "ECONNRESET", 0),
        (lambda peer, request: peer.close(), "RemoteProtocolError", 0),
        (_half_a_head, "RemoteProtocolError", 27),
        (_malformed, "RemoteProtocolError", 32),
        (_silent_then_malformed, "RemoteProtocolError", 28 + 23),
    ],
    ids=["reset", "closed", "half a head", "malformed", "hint, then malformed"],
)
async def test_an_answer_that_did_not_come(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, script: Any, cause: str, received: int
) -> None:
    """Why it failed, and how many bytes of an answer had come: all that tells a dead connection from a malformed one."""
    server = serve({"/script": script})
    server.go.set()
    async with flavour.client() as client:
        await client.get(server.url())
        with pytest.raises(flavour.httpx.TransportError):
            await client.get(server.url("/script"))

    assert evidence(telemetry.requests()[1]) == {
        "httptrace.failed_cause": cause,
        "httptrace.response.bytes_received": received,
    }


async def test_an_answer_that_came_with_the_one_before(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """What follows an answer that was longer than it said is read as the next one, which was waited for and not sent."""
    server = serve({"/surplus": _surplus})
    async with flavour.client() as client:
        await client.get(server.url("/surplus"))
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url())

    _, failed = telemetry.requests()
    assert evidence(failed) == {
        "httptrace.failed_cause": "RemoteProtocolError",
        "httptrace.response.bytes_received": len(" world"),
    }
    assert attributes(failed)["httptrace.failed_phase"] == "wait"


async def test_what_the_application_handles_is_no_cause(flavour: Flavour, telemetry: Telemetry) -> None:
    """A request that is sent while another exception is handled fails for its own reason."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        async with flavour.client() as client:
            try:
                raise OSError(errno.EMFILE, "of the application")
            except OSError:
                with pytest.raises(flavour.httpx.ConnectError):
                    await client.get(f"http://127.0.0.1:{unheard.getsockname()[1]}/")
                with pytest.raises(flavour.httpx.UnsupportedProtocol):
                    await client.get("gopher://127.0.0.1/")

    assert evidence(telemetry.requests()[0]) == {"httptrace.failed_cause": "ECONNREFUSED"}
    assert attributes(telemetry.child("http.connect", telemetry.requests()[0]))["error.type"] == "connection_refused"


async def test_a_cancelled_request_has_no_cause(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A cancellation is no failure: it has a phase, and none of this."""
    async with flavour.client() as client:
        await flavour.cancelled(client.get, server.url("/held"), when=lambda: server.requests)

    assert evidence(telemetry.request()) == {}
    assert telemetry.metric("httptrace.requests.failed") == {}


@pytest.mark.parametrize("code", [h2.errors.ErrorCodes.INTERNAL_ERROR, h2.errors.ErrorCodes.REFUSED_STREAM])
async def test_a_stream_that_is_reset(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any, code: Any
) -> None:
    """A reset over HTTP/2 says its code, that nothing had come, and which protocol it was."""
    server = h2_server("/reset")
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:
            task = start(client.get, server.url("/reset"))
            await flavour.until(lambda: server.streams)
            server.streams[0].reset(code)
            await flavour.until(lambda: task.done)
            assert type(task.error).__name__ == "RemoteProtocolError"
        await client.get(server.url())

    first, second = telemetry.requests()
    assert evidence(first) == {"httptrace.failed_cause": code.name, "httptrace.response.bytes_received": 0}
    assert attributes(first)["network.protocol.version"] == "2"
    assert evidence(second, *OF_THE_MACHINE) == {}


async def test_a_connection_that_is_retired(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """GOAWAY under a request that the server has looked at fails it, by the code of that."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        async with flavour.together() as start:
            task = start(client.get, server.url("/held"))
            await flavour.until(lambda: server.streams)
            server.peers[0].goaway()
            await flavour.until(lambda: task.done)
            assert type(task.error).__name__ == "RemoteProtocolError"

    assert evidence(telemetry.request())["httptrace.failed_cause"] == "NO_ERROR"


async def hold(flavour: Flavour, start: Callable[..., Task], client: Any, server: H2Server, number: int) -> list[Task]:
    """As many requests that are held, behind a first one that was not."""
    tasks: list[Task] = []
    while len(tasks) < number:
        # One after the other: httpcore gives two threads the same stream now and then, also without us.
        tasks.append(start(client.get, server.url("/held")))
        await flavour.until(lambda: len(server.streams) == 1 + len(tasks))
    return tasks


@pytest.mark.parametrize("retired", [False, True], ids=["cut", "goaway"])
async def test_streams_that_end_with_their_connection(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any, retired: bool
) -> None:
    """A connection that is gone is told by each request that it took down, and not only by the one that noticed first."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            tasks = await hold(flavour, start, client, server, 3)
            peer = server.peers[0]
            if retired:
                peer.goaway()
            else:
                peer.do(peer.sock.shutdown, socket.SHUT_RDWR)
            await flavour.until(lambda: all(task.done for task in tasks))
            assert {type(task.error).__name__ for task in tasks} == {"RemoteProtocolError"}

    reasons = [attributes(span).get("httptrace.conn.close_reason") for span in telemetry.requests()[1:]]
    assert reasons == ["goaway" if retired else "request_failed"] * 3


# Timeouts.


async def test_the_timeout_that_struck(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A timeout says what was configured for its phase, before the headers and in the body."""
    timeout = flavour.httpx.Timeout(10, pool=0.1)
    async with flavour.client(timeout=timeout, limits=flavour.httpx.Limits(max_connections=1)) as client:
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/held"), timeout=0.15)
        response = await client.open("GET", server.url())
        with pytest.raises(flavour.httpx.PoolTimeout):
            await client.get(server.url())
        await response.read()
        with pytest.raises(flavour.httpx.ReadTimeout):
            # Its headers come at once, or on a busy machine a little later.
            await client.get(server.url("/half"), timeout=0.9)

    assert [evidence(span) for span in telemetry.requests()] == [
        {
            "httptrace.failed_cause": "ReadTimeout",
            "httptrace.timeout": 0.15,
            "httptrace.response.bytes_received": 0,
        },
        {},
        {"httptrace.failed_cause": "PoolTimeout", "httptrace.timeout": 0.1},
        {"httptrace.failed_cause": "ReadTimeout", "httptrace.timeout": 0.9},
    ]


# The kernel's word.

#: linux/filter.h: "return 0", which drops all that comes, so that nothing is acknowledged either.
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)
#: asm-generic/socket.h
_SO_ATTACH_FILTER = 26


def _dies(peer: Peer, request: Request) -> None:
    """Answer, and from then on drop what comes, as a middlebox does that has forgotten the connection."""
    program = ctypes.create_string_buffer(_DROP, len(_DROP))
    peer.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    peer.send(answer())
    peer.server.go.wait(PATIENCE)


@LINUX
async def test_a_request_that_was_not_delivered(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """On a connection that is dead, the request is not acknowledged and was sent again: the server has not got it."""
    server = serve({"/dies": _dies})
    async with flavour.client() as client:
        await client.get(server.url("/dies"))
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.request("POST", server.url(), content=b"x" * 500, timeout=1.0)

    told = evidence(telemetry.requests()[1], *OF_THE_MACHINE)
    assert told["httptrace.tcp.unacked"] > 500
    assert told["httptrace.tcp.retransmits"] > 0
    assert told["httptrace.tcp.rtt"] == SECONDS


@LINUX
async def test_a_server_that_is_silent(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A server that has got the request, and says nothing: all is acknowledged."""
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/held"), timeout=0.2)

    told = evidence(telemetry.request(), "httptrace.tcp.unacked", "httptrace.tcp.retransmits", "httptrace.tcp.rtt")
    assert told == {
        "httptrace.failed_cause": "ReadTimeout",
        "httptrace.timeout": 0.2,
        "httptrace.response.bytes_received": 0,
        "httptrace.tcp.unacked": 0,
        "httptrace.tcp.retransmits": 0,
        "httptrace.tcp.rtt": SECONDS,
    }


@LINUX
@pytest.mark.parametrize("used", [False, True], ids=["new", "used just before"])
async def test_a_silent_server_is_no_stall(flavour: Flavour, server: Server, telemetry: Telemetry, used: bool) -> None:
    """Where nothing came, this process stood still for no longer than the timeout was overshot, if at all."""
    async with flavour.client() as client:
        if used:
            await client.get(server.url())
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/held"), timeout=0.2)

    told = attributes(telemetry.requests()[-1])
    assert told.get("httptrace.stalled", 0) <= max(told["httptrace.time.wait"] - 0.2, 0)


def _after_a_second(peer: Peer, request: Request) -> None:
    time.sleep(1.05)
    peer.send(answer())


@LINUX
async def test_an_answer_that_took_a_second(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """A wait of a second or more has the kernel's word, also where the answer came."""
    server = serve({"/slow": _after_a_second})
    async with flavour.client() as client:
        await client.get(server.url("/slow"))
        await client.get(server.url())

    first, second = telemetry.requests()
    assert evidence(first, "httptrace.tcp.unacked", "httptrace.tcp.retransmits", "httptrace.tcp.rtt") == {
        "httptrace.tcp.unacked": 0,
        "httptrace.tcp.retransmits": 0,
        "httptrace.tcp.rtt": SECONDS,
    }
    assert evidence(second, *OF_THE_MACHINE) == {}


def _under_way(telemetry: Telemetry) -> Iterable[Exchange]:
    lifetime = telemetry.instrumentor._lifetime
    assert lifetime is not None
    return lifetime.process.exchanges


def waits(telemetry: Telemetry) -> bool:
    """Whether a request waits for its answer, in the read."""
    return any(exchange.wait_at for exchange in _under_way(telemetry))


def asked(telemetry: Telemetry) -> bool:
    """Whether the kernel has been asked of a request's socket, which is right after `waits`."""
    return any(
        exchange.evidence is not None and exchange.evidence.socket is not None for exchange in _under_way(telemetry)
    )


#: More than the buffers on the way hold.
UPLOAD = 30_000_000


class _SlowReader(Server):
    """Reads the beginning of a request, the rest *pause* seconds later or when told, but its end when *written*."""

    def __init__(self, written: Callable[[], object], pause: float = PATIENCE) -> None:
        super().__init__()
        # What is acknowledged but not read is little.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._written = written
        self._pause = pause

    def serve(self, peer: Peer) -> None:
        """See `Server`."""
        left = UPLOAD - len(peer.receive())
        self.go.wait(self._pause)
        while left > 0:
            if left < 500_000:
                step_until(self._written)
            data = peer.receive()
            if not data:
                return
            left -= len(data)
        peer.send(answer())
        peer.until_closed()


def step_until(condition: Callable[[], object]) -> None:
    """Wait, in a thread, for what another will have done."""
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)


# trio leaves next to nothing to the kernel that is not sent yet (TCP_NOTSENT_LOWAT).
@LINUX
@pytest.mark.modes("sync", "asyncio")
async def test_an_upload_that_is_not_over(flavour: Flavour, running: Any, telemetry: Telemetry) -> None:
    """After a slow upload, what had not arrived as the wait began is told, for that is what was waited for."""
    server = running(_SlowReader(lambda: asked(telemetry), 1.2))
    async with flavour.client() as client:
        await client.request("POST", server.url(), content=b"x" * UPLOAD)

    told = attributes(telemetry.request())
    assert told["httptrace.time.send"] >= 1
    assert told["httptrace.tcp.unacked"] > 0


# httpx leaves the iterator of the request's body to the garbage collector.
@LINUX
@pytest.mark.filterwarnings("ignore:.*ByteStream.__aiter__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_a_write_timeout_tells_how_much_is_unsent(flavour: Flavour, running: Any, telemetry: Telemetry) -> None:
    """A server that does not read: the write times out, and how much of it is still here is told."""
    server = running(_SlowReader(lambda: True))
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.WriteTimeout):
            await client.request(
                "POST", server.url(), content=b"x" * UPLOAD, timeout=flavour.httpx.Timeout(10, write=0.2)
            )
        server.go.set()

    told = evidence(telemetry.request(), "httptrace.tcp.unacked")
    assert told.pop("httptrace.tcp.unacked") > 0
    assert told == {"httptrace.failed_cause": "WriteTimeout", "httptrace.timeout": 0.2}


# Who closed what.


@LEAVING
async def test_a_body_closed_by_an_exception(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """What was passing through the caller as it closed the body is told by its class, and not what it quotes."""
    async with flavour.client() as client:
        with pytest.raises(LookupError):
            async with client.stream("GET", server.url("/half")) as response:
                async for _ in response.parts():
                    raise LookupError("secret")

    assert evidence(telemetry.request()) == {"httptrace.body.closed_by": "LookupError"}
    assert "secret" not in str(attributes(telemetry.request()))


@LEAVING
async def test_a_body_that_cannot_be_decoded(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """A body that is all there and cannot be decoded was closed by that, though nothing failed on the wire."""
    server = serve({"/odd": answer(b"not gzip at all", "Content-Encoding: gzip")})
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.DecodingError):
            await client.get(server.url("/odd"))

    told = attributes(telemetry.request())
    assert evidence(telemetry.request()) == {"httptrace.body.closed_by": "DecodingError"}
    assert told["httptrace.body.bytes_read"] == told["http.response.body.size"] == 15


@LEAVING
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "read"])
async def test_bodies_that_cannot_be_decoded(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, streamed: bool
) -> None:
    """Of several such bodies each says what closed it, not only the first."""
    server = serve({"/odd": answer(b"not gzip at all", "Content-Encoding: gzip")})
    async with flavour.client() as client:
        for _ in range(3):
            with pytest.raises(flavour.httpx.DecodingError):
                if streamed:
                    async with client.stream("GET", server.url("/odd")) as response:
                        await response.read()
                else:
                    await client.get(server.url("/odd"))

    assert telemetry.column("httptrace.body.closed_by") == ["DecodingError"] * 3


@LEAVING
@pytest.mark.parametrize("located", [True, False], ids=["with lines", "without"])
async def test_a_body_left_while_an_exception_is_handled(
    flavour: Flavour, server: Server, bare_telemetry: Telemetry, located: bool
) -> None:
    """An exception that was being handled before the request was sent has closed nothing; nor has a `break`."""
    bare_telemetry.instrument(code_location=located)
    async with flavour.client() as client:
        try:
            raise KeyError
        except KeyError:
            async with client.stream("GET", server.url("/half")) as response:
                async for _ in response.parts():
                    break
        async with client.stream("GET", server.url("/half")) as response:
            async for _ in response.parts():
                break

    assert [evidence(span) for span in bare_telemetry.requests()] == [{}, {}]
    assert bare_telemetry.column("httptrace.body.outcome") == ["closed_early"] * 2


@pytest.mark.modes("asyncio", "trio")
async def test_a_client_that_is_closed_in_use(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A client closed under a request: the request says which line did that."""
    client = flavour.client()
    async with flavour.together() as start:
        task = start(client.get, server.url("/held"))
        await flavour.until(lambda: server.requests)
        await client.close()
        await flavour.until(lambda: task.done)
        assert task.error is not None

    told = evidence(telemetry.request())
    assert told.pop("httptrace.conn.closed_at") == LINE
    assert attributes(telemetry.request())["httptrace.conn.close_reason"] == "client_closed"
    # On trio it depends on whether the close wakes the reader, or that wakes by itself and tries once more.
    assert told.pop("httptrace.failed_cause") in {"ClosedResourceError", "EBADF"}
    assert told == {"httptrace.response.bytes_received": 0}


async def test_a_client_that_is_closed_after_use(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A client that is closed when all is done has nothing to say of that."""
    client = flavour.client()
    await client.get(server.url())
    await client.close()

    assert evidence(telemetry.request(), *OF_THE_MACHINE) == {}


# Whose connection.


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_connection_of_another_process(server: Server, library: str) -> None:
    """A connection that the process before a fork opened says so, on each request; one of its own does not."""
    script = """
        import os, sys, LIBRARY as httpx
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from otel_httptrace import HTTPTraceInstrumentor

        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        HTTPTraceInstrumentor().instrument(tracer_provider=provider)

        def told():
            return [span.attributes.get("httptrace.conn.inherited") for span in exporter.get_finished_spans()
                    if span.kind.name == "CLIENT"]

        url = sys.argv[1]
        client = httpx.Client()
        client.get(url)
        pid = os.fork()
        if pid == 0:
            client.get(url)
            client.get(url)
            with client.stream("GET", url):
                pass
            client.get(url)
            print("child", told(), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        client.close()
        print("parent", told())
    """.replace("LIBRARY", library)
    assert run_script(script, server.url()).splitlines() == [
        "child [None, True, True, True, None]",
        "parent [None]",
    ]


@pytest.mark.modes("asyncio", "trio")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_connection_of_another_loop(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A request that fails on a connection which another event loop opened says so; a failure in the same does not."""
    client = flavour.client()

    async def first() -> None:
        await client.get(server.url())
        with pytest.raises(flavour.httpx.RemoteProtocolError):
            await client.get(server.url("/no-answer"))
        await client.get(server.url())

    async def second() -> Any:
        try:
            await client.get(server.url(), timeout=0.5)
        except Exception as error:
            return type(error)
        return None

    flavour.run(first())
    raised = flavour.run(second())

    *before, last = telemetry.requests()
    assert [attributes(span).get("httptrace.conn.foreign_loop") for span in before] == [None] * 3
    # trio does not care, as long as nobody waited in the loop that is gone.
    assert attributes(last).get("httptrace.conn.foreign_loop") == (True if raised is not None else None)
    assert raised is not None or flavour.mode == "trio"


# Time.


def _with_a_gap(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"ab")
    time.sleep(0.2)
    peer.send(b"cd")
    time.sleep(0.9)
    peer.send(b"ef")
    time.sleep(0.1)
    peer.send(b"ghij")


async def test_a_slow_body_tells_its_longest_gap(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """A body that took a second or more says how long the longest wait for bytes was."""
    server = serve({"/gap": _with_a_gap})
    async with flavour.client() as client:
        await client.get(server.url("/gap"))

    told = attributes(telemetry.request())
    assert told["httptrace.body.max_gap"] == Seconds(0.7, 1.15)
    assert told["httptrace.body.read_wait"] > told["httptrace.body.max_gap"]


@LINUX
@pytest.mark.modes("asyncio", "trio")
async def test_a_loop_that_is_blocked_while_the_answer_is_there(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """Where the answer had come and nobody ran to read it, how long that was is told, at least."""

    async def block() -> None:
        await flavour.until(lambda: server.requests and waits(telemetry))
        server.go.set()
        time.sleep(1.3)

    async with flavour.client() as client:
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            start(block)

    told = attributes(telemetry.request())
    assert told["httptrace.stalled"] == Seconds(0.6, told["httptrace.time.wait"])


@LINUX
@pytest.mark.modes("sync", "asyncio", "trio")
@pytest.mark.parametrize("body", [False, True], ids=["no body", "body"])
async def test_a_pause_after_the_request_was_written(
    flavour: Flavour, server: Server, telemetry: Telemetry, body: bool
) -> None:
    """Standing still before the first read is no time of the network's; with a body it may be the application's parts."""

    def pause(name: str) -> None:
        if name == "http11.send_request_body.complete":
            time.sleep(1.2)

    async def pause_async(name: str, info: object) -> None:
        pause(name)

    traced = {"trace": (lambda name, info: pause(name)) if flavour.sync else pause_async}
    async with flavour.client() as client:
        if body:
            await client.request("POST", server.url(), content=b"part", extensions=traced)
        else:
            await client.get(server.url(), extensions=traced)

    told = attributes(telemetry.request())
    assert told["httptrace.time.send"] == Seconds(1.2, 10)
    assert told.get("httptrace.stalled") == (None if body else Seconds(1.0, told["httptrace.time.send"]))


@LINUX
@pytest.mark.modes("asyncio", "trio")
async def test_a_timeout_that_a_blocked_loop_made(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A timeout that strikes late, for the loop was blocked, says by how much, and what was configured."""

    async def block() -> None:
        await flavour.until(lambda: server.requests and waits(telemetry))
        time.sleep(0.9)

    async with flavour.client() as client:
        async with flavour.together() as start:
            task = start(lambda: client.get(server.url("/held"), timeout=0.3))
            start(block)
            await flavour.until(lambda: task.done)
            assert type(task.error).__name__ == "ReadTimeout"

    told = attributes(telemetry.request())
    assert told["httptrace.timeout"] == 0.3
    assert told["httptrace.stalled"] == Seconds(0.4, told["httptrace.time.wait"])


@LINUX
@pytest.mark.parametrize("used", [True, False], ids=["used", "new"])
async def test_a_silent_server_on_a_connection_just_used(
    flavour: Flavour, server: Server, telemetry: Telemetry, used: bool
) -> None:
    """What came before the request, an answer or a handshake, is not taken for an answer that nobody read."""
    async with flavour.client() as client:
        if used:
            await client.get(server.url())
        with pytest.raises(flavour.httpx.ReadTimeout):
            await client.get(server.url("/held"), timeout=0.5)

    told = attributes(telemetry.requests()[-1])
    assert told["httptrace.timeout"] == 0.5
    # A busy machine may hold us up for a while, but not for the whole of it.
    assert told.get("httptrace.stalled", 0.0) < 0.4


@pytest.mark.modes("asyncio", "trio")
async def test_a_connect_that_a_blocked_loop_made_time_out(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A connect timeout that strikes late, for the loop was blocked during the lookup, says by how much."""
    begun = anyio.Event()

    async def trace(step: str, info: dict[str, Any]) -> None:
        if step == "connection.connect_tcp.started":
            begun.set()

    async def block() -> None:
        await begun.wait()
        time.sleep(0.9)

    async with flavour.client() as client:
        async with flavour.together() as start:
            url = server.url(host="localhost")
            task = start(lambda: client.get(url, timeout=0.3, extensions={"trace": trace}))
            start(block)
            await flavour.until(lambda: task.done)
            assert type(task.error).__name__ == "ConnectTimeout"

    told = attributes(telemetry.request())
    assert told["httptrace.failed_phase"] in ("dns", "connect")
    assert told["httptrace.stalled"] == Seconds(0.4, 5)


# HTTP/2.


async def test_waiting_for_a_stream(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """On a connection at its limit of streams, the wait for one is told apart from the pool's, with both numbers."""
    server = h2_server("/held")
    server.limit = 1
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            start(client.get, server.url("/second"))
            await flavour.sleep(0.2)
            server.streams[1].answer()

    waiting = telemetry.requests()[2]
    assert evidence(waiting) == {
        "httptrace.time.stream": Seconds(0.1),
        "httptrace.conn.streams": 1,
        "httptrace.conn.stream_limit": 1,
    }
    assert attributes(waiting).get("httptrace.time.pool", 0) < 0.1
    assert [evidence(span) for span in telemetry.requests()[:2]] == [{}, {}]


async def test_all_streams_end_at_once(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """Where all streams end together, only its own may be open as the next begins: it has waited for one all the same."""
    server = h2_server("/held")
    server.limit = 2
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            await hold(flavour, start, client, server, 2)
            third = start(client.get, server.url("/third"))
            await flavour.sleep(0.2)
            for stream in server.streams[1:]:
                stream.answer()
            await flavour.until(lambda: third.done)

    waiting = telemetry.requests()[3]
    assert evidence(waiting) == {
        "httptrace.time.stream": Seconds(0.1),
        "httptrace.conn.streams": 2,
        "httptrace.conn.stream_limit": 2,
    }
    assert attributes(waiting).get("httptrace.time.pool", 0) < 0.1


@pytest.mark.modes("asyncio", "trio")
async def test_the_last_stream_is_waited_for_by_nobody(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """A request that takes the last stream has waited for none, whatever its event loop did meanwhile."""
    server = h2_server("/held")
    server.limit = 2

    async def block() -> None:
        time.sleep(0.05)  # blocks the event loop: what this is about

    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            start(client.get, server.url("/last"))
            start(block)
            await flavour.until(lambda: len(server.streams) == 3)
            server.streams[1].answer()

    assert [
        evidence(span).keys() & {"httptrace.time.stream", "httptrace.conn.streams"} for span in telemetry.requests()
    ] == [set()] * 3


async def test_sharing_a_connection_below_its_limit(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """Streams side by side below the limit have waited for none."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            start(client.get, server.url())
            await flavour.until(lambda: len(server.streams) == 3)
            await flavour.sleep(0.05)
            server.streams[1].answer()

    assert [evidence(span) for span in telemetry.requests()] == [{}] * 3


async def test_a_request_that_is_sent_again(
    flavour: Flavour, h2_server: Callable[..., H2Server], telemetry: Telemetry, client_tls: Any
) -> None:
    """Retired by GOAWAY before the server looked at it, a request is sent again, and says so; its pool wait is none."""
    server = h2_server("/held")
    async with flavour.client(http2=True, verify=client_tls) as client:
        await client.get(server.url())
        async with flavour.together() as start:
            task = start(client.get, server.url("/held"))
            await flavour.until(lambda: len(server.streams) == 2)
            await flavour.sleep(0.2)
            server.peers[0].goaway(last=1)
            await flavour.until(lambda: len(server.streams) == 3)
            server.streams[2].answer()
            await flavour.until(lambda: task.done)

    first, again = telemetry.requests()
    assert evidence(first) == {}
    assert evidence(again) == {"http.request.resend_count": 1}
    # Left out below a millisecond, as ever.
    assert 0.0009 < attributes(again).get("httptrace.time.pool", 0.001) < 0.15


# Out of descriptors.


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let nothing further be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_file_descriptors(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A connect without a descriptor left is not the other end's doing."""
    async with flavour.client() as client:
        with no_more_files(), pytest.raises((flavour.httpx.ConnectError, OSError)):
            await client.get(server.url())

    span = telemetry.request()
    assert evidence(span) == {"httptrace.failed_cause": "EMFILE"}
    assert attributes(telemetry.child("http.connect"))["error.type"] == "too_many_open_files"


# Metrics.


async def test_failures_are_counted_by_cause(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Every failure counts by phase, error and cause; in the body there is no phase."""
    async with flavour.client() as client:
        await client.get(server.url())
        for target in ("/no-answer", "/no-answer"):
            with pytest.raises(flavour.httpx.RemoteProtocolError):
                await client.get(server.url(target))
        with pytest.raises(flavour.httpx.ReadError):
            async with client.stream("GET", server.url("/half-reset")) as response:
                async for _ in response.parts():
                    server.go.set()

    origin = (("server.address", "127.0.0.1"), ("server.port", server.port))
    assert telemetry.metric("httptrace.requests.failed") == {
        (
            ("error.type", "RemoteProtocolError"),
            ("httptrace.failed_cause", "RemoteProtocolError"),
            ("httptrace.failed_phase", "wait"),
            *origin,
        ): 2,
        (("error.type", "ReadError"), ("httptrace.failed_cause", "ECONNRESET"), *origin): 1,
    }


async def test_the_metric_tells_a_hundred_causes_apart(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """However many classes of exceptions an application makes, the metric tells a hundred apart, and loses no count."""

    def parts(error: type[Exception]) -> Any:
        def iterate() -> Any:
            yield b"some"
            raise error

        async def iterate_asynchronously() -> Any:
            yield b"some"
            raise error

        return iterate() if flavour.sync else iterate_asynchronously()

    async with flavour.client() as client:
        for number in range(120):
            error = type(f"Error{number}", (Exception,), {})
            with pytest.raises(error):
                await client.request("POST", server.url(), content=parts(error))

    counted = telemetry.counted("httptrace.requests.failed", "httptrace.failed_cause")
    assert len(counted) == 101
    assert counted["_other"] == 20
    assert sum(counted.values()) == 120
