"""Makes requests when told to, and says what came of them: `outage.py URL`, the origin of a tests/kit/server.py.

A number on standard input is how many rounds of requests; the answer is a line of JSON, for each
request its result and how long it took. ``flush`` is to hand over all telemetry, and is answered then.
"""

import json
import sys
import time
from collections.abc import Callable

import httpx
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

url = sys.argv[1]


def read(client: httpx.Client) -> httpx.Response:
    return client.get(f"{url}/chunked")


def missing(client: httpx.Client) -> httpx.Response:
    return client.get(f"{url}/missing")


def closed_early(client: httpx.Client) -> httpx.Response:
    with client.stream("GET", f"{url}/big") as response:
        return response


def unanswered(client: httpx.Client) -> httpx.Response:
    return client.get(f"{url}/no-answer")


def result(call: Callable[[httpx.Client], httpx.Response], client: httpx.Client) -> tuple[str, float]:
    begun = time.perf_counter()
    try:
        response = call(client)
    except httpx.HTTPError as error:
        found = f"{type(error).__name__}: {error}"
    else:
        found = f"{response.status_code} {response.text if response.is_stream_consumed else 'unread'}"
    return found, time.perf_counter() - begun


with httpx.Client() as client:
    for line in sys.stdin:
        if line == "flush\n":
            # What one of them tells about the other is handed over last.
            for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
                assert isinstance(provider, (TracerProvider, MeterProvider))
                provider.force_flush()
            print("flushed", flush=True)
        else:
            calls = [read, missing, closed_early, unanswered] * int(line)
            print(json.dumps([result(call, client) for call in calls]), flush=True)
