"""Does two things wrong with requests, of those below: `mixed_requests.py URL OTHER_URL DEAD_URL FIRST SECOND`."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import requests
import urllib3

url, other, dead, *wrongs = sys.argv[1:]
session = requests.Session()
manager = urllib3.PoolManager(maxsize=1)


def tried(url: str) -> None:
    try:
        session.get(url, timeout=20)
    except requests.RequestException as error:
        print(type(error).__name__)


def left_unread() -> None:
    for _ in range(6):
        with session.get(f"{url}/large", stream=True, timeout=20):
            pass  # <- left unread


def no_shared_session() -> None:
    for _ in range(5):
        requests.get(f"{other}/quick", timeout=20)  # <- not shared


def slow_answers() -> None:
    for _ in range(2):
        session.get(f"{url}/slow", timeout=20)


def busy() -> None:
    for _ in range(5):
        session.get(f"{url}/busy", timeout=20)


def moved() -> None:
    for _ in range(5):
        session.get(f"{url}/moved", timeout=20)


def each_its_last() -> None:
    for _ in range(5):
        session.get(f"{other}/last", timeout=20)


def refused_elsewhere() -> None:
    for _ in range(4):
        session.get(f"{url}/elsewhere", timeout=20)


def tried_again_in_vain() -> None:
    try:
        manager.request("GET", f"{url}/never", timeout=0.2, retries=2)
    except urllib3.exceptions.HTTPError as error:
        print(type(error).__name__)


def one_kept_of_four() -> None:
    with ThreadPoolExecutor(4) as workers:
        for _ in range(3):
            # All four have their connection before one gives it back.
            everybody = threading.Barrier(4)
            list(workers.map(lambda _, all_there=everybody: asked(all_there), range(4)))


def asked(everybody: threading.Barrier) -> None:
    response = manager.request("GET", f"{other}/quick", preload_content=False)
    everybody.wait(20)
    response.drain_conn()
    response.release_conn()


def too_much_of_a_head() -> None:
    tried(f"{url}/cookies")


def undecodable() -> None:
    tried(f"{url}/odd")


def refused() -> None:
    tried(dead)


def broken_off() -> None:
    tried(f"{other}/half")


for wrong in wrongs:
    globals()[wrong]()
session.close()
