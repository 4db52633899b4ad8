"""What is played while something goes wrong, and whether everything is as it should be after that."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from kit.clients import Client, Flavour
from kit.http2 import H2Server
from kit.server import Server, free_port
from kit.telemetry import Patchable, Telemetry, replaced, restore
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from torture.injection import Alarm, Stop

#: What every request span says that is described in full.
ALWAYS = frozenset(
    {
        "http.conn.reused",
        "httptrace.conn.id",
        "httptrace.conn.requests",
        "network.peer.address",
        "network.peer.port",
        "httptrace.time.wait",
        "httptrace.time.receive",
        "httptrace.body.outcome",
        "http.response.body.size",
    }
)
#: And one that was carried by a connection that had been idle, or that opened one.
REUSED = ALWAYS | {"httptrace.conn.idle"}
DIALLED = ALWAYS | {"httptrace.conn.open_reason", "httptrace.time.connect"}


class Spans(SpanProcessor):
    """Every span that began, and how often it ended."""

    def __init__(self) -> None:
        self.begun: dict[int, str] = {}
        self.ended: Counter[int] = Counter()

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """See `SpanProcessor`."""
        assert span.context is not None
        self.begun[span.context.span_id] = span.name

    def on_end(self, span: ReadableSpan) -> None:
        """See `SpanProcessor`."""
        assert span.context is not None
        self.ended[span.context.span_id] += 1

    def open(self) -> list[str]:
        """Those that have not ended."""
        return [name for number, name in self.begun.items() if not self.ended[number]]

    def twice(self) -> list[str]:
        """Those that have ended more than once."""
        return [self.begun[number] for number, times in self.ended.items() if times > 1]

    def forget(self) -> None:
        """All there were."""
        self.begun.clear()
        self.ended.clear()


class Log(logging.Handler):
    """What was said on loggers, by name of the logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self.said.append((record.name, record.getMessage()))
        # pytest keeps all records, and so the frames of the traceback and what these hold: a response that is leaked
        # would never be collected.
        record.exc_info = None

    def ours(self) -> list[str]:
        """What we said."""
        return [text for name, text in self.said if name.startswith("otel_httptrace")]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Log]:
        """To all that is logged."""
        logger = logging.getLogger()
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)


class Unraisable:
    """Exceptions that were lost in a finaliser or a callback of the interpreter's."""

    def __init__(self) -> None:
        self.lost: list[BaseException] = []

    def __enter__(self) -> Unraisable:
        self._former = sys.unraisablehook
        sys.unraisablehook = self._note
        return self

    def _note(self, unraisable: Any) -> None:
        # Not a socket that the interpreter closes, or a coroutine, as the exception came before anybody had it.
        if not isinstance(unraisable.exc_value, Warning):
            self.lost.append(unraisable.exc_value)

    def __exit__(self, *exc_info: object) -> None:
        sys.unraisablehook = self._former


class World(NamedTuple):
    """Where a request is made."""

    flavour: Flavour
    server: Server
    secure: Server
    http2: H2Server
    tls: ssl.SSLContext
    telemetry: Telemetry
    spans: Spans
    #: What there was before it was instrumented.
    before: Patchable

    def afresh(self) -> None:
        """Instrument again, even if something is left, so that the next try is a first one again."""
        self.telemetry.uninstrument()
        if replaced(self.before):
            restore(self.before)
            self.telemetry.instrumentor._lifetime = None
        self.telemetry.instrument()
        self.spans.forget()

    def client(self, shape: Shape) -> Client:
        """A client for *shape*."""
        return self.flavour.client(verify=self.tls, http2=True) if shape.http2 else self.flavour.client(verify=self.tls)


class Shape(NamedTuple):
    """A way in which a request may go."""

    name: str
    play: Callable[[World, Client], Awaitable[object]]
    prepare: Callable[[World, Client], Awaitable[object]] | None = None
    http2: bool = False
    modes: tuple[str, ...] = ("sync", "asyncio", "trio")
    #: Whether its requests must hold a connection for the next one.
    keeps: bool = True

    def __repr__(self) -> str:
        return self.name


async def _get(world: World, client: Client) -> None:
    response = await client.get(world.server.url())
    assert (response.status_code, response.content) == (200, b"hello")


async def _get_by_name(world: World, client: Client) -> None:
    response = await client.get(world.server.url("/chunked", host="localhost"))
    assert (response.status_code, response.content) == (200, b"onethree")


async def _get_secure(world: World, client: Client) -> None:
    response = await client.get(world.secure.url(host="localhost"))
    assert (response.status_code, response.content) == (200, b"hello")


async def _get_http2(world: World, client: Client) -> None:
    for _ in range(2):
        response = await client.get(world.http2.url(host="localhost"))
        assert (response.status_code, response.content) == (200, b"hello")


async def _early_close(world: World, client: Client) -> None:
    # Not out of an iteration: what comes while that is finalised would be lost in any case.
    async with client.stream("GET", world.server.url("/big")):
        pass


async def _no_answer(world: World, client: Client) -> None:
    try:
        await client.get(world.server.url("/no-answer"))
    except world.flavour.httpx.RemoteProtocolError:
        return
    raise AssertionError("it was answered")


# One for all: of ever new origins the SDK remembers each, and a collection takes ever longer.
_nobody = functools.cache(free_port)


async def _refused(world: World, client: Client) -> None:
    try:
        await client.get(f"http://127.0.0.1:{_nobody()}/")
    except world.flavour.httpx.ConnectError:
        return
    raise AssertionError("it was accepted")


async def _broken(world: World, client: Client) -> None:
    world.server.go.set()
    try:
        await client.get(world.server.url("/half-closed"))
    except world.flavour.httpx.RemoteProtocolError:
        return
    raise AssertionError("it was complete")


async def _leaked(world: World, client: Client) -> None:
    await client.open("GET", world.server.url())
    gc.collect()
    await _get(world, client)


async def _cancelled(world: World, client: Client) -> None:
    flavour, held = world.flavour, _held(world)
    raised: list[BaseException] = []
    over = threading.Event()

    async def request() -> None:
        # What the application sees within, save its cancellation.
        try:
            await client.get(world.server.url("/held"))
        except (Exception, Stop) as error:
            raised.append(error)
        except BaseException as error:
            # A cancellation that comes as httpcore still closes what failed overtakes what it failed of, also without us.
            overtaken = error.__context__
            while overtaken is not None and not isinstance(overtaken, (Alarm, Stop)):
                overtaken = overtaken.__context__
            if overtaken is not None:
                raised.append(overtaken)
            raise
        finally:
            over.set()

    if flavour.mode == "trio":
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await flavour.until(lambda: _held(world) > held or over.is_set())
            nursery.cancel_scope.cancel()
    else:
        import asyncio

        task = asyncio.ensure_future(request())
        await flavour.until(lambda: _held(world) > held or over.is_set())
        task.cancel()
        await asyncio.wait([task])
    for error in raised:
        raise error


def _held(world: World) -> int:
    return sum(request.target == "/held" for request in list(world.server.requests))


SHAPES = (
    Shape("keep-alive", _get, _get),
    Shape("dial", _get_by_name),
    Shape("early-close", _early_close, _get),
    Shape("no-answer", _no_answer),
    Shape("refused", _refused),
    Shape("broken-body", _broken),
    Shape("tls", _get_secure),
    Shape("http2", _get_http2, http2=True),
    Shape("leaked", _leaked),
    Shape("cancelled", _cancelled, modes=("asyncio", "trio")),
)


#: How many requests are looked at after something went wrong.
_NEXT = 3


def _missing(spans: list[ReadableSpan]) -> Iterator[str]:
    # Of requests, one after the other.
    if len(spans) != _NEXT:
        yield f"{len(spans)} of the next {_NEXT} spans have ended"
    for number, span in enumerate(spans, 1):
        said = dict(span.attributes or {})
        reused = number == _NEXT or said.get("http.conn.reused")
        # Since when a connection is idle may be what could not be noted: then it is absent, once.
        wanted = DIALLED if not reused else REUSED if number == _NEXT else ALWAYS
        if missing := wanted - set(said):
            lacks = "says nothing" if not set(said) & wanted else f"lacks {sorted(missing)}"
            yield f"next request, {number}: {lacks}"
        elif said["httptrace.body.outcome"] != "complete" or bool(reused) is not said["http.conn.reused"]:
            yield f"next request, {number}: says {said}"


class Verdict:
    """What is wrong after something went wrong: empty, or a list of complaints."""

    def __init__(self, world: World, log: Log) -> None:
        self._world, self._log = world, log
        self.complaints: list[str] = []
        self._left = self._counted()

    def _counted(self) -> dict[Any, Any]:
        counts = self._world.telemetry.metrics()
        names = ("http.client.open_connections", "httptrace.responses.open")
        return {(name, key): value for name in names for key, value in counts.get(name, {}).items() if value}

    def check(self, condition: object, complaint: str) -> None:
        """Complain unless *condition* holds."""
        if not condition:
            self.complaints.append(complaint)

    async def described(self, client: Client, patience: int = _NEXT) -> str:
        """Make up to *patience* requests until three in a row are described in full; what is missing of the last ones.

        The third one is on a kept connection.
        """
        telemetry, wrong = self._world.telemetry, ""
        for _ in range(patience // _NEXT):
            since = time.time_ns()
            for _ in range(_NEXT):
                await _get(self._world, client)
            spans = [span for span in telemetry.requests() if (span.start_time or 0) >= since]
            telemetry.exporter.clear()
            wrong = "; ".join(_missing(spans))
            if not wrong:
                break
        return wrong

    def nothing_open(self) -> None:
        """After the client was closed."""
        spans = self._world.spans
        if spans.open():
            # What nobody holds any more ends with the next collection of garbage and of metrics.
            gc.collect()
        left = {f"{name} {dict(key)}: {value}" for (name, key), value in self._counted().items() - self._left.items()}
        self.check(not spans.open(), f"spans left open: {spans.open()}")
        self.check(not spans.twice(), f"spans ended twice: {spans.twice()}")
        self.check(not left, f"left: {left}")
        spans.forget()
