"""Turned on and off, forked and collected under load."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kit.clients import Flavour
from kit.scripts import run_script
from kit.server import Server
from kit.telemetry import Telemetry, patchable, replaced

from torture import LONG
from torture.worlds import SHAPES, Log, Spans, Verdict, World

Make = Callable[[Flavour], World]


@pytest.mark.modes("sync", "asyncio")
def test_turned_on_and_off_under_load(
    flavour: Flavour, server: Server, bare_telemetry: Telemetry, spans: Spans, log: Log
) -> None:
    """Turned on and off while threads make requests: none of these fails, and in the end there is nothing of ours."""
    before = patchable()
    over, errors, made = threading.Event(), [], [0, 0, 0]

    async def requests(index: int) -> None:
        while not over.is_set():
            async with flavour.client() as client:
                for target in ("/", "/chunked", "/close", "/"):
                    assert (await client.get(server.url(target))).status_code == 200
                    made[index] += 1
                async with client.stream("GET", server.url("/big")):
                    pass

    def work(index: int) -> None:
        try:
            flavour.run(requests(index))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(made))]
    for thread in threads:
        thread.start()
    for _ in range(500 if LONG else 8):
        seen = list(made)
        bare_telemetry.instrument()
        # Until each of them has been through it.
        while not errors and any(now < then + 2 for now, then in zip(made, seen, strict=True)):
            over.wait(0.001)
        bare_telemetry.uninstrument()
    over.set()
    for thread in threads:
        thread.join()

    assert errors == []
    assert replaced(before) == []
    assert (spans.open(), spans.twice(), log.ours()) == ([], [], [])
    assert not any(bare_telemetry.metric("httptrace.responses.open").values())


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
async def test_the_collector_at_every_allocation(flavour: Flavour, shape: Any, world: Make, log: Log) -> None:
    """With the garbage collector at work at every allocation, all goes as ever."""
    if flavour.mode not in shape.modes:
        pytest.skip("not in this flavour")
    here = world(flavour)
    former = gc.get_threshold()
    for _ in range(20 if LONG else 1):
        verdict = Verdict(here, log)
        client = here.client(shape)
        try:
            if shape.prepare is not None:
                await shape.prepare(here, client)
            gc.set_threshold(1, 1, 1)
            await shape.play(here, client)
            gc.set_threshold(*former)
            wrong = await verdict.described(client)
        finally:
            gc.set_threshold(*former)
            await client.close()
        verdict.check(not wrong, wrong)
        verdict.nothing_open()
        assert verdict.complaints == []
    assert log.ours() == []


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_children_forked_under_load_make_their_requests(library: str, server: Server) -> None:
    """Children forked while threads make requests make their own, and end; the parent goes on."""
    script = """
        import importlib, os, sys, threading, time
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from otel_httptrace import HTTPTraceInstrumentor

        library, url, forks = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        reader = InMemoryMetricReader()
        HTTPTraceInstrumentor().instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider([reader]))
        over, errors, made = threading.Event(), [], [0] * 3
        verify = library.create_ssl_context(verify=False)

        def work(index):
            try:
                while not over.is_set():
                    with library.Client(verify=verify) as client:
                        for _ in range(5):
                            client.get(url)
                            made[index] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(forks):
            seen = list(made)
            while not errors and any(now < then + 1 for now, then in zip(made, seen)):
                time.sleep(0.001)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with library.Client(verify=verify) as client:
                        code = 0 if [client.get(url).status_code for _ in range(2)] == [200, 200] else 2
                finally:
                    os._exit(code)
            patience = time.monotonic() + 20
            while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                if time.monotonic() > patience:
                    os.kill(pid, 9)
                time.sleep(0.001)
            assert ended[1] == 0, ended
        over.set()
        for thread in threads:
            thread.join()
        assert not errors, errors
        HTTPTraceInstrumentor().uninstrument()
        print("over")
    """
    assert run_script(script, library, server.url(), "30" if LONG else "3") == "over\n"
