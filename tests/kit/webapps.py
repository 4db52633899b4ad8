"""Applications for servers under test: the same answers by ASGI and by WSGI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

#: For how many seconds ``/block`` holds up the event loop.
BLOCKS = 0.6

#: Bytes of the one part of ``/large``: more than a socket's buffers on the loopback take.
LARGE = 16 * 1024 * 1024
#: Answers that have no body, by their paths.
BODILESS = {"/none": 204, "/unchanged": 304}


class Failure(Exception):
    """The application's own."""


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer by the path; see `wsgi`."""
    if scope["type"] == "lifespan":
        # hypercorn on trio fails to start where the application does not wait for it.
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    path = scope["path"]
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    if path == "/fail":
        raise Failure
    if path == "/nothing":
        return
    if path == "/block":
        # What must not be done in an event loop.
        time.sleep(BLOCKS)
    if path == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LARGE)})
        return
    status = {"/caught": 500, **BODILESS}.get(path, 200)
    if path in BODILESS:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    headers = [] if path in ("/stream", "/fail-mid") else [(b"content-length", b"2")]
    if path == "/close":
        headers.append((b"connection", b"close"))
    try:
        if path == "/caught":
            raise Failure
    except Failure:
        # As Starlette does it: it answers for the application, and raises all the same.
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})
        raise
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if path in ("/stream", "/fail-mid"):
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if path == "/fail-mid":
            raise Failure
        # Until the client has left.
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Answer by the path.

    ``/ok`` with two bytes, once the body is read; ``/close`` and says so; ``/fail`` not, ``/fail-mid`` not to the
    end; ``/stream`` until the client has left.
    """
    path = environ["PATH_INFO"]
    environ["wsgi.input"].read()
    if path == "/fail":
        raise Failure
    if path in BODILESS:
        start_response(f"{BODILESS[path]} Bodiless", [])
        return
    headers = [] if path in ("/stream", "/fail-mid") else [("Content-Length", "2")]
    if path == "/close":
        headers.append(("Connection", "close"))
    start_response("200 OK", headers)
    if path == "/fail-mid":
        yield b"part"
        raise Failure
    while path == "/stream":
        yield b"part" * 1000
    if environ["REQUEST_METHOD"] != "HEAD":
        yield b"ok"
