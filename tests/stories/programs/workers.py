"""A server of the kind that forks: `workers.py URL [--own]`. The application is loaded before, and with it its client."""

import os
import sys

import httpx

client = httpx.Client(base_url=sys.argv[1])
print("loaded", client.get("/settings").status_code, flush=True)
for number in range(2):
    worker = os.fork()
    if not worker:
        if "--own" in sys.argv:
            client = httpx.Client(base_url=sys.argv[1])
        print("worker", number, client.get("/orders").status_code, client.get("/orders").status_code, flush=True)
        sys.exit()
    os.waitpid(worker, 0)
