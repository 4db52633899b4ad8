"""Does two things wrong with requests, of those below: `mixed_requests.py URL OTHER_URL DEAD_URL FIRST SECOND`."""

import sys

import requests

url, other, dead, *wrongs = sys.argv[1:]
session = requests.Session()


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


def undecodable() -> None:
    tried(f"{url}/odd")


def refused() -> None:
    tried(dead)


def broken_off() -> None:
    tried(f"{other}/half")


for wrong in wrongs:
    globals()[wrong]()
session.close()
