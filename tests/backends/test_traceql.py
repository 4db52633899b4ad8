"""Every query in TraceQL that we hand out is TraceQL by Grafana's own grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from kit import contract
from kit.programs import ROOT
from kit.traceql import mistakes, queries
from stories.catalogue import SERVER_STORIES, STORIES

from otel_httptrace.report.findings import Thresholds

PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("dashboards/*.json")]
)


def of(value: Any) -> Iterator[str]:
    """The queries anywhere in the JSON of a dashboard: in texts, and in links that open Explore."""
    if isinstance(value, str):
        yield from queries(value)
        for part in unquote(value).split('"queryType":"traceql","query":')[1:]:
            query, _ = json.JSONDecoder().raw_decode(part)
            yield query
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from of(inner)


def found() -> dict[str, list[str]]:
    """All queries, by page."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
    return {
        name: list(of(json.loads(text)) if name.endswith(".json") else queries(text)) for name, text in texts.items()
    }


def test_all_are_traceql() -> None:
    """All pages are parsed, and those that have queries have them found."""
    by_page = found()

    assert mistakes(*(query for one in by_page.values() for query in one)) == []
    # Nothing was overlooked where it is known that there is something.
    told = sum(len(story.queries(Thresholds())) for story in STORIES)
    told += sum(len(story.queries(Thresholds())) for story in SERVER_STORIES)
    assert len(by_page["docs/incidents.md"]) > len(by_page["docs/stories.md"]) == told >= 15
    assert len(by_page["README.md"]) >= 1
    assert len(by_page["dashboards/httptrace.json"]) > 20


def attributes(query: str) -> set[str]:
    """The names of spans' and links' attributes in it."""
    return set(re.findall(r"\b(?:span|link)\.([\w.]+)", re.sub(r'"[^"]*"', '""', query)))


def test_all_ask_for_what_there_is() -> None:
    """Every attribute in a query is one that our spans, links or metrics have."""
    ours = contract.attributes()
    by_page = found()
    asked = {name: {one for query in queries for one in attributes(query)} - ours for name, queries in by_page.items()}

    assert {name: names for name, names in asked.items() if names} == {}
    assert attributes('{ span.httptrace.conn.open_reson = "span.no.name" && link.a.b != nil }') == {
        "httptrace.conn.open_reson",
        "a.b",
    }


RIGHT = '{ span.a.b = "c" && duration > 0.25s && resource.service.name = "d" && status = error }'


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("=", "is", "{ span.a.b <here>is"),
        ("&&", "and", '"c" <here>and'),
        ("span.", "spam.", "{ <here>spam.a.b"),
        ("0.25s", "", "duration >  <here>&&"),
        ("0.25s", "0.25sec", "0.25s<here>ec"),
        ('"d"', '"d', "<here>"),
        (" }", "", "status = error<here>"),
        (" }", " } more", "} <here>more"),
    ],
)
def test_a_mistake_is_found(right: str, wrong: str, told: str) -> None:
    """A query with a mistake in it is reported, with its place; one without is not."""
    query = RIGHT.replace(right, wrong, 1)

    (said,) = mistakes(RIGHT, query)

    assert said.replace("<here>", "") == query
    assert told in said


def test_queries_are_found_in_texts() -> None:
    """Queries are found in blocks and in running text; other code in braces is none of them."""
    text = 'In Tempo `{ span.a = "b" }`, and `{job="shop"}`:\n\n```traceql\n{ kind = client }\n```\n\n```json\n{ "a": 1 }\n```\n'

    assert list(queries(text)) == ["{ kind = client }", '{ span.a = "b" }']


def test_a_block_is_one_query() -> None:
    """A block that is pasted as it is holds one query, on as many lines as it takes; two in one block are a mistake."""
    one, two = (f"```traceql\n{{ kind = client {sign}\nstatus = error }}\n```\n" for sign in ("&&", "}\n{"))

    assert mistakes(*queries(one)) == []
    assert len(mistakes(*queries(two))) == 1
