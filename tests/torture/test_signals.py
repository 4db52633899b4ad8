"""Real timers at random moments, as a program has them that limits how long its work may take."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest
from kit.scripts import run_script
from kit.server import Server

from torture import LONG, SEED

#: A program that is interrupted by a timer's handler, which raises, at random moments, again and again.
PROGRAM = """
import gc, importlib, json, os, random, signal, sys, threading
from collections import OrderedDict
from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

library, url, how, seed, times = importlib.import_module(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
meters = MeterProvider([reader])
if how == "ours":
    from otel_httptrace import HTTPTraceInstrumentor
    HTTPTraceInstrumentor().instrument(tracer_provider=tracers, meter_provider=meters)
else:
    from opentelemetry.instrumentation import httpx
    name = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}[library.__name__]
    getattr(httpx, name)().instrument(tracer_provider=tracers, meter_provider=meters)

class Alarm(Exception):
    pass

fired, care = False, None
# The collector's phase, the last one last; noted by a function of C, within which no handler runs.
phases = OrderedDict.fromkeys(("start", "stop"))
gc.callbacks.append(phases.move_to_end)

def handler(number, frame):
    # Whose code it is that is interrupted: what a hook of ours calls of OpenTelemetry's is in our care, too,
    # but for span processors, which contain every exception themselves.
    global fired, care
    fired, care = True, None
    # The collector finalises sockets that others left open. To warn of one CPython asks for its repr, which runs
    # handlers, and drops what they raise: in whichever frame the collector came, it is not that frame's doing.
    if list(phases)[-1] == "start":
        raise Alarm
    while frame is not None:
        name = frame.f_code.co_filename
        if os.path.join("sdk", "trace", "export") in name:
            break
        if os.sep + "otel_httptrace" + os.sep in name:
            care = f"{os.path.basename(name)}:{frame.f_lineno} {frame.f_code.co_name}"
        if os.sep + "http" in name or os.sep + "otel_httptrace" + os.sep in name:
            break
        frame = frame.f_back
    raise Alarm

signal.signal(signal.SIGALRM, handler)
# What is raised where nobody can catch it is lost, and not what this is about to print.
sys.unraisablehook = bool
import logging
logging.disable(logging.CRITICAL)
verify = library.create_ssl_context(verify=False)

def new():
    client = library.Client(verify=verify, trust_env=False)
    # httpcore's own is held for good by what comes between its `acquire` and the end of its `__enter__`.
    client._transport._pool._optional_thread_lock._lock = threading.RLock()
    return client

drawn = random.Random(seed)
lost, cared = 0, []
client = new()
for number in range(times):
    # What is interrupted may be of no further use: its connections are lost, or in the midst of a message.
    client.close()
    client = new()
    fired = False
    try:
        signal.setitimer(signal.ITIMER_REAL, drawn.uniform(0.0001, 0.002))
        while not fired:
            with client.stream("GET", url) as response:
                response.read()
    except Alarm:
        continue
    lost += 1
    if care is not None:
        cared.append(care)
client.close()
exporter.clear()
# The SDK's processor suppresses instrumentation while it exports, and leaves it so if it is interrupted before its `try`.
context.attach(context.Context())
client = new()
for _ in range(2):
    client.get(url)
client.close()
gc.collect()
said = [sorted(span.attributes) for span in exporter.get_finished_spans() if span.kind.name == "CLIENT"]
open_connections = [
    point.value
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
    if metric.name in ("http.client.open_connections", "httptrace.responses.open")
    for point in metric.data.data_points
    if point.value
]
print(json.dumps({"lost": lost, "cared": cared, "said": said[-1:], "open": open_connections}))
"""


def _run(library: str, server: Server, how: str, times: int) -> dict[str, Any]:
    # Not measured: coverage's tracer takes a lock in Python, which a handler that raises there leaves held for good.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    told: dict[str, Any] = json.loads(run_script(PROGRAM, library, server.url(), how, str(SEED), str(times), env=env))
    return told


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_exceptions_of_a_timers_handler_are_not_lost(library: str, server: Server) -> None:
    """Of what a timer's handler raises while our code is at work nothing is lost, nor is anything left open."""
    told = _run(library, server, "ours", 4000 if LONG else 60)
    upstream = _run(library, server, "upstream", 4000 if LONG else 60)

    assert told["cared"] == [], f"with seed {SEED}"
    # And of all that comes in others' code as much as with upstream alone, but for chance.
    assert told["lost"] - upstream["lost"] <= 3 * math.sqrt(told["lost"] + upstream["lost"] + 1)
    assert told["said"] and "httptrace.body.outcome" in told["said"][-1]
    assert told["open"] == []
