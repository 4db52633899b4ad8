"""Runs tasks of a queue, each in an event loop of its own: `tasks_async.py URL [--own]`."""

import os
import sys

import anyio
import httpx

# Made once, for all tasks.
client = httpx.AsyncClient()


async def task(url: str, *how: str) -> None:
    try:
        if "--own" in how:
            async with httpx.AsyncClient() as own:
                response = await own.get(url)
        else:
            response = await client.get(url)
        print(response.status_code)
    except Exception as error:
        print(type(error).__name__)


for _ in range(2):
    anyio.run(lambda: task(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
