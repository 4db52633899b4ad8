"""Programs with other instrumentation in them, without us and with us: `make neighbours`.

Each of tests/neighbours/with_*.py runs twice under opentelemetry-instrument, on a loopback server, in an environment
of its own, build/neighbours; the one with gevent under `httptrace run`, too. Each time it must end well and say the
same, on stdout and stderr. With us, our attributes must be on every request that was sent to the server.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
#: Of this checkout: it lends a program of any environment what that lacks.
HTTPTRACE = ROOT / ".venv" / "bin" / "httptrace"
#: What patches the most, and must be first to do so.
UNDER_RUN = ("with_gevent",)

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


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, list[bytes]]]:
    """A server for one run: its URL, and the spans that it receives."""
    handler: Any = type("Handler", (_Server,), {"received": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.received
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Run:
    """What came of one run of a program."""

    status: int
    stdout: str
    stderr: Counter[str]
    said: str
    #: Requests that reached the server, those of them with our attributes, and those that were mocked.
    requests: int
    annotated: int
    mocked: int


def run(python: Path, program: Path, mode: str) -> Run:
    """Run *program* as its users do; *mode* is "bare", "ours" or "run"."""
    dropped = ("OTEL_", "DD_", "SENTRY_", "LOGFIRE_", "PYTHON")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    with serving() as (url, received), tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "DD_TRACE_AGENT_URL": url,
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            **({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httptrace"} if mode == "bare" else {}),
        }
        command: list[str | Path] = [python.with_name("opentelemetry-instrument")]
        if mode == "run":
            command = [HTTPTRACE, "run", "--quiet", "--json", report, "--"]
        result = subprocess.run(
            [*command, python, program, url],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if mode == "run":
            told = json.loads(report.read_text()) if report.exists() else {"requests": 0, "unobserved_requests": 0}
            counts = [told["requests"], told["requests"] - told["unobserved_requests"], 0]
        else:
            counts = requests(python, received, url)
        return Run(result.returncode, result.stdout, words(result.stderr, url), result.stderr, *counts)


def words(text: str, url: str) -> Counter[str]:
    """What a program said on stderr, in any order: gevent's warning lists modules in that of a set.

    It also names threads of the exporter's by their number.
    """
    return Counter(re.split(r"[\s,\[\]]+", re.sub(r"\d{9,}", "N", text.replace(url, "URL"))))


def requests(python: Path, received: list[bytes], url: str) -> list[int]:
    """How many requests there were of the server, how many of these with our attributes, and how many of elsewhere.

    Asked of the neighbours' own Python, which has the protocol; this one may have nothing.
    """
    script = """
import sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Export
found, mocked = [], 0
for line in sys.stdin:
    for resource in Export.FromString(bytes.fromhex(line)).resource_spans:
        for scope in resource.scope_spans:
            if scope.scope.name == "opentelemetry.instrumentation.httpx":
                for span in (span for span in scope.spans if span.kind == 3):
                    told = {one.key: one.value.string_value for one in span.attributes}
                    if told["http.url"].startswith(sys.argv[1]):
                        found.append(told)
                    else:
                        mocked += 1
print(len(found), sum("httptrace.conn.id" in told for told in found), mocked)
"""
    told = subprocess.run(
        [python, "-c", script, url],
        input="\n".join(map(bytes.hex, received)),
        text=True,
        capture_output=True,
        check=True,
    )
    return [int(number) for number in told.stdout.split()]


def compare(program: Path, runs: Mapping[str, Run]) -> list[str]:
    """Return what is wrong with the *runs* of a program, by mode."""
    bare = runs["bare"]
    if bare.status or not bare.stdout or not bare.requests:
        return [f"{program.name} fails without us: {bare.requests} requests: {bare.stdout}{bare.said}"]
    wrong = []
    for mode, ours in runs.items():
        if mode == "bare":
            continue
        title = f"{program.stem} ({mode})"
        print(
            f"{title:27} {ours.requests:3} requests, {ours.annotated:3} with our attributes, {ours.mocked} mocked",
            flush=True,
        )
        if ours.status:
            wrong.append(f"{title}: exit status {ours.status}: {ours.said[-3000:]}")
        if ours.stdout != bare.stdout:
            wrong.append(f"{title} says:\n{ours.stdout}and without us:\n{bare.stdout}")
        if more := sorted((ours.stderr - bare.stderr).elements()):
            wrong.append(f"{title} says on stderr:\n{ours.said}and without us:\n{bare.said}more: {more}")
        if not bare.requests == ours.requests == ours.annotated or (mode == "ours" and ours.mocked != bare.mocked):
            wrong.append(
                f"{title}: {ours.requests} requests, {ours.annotated} with our attributes, {ours.mocked} mocked; "
                f"without us {bare.requests} and {bare.mocked}"
            )
    return wrong


def main() -> None:
    """Run all programs, or those that are named."""
    python = foreign_suites.environment(ENVIRONMENT, str(ROOT), LOCKED)
    programs = [file for file in sorted(PROGRAMS.glob("with_*.py")) if not sys.argv[1:] or file.stem in sys.argv[1:]]
    with ThreadPoolExecutor(2) as pool:
        runs = {
            program: {
                mode: pool.submit(run, python, program, mode)
                for mode in ("bare", "ours", *(("run",) if program.stem in UNDER_RUN else ()))
            }
            for program in programs
        }
    wrong = [
        line
        for program in programs
        for line in compare(program, {mode: one.result() for mode, one in runs[program].items()})
    ]
    print("\n".join(wrong) or "no program can tell that we are there")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
