"""What has changed since the last report, for `--every`."""

from __future__ import annotations

import copy
import io
import itertools

from kit.otlp import opening, reusing, row

from otel_httptrace.report.analysis import Analysis
from otel_httptrace.report.changes import changes
from otel_httptrace.report.terminal import console
from otel_httptrace.report.text import render


def test_what_is_new_and_what_there_is_more_of() -> None:
    """It counts what came since, and names findings that are new, that go on, and that all is as it was."""
    analysis = Analysis()
    reports = []
    for rows in (
        [opening("first_connection")],
        [opening("body_not_read", conn__close_reason="body_not_read", body__outcome="closed_early") for _ in range(3)],
        [opening("body_not_read", conn__close_reason="body_not_read", body__outcome="closed_early"), reusing()],
        [reusing(), row(failed=True, status=None, failed_phase="connect", error__type="ConnectError")],
        [reusing()],
    ):
        for each in rows:
            analysis.add(each)
        # As Intake does: a report does not change any more.
        reports.append(copy.deepcopy(analysis.report()))

    said = [changes(before, now, 30) for before, now in itertools.pairwise(reports)]
    assert said == [
        "since the report 30.0 s ago: 3 requests, 3 connections opened; new: body_not_read (3 requests)",
        "since the report 30.0 s ago: 2 requests, 1 connection opened; more of: body_not_read (1 more)",
        "since the report 30.0 s ago: 2 requests, 1 failed, 0 connections opened; new: failed (1 request)",
        "since the report 30.0 s ago: 1 request, 0 connections opened; no more of what was found",
    ]
    out = io.StringIO()
    render(reports[-1], console(out, 100), since=said[-1])
    assert out.getvalue().splitlines()[1] == said[-1]
