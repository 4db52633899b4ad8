"""Clients that reach no connection pool: a mock, applications in the same process; and one that does, beside them."""

import asyncio
from typing import Any

import httpx
import httpx2
from exchange import URL, play, tell


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"wsgi"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"asgi"})


async def asynchronous(library: Any) -> None:
    mock = library.MockTransport(lambda request: library.Response(201, text="mock"))
    for transport in (mock, library.ASGITransport(asgi)):
        async with library.AsyncClient(transport=transport, base_url="http://inside.test") as client:
            response = await client.get("/")
            async with client.stream("GET", "/") as streamed:
                parts = [part async for part in streamed.aiter_bytes()]
            tell(library.__name__, response.status_code, response.text, parts, sorted(response.extensions))


for library in (httpx, httpx2):
    mock = library.MockTransport(lambda request, library=library: library.Response(201, text="mock"))
    for transport in (mock, library.WSGITransport(wsgi)):
        mounts = {"http://inside.test": transport}
        with library.Client(mounts=mounts) as client:
            response = client.get("http://inside.test/")
            with client.stream("GET", "http://inside.test/") as streamed:
                tell(library.__name__, response.status_code, response.text, list(streamed.iter_bytes()))
            tell(sorted(response.extensions), client.get(URL + "/json").json())
    asyncio.run(asynchronous(library))
play()
