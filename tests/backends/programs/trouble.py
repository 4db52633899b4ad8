"""Does wrong all that the alerts are about, and right once a line comes: `trouble.py PORT DEAD [--right]`, at once.

PORT is a server's of tests/kit/server.py, DEAD one that nobody listens on. Each trouble has a name of its own
for the server, ``unread.test``, that the resolver must know.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

port, dead = sys.argv[1:3]
right = threading.Event()
if "--right" in sys.argv:
    right.set()
over = threading.Event()
troubles: list[threading.Thread] = []


def trouble(function: Callable[[httpx.Client], None]) -> None:
    def again() -> None:
        # Alike in everything but what is wrong.
        with httpx.Client(verify=False, base_url=f"http://{function.__name__}.test:{port}") as client:
            while not over.is_set():
                function(client)
                time.sleep(0.2)

    troubles.append(threading.Thread(target=again))


def narrow(*, pool: float) -> httpx.Client:
    limits = httpx.Limits(max_connections=1)
    return httpx.Client(verify=False, limits=limits, timeout=httpx.Timeout(5, pool=pool))


@trouble
def unread(client: httpx.Client) -> None:
    with client.stream("GET", "/big") as response:  # <- closed here
        if right.is_set():
            response.read()


@trouble
def clients(client: httpx.Client) -> None:
    if right.is_set():
        client.get("/")
    else:
        with httpx.Client(verify=False, base_url=client.base_url) as another:
            another.get("/")


few = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=1))


@trouble
def keepalive(client: httpx.Client) -> None:
    one = client if right.is_set() else few
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one.get, [client.base_url.join("/slow")] * 3))


@trouble
def idle(client: httpx.Client) -> None:
    client.get("/" if right.is_set() else "/leaving")


@trouble
def stale(client: httpx.Client) -> None:
    for _ in range(3):
        client.get("/")
    try:
        client.get("/" if right.is_set() else "/no-answer")
    except httpx.RemoteProtocolError:
        pass


@trouble
def refused(client: httpx.Client) -> None:
    try:
        client.get("/" if right.is_set() else f"http://{client.base_url.host}:{dead}/")
    except httpx.ConnectError:
        pass


impatient = narrow(pool=0.02)


@trouble
def timeouts(client: httpx.Client) -> None:
    url = client.base_url.join("/")
    with impatient.stream("GET", url) as response:
        if not right.is_set():
            try:
                impatient.get(url)
            except httpx.PoolTimeout:
                pass
        response.read()


patient = narrow(pool=5)


@trouble
def waits(client: httpx.Client) -> None:
    one = client if right.is_set() else patient
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one.get, [client.base_url.join("/slower")] * 4))


held: list[httpx.Response] = []


@trouble
def leaked(client: httpx.Client) -> None:
    if not right.is_set() and not held:
        held.append(client.send(client.build_request("GET", "/big"), stream=True))
    elif right.is_set() and held:
        held.pop().close()


@trouble
def broken(client: httpx.Client) -> None:
    try:
        client.get("/" if right.is_set() else "/half-closed")
    except httpx.RemoteProtocolError:
        pass


@trouble
def lookups(client: httpx.Client) -> None:
    client.get("/", headers={} if right.is_set() else {"Connection": "close"})


async def cancelling() -> None:
    url = f"http://cancelled.test:{port}"
    async with httpx.AsyncClient(verify=False) as client:

        async def one() -> None:
            try:
                await asyncio.wait_for(client.get(f"{url}/slower"), 5 if right.is_set() else 0.1)
            except asyncio.TimeoutError:
                pass

        while not over.is_set():
            await asyncio.gather(*[one() for _ in range(6)])
            await asyncio.sleep(0.1)


troubles.append(threading.Thread(target=asyncio.run, args=(cancelling(),)))
for thread in troubles:
    thread.start()
sys.stdin.readline()
right.set()
sys.stdin.readline()
over.set()
for thread in troubles:
    thread.join()
