"""Does two things wrong, of those below: `mixed_async.py URL OTHER_URL DEAD_URL FIRST SECOND`."""

import os
import sys
import time
from collections.abc import Awaitable, Callable

import anyio
import httpx

url, other, dead, *wrongs = sys.argv[1:]


async def tried(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    try:
        await call(*arguments)
    except httpx.HTTPError as error:
        print(type(error).__name__)


def when_it_waits(then: Callable[[], object]) -> dict[str, object]:
    """Extensions of a request, by which *then* is called once the request was sent."""

    async def trace(name: str, info: object) -> None:
        if name == "http11.receive_response_headers.started":
            then()

    return {"trace": trace}


async def left_unread(client: httpx.AsyncClient) -> None:
    for _ in range(6):
        async with client.stream("GET", f"{url}/large"):
            pass  # <- left unread


async def given_up(client: httpx.AsyncClient) -> None:
    for _ in range(4):
        with anyio.CancelScope() as scope:
            await client.get(f"{url}/never", extensions=when_it_waits(scope.cancel))


async def out_of_patience(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        with anyio.move_on_after(0.2):
            await client.get(f"{url}/never")


async def one_of_several_fails(client: httpx.AsyncClient) -> None:
    async def ask() -> None:
        await client.get(f"{other}/never", extensions=when_it_waits(waiting.set))

    async def fail() -> None:
        await waiting.wait()
        await tried(client.get, f"{other}/malformed")
        tasks.cancel_scope.cancel()

    for _ in range(3):
        waiting = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(fail)


async def closed_too_soon(client: httpx.AsyncClient) -> None:
    own, waiting = httpx.AsyncClient(timeout=20), anyio.Event()

    async def ask() -> None:
        await tried(own.send, own.build_request("GET", f"{other}/never", extensions=when_it_waits(waiting.set)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await waiting.wait()
        await own.aclose()  # <- closed too soon


async def no_shared_client(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        async with httpx.AsyncClient(timeout=20) as own:  # <- not shared
            await own.get(f"{other}/quick")


async def crowded(client: httpx.AsyncClient) -> None:
    limits = httpx.Limits(max_connections=2)
    async with httpx.AsyncClient(limits=limits, timeout=20) as narrow, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(narrow.get, f"{other}/soon")


async def refused(client: httpx.AsyncClient) -> None:
    await tried(client.get, dead)


async def failed_over_it(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        try:
            async with client.stream("GET", f"{other}/large") as response:
                async for _ in response.aiter_bytes(1000):
                    raise ValueError  # <- failed over it
        except ValueError:
            pass


async def blocked(client: httpx.AsyncClient) -> None:
    async def draw() -> None:
        await begun.wait()
        time.sleep(1.5)

    async def ask() -> None:
        hurried = httpx.Timeout(20, read=0.5)
        request = client.build_request("GET", f"{other}/soon", timeout=hurried, extensions=when_it_waits(begun.set))
        await tried(client.send, request)

    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(draw)
        tasks.start_soon(ask)


async def main() -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        for wrong in wrongs:
            await globals()[wrong](client)


anyio.run(main, backend=os.environ.get("BACKEND", "asyncio"))
