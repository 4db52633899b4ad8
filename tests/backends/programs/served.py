"""For `uvicorn served:app`: an application that knows nothing of this package, and answers well and badly."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()


@app.get("/ok")
async def ok() -> str:
    return "ok"


@app.get("/close")
async def close() -> PlainTextResponse:
    return PlainTextResponse("ok", headers={"Connection": "close"})


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"part"
        # Until the client has left.
        await asyncio.Event().wait()

    return StreamingResponse(parts())


@app.get("/fail-mid")
async def fail() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"part"
        raise RuntimeError("in the middle")

    return StreamingResponse(parts())
