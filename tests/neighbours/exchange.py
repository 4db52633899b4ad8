"""The requests that every program here makes, of the server at `sys.argv[1]`, and what came of them on stdout."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import httpx2
import requests

URL = sys.argv[1]
#: A body read, one read in parts, one closed unread, an error of the server's, a connection that it closes.
PATHS = ("/json", "/json", "/long", "/500", "/close")


def tell(*facts: object) -> None:
    print(*facts, flush=True)


def sync(library: Any) -> None:
    with library.Client() as client:
        for path in PATHS:
            response = client.get(URL + path)
            tell(library.__name__, path, response.status_code, response.http_version, len(response.content))
        with client.stream("GET", URL + "/long") as response:
            tell(library.__name__, "parts", sum(map(len, response.iter_bytes())))
        with client.stream("GET", URL + "/long") as response:
            tell(library.__name__, "unread", response.status_code)
        tell(library.__name__, "after it", client.get(URL + "/json").json())
        try:
            client.get(URL + "/reset")
        except library.HTTPError as error:
            tell(library.__name__, "reset", type(error).__name__, error)


async def asynchronous(library: Any) -> None:
    async with library.AsyncClient() as client:
        answers = await asyncio.gather(*(client.get(URL + path) for path in PATHS))
        tell(library.__name__, "async", [(answer.status_code, len(answer.content)) for answer in answers])
        async with client.stream("GET", URL + "/long") as response:
            tell(library.__name__, "async unread", response.status_code)
        try:
            await client.get(URL + "/reset")
        except library.HTTPError as error:
            tell(library.__name__, "async reset", type(error).__name__, error)


def on_urllib3() -> None:
    with requests.Session() as session:
        for path in PATHS:
            response = session.get(URL + path)
            tell("requests", path, response.status_code, len(response.content))
        with session.get(URL + "/long", stream=True) as response:
            tell("requests parts", sum(map(len, response.iter_content(10_000))))
        with session.get(URL + "/long", stream=True) as response:
            tell("requests unread", response.status_code)
        tell("requests after it", session.get(URL + "/json").json())
        try:
            session.get(URL + "/reset")
        except requests.ConnectionError as error:
            tell("requests reset", type(error).__name__, error)


def play() -> None:
    on_urllib3()
    for library in (httpx, httpx2):
        sync(library)
        asyncio.run(asynchronous(library))
