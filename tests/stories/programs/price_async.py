"""Asks for a price three times: `price_async.py URL TIMEOUT [CA]`."""

import os
import ssl
import sys

import anyio
import httpx


async def main(url: str, timeout: str, *ca: str) -> None:
    verify = ssl.create_default_context(cafile=ca[0]) if ca else True
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, connect=float(timeout)), verify=verify) as client:
        for _ in range(3):
            try:
                response = await client.get(url)
                print(response.status_code)
            except httpx.HTTPError as error:
                print(type(error).__name__)
                break


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
