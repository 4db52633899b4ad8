# A target takes bytes as they would come, reads them as the product does, and makes
# all that it makes of what was read. It raises nothing that is not promised, and its
# outputs hold what is claimed of them: text of which a terminal obeys nothing, JSON
# that any parser takes, a page.

"""What is fuzzed: a function of bytes for each parser."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

import orjson
from google.protobuf.message import DecodeError
from kit.backend import Asked, Backend, Reply
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_httptrace.report import schema, text
from otel_httptrace.report.analysis import Analysis
from otel_httptrace.report.bounds import TooMuchError, check_json, check_protobuf
from otel_httptrace.report.otlp import FormatError, from_json, from_protobuf, parse_json, to_json
from otel_httptrace.report.page import render
from otel_httptrace.report.rows import Assembler
from otel_httptrace.report.sources import SourceError, SpanSource
from otel_httptrace.report.sources.files import FileSource
from otel_httptrace.report.sources.jaeger import JaegerSource
from otel_httptrace.report.sources.tempo import TempoSource
from otel_httptrace.report.spans import Span
from otel_httptrace.report.terminal import console

#: When the fuzzed backends are asked for, in seconds since the epoch.
END: Final = 1_790_000_000.0

_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")


def report(spans: Iterable[Span]) -> None:
    """Make all that is made of spans, and check it."""
    assembler, analysis, number = Assembler(), Analysis(), 0
    for number, span in enumerate(spans, 1):  # noqa: B007 - the last one counts
        for row in assembler.add(span):
            analysis.add(row)
    for row in assembler.finish():
        analysis.add(row)
    made = analysis.report(spans=number, foreign=assembler.foreign)

    out = io.StringIO()
    text.render(made, console(out, 100))
    for line in _SGR.sub("", out.getvalue()).splitlines():
        assert line.isprintable(), line
    assert orjson.loads(schema.dumps(made)) == json.loads(schema.dumps(made), parse_constant=_no_constant)
    # Jinja escapes what comes of spans; our own tags are all that are there.
    page = render(made)
    assert page.count("<script") == page.count("</script>")


def _no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def otlp_json(data: bytes) -> None:
    """A request in OTLP/JSON, in both ways that it is read: through protobuf, as received, and directly, as from a file."""
    with contextlib.suppress(FormatError, TooMuchError):
        check_json(data)
        request = parse_json(data, ExportTraceServiceRequest())
        report(from_protobuf(request))
        # What was kept as a file can be read, to the same spans.
        assert from_json(orjson.loads(to_json(request))) == list(from_protobuf(request)) or has_nan(request)
    with contextlib.suppress(FormatError, TooMuchError, orjson.JSONDecodeError):
        check_json(data)
        report(from_json(orjson.loads(data)))


def has_nan(request: ExportTraceServiceRequest) -> bool:
    """Whether there is a number that is not equal to itself."""
    return "nan" in str(request)


def otlp_protobuf(data: bytes) -> None:
    """A request in OTLP's protobuf, as received."""
    with contextlib.suppress(DecodeError, TooMuchError):
        check_protobuf(data, ExportTraceServiceRequest)
        request = ExportTraceServiceRequest()
        request.ParseFromString(data)
        report(from_protobuf(request))
        line = to_json(request)
        assert b"\n" not in line
        with contextlib.suppress(FormatError):
            # Ids of any length are kept, and refused where they are read.
            report(from_json(orjson.loads(line)))


def file(data: bytes) -> None:
    """A file of OTLP JSON lines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spans"
        path.write_bytes(data)
        _read(FileSource(path, max_line=500_000))


class Answers:
    """Fuzzes what backends answer: the bytes are the answer to everything, or, line by line, to one question after another."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._asked = 0
        self.backend = Backend(self._answer)

    def _answer(self, asked: Asked) -> Reply:
        # Only so often is a full answer given: that the questions end then is tested elsewhere.
        line = self._lines[min(self._asked, len(self._lines) - 1)] if self._asked < 12 else b"{}"
        self._asked += 1
        return Reply(line, headers={"Content-Type": "application/json"})

    def _ask(self, data: bytes, source: Callable[[], SpanSource]) -> None:
        self._lines, self._asked = data.splitlines() or [b""], 0
        _read(source())

    def jaeger(self, data: bytes) -> None:
        """Answers of a Jaeger."""
        self._ask(data, lambda: JaegerSource(self.backend.url, "shop", "1s", end=END, environ={}))

    def tempo(self, data: bytes) -> None:
        """Answers of a Tempo."""
        self._ask(data, lambda: TempoSource(self.backend.url, None, lookback="1s", end=END, environ={}))


def _read(source: SpanSource) -> None:
    try:
        report(source)
    except SourceError as error:
        assert str(error).isprintable(), error  # noqa: PT017
    told = list(source.problems)
    assert len(told) <= 6
    for problem in told:
        assert len(problem) < 500
        assert problem.isprintable(), problem


def targets(answers: Answers) -> dict[str, Callable[[bytes], None]]:
    """All of them, by the name of their folder in the corpus."""
    return {
        "otlp_json": otlp_json,
        "otlp_protobuf": otlp_protobuf,
        "file": file,
        "jaeger": answers.jaeger,
        "tempo": answers.tempo,
    }


NAMES: Final = ("otlp_json", "otlp_protobuf", "file", "jaeger", "tempo")
