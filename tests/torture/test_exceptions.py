"""An exception at every bytecode of our code: the application's comes out, ours does not, and nothing is left open."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
from kit.clients import Flavour
from kit.server import open_files
from kit.telemetry import replaced

from torture import LONG, SEED
from torture.injection import Alarm, Fault, Injection, Place, Raising, Stop, Watchdog, posing
from torture.worlds import SHAPES, Log, Shape, Unraisable, Verdict, World

Make = Callable[[Flavour], World]


def _for(flavour: Flavour, shape: Shape) -> None:
    if flavour.mode not in shape.modes:
        pytest.skip("not in this flavour")


async def _count(world: World, shape: Shape, *, ours: bool) -> list[Place]:
    """The bytecodes of ours that *shape* runs, once types are known that we see for the first time."""
    injection = Injection(ours=ours)
    for counted in (contextlib.nullcontext(), injection):
        client = world.client(shape)
        if shape.prepare is not None:
            await shape.prepare(world, client)
        with counted:
            await shape.play(world, client)
        await client.close()
    return injection.places


class Try:
    """One try: *shape* is played, something happens within our code, and a verdict."""

    def __init__(self, world: World, shape: Shape, log: Log) -> None:
        self._world, self._shape, self._log = world, shape, log
        self._verdict = Verdict(world, log)
        log.said.clear()

    async def signal(self, at: int, kind: type[BaseException], *, again: bool) -> tuple[Place | None, list[str]]:
        """The application's signal handler raises before bytecode *at*."""
        handler, check = Raising(kind), self._verdict.check

        def over(seen: BaseException | None) -> None:
            if handler.raised:
                check(seen is not None, "the application's exception was lost")
                check(seen is None or seen in handler.raised, f"instead of it: {seen!r}")
                handler.raised.clear()
            elif seen is not None:
                raise seen

        with handler:
            place = await self._play(Injection(handler.arrive, at, again=again), over, patience=3)
        check(not self._log.ours(), f"logged: {self._log.ours()}")
        return place, self._verdict.complaints

    async def fault(self, at: int, *, again: bool) -> tuple[Place | None, list[str]]:
        """Our own code fails at bytecode *at*."""
        check = self._verdict.check

        def fail(place: Place) -> None:
            raise Fault

        def over(seen: BaseException | None) -> None:
            check(seen is None, f"the application saw {seen!r}")

        place = await self._play(Injection(posing(fail), at, again=again, ours=True), over, patience=100)
        said = self._log.ours()
        check(len(said) == len(set(said)) if again else len(said) < 2, f"logged: {said}")
        return place, self._verdict.complaints

    async def _play(self, injection: Injection, over: Callable[[Any], None], patience: int) -> Place | None:
        world, shape, verdict = self._world, self._shape, self._verdict
        client = world.client(shape)
        seen: BaseException | None = None
        try:
            if shape.prepare is not None:
                await shape.prepare(world, client)
            # A collection that comes by itself would come at another bytecode each time.
            gc.disable()
            with Watchdog(), Unraisable() as unraisable:
                try:
                    with injection:
                        await shape.play(world, client)
                except (Alarm, Stop, Fault, AssertionError) as error:
                    seen = error
            over(seen)
            seen = None
            verdict.check(not unraisable.lost, f"lost in a finaliser: {unraisable.lost}")
            wrong = await verdict.described(client, patience)
            verdict.check(not wrong, wrong)
        finally:
            gc.enable()
            await client.close()
        verdict.nothing_open()
        return injection.place


async def _nothing_is_left(here: World, files: int) -> None:
    # No hook, and no file open that was not.
    assert replaced(here.before) == []
    # The server closes its ends in threads of its own, once it has nothing to wait for.
    here.server.go.set()
    await here.flavour.until(lambda: open_files() <= files)


def _report(shape: Shape, wrong: dict[str, list[str]], tried: int) -> str:
    lines = [f"{place}: {'; '.join(complaints)}" for place, complaints in wrong.items()]
    return "\n".join([f"{len(wrong)} of {tried} on {shape}, with seed {SEED}:", *lines])


def _drawn(places: list[Place], many: int, what: object) -> list[int]:
    """The numbers of so many of *places*, or of all where there are no more."""
    return sorted(random.Random(f"{SEED} {what}").sample(range(1, len(places) + 1), min(many, len(places))))


def _one_of_each_function(places: list[Place], what: object) -> list[int]:
    """The number of one place in each function of ours."""
    within: dict[object, list[int]] = {}
    for number, place in enumerate(places, 1):
        within.setdefault(place.code, []).append(number)
    drawn = random.Random(f"{SEED} {what}")
    return sorted(drawn.choice(numbers) for numbers in within.values())


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
async def test_a_signal_handlers_exception(flavour: Flavour, shape: Shape, world: Make, log: Log) -> None:
    """What a signal handler raises at any bytecode of ours comes out at once; nothing is lost, open or off after it."""
    _for(flavour, shape)
    here = world(flavour)
    places = await _count(here, shape, ours=False)
    assert places
    files, wrong, tried = open_files(), {}, 0
    variants = [(kind, again) for kind in (Alarm, Stop) for again in (False, True)]
    for number in range(1, len(places) + 1) if LONG else _one_of_each_function(places, (flavour, shape)):
        for kind, again in variants if LONG else [variants[number % 4]]:
            tried += 1
            place, complaints = await Try(here, shape, log).signal(number, kind, again=again)
            if complaints:
                wrong[f"{place} {kind.__name__}{' again' if again else ''}"] = complaints
                here.afresh()
    here.telemetry.uninstrument()
    assert not wrong, _report(shape, wrong, tried)
    await _nothing_is_left(here, files)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
async def test_a_fault_of_ours(flavour: Flavour, shape: Shape, world: Make, log: Log) -> None:
    """What fails in our code is never seen by the application, logged once, and over within 100 requests."""
    _for(flavour, shape)
    here = world(flavour)
    places = await _count(here, shape, ours=True)
    assert places
    files, wrong, tried = open_files(), {}, 0
    for number in _drawn(places, 150 if LONG else 8, (flavour, shape)):
        for again in (False, True) if LONG else [bool(number % 2)]:
            tried += 1
            place, complaints = await Try(here, shape, log).fault(number, again=again)
            if complaints:
                wrong[f"{place}{' again' if again else ''}"] = complaints
                here.afresh()
    here.telemetry.uninstrument()
    assert not wrong, _report(shape, wrong, tried)
    await _nothing_is_left(here, files)
