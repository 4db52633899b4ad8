"""Notifies subscribers: `notify_async.py URL...`."""

import os
import sys

import anyio
import httpx


async def notify(url: str) -> int:
    # A client for each call: its pool dies with it.
    async with httpx.AsyncClient() as client:  # <- made here
        response = await client.post(url, json={"event": "paid"})
        return response.status_code


async def main(*urls: str) -> None:
    print([await notify(url) for url in urls * 4])


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
