"""A WSGI application that asks another service, on one client per worker."""

import os
from collections.abc import Callable, Iterable

import httpx

client = httpx.Client(base_url=os.environ["SERVICE_URL"])


def app(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    client.get("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"worker {os.getpid()}".encode()]
