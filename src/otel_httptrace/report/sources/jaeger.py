# Jaeger's query API, as its own web pages use it. It keeps spans in a model of
# its own, so what the collector's translator made of OTLP is undone here: kind,
# status and scope are tags, lists are JSON in strings, links are references, times
# are microseconds. The attributes of links are lost on the way in; what they said
# of our links follows from the request itself.
#
# The API has no promise of stability, but has been the same for years. Read in
# v1.62.0: cmd/query/app/http_handler.go, model/json/model.go,
# model/converter/json/from_domain.go.

"""Spans from a Jaeger."""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

import orjson

from ...core.ledger import BLAMED
from ...telemetry import names
from ..otlp import class_of, source
from ..printable import one_line
from ..spans import Link, Source, Span
from . import Problems, SourceError
from .api import API, TooLargeError
from .windows import Limited, everything, seconds

#: Traces in one answer: each may be hundreds of spans, and an answer is held in memory whole.
_PAGE: Final = 200
#: Microseconds: in no less than a second, more traces than a page are not asked for again.
_SMALLEST: Final = 1000
#: Names of services that are told where one is unknown.
_TOLD: Final = 10

_LISTS: Final = frozenset({names.DNS_ANSWERS})
_ID: Final = re.compile("[0-9a-fA-F]+")
#: Reasons that come with a link to the request that lost the connection.
_BLAMED: Final = frozenset(reason.value for reason in BLAMED)


class JaegerSource:
    """Spans of one service, of the traces that a Jaeger has of it, in the order in which they began.

    Spans of other services in these traces are left out: of those services, they would be a sample that is anything
    but random. Only servers' spans are taken, as the other ends of requests.

    Args:
        url: of the query service: ``http://localhost:16686``, with its base path if it has one.
        service: its name.
        lookback: how far back, ``1h``, from ``end``.
        end: seconds since the epoch; None is now.
        limit: traces at most, the newest; None is all.
        environ: where ``HTTPTRACE_AUTHORIZATION`` may be.
        page: traces to ask for at once.

    Raises:
        SourceError: an argument is not what it should be.
    """

    def __init__(
        self,
        url: str,
        service: str,
        lookback: str = "1h",
        end: float | None = None,
        limit: int | None = None,
        environ: Mapping[str, str] = os.environ,
        page: int = _PAGE,
    ) -> None:
        self.problems = Problems()
        self.position = 0
        self.size = limit
        self._api = API("Jaeger", url, environ=environ)
        self._service = service
        self._end = int((time.time() if end is None else end) * 1e6)
        self._start = self._end - int(seconds(lookback) * 1e6)
        self._lookback = lookback
        #: Whether the last answer to a search was.
        self._too_large = False
        # One more than is to be read tells whether there is more.
        self._page = page if limit is None else min(page, limit + 1)

    def __iter__(self) -> Iterator[Span]:
        """Ask for it.

        Raises:
            SourceError: Jaeger cannot be reached, does not know the service, or answers something else.
        """
        with self._api:
            windows = everything(
                self._search, self._start, self._end, self._page, _SMALLEST, self._dense, self.size is not None
            )
            for trace in Limited(self.size, lambda trace: str(trace["traceID"]), _began, self._limited).of(windows):
                self.position += 1
                yield from self._spans(trace)
            if not self.position:
                self._explain()

    def _limited(self) -> None:
        self.problems.add(f"only the newest {self.size:,} traces were read: that is the limit")

    def _search(self, start: int, end: int) -> list[dict[str, Any]] | None:
        params: dict[str, str | int] = {"service": self._service, "start": start, "end": end, "limit": self._page}
        try:
            traces = self._data("api/traces", params)
        except TooLargeError:
            self._too_large = True
            return None
        self._too_large = False
        if not all(isinstance(trace, dict) and isinstance(trace.get("traceID"), str) for trace in traces):
            raise self._api.unexpected("a trace without traceID")
        return traces

    def _data(self, path: str, params: dict[str, str | int] | None = None) -> list[Any]:
        answer = self._api.get(path, params)
        if not isinstance(answer, dict):
            raise self._api.unexpected("an object was expected")
        data = answer.get("data")
        # null where there is nothing.
        if not isinstance(data, list) and data is not None:
            raise self._api.unexpected("data is no list")
        errors = answer.get("errors")
        for error in errors if isinstance(errors, list) else ():
            self.problems.add(f"Jaeger says: {one_line(error.get('msg') if isinstance(error, dict) else error)}")
        return data or []

    def _dense(self, start: int, end: int) -> None:
        what = "is more than can be read at once" if self._too_large else f"are {self._page} traces or more"
        self.problems.add(f"at {_clock(end)} there {what} within {(end - start) / 1000:g} ms: some are missing")

    def _explain(self) -> None:
        services = sorted(name for name in self._data("api/services") if isinstance(name, str))
        if self._service in services:
            raise SourceError(
                f"Jaeger at {self._api.shown} has no trace of {self._service} in the {self._lookback} "
                f"before {_clock(self._end)}: look back further"
            )
        near = get_close_matches(self._service, services, 1, 0.6)
        meant = f", did you mean {one_line(near[0])}?" if near else ""
        told = ", ".join(one_line(name) for name in services[:_TOLD])
        more = f" and {len(services) - _TOLD} more" if len(services) > _TOLD else ""
        raise SourceError(
            f"Jaeger at {self._api.shown} does not know the service {self._service!r}{meant} "
            f"(it knows {told or 'none'}{more})"
        )

    def _spans(self, trace: dict[str, Any]) -> Iterator[Span]:
        try:
            for warning in trace.get("warnings") or ():
                self._warn(trace, warning)
            senders = {
                key: (_sender(process), process.get("serviceName") == self._service)
                for key, process in (trace.get("processes") or {}).items()
                if "serviceName" in process
            }
            for data in trace.get("spans") or ():
                sender, asked = senders.get(data.get("processID"), (None, False))
                if sender is None:
                    continue
                if asked:
                    for warning in data.get("warnings") or ():
                        self._warn(trace, warning)
                    yield span(data, sender)
                elif {"key": "span.kind", "type": "string", "value": "server"} in (data.get("tags") or ()):
                    found = span(data, sender)
                    found.half = True
                    yield found
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            self.problems.add(
                f"trace {one_line(trace['traceID'])} is not what Jaeger's look like: {type(error).__name__}"
            )

    def _warn(self, trace: dict[str, Any], warning: Any) -> None:
        self.problems.add(f"trace {one_line(trace['traceID'])}: Jaeger warns: {one_line(warning)}")


def span(data: dict[str, Any], sender: Source) -> Span:
    """A span of Jaeger's JSON.

    Args:
        data: the span.
        sender: of its process.

    Raises:
        AttributeError, KeyError, TypeError, ValueError, OverflowError: it is none.
    """
    attributes = _tags(data.get("tags") or ())
    take = attributes.pop
    kind = take("span.kind", "")
    failed = take("error", False) is True or attributes.get("otel.status_code") == "ERROR"
    take("otel.status_code", None)
    take("otel.status_description", None)
    # The older names are what Jaeger wrote before 1.5x, and still does beside the others.
    scope = take("otel.scope.name", None) or attributes.get("otel.library.name") or ""
    for name in ("otel.scope.version", "otel.library.name", "otel.library.version", "internal.span.format"):
        take(name, None)
    for name in _LISTS & attributes.keys():
        attributes[name] = _parsed(attributes[name])
    trace_id = _id(data["traceID"], 32)
    start = _microseconds(data["startTime"])
    parent, links = "", []
    for reference in data.get("references") or ():
        to = (_id(reference["traceID"], 32), _id(reference["spanID"], 16))
        if reference["refType"] == "CHILD_OF" and to[0] == trace_id and not parent:
            parent = to[1]
        else:
            links.append(Link(*to, _link_attributes(attributes)))
    return Span(
        trace_id=trace_id,
        span_id=_id(data["spanID"], 16),
        parent_id=parent or _id(data.get("parentSpanID") or "", 16),
        name=str(data["operationName"]),
        start=start,
        end=start + _microseconds(data["duration"]),
        client=kind == "client",
        failed=failed,
        scope=str(scope),
        source=sender,
        attributes=attributes,
        links=tuple(links),
        sentences=tuple(_sentences(data.get("logs") or ())),
        raised=_raised(data.get("logs") or ()),
        server=kind == "server",
    )


def _sentences(logs: Any) -> Iterator[tuple[int, str]]:
    for log in logs:
        fields = _tags(log.get("fields") or ())
        said = fields.get(names.MESSAGE)
        if fields.get("event") == names.EVENT_DIAGNOSIS and isinstance(said, str):
            yield _microseconds(log["timestamp"]), said


def _raised(logs: Any) -> str:
    found = ""
    for log in logs:
        fields = _tags(log.get("fields") or ())
        if fields.get("event") == names.EVENT_EXCEPTION:
            found = class_of(fields.get(names.EXCEPTION_TYPE))
    return found


def _began(trace: dict[str, Any]) -> int:
    # What is wrong is told where it is read.
    spans = trace.get("spans")
    times = [span.get("startTime") for span in spans if isinstance(span, dict)] if isinstance(spans, list) else []
    return min((time for time in times if isinstance(time, int)), default=0)


def _link_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    # A request that opened a connection, one that got none and one that reused
    # one have links of one kind each. Where the application has added links of its own,
    # these cannot be told from ours.
    if attributes.get(names.CONN_OPEN_REASON) in _BLAMED:
        kind = names.LINK_CONNECTION_LOST_BY
    elif attributes.get(names.FAILED_PHASE) == "pool":
        kind = names.LINK_POOL_HELD_BY
    elif attributes.get(names.CONN_REUSED) is True:
        kind = names.LINK_CONNECTION_OPENED_BY
    else:
        return {}
    return {names.LINK: kind}


def _sender(process: dict[str, Any]) -> Source:
    return source({**_tags(process.get("tags") or ()), "service.name": process["serviceName"]})


def _tags(tags: Any) -> dict[str, Any]:
    return {str(tag["key"]): _value(tag.get("type", "string"), tag.get("value")) for tag in tags}


def _value(kind: str, value: Any) -> Any:
    # Integers that JavaScript cannot hold come as strings, and some storages return strings only.
    if kind == "int64":
        return int(value)
    if kind == "float64":
        return float(value)
    if kind == "bool" and isinstance(value, str):
        return value == "true"
    if kind == "binary":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            return value
    return value


def _parsed(value: Any) -> Any:
    try:
        parsed = orjson.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, list) else value


def _id(value: str, digits: int) -> str:
    # Leading zeros are left out: always those of a trace's upper half, by some storages others, too.
    if not value:
        return ""
    # Not all that int() takes is one: -1, 0x1, 1_0.
    if not _ID.fullmatch(value) or len(value) > digits:
        raise ValueError("hexadecimal digits were expected")
    return value.lower().rjust(digits, "0")


def _microseconds(value: Any) -> int:
    nanoseconds = int(value) * 1000
    if not 0 <= nanoseconds < 1 << 64:
        raise ValueError("microseconds since 1970 were expected")
    return nanoseconds


def _clock(microseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(microseconds / 1e6))
