"""The first service: a server to its users, and a client of the second."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from telemetry import flush

stock = httpx.AsyncClient(base_url=os.environ["STOCK_URL"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await stock.aclose()
    flush()


app = FastAPI(lifespan=lifespan)


@app.get("/known/{item}")
async def known(item: str) -> dict[str, bool]:
    # The status says it all, so the body is left unread: the connection is lost with it.
    async with stock.stream("GET", f"/items/{item}") as response:
        return {"known": response.is_success}


@app.get("/price/{item}")
async def price(item: str) -> dict[str, int]:
    response = await stock.get(f"/items/{item}")
    return {"price": response.json()["price"]}
