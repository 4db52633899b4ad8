# The tests' process is observed as any other is, with a provider of spans that is ours
# alone: what the tests do with OpenTelemetry themselves stays as it is. Under pytest-xdist
# each worker hands its spans over as it ends, and whoever started them makes the summary.

"""The requests of tests, for ``pytest --httptrace``."""

from __future__ import annotations

import gc
import io
import os
from dataclasses import replace
from typing import Any, Final

import click
import pytest
from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from .. import HTTPTraceInstrumentor
from ..report import gate, schema, text
from ..report.findings import Thresholds
from ..report.page import render as page
from ..report.printable import printable
from ..report.summary import Report
from ..report.terminal import console
from ..report.units import count
from .errors import Problem
from .files import writing
from .intake import Intake
from .project import VARIABLES, settings

#: Under this name a worker of pytest-xdist hands over what it has seen.
_SEEN: Final = "httptrace"
#: Spans that a worker hands over at most, in bytes: it keeps them until it ends.
_MOST: Final = 256 * 1024 * 1024
_MANY_TRACES: Final = 20_000


class Observation(SpanProcessor):
    """Observes the requests of this process, and adds a section to pytest's summary: a plugin.

    Args:
        config: pytest's.

    Raises:
        pytest.UsageError: something asked for is not there.
    """

    def __init__(self, config: pytest.Config) -> None:
        try:
            known = settings(config.rootpath)
            asked = config.getoption("--httptrace-fail-on") or os.environ.get(VARIABLES["fail-on"], "").split()
            self._gate = gate.Gate.of(gate.parse(asked or known.get("fail_on", ())), known.get("baseline"))
            thresholds = Thresholds.parse(dict(one.split("=", 1) for one in known.get("threshold", ())))
        except (click.ClickException, ValueError) as error:
            raise pytest.UsageError(
                f"httptrace: {error.message if isinstance(error, click.ClickException) else error}"
            ) from error
        self._files = [(known[name], render) for name, render in _FILES.items() if known.get(name, "-") != "-"]
        self._everything = bool(known.get("everything"))
        self._worker = hasattr(config, "workerinput")
        self._config = config
        self._test = ""
        #: Of a worker: what it has seen, each with the test in which it was.
        self._seen: list[tuple[str, bytes]] = []
        self._bytes = self._left_out = 0
        self._intake = None if self._worker else Intake(thresholds)
        #: Tests, by the ids of their traces.
        self._tests: dict[str, str] = {}
        self._report: Report | None = None
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource({"service.name": "pytest"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(self)
        self._instrumentor = HTTPTraceInstrumentor()
        self._instrumentor.instrument(tracer_provider=self._provider, meter_provider=metrics.NoOpMeterProvider())

    # Of spans.

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        """It is told by its end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span."""
        encoded = encode_spans([span])
        if not self._worker:
            self._take(self._test, encoded)
            return
        data = encoded.SerializeToString()
        if self._bytes + len(data) > _MOST:
            self._left_out += 1
            return
        self._bytes += len(data)
        self._seen.append((self._test, data))

    def _take(self, test: str, request: ExportTraceServiceRequest) -> None:
        if self._intake is None:
            return
        self._intake.keep(request)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if test and len(self._tests) < _MANY_TRACES:
                        self._tests.setdefault(span.trace_id.hex(), test)

    # Of pytest.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Know which test runs."""
        self._test = item.nodeid
        try:
            return (yield)
        finally:
            self._test = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Of pytest-xdist: a worker has ended, and hands over what it has seen, unless it crashed."""
        seen, left_out = getattr(node, "workeroutput", {}).get(_SEEN, ((), 0))
        self._left_out += left_out
        for test, data in seen:
            self._take(test, ExportTraceServiceRequest.FromString(data))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop, and judge."""
        gc.collect()
        lifetime = self._instrumentor._lifetime
        if lifetime is not None:
            # Responses still open: else these would be seen at exit, when nobody looks any more.
            lifetime.exiting()
        self._instrumentor.uninstrument()
        if self._intake is None:
            self._config.workeroutput[_SEEN] = (self._seen, self._left_out)  # type: ignore[attr-defined]
            return
        self._intake.close()
        self._report = report = self._intake.report()
        if self._left_out:
            problem = f"{count(self._left_out, 'span')} more were seen than a worker hands over"
            self._report = report = replace(report, problems=(*report.problems, problem))
        try:
            for path, render in self._files:
                with writing(path) as file:
                    file.write(render(report))
        except Problem as problem:
            self._report = report = replace(report, problems=(*report.problems, problem.message))
        if session.exitstatus == pytest.ExitCode.OK and self._gate.judge(report)[0]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A section of its own."""
        report = self._report
        if report is None:
            return
        terminalreporter.section("httptrace")
        if report.requests:
            out = io.StringIO()
            width = self._config.get_terminal_writer().fullwidth
            text.summarize(report, console(out, width), everything=self._everything)
            terminalreporter.write_line(out.getvalue().rstrip())
        else:
            terminalreporter.write_line("no request was seen")
        for line in self._where(report):
            terminalreporter.write_line(printable(line))
        status, said, annotations = self._gate.judge(report)
        if status:
            # pytest's own last line says that all have passed, as they may have.
            said = f"--httptrace-fail-on fails this run: {said}"
        for line in (*filter(None, [said]), *annotations):
            terminalreporter.write_line(printable(line))

    def _where(self, report: Report) -> list[str]:
        told = []
        for finding in report.findings:
            tests = dict.fromkeys(self._tests.get(one.trace_id, "") for one in finding.evidence)
            named = [test for test in tests if test]
            if named:
                told.append(f"{finding.verdict}: seen in {', '.join(named)}")
        return ["", *told] if told else []


_FILES: Final = {"html": page, "json": schema.dumps}

__all__ = ["Observation"]
