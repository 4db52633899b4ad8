"""Crawls a hundred pages with six workers: `crawl_async.py URL`."""

import os
import sys

import anyio
import httpx

pages = iter(range(100))
found: list[int] = []


async def crawl(client: httpx.AsyncClient) -> None:
    for page in pages:
        response = await client.get(f"/pages/{page}")
        found.append(response.status_code)


async def main(url: str) -> None:
    limits = httpx.Limits(max_keepalive_connections=5)
    async with httpx.AsyncClient(base_url=url, limits=limits) as client, anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(crawl, client)
    print(found.count(200), "pages")


anyio.run(main, sys.argv[1], backend=os.environ.get("BACKEND", "asyncio"))
