"""One of each kind of request, to the servers in the variable SERVERS; then it waits for its input to end.

The names ``shop.test`` and ``nowhere.test`` are for the resolver to know, and some_sdk is installed.
"""

import asyncio
import gc
import json
import os
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import some_sdk

at = json.loads(os.environ["SERVERS"])
trusted = ssl.create_default_context(cafile=at["ca"])


def tried(call: Callable[..., object], *arguments: str, **options: Any) -> None:
    try:
        call(*arguments, **options)  # <- undecodable
    except httpx.HTTPError:
        pass
    else:
        raise AssertionError(arguments)


def streamed(client: httpx.Client, url: str) -> httpx.Response:
    return client.send(client.build_request("GET", url), stream=True)  # <- forgotten


def well(client: httpx.Client) -> None:
    client.get(f"{at['name']}/first")
    client.get(f"{at['name']}/second")
    client.get(f"{at['name']}/trickle")
    client.post(f"{at['name']}/upload", content=bytes(8_000_000))


def closed_early(client: httpx.Client) -> None:
    response = streamed(client, f"{at['name']}/left")
    response.close()  # <- left
    client.get(f"{at['name']}/after-left")
    some_sdk.exists(client, f"{at['name']}/sdk")  # <- sdk


def failed(client: httpx.Client) -> None:
    tried(client.get, f"{at['http']}/half")
    tried(client.get, f"{at['http']}/no-answer")
    tried(client.get, f"{at['dead']}/refused")
    tried(client.get, f"{at['nowhere']}/no-such-name")
    tried(client.get, f"{at['https']}/untrusted")


def waited() -> None:
    with httpx.Client(limits=httpx.Limits(max_connections=1), timeout=60) as client:
        holding = streamed(client, f"{at['http']}/holding")
        tried(client.get, f"{at['http']}/too-late", timeout=httpx.Timeout(60, pool=0.05))
        holding.read()


async def cancelled() -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.send(client.build_request("GET", f"{at['http']}/cancelled"), stream=True)
        try:
            await asyncio.wait_for(response.aread(), 0.05)
        except asyncio.TimeoutError:
            return
    raise AssertionError


def otherwise() -> None:
    with httpx.Client(http2=True, verify=trusted, timeout=60) as client:
        client.get(f"{at['h2']}/h2-first")
        client.get(f"{at['h2']}/h2-second")
    with httpx.Client(transport=httpx.HTTPTransport(uds=at["socket"]), timeout=60) as client:
        client.get("http://localhost/unix")
    with httpx.Client(proxy=at["proxy"], verify=trusted, timeout=60) as client:
        client.get(f"{at['https']}/proxied")
    with httpx.Client(proxy=at["refusing"], verify=trusted, timeout=60) as client:
        tried(client.get, f"{at['https']}/refused-by-proxy")


def with_evidence(client: httpx.Client) -> None:
    client.get(f"{at['http']}/gap")
    tried(client.get, f"{at['http']}/timed-out", timeout=httpx.Timeout(60, read=0.2))
    tried(client.get, f"{at['http']}/undecodable")


class Waiting:
    """Set once the request waits for its response."""

    def __init__(self, phase: str = "http11.receive_response_headers.started") -> None:
        self.event, self.phase = asyncio.Event(), phase
        self.extensions = {"trace": self.trace}

    async def trace(self, name: str, info: dict[str, Any]) -> None:
        if name == self.phase:
            self.event.set()


async def stood_still() -> None:
    waiting = Waiting()
    async with httpx.AsyncClient(timeout=60) as client:
        url, timeout = f"{at['http']}/stood-still", httpx.Timeout(60, read=0.3)
        task = asyncio.create_task(client.get(url, timeout=timeout, extensions=waiting.extensions))
        await waiting.event.wait()
        time.sleep(0.9)
        await asyncio.wait([task])
        assert isinstance(task.exception(), httpx.ReadTimeout)


async def closed_in_use() -> None:
    waiting = Waiting()
    client = httpx.AsyncClient(timeout=60)
    task = asyncio.create_task(client.get(f"{at['http']}/closed-in-use", extensions=waiting.extensions))
    await waiting.event.wait()
    await some_sdk.close(client)  # <- closed in use
    await asyncio.wait([task])
    assert task.exception() is not None


def in_two_loops() -> None:
    client = httpx.AsyncClient(timeout=60)
    asyncio.run(client.get(f"{at['http']}/in-its-loop"))
    try:
        asyncio.run(client.get(f"{at['http']}/in-another-loop"))
    except RuntimeError:
        return
    raise AssertionError


async def streams() -> None:
    waiting = Waiting("http2.receive_response_headers.started")
    async with httpx.AsyncClient(http2=True, verify=trusted, timeout=60) as client:
        await client.get(f"{at['limited']}/h2-limited")
        url = f"{at['limited']}/h2-held"
        held = asyncio.create_task(client.get(url, extensions=waiting.extensions))
        await waiting.event.wait()
        await client.get(f"{at['limited']}/h2-waited")
        await held
        try:
            await client.get(f"{at['limited']}/h2-reset")
        except httpx.RemoteProtocolError:
            pass
        await client.get(f"{at['limited']}/h2-again")


def forgotten(client: httpx.Client) -> None:
    streamed(client, f"{at['name']}/forgotten")


# Timeouts are for those that have one of their own.
# A loaded machine takes more than the 5 s for which idle connections are kept, and losses explain anything.
patient = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60)
with httpx.Client(timeout=60, limits=patient) as client:
    well(client)
    closed_early(client)
    failed(client)
    waited()
    asyncio.run(cancelled())
    with_evidence(client)
    asyncio.run(stood_still())
    asyncio.run(closed_in_use())
    in_two_loops()
    gc.collect()
    asyncio.run(streams())
    otherwise()
    forgotten(client)
    gc.collect()
    client.get(f"{at['name']}/after-forgotten")
    kept = streamed(client, f"{at['name']}/kept")
    print("open", flush=True)
    sys.stdin.read()
    kept.read()
