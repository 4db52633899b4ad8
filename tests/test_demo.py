"""The demo: the founding story on real sockets."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kit.otlp import read
from kit.server import free_port

from otel_httptrace.demo.__main__ import main
from otel_httptrace.report.receiver import Receiver

ROOT = Path(__file__).parent.parent


def environ(**settings: str) -> Mapping[str, str]:
    """What the demo is started with."""
    import os

    return {**{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}, **settings}


def steady(output: str) -> list[str]:
    """The lines of the demo's output that are the same each time, but for ports."""
    beginnings = (
        "20 requests at",
        "  opentelemetry",
        "━",
        "1. body_not_read",
        "   100 % of the connections",
        "   => read",
        "nothing found",
        "requests ",
        "opened ",
        "closed ",
        "bodies ",
        "the server",
    )
    lines = (re.sub(r"localhost:\d+", "localhost:PORT", line).rstrip() for line in output.splitlines())
    return [line for line in lines if line.startswith(beginnings)]


def test_the_story(capfd: pytest.CaptureFixture[str]) -> None:
    """The demo shows the story, agrees with the server, exits with 0, and the README shows what it prints."""
    status = main(environ(OTEL_EXPORTER_OTLP_HEADERS="x=y", OTEL_TRACES_SAMPLER="always_off"))
    printed = capfd.readouterr()

    assert (status, printed.err) == (0, "")
    readme = (ROOT / "README.md").read_text()
    block = readme.split("<!-- demo -->\n```text\n")[1].split("```")[0]
    assert steady(printed.out) == steady(block)
    assert len(steady(block)) == 17
    unread, read = printed.out.split("responses read to the end")
    for part in ("http.getconn", "http.dns", "http.connect", "wait", "receive"):
        assert f" {part} " in unread
    assert "body closed_early at status_page.py:11 in is_up" in unread
    assert "the connection before was lost by request " in unread
    assert "(reused)" in read


def test_to_a_backend(capfd: pytest.CaptureFixture[str]) -> None:
    """With an endpoint set the spans go there, and the demo says what to look for."""
    received: list[Any] = []
    with Receiver(received.append) as backend:
        status = main(
            environ(OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        )
    printed = capfd.readouterr()

    assert (status, printed.err) == (0, "")
    assert "responses closed unread: 20 requests sent, 20 connections accepted by the server" in printed.out
    assert "httptrace.conn.open_reason=body_not_read" in printed.out
    assert len(read(received)) == 40


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{}", "127.0.0.1:{}"])
def test_a_backend_that_is_not_there(endpoint: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An endpoint at which nothing answers is said in one line, before anything is sent."""
    endpoint = endpoint.format(free_port())
    status = main(environ(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint))
    printed = capfd.readouterr()

    assert (status, printed.out) == (1, "")
    assert printed.err.startswith(f"nothing answers at OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}: ")
    assert printed.err.count("\n") == 1


def test_the_interpreter_has_the_command() -> None:
    """`opentelemetry-instrument` stands beside the interpreter, where the demo looks for it."""
    assert Path(sys.executable).with_name("opentelemetry-instrument").exists()
