"""Passes a report on to a user, who may leave: `export_async.py URL [--leaves-early|--leaves-late]`."""

import os
import sys

import anyio
import httpx


async def export(url: str, began: anyio.Event) -> None:
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        async for part in response.aiter_bytes():
            print(len(part), "bytes")
            began.set()
    print("done")


async def main(url: str, user: str = "--stays") -> None:
    began = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(export, url, began)
        if user == "--leaves-late":
            await began.wait()
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        elif user == "--leaves-early":
            await anyio.sleep(0.5)
            tasks.cancel_scope.cancel()


anyio.run(main, *sys.argv[1:], backend=os.environ.get("BACKEND", "asyncio"))
