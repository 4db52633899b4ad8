"""`httptrace run` listens to the program that it runs, and to nobody else on the machine."""

from __future__ import annotations

import json
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kit.command import httptrace
from kit.server import Server

#: Makes a request, and then does as another program would that has found the port: no token, a wrong one, a page's.
PROGRAM = """
    import http.client, json, os, sys, httpx
    from urllib.parse import urlsplit
    endpoint = os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    headers = {name: value for name, value in os.environ.items() if "_HEADERS" in name}
    httpx.get(sys.argv[1]).raise_for_status()
    span = {"name": "GET", "kind": 3, "traceId": "ab" * 16, "spanId": "cd" * 8, "attributes": [
        {"key": "url.full", "value": {"stringValue": "https://forged.example/"}}]}
    scope = {"name": "opentelemetry.instrumentation.httpx"}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"scope": scope, "spans": [span]}]}]})
    statuses = []
    for more in ({}, {"x-httptrace-token": "0" * 43}, {"Host": "attacker.example"}):
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json", **more})
        statuses.append(connection.getresponse().status)
        connection.close()
    print(json.dumps([statuses, headers]))
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The path of the program."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return str(path)


@pytest.fixture
def backend() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """An endpoint, and what came to it: path, headers in lower case, body."""
    came: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()
        thread.join()


def test_others_are_refused(program: str, server: Server, tmp_path: Path) -> None:
    """Spans of who has not the token are in no report and in no file; the program's own are, and stderr is quiet about it."""
    spans = tmp_path / "spans.jsonl"
    ran = httptrace("run", "--json", "-", "--otlp", spans, "--", sys.executable, program, server.url())

    line, _, report = ran.stdout.partition("\n")
    statuses, headers = json.loads(line)
    assert statuses == [403, 403, 421]
    assert json.loads(report)["requests"] == 1
    assert [origin["origin"] for origin in json.loads(report)["origins"]] == [server.url().rstrip("/")]
    assert "forged" not in spans.read_text()
    assert ran.stderr.count("refused a request") == 3
    assert list(headers) == ["OTEL_EXPORTER_OTLP_TRACES_HEADERS"]
    assert len(headers["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].partition("=")[2]) >= 43


def test_each_run_has_its_own(program: str, server: Server) -> None:
    """The token of a run is no other run's."""
    runs = [httptrace("run", "-q", "--", sys.executable, program, server.url()) for _ in range(2)]

    assert len({json.loads(ran.stdout)[1]["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] for ran in runs}) == 2


def test_forwarded_with_the_users_headers_and_without_the_token(
    program: str, server: Server, backend: tuple[str, list[tuple[str, dict[str, str], bytes]]]
) -> None:
    """What is forwarded has the headers that the user's exporters would send, per signal, and never the token."""
    endpoint, came = backend
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cr3t,x-team=shop",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-team=metrics",
    }
    ran = httptrace("run", "-q", "--forward", endpoint, "--", sys.executable, program, server.url(), environ=environ)

    statuses, headers = json.loads(ran.stdout)
    tokens = {value.partition("=")[2] for name, value in headers.items() if name not in environ or "METRICS" in name}
    (token,) = tokens
    assert {"/v1/traces", "/v1/metrics"} <= {path for path, _, _ in came}
    for path, sent, body in came:
        wanted = ("Bearer s3cr3t", "shop") if path != "/v1/metrics" else (None, "metrics")
        assert (sent.get("authorization"), sent.get("x-team")) == wanted
        assert not any("httptrace" in name for name in sent)
        assert token not in repr((path, sent, body))
        assert b"forged" not in body
    assert statuses == [403, 403, 421]
    # The program has the user's own, too, for exporters that it makes itself, to elsewhere.
    assert headers["OTEL_EXPORTER_OTLP_HEADERS"] == environ["OTEL_EXPORTER_OTLP_HEADERS"]


def test_the_token_is_nowhere_to_be_read(program: str, server: Server, tmp_path: Path) -> None:
    """No output and no argument of a process has the token: only the program's environment."""
    page, text = tmp_path / "page.html", tmp_path / "report.txt"
    ran = httptrace("run", "-v", "--html", page, "-o", text, "--", sys.executable, program, server.url())

    token = json.loads(ran.stdout)[1]["OTEL_EXPORTER_OTLP_TRACES_HEADERS"].partition("=")[2]
    assert token not in ran.stderr + page.read_text() + text.read_text()
    assert urlsplit(server.url()).netloc in text.read_text()
