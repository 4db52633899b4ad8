"""Spans from a Tempo: from a server that answers as Tempo's documentation and source say, for there is no real one here."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from kit.backend import Asked, Backend, Reply, free_port
from kit.otlp import story

from otel_httptrace.report.otlp import from_protobuf, to_json
from otel_httptrace.report.rows import rows
from otel_httptrace.report.sources import SourceError
from otel_httptrace.report.sources.tempo import TempoSource
from otel_httptrace.report.spans import Span

END = 10**9 + 60.0
TRACE = "ab" * 16


def as_tempo_writes(data: Any) -> Any:
    """Protobuf's JSON mapping: ids in base64, enums by name."""
    if isinstance(data, list):
        return [as_tempo_writes(of) for of in data]
    if not isinstance(data, dict):
        return data
    written = {}
    for key, of in data.items():
        if key in ("traceId", "spanId", "parentSpanId"):
            written[key] = base64.b64encode(bytes.fromhex(of)).decode()
        elif key == "kind":
            written[key] = {1: "SPAN_KIND_INTERNAL", 3: "SPAN_KIND_CLIENT"}[of]
        elif key == "code":
            written[key] = {2: "STATUS_CODE_ERROR"}[of]
        else:
            written[key] = as_tempo_writes(of)
    return written


def trace(service: str = "shop") -> dict[str, Any]:
    """The founding story, as one trace, of a service."""
    resources = [resource for request in story() for resource in json.loads(to_json(request))["resourceSpans"]]
    for resource in resources:
        resource["resource"] = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceSpans": as_tempo_writes(resources)}


def old(data: dict[str, Any]) -> dict[str, Any]:
    """As versions before 2.0 wrote it."""
    renamed = {
        "scopeSpans": "instrumentationLibrarySpans",
        "scope": "instrumentationLibrary",
        "resourceSpans": "batches",
    }

    def rename(of: Any) -> Any:
        if isinstance(of, dict):
            return {renamed.get(key, key): rename(value) for key, value in of.items()}
        return [rename(value) for value in of] if isinstance(of, list) else of

    changed: dict[str, Any] = rename(copy.deepcopy(data))
    return changed


SPANS = {span.span_id for request in story() for span in from_protobuf(request)}


class Tempo:
    """Answers a search with ids, and ids with a trace."""

    def __init__(self, answers: dict[str, Reply], ids: list[str] | None = None) -> None:
        self._answers = answers
        self._ids = [TRACE] if ids is None else ids

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/api/search":
            # As of the documentation; without `traces` where there is none.
            found = [
                {
                    "traceID": trace_id,
                    "rootServiceName": "shop",
                    "rootTraceName": "GET",
                    "startTimeUnixNano": "1000000000000000000",
                    "durationMs": 60,
                    "spanSets": [{"spans": [{"spanID": "563d623c76514f8e"}], "matched": 1}],
                }
                for trace_id in self._ids
            ]
            return Reply({"traces": found[: int(asked.query["limit"])], "metrics": {}} if found else {"metrics": {}})
        return self._answers.get(asked.path, Reply(b"404 page not found", 404))


def read(
    answers: dict[str, Reply], ids: list[str] | None = None, **arguments: Any
) -> tuple[list[Span], list[str], list[Asked]]:
    """The spans of such a Tempo, the problems, and what it was asked."""
    with Backend(Tempo(answers, ids)) as backend:
        source = TempoSource(backend.url, **{"service": "shop", "end": END, "environ": {}, **arguments})
        return list(source), list(source.problems), backend.asked


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/v2/traces/", {"trace": trace(), "metrics": {"inspectedBytes": "1"}}),
        ("/api/v2/traces/", {"trace": trace(), "status": "COMPLETE"}),
        ("/api/traces/", trace()),
        ("/api/traces/", {"batches": trace()["resourceSpans"]}),
        ("/api/traces/", old(trace())),
    ],
    ids=["v2", "v2, whole", "v1", "v1, batches", "v1, before 2.0"],
)
def test_answers_of_each_version_are_the_same_spans(path: str, answer: dict[str, Any]) -> None:
    """Each version's answers are the same spans: ids of base64 and names of enums included."""
    found, problems, asked = read({path + TRACE: Reply(answer)})

    assert problems == []
    assert {span.span_id for span in found} == SPANS
    first, second, third = sorted(rows(found), key=lambda row: row.start)
    assert (first.trace_id, third.failed, len(second.steps)) == (TRACE, True, 3)
    assert second.lost_by is not None
    assert second.lost_by.span_id == first.span_id
    assert asked[0].query == {
        "q": '{ resource.service.name = "shop" && (kind = client || span.httptrace.server.conn.id > 0) }',
        "start": str(10**9 + 61 - 3600),
        "end": str(10**9 + 61),
        "limit": "100",
        "spss": "1",
    }


def test_an_old_one_is_recognised_once() -> None:
    """Once a trace was found by the old path only, the new one is not asked for any more."""
    ids = [f"{number:x}" for number in range(1, 10)]
    _, _, asked = read({f"/api/traces/{trace_id}": Reply(trace()) for trace_id in ids}, ids)

    new = [request for request in asked if request.path.startswith("/api/v2/")]
    # Four are asked for at a time.
    assert 1 <= len(new) <= 4


@pytest.mark.parametrize("status", ["PARTIAL", 1])
def test_a_partial_trace_is_read_and_told(status: Any) -> None:
    """A trace that is not whole is read, and told with what Tempo says about it."""
    message = "Trace exceeds maximum size of 100 bytes, a partial trace is returned"
    reply = Reply({"trace": trace(), "status": status, "message": message})
    found, problems, _ = read({f"/api/v2/traces/{TRACE}": reply})

    assert {span.span_id for span in found} == SPANS
    assert problems == [f"trace {TRACE} is not whole: {message}"]


def test_missing_and_garbled_traces_cost_only_themselves() -> None:
    """A trace that is not there any more, and one that is none, cost only themselves."""
    answers = {
        "/api/v2/traces/a": Reply({"trace": {"resourceSpans": "x"}}),
        "/api/v2/traces/b": Reply({"trace": {}}),
        f"/api/v2/traces/{TRACE}": Reply({"trace": trace()}),
    }
    found, problems, _ = read(answers, ["a", "b", "c", TRACE])

    assert {span.span_id for span in found} == SPANS
    assert problems == [
        "trace a is not OTLP: resourceSpans: a list was expected, not a string",
        "trace b was found by the search, but Tempo does not have it any more",
        "trace c was found by the search, but Tempo does not have it any more",
    ]


def test_spans_of_other_services_are_left_out() -> None:
    """Of the traces found, the spans of the service are read; without a service all are."""
    answers = {f"/api/v2/traces/{TRACE}": Reply({"trace": trace("other")})}

    assert read(answers)[0] == []
    assert {span.span_id for span in read(answers, service=None)[0]} == SPANS


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ({"service": None}, "{ kind = client || span.httptrace.server.conn.id > 0 }"),
        (
            {"service": 'a"b\\c'},
            '{ resource.service.name = "a\\"b\\\\c" && (kind = client || span.httptrace.server.conn.id > 0) }',
        ),
        ({"query": "{ span.httptrace.time.dns > 1 }"}, "{ span.httptrace.time.dns > 1 }"),
    ],
)
def test_the_query_finds_http_clients_of_the_service(arguments: dict[str, Any], query: str) -> None:
    """The query finds HTTP clients of the service, whatever its name; one of the user's own is sent as it is."""
    _, _, asked = read({f"/api/v2/traces/{TRACE}": Reply({"trace": trace()})}, **arguments)

    assert asked[0].query["q"] == query


def test_tenant_and_authorization_are_sent_with_every_request() -> None:
    """A tenant and an authorization are sent with every request."""
    answers = {f"/api/v2/traces/{TRACE}": Reply({"trace": trace()})}
    _, _, asked = read(answers, tenant="one", environ={"HTTPTRACE_AUTHORIZATION": "Bearer abc"})

    with pytest.raises(SourceError, match=r"^Tempo: X-Scope-OrgID is not a header that can be sent$"):
        TempoSource("http://localhost:1", "shop", tenant="one\n")
    assert [(of.headers["x-scope-orgid"], of.headers["authorization"]) for of in asked] == [("one", "Bearer abc")] * 2


def test_a_full_answer_is_asked_for_again_in_halves() -> None:
    """A search that returns as many as it may is asked again in halves, the older first; what is too dense is told."""
    ids = [f"{number:x}" for number in range(1, 4)]
    answers = {f"/api/v2/traces/{trace_id}": Reply({"trace": trace()}) for trace_id in ids}
    found, problems, asked = read(answers, ids, page=2, lookback="4s")

    windows = [(int(of.query["start"]), int(of.query["end"])) for of in asked if of.path == "/api/search"]
    end = int(END) + 1
    assert windows[:4] == [(end - 4, end), (end - 4, end - 2), (end - 4, end - 3), (end - 3, end - 2)]
    assert len(problems) == 4
    assert problems[0].endswith("there are 2 traces or more within 1 s: some are missing")
    assert len(found) == 2 * len(SPANS)


def test_the_newest_traces_up_to_the_limit_are_read() -> None:
    """No more traces are read than were asked for, the newest, in their order."""
    ids = [f"{number:x}" for number in range(1, 8)]
    answers = {f"/api/v2/traces/{trace_id}": Reply({"trace": trace()}) for trace_id in ids}
    tempo = Tempo(answers)

    def answer(asked: Asked) -> Reply:
        if asked.path != "/api/search":
            return tempo(asked)
        start, end = int(asked.query["start"]), int(asked.query["end"])
        inside = [number for number in range(1, 8) if start <= END - 100 + 10 * number <= end]
        found = [
            {"traceID": f"{number:x}", "startTimeUnixNano": str(int(END - 100 + 10 * number) * 10**9)}
            for number in inside
        ]
        return Reply({"traces": found[: int(asked.query["limit"])]})

    with Backend(answer) as backend:
        source = TempoSource(backend.url, "shop", end=END, limit=5, environ={})
        found = list(source)

    assert len(found) == 5 * len(SPANS)
    traces = {of.path for of in backend.asked if of.path != "/api/search"}
    assert traces == {f"/api/v2/traces/{number}" for number in range(3, 8)}
    assert list(source.problems) == ["only the newest 5 traces were read: that is the limit"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(b"invalid TraceQL query: parse error at line 1, col 3\n", 400), "answered 400 Bad Request: invalid TraceQL query: parse error at line 1, col 3"),
        (Reply(b"no org id\n", 401), "answered 401 Unauthorized: it has tenants: name one with --tenant"),
        (Reply(b"who are you?\n", 401), "answered 401 Unauthorized: an Authorization header can be set in HTTPTRACE_AUTHORIZATION"),
        (Reply([]), "answered with JSON that is not Tempo's: an object was expected"),
        (Reply({"traces": {"a": 1}}), "answered with JSON that is not Tempo's: traces is no list"),
        (Reply({"traces": [{"traceID": "../../x"}]}), "answered with JSON that is not Tempo's: a trace without traceID"),
        (Reply({"traces": []}), 'has found nothing in the last 1h for { resource.service.name = "shop" && (kind = client || span.httptrace.server.conn.id > 0) }'),
        (Reply({}), 'has found nothing in the last 1h for { resource.service.name = "shop" && (kind = client || span.httptrace.server.conn.id > 0) }'),
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), "answered with text/html that is not JSON: is it the query API?"),
        (Reply(status=0), "broke off: Server disconnected without sending a response."),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_one_line(reply: Reply, told: str) -> None:
    """Whatever is answered instead of a search is one line."""
    with Backend(lambda asked: reply) as backend, pytest.raises(SourceError) as fault:
        list(TempoSource(backend.url, "shop", environ={}))

    assert str(fault.value) == f"Tempo at {backend.url} {told}"


def test_a_fault_half_way() -> None:
    """Where a trace cannot be had for another reason than that it is gone, reading ends with that reason."""
    with pytest.raises(SourceError, match=r"answered 500 Internal Server Error: out of memory$"):
        read({f"/api/v2/traces/{TRACE}": Reply(b"out of memory", 500)})


def test_an_unreachable_tempo_is_one_line() -> None:
    """A Tempo that cannot be reached is one line."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SourceError, match=f"^Tempo at {url} cannot be reached: .*refused"):
        list(TempoSource(url, "shop", environ={}))
