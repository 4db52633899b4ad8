"""Edges that an unkind reader looked for: what must hold where things go wrong in an unusual way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpcore
import httpx
import pytest
from kit.clients import Flavour
from kit.matchers import Like
from kit.scripts import run_script
from kit.server import Server, answer, chunk, head
from kit.telemetry import Telemetry
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, _Span
from opentelemetry.trace import StatusCode

from otel_httptrace.adapters.httpcore import seams
from otel_httptrace.adapters.httpcore.observer import Observer
from otel_httptrace.core.ledger import Ledger, Limits, Missed, Process, Reason
from otel_httptrace.core.timeline import Exchange, Origin
from otel_httptrace.observe.bodies import Drained, Observed
from otel_httptrace.telemetry.metrics import Metrics

SECRET = "hunter2"


def everything(telemetry: Telemetry) -> str:
    """All that was emitted, as text."""
    return "".join(span.to_json() for span in telemetry.spans()) + repr(telemetry.metrics())


BROKEN = {
    "chunk": head("Transfer-Encoding: chunked") + chunk(b"one") + b"hunter2-is-no-length\r\n",
    "trailer": head("Transfer-Encoding: chunked") + chunk(b"one") + b"0\r\nhunter2 no colon\r\n\r\n",
}


@pytest.mark.parametrize("where", BROKEN)
async def test_no_body_byte_is_recorded(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, where: str
) -> None:
    """What the parser quotes of a body that it cannot read is recorded nowhere."""
    server = serve({"/broken": BROKEN[where]})
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/broken")) as response:
            with pytest.raises(flavour.httpx.RemoteProtocolError, match=SECRET):
                async for _ in response.parts():
                    pass

    span = telemetry.request()
    assert (span.attributes or {})["error.type"] == "RemoteProtocolError"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "RemoteProtocolError")
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("exception", {"exception.type": f"{flavour.httpcore.RemoteProtocolError.__module__}.RemoteProtocolError"}),
        (
            "httptrace.diagnosis",
            {
                "httptrace.message": Like(
                    r"The body broke off after 3 bytes, [\d.]+ [mµ]?s after the headers: RemoteProtocolError; "
                    r"connection \d+ was lost with it\."
                )
            },
        ),
    ]
    assert SECRET not in everything(telemetry)


@pytest.mark.contained
async def test_a_contained_fault_quotes_nothing(
    flavour: Flavour,
    serve: Callable[..., Server],
    bare_telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log line of a fault of ours does not print the application's exception that it came up with."""
    server = serve({"/broken": BROKEN["chunk"]})
    monkeypatch.setattr(Observer, "body_raised", lambda *args: 1 / 0)
    bare_telemetry.instrument()
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.RemoteProtocolError, match=SECRET):
            await client.get(server.url("/broken"))

    assert "ZeroDivisionError" in caplog.text
    assert SECRET not in caplog.text


# Threads.


def test_connections_come_and_go_while_one_is_created() -> None:
    """A connection may close in one thread while another looks for those that are missing."""
    ledger = Ledger(Process(), Limits())
    origin = Origin("http", "origin", 80)
    stop = threading.Event()
    faults: list[BaseException] = []

    def come_and_go() -> None:
        while not stop.is_set():
            conn = ledger.created(origin, 1)
            ledger.opened(conn, 2)
            ledger.closed(conn, 3)

    def use(conn: Any) -> None:
        while not stop.is_set():
            exchange = Exchange(ledger, None, 1, 0)
            ledger.acquired(conn, exchange, 2)
            ledger.released(exchange, 3)

    def look() -> None:
        try:
            for _ in range(20_000):
                ledger.missing(set())
                ledger.holders()
                _ = [conn.last_user for conn in kept]
        except BaseException as error:
            faults.append(error)
        stop.set()

    kept = [ledger.created(origin, 1) for _ in range(20)]
    for conn in kept:
        ledger.opened(conn, 2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go), threading.Thread(target=look)]
        threads += [threading.Thread(target=use, args=(conn,)) for conn in kept[:2]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert faults == []


# The garbage collector, and iterators finalised late.


def test_an_iteration_collected_within_a_lock(server: Server, telemetry: Telemetry) -> None:
    """An iteration that the collector ends, inside the SDK or inside ours, takes no lock there and blames no line."""
    held: list[Any] = []

    class Dropping(SpanProcessor):
        lock = threading.Lock()

        def on_end(self, span: ReadableSpan) -> None:
            assert self.lock.acquire(timeout=5)
            try:
                held.clear()
                gc.collect()
            finally:
                self.lock.release()

    telemetry.tracer_provider.add_span_processor(Dropping())
    with httpx.Client() as client:
        response = client.send(client.build_request("GET", server.url("/half")), stream=True)
        parts = response.iter_raw()
        assert next(parts) == b"first"
        cycle: list[Any] = [response, parts]
        cycle.append(cycle)
        held.append(cycle)
        del response, parts, cycle
        client.get(server.url())
        telemetry.metrics()

    assert sorted(telemetry.column("httptrace.body.outcome")) == ["closed_early", "complete"]
    assert telemetry.column("httptrace.body.closed_at") == [None, None]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_an_iteration_that_the_event_loop_ends(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A generator finalised after a `break`: no line of the application did it, so none is named."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        async for part in response.parts():
            assert part == b"first"
            break
        del response
        gc.collect()
        await flavour.until(lambda: telemetry.metrics() and telemetry.requests())

    assert telemetry.column("httptrace.body.outcome") == ["closed_early"]
    # A synchronous one is finalised by the `break` itself.
    (closed_at,) = telemetry.column("httptrace.body.closed_at")
    assert (closed_at is not None) == flavour.sync
    if flavour.sync:
        assert closed_at.endswith("in test_an_iteration_that_the_event_loop_ends")


def test_a_client_closed_by_a_finaliser(server: Server, telemetry: Telemetry) -> None:
    """A client that closes itself as it is collected (SDKs do that): its connection's end is counted, later."""
    locked: list[bool] = []

    class Wrapper(httpx.Client):
        def __del__(self) -> None:
            self.close()

    def collecting() -> bool:
        return any(frame.f_code is Wrapper.__del__.__code__ for frame, _ in traceback.walk_stack(sys._getframe()))

    client = Wrapper()
    client.get(server.url())
    counted = Metrics.closed

    def closed(self: Metrics, conn: Any, at: int) -> None:
        locked.append(collecting())
        counted(self, conn, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "closed", closed)
        cycle: list[Any] = [client]
        cycle.append(cycle)
        del client, cycle
        gc.collect()
        assert telemetry.counted("httptrace.connections.closed", "httptrace.conn.close_reason") == {"client_closed": 1}
    assert locked == [False]


async def test_picked_up_under_suppression(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A leaked response is reported even if who comes by next is suppressed: an exporter, say."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        del response
        gc.collect()
        with suppress_instrumentation():
            await client.get(server.url())

    assert telemetry.column("httptrace.body.outcome") == ["never_closed"]
    assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"never_closed": 1}


def test_nothing_stays_with_the_collector(server: Server, bare_telemetry: Telemetry) -> None:
    """Once it is turned off and the last response is over, the garbage collector calls nothing of ours."""
    before = list(gc.callbacks)
    bare_telemetry.instrument()
    with httpx.Client() as client:
        client.get(server.url())
        watching = list(gc.callbacks)
        assert len(watching) > len(before)
        with client.stream("GET", server.url()) as response:
            bare_telemetry.uninstrument()
            assert gc.callbacks == watching
            response.read()
    assert gc.callbacks == before


# Life cycle.


def test_a_start_that_failed_half_way(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hooks cannot be put in, nothing stays, and the next start is a whole one."""
    before = list(gc.callbacks)
    with monkeypatch.context() as patch:
        patch.delattr(httpcore, "ConnectionNotAvailable")
        with pytest.raises(AttributeError):
            bare_telemetry.instrument()
    assert gc.callbacks == before

    bare_telemetry.instrument()
    with httpx.Client() as client:
        client.get(server.url())
    assert bare_telemetry.column("httptrace.body.outcome") == ["complete"]


# What a server may send.


async def test_a_length_beyond_measure(flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry) -> None:
    """A Content-Length that no 64-bit integer holds is no size: it would cost the exporter its whole batch."""
    server = serve({"/huge": head("Content-Length: 99999999999999999999") + b"first"})
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/huge")):
            pass

    assert telemetry.column("http.response.body.size") == [None]
    encode_spans(telemetry.spans())


def test_a_path_that_is_no_text(server: Server, telemetry: Telemetry) -> None:
    """A source file whose name is not UTF-8 has a line, too, and one that can be exported."""
    source = "def close(client, url):\n    with client.stream('GET', url):\n        pass\n"
    space: dict[str, Any] = {}
    exec(compile(source, os.fsdecode(b"/srv/caf\xe9.py"), "exec"), space)
    with httpx.Client() as client:
        space["close"](client, server.url("/half"))

    assert telemetry.column("httptrace.body.closed_at") == ["/srv/caf?.py:2 in close"]
    encode_spans(telemetry.spans())


# Connections that are not there any more.


@pytest.mark.modes("asyncio", "trio")
async def test_assigned_to_a_connection_that_was_then_dropped(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """A request that the pool hands a connection just closed waits on, and what it then dials is told as its own."""
    one, other = serve(), serve()
    async with flavour.client(limits=flavour.httpx.Limits(max_connections=1)) as client:
        held = await client.open("GET", one.url("/", host="localhost"))
        async with flavour.together() as start:
            waits = start(client.get, one.url(host="localhost"))
            await flavour.until(lambda: len(client.pool._requests) == 2)
            await flavour.sleep(0.005)  # a wait that is worth telling
            await held.read()
            await client.get(other.url())
        assert waits.value.status_code == 200

    _, waited, _ = telemetry.requests()
    told = telemetry.told(waited)
    # httpcore2 does not give away what is promised.
    dialled = flavour.library == "httpx"
    assert one.accepted == 1 + dialled
    assert told["http.conn.reused"] != dialled
    assert [child.name for child in telemetry.descendants(waited)] == (
        ["http.getconn", "http.dns", "http.connect"] if dialled else ["http.getconn"]
    )
    if dialled:
        assert told["httptrace.time.dns"] > 0
        (getconn,) = telemetry.children(waited)
        last = telemetry.child("http.connect", waited)
        assert (getconn.end_time or 0) >= (last.end_time or 0)


async def test_closed_by_another_task(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A response closed while another task or thread waits in its read was closed early, and that says who did it."""
    async with flavour.client() as client:
        response = await client.open("GET", server.url("/half"))
        parts = response.parts()
        assert await parts.__anext__() == b"first"

        async def read() -> None:
            await parts.__anext__()

        async with flavour.together() as start:
            task = start(read)
            await flavour.sleep(0.05)
            await response.close()
            if flavour.sync:
                # A blocking read is not woken by a close.
                server.go.set()
            await flavour.until(lambda: task.done)
            error = task.error
        assert isinstance(error, (flavour.httpx.ReadError, flavour.httpx.RemoteProtocolError))

    told = telemetry.told(telemetry.request())
    assert told["httptrace.body.outcome"] == "closed_early"
    assert told["httptrace.conn.close_reason"] == "body_not_read"
    assert told["httptrace.body.closed_at"].startswith("kit/clients.py:")
    assert telemetry.request().status.status_code is StatusCode.UNSET
    assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"closed_early": 1}


def test_spans_that_take_no_attribute_at_all(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A span that accepts nothing of ours is described all the same, and only its body is told elsewhere."""

    def refuse(self: Any, name: str, value: object) -> None:
        if name == "end" or "httptrace" in name:
            raise AttributeError(name)
        object.__setattr__(self, name, value)

    monkeypatch.setattr(_Span, "__setattr__", refuse, raising=False)
    bare_telemetry.instrument()
    with httpx.Client() as client:
        client.get(server.url())
        client.get(server.url())

    (line,) = [record.getMessage() for record in caplog.records if record.name == "otel_httptrace"]
    assert "http.receive" in line
    first, second = bare_telemetry.requests()
    assert bare_telemetry.tree(first) == [("http.getconn", ["http.connect"]), "http.receive"]
    assert bare_telemetry.tree(second) == ["http.receive"]
    assert bare_telemetry.column("http.conn.reused") == [False, True]
    assert bare_telemetry.column("httptrace.body.outcome") == [None, None]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_body_iterators_are_what_they_were(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """What iterates a body can do what a generator can: be closed, sent to, thrown at."""
    if flavour.sync:
        pool = flavour.httpcore.ConnectionPool()
        response = pool.handle_request(flavour.httpcore.Request("GET", server.url("/half"), headers={"Host": "x"}))
        parts = iter(response.stream)
        assert next(parts) == b"first"
        assert inspect.isgenerator(parts)
        parts.close()
        response.close()
        pool.close()
        assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"closed_early": 1}
        return
    pool = flavour.httpcore.AsyncConnectionPool()
    response = await pool.handle_async_request(
        flavour.httpcore.Request("GET", server.url("/half"), headers={"Host": "x"})
    )
    async with contextlib.aclosing(aiter(response.stream)) as parts:
        assert await anext(parts) == b"first"
    await response.aclose()
    await pool.aclose()
    assert telemetry.counted("httptrace.bodies", "httptrace.body.outcome") == {"closed_early": 1}


async def test_a_connection_that_was_not_counted(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """A connection that was opened under suppression is counted neither as open nor as closed."""
    async with flavour.client() as client:
        with suppress_instrumentation():
            await client.get(server.url())
        assert telemetry.counted("http.client.open_connections", "http.connection.state") == {}

    assert telemetry.metric("httptrace.connections.closed") == {}
    assert telemetry.metric("http.client.connection.duration") == {}


async def test_a_new_start_on_the_same_providers(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """Turned off and on with the same providers, counts start again and nothing is counted twice."""
    for _ in range(3):
        async with flavour.client() as client:
            await client.get(server.url())
            await client.get(server.url())
            assert sum(telemetry.metric("http.client.open_connections").values()) == 1
        assert sum(telemetry.metric("httptrace.requests").values()) == 2
        assert sum(telemetry.metric("httptrace.connections.closed").values()) == 1
        telemetry.uninstrument()
        telemetry.instrument()
        assert telemetry.metric("httptrace.requests") == {}


def test_a_response_open_across_a_fork(server: Server) -> None:
    """A response that is open as the process forks is the parent's: the child may close it, and reports nothing."""
    script = """
        import os, sys, httpx
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from otel_httptrace import HTTPTraceInstrumentor

        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        HTTPTraceInstrumentor().instrument(tracer_provider=provider)

        def told():
            return [span.attributes.get("httptrace.body.outcome") for span in exporter.get_finished_spans()
                    if span.kind.name == "CLIENT"]

        url = sys.argv[1]
        client = httpx.Client()
        response = client.send(client.build_request("GET", url), stream=True)
        other = client.send(client.build_request("GET", url), stream=True)
        pid = os.fork()
        if pid == 0:
            response.close()
            other.read()
            client.get(url)
            client.close()
            print("child", told(), flush=True)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        response.close()
        other.close()
        client.close()
        print("parent", told())
    """
    assert run_script(script, server.url()).splitlines() == [
        "child ['complete']",
        "parent ['closed_early', 'closed_early']",
    ]


def test_sent_again_within_one_span(serve: Callable[..., Server], telemetry: Telemetry) -> None:
    """A transport that sends again within upstream's span: that ends no sooner than upstream would have it."""
    answers = iter([answer(b"", status="503 Service Unavailable"), answer()])
    server = serve({"/": lambda peer, request: peer.send(next(answers))})
    upstream = HTTPXClientInstrumentor()

    class Again(httpx.BaseTransport):
        def __init__(self) -> None:
            self.inner = httpx.HTTPTransport()
            self.answered = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.inner.handle_request(request).read()
            response = self.inner.handle_request(request)
            self.answered = time.time_ns()
            return response

    upstream.uninstrument()
    transport = Again()
    with httpx.Client(transport=transport) as client:
        upstream.instrument_client(client, tracer_provider=telemetry.tracer_provider)
        assert client.get(server.url()).status_code == 200
        transport.inner.close()

    assert (telemetry.request().end_time or 0) >= transport.answered
    assert telemetry.counted("httptrace.requests", "http.conn.reused") == {False: 1, True: 1}


def test_an_unlimited_pool_is_never_full() -> None:
    """Where there is no limit to the connections, an idle one was not dropped to make room, however threads raced."""
    ledger = Ledger(Process(), Limits(connections=None, keepalive=1))
    origin = Origin("http", "origin", 80)
    idle = ledger.created(origin, 1)
    ledger.opened(idle, 2)
    exchange = Exchange(ledger, None, 1, 0)
    ledger.acquired(idle, exchange, 2)
    ledger.released(exchange, 3)
    # Created in the same pass, or by another thread's.
    ledger.created(origin, 4)
    ledger.missed([Missed(idle, readable=False, clean=True)], 5)

    assert idle.doomed is Reason.KEEPALIVE_LIMIT


class _Parts:
    """A body's iterator that is no generator, as a transport of somebody's may have."""

    kind = "theirs"

    def __init__(self, *parts: bytes, error: Exception | None = None) -> None:
        self._parts, self._error = iter(parts), error

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


def _contained(*_: object) -> None:
    raise AssertionError("a fault of ours")


async def _read(parts: Any) -> list[bytes]:
    return [part async for part in parts]


@pytest.mark.parametrize("iteration", [Observed, Drained])
def test_an_iterator_that_is_no_generator_is_read_as_it_is(iteration: type[Observed]) -> None:
    """Its parts, its end and its other attributes are what they were, and the body is told."""
    exchange = Exchange(Ledger(Process(), Limits()), None, 1, 0)
    exchange.headers_at = time.monotonic_ns()
    told: list[BaseException] = []
    parts = iteration(exchange, _Parts(b"one", b"three"), lambda _, error, __: told.append(error), _contained, None)

    assert parts.kind == "theirs"
    assert asyncio.run(_read(parts)) == [b"one", b"three"]
    assert (exchange.bytes_read, exchange.outcome, told) == (8, "complete", [])


def test_what_an_iterator_that_is_no_generator_raises_is_told_and_raised() -> None:
    """The application gets the very exception, after the parts that came before it."""
    exchange = Exchange(Ledger(Process(), Limits()), None, 1, 0)
    exchange.headers_at = time.monotonic_ns()
    told: list[BaseException] = []
    broken = ConnectionResetError()
    parts = Observed(exchange, _Parts(b"one", error=broken), lambda _, error, __: told.append(error), _contained, None)

    with pytest.raises(ConnectionResetError) as raised:
        asyncio.run(_read(parts))
    assert raised.value is broken
    assert told == [broken]
    assert exchange.bytes_read == 3


async def test_a_keepalive_expiry_without_an_end(flavour: Flavour, server: Server, telemetry: Telemetry) -> None:
    """An infinite `keepalive_expiry`, which httpcore takes, is none: such a client's requests are told as any other's."""
    limits = flavour.httpx.Limits(keepalive_expiry=float("inf"))
    async with flavour.client(limits=limits) as client:
        for _ in range(2):
            await client.get(server.url())

    assert telemetry.column("http.conn.reused") == [False, True]


async def test_a_body_that_raises_another_clients_timeout(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """A timeout of another client, raised by what makes the body, is none of this pool's: it failed as it was sent."""
    errors = (flavour.httpx.PoolTimeout("another's"), flavour.httpcore.PoolTimeout("another's"))

    def parts(error: Exception) -> Any:
        yield b"part"
        raise error

    async def parts_later(error: Exception) -> Any:
        yield b"part"
        raise error

    async with flavour.client() as client:
        await client.get(server.url())
        for error in errors:
            body = (parts if flavour.mode == "sync" else parts_later)(error)
            with pytest.raises(type(errors[0])):
                await client.request("POST", server.url(), content=body)

    assert telemetry.column("httptrace.failed_phase")[1:] == ["send", "send"]
    assert telemetry.column("http.conn.reused")[1] is True
    for name in ("httptrace.pool.held_at", "httptrace.timeout"):
        assert telemetry.column(name)[1] is None


async def test_an_address_that_could_not_be_asked_is_asked_again(
    flavour: Flavour, server: Server, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a connection's peer is not known as it opens, it is told from the next request on."""
    ask = seams.address
    monkeypatch.setattr(seams, "address", lambda *_: None)
    async with flavour.client() as client:
        await client.get(server.url())
        monkeypatch.setattr(seams, "address", ask)
        await client.get(server.url())
        await client.get(server.url())
    assert telemetry.column("network.peer.address") == [None, "127.0.0.1", "127.0.0.1"]
    assert telemetry.column("http.conn.reused") == [False, True, True]
