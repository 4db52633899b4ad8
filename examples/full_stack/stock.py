"""The second service: knows what is in stock, and answers with more than most callers need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from telemetry import flush


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    flush()


app = FastAPI(lifespan=lifespan)


@app.get("/items/{item}")
def item(item: str) -> dict[str, object]:
    return {"item": item, "price": 250, "description": "x" * 100_000}
