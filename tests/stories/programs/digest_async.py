"""Makes a digest of three pieces of news: `digest_async.py URL [LONGEST]`, at most so many characters each."""

import os
import sys

import anyio
import httpx


async def digest(client: httpx.AsyncClient, longest: tuple[str, ...]) -> int:
    size = 0
    async with client.stream("GET", "/news") as response:  # <- the block
        async for part in response.aiter_text():  # <- the loop
            size += len(part)
            if longest and size > int(longest[0]):
                raise ValueError("too long")  # <- raised here
    return size


async def main(url: str, *longest: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(3):
            try:
                print(await digest(client, longest), "characters")
            except (ValueError, httpx.HTTPError) as error:
                print(type(error).__name__)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
