"""Asks for every part of a site once, so that its cache has them: `warm_up.py URL [--read]`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

client = httpx.Client(base_url=sys.argv[1])
read = "--read" in sys.argv


def touch(part: int) -> bool:
    # What comes back is of no interest.
    with client.stream("GET", f"/parts/{part}") as response:  # <- closed here
        if read:
            response.read()
        return response.is_success


with ThreadPoolExecutor(5) as pool:
    print(sum(pool.map(touch, range(20))), "parts are warm")
client.close()
