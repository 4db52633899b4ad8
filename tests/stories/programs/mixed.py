"""Does two things wrong, of those below: `mixed.py URL OTHER_URL DEAD_URL FIRST SECOND`."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

url, other, dead, *wrongs = sys.argv[1:]
client = httpx.Client(timeout=20)


def tried(call: Callable[..., object], url: str) -> None:
    try:
        call(url)
    except httpx.HTTPError as error:
        print(type(error).__name__)


def left_unread() -> None:
    for _ in range(6):
        with client.stream("GET", f"{url}/large"):
            pass  # <- left unread


def left_unread_elsewhere() -> None:
    for _ in range(6):
        with client.stream("GET", f"{other}/large"):
            pass  # <- left unread elsewhere


def slow_answers() -> None:
    for _ in range(2):
        client.get(f"{url}/slow")


def no_shared_client() -> None:
    for _ in range(5):
        httpx.get(f"{other}/quick", timeout=20)  # <- not shared


def crowded() -> None:
    limits = httpx.Limits(max_connections=2)
    with httpx.Client(limits=limits, timeout=20) as narrow, ThreadPoolExecutor(8) as workers:
        for _ in range(8):
            workers.submit(narrow.get, f"{other}/soon")


def killed() -> None:
    for _ in range(2):
        tried(client.get, f"{url}/killed")


def refused() -> None:
    tried(client.get, dead)


def held_for_ever() -> None:
    with httpx.Client(limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(20, pool=0.3)) as narrow:
        kept = narrow.send(narrow.build_request("GET", f"{other}/large"), stream=True)  # <- held
        tried(narrow.get, f"{other}/quick")
        del kept


def undecodable() -> None:
    tried(client.get, f"{url}/odd")  # <- undecodable


def busy() -> None:
    for _ in range(5):
        client.get(f"{url}/busy")


def trickling() -> None:
    client.get(f"{url}/trickle")


def broken_off() -> None:
    tried(client.get, f"{url}/half")


def each_its_last() -> None:
    for _ in range(5):
        client.get(f"{other}/last")


def malformed() -> None:
    tried(client.get, f"{url}/malformed")


for wrong in wrongs:
    globals()[wrong]()
client.close()
