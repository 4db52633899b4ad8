"""httpx on trio: how long each part of each request took.

    python examples/trio_client.py

Three requests at once, then a fourth. Times are in milliseconds; a part that did not happen has none.
Needs httpx, trio and opentelemetry-sdk.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_httptrace import HTTPTraceInstrumentor

PHASES = ("dns", "connect", "wait", "receive")


async def main(url: str) -> None:
    async with httpx.AsyncClient() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.get, url)  # each needs a connection of its own
        await client.get(url)  # uses one of them


class Parts(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        time.sleep(0.05)  # the work: `wait`
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        time.sleep(0.02)  # a body that takes its time: `receive`
        self.wfile.write(b"other")

    def log_message(self, format: str, *args: object) -> None:
        pass


def kept_spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):  # not run by opentelemetry-instrument
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
        HTTPTraceInstrumentor().instrument()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


if __name__ == "__main__":
    exporter = kept_spans()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trio.run(main, f"http://localhost:{server.server_port}/")
    server.shutdown()
    server.server_close()
    requests = sorted(
        (span for span in exporter.get_finished_spans() if span.name == "GET"), key=lambda span: span.start_time
    )
    print("connection", *(f"{phase:>8}" for phase in PHASES))
    for span in requests:
        times = [span.attributes.get(f"httptrace.time.{phase}") for phase in PHASES]
        connection = "reused" if span.attributes["http.conn.reused"] else "new"
        print(f"{connection:<10}", *(f"{'' if time is None else format(time * 1000, '.1f'):>8}" for time in times))
