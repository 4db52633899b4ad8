"""Sends an event to the audit log whenever something happens: `audit_async.py URL QUIET [PATIENCE]`.

QUIET: the seconds in which once nothing does. PATIENCE: how many to wait for an answer.
"""

import os
import sys

import anyio
import httpx


async def main(url: str, longest: str, *patience: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=float(patience[0]) if patience else 5) as client:
        for quiet in (0, 0, float(longest), 0):
            await anyio.sleep(quiet)
            try:
                response = await client.post("/events", json={"quiet": quiet})
                print(response.status_code)
            except httpx.HTTPError as error:
                print(f"{type(error).__name__}: {error}")


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
