"""Asks for updates, at once or after a pause: `updates_async.py URL PAUSE PATIENCE`, both in seconds."""

import os
import sys

import anyio
import httpx


async def main(url: str, longest: str, patience: str) -> None:
    limits = httpx.Limits(keepalive_expiry=300)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=float(patience)) as client:
        for pause in (0, 0, float(longest), 0, 0, float(longest), 0):
            await anyio.sleep(pause)
            try:
                response = await client.get("/updates")
                print(response.status_code)
            except httpx.HTTPError as error:
                print(type(error).__name__)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
