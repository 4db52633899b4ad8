"""One request, with one library installed and nothing that is optional to it: `python alone.py httpx`."""

import asyncio
import importlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_httptrace import HTTPTraceInstrumentor


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


def main(name: str) -> None:
    library = importlib.import_module(name)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    HTTPTraceInstrumentor().instrument(tracer_provider=provider)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://localhost:{server.server_port}/"

    async def asynchronously() -> None:
        async with library.AsyncClient() as client:
            for _ in range(2):
                await client.get(url)

    with library.Client() as client:
        for _ in range(2):
            client.get(url)
    asyncio.run(asynchronously())
    server.shutdown()
    server.server_close()
    requests = [span.attributes or {} for span in exporter.get_finished_spans() if span.name == "GET"]
    reused = [attributes.get("http.conn.reused") for attributes in requests]
    lookups = [span.name for span in exporter.get_finished_spans()].count("http.dns")
    assert reused == [False, True, False, True], reused
    assert lookups == 2, lookups
    HTTPTraceInstrumentor().uninstrument()
    print(f"{name} alone: {len(requests)} requests, {lookups} lookups")


if __name__ == "__main__":
    main(sys.argv[1])
