"""Twenty requests whose bodies nobody reads, and what that costs.

    opentelemetry-instrument python examples/early_close.py http://localhost:8000/

or by itself, which prints the reasons to the console.
"""

import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_httptrace import HTTPTraceInstrumentor


class Parts(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"x" * 200_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client left: that is what this is about


def status_only(client: httpx.Client, url: str) -> int:
    with client.stream("GET", url) as response:
        return response.status_code  # leaves the block, and the body unread


def main(url: str) -> None:
    with httpx.Client() as client:
        for _ in range(20):
            status_only(client, url)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
        sys.exit()
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    HTTPTraceInstrumentor().instrument()
    server = Server(("127.0.0.1", 0), Parts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    main(f"http://localhost:{server.server_port}/")
    server.shutdown()
    server.server_close()
    requests = [span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.CLIENT]
    spans = [span.attributes or {} for span in requests]
    for name in ("httptrace.conn.open_reason", "httptrace.body.closed_at"):
        for value, number in Counter(span[name] for span in spans if name in span).most_common():
            print(f"{number:>3} {name} = {value}")
