"""Counts and quantiles, and the same as JSON."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.otlp import ORIGIN, UPSTREAM_SCOPE, opening, read, reusing, row, story

from otel_httptrace.report import schema
from otel_httptrace.report.analysis import Analysis, analyze
from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.rows import Step, rows
from otel_httptrace.report.spans import Link, Source, Span
from otel_httptrace.report.summary import Quantiles
from otel_httptrace.telemetry import names


@given(
    st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=200), st.floats(min_value=0, max_value=1)
)
def test_quantiles_are_right_to_one_percent(values: list[float], share: float) -> None:
    """A quantile is right to 1 %, over twelve decades."""
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)
    rank = max(1, -(-share * len(values) // 1))
    exact = sorted(values)[int(rank) - 1]

    assert quantiles.at(share) == pytest.approx(exact, rel=0.0101)
    assert quantiles.longest == max(values)


def test_no_values_have_no_quantiles() -> None:
    """No values, no time; and a time of zero is zero."""
    quantiles = Quantiles()
    assert quantiles.at(0.5) == 0
    quantiles.add(0.0)
    assert quantiles.at(0.5) == 0


def test_an_origins_figures_are_those_of_its_rows() -> None:
    """An origin's figures are those of its rows."""
    report = analyze([*read(story()), opening("all_busy", conn__close_reason="server_closed")])
    ours = next(origin for origin in report.origins if origin.name == ORIGIN)
    nobody = next(origin for origin in report.origins if origin.name == "")

    assert (ours.requests, ours.opened, ours.reused, ours.lookups, ours.reuse) == (1, 1, 0, 1, 0)
    assert (nobody.requests, nobody.opened, nobody.lookups, nobody.failed) == (3, 2, 1, 1)
    assert nobody.open_reasons == Counter(first_connection=1, body_not_read=1)
    assert nobody.close_reasons == Counter(body_not_read=2)
    assert nobody.outcomes == Counter(closed_early=2)
    assert list(nobody.phases) == ["wait", "receive", "total", "dns"]
    assert report.unobserved == 1


def test_more_origins_than_are_told_apart() -> None:
    """From the thousandth origin on, the rest are one."""
    report = analyze(reusing(origin=f"http://{number}.test") for number in range(1010))

    assert len(report.origins) == 1001
    assert report.origins[0].name == "_other"
    assert report.origins[0].requests == 10


def test_the_slowest_and_the_typical_request_are_chosen() -> None:
    """The slowest requests are the slowest, the typical one is of about median duration, in any order."""
    durations = [number / 1000 for number in range(1, 2001)]
    random.Random(7).shuffle(durations)
    report = analyze(row(duration=duration) for duration in durations)

    assert [each.duration for each in report.slowest] == [2.0, 1.999, 1.998]
    assert report.typical is not None
    assert report.typical.duration == pytest.approx(1.0, rel=0.02)


def test_the_timeline_is_bounded() -> None:
    """As many requests as were asked for are kept, and the rest are counted."""
    analysis = Analysis(timeline=3)
    for number in (5, 1, 4, 2, 3):
        analysis.add(row(start=number))
    report = analysis.report(spans=9, foreign=4, problems=("line 3 is no JSON",))

    assert [each.start - 1_800_000_000 for each in report.timeline] == [1, 4, 5]
    assert (report.left_out, report.spans, report.foreign) == (2, 9, 4)
    assert report.problems == ("line 3 is no JSON",)


def test_the_json_is_whole_and_tells_no_url() -> None:
    """The whole document of one request: only what we may tell, no URL among it."""
    first = opening(
        "body_not_read",
        source=Source("shop", "one"),
        span_id="a" * 16,
        http__url="http://user:password@api.test/?secret=1",
        links=(Link("b" * 32, "c" * 16, {"httptrace.link": "connection_lost_by", "secret": 1}),),
        conn__id=3,
    )
    first.trace_id = "d" * 32
    document: dict[str, Any] = json.loads(schema.dumps(analyze([first])))
    request = {
        "trace_id": "d" * 32,
        "span_id": "a" * 16,
        "name": "GET",
        "service": "shop",
        "origin": ORIGIN,
        "path": "",
        "status": 200,
        "failed": False,
        "started": 1_800_000_000.0,
        "seconds": 0.01,
        "phases": {"dns": 0.004, "connect": 0.006},
        "sentences": [],
        "attributes": {
            "http.conn.reused": False,
            "httptrace.conn.open_reason": "body_not_read",
            "httptrace.conn.id": 3,
            "httptrace.time.dns": 0.004,
            "httptrace.time.connect": 0.006,
            "httptrace.body.outcome": "complete",
        },
        "steps": [],
        "before": [],
        "links": [{"trace_id": "b" * 32, "span_id": "c" * 16, "attributes": {"httptrace.link": "connection_lost_by"}}],
    }

    def times(value: float) -> dict[str, Any]:
        near = pytest.approx(value, rel=0.01)
        return {"requests": 1, "p50": near, "p95": near, "p99": near, "longest": value, "total": value}

    assert document.pop("thresholds")["pool_wait"] == 0.2
    assert document == {
        "version": 1,
        "spans": 0,
        "foreign_spans": 0,
        "requests": 1,
        "unobserved_requests": 0,
        "failures": "",
        "unsent_processes": 0,
        "unsent_spans": 0,
        "unended_requests": 0,
        "started": 1_800_000_000.0,
        "ended": 1_800_000_000.01,
        "services": ["shop"],
        "problems": [],
        "findings": [],
        "origins": [
            {
                "origin": ORIGIN,
                "requests": 1,
                "failed": 0,
                "cancelled": 0,
                "connections_opened": 1,
                "requests_on_reused_connections": 0,
                "reuse": 0,
                "lookups": 1,
                "open_reasons": {"body_not_read": 1},
                "close_reasons": {},
                "outcomes": {"complete": 1},
                "failed_phases": {},
                "error_types": {},
                "failed_causes": {},
                "statuses": {"200": 1},
                "phases": {"dns": times(0.004), "connect": times(0.006), "total": times(0.01)},
                "paths": [],
            }
        ],
        "slowest": [request],
        "typical": request,
    }


def test_a_finding_as_json() -> None:
    """A finding's fields are the documented ones, its evidence by name."""
    findings = schema.document(analyze([reusing(time__wait=9.0)]))["findings"]

    assert [sorted(finding) for finding in findings] == [
        [
            "advice", "because", "criterion", "evidence", "line", "numbers", "origin", "origins", "requests", "rivals",
            "seconds", "sentence", "severity", "sure", "verdict", "via",
        ]
    ]  # fmt: skip
    assert (findings[0]["severity"], findings[0]["sure"]) == ("slow", "likely")
    assert findings[0]["origins"] == [{"origin": ORIGIN, "requests": 1}]
    assert sorted(findings[0]["rivals"][0]) == ["cause", "decided_by", "requests"]
    assert sorted(findings[0]["evidence"][0]) == ["span_id", "trace_id", "what"]


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"\x00\xff\xfe", "AP/+"),
        (float("nan"), None),
        (float("inf"), None),
        ([float("-inf"), b"", {"x": b"x"}], [None, "", {"x": "eA=="}]),
        ((1, 2.5, True, None, "x"), [1, 2.5, True, None, "x"]),
        (nested(5), nested(5)),
    ],
    ids=["bytes", "NaN", "Infinity", "within", "others", "nested"],
)
@pytest.mark.parametrize("where", ["request", "step", "link"])
def test_values_that_json_has_none_for(value: Any, written: Any, where: str) -> None:
    """Bytes are base64, numbers that are none are null, wherever they are: what is written is JSON for any parser."""
    row = reusing(time__wait=9.0)
    attributes: dict[str, Any] = {names.DNS_ANSWERS: value, names.LINK: value}
    if where == "request":
        row.attributes.update(attributes)
    elif where == "step":
        row.steps.append(Step(names.SPAN_DNS, 0.0, 0.1, attributes, 1))
    else:
        row.links = (Link("b" * 32, "c" * 16, attributes),)

    request = orjson.loads(schema.dumps(analyze([row])))["slowest"][0]
    found = {"request": request, "step": (request["steps"] or [{}])[0], "link": (request["links"] or [{}])[0]}[where]
    shown = names.LINK if where == "link" else names.DNS_ANSWERS
    assert found["attributes"][shown] == written


@pytest.mark.parametrize("threshold", [float("inf"), float("nan")])
def test_thresholds_that_json_has_none_for(threshold: float) -> None:
    """A threshold that is no number of JSON's is null, too."""
    report = analyze([reusing(time__wait=9.0)], Thresholds(pool_wait=threshold))

    assert orjson.loads(schema.dumps(report))["thresholds"]["pool_wait"] is None


def test_what_is_nested_too_deeply() -> None:
    """What is nested a thousand times is left out, and the rest is written."""
    row = reusing(time__wait=9.0)
    row.steps.append(Step(names.SPAN_DNS, 0.0, 0.1, {names.DNS_ANSWERS: nested(1000)}, 1))

    assert orjson.loads(schema.dumps(analyze([row])))["requests"] == 1


def test_a_chain_of_children() -> None:
    """Children of children of children, as many as there may be, are all steps, and none is drawn further in than ten."""
    began = 1_800_000_000 * 10**9
    client = Span("t", "0", "", "GET", began, began + 1, True, False, UPSTREAM_SCOPE, Source("", ""), {}, ())
    chain = [
        Span("t", str(number), str(number - 1), names.SPAN_DNS, began, began, False, False, "", Source("", ""), {}, ())
        for number in range(1, 5001)
    ]
    (row,) = rows([client, *chain])

    assert len(row.steps) == 5000
    assert [step.depth for step in row.steps[:12]] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]
