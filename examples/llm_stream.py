"""What it costs to leave an LLM's stream before its end, and how not to.

    python examples/llm_stream.py openai             the SDK closes at [DONE], before the body's end
    python examples/llm_stream.py openai --drain     read on, and the connection is used again
    python examples/llm_stream.py openai-async       here the SDK reads on by itself
    python examples/llm_stream.py anthropic          the program breaks at the last event
    python examples/llm_stream.py anthropic --drain  let the loop end by itself

Needs openai and anthropic. As read and run with openai 3.57.0 and anthropic 2.13.0, both on httpx2:
openai's `Stream` closes the response as soon as it has seen [DONE]; what ends the body on the wire comes
after that, so the connection is lost (openai-python#3440). Its `AsyncStream` reads on for up to 0.1 s.
anthropic's streams have no [DONE] and read to the end.
"""

import argparse
import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_httptrace import HTTPTraceInstrumentor

OPENAI = {"model": "any", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}
ANTHROPIC = {**OPENAI, "max_tokens": 10}


def ask_openai(client: openai.OpenAI) -> str:
    text = ""
    for chunk in client.chat.completions.create(**OPENAI):
        text += chunk.choices[0].delta.content or ""
    return text  # the loop ended at [DONE], and the SDK has closed the response


def ask_openai_and_drain(client: openai.OpenAI) -> str:
    text = ""
    with client.chat.completions.create(**OPENAI) as stream:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if chunk.choices[0].finish_reason:
                break  # the answer is complete, and the SDK has not seen [DONE] yet
        for _ in stream.response.stream:
            pass  # [DONE], and the end of the body
    return text


async def ask_openai_async(client: openai.AsyncOpenAI) -> str:
    text = ""
    async for chunk in await client.chat.completions.create(**OPENAI):
        text += chunk.choices[0].delta.content or ""
    return text


def ask_anthropic(client: anthropic.Anthropic) -> str:
    text = ""
    with client.messages.create(**ANTHROPIC) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                text += event.delta.text
            if event.type == "message_stop":
                break  # nothing more will be said, but the body has not ended
    return text


def ask_anthropic_and_drain(client: anthropic.Anthropic) -> str:
    text = ""
    with client.messages.create(**ANTHROPIC) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                text += event.delta.text
    return text


class Service(BaseHTTPRequestHandler):
    """Streams events as the services do: chunked, and what ends the body comes by itself."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in openai_events() if self.path == "/chat/completions" else anthropic_events():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client left: that is what this is about


def openai_events() -> list[bytes]:
    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        data = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "any", "choices": [choice]}
        return f"data: {json.dumps(data)}\n\n".encode()

    return [chunk({"content": "Hel"}), chunk({"content": "lo!"}), chunk({}, "stop"), b"data: [DONE]\n\n"]


def anthropic_events() -> list[bytes]:
    def event(type: str, **data: object) -> bytes:
        return f"event: {type}\ndata: {json.dumps({'type': type, **data})}\n\n".encode()

    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "1", "type": "message", "role": "assistant", "model": "any", "content": [], "usage": usage}
    return [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo!"}),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage),
        event("message_stop"),
    ]


async def ask_three_times(url: str) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:
        for _ in range(3):
            print(await ask_openai_async(client))


def main(sdk: str, drain: bool, url: str) -> None:
    if sdk == "openai-async":
        asyncio.run(ask_three_times(url))
    elif sdk == "openai":
        with openai.OpenAI(api_key="none", base_url=url) as client:
            for _ in range(3):
                print((ask_openai_and_drain if drain else ask_openai)(client))
    else:
        with anthropic.Anthropic(api_key="none", base_url=url) as client:
            for _ in range(3):
                print((ask_anthropic_and_drain if drain else ask_anthropic)(client))


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
    parser = argparse.ArgumentParser()
    parser.add_argument("sdk", nargs="?", default="openai", choices=["openai", "openai-async", "anthropic"])
    parser.add_argument("--drain", action="store_true")
    arguments = parser.parse_args()
    exporter = kept_spans()
    server = Server(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    main(arguments.sdk, arguments.drain, f"http://localhost:{server.server_port}")
    server.shutdown()
    server.server_close()
    requests = [span.attributes for span in exporter.get_finished_spans() if span.name == "POST"]
    for number, request in enumerate(requests, 1):
        why = request.get("httptrace.conn.open_reason")
        print(f"request {number}: {f'new connection, {why}' if why else 'connection reused'}")
        print(f"  body {request['httptrace.body.outcome']}")
        for name in ("httptrace.body.closed_at", "httptrace.body.closed_via"):
            if name in request:
                print(f"  {name} = {request[name]}")
