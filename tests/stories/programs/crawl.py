"""Crawls a hundred pages with six workers: `crawl.py URL`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

client = httpx.Client(base_url=sys.argv[1], limits=httpx.Limits(max_keepalive_connections=5))


def crawl(page: int) -> int:
    return client.get(f"/pages/{page}").status_code


with ThreadPoolExecutor(6) as pool:
    print(list(pool.map(crawl, range(100))).count(200), "pages")
client.close()
