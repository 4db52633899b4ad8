# Received requests are put on a queue, which one thread folds. The queue is
# short: a program that sends more than we can fold waits in its exporter, in a
# thread of its own, and memory stays what it is.

"""From what the receiver gets to a report, while it comes."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import IO, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ..report.analysis import Analysis
from ..report.findings import Thresholds
from ..report.otlp import from_protobuf, to_json
from ..report.rows import Assembler, Row
from ..report.summary import Report
from .programs.inject import Unsent

_LENGTH: Final = 64


class Intake:
    """Takes export requests from any thread; tells what there is to say so far.

    Args:
        thresholds: from where on something is a finding.
        otlp: a file that gets what came, a line of OTLP JSON each.
    """

    def __init__(self, thresholds: Thresholds, otlp: IO[bytes] | None = None) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_LENGTH)
        self._analysis = Analysis(thresholds)
        # OpenTelemetry's SDK names each: what does not is another tracer's span of the same request.
        self._assembler = Assembler(unnamed=False)
        self._lock = threading.Lock()
        self._otlp = otlp
        self._problems: dict[str, int] = {}
        self.spans = 0
        self.requests = 0
        #: What processes that have ended had not sent.
        self.unsent = Unsent()
        #: Origins of the receiver's own: what is sent there is no request of the program's.
        self.own: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="httptrace-fold", daemon=True)
        self._thread.start()

    def keep(self, request: Any) -> None:
        """Take *request*, as soon as there is room. What is no trace is let go."""
        self._queue.put(request)

    def close(self) -> None:
        """Fold what is still there."""
        self._queue.put(None)
        self._thread.join()
        with self._lock:
            self._count(self._assembler.finish())
            self.requests = self._analysis.requests + self._analysis.served

    def report(self) -> Report:
        """What there is to say so far. More that comes does not change it."""
        with self._lock:
            report = self._analysis.report(
                spans=self.spans,
                foreign=self._assembler.foreign,
                problems=tuple(
                    problem if times == 1 else f"{problem} ({times} times)" for problem, times in self._problems.items()
                ),
            )
            unsent = self.unsent
            return replace(
                report,
                origins=copy.deepcopy(report.origins),
                unsent_processes=unsent.processes,
                unsent_spans=unsent.spans,
                unended_requests=unsent.requests,
            )

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            if not isinstance(request, ExportTraceServiceRequest):
                continue
            if self._otlp is not None:
                self._guarded("not written to the OTLP file", self._write, request)
            self._guarded("not understood", self._fold, request)

    def _write(self, request: Any) -> None:
        if self._otlp is not None:
            line = to_json(request)
            self._otlp.write(line if line.endswith(b"\n") else line + b"\n")

    def _fold(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for span in from_protobuf(request):
                self.spans += 1
                self._count(self._assembler.add(span))
            # An SDK sends a request's children no later than the request.
            self._count(self._assembler.ready())
            self.requests = self._analysis.requests + self._analysis.served

    def _count(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.origin not in self.own:
                self._analysis.add(row)

    def _guarded(self, what: str, function: Any, request: Any) -> None:
        try:
            function(request)
        except Exception as error:
            # One batch that nobody can use must not cost the others.
            problem = f"received data was {what}: {error}"
            with self._lock:
                if problem in self._problems or len(self._problems) < 20:
                    self._problems[problem] = self._problems.get(problem, 0) + 1
