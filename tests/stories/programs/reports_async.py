"""Fetches reports over HTTP/2, one after the other: `reports_async.py URL CA`."""

import os
import ssl
import sys

import anyio
import httpx


async def main(url: str, ca: str) -> None:
    verify = ssl.create_default_context(cafile=ca)
    async with httpx.AsyncClient(base_url=url, http1=False, http2=True, verify=verify) as client:
        for path in ("/ping", "/report", "/ping", "/report", "/ping"):
            try:
                response = await client.get(path)
                print(path, response.status_code)
            except httpx.HTTPError as error:
                print(path, type(error).__name__)
            await anyio.sleep(0.3)


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
