"""Jaeger 2: what it has is read as Jaeger 1's is, and it keeps what links say."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.command import INSTRUMENTED, httptrace
from kit.programs import Jaeger2, until
from kit.server import Server, answer

pytestmark = pytest.mark.skipif(not Jaeger2.made(), reason="there is no Jaeger 2: make backends2")

WASTEFUL = """
import sys, httpx
from opentelemetry import trace
with httpx.Client() as client, trace.get_tracer("shop").start_as_current_span("checkout"):
    for _ in range(5):
        with client.stream("GET", sys.argv[1]):
            pass
"""


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger2]:
    """A Jaeger 2 that has the founding story."""
    program = tmp_path_factory.mktemp("shop") / "shop.py"
    program.write_text(WASTEFUL)
    with Jaeger2() as jaeger, Server({"/part": answer(b"x" * 100_000)}) as server:
        subprocess.run(
            [*INSTRUMENTED, str(program), server.url("/part")],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
                "OTEL_SERVICE_NAME": "shop",
                "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
            },
            check=True,
            timeout=60,
        )
        until(
            "the trace", lambda: jaeger.http.get(f"{jaeger.url}/api/traces", params={"service": "shop"}).json()["data"]
        )
        yield jaeger


def test_the_report(jaeger: Jaeger2, tmp_path: Path) -> None:
    """`httptrace report --jaeger` finds in Jaeger 2 what the program did, with the line, and where its UI shows it."""
    ran = httptrace("report", "--jaeger", jaeger.url, "--service", "shop", "--width", "100")

    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("5 requests to 1 origin")
    assert lines[2] == "1. body_not_read  waste, certain"
    assert "at shop.py:6 in <module>" in ran.stdout
    address = re.search(rf"(?m)^1\. {re.escape(jaeger.url)}/trace/(\w+)\?uiFind=(\w+)$", ran.stdout)
    assert address is not None
    (trace,) = jaeger.http.get(f"{jaeger.url}/api/traces/{address[1]}").json()["data"]
    (span,) = [span for span in trace["spans"] if span["spanID"] == address[2]]
    assert "shop.py:6 in <module>" in [tag["value"] for tag in span["tags"]]


def test_what_is_asked_for(jaeger: Jaeger2) -> None:
    """A search by tag finds the request, and its spans have the line, the sentence and the links with their attributes."""
    found = jaeger.http.get(
        f"{jaeger.url}/api/traces",
        params={"service": "shop", "tags": '{"httptrace.conn.lost_at": "shop.py:6 in <module>"}'},
    ).json()["data"]

    (trace,) = found
    said = [
        field["value"] for span in trace["spans"] for log in span["logs"] for field in log["fields"]
        if field["key"] == "httptrace.message"
    ]  # fmt: skip
    assert sum(text.startswith("Opened a new connection because of shop.py:6 in <module>, ") for text in said) == 4
    links = jaeger.links(trace["traceID"])
    assert [link["httptrace.link"] for link in links] == ["connection_lost_by"] * 4
    assert {link["httptrace.body.closed_at"] for link in links} == {"shop.py:6 in <module>"}


def test_the_ui(jaeger: Jaeger2) -> None:
    """What its UI is to show first has reached its page."""
    assert '"topTagPrefixes":["httptrace.failed_phase"' in jaeger.http.get(f"{jaeger.url}/search").text.replace(" ", "")
