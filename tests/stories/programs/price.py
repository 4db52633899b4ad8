"""Asks for a price three times: `price.py URL TIMEOUT [CA]`."""

import ssl
import sys

import httpx

url, timeout, *ca = sys.argv[1:]
verify = ssl.create_default_context(cafile=ca[0]) if ca else True

with httpx.Client(timeout=httpx.Timeout(5, connect=float(timeout)), verify=verify) as client:
    for _ in range(3):
        try:
            print(client.get(url).status_code)
        except httpx.HTTPError as error:
            print(type(error).__name__)
            break
