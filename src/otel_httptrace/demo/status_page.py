"""Asks a service for the state of its parts, five at a time: `status_page.py URL [--read]`."""

import asyncio
import sys

import httpx


async def is_up(client: httpx.AsyncClient, part: int) -> bool:
    # The status is all that is asked for, so the body is not read ...
    async with client.stream("GET", f"/parts/{part}") as response:
        return response.is_success


async def is_up_and_read(client: httpx.AsyncClient, part: int) -> bool:
    # ... but here it is, and with that the connection can be used again.
    async with client.stream("GET", f"/parts/{part}") as response:
        await response.aread()
        return response.is_success


async def main(url: str, *, read: bool) -> None:
    check = is_up_and_read if read else is_up
    parts = iter(range(20))

    async def worker(client: httpx.AsyncClient) -> None:
        for part in parts:
            await check(client, part)

    async with httpx.AsyncClient(base_url=url) as client:
        await asyncio.gather(*(worker(client) for _ in range(5)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], read="--read" in sys.argv))
