"""Has a text completed, as an SDK would: `complete_async.py URL [--others]`."""

import os
import sys

import anyio
import httpx
from opentelemetry import trace

# As the instrumentation of a framework would make one for each request that it serves.
tracer = trace.get_tracer("shop")


async def complete(client: httpx.AsyncClient, text: str) -> int:
    for pause in (0.1, 0.2, 0):
        try:
            response = await client.post("/completions", json={"text": text})
        except httpx.TimeoutException:
            status = 0
        else:
            status = response.status_code
            if status < 500:
                break
        await anyio.sleep(pause)
    return status


async def main(url: str, *how: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=1) as client:
        if "--others" in how:
            for text in ("One", "Two", "Three"):
                with tracer.start_as_current_span("POST /describe"):
                    response = await client.post("/completions", json={"text": text})
                    print(response.status_code)
        else:
            with tracer.start_as_current_span("POST /describe"):
                print(await complete(client, "Once upon a time"))


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
