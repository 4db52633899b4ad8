"""Fills three tiles at once, and draws a chart meanwhile: `dashboard_async.py URL SECONDS [--elsewhere]`.

The chart takes SECONDS of computing: in the event loop, or elsewhere.
"""

import os
import sys
import time
from typing import Any

import anyio
import anyio.to_thread
import httpx

FIRST = "connection.connect_tcp.started"


class Dashboard:
    def __init__(self) -> None:
        self.begun = 0
        self.all = anyio.Event()

    async def trace(self, step: str, info: dict[str, Any]) -> None:
        if step == FIRST:
            self.begun += 1
            if self.begun == 3:
                self.all.set()

    async def tile(self, client: httpx.AsyncClient, number: int) -> None:
        try:
            response = await client.get(f"/{number}", extensions={"trace": self.trace})
            print("tile", response.status_code)
        except httpx.HTTPError as error:
            print("tile", type(error).__name__)

    async def chart(self, seconds: float) -> None:
        await self.all.wait()
        if "--elsewhere" in sys.argv:
            await anyio.to_thread.run_sync(time.sleep, seconds)
        else:
            time.sleep(seconds)


async def main(url: str, seconds: str, *elsewhere: str) -> None:
    board = Dashboard()
    async with httpx.AsyncClient(base_url=url, timeout=1.5) as client, anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(board.tile, client, number)
        tasks.start_soon(board.chart, float(seconds))


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
