"""Uploads a file: `upload.py URL BYTES [PATIENCE]`, the seconds to wait for each step."""

import sys

import httpx

url, size, *patience = sys.argv[1:]
with httpx.Client(timeout=float(patience[0]) if patience else 20) as client:
    try:
        print(client.post(url, content=b"x" * int(size)).status_code)
    except httpx.HTTPError as error:
        print(type(error).__name__)
