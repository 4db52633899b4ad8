# Tempo's search finds traces by a TraceQL query; each is then asked for by its id.
# Answers have changed over the years: since 2.7 there is /api/v2/traces, which
# wraps the trace and says where it is not whole; `batches` became
# `resourceSpans` in 2.6, `instrumentationLibrarySpans` had been `scopeSpans` since 2.0;
# ids are base64, as protobuf's JSON mapping has it.
#
# Written to https://grafana.com/docs/tempo/latest/api_docs/ and Tempo's source
# (pkg/tempopb/tempo.proto, pkg/httpclient, modules/frontend/combiner), and tested
# against a server that answers as these say. It has not met a real Tempo.

"""Spans from a Tempo."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ...server import names as served
from ..otlp import FormatError, from_json
from ..printable import one_line
from ..spans import Span
from . import Problems, SourceError
from .api import API, TooLargeError
from .windows import Limited, everything, seconds

#: Traces in one answer to a search. Tempo may be set to refuse more than its `max_result_limit`.
_PAGE: Final = 100
#: Seconds: what Tempo's windows are made of.
_SMALLEST: Final = 1
#: Traces asked for at a time.
_AT_ONCE: Final = 4

_TENANT: Final = "X-Scope-OrgID"
_TRACE_ID: Final = re.compile("[0-9a-fA-F]{1,32}")


class TempoSource:
    """Spans of the traces that a search of Tempo finds, in the order in which these began.

    Not tested against a real Tempo, but against a server that was written to its documentation.

    Args:
        url: of Tempo: ``http://localhost:3200``, with its base path if it has one.
        service: its name; of other services in the traces that are found only servers' spans are taken, as the other
            ends of its requests.
        query: TraceQL, instead of a service or beside it; None finds what HTTP clients of the service sent.
        lookback: how far back, ``1h``, from ``end``.
        end: seconds since the epoch; None is now.
        limit: traces at most; None is all.
        tenant: sent as ``X-Scope-OrgID``.
        environ: where ``HTTPTRACE_AUTHORIZATION`` may be.
        page: traces to search for at once.

    Raises:
        SourceError: an argument is not what it should be.
    """

    def __init__(
        self,
        url: str,
        service: str | None = None,
        query: str | None = None,
        lookback: str = "1h",
        end: float | None = None,
        limit: int | None = None,
        tenant: str | None = None,
        environ: Mapping[str, str] = os.environ,
        page: int = _PAGE,
    ) -> None:
        self.problems = Problems()
        self.position = 0
        self.size = limit
        self._api = API("Tempo", url, {_TENANT: tenant} if tenant else None, environ)
        self._service = service
        self._query = query or _query(service)
        # Rounded up: a span of this very second is in it.
        self._end = int(time.time() if end is None else end) + 1
        self._start = self._end - max(1, int(seconds(lookback)))
        self._lookback = lookback
        # One more than is to be read tells whether there is more.
        self._page = page if limit is None else min(page, limit + 1)
        self._second_version = True

    def __iter__(self) -> Iterator[Span]:
        """Ask for it.

        Raises:
            SourceError: Tempo cannot be reached, finds nothing, or answers something else.
        """
        with self._api, ThreadPoolExecutor(_AT_ONCE, "tempo") as pool:
            waiting: list[str] = []
            for trace_id in self._found():
                waiting.append(trace_id)
                if len(waiting) == _AT_ONCE:
                    yield from self._spans(waiting, pool)
                    waiting.clear()
            yield from self._spans(waiting, pool)
        if not self.position:
            raise SourceError(
                f"Tempo at {self._api.shown} has found nothing in the last {self._lookback} for {one_line(self._query)}"
            )

    def _found(self) -> Iterator[str]:
        windows = everything(
            self._search, self._start, self._end, self._page, _SMALLEST, self._dense, self.size is not None
        )
        limited: Limited[tuple[str, int]] = Limited(self.size, lambda of: of[0], lambda of: of[1], self._limited)
        for trace_id, _ in limited.of(windows):
            yield trace_id

    def _limited(self) -> None:
        self.problems.add(f"only the newest {self.size:,} traces were read: that is the limit")

    def _search(self, start: int, end: int) -> list[tuple[str, int]]:
        """Ids, and when each trace began."""
        answer = self._api.get(
            "api/search", {"q": self._query, "start": start, "end": end, "limit": self._page, "spss": 1}
        )
        if not isinstance(answer, dict):
            raise self._api.unexpected("an object was expected")
        traces = answer.get("traces") or []
        if not isinstance(traces, list):
            raise self._api.unexpected("traces is no list")
        found = []
        for trace in traces:
            trace_id = trace.get("traceID") if isinstance(trace, dict) else None
            if not isinstance(trace_id, str) or not _TRACE_ID.fullmatch(trace_id):
                raise self._api.unexpected("a trace without traceID")
            began = str(trace.get("startTimeUnixNano") or 0)
            found.append((trace_id, int(began) if began.isdecimal() and len(began) < 20 else 0))
        return found

    def _dense(self, start: int, end: int) -> None:
        self.problems.add(
            f"at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(start))} there are {self._page} traces or more "
            f"within {end - start} s: some are missing"
        )

    def _spans(self, trace_ids: list[str], pool: ThreadPoolExecutor) -> Iterator[Span]:
        for trace_id, answer in zip(trace_ids, pool.map(self._trace, list(trace_ids)), strict=True):
            self.position += 1
            try:
                if isinstance(answer, TooLargeError):
                    self.problems.add(f"trace {trace_id} is too large to be read")
                    continue
                spans = from_json(self._unwrapped(trace_id, answer))
            except FormatError as error:
                self.problems.add(f"trace {trace_id} is not OTLP: {error}")
                continue
            if not spans:
                self.problems.add(f"trace {trace_id} was found by the search, but Tempo does not have it any more")
            for span in spans:
                if self._service is None or span.source.service == self._service:
                    yield span
                elif span.server and span.parent_id:
                    span.half = True
                    yield span

    def _trace(self, trace_id: str) -> Any:
        """The answer, or the `TooLargeError` that it is: the others are read all the same."""
        try:
            return self._asked(trace_id)
        except TooLargeError as error:
            return error

    def _asked(self, trace_id: str) -> Any:
        if self._second_version:
            answer = self._api.get(f"api/v2/traces/{trace_id}", missing=True)
            if answer is not None:
                return answer
        # Either there is no such trace, or this Tempo is too old for that path.
        answer = self._api.get(f"api/traces/{trace_id}", missing=True)
        if answer is not None:
            self._second_version = False
        return answer or {}

    def _unwrapped(self, trace_id: str, answer: Any) -> Any:
        if not isinstance(answer, dict) or not answer.keys() & {"trace", "status", "message"}:
            return answer
        # An enum, so by name or by number.
        if answer.get("status") in ("PARTIAL", 1):
            why = answer.get("message") or "it does not say why"
            self.problems.add(f"trace {trace_id} is not whole: {one_line(why)}")
        return answer.get("trace") or {}


#: What clients sent, and what our half of a server tells of.
_TOLD: Final = f"kind = client || span.{served.CONN_ID} > 0"


def _query(service: str | None) -> str:
    # `kind` without its scope: versions before 2.6 do not know `span:kind`.
    if service is None:
        return f"{{ {_TOLD} }}"
    quoted = service.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{ resource.service.name = "{quoted}" && ({_TOLD}) }}'
