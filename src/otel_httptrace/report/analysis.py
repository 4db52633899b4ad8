# Rows come one by one and are not kept: whatever is shown is counted as they
# pass. What is kept are a few of the slowest, a sample to tell what is typical,
# and the first so many for the timeline.

"""From rows to a report, in one pass and in bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from ..telemetry import names
from .ends import Ends
from .facts import broke, cause, failed_by
from .findings import Thresholds
from .rows import Row, Sent, Served
from .summary import Origin, Path, Quantiles, Report, Server
from .units import count
from .verdicts import Verdicts

_OTHER: Final = "_other"
_MAX_ORIGINS: Final = 1000
_MAX_NAMES: Final = 100
#: Paths that are counted apart: of one origin, and of all.
_MAX_PATHS: Final = 50
_MAX_ALL_PATHS: Final = 5000


def analyze(rows: Iterable[Row], thresholds: Thresholds | None = None, timeline: int = 10_000) -> Report:
    """The report of *rows*: a pure function.

    Args:
        rows: in any order.
        thresholds: from where on something is a finding.
        timeline: how many requests to keep for the timeline.
    """
    analysis = Analysis(thresholds, timeline)
    for row in rows:
        analysis.add(row)
    return analysis.report()


class Analysis:
    """Takes rows one by one.

    Args:
        thresholds: from where on something is a finding.
        timeline: how many requests to keep for the timeline.
        slowest: how many of the slowest to keep.
    """

    def __init__(self, thresholds: Thresholds | None = None, timeline: int = 10_000, slowest: int = 3) -> None:
        self.thresholds = thresholds or Thresholds()
        self._ends = Ends()
        self._verdicts = Verdicts(self.thresholds, self._ends)
        self._servers: dict[str, Server] = {}
        self._origins: dict[str, Origin] = {}
        self._services: Counter[str] = Counter()
        self._timeline: list[Row] = []
        self._most = timeline
        self._left_out = 0
        # The span's id decides between equals: rows cannot be compared.
        self._slowest: list[tuple[float, int, Row]] = []
        self._keep_slowest = slowest
        self._sample = _Sample()
        self._durations = Quantiles()
        self.requests = self.served = self._unobserved = 0
        self._impossible = self._paths = 0
        self._started = self._ended = 0.0

    def add(self, row: Row) -> None:
        """Count *row*."""
        if isinstance(row, Served):
            self._serve(row)
            return
        self._ends.client(row)
        self.requests += 1
        service = row.source.service
        if service not in self._services and len(self._services) >= _MAX_ORIGINS:
            service = _OTHER
        self._services[service] += 1
        if not row.observed:
            self._unobserved += 1
        self._count(row)
        self._verdicts.add(row)
        self._impossible += row.impossible
        if row.timed:
            self._place(row)

    def _serve(self, row: Served) -> None:
        self._ends.server(row)
        if row.only_half or not row.observed:
            return
        self.served += 1
        self._verdicts.serve(row)
        self._impossible += row.impossible
        server = self._servers.get(row.origin)
        if server is None:
            name = row.origin if len(self._servers) < _MAX_ORIGINS else _OTHER
            server = self._servers.setdefault(name, Server(name))
        server.add(row, self._ends.peer(row))

    def _place(self, row: Row) -> None:
        # In time: when it was, and how long.
        if not self._started or row.start < self._started:
            self._started = row.start
        self._ended = max(self._ended, row.end)
        if len(self._timeline) < self._most:
            self._timeline.append(row)
        else:
            self._left_out += 1
        if len(self._slowest) < self._keep_slowest:
            heapq.heappush(self._slowest, (row.duration, self.requests, row))
        elif row.duration > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (row.duration, self.requests, row))
        self._durations.add(row.duration)
        self._sample.add(row)

    def _count(self, row: Row) -> None:
        origin = self._origin(row.origin)
        origin.requests += 1
        origin.failed += row.failed
        origin.cancelled += row.cancelled
        failed_phase = row.attributes.get(names.FAILED_PHASE)
        if failed_phase is not None:
            origin.failed_phases[failed_phase] += 1
        _count_sent(origin, row)
        # Of what was sent before within the request: what it did to connections, and no more. Whether the request
        # failed and what it took is the request's own.
        for sent in row.before:
            _count_sent(self._origin(sent.origin or row.origin), sent)
        if row.status is not None and (row.status in origin.statuses or len(origin.statuses) < _MAX_NAMES):
            origin.statuses[row.status] += 1
        if broke(row):
            for counted, what in ((origin.error_types, failed_by(row)), (origin.failed_causes, cause(row))):
                if what is not None:
                    counted[what if what in counted or len(counted) < _MAX_NAMES else _OTHER] += 1
        failure = _failure(row)
        if failure is not None:
            known = failure in origin.failures or len(origin.failures) < _MAX_NAMES
            origin.failures[failure if known else _OTHER] += 1
        times = origin.phases
        for phase, seconds in row.phases.items():
            if phase not in times:
                times[phase] = Quantiles()
            times[phase].add(seconds)
        if row.timed:
            if "total" not in times:
                times["total"] = Quantiles()
            times["total"].add(row.duration)
        if row.path:
            self._count_path(origin, row)

    def _origin(self, name: str) -> Origin:
        origin = self._origins.get(name)
        if origin is None:
            name = name if len(self._origins) < _MAX_ORIGINS else _OTHER
            origin = self._origins.setdefault(name, Origin(name))
        return origin

    def _count_path(self, origin: Origin, row: Row) -> None:
        path = origin.paths.get(row.path)
        if path is None:
            room = len(origin.paths) < _MAX_PATHS and self._paths < _MAX_ALL_PATHS
            name = row.path if room else _OTHER
            path = origin.paths.get(name)
            if path is None:
                self._paths += room
                path = origin.paths[name] = Path()
        path.requests += 1
        path.failed += row.failed
        if row.timed:
            path.times.add(row.duration)

    def join(self, rows: Iterable[Row]) -> None:
        """Tell each of *rows* what is known of it from its other end."""
        for row in rows:
            row.other = self._ends.of(row)

    def report(self, spans: int = 0, foreign: int = 0, problems: tuple[str, ...] = ()) -> Report:
        """What there is to say so far.

        Args:
            spans: how many spans the rows were made of, ``foreign`` those that are in none.
            problems: what could not be read.
        """
        slowest = tuple(row for _, _, row in sorted(self._slowest, key=lambda entry: entry[:2], reverse=True))
        typical = self._sample.nearest(self._durations.at(0.5))
        if self._ends:
            self.join((*self._timeline, *slowest, *([typical] if typical is not None else [])))
        return Report(
            spans=spans,
            foreign=foreign,
            requests=self.requests,
            unobserved=self._unobserved,
            started=self._started,
            ended=self._ended,
            services=tuple(service for service, _ in self._services.most_common()),
            findings=self._verdicts.findings(),
            origins=tuple(sorted(self._origins.values(), key=lambda origin: -origin.requests)),
            slowest=slowest,
            typical=typical,
            timeline=tuple(sorted(self._timeline, key=lambda row: row.start)),
            left_out=self._left_out,
            thresholds=self.thresholds,
            problems=(*problems, *self._problems()),
            servers=tuple(sorted(self._servers.values(), key=lambda server: -server.requests)),
            both_ends=bool(self._ends or self._servers),
        )

    def _problems(self) -> Iterator[str]:
        if self._impossible:
            yield (
                f"{count(self._impossible, 'span')} {'has' if self._impossible == 1 else 'have'} invalid timestamps "
                "(end before start, or the year 1970): they are ignored"
            )


#: What is behind an error, in a word that all know.
_PLAIN: Final = {
    "ECONNREFUSED": "refused",
    "ECONNRESET": "reset",
    "EMFILE": "out of file descriptors",
    "EAI_NONAME": "unknown name",
    "CERTIFICATE_VERIFY_FAILED": "certificate not trusted",
}


def _failure(row: Row) -> str | None:
    if broke(row):
        error, why = failed_by(row), cause(row)
        return error if why in (None, error) else f"{error} ({_PLAIN.get(why, why)})"
    return f"HTTP {row.status}" if row.status is not None and row.status >= 400 else None


def _count_sent(origin: Origin, sent: Row | Sent) -> None:
    known = sent.attributes
    reused = known.get(names.CONN_REUSED)
    if reused is not None:
        if reused:
            origin.reused += 1
        else:
            origin.opened += 1
    if names.TIME_DNS in known or sent.steps:
        # Without child spans the time of a lookup still says that there was one.
        origin.lookups += sum(step.name == names.SPAN_DNS for step in sent.steps) or names.TIME_DNS in known
    for counter, name in (
        (origin.open_reasons, names.CONN_OPEN_REASON),
        (origin.close_reasons, names.CONN_CLOSE_REASON),
        (origin.outcomes, names.BODY_OUTCOME),
    ):
        value = known.get(name)
        if value is not None:
            counter[value] += 1


class _Sample:
    # Every n-th row, n doubling as it fills up: the same rows, the same sample.

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._every = 1
        self._seen = 0
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        if self._seen % self._every == 0:
            self._rows.append(row)
            if len(self._rows) >= self._size:
                del self._rows[1::2]
                self._every *= 2
        self._seen += 1

    def nearest(self, duration: float) -> Row | None:
        return min(self._rows, key=lambda row: abs(row.duration - duration), default=None)
