"""What was emitted, in the shape in which tests compare it."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import inspect
import operator
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanKind, StatusCode

from otel_httptrace import HTTPTraceInstrumentor
from otel_httptrace.clients import scopes
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Thresholds
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.rows import rows
from otel_httptrace.report.summary import Report

UPSTREAM = "opentelemetry.instrumentation.httpx"

#: What upstream writes by default on its span.
_UPSTREAMS = frozenset({"http.method", "http.url", "http.status_code", "http.host", "net.peer.name", "net.peer.port"})
#: What depends on the system and how busy it is: left out, unless a test names it.
_OF_THE_MACHINE = frozenset(
    {"httptrace.stalled", "httptrace.tcp.unacked", "httptrace.tcp.retransmits", "httptrace.tcp.rtt"}
)
_MILLISECOND = 0.001
#: Made once: detecting what this machine is takes longer than most tests.
_RESOURCE = Resource.create()


class Link(NamedTuple):
    """A link of a span, by the target of the request that it leads to."""

    to: str
    attributes: dict[str, Any]


class Telemetry:
    """Providers of its own, and everything that came out of them.

    Args:
        sampler: of the tracer provider.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler, _RESOURCE, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], _RESOURCE, shutdown_on_exit=False)
        self.instrumentor = HTTPTraceInstrumentor()

    def instrument(self, **settings: Any) -> None:
        """Turn it on, upstream included."""
        self.instrumentor.instrument(
            **{"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider, **settings}
        )

    def uninstrument(self) -> None:
        """Turn it off."""
        self.instrumentor.uninstrument()

    def shutdown(self) -> None:
        """Be done with the providers."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()

    def tracer(self) -> Any:
        """A tracer of the application's."""
        return self.tracer_provider.get_tracer("application")

    # Spans.

    def spans(self) -> list[ReadableSpan]:
        """All that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    def requests(self) -> list[ReadableSpan]:
        """Request spans, as they began."""
        found = [span for span in self.spans() if span.kind is SpanKind.CLIENT]
        assert all(span.instrumentation_scope.name.startswith(scopes()) for span in found if span.instrumentation_scope)
        ids = [span.context.span_id for span in found if span.context]
        assert len(ids) == len(set(ids)), "a span was exported twice"
        return sorted(found, key=lambda span: span.start_time or 0)

    @staticmethod
    def scope(span: ReadableSpan) -> str:
        """Who made it."""
        return span.instrumentation_scope.name if span.instrumentation_scope is not None else ""

    def request(self) -> ReadableSpan:
        """The one request span there is."""
        (span,) = self.requests()
        return span

    def children(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Direct children, as they began."""
        found = [
            child
            for child in self.spans()
            if child.parent is not None and span.context is not None and child.parent.span_id == span.context.span_id
        ]
        return sorted(found, key=lambda child: (child.start_time or 0, child.end_time or 0))

    def child(self, name: str, span: ReadableSpan | None = None) -> ReadableSpan:
        """The one descendant of this *name*."""
        (found,) = [child for child in self.descendants(span or self.request()) if child.name == name]
        return found

    def descendants(self, span: ReadableSpan) -> list[ReadableSpan]:
        """Children and theirs, depth first."""
        found = []
        for child in self.children(span):
            found += [child, *self.descendants(child)]
        return found

    def tree(self, span: ReadableSpan) -> list[Any]:
        """Names of the children, each with the list of its own where it has any.

        A wait for the pool that only came from a busy machine is left out: see `told`.
        """
        found: list[Any] = []
        for child in self.children(span):
            below = self.tree(child)
            waited: Any = (span.attributes or {}).get("httptrace.time.pool", 0)
            if child.name == "http.getconn" and not below and not child.status.description and waited:
                dialled = "httptrace.time.connect" in (span.attributes or {})
                if not dialled and "httptrace.failed_phase" not in (span.attributes or {}) and waited < 0.05:
                    continue
            found.append((child.name, below) if below else child.name)
        return found

    def told(self, span: ReadableSpan, *keep: str) -> dict[str, Any]:
        """What we said on a request span, made comparable.

        Connections are numbered as they appear. The attributes that are there only from one
        millisecond on depend on how busy the machine is: they are checked for consistency and left
        out, unless a test has made sure of them and names them in *keep*.
        """
        told: dict[str, Any] = {
            name: value for name, value in (span.attributes or {}).items() if name not in _UPSTREAMS
        }
        if "httptrace.conn.id" in told:
            told["httptrace.conn.id"] = self._conn_ids().index(told["httptrace.conn.id"]) + 1
        for name in _OF_THE_MACHINE - set(keep):
            told.pop(name, None)
        pool = [name for name in told if name.startswith("httptrace.pool.")]
        if "httptrace.failed_phase" not in told:
            assert bool(pool) == ("httptrace.time.pool" in told), told
            for name in ("httptrace.time.pool", "httptrace.time.send"):
                assert told.get(name, 1) >= _MILLISECOND, told
            received = told.get("httptrace.time.receive", 0)
            assert ("httptrace.body.read_wait" in told) == (received >= _MILLISECOND), told
            assert told.get("httptrace.body.read_wait", 0) <= received, told
            for name in ("httptrace.time.pool", "httptrace.time.send", "httptrace.body.read_wait", *pool):
                if name in told and name not in keep:
                    del told[name]
        else:
            for name in ("httptrace.time.pool", "httptrace.time.send", *pool):
                phase = told["httptrace.failed_phase"]
                if name in told and name not in keep and not (phase == "pool" or name == f"httptrace.time.{phase}"):
                    del told[name]
        return told

    def _conn_ids(self) -> list[int]:
        ids = [(span.attributes or {}).get("httptrace.conn.id") for span in self.requests()]
        return list(dict.fromkeys(number for number in ids if isinstance(number, int)))

    def column(self, name: str) -> list[Any]:
        """One attribute over all request spans."""
        return [(span.attributes or {}).get(name) for span in self.requests()]

    def links(self, span: ReadableSpan) -> list[Link]:
        """The links of a request span."""
        targets = {
            other.context.span_id: str((other.attributes or {}).get("http.url")).partition("/")[2].partition("/")[2]
            for other in self.requests()
            if other.context is not None
        }
        return [
            Link("/" + targets[link.context.span_id].partition("/")[2], dict(link.attributes or {}))
            for link in span.links
        ]

    # Metrics.

    def metrics(self) -> dict[str, dict[tuple[tuple[str, Any], ...], Any]]:
        """By name, then by attributes: the number, or of a histogram the count."""
        found: dict[str, dict[tuple[tuple[str, Any], ...], Any]] = {}
        for metric in self._metrics():
            points = found.setdefault(metric.name, {})
            for point in metric.data.data_points:
                key = tuple(sorted((point.attributes or {}).items()))
                points[key] = point.count if isinstance(metric.data, Histogram) else point.value
        return found

    def metric(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """One metric, as `metrics` has it."""
        return self.metrics().get(name, {})

    def counted(self, name: str, attribute: str) -> dict[Any, int]:
        """A metric's numbers by one of its attributes."""
        found: dict[Any, int] = {}
        for attributes, number in self.metric(name).items():
            value = dict(attributes).get(attribute)
            found[value] = found.get(value, 0) + number
        return found

    def _metrics(self) -> Iterator[Any]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                if scope.scope.name == "otel_httptrace":
                    yield from scope.metrics

    def raw_metric(self, name: str) -> Any:
        """A metric as the SDK has it."""
        (metric,) = [metric for metric in self._metrics() if metric.name == name]
        return metric


def seconds(span: ReadableSpan) -> float:
    """How long a span took."""
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def failed(span: ReadableSpan) -> bool:
    """Whether its status is ERROR."""
    return span.status.status_code is StatusCode.ERROR


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """All of a span's, as a plain dict."""
    return dict(span.attributes or {})


# What instrumenting replaces, to see that all of it comes back.

_WATCHED = ("httpcore", "httpcore2", "httpx", "httpx2", "urllib3", "requests", "botocore")
_LAZY = ("._backends.anyio", "._backends.trio", "._backends.sync", "._async.http2", "._sync.http2")


@functools.cache
def _owners() -> list[Any]:
    for library in ("httpcore", "httpcore2"):
        for name in _LAZY:
            importlib.import_module(library + name)
    # hypothesis wants to see what it will not see once it is frozen.
    for name in (
        "urllib3.contrib.socks",
        "requests",
        "botocore.client",
        "anyio._backends._asyncio",
        "anyio._backends._trio",
        "uvloop",
        "hypothesis",
    ):
        importlib.import_module(name)
    loops = (asyncio.AbstractEventLoop, asyncio.BaseEventLoop, asyncio.SelectorEventLoop, sys.modules["uvloop"].Loop)
    owners: dict[Any, None] = dict.fromkeys([socket, *loops])
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _WATCHED and module is not None:
            if name == "urllib3.connection":
                owners[module] = None
            for value in vars(module).values():
                if inspect.isclass(value) and value.__module__.partition(".")[0] in _WATCHED:
                    owners[value] = None
    # What has been imported by now is here to stay: collections need not look at it.
    gc.freeze()
    return list(owners)


class _Snapshot:
    """What could be replaced, taken once: later on only owners that have changed are looked at again."""

    def __init__(self, owners: list[Any]) -> None:
        self._seen = {owner: list(vars(owner).values()) for owner in owners}
        self._values = {owner: self._read(owner) for owner in owners}

    @staticmethod
    def _read(owner: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in list(vars(owner).items())
            if callable(value) or isinstance(value, (staticmethod, classmethod))
        }

    def now(self) -> dict[Any, dict[str, Any]]:
        for owner, seen in self._seen.items():
            values = list(vars(owner).values())
            # By identity: a wrapper of wrapt's is equal to what it wraps.
            if len(values) != len(seen) or not all(map(operator.is_, values, seen)):
                self._seen[owner] = values
                # Not changed in place: who has an earlier one keeps it.
                self._values = {**self._values, owner: self._read(owner)}
        return self._values


@functools.cache
def _snapshot() -> _Snapshot:
    return _Snapshot(_owners())


class Patchable(dict[Any, dict[str, Any]]):
    """Every attribute that could be replaced, with what it was: by its owner."""

    def changes(self) -> dict[tuple[Any, str], Any]:
        """What is now where it is not the identical object that it was, or None."""
        now = _snapshot().now()
        return {
            (owner, name): now[owner].get(name)
            for owner, names in self.items()
            if names is not now[owner]
            for name in {**names, **now[owner]}
            if names.get(name) is not now[owner].get(name)
        }


def patchable() -> Patchable:
    """Every attribute that could be replaced, with what it is now."""
    return Patchable(_snapshot().now())


def replaced(before: Patchable) -> list[str]:
    """What is not the identical object that it was."""
    return _named(before, before.changes())


def restore(before: Patchable) -> list[str]:
    """Put back by force what is not what it was, and say what was not."""
    changes = before.changes()
    for owner, name in changes:
        if name not in before[owner]:
            delattr(owner, name)
        else:
            setattr(owner, name, before[owner][name])
    return _named(before, changes)


def _named(before: Patchable, changes: Iterable[tuple[Any, str]]) -> list[str]:
    return sorted(f"{owner.__name__}.{name}" for owner, name in changes if name in before[owner])


def collect() -> None:
    """Let the garbage collector take what it can, and not look again at what it could not."""
    gc.collect()
    gc.freeze()


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    """The names of *spans*."""
    return [span.name for span in spans]


def told(telemetry: Telemetry, limits: Thresholds | None = None) -> list[Finding]:
    """What a report of all that came out finds."""
    return list(reported(telemetry, limits).findings)


def reported(telemetry: Telemetry, limits: Thresholds | None = None) -> Report:
    """A report of all that came out."""
    sent = ExportTraceServiceRequest.FromString(encode_spans(telemetry.spans()).SerializeToString())
    return analyze(rows(from_protobuf(sent)), limits or Thresholds())
