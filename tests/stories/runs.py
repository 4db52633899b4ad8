"""Runs a program of a story as people run theirs, and takes in what it sends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.command import INSTRUMENTED

from otel_httptrace.report import otlp
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.rows import Row, rows
from otel_httptrace.report.spans import Span
from otel_httptrace.report.summary import Report
from otel_httptrace.telemetry import names

from .story import Case

_HERE = Path(__file__).parent


@dataclass
class Told:
    """What became of a case."""

    case: Case
    returned: int
    printed: str
    complained: str
    spans: list[Span]
    #: What the spans say for a person, each with its trace, in the order in which it happened.
    said: list[tuple[str, str]]
    rows: list[Row]
    report: Report
    #: The program's first URL, without its path.
    origin: str
    #: How many connections the servers accepted; None where nobody counted.
    accepted: int | None
    #: Lines of the program by the comment that marks them, as they are to be reported.
    lines: dict[str, re.Pattern[str]]

    def __str__(self) -> str:
        """Everything, compactly: what an assertion that failed has to show."""
        return "\n".join(
            [
                "",
                *(f"  {line}" for line in self.printed.splitlines()),
                *(f"! {line}" for line in self.complained.splitlines()),
                *shown(self.rows),
                *(f"{trace[:4]}: {sentence}" for trace, sentence in self.said),
                *(f"=> {finding}" for finding in self.report.findings),
            ]
        )


@dataclass
class Ran:
    """A program that has ended."""

    process: subprocess.CompletedProcess[str]
    #: Its text, and the name of its file.
    text: str
    name: str
    origin: str
    accepted: int | None


def run(case: Case, how: str, **environ: str) -> Ran:
    """Run *case* with the library and in the way that *how* says; *environ* says where it sends to."""
    library, mode = how.split()
    name = case.file(how)
    # As it would be written for that library, line by line.
    text = (_HERE / "programs" / name).read_text().replace("import httpx\n", f"import {library} as httpx\n")
    with tempfile.TemporaryDirectory() as folder, case.world() as world:
        program = Path(folder) / name
        program.write_text(text)
        start = [str(program)]
        settings = {"BACKEND": mode}
        if world.names is not None:
            start.insert(0, shutil.copy(_HERE / "resolver.py", folder))
            settings["RESOLVER"] = json.dumps(world.names)
        process = subprocess.run(
            [
                *INSTRUMENTED,
                *start,
                *world.urls,
                *case.arguments,
                *world.last,
            ],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
                "OTEL_SERVICE_NAME": case.program,
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                # Of a fork beside threads, which the exporter has: Python 3.12 and later warn of it.
                "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
                **settings,
                **world.environ,
                **environ,
                **dict(case.environ),
            },
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return Ran(process, text, name, re.sub(r"(?<=[^/:])/.*", "", world.urls[0]), world.accepted)


def play(case: Case, how: str) -> Told:
    """Run *case* with the library and in the way that *how* says, and take in what it sends."""
    received: list[Any] = []
    with Receiver(received.append) as receiver:
        ran = run(case, how, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    spans = [span for request in received for span in otlp.from_protobuf(request)]
    if not case.stalls:
        for span in spans:
            # A loaded machine does hold programs up, and that is told; it is no part of this story.
            span.attributes.pop(names.STALLED, None)
    found = list(rows(spans))
    return Told(
        case,
        ran.process.returncode,
        ran.process.stdout,
        ran.process.stderr,
        spans,
        _said(received),
        found,
        analyze(found, case.thresholds),
        ran.origin,
        ran.accepted,
        dict(_marked(ran.name, ran.text)),
    )


def _said(received: Iterable[Any]) -> list[tuple[str, str]]:
    found = [
        (event.time_unix_nano, span.trace_id.hex(), value.value.string_value)
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for event in span.events
        if event.name == names.EVENT_DIAGNOSIS
        for value in event.attributes
    ]
    return [(trace, sentence) for _, trace, sentence in sorted(found)]


def _marked(name: str, text: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        _, found, mark = line.partition("  # <- ")
        if found:
            yield mark, re.compile(rf"{re.escape(name)}:{number} in \w+")


def shown(found: Iterable[Row]) -> Iterator[str]:
    """Rows, a line each, in the order in which they began."""
    for row in sorted(found, key=lambda row: row.start):
        known = " ".join(
            f"{name.removeprefix('httptrace.')}={f'{value:.3f}' if isinstance(value, float) else value}"
            for name, value in row.attributes.items()
            if name.startswith(("httptrace.", "http.conn.", "error.", "network.peer.address"))
        )
        steps = " ".join(
            f"{step.name}({step.duration:.3f} {step.attributes.get('error.type', '')})" for step in row.steps
        )
        links = " ".join(f"{link.attributes.get('httptrace.link')}->{link.span_id[:4]}" for link in row.links)
        failed = " FAILED" if row.failed else ""
        yield f"{row.span_id[:4]} {row.name} {row.status} {row.duration:.3f}{failed} {known} | {steps} | {links}"


_CONDITION = re.compile(r"(?P<name>[\w.]+) (?P<is>=~|=|!=|>) (?P<value>.+)")


def matches(query: str, span: Span) -> bool:
    """Whether a TraceQL filter of the kind that the stories use, ``{ a = 1 && b > 2 }``, finds *span*."""
    return all(_holds(condition, span) for condition in query.strip("{ }").split(" && "))


def _holds(condition: str, span: Span) -> bool:
    found = _CONDITION.fullmatch(condition)
    assert found is not None, condition
    name, text = found["name"], found["value"]
    value = {
        "name": span.name,
        "duration": (span.end - span.start) / 1e9,
        "status": "error" if span.failed else "unset",
        **{f"span.{name}": value for name, value in span.attributes.items()},
    }.get(name)
    wanted = (
        text
        if name == "status" or text == "nil"
        else json.loads(text.removesuffix("s") if name == "duration" else text)
    )
    if text == "nil":
        return (value is None) is (found["is"] == "=")
    if found["is"] == "=~":
        return isinstance(value, str) and re.fullmatch(json.loads(text), value) is not None
    if found["is"] == ">":
        return value is not None and value > wanted
    return (value == wanted) is (found["is"] == "=")
