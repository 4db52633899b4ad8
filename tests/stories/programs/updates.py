"""Asks for updates, at once or after a pause: `updates.py URL PAUSE PATIENCE`, both in seconds."""

import sys
import time

import httpx

url, longest, patience = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
limits = httpx.Limits(keepalive_expiry=300)
with httpx.Client(base_url=url, limits=limits, timeout=patience) as client:
    for pause in (0, 0, longest, 0, 0, longest, 0):
        time.sleep(pause)
        try:
            print(client.get("/updates").status_code)
        except httpx.HTTPError as error:
            print(type(error).__name__)
