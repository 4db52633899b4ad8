"""Downloads a file and works on it as it comes: `download_async.py URL [WORK [PATIENCE]]`, in seconds for each part."""

import os
import sys

import anyio
import httpx


async def main(url: str, work: str = "0", patience: str = "5") -> None:
    got = 0
    async with httpx.AsyncClient(timeout=float(patience)) as client:
        try:
            async with client.stream("GET", url) as response:
                async for part in response.aiter_raw():
                    got += len(part)
                    await anyio.sleep(float(work))
            print("all", got, "bytes")
        except httpx.HTTPError as error:
            print(f"{type(error).__name__} after {got} bytes")


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
