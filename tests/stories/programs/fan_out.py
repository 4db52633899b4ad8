"""Fetches forty prices at once: `fan_out.py URL LIMIT [PATIENCE]`, the seconds to wait for the pool.

Those beyond the limit are asked for once as many as it allows are under way.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

url, limit, *patience = sys.argv[1:]
client = httpx.Client(
    base_url=url,
    limits=httpx.Limits(max_connections=int(limit)),
    timeout=httpx.Timeout(5, pool=float(patience[0]) if patience else 5),
)


first = min(int(limit), 40)
sent: list[str] = []
under_way = threading.Event()


def trace(step: str, info: dict[str, Any]) -> None:
    if step == "http11.send_request_headers.complete":
        sent.append(step)
        if len(sent) >= first:
            under_way.set()


def price(article: int) -> int:
    if article >= first:
        under_way.wait()
    try:
        return client.get(f"/prices/{article}", extensions={"trace": trace}).status_code
    except httpx.PoolTimeout:
        return 0


with ThreadPoolExecutor(40) as pool:
    print(list(pool.map(price, range(40))).count(200), "prices")
client.close()
