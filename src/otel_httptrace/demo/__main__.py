# A program that does not know us, run twice under `opentelemetry-instrument`:
# once it closes responses unread, once it reads them. What is printed comes from
# the spans that arrived over OTLP, and is checked against what the server counted.

"""The founding story, start to end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from rich.rule import Rule

from ..report import TOKEN_HEADER, text
from ..report.analysis import analyze
from ..report.forward import Forwarder
from ..report.otlp import from_protobuf
from ..report.receiver import Batch, Receiver, new_token
from ..report.rows import Row, rows
from ..report.terminal import console as console_for
from ..telemetry import names
from .server import Server

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SERVICE = "httptrace-demo"
_RUNS = (("responses closed unread", ()), ("responses read to the end", ("--read",)))


def main(environ: Mapping[str, str]) -> int:
    """Run it; exit status 0 if the spans and the server agree."""
    endpoint = environ.get(_ENDPOINT)
    return _to_backend(endpoint, environ) if endpoint else _to_ourselves(environ)


def _to_ourselves(environ: Mapping[str, str]) -> int:
    console = _console()
    console.print("20 requests at concurrency 5, by a program that knows nothing of this package:")
    console.print("  opentelemetry-instrument python status_page.py URL")
    agreed = True
    for title, arguments in _RUNS:
        received: list[ExportTraceServiceRequest] = []
        with _receiver(received) as receiver, Server() as server:
            _run(server.url, arguments, {**environ, **_exporting_to(receiver)})
            accepted = server.accepted
        found = list(rows(span for request in received for span in from_protobuf(request)))
        report = analyze(found)
        console.print()
        console.print(Rule(title, characters="━"))
        text.summarize(report, console)
        example = _example(found)
        if example is not None:
            console.print()
            console.print(text.waterfall(example, console.width))
        opened = sum(origin.opened for origin in report.origins)
        agreed = agreed and opened == accepted and len(found) == 20
        verdict = "equal" if opened == accepted else "NOT EQUAL"
        console.print(f"\nthe server accepted {accepted} connections, the spans show {opened}: {verdict}")
    return 0 if agreed else 1


def _console() -> Console:
    # Not on a terminal it is as wide as the README's picture.
    return console_for(sys.stdout, None if sys.stdout.isatty() else 100)


def _receiver(received: list[ExportTraceServiceRequest], forwarder: Forwarder | None = None) -> Receiver:
    # Only traces are sent there.
    keep = cast("Callable[[Message], object]", received.append)
    return Receiver(keep, forward=forwarder.send if forwarder is not None else None, token=new_token())


def _exporting_to(receiver: Receiver) -> dict[str, str]:
    return {
        _ENDPOINT: receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        # What is set for a backend of the user's must not follow us here.
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"{TOKEN_HEADER}={receiver.token}",
        "OTEL_TRACES_SAMPLER": "always_on",
    }


def _example(found: list[Row]) -> Row | None:
    """One request of the kind that the run is about: with the cause on it if there is one."""
    blamed = [row for row in found if row.lost_by is not None]
    reused = [row for row in found if row.attributes.get(names.CONN_REUSED)]
    ordered = sorted(blamed or reused or found, key=lambda row: row.duration)
    return ordered[len(ordered) // 2] if ordered else None


def _to_backend(endpoint: str, environ: Mapping[str, str]) -> int:
    # Of the exporters only that over HTTP is sure to be installed, and no exporter says what has arrived.
    try:
        problem = _refused(endpoint, environ)
        forwarder = Forwarder(endpoint, environ)
    except ValueError as error:
        problem = str(error)
    if problem:
        print(f"{_ENDPOINT}: {problem}", file=sys.stderr)
        return 1
    received: list[ExportTraceServiceRequest] = []
    with _receiver(received, forwarder) as receiver:
        for title, arguments in _RUNS:
            with Server() as server:
                _run(server.url, arguments, {**environ, **_exporting_to(receiver)})
                print(f"{title}: 20 requests sent, {server.accepted} connections accepted by the server")
    lost = forwarder.close()
    if lost:
        print(f"{_ENDPOINT}: {lost}", file=sys.stderr)
        return 1
    spans = sum(1 for request in received for _ in from_protobuf(request))
    print(f"\n{spans} spans went to {forwarder.endpoint}; look for service {_SERVICE}, operation GET, and:")
    print(f"  {names.CONN_OPEN_REASON}=body_not_read      Jaeger, tags")
    print(f'  {{ span.{names.CONN_OPEN_REASON} = "body_not_read" }}      TraceQL')
    print(f"  /trace/ID?uiFind={names.MESSAGE}      Jaeger, by a trace's id: opens what hurts, with its line")
    return 0


def _refused(endpoint: str, environ: Mapping[str, str]) -> str | None:
    """Why nothing can be sent there, by an export without spans, tried once."""
    forwarder = Forwarder(endpoint, environ, timeout=5, patience=0)
    forwarder.send(Batch("/v1/traces", "application/x-protobuf", "", b"", 1, "empty export"))
    return forwarder.close(timeout=6)


def _run(url: str, arguments: tuple[str, ...], environ: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Out of this package: what lies within is never taken for the application.
        program = shutil.copy(Path(__file__).with_name("status_page.py"), folder)
        command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, program, url]
        settings = {
            **environ,
            "OTEL_SERVICE_NAME": _SERVICE,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            # One that is not installed would end the program, and nobody is there to propagate to.
            "OTEL_PROPAGATORS": "",
        }
        for name in list(_without_effect(settings)):
            del settings[name]
        subprocess.run([*command, *arguments], env=settings, check=True, timeout=60)


def _without_effect(settings: Mapping[str, str]) -> Iterator[str]:
    yield from (name for name, value in settings.items() if name.startswith("OTEL_") and not value)


if __name__ == "__main__":
    sys.exit(main(os.environ))
