"""Has a text completed, as an SDK would: `complete.py URL [--others]`."""

import sys
import time

import httpx
from opentelemetry import trace

# As the instrumentation of a framework would make one for each request that it serves.
tracer = trace.get_tracer("shop")


def complete(client: httpx.Client, text: str) -> int:
    for pause in (0.1, 0.2, 0):
        try:
            response = client.post("/completions", json={"text": text})
        except httpx.TimeoutException:
            status = 0
        else:
            status = response.status_code
            if status < 500:
                break
        time.sleep(pause)
    return status


with httpx.Client(base_url=sys.argv[1], timeout=1) as client:
    if "--others" in sys.argv:
        for text in ("One", "Two", "Three"):
            with tracer.start_as_current_span("POST /describe"):
                print(client.post("/completions", json={"text": text}).status_code)
    else:
        with tracer.start_as_current_span("POST /describe"):
            print(complete(client, "Once upon a time"))
