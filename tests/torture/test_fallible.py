"""Everything that we call and that may fail does: the request goes on as if we were not there, and telemetry recovers."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kit.clients import Flavour
from kit.server import Server
from kit.telemetry import Telemetry
from opentelemetry import propagate
from opentelemetry.instrumentation import httpx as upstreams
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from torture import LONG
from torture.injection import posing
from torture.worlds import SHAPES, Log, Verdict, World

Make = Callable[[Flavour], World]
(DIAL,) = [shape for shape in SHAPES if shape.name == "dial"]


def failing_at(function: Callable[..., Any], error: BaseException, at: int) -> Callable[..., Any]:
    """As *function* of C, which leaves no frame, but its call number *at*, from 1, raises *error*."""
    calls = itertools.count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise error
        return function(*args, **kwargs)

    return posing(call)


async def _whole(world: World, log: Log, failing: Callable[[], AbstractContextManager[object]]) -> list[str]:
    """Dial, keep alive, and close early, all while *failing* does its worst; what is wrong after that."""
    verdict = Verdict(world, log)
    client = world.client(DIAL)
    try:
        with failing():
            for shape in SHAPES:
                if shape.name in ("dial", "keep-alive", "early-close", "refused"):
                    await shape.play(world, client)
        wrong = await verdict.described(client, patience=100)
        verdict.check(not wrong, wrong)
    finally:
        await client.close()
    verdict.nothing_open()
    return verdict.complaints


async def test_a_working_directory_that_is_gone(
    flavour: Flavour, world: Make, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that has been deleted, and with the empty entry in `sys.path`, all is as ever."""
    here = world(flavour)
    monkeypatch.syspath_prepend("")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()

    assert await _whole(here, log, _nothing) == []
    assert log.ours() == []


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("name", ["client_addr", "server_addr", "ssl_object", "is_readable"])
async def test_a_stream_that_tells_nothing(
    flavour: Flavour, world: Make, log: Log, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network stream whose `get_extra_info` fails when we ask it does no harm."""
    here = world(flavour)

    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patch:
            for cls in _streams(flavour):
                patch.setattr(cls, "get_extra_info", _asked_by_us(cls.get_extra_info, name))
            yield

    assert await _whole(here, log, failing) == []
    assert len(log.ours()) == len(set(log.ours()))


def _streams(flavour: Flavour) -> list[Any]:
    core = flavour.library.replace("httpx", "httpcore")
    module = {"sync": "sync", "asyncio": "anyio", "trio": "trio"}[flavour.mode]
    name = {"sync": "SyncStream", "asyncio": "AnyIOStream", "trio": "TrioStream"}[flavour.mode]
    return [getattr(sys.modules[f"{core}._backends.{module}"], name)]


def _asked_by_us(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def get_extra_info(self: Any, info: str) -> Any:
        if info == name and "otel_httptrace" in sys._getframe(1).f_code.co_filename:
            raise OSError(107, "Transport endpoint is not connected")
        return original(self, info)

    # As httpcore, or what it asks, raises it.
    return posing(get_extra_info, original.__code__.co_filename)


# What is handed to us, and is somebody else's.


class Broken(Exception):
    """What somebody else's code raises."""


def _broken(*args: Any, **kwargs: Any) -> None:
    raise Broken


class Processor(SpanProcessor):
    """Fails in one of its methods, while it is told to."""

    def __init__(self, method: str, kind: type[BaseException]) -> None:
        self.on, self._method, self._kind = True, method, kind

    def _fail(self, method: str, name: str) -> None:
        # Upstream's span is none of ours to begin: what fails there fails without us.
        if self.on and method == self._method and not (method == "on_start" and name == "GET"):
            raise self._kind("of a processor")

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """See `SpanProcessor`."""
        self._fail("on_start", span.name)

    def on_end(self, span: Any) -> None:
        """See `SpanProcessor`."""
        self._fail("on_end", span.name)


@pytest.mark.parametrize("method", ["on_start", "on_end"])
@pytest.mark.parametrize("times", [1, 30], ids=["once", "often"])
async def test_a_span_processor_that_raises(flavour: Flavour, world: Make, log: Log, method: str, times: int) -> None:
    """A span processor that raises is no fault of ours: nothing is off after it, and no request fails that would not."""
    here = world(flavour)
    verdict = Verdict(here, log)
    processor = Processor(method, Broken)
    here.telemetry.tracer_provider.add_span_processor(processor)
    seen = 0
    async with here.client(DIAL) as client:
        for _ in range(times):
            try:
                await DIAL.play(here, client)
            except Broken:
                seen += 1
        processor.on = False
        # At once: it was not ours, so nothing had to recover.
        wrong = await verdict.described(client)
    # Upstream itself lets out what `on_end` of its own span raises, and of nobody else's.
    assert seen <= (times if method == "on_end" else 0)
    assert wrong == ""
    assert len(log.ours()) == len(set(log.ours()))


class Exporter(SpanExporter):
    """Fails."""

    def export(self, spans: Any) -> Any:
        """See `SpanExporter`."""
        raise Broken("of an exporter")

    def shutdown(self) -> None:
        """See `SpanExporter`."""


async def test_an_exporter_that_raises(flavour: Flavour, world: Make, log: Log) -> None:
    """Nor is an exporter that raises."""
    here = world(flavour)
    verdict = Verdict(here, log)
    here.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    async with here.client(DIAL) as client:
        for _ in range(12):
            await DIAL.play(here, client)
        assert await verdict.described(client) == ""
    assert log.ours() == []


class Sampling(Sampler):
    """Fails for spans other than the request's own, while it is told to."""

    def __init__(self) -> None:
        self.on = True

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> Any:
        """See `Sampler`."""
        if self.on and name != "GET":
            raise Broken("of a sampler")
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, *args, **kwargs)

    def get_description(self) -> str:
        """See `Sampler`."""
        return "Sampling"


async def test_a_sampler_that_raises(flavour: Flavour, server: Server, log: Log) -> None:
    """Nor is a sampler that raises for our child spans: requests go on, and are described once it has stopped."""
    sampler = Sampling()
    telemetry = Telemetry(sampler)
    telemetry.instrument(spans="all")
    try:
        async with flavour.client() as client:
            for _ in range(12):
                assert (await client.get(server.url())).content == b"hello"
            sampler.on = False
            telemetry.exporter.clear()
            await client.get(server.url())
        (span,) = telemetry.requests()
        assert telemetry.tree(span)
        assert len(log.ours()) == len(set(log.ours()))
    finally:
        telemetry.uninstrument()
        telemetry.shutdown()


async def test_a_propagator_that_raises(
    flavour: Flavour, world: Make, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A propagator that raises fails the request, as with upstream alone, and leaves nothing of ours behind."""
    here = world(flavour)
    verdict = Verdict(here, log)
    async with here.client(DIAL) as client:
        with monkeypatch.context() as patch:
            patch.setattr(propagate.get_global_textmap(), "inject", _broken)
            for _ in range(12):
                with pytest.raises(Broken):
                    await DIAL.play(here, client)
        assert await verdict.described(client) == ""
    verdict.nothing_open()
    assert verdict.complaints == []


async def test_a_log_that_raises(flavour: Flavour, world: Make, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logging handler that raises does so in nobody's request."""
    here = world(flavour)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Broken("of a logging handler")

    handler = Handler()
    logger = logging.getLogger("otel_httptrace")

    @contextmanager
    def failing() -> Iterator[None]:
        logger.addHandler(handler)
        with monkeypatch.context() as patch:
            for cls in _streams(flavour):
                for name in ("server_addr", "client_addr"):
                    patch.setattr(cls, "get_extra_info", _asked_by_us(cls.get_extra_info, name))
            yield
        logger.removeHandler(handler)

    assert await _whole(here, log, failing) == []


async def test_a_clock_that_fails(flavour: Flavour, world: Make, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock fails for us, it fails for us alone."""
    here = world(flavour)
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("otel_httptrace.")]

    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patch:
            for module in modules:
                for name, value in list(vars(module).items()):
                    if value in (time.monotonic_ns, time.time_ns):
                        patch.setattr(module, name, failing_at(value, OSError("no clock"), 3))
            yield

    assert await _whole(here, log, failing) == []


async def test_a_metric_reader_that_fails(
    flavour: Flavour, world: Make, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that fails to take what was collected takes nothing from its next collection."""
    here = world(flavour)
    verdict = Verdict(here, log)
    async with here.client(DIAL) as client:
        for _ in range(12):
            await DIAL.play(here, client)
            with monkeypatch.context() as patch:
                patch.setattr(here.telemetry._reader, "_receive_metrics", _broken)
                with pytest.raises(Broken):
                    here.telemetry._reader.collect()
        assert await verdict.described(client) == ""
    assert sum(here.telemetry.metric("httptrace.requests").values()) == 15
    verdict.nothing_open()
    assert verdict.complaints == []
    assert log.ours() == []


# Near the recursion limit.


def _deep(depth: int, function: Callable[[], Any]) -> Any:
    return function() if not depth else _deep(depth - 1, function)


async def _outcomes(flavour: Flavour, url: str, depths: range) -> list[bool]:
    """At which depths a request succeeds."""
    found = []
    for depth in depths:
        async with flavour.client() as client:
            await client.get(url)
            try:
                found.append(_deep(depth, partial(client.raw.get, url)).content == b"hello")
            except RecursionError:
                found.append(False)
    return found


@pytest.mark.modes("sync")
async def test_near_the_recursion_limit_all_is_well_after(
    flavour: Flavour, world: Make, bare_telemetry: Telemetry, log: Log
) -> None:
    """Near the recursion limit a request fails only where the frames of our hooks did not fit, and all is well after."""
    upstream = getattr(
        upstreams, {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}[flavour.library]
    )
    here = world(flavour)
    url = here.server.url()
    frame: Any = sys._getframe()
    used = 0
    while frame is not None:
        used, frame = used + 1, frame.f_back
    step = 1 if LONG else 4
    depths = range(sys.getrecursionlimit() - used - 130, sys.getrecursionlimit() - used - 4, step)
    here.telemetry.uninstrument()
    upstream().instrument(tracer_provider=bare_telemetry.tracer_provider)
    theirs = await _outcomes(flavour, url, depths)
    upstream().uninstrument()
    here.telemetry.instrument()
    ours = await _outcomes(flavour, url, depths)
    assert theirs[0] and ours[0] and not theirs[-1]
    # Hooks on the pool, the connection, the stream and the resolver, each with a call of its own.
    assert sum(theirs) - sum(ours) <= 12 / step
    assert len(log.ours()) == len(set(log.ours()))
    verdict = Verdict(here, log)
    async with here.client(DIAL) as client:
        assert await verdict.described(client, patience=100) == ""
    verdict.nothing_open()
    assert verdict.complaints == []
