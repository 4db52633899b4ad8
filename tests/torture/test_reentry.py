"""Our code is interrupted by code that runs it again: nothing waits for itself, and both come to their end."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from kit.clients import Client, Flavour
from opentelemetry.sdk.trace import SpanProcessor

from torture import LONG
from torture.injection import Fault, Handler, Injection, Place, Watchdog, posing
from torture.worlds import SHAPES, Log, Shape, Verdict, World

Make = Callable[[Flavour], World]
SOME = [shape for shape in SHAPES if LONG or shape.name in ("dial", "http2", "leaked")]


class Within:
    """What runs in between: a whole request, and a collection of metrics."""

    def __init__(self, world: World, outer: Client, shape: Shape) -> None:
        self._world = world
        self._other = Flavour(world.flavour.library, "sync").client()
        # HTTP/2 holds a lock of its connection while it is dialled: whoever waits for that waits for itself.
        self._shared = outer if world.flavour.sync and not shape.http2 else None
        self.times = 0
        self._busy = False

    def __call__(self, *ignored: object) -> None:
        """Do it, but not within itself."""
        if self._busy:
            return
        self._busy = True
        try:
            self._do()
        finally:
            self._busy = False

    def _do(self) -> None:
        self.times += 1
        client = self._other.raw
        if self._shared is not None and not _locked(self._shared.pool):
            client = self._shared.raw
        assert client.get(self._world.server.url()).content == b"hello"
        self._world.telemetry.metrics()

    async def close(self) -> None:
        """Its own client."""
        await self._other.close()


def _locked(pool: Any) -> bool:
    # The pool's own lock is held while it decides: without us, too, no request can be made then.
    lock = pool._optional_thread_lock._lock
    # httpcore2's is re-entrant, but what it holds then is half-done.
    return bool(lock.locked() if hasattr(lock, "locked") else lock._is_owned())


async def _interrupted(
    world: World, shape: Shape, log: Log, act: Callable[[Within], Callable[[Place], object]]
) -> None:
    """Play *shape*, interrupted all over; in the long form at every bytecode there is."""
    verdict = Verdict(world, log)
    starts, step = (range(1, 41), 40) if LONG else (range(7, 8), 53)
    for start in starts:
        client = world.client(shape)
        within = Within(world, client, shape)
        try:
            if shape.prepare is not None:
                await shape.prepare(world, client)
            with Watchdog():
                with Injection(act(within), start, every=step):
                    await shape.play(world, client)
                assert within.times
                wrong = await verdict.described(client)
            verdict.check(not wrong, wrong)
        finally:
            await client.close()
            await within.close()
        verdict.nothing_open()
    assert verdict.complaints == []
    assert log.ours() == []


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
async def test_a_signal_handler_that_makes_a_request(flavour: Flavour, shape: Shape, world: Make, log: Log) -> None:
    """A signal handler may make requests, with the very client that it interrupts, and collect metrics."""
    if flavour.mode not in shape.modes:
        pytest.skip("not in this flavour")
    current: list[Within] = []

    def handler(frame: FrameType | None) -> None:
        current[-1]()

    def act(within: Within) -> Callable[[Place], object]:
        current.append(within)
        return Handler.arrive

    with Handler(handler):
        await _interrupted(world(flavour), shape, log, act)


class Last:
    """Garbage that does something at its end."""

    def __init__(self, does: Callable[[], None]) -> None:
        self._does, self.itself = does, self

    def __del__(self) -> None:
        self._does()


@pytest.mark.parametrize("shape", SOME, ids=repr)
async def test_a_finaliser_that_makes_a_request(flavour: Flavour, shape: Shape, world: Make, log: Log) -> None:
    """So may a finaliser that the garbage collector runs while we are at work."""
    if flavour.mode not in shape.modes:
        pytest.skip("not in this flavour")

    def act(within: Within) -> Callable[[Place], object]:
        def collect(place: Place) -> None:
            Last(within)
            gc.collect()

        return collect

    await _interrupted(world(flavour), shape, log, act)


class Calling(SpanProcessor):
    """Makes a request when a span ends, but not for that request's own."""

    def __init__(self, does: Callable[[], None]) -> None:
        self._does, self.busy, self.times = does, False, 0

    def on_end(self, span: Any) -> None:
        """See `SpanProcessor`."""
        if not self.busy:
            self.busy, self.times = True, self.times + 1
            self._does()
            self.busy = False


@pytest.mark.parametrize("shape", SOME, ids=repr)
async def test_a_span_processor_that_makes_a_request(flavour: Flavour, shape: Shape, world: Make, log: Log) -> None:
    """So may a span processor, as one does that exports by httpx."""
    if flavour.mode not in shape.modes:
        pytest.skip("not in this flavour")
    here = world(flavour)
    verdict = Verdict(here, log)
    client = here.client(shape)
    within = Within(here, client, shape)
    processor = Calling(within)
    here.telemetry.tracer_provider.add_span_processor(processor)
    with Watchdog():
        if shape.prepare is not None:
            await shape.prepare(here, client)
        await shape.play(here, client)
    assert processor.times
    processor.busy = True
    wrong = await verdict.described(client)
    await client.close()
    await within.close()
    verdict.check(not wrong, wrong)
    verdict.nothing_open()
    assert verdict.complaints == []
    assert log.ours() == []


async def test_a_log_that_makes_a_request(flavour: Flavour, world: Make, log: Log) -> None:
    """So may the logging handler that is told of a fault of ours."""
    here = world(flavour)
    (shape,) = [shape for shape in SHAPES if shape.name == "dial"]
    counting = Injection(ours=True)
    async with here.client(shape) as client:
        with counting:
            await shape.play(here, client)

    def fail(place: Place) -> None:
        raise Fault

    said = 0
    for at in range(5, counting.count, counting.count // (40 if LONG else 6)):
        verdict = Verdict(here, log)
        async with here.client(shape) as client:
            within = Within(here, client, shape)

            class Calls(logging.Handler):
                def emit(self, record: logging.LogRecord, within: Within = within) -> None:
                    within()

            handler = Calls()
            logging.getLogger("otel_httptrace").addHandler(handler)
            try:
                with Watchdog(), Injection(posing(fail), at, ours=True):
                    await shape.play(here, client)
            finally:
                logging.getLogger("otel_httptrace").removeHandler(handler)
            said += within.times
            wrong = await verdict.described(client, patience=100)
            await within.close()
        verdict.check(not wrong, wrong)
        verdict.nothing_open()
        assert verdict.complaints == []
    assert said
