"""Uploads a file: `upload_async.py URL BYTES [PATIENCE]`, the seconds to wait for each step."""

import os
import sys

import anyio
import httpx


async def main(url: str, size: str, patience: str = "20") -> None:
    async with httpx.AsyncClient(timeout=float(patience)) as client:
        try:
            response = await client.post(url, content=b"x" * int(size))
            print(response.status_code)
        except httpx.HTTPError as error:
            print(type(error).__name__)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
