"""Programs with other instrumentation in them, without us and with us: `make neighbours`.

Each of tests/neighbours/with_*.py runs twice under opentelemetry-instrument, on a loopback server, in an environment
of its own, build/neighbours. Both times it must end well and say the same, on stdout and stderr; with us, our
attributes must be on the requests that upstream's instrumentation tells of.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import foreign_suites

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ROOT / "requirements" / "neighbours.txt"
ENVIRONMENT = ROOT / "build" / "neighbours"
PROGRAMS = ROOT / "tests" / "neighbours"
#: Much longer than any program takes.
PATIENCE = 100

_CHAT = '{"id": "1", "object": "chat.completion", "created": 1, "model": "some", "choices": [{"index": 0, '
_CHAT += '"finish_reason": "stop", "message": {"role": "assistant", "content": "good day"}}]}'
_PART = 'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "some", "choices": [{"index": 0, '
_PART += '"delta": {"content": "good"}}]}\n\n'


class _Server(BaseHTTPRequestHandler):
    """What the programs ask, and the backends of all neighbours; spans are kept."""

    protocol_version = "HTTP/1.1"
    received: list[bytes]

    def do_GET(self) -> None:
        body = b"x" * 3_000_000 if self.path == "/long" else b'{"a": 1}'
        self._answer(500 if self.path == "/500" else 200, body)

    def do_POST(self) -> None:
        body = self._read()
        if self.path == "/v1/traces":
            self.received.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self._answer(200, b"", "application/x-protobuf")
        elif self.path == "/v1/chat/completions" and b'"stream":true' in body.replace(b" ", b""):
            self._answer(200, (_PART * 3 + "data: [DONE]\n\n").encode(), "text/event-stream")
        elif self.path == "/v1/chat/completions":
            self._answer(200, _CHAT.encode())
        else:
            self._answer(200, b"{}")

    def do_PUT(self) -> None:
        self.do_POST()

    def handle(self) -> None:
        # Reset by a program that closes a body unread.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().finish()

    def _read(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.close_connection = self.path in {"/close", "/reset"}
        if self.path == "/reset":
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def run(python: Path, program: Path, url: str, *, ours: bool) -> subprocess.CompletedProcess[str]:
    """Run *program* as its users do."""
    dropped = ("OTEL_", "DD_", "SENTRY_", "LOGFIRE_", "PYTHON")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "DD_TRACE_AGENT_URL": url,
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        **({} if ours else {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httptrace"}),
    }
    return subprocess.run(
        [python.with_name("opentelemetry-instrument"), python, program, url],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def words(text: str, url: str) -> Counter[str]:
    """What a program said on stderr, in any order: gevent's warning lists modules in that of a set.

    It also names threads of the exporter's by their number.
    """
    return Counter(re.split(r"[\s,\[\]]+", re.sub(r"\d{9,}", "N", text.replace(url, "URL"))))


def spans(python: Path, received: list[bytes]) -> tuple[int, int]:
    """How many requests of the program's there were, and how many with our attributes.

    Asked of the neighbours' own Python, which has the protocol; this one may have nothing.
    """
    script = """
import sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Export
found = []
for line in sys.stdin:
    for resource in Export.FromString(bytes.fromhex(line)).resource_spans:
        for scope in resource.scope_spans:
            if scope.scope.name == "opentelemetry.instrumentation.httpx":
                found += [{one.key for one in span.attributes} for span in scope.spans if span.kind == 3]
print(len(found), sum("httptrace.conn.id" in one for one in found))
"""
    told = subprocess.run(
        [python, "-c", script], input="\n".join(map(bytes.hex, received)), text=True, capture_output=True, check=True
    )
    total, annotated = map(int, told.stdout.split())
    return total, annotated


def compare(python: Path, program: Path, url: str) -> list[str]:
    """Run *program* without us and with us; return what is wrong."""
    _Server.received = []
    bare = run(python, program, url, ours=False)
    without, _ = spans(python, _Server.received)
    _Server.received = []
    ours = run(python, program, url, ours=True)
    total, annotated = spans(python, _Server.received)
    print(f"{program.stem:20} {total:3} requests, {annotated} with our attributes", flush=True)
    wrong = []
    if bare.returncode or not bare.stdout:
        return [f"{program.name} fails without us: {bare.stdout}{bare.stderr}"]
    if ours.returncode:
        wrong.append(f"{program.name}: exit status {ours.returncode}: {ours.stderr[-3000:]}")
    if ours.stdout != bare.stdout:
        wrong.append(f"{program.name} says:\n{ours.stdout}and without us:\n{bare.stdout}")
    if words(ours.stderr, url) != words(bare.stderr, url):
        more = sorted((words(ours.stderr, url) - words(bare.stderr, url)).elements())
        wrong.append(f"{program.name} says on stderr:\n{ours.stderr}and without us:\n{bare.stderr}more: {more}")
    if total != without or not annotated:
        wrong.append(f"{program.name}: {total} requests, {annotated} with our attributes; without us {without}")
    return wrong


def main() -> None:
    """Run all programs, or those that are named."""
    python = foreign_suites.environment(ENVIRONMENT, str(ROOT), LOCKED)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    programs = [file for file in sorted(PROGRAMS.glob("with_*.py")) if not sys.argv[1:] or file.stem in sys.argv[1:]]
    wrong = [line for program in programs for line in compare(python, program, url)]
    server.shutdown()
    print("\n".join(wrong) or "no program can tell that we are there")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
