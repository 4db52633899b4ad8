"""Pages to look at, of reports made by hand and of the demo's real spans: `sample_pages.py FOLDER`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kit import reports

import otel_httptrace.demo
from otel_httptrace.demo.server import Server
from otel_httptrace.report.analysis import Analysis, analyze
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.page import render
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.rows import rows
from otel_httptrace.report.summary import Report


def samples() -> Iterator[tuple[str, Report]]:
    """Reports by name."""
    yield "story", analyze(reports.early_close())
    yield (
        "mixed",
        replace(
            analyze(reports.mixed()),
            left_out=43_000,
            problems=("spans.jsonl, line 17: cut off after 812 bytes",),
        ),
    )
    yield "quiet", analyze(reports.many(200, 4))
    yield "empty", analyze([])
    yield "many-connections", analyze(reports.many())
    yield "few-connections", analyze(reports.many(10_000, 12))
    for name, arguments in (("unread", ()), ("read", ("--read",))):
        yield f"demo-{name}", demo(*arguments)


def demo(*arguments: str) -> Report:
    """Of the spans that the demo's program sends."""
    received: list[Any] = []
    with Receiver(received.append) as receiver, Server() as server, tempfile.TemporaryDirectory() as folder:
        program = shutil.copy(Path(otel_httptrace.demo.__file__).with_name("status_page.py"), folder)
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "httptrace-demo",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
        command = [instrument, sys.executable, program, server.url, *arguments]
        subprocess.run(command, env={**os.environ, **settings}, check=True, timeout=60)
    spans = [span for request in received for span in from_protobuf(request)]
    analysis = Analysis()
    for row in rows(spans):
        analysis.add(row)
    return analysis.report(spans=len(spans))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in samples():
        began = time.perf_counter()
        page = render(report)
        took = time.perf_counter() - began
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        print(f"{name}.html: {report.requests} requests, {len(page.encode()) / 1e3:.0f} kB, {took * 1e3:.0f} ms")
