"""Whatever can go well and badly with requests, over and over, for some seconds: `traffic.py SECONDS HTTP HTTPS DEAD`.

HTTP and HTTPS are origins of tests/kit/server.py, DEAD is one that nobody listens on. The names ``shop.test``
(answers after a while) and ``nowhere.test`` (has no address) are for the resolver to know.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

seconds, http, https, dead = float(sys.argv[1]), *sys.argv[2:]
port = httpx.URL(http).port


def tried(call: Callable[..., object], *arguments: str, **options: Any) -> None:
    try:
        call(*arguments, **options)
    except httpx.HTTPError:
        pass


def broken() -> Iterator[bytes]:
    yield b"first"
    raise httpx.WriteError("the rest could not be read")


def well(client: httpx.Client) -> None:
    for _ in range(5):
        client.get(f"{http}/")
    client.get(f"{https}/")


def closed_early(client: httpx.Client) -> None:
    with client.stream("GET", f"{http}/big"):
        pass
    with client.stream("GET", f"{https}/big"):
        pass


def badly(client: httpx.Client) -> None:
    client.post(f"{http}/error")
    tried(client.get, f"{http}/half-closed")
    tried(client.get, f"{http}/no-answer")
    tried(client.get, f"{http}/held", timeout=0.05)
    tried(client.post, f"{http}/", content=broken())
    tried(client.get, dead)
    tried(client.get, f"http://nowhere.test:{port}/")
    # Speaks no TLS.
    tried(client.get, f"https://127.0.0.1:{port}/", timeout=0.1)


def one_too_many(client: httpx.Client) -> None:
    with client.stream("GET", f"{http}/"):
        tried(client.get, f"{http}/", timeout=httpx.Timeout(1, pool=0.12))


def at_once(client: httpx.Client) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(client.get, [f"{http}/slow"] * 3))


def one_after_another(client: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        with client.stream("GET", f"{http}/big"):
            other = pool.submit(client.get, f"{http}/")
            time.sleep(0.15)
        # Its connection is closed: what has waited for it opens another.
        other.result()


async def cancelled(client: httpx.AsyncClient) -> None:
    response = await client.send(client.build_request("GET", f"{http}/half"), stream=True)
    try:
        await asyncio.wait_for(response.aread(), 0.02)
    except asyncio.TimeoutError:
        pass


async def main() -> None:
    end = time.monotonic() + seconds
    kept: list[httpx.Response] = []
    with httpx.Client(verify=False) as client, httpx.Client(limits=httpx.Limits(max_connections=1)) as narrow:
        async with httpx.AsyncClient() as cancelling:
            while time.monotonic() < end:
                well(client)
                closed_early(client)
                badly(client)
                one_too_many(narrow)
                at_once(narrow)
                one_after_another(narrow)
                # A client per request, and a name that is looked up for each.
                with httpx.Client() as another:
                    another.get(f"http://shop.test:{port}/")
                # Nobody closes it, and then nobody has it.
                client.send(client.build_request("GET", f"{http}/big"), stream=True)
                if len(kept) < 3:
                    kept.append(client.send(client.build_request("GET", f"{http}/big"), stream=True))
                await cancelled(cancelling)
            # They are open still.
            print(len(kept), time.time())


asyncio.run(main())
