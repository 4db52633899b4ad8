"""Fetches orders: `orders_async.py URL [TOKEN]`."""

import os
import sys

import anyio
import httpx


async def main(url: str, *token: str) -> None:
    headers = {"Authorization": f"Bearer {token[0]}"} if token else {}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:
        for number in range(4):
            try:
                response = await client.get(f"/orders/{number}")
                print(response.status_code)
            except httpx.HTTPError as error:
                print(type(error).__name__)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
