"""Fetches forty prices at once: `fan_out.py URL LIMIT [PATIENCE]`, the seconds to wait for the pool."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

url, limit, *patience = sys.argv[1:]
client = httpx.Client(
    base_url=url,
    limits=httpx.Limits(max_connections=int(limit)),
    timeout=httpx.Timeout(5, pool=float(patience[0]) if patience else 5),
)


all_there = threading.Barrier(40)


def price(article: int) -> int:
    all_there.wait()
    try:
        return client.get(f"/prices/{article}").status_code
    except httpx.PoolTimeout:
        return 0


with ThreadPoolExecutor(40) as pool:
    print(list(pool.map(price, range(40))).count(200), "prices")
client.close()
