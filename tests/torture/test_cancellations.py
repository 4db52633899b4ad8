"""Requests cancelled at random: the pool is as it would be without us, and nothing of ours is left."""

from __future__ import annotations

import asyncio
import random
import ssl
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from kit.clients import Client, Flavour
from kit.server import open_files
from kit.telemetry import Telemetry

from torture import LONG, SEED
from torture.worlds import SHAPES, Log, Spans, Verdict, World

Make = Callable[[Flavour], World]
(DIAL,) = [shape for shape in SHAPES if shape.name == "dial"]
ASYNC = pytest.mark.modes("asyncio", "trio")

#: At how many turns of the event loop a request is cancelled; one in five has the time to come to its end.
TURNS = range(25)
#: At the last one all are: httpcore 1.0.9 may have lost every connection to earlier cancellations, and wait for ever.
LAST = 80


class Memory:
    """A network without a network: every call lets others run once, so that what runs when is the same each time."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> Stream:
        """A new connection."""
        await self._flavour.sleep(0)
        await self._flavour.sleep(0)
        return Stream(self._flavour)


class Stream:
    """One connection: each request is answered in small pieces."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour, self._left, self._closed = flavour, b"", False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next piece."""
        await self._flavour.sleep(0)
        piece, self._left = self._left[:16], self._left[16:]
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """A request, or part of one."""
        await self._flavour.sleep(0)
        if buffer.endswith(b"\r\n\r\n"):
            self._left += b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + b"x" * 40

    async def aclose(self) -> None:
        """Close it."""
        await self._flavour.sleep(0)
        self._closed = True

    async def start_tls(self, context: ssl.SSLContext, *args: Any) -> Stream:
        """As it is."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Nothing is to be read but what was asked for."""
        return self._closed if info == "is_readable" else None


async def _turns(flavour: Flavour, number: int) -> None:
    for _ in range(number):
        await flavour.sleep(0)


async def _together(flavour: Flavour, client: Client, plan: list[tuple[str, int]]) -> list[str]:
    """Requests at once, each with its target and the turn at which it is cancelled; how each of them ended."""
    ends = ["never"] * len(plan)

    async def request(index: int, target: str) -> None:
        try:
            response = await client.get(f"http://memory.test{target}")
            ends[index] = str(len(response.content))
        except BaseException as error:
            ends[index] = type(error).__name__
            raise

    if flavour.mode == "trio":
        import trio

        async def scoped(index: int, target: str, scope: Any) -> None:
            with scope:
                await request(index, target)

        scopes: list[Any] = [trio.CancelScope() for _ in plan]
        async with trio.open_nursery() as nursery:
            for index, (target, _) in enumerate(plan):
                nursery.start_soon(scoped, index, target, scopes[index])
            for turn in range(LAST + 1):
                await flavour.sleep(0)
                for index, (_, at) in enumerate(plan):
                    if at == turn:
                        scopes[index].cancel()
        return ends
    tasks = [asyncio.ensure_future(request(index, target)) for index, (target, _) in enumerate(plan)]
    for turn in range(LAST + 1):
        await asyncio.sleep(0)
        for index, (_, at) in enumerate(plan):
            if at == turn:
                tasks[index].cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
    return ends


async def _scheduled(flavour: Flavour, rounds: int) -> list[Any]:
    """What became of the requests and of the pool, round by round."""
    drawn = random.Random(f"{SEED} cancellations")
    seen: list[Any] = []
    for _ in range(rounds // 10):
        async with flavour.client(limits=flavour.httpx.Limits(max_connections=2), timeout=None) as client:
            client.pool._network_backend = Memory(flavour)
            for _ in range(10):
                plan = [(f"/{index}", drawn.choice(TURNS) if drawn.random() < 0.8 else LAST) for index in range(3)]
                ends = await _together(flavour, client, plan)
                seen.append((ends, [connection.info() for connection in client.pool.connections], repr(client.pool)))
    return seen


@ASYNC
def test_a_schedule_of_cancellations(flavour: Flavour, bare_telemetry: Telemetry, spans: Spans, log: Log) -> None:
    """Cancelled at the same turns of the event loop, requests end as without us, and the pool is in the same state."""
    rounds = 3400 if LONG else 40

    def play() -> tuple[list[Any], int]:
        if flavour.mode == "trio":
            import trio

            # What is ready at once runs in an order that trio draws.
            trio._core._run._r.seed(SEED)
        with warnings.catch_warnings(record=True) as warned:
            # trio's, of generators that httpcore leaves when it is cancelled.
            warnings.simplefilter("always")
            seen = flavour.run(_scheduled(flavour, rounds))
        return seen, len(warned)

    bare = play()
    bare_telemetry.instrument()
    ours = play()

    assert {"40", "CancelledError" if flavour.mode == "asyncio" else "Cancelled"} <= {
        end for ends, *_ in bare[0] for end in ends
    }
    assert ours == bare, f"with seed {SEED}"
    assert len(bare_telemetry.requests()) == 3 * rounds
    assert (spans.open(), spans.twice(), log.ours()) == ([], [], [])
    assert not any(bare_telemetry.metric("http.client.open_connections").values())


@ASYNC
async def test_cancellations_on_sockets_leave_nothing_open(flavour: Flavour, world: Make, log: Log) -> None:
    """Cancelled at any moment on real sockets, nothing of ours is left open, and the next request is told in full."""
    here = world(flavour)
    verdict = Verdict(here, log)
    drawn = random.Random(f"{SEED} sockets")
    here.server.go.set()
    files = open_files()
    client = here.client(DIAL)
    targets = ["/", "/big", "/chunked", "/half", "/until-close"]

    async def request(target: str) -> None:
        await client.get(here.server.url(target, host=drawn.choice(["127.0.0.1", "localhost"])))

    for number in range(1000 if LONG else 10):
        if number % 10 == 9:
            # Of 10,000 requests cancelled so, httpcore 1.0.9 keeps some five for ever, also without us: too many for a pool.
            await client.close()
            client = here.client(DIAL)
        plan = [(drawn.choice(targets), drawn.randrange(60)) for _ in range(10)]
        await _cancelled_at(flavour, request, plan)
    wrong = await verdict.described(client)
    await client.close()
    verdict.check(not wrong, wrong)
    verdict.nothing_open()
    assert verdict.complaints == [], f"with seed {SEED}"
    assert log.ours() == []
    # What is cancelled in an executor's thread ends on its own.
    await flavour.until(lambda: open_files() <= files + 2)


async def _cancelled_at(flavour: Flavour, request: Callable[[str], Any], plan: list[tuple[str, int]]) -> None:
    # Each after as many turns of the event loop as it has drawn.
    if flavour.mode == "trio":
        import trio

        async def scoped(target: str, at: int) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel, scope, at)
                    await request(target)
                    nursery.cancel_scope.cancel()

        async def _cancel(scope: Any, at: int) -> None:
            await _turns(flavour, at)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            for target, at in plan:
                nursery.start_soon(scoped, target, at)
        return
    tasks = [asyncio.ensure_future(request(target)) for target, _ in plan]
    for turn in range(60):
        await asyncio.sleep(0)
        for task, (_, at) in zip(tasks, plan, strict=True):
            if at == turn:
                task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError), result
