"""Asks for every part of a site once, so that its cache has them: `warm_up_async.py URL [--read]`."""

import os
import sys

import anyio
import httpx

parts = iter(range(20))
warm = 0


async def touch(client: httpx.AsyncClient) -> None:
    global warm  # noqa: PLW0603 - as such programs do
    for part in parts:
        # What comes back is of no interest.
        async with client.stream("GET", f"/parts/{part}") as response:  # <- closed here
            if "--read" in sys.argv:
                await response.aread()
            warm += response.is_success


async def main(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(touch, client)
    print(warm, "parts are warm")


anyio.run(main, sys.argv[1], backend=os.environ.get("BACKEND", "asyncio"))
