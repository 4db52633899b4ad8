"""Has six documents summarised at a time, over HTTP/2: `summaries_async.py URL CA`."""

import os
import ssl
import sys

import anyio
import httpx


async def main(url: str, ca: str) -> None:
    verify = ssl.create_default_context(cafile=ca)
    done = []
    async with httpx.AsyncClient(base_url=url, http2=True, verify=verify) as client:
        print((await client.get("/models")).status_code)

        async def summary() -> None:
            done.append((await client.get("/summary")).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(summary)
    print(done)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
