"""`httptrace report FILE --trace ID`: one trace, told. All of it runs in this process."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from kit.backend import Backend, Reply
from kit.otlp import MS, Export
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otel_httptrace.cli.app import run
from otel_httptrace.report.facts import failed_by
from otel_httptrace.report.look import Look
from otel_httptrace.report.otlp import from_json, from_protobuf, to_json
from otel_httptrace.report.rows import rows
from otel_httptrace.report.sources.jaeger import _raised, _sentences
from otel_httptrace.telemetry import names

SAID = "Connected anew because of shop.py:27 in known, which took 2.0 ms: the one before was closed"


def export(trace: int, said: bool = True) -> Export:
    """Two requests, of which the first lost the connection of the second."""
    made = Export()
    first = made.get(
        0, 10, url__full="http://api.test/parts/7?token=s3cr3t", http__conn__reused=False, httptrace__conn__id=1,
        httptrace__conn__open_reason="first_connection", httptrace__conn__close_reason="body_not_read",
        httptrace__time__wait=0.008, httptrace__body__outcome="closed_early",
        httptrace__body__closed_at="shop.py:27 in known",
    )  # fmt: skip
    second = made.get(
        40, 20, url__full="http://api.test/parts/8", http__conn__reused=False, httptrace__conn__id=2,
        httptrace__conn__open_reason="body_not_read", httptrace__time__wait=0.01, httptrace__body__outcome="complete",
        links=((first, {names.LINK: names.LINK_CONNECTION_LOST_BY, names.BODY_CLOSED_AT: "shop.py:27 in known"}),),
    )  # fmt: skip
    if said:
        for text in (SAID, 7):
            event = second.events.add(name=names.EVENT_DIAGNOSIS, time_unix_nano=10**18 + 41 * MS)
            event.attributes.add(key=names.MESSAGE).value.string_value = str(text)
        del second.events[1].attributes[:]
        second.events.add(name="another").attributes.add(key=names.MESSAGE).value.string_value = "not ours"
    for resource in made.request.resource_spans:
        for span in resource.scope_spans[0].spans:
            span.trace_id = trace.to_bytes(16, "big")
            for link in span.links:
                link.trace_id = span.trace_id
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three traces, two of which begin alike."""
    path = tmp_path / "traces.jsonl.gz"
    ids = (0xAB << 120, 0xAC << 120, 0xBB << 120)
    path.write_bytes(gzip.compress(b"\n".join(to_json(export(number).request) for number in ids)))
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """What a command says: status, stdout, stderr."""
    status = run([str(one) for one in arguments])
    return status, *capsys.readouterr()


def test_a_trace_is_told_request_by_request(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace is told in order: each request to scale, its reasons, its lines, and its sentence; no query is shown."""
    status, out, err = told(capsys, "report", file, "--trace", "BB", "--width", 100)
    trace = f"bb{'0' * 30}"

    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"trace {trace}: 2 requests in 60.0 ms",
        "",
        "request 1 of 2 " + "─" * 85,
        f"trace {trace} span 0000000000000001, connection 1 (new: first_connection)",
        "  GET      10.0 ms  " + "█" * 80,
        "    wait    8.0 ms  " + " " * 16 + "█" * 64,
        "  http://api.test/parts/{id}",
        "  body closed_early at shop.py:27 in known",
        "  its connection could not be reused: the response was closed unread (body_not_read)",
        "",
        "request 2 of 2, 40.0 ms after the first " + "─" * 60,
        f"trace {trace} span 0000000000000002, connection 2 (new: body_not_read)",
        "  GET      20.0 ms  " + "█" * 80,
        "    wait   10.0 ms  " + " " * 40 + "█" * 40,
        "  http://api.test/parts/{id}",
        "  the connection before was lost by request 0000000000000001 at shop.py:27 in known",
        f"  * {SAID}",
    ]


def test_the_rest_of_a_report_is_of_that_trace(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON and page of a trace have its requests alone, with their sentences."""
    page = tmp_path / "page.html"
    status, out, err = told(capsys, "report", file, "--trace", "ab", "--json", "-", "--html", page)
    document = json.loads(out)

    assert (status, err) == (0, "")
    assert (document["requests"], document["spans"]) == (2, 2)
    assert document["slowest"][0]["sentences"] == [SAID]
    assert "2 requests" in page.read_text()


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("a", f"httptrace: --trace a: 2 traces begin so: ab{'0' * 30}, ac{'0' * 30}\n"),
        ("cc", "httptrace: --trace cc: no trace has an id like that, in "),
        ("xyz", "httptrace report: Invalid value for '--trace': 'xyz' is not the id of a trace, nor the beginning"),
        ("", "httptrace report: Invalid value for '--trace': '' is not the id of a trace, nor the beginning"),
    ],
)
def test_an_id_that_is_not_of_one_trace(file: Path, capsys: pytest.CaptureFixture[str], trace: str, said: str) -> None:
    """An id that several traces begin with, or none, is one line and status 2."""
    status, out, err = told(capsys, "report", file, "--trace", trace)

    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(said)


def test_a_report_says_how_to_see_a_trace(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below the findings of a file stands the command that tells a trace."""
    _, out, _ = told(capsys, "report", file, "--threshold", "lost_connections=1", "--width", 200)

    assert f"   to see a trace: httptrace report {file} --trace ID\n" in out


def test_a_report_of_jaegers_links_to_its_ui(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From Jaeger, each finding has an address that opens its request's details; so have the requests told, and the page's."""
    trace, page = f"ab{'0' * 30}", tmp_path / "page.html"
    began = int(time.time() * 1e6) - 10_000_000
    tags = [
        {"key": name, "type": kind, "value": value}
        for name, kind, value in (
            ("otel.scope.name", "string", "opentelemetry.instrumentation.httpx"),
            ("span.kind", "string", "client"),
            ("http.url", "string", "http://api.test/parts"),
            (names.CONN_REUSED, "bool", False),
            (names.CONN_CLOSE_REASON, "string", "body_not_read"),
            (names.BODY_OUTCOME, "string", "closed_early"),
            (names.BODY_CLOSED_AT, "string", "shop.py:27 in known"),
        )
    ]
    span = {
        "traceID": trace, "spanID": "00000000000000cd", "operationName": "GET", "references": [], "startTime": began,
        "duration": 1500, "tags": tags, "logs": [], "processID": "p1", "warnings": None,
    }  # fmt: skip
    processes = {"p1": {"serviceName": "shop", "tags": []}}
    found = Reply({"data": [{"traceID": trace, "spans": [span], "processes": processes, "warnings": None}]})
    with Backend(lambda asked: found) as backend:
        url = backend.url.replace("//", "//user:s3cr3t@") + "/jaeger/"
        asked = ("--jaeger", url, "--service", "shop", "--width", 60, "--threshold", "lost_connections=1")
        whole = told(capsys, "report", *asked, "--html", page)
        one = told(capsys, "report", *asked, "--trace", "ab")
    address = f"{backend.url}/jaeger/trace/{trace}?uiFind=00000000000000cd"

    assert (whole[0], one[0]) == (0, 0)
    lines = whole[1].splitlines()
    at = lines.index("in Jaeger, with the details of the request open:")
    assert lines[at : at + 2] == ["in Jaeger, with the details of the request open:", f"1. {address}"]
    assert [line for line in lines[at + 2 :] if "uiFind" in line] == [f"  {address}"]
    assert one[1].splitlines()[-1] == f"  {address}"
    assert f'<a href="{address}" target="_blank" rel="noopener noreferrer">in Jaeger</a>' in page.read_text()
    assert "s3cr3t" not in "".join((*map(str, whole), *map(str, one), page.read_text()))


def test_an_address_is_made_of_ids_only() -> None:
    """An id that is none has no address in Jaeger."""
    look = Look(jaeger="http://jaeger.test")

    assert look.address("a" * 32, "b" * 16) == f"http://jaeger.test/trace/{'a' * 32}?uiFind={'b' * 16}"
    assert [look.address("a" * 32, 'x"'), look.address("../a", "b" * 16), Look().address("a" * 32, "b" * 16)] == [
        ""
    ] * 3


def test_sentences_are_read_from_wherever_spans_come() -> None:
    """The sentences of a span are the same from OTLP in binary, OTLP/JSON and Jaeger; what is none is passed over."""
    made = export(1).request
    expected = [(), ((10**18 + 41 * MS, SAID),)]
    logs = [
        {
            "timestamp": 5,
            "fields": [{"key": "event", "value": names.EVENT_DIAGNOSIS}, {"key": names.MESSAGE, "value": SAID}],
        },
        {"timestamp": 6, "fields": [{"key": "event", "value": "other"}, {"key": names.MESSAGE, "value": "not ours"}]},
        {"timestamp": 7},
    ]

    assert [span.sentences for span in from_protobuf(made)] == expected
    assert [span.sentences for span in from_json(json.loads(to_json(made)))] == expected
    assert list(_sentences(logs)) == [(5000, SAID)]


def test_what_was_raised_is_read_from_wherever_spans_come() -> None:
    """The class that upstream's last event `exception` names, without its module, is the same from all three."""
    made = Export()
    span = made.get(0, 10, http__conn__reused=True, httptrace__body__outcome="complete")
    span.status.code = Status.STATUS_CODE_ERROR
    for name in ("urllib3.exceptions.DecodeError", "requests.exceptions.ContentDecodingError"):
        event = span.events.add(name=names.EVENT_EXCEPTION)
        event.attributes.add(key="exception.message").value.string_value = "s3cr3t"
        event.attributes.add(key=names.EXCEPTION_TYPE).value.string_value = name
    span.events.add(name="another").attributes.add(key=names.EXCEPTION_TYPE).value.string_value = "ValueError"
    logs = [
        {"fields": [{"key": "event", "value": names.EVENT_EXCEPTION}, {"key": names.EXCEPTION_TYPE, "value": name}]}
        for name in ("urllib3.exceptions.DecodeError", "requests.exceptions.ContentDecodingError")
    ]

    spans = [*from_protobuf(made.request), *from_json(json.loads(to_json(made.request)))]
    assert [one.raised for one in spans] == ["ContentDecodingError"] * 2
    assert _raised([*logs, {"fields": [{"key": "event", "value": "another"}]}]) == "ContentDecodingError"
    assert _raised([]) == ""
    # null is as good as {} in JSON of protobuf.
    document = json.loads(to_json(made.request))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["events"].append(None)
    assert [one.raised for one in from_json(document)] == ["ContentDecodingError"]
    (row,) = rows(spans[:1])
    assert failed_by(row) == "ContentDecodingError"
