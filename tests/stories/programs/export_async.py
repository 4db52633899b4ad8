"""Passes a report on to a user, who may leave: `export_async.py URL [--leaves-early|--leaves-late]`."""

import os
import sys
from typing import Any

import anyio
import httpx


async def export(url: str, sent: anyio.Event, began: anyio.Event) -> None:
    async def trace(step: str, info: dict[str, Any]) -> None:
        if step == "http11.send_request_body.complete":
            sent.set()

    extensions = {"trace": trace}
    async with httpx.AsyncClient() as client, client.stream("GET", url, extensions=extensions) as response:
        async for part in response.aiter_bytes():
            print(len(part), "bytes")
            began.set()
    print("done")


async def main(url: str, user: str = "--stays") -> None:
    sent, began = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(export, url, sent, began)
        if user == "--leaves-late":
            await began.wait()
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        elif user == "--leaves-early":
            await sent.wait()
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
