"""Sends what has piled up, now and then: `bursts.py URL [EXPIRY]`."""

import sys
import time

import httpx

url, *expiry = sys.argv[1:]
limits = httpx.Limits(keepalive_expiry=float(expiry[0]) if expiry else 5)
with httpx.Client(base_url=url, limits=limits) as client:
    for burst in range(4):
        time.sleep(0.5 if burst else 0)
        print([client.post("/batch", json={"burst": burst}).status_code for _ in range(3)])
