"""Spans from a Jaeger: its JSON, its faults, and a real one."""

from __future__ import annotations

import importlib
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from kit.backend import Asked, Backend, Reply, free_port
from kit.otlp import UPSTREAM_SCOPE
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_httptrace import HTTPTraceInstrumentor
from otel_httptrace.demo.server import Server
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.forward import Forwarder
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.rows import Row, rows
from otel_httptrace.report.sources import SourceError
from otel_httptrace.report.sources.jaeger import JaegerSource
from otel_httptrace.report.sources.windows import everything, seconds
from otel_httptrace.report.spans import Link, Source, Span
from otel_httptrace.telemetry import names

END = 1_790_000_000.0
MICRO = 1_000_000


def tag(key: str, value: Any, kind: str | None = None) -> dict[str, Any]:
    """A tag as Jaeger writes it."""
    kinds = {bool: "bool", int: "int64", float: "float64", str: "string"}
    return {"key": key, "type": kind or kinds[type(value)], "value": value}


def span(number: int = 1, *tags: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A span as Jaeger writes it."""
    return {
        "traceID": "00000000000000ab",
        "spanID": f"{number:016x}",
        "operationName": "GET",
        "references": [],
        "startTime": 1_789_999_000 * MICRO + number,
        "duration": 1500,
        "tags": list(tags),
        "logs": [],
        "processID": "p1",
        "warnings": None,
        **more,
    }


def trace(*spans: dict[str, Any], trace_id: str = "00000000000000ab", **more: Any) -> dict[str, Any]:
    """A trace of one process of `shop`, and one of somebody else's."""
    processes = {
        "p1": {"serviceName": "shop", "tags": [tag("service.instance.id", "one"), tag("host.name", "h")]},
        "p2": {"serviceName": "other", "tags": []},
    }
    return {"traceID": trace_id, "spans": list(spans), "processes": processes, "warnings": None, **more}


class Jaeger:
    """Answers with the traces that have a span in the window, the newest first, at most as many as were asked for."""

    def __init__(self, *traces: dict[str, Any], services: tuple[str, ...] = ("shop",), base: str = "") -> None:
        self.traces = traces
        self.services = services
        self.base = base

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == f"{self.base}/api/services":
            return Reply({"data": list(self.services) or None, "errors": None})
        assert asked.path == f"{self.base}/api/traces"
        start, end = int(asked.query["start"]), int(asked.query["end"])
        if asked.query["service"] not in self.services:
            return Reply({"data": [], "errors": None})
        found = [of for of in self.traces if any(start <= span["startTime"] <= end for span in of["spans"])]
        found.sort(key=lambda of: -of["spans"][0]["startTime"])
        return Reply({"data": found[: int(asked.query["limit"])], "errors": None})


def read(*traces: dict[str, Any], **arguments: Any) -> tuple[list[Span], list[str]]:
    """What a Jaeger with these traces gives, and its problems."""
    with Backend(Jaeger(*traces)) as backend:
        source = JaegerSource(backend.url, "shop", end=END, environ={}, **arguments)
        return list(source), list(source.problems)


def test_a_span_of_jaeger_equals_that_of_otlp() -> None:
    """Jaeger's tags, references and microseconds become what OTLP had said."""
    lost = {"refType": "FOLLOWS_FROM", "traceID": "cd", "spanID": "7"}
    found, problems = read(
        trace(
            span(
                1,
                tag("span.kind", "client"),
                tag("error", True),
                tag("otel.status_code", "ERROR"),
                tag("otel.scope.name", UPSTREAM_SCOPE),
                tag("otel.scope.version", "0.66b2"),
                tag("otel.library.name", UPSTREAM_SCOPE),
                tag("internal.span.format", "otlp"),
                tag(names.CONN_REUSED, False),
                tag(names.CONN_OPEN_REASON, "body_not_read"),
                tag(names.TIME_WAIT, 1, "float64"),
                tag("big", "9223372036854775807", "int64"),
                tag("raw", "/wA=", "binary"),
                references=[lost],
            ),
            span(
                2,
                tag("span.kind", "internal"),
                tag("otel.library.name", "otel_httptrace"),
                tag(names.DNS_ANSWERS, '["::1","127.0.0.1"]'),
                tag("note", "[not a list"),
                operationName="http.dns",
                references=[{"refType": "CHILD_OF", "traceID": "00000000000000ab", "spanID": f"{1:016x}"}],
            ),
            span(3, processID="p2"),
        )
    )

    shop = Source("shop", "one")
    start = 1_789_999_000 * 10**9
    assert problems == []
    assert found == [
        Span(
            "000000000000000000000000000000ab",
            "0000000000000001",
            "",
            "GET",
            start + 1_000,
            start + 1_501_000,
            True,
            True,
            UPSTREAM_SCOPE,
            shop,
            {
                names.CONN_REUSED: False,
                names.CONN_OPEN_REASON: "body_not_read",
                names.TIME_WAIT: 1.0,
                "big": 2**63 - 1,
                "raw": b"\xff\x00",
            },
            (Link(f"{0xCD:032x}", f"{7:016x}", {names.LINK: names.LINK_CONNECTION_LOST_BY}),),
        ),
        Span(
            "000000000000000000000000000000ab",
            "0000000000000002",
            "0000000000000001",
            "http.dns",
            start + 2_000,
            start + 1_502_000,
            False,
            False,
            "otel_httptrace",
            shop,
            {names.DNS_ANSWERS: ["::1", "127.0.0.1"], "note": "[not a list"},
            (),
        ),
    ]


@pytest.mark.parametrize(
    ("tags", "link"),
    [
        ([tag(names.CONN_OPEN_REASON, reason)], names.LINK_CONNECTION_LOST_BY)
        for reason in ("body_not_read", "response_leaked", "request_failed", "request_cancelled")
    ]
    + [
        ([tag(names.FAILED_PHASE, "pool")], names.LINK_POOL_HELD_BY),
        ([tag(names.CONN_REUSED, True)], names.LINK_CONNECTION_OPENED_BY),
        ([tag(names.CONN_OPEN_REASON, "server_closed")], None),
        ([], None),
    ],
)
def test_what_a_link_was_for(tags: list[dict[str, Any]], link: str | None) -> None:
    """What a link's attributes said follows from the request, as far as it does."""
    reference = {"refType": "FOLLOWS_FROM", "traceID": "cd", "spanID": "7"}
    found, _ = read(trace(span(1, tag("span.kind", "client"), *tags, references=[reference])))
    (row,) = rows(found)

    assert row.links == (Link(f"{0xCD:032x}", f"{7:016x}", {names.LINK: link} if link else {}),)
    assert (row.lost_by is not None) == (link == names.LINK_CONNECTION_LOST_BY)


def test_references_become_parents_and_links() -> None:
    """The first reference to a parent in the same trace is the parent; one elsewhere is a link."""
    references = [
        {"refType": "CHILD_OF", "traceID": "cd", "spanID": "1"},
        {"refType": "CHILD_OF", "traceID": "ab", "spanID": "2"},
        {"refType": "CHILD_OF", "traceID": "ab", "spanID": "3"},
    ]
    (child, old), _ = read(trace(span(9, references=references), span(8, references=None, parentSpanID="5")))

    assert child.parent_id == f"{2:016x}"
    assert [link.span_id for link in child.links] == [f"{1:016x}", f"{3:016x}"]
    assert old.parent_id == f"{5:016x}"


def test_warnings_are_told_and_garbage_costs_only_itself() -> None:
    """What Jaeger warns of is told; a trace that is not one costs only itself."""
    bad = trace(span(1, startTime="soon"), trace_id="bad")
    bad["spans"][0]["startTime"] = 1_789_999_000 * MICRO
    bad["spans"][0]["duration"] = "long"
    warned = trace(span(2, warnings=["clock skew\nadjusted"]), warnings=["incomplete"])
    found, problems = read(bad, warned)

    assert [of.span_id for of in found] == [f"{2:016x}"]
    assert problems == [
        "trace bad is not what Jaeger's look like: ValueError",
        "trace 00000000000000ab: Jaeger warns: incomplete",
        "trace 00000000000000ab: Jaeger warns: clock skew adjusted",
    ]


def test_faults_beside_an_answer() -> None:
    """What Jaeger says went wrong, beside what it found, is told."""
    with Backend(lambda asked: Reply({"data": [trace(span())], "errors": [{"msg": "a shard\nis down"}, 1]})) as backend:
        source = JaegerSource(backend.url, "shop", end=END, environ={})
        assert len(list(source)) == 1

    assert list(source.problems) == ["Jaeger says: a shard is down", "Jaeger says: 1"]


def test_tags_of_other_storages() -> None:
    """Storages that return strings only, and what is not what it says it is, are read as far as they can be."""
    tags = [tag("a", "true", "bool"), tag("b", "7", "int64"), tag("c", "0.5", "float64"), tag("d", "no", "binary")]
    ((found,), problems) = read(trace(span(1, *tags, tag(names.DNS_ANSWERS, "[cut"))))

    assert found.attributes == {"a": True, "b": 7, "c": 0.5, "d": "no", names.DNS_ANSWERS: "[cut"}
    assert problems == []


def many(number: int, apart: int) -> list[dict[str, Any]]:
    """So many traces of one span, so many microseconds apart."""
    start = int((END - 3000) * MICRO)
    return [trace(span(1, startTime=start + index * apart), trace_id=f"{index:032x}") for index in range(number)]


def test_full_answers_are_asked_for_in_smaller_windows() -> None:
    """More traces than one answer holds are asked for in smaller windows; each is read once, the oldest first."""
    found, problems = read(*many(100, 7_919_000), page=7)

    assert [of.start for of in found] == [of["spans"][0]["startTime"] * 1000 for of in many(100, 7_919_000)]
    assert problems == []


def test_too_many_traces_in_a_millisecond_are_told() -> None:
    """Where more traces begin within a millisecond than an answer holds, that is told."""
    found, problems = read(*many(20, 10), page=7)

    assert 7 <= len(found) < 20
    assert "there are 7 traces or more within " in problems[0]
    assert problems[0].endswith(" ms: some are missing")


@pytest.mark.parametrize(
    ("limit", "told"), [(5, ["only the newest 5 traces were read: that is the limit"]), (20, []), (21, [])]
)
def test_the_newest_traces_up_to_the_limit_are_read(limit: int, told: list[str]) -> None:
    """No more traces are read than were asked for, the newest, in their order, and it is told if there are more."""
    found, problems = read(*many(20, 1_000_000), limit=limit, page=7)

    assert [of.trace_id for of in found] == [f"{0xAB:032x}"] * min(limit, 20)
    assert [of.start for of in found] == [of["spans"][0]["startTime"] * 1000 for of in many(20, 1_000_000)][-limit:]
    assert problems == told


@given(st.lists(st.integers(0, 500), max_size=60, unique=True), st.integers(1, 10), st.booleans(), st.data())
def test_windows_miss_nothing(times: list[int], full: int, newest_first: bool, data: st.DataObject) -> None:
    """Whatever a full search chooses to return, everything is found in order, unless a window cannot be divided."""
    chance = data.draw(st.randoms(use_true_random=False))
    dense: list[tuple[int, int]] = []

    def search(low: int, high: int) -> list[int]:
        found = [of for of in times if low <= of <= high]
        return chance.sample(found, min(full, len(found)))

    windows = list(everything(search, 0, 500, full, 1, lambda low, high: dense.append((low, high)), newest_first))
    found = list(dict.fromkeys(of for window in windows for of in sorted(window, reverse=newest_first)))
    assert found == sorted(found, reverse=newest_first)
    assert {of for of in times if not any(low <= of <= high for low, high in dense)} <= set(found)
    assert dense == [] or full <= 2


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1.5h", 5400), ("2d", 172800), (" 250ms ", 0.25)])
def test_durations_are_a_number_and_a_unit(text: str, value: float) -> None:
    """A length of time is a number and a unit."""
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1y", "nanh", "infd", "0s", "1e9d", "1h30m"])
def test_what_is_no_duration_is_one_line(text: str) -> None:
    """Anything else is one line."""
    with pytest.raises(SourceError, match="is not a length of time: expected one like 30m, 1h, 2d"):
        seconds(text)


def test_an_unknown_service_is_told_with_the_nearest_name() -> None:
    """An unknown service is told, with the nearest that Jaeger knows; a known one without traces is something else."""
    with Backend(Jaeger(services=("shop", "other"))) as backend:
        with pytest.raises(SourceError) as unknown:
            list(JaegerSource(backend.url, "shpo", environ={}))
        with pytest.raises(SourceError) as none:
            list(JaegerSource(backend.url, "shop", environ={}))
    with Backend(Jaeger(services=())) as empty, pytest.raises(SourceError) as nothing:
        list(JaegerSource(empty.url, "shop", environ={}))

    assert str(unknown.value) == (
        f"Jaeger at {backend.url} does not know the service 'shpo', did you mean shop? (it knows other, shop)"
    )
    assert str(none.value).startswith(f"Jaeger at {backend.url} has no trace of shop in the 1h before ")
    assert str(nothing.value) == f"Jaeger at {empty.url} does not know the service 'shop' (it knows none)"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(b"", 401), "answered 401 Unauthorized: an Authorization header can be set in HTTPTRACE_AUTHORIZATION"),
        (Reply(b"", 403), "answered 403 Forbidden: an Authorization header can be set in HTTPTRACE_AUTHORIZATION"),
        (
            Reply(b"", 302, {"Location": "/login"}),
            "answered 302 Found, which leads elsewhere: is there a login in front of it?",
        ),
        (
            Reply({"errors": [{"code": 500, "msg": "storage\n\x1b[31mis down"}]}, 500),
            "answered 500 Internal Server Error: storage \\x1b[31mis down",
        ),
        (Reply(b"no " * 500, 503), "answered 503 Service Unavailable: " + ("no " * 500)[:199] + "…"),
        (Reply(b"<p>", 404, {"Content-Type": "text/html"}), "answered 404 Not Found"),
        (
            Reply(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}),
            "answered with text/html that is not JSON: is it the query API?",
        ),
        (Reply(b"\xff"), "answered with text/plain that is not JSON: is it the query API?"),
        (Reply([]), "answered with JSON that is not Jaeger's: an object was expected"),
        (Reply({"data": {}}), "answered with JSON that is not Jaeger's: data is no list"),
        (Reply({"data": [1]}), "answered with JSON that is not Jaeger's: a trace without traceID"),
        (Reply(status=0), "broke off: Server disconnected without sending a response."),
        (Reply(b"not gzip", headers={"Content-Encoding": "gzip"}), "broke off: "),
    ],
)
def test_a_wrong_answer_is_one_line_without_credentials(reply: Reply, told: str) -> None:
    """Whatever is answered instead of traces is one line, without credentials."""
    with Backend(lambda asked: reply) as backend:
        url = backend.url.replace("//", "//user:secret@") + "?token=secret"
        with pytest.raises(SourceError) as fault:
            list(JaegerSource(url, "shop", environ={}))

    line = str(fault.value)
    assert line.startswith(f"Jaeger at {backend.url} {told}"[:300])
    assert "secret" not in line
    assert "\n" not in line


def test_an_unreachable_jaeger_is_one_line() -> None:
    """A Jaeger that cannot be reached is one line, and so is one that does not answer."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SourceError, match=f"^Jaeger at {url} cannot be reached: .*refused"):
        list(JaegerSource(url, "shop", environ={}))

    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        source = JaegerSource(f"http://127.0.0.1:{silent.getsockname()[1]}", "shop", environ={})
        source._api._client.timeout = httpx.Timeout(0.1)
        with pytest.raises(SourceError, match="did not answer within"):
            list(source)


@pytest.mark.parametrize("url", ["", "localhost:16686", "ftp://x", "http://[", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """What is no URL is told at once."""
    with pytest.raises(SourceError, match="a URL like http://localhost:16686 was expected"):
        JaegerSource(url, "shop", environ={})


def test_credentials_and_base_path_are_used() -> None:
    """Credentials are sent from the URL or, first, from the environment; a base path is kept."""
    with Backend(Jaeger(trace(span()), base="/jaeger/ui")) as backend:
        url = backend.url.replace("//", "//user:secret@") + "/jaeger/ui"
        list(JaegerSource(url, "shop", end=END, environ={}))
        list(JaegerSource(url, "shop", end=END, environ={"HTTPTRACE_AUTHORIZATION": "Bearer abc"}))

    assert [asked.headers["authorization"] for asked in backend.asked] == ["Basic dXNlcjpzZWNyZXQ=", "Bearer abc"]


@pytest.mark.parametrize("value", ["Bearer s\u2603cret", "Bearer secret\nX-Other: 1", "Bearer\x00secret"])
def test_a_bad_authorization_is_refused_without_being_shown(value: str) -> None:
    """An authorization that cannot be sent is told at once, without being shown."""
    with pytest.raises(SourceError) as bad:
        JaegerSource("http://localhost:1", "shop", environ={"HTTPTRACE_AUTHORIZATION": value})

    assert str(bad.value) == (
        "Jaeger: Authorization is not a header that can be sent (look at HTTPTRACE_AUTHORIZATION)"
    )


# A real one.

BINARY = os.environ.get("HTTPTRACE_JAEGER")


@contextmanager
def real_jaeger(log: Path) -> Iterator[tuple[str, str]]:
    """A real Jaeger: where its query API is, and where it takes OTLP over HTTP."""
    flags = {name: f"127.0.0.1:{free_port()}" for name in (
        "collector.otlp.http.host-port", "collector.otlp.grpc.host-port", "query.http-server.host-port",
        "query.grpc-server.host-port", "admin.http.host-port", "collector.grpc-server.host-port",
        "collector.http-server.host-port", "http-server.host-port",
    )}  # fmt: skip
    query, otlp = (f"http://{flags[name]}" for name in ("query.http-server.host-port", "collector.otlp.http.host-port"))
    # UDP, of which nothing is needed.
    flags |= {f"processor.{name}.server-host-port": "127.0.0.1:0" for name in (
        "jaeger-binary", "jaeger-compact", "zipkin-compact",
    )}  # fmt: skip
    command = [str(BINARY), *(f"--{name}={value}" for name, value in flags.items())]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env={"SPAN_STORAGE_TYPE": "memory"}) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(f"{query}/api/services")
                    httpx.get(otlp)
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
            yield query, otlp
        finally:
            process.kill()


def comparable(row: Row, approximate: bool) -> dict[str, Any]:
    """A row to the microsecond, of its links the kinds only."""
    return {
        "name": row.name,
        "ids": (row.trace_id, row.span_id),
        "start": pytest.approx(row.start, abs=2e-6, rel=0) if approximate else row.start,
        "duration": pytest.approx(row.duration, abs=2e-6) if approximate else row.duration,
        "failed": row.failed,
        "source": row.source,
        "origin": row.origin,
        "status": row.status,
        "attributes": row.attributes,
        "phases": row.phases,
        "links": [(link.trace_id, link.span_id, link.attributes[names.LINK]) for link in row.links],
        "steps": [(step.name, step.depth, step.attributes) for step in row.steps],
        "step times": [
            time for step in row.steps for time in (step.start, step.duration)
        ] if not approximate else [
            pytest.approx(time, abs=3e-6) for step in row.steps for time in (step.start, step.duration)
        ],
    }  # fmt: skip


@pytest.mark.skipif(not BINARY, reason="HTTPTRACE_JAEGER names no Jaeger: make backends")
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_story_through_a_real_jaeger(library: str, tmp_path: Path) -> None:
    """Sent on to a real Jaeger, the founding story is row by row what was received, but for what links said."""
    client_of = importlib.import_module(library).Client
    received: list[Message] = []
    instrumentor = HTTPTraceInstrumentor()
    with real_jaeger(tmp_path / "jaeger.log") as (query, otlp), Server() as server:
        forwarder = Forwarder(otlp, {})
        receiver = Receiver(received.append, forward=forwarder.send)
        provider = TracerProvider(
            resource=Resource.create({"service.name": f"story-{library}"}), shutdown_on_exit=False
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces")))
        instrumentor.instrument(tracer_provider=provider)
        try:
            with client_of() as client, ThreadPoolExecutor(5) as workers:

                def close_early(_: int) -> None:
                    with client.stream("GET", f"{server.url}/status"):
                        pass

                list(workers.map(close_early, range(20)))
        finally:
            instrumentor.uninstrument()
            provider.shutdown()
            receiver.close()
        assert forwarder.close() is None
        sent = [span for request in received for span in from_protobuf(request)]  # type: ignore[arg-type]
        deadline = time.monotonic() + 30
        # Jaeger takes spans in at its own pace.
        while True:
            try:
                source = JaegerSource(query, f"story-{library}", lookback="10m", environ={}, page=6)
                stored = list(source)
            except SourceError:
                stored = []
            if len(stored) >= len(sent):
                break
            assert time.monotonic() < deadline, f"{len(stored)} of {len(sent)} spans"
            time.sleep(0.05)
        with pytest.raises(SourceError, match=f"did you mean story-{library}"):
            list(JaegerSource(query, f"story{library}", environ={}))

    through_otlp = {row.span_id: row for row in rows(sent)}
    through_jaeger = {row.span_id: row for row in rows(stored)}
    assert list(source.problems) == []
    assert len(through_otlp) == 20
    assert through_jaeger.keys() == through_otlp.keys()
    for span_id, row in through_otlp.items():
        assert comparable(through_jaeger[span_id], False) == comparable(row, True)
    blamed = [row for row in through_jaeger.values() if row.lost_by is not None]
    assert len(blamed) >= 10
    findings = [
        [
            (finding.verdict, finding.line, finding.requests, (finding.numbers or {}).get("anew"))
            for finding in report.findings
        ]
        for report in (analyze(through_otlp.values()), analyze(through_jaeger.values()))
    ]
    assert findings[0] == findings[1]
    assert findings[0][0][0] == "body_not_read"
    assert (findings[0][0][1] or "").endswith("close_early")
    assert {row.attributes[names.CONN_OPEN_REASON] for row in blamed} == {"body_not_read"}
