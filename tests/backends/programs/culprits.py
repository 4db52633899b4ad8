"""Requests that lose their connection, each followed by one that has to open another: `culprits.py TIMES URL`.

URL is the origin of a tests/kit/server.py. Each request is a trace of its own. Those that follow are
answered with an error, so that they are looked at; and as many have no story at all.
"""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any

import httpx

times, url = int(sys.argv[1]), sys.argv[2]


def closed_early(client: httpx.Client) -> None:
    with client.stream("GET", f"{url}/big"):
        pass


def leaked(client: httpx.Client) -> None:
    client.send(client.build_request("GET", f"{url}/big"), stream=True)
    gc.collect()


def failed(client: httpx.Client) -> None:
    try:
        client.get(f"{url}/half-reset-now")
    except httpx.ReadError:
        pass


def unanswered(client: httpx.Client) -> None:
    try:
        client.get(f"{url}/no-answer")
    except httpx.RemoteProtocolError:
        pass


async def cancelled(doing: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    task = asyncio.create_task(doing)
    await begun.wait()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass


async def cancelled_in_wait(client: httpx.AsyncClient) -> None:
    begun = asyncio.Event()

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "http11.receive_response_headers.started":
            begun.set()

    await cancelled(client.get(f"{url}/held", extensions={"trace": trace}), begun)


async def cancelled_in_body(client: httpx.AsyncClient) -> None:
    begun = asyncio.Event()
    response = await client.send(client.build_request("GET", f"{url}/half"), stream=True)

    async def read() -> None:
        async for _ in response.aiter_raw():
            begun.set()

    await cancelled(read(), begun)


async def main() -> None:
    with httpx.Client() as client:
        client.get(f"{url}/")
        for culprit in (closed_early, leaked, failed, unanswered):
            for _ in range(times):
                culprit(client)
                client.get(f"{url}/error")
        for _ in range(times * 6):
            client.get(f"{url}/")
    async with httpx.AsyncClient() as asynchronous:
        await asynchronous.get(f"{url}/")
        for cancel in (cancelled_in_wait, cancelled_in_body):
            for _ in range(times):
                await cancel(asynchronous)
                await asynchronous.get(f"{url}/error")


asyncio.run(main())
