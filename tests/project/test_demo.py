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
from kit.store import Store

from otel_httptrace.demo.__main__ import main
from otel_httptrace.report.receiver import Batch, Receiver

ROOT = Path(__file__).parents[2]


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
        "No problems found in ",
        "requests ",
        "opened ",
        "closed ",
        "bodies ",
        "the server",
    )
    lines = (re.sub(r"localhost:\d+", "localhost:PORT", line).rstrip() for line in output.splitlines())
    return [line for line in lines if line.startswith(beginnings)]


def test_the_demo_shows_the_story_and_the_readme_its_output(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_the_demo_exports_to_an_endpoint_that_is_set(capfd: pytest.CaptureFixture[str]) -> None:
    """With an endpoint set and nothing else the spans go there, and the demo says how many and what to look for."""
    received: list[Any] = []
    batches: list[Batch] = []
    with Receiver(received.append, forward=batches.append) as backend:
        status = main(
            environ(
                OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint,
                # Where it goes first is not where it goes in the end.
                OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{free_port()}/v1/traces",
                OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
                OTEL_TRACES_SAMPLER="always_off",
            )
        )
    printed = capfd.readouterr()

    assert (status, printed.err) == (0, "")
    assert "responses closed unread: 20 requests sent, 20 connections accepted by the server" in printed.out
    assert "httptrace.conn.open_reason=body_not_read" in printed.out
    assert len([span for span in read(received) if span.name == "GET"]) == 40
    assert f"\n{sum(batch.items for batch in batches)} spans went to {backend.endpoint};" in printed.out


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.1:{}", "not delivered to http://127.0.0.1:{}: 1 empty export (it cannot be reached: "),
        ("127.0.0.1:{}", "an OTLP/HTTP endpoint like http://localhost:4318 was expected"),
    ],
)
def test_a_backend_that_is_not_there(endpoint: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An endpoint that is none, or at which nothing answers, is said in one line, before anything is sent."""
    port = free_port()
    status = main(environ(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.format(port)))
    printed = capfd.readouterr()

    assert (status, printed.out) == (1, "")
    assert printed.err.startswith(f"OTEL_EXPORTER_OTLP_ENDPOINT: {why.format(port)}")
    assert printed.err.count("\n") == 1


def test_a_backend_that_speaks_grpc(capfd: pytest.CaptureFixture[str]) -> None:
    """An endpoint that takes OTLP over gRPC only is said in one line, before anything is sent."""
    with Store() as backend:
        status = main(environ(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{backend.address}"))
    printed = capfd.readouterr()

    assert (status, printed.out) == (1, "")
    assert printed.err.endswith("1 empty export (it broke off, or does not speak HTTP)\n")
    assert printed.err.count("\n") == 1
    assert backend.spans == []


def test_a_backend_that_takes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """What a backend refuses is said not to have gone there."""

    def refuse(request: Any) -> None:
        if list(read([request])):
            raise OSError("no room")

    with Receiver(refuse) as backend:
        status = main(environ(OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint))
    printed = capfd.readouterr()

    assert status == 1
    assert "went to" not in printed.out
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT: not delivered to {backend.endpoint}: " in printed.err
    assert printed.err.endswith(" spans (it took a part only)\n")


def test_the_interpreter_has_the_command() -> None:
    """`opentelemetry-instrument` stands beside the interpreter, where the demo looks for it."""
    assert Path(sys.executable).with_name("opentelemetry-instrument").exists()
