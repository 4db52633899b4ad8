"""Looks for news, over and over: `poll_async.py URL [--close|--keep]`."""

import os
import sys

import anyio
import httpx

seen: list[httpx.Response] = []


async def news(client: httpx.AsyncClient) -> str:
    response = await client.send(client.build_request("GET", "/news"), stream=True)  # <- opened here
    if response.headers["ETag"] == '"seen"':
        if "--close" in sys.argv:
            await response.aread()
            await response.aclose()
        if "--keep" in sys.argv:
            seen.append(response)
        return "nothing new"
    return (await response.aread()).decode()


async def main(url: str) -> None:
    limits = httpx.Limits(max_connections=5)
    client = httpx.AsyncClient(base_url=url, limits=limits, timeout=httpx.Timeout(5, pool=0.25))
    for _ in range(8):
        try:
            print(await news(client))
        except httpx.HTTPError as error:
            print(type(error).__name__)


anyio.run(main, sys.argv[1], backend=os.environ.get("BACKEND", "asyncio"))
