"""Downloads with requests and `stream=True`, of which only the headers are looked at, and what that costs.

opentelemetry-instrument python examples/stream_unread.py http://localhost:8000/

or by itself, which prints the reasons and the lines to the console. `read` as the second argument reads the bodies.
"""

import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_httptrace import HTTPTraceInstrumentor


class Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"x" * 20_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client left: that is what this is about


def size_of(session: requests.Session, url: str, read: bool) -> int:
    with session.get(url, stream=True) as response:
        if read:
            return len(response.content)
        return int(response.headers["Content-Length"])


def main(url: str, read: bool) -> None:
    with requests.Session() as session:
        for _ in range(20):
            size_of(session, url, read)


def by_itself(read: bool) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    HTTPTraceInstrumentor().instrument(tracer_provider=provider)
    with Server(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        main(f"http://127.0.0.1:{server.server_port}/", read)
        server.shutdown()
    told = [span.attributes or {} for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.CLIENT]
    for name in ("httptrace.conn.open_reason", "httptrace.body.closed_at"):
        for value, count in Counter(one.get(name) for one in told).most_common():
            if value is not None:
                print(f"{count:3} {name} = {value}")


if __name__ == "__main__":
    whole = "read" in sys.argv[2:] or sys.argv[1:] == ["read"]
    if len(sys.argv) > 1 and sys.argv[1] != "read":
        main(sys.argv[1], whole)
    else:
        by_itself(whole)
