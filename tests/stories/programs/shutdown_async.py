"""Is told to stop while a job and a feed are under way: `shutdown_async.py URL [--waits]`."""

import os
import sys
from typing import Any

import anyio
import httpx


class Service:
    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url)
        self.sent, self.fed = anyio.Event(), anyio.Event()

    async def trace(self, step: str, info: dict[str, Any]) -> None:
        if step == "http11.send_request_body.complete":
            self.sent.set()

    async def job(self) -> None:
        try:
            response = await self.client.post("/job", extensions={"trace": self.trace})
            print("job", response.status_code)
        except httpx.HTTPError as error:
            print("job", type(error).__name__)

    async def feed(self) -> None:
        await self.sent.wait()
        try:
            async with self.client.stream("GET", "/feed") as response:
                async for _ in response.aiter_bytes():
                    self.fed.set()
            print("feed", response.status_code)
        except httpx.HTTPError as error:
            print("feed", type(error).__name__)


async def stop(client: httpx.AsyncClient) -> None:
    await client.aclose()  # <- closed here


async def main(url: str, *waits: str) -> None:
    service = Service(url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.job)
        tasks.start_soon(service.feed)
        await service.sent.wait()
        await service.fed.wait()
        if not waits:
            await stop(service.client)
    if waits:
        await stop(service.client)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
