"""Fetches forty prices at once: `fan_out_async.py URL LIMIT [PATIENCE]`, the seconds to wait for the pool."""

import os
import sys

import anyio
import httpx

prices: list[int] = []


async def price(client: httpx.AsyncClient, article: int) -> None:
    response = await client.get(f"/prices/{article}")
    prices.append(response.status_code)


async def main(url: str, limit: str, patience: str = "5") -> None:
    limits = httpx.Limits(max_connections=int(limit))
    timeout = httpx.Timeout(5, pool=float(patience))
    async with (
        httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout) as client,
        anyio.create_task_group() as tasks,
    ):
        for article in range(40):
            tasks.start_soon(price, client, article)
    print(prices.count(200), "prices")


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
