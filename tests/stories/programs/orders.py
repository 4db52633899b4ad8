"""Fetches orders: `orders.py URL [TOKEN]`."""

import sys

import httpx

url, *token = sys.argv[1:]
headers = {"Authorization": f"Bearer {token[0]}"} if token else {}
with httpx.Client(base_url=url, headers=headers) as client:
    for number in range(4):
        try:
            print(client.get(f"/orders/{number}").status_code)
        except httpx.HTTPError as error:
            print(type(error).__name__)
