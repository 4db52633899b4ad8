"""Looks for news, over and over: `poll.py URL [--close|--keep] [--killed]`."""

import os
import sys
import time

import httpx

seen: list[httpx.Response] = []
limits = httpx.Limits(max_connections=5)
client = httpx.Client(base_url=sys.argv[1], limits=limits, timeout=httpx.Timeout(5, pool=0.25))


def news() -> str:
    response = client.send(client.build_request("GET", "/news"), stream=True)  # <- opened here
    if response.headers["ETag"] == '"seen"':
        if "--close" in sys.argv:
            response.read()
            response.close()
        if "--keep" in sys.argv:
            seen.append(response)
        return "nothing new"
    return response.read().decode()


for _ in range(8):
    try:
        print(news())
    except httpx.HTTPError as error:
        print(type(error).__name__)
if "--killed" in sys.argv:
    # Long after: its spans were sent, but those of responses that are still open.
    time.sleep(1)
    sys.stdout.flush()
    os._exit(0)
