"""Sends what has piled up, now and then: `bursts_async.py URL [EXPIRY]`."""

import os
import sys

import anyio
import httpx


async def main(url: str, *expiry: str) -> None:
    limits = httpx.Limits(keepalive_expiry=float(expiry[0]) if expiry else 5)
    async with httpx.AsyncClient(base_url=url, limits=limits) as client:
        for burst in range(4):
            await anyio.sleep(0.5 if burst else 0)
            responses = [await client.post("/batch", json={"burst": burst}) for _ in range(3)]
            print([response.status_code for response in responses])


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
