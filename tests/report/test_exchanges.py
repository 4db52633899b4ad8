"""What was sent before within one request span: redirects, retries, auth rounds, as the report has them."""

from __future__ import annotations

import io
import json

from kit.otlp import Export, read

from otel_httptrace.report import schema, text
from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.page import render as page
from otel_httptrace.report.rows import Row
from otel_httptrace.report.terminal import console


def retried() -> Row:
    """A request that was redirected, then failed on a new connection, and then went well on another."""
    export = Export()
    request = export.get(
        0, 100, url__full="http://api.test/new", http__response__status_code=200, http__conn__reused=False,
        httptrace__conn__id=3, httptrace__conn__open_reason="request_failed", httptrace__time__dns=0.002,
        httptrace__time__connect=0.004, httptrace__time__wait=0.03, httptrace__body__outcome="complete",
        http__request__resend_count=2,
    )  # fmt: skip
    redirected = export.span(
        "http.exchange", 0, 10, request, http__response__status_code=302, http__conn__reused=True, httptrace__conn__id=1,
        httptrace__time__wait=0.008, httptrace__body__outcome="complete",
    )  # fmt: skip
    failed = export.span(
        "http.exchange", 10, 40, request, status=2, error__type="ReadTimeoutError", http__conn__reused=False,
        httptrace__conn__id=2, httptrace__conn__open_reason="all_busy", httptrace__conn__close_reason="request_failed",
        httptrace__failed_phase="wait", httptrace__time__dns=0.001,
    )  # fmt: skip
    got = export.span("http.getconn", 10, 5, failed)
    export.span("http.dns", 10, 1, got, error__type="not_the_request_s")
    export.span("http.connect", 11, 4, got)
    got = export.span("http.getconn", 50, 6, request)
    export.span("http.dns", 50, 2, got)
    export.span("http.connect", 52, 4, got)
    # Whatever a sender nests: an exchange in an exchange is no more than a step.
    export.span("http.exchange", 1, 1, redirected)
    (row,) = read([export.request])
    return row


def test_what_was_sent_before_counts_as_what_it_did_to_connections() -> None:
    """Its connections, lookups and bodies count; the request is one, and did not fail by what failed before."""
    (origin,) = analyze([retried()]).origins

    assert (origin.requests, origin.failed, origin.opened, origin.reused, origin.lookups) == (1, 0, 2, 1, 2)
    assert origin.open_reasons == {"request_failed": 1, "all_busy": 1}
    assert origin.close_reasons == {"request_failed": 1}
    assert origin.outcomes == {"complete": 2}
    assert (origin.failed_phases, origin.error_types, origin.failed_causes) == ({}, {}, {})
    assert [step.name for step in retried().steps] == ["http.getconn", "http.dns", "http.connect"]


def test_the_text_tells_each_in_its_place() -> None:
    """Each has a bar with its steps below it, and a line with its status or error, connection and reasons."""
    out = io.StringIO()
    console(out, 100).print(text.waterfall(retried(), 100))
    lines = [line.split("  █")[0].rstrip(" █") for line in out.getvalue().splitlines()]

    assert lines[0] == f"trace {'ab' * 16} span 0000000000000001, connection 3 (new: request_failed)"
    assert [line.split()[0] for line in lines[1:12]] == [
        "GET", "http.exchange", "http.exchange", "http.exchange", "http.getconn", "http.dns", "http.connect",
        "http.getconn", "http.dns", "http.connect", "wait",
    ]  # fmt: skip
    assert lines[12:] == [
        "  sent before, for 10.0 ms: status 302, connection 1 (reused)",
        "  sent before, for 40.0 ms: failed in wait: ReadTimeoutError, connection 2 (new: all_busy), closed:",
        "    request_failed",
        "  http://api.test/new, status 200",
    ]


def test_json_and_page_have_them() -> None:
    """In JSON they stand apart from the request's own steps; the page has them among these, in order."""
    report = analyze([retried()])
    (request,) = json.loads(schema.dumps(report))["slowest"]
    data = page(report).partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    embedded = json.loads(data)
    names = [embedded["strings"][number] for number in embedded["steps"]["0"][::5]]

    assert [(sent["origin"], sent["status"], sent["failed"], len(sent["steps"])) for sent in request["before"]] == [
        ("http://api.test", 302, False, 1),
        ("http://api.test", None, True, 3),
    ]
    assert request["before"][1]["attributes"]["httptrace.conn.open_reason"] == "all_busy"
    assert [step["name"] for step in request["steps"]] == ["http.getconn", "http.dns", "http.connect"]
    assert names == [
        "http.exchange", "http.exchange", "http.exchange", "http.getconn", "http.dns", "http.connect", "http.getconn",
        "http.dns", "http.connect",
    ]  # fmt: skip
    assert embedded["steps"]["0"][3::5] == [1, 2, 1, 2, 3, 3, 1, 2, 2]
