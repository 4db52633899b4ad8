"""Each story is recognised from what a real program sent over OTLP, and its control is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from otel_httptrace.report.verdicts import reasons
from otel_httptrace.report.verdicts.definitions_attempts import MORE
from otel_httptrace.report.verdicts.kind import DEFINITIONS

from .catalogue import STORIES
from .runs import Told, matches, play
from .story import Case, Story

Run = tuple[Story, Case, str]

#: Stories in which a case has no sentence: the answer is an error, which its status tells.
STATUS_ONLY = {26}

#: Verdicts that are told apart by nothing but the reason for a connection.
REOPENED = {one.name for one in reasons.REOPENED}


def _runs() -> Iterator[object]:
    for story in STORIES:
        for kind, cases in (("told", story.cases), ("control", story.controls)):
            for number, case in enumerate(cases):
                mark = f"{story.number}-{kind}{number + 1 if len(cases) > 1 else ''}"
                for how in case.runs:
                    yield pytest.param((story, case, how), id=f"{mark}-{how.replace(' ', '-')}")


def test_every_story_has_a_control_and_every_verdict_a_story() -> None:
    """They are numbered without a gap, each has a control, and every verdict on them comes up."""
    cases = [case for story in STORIES for case in (*story.cases, *story.controls)]

    assert [story.number for story in STORIES] == list(range(1, 33))
    assert all(story.cases and story.controls for story in STORIES)
    told = {case.found.verdict for case in cases if case.found is not None}
    # The reasons for a connection to be opened are many, and tests/adapters/httpcore/test_reasons.py plays each of
    # them; what is in definitions_attempts.py is played in tests/report/test_redirects.py and tests/report/test_retries.py,
    # what servers tell in test_servers.py.
    elsewhere = {*REOPENED, *(one.name for one in MORE)}
    wanted = (one for one in DEFINITIONS.values() if one.name not in elsewhere and not 41 <= max(one.stories) <= 46)
    assert told >= {one.name for one in wanted}
    assert told <= set(DEFINITIONS)
    # A story is told by its verdict, or it is none; and there is something to find.
    assert all(case.found is not None and case.finds != 0 for story in STORIES for case in story.cases)
    # And each is told on the spans themselves, in a sentence, save an answer that is an error and nothing else.
    assert {story.number for story in STORIES for case in story.cases if case.says is None} == STATUS_ONLY
    assert [story.number for story in STORIES if all(case.says is None for case in story.cases)] == []


@pytest.fixture(scope="session")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[int, Future[Told]]]:
    """All the runs that were asked for, one after the other: two would slow down each other, and the tests beside them."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked: list[Any] = [item.callspec.params["run"] for item in tests if "playing" in item.fixturenames]
    with ThreadPoolExecutor(1) as pool:
        yield {id(run): pool.submit(play, run[1], run[2]) for run in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("run", list(_runs()))
def test_the_story_and_all_its_witnesses_agree(run: Run, playing: dict[int, Future[Told]]) -> None:
    """What the program did, what the server saw, the first finding and the query agree; a control has no finding."""
    story, case, _ = run
    told = playing[id(run)].result(50)
    why = str(told)

    # The program lived its story, and we left no trace in what it printed.
    assert (told.returned, told.printed, told.complained) == (0, case.prints, ""), why
    assert [row.observed for row in told.rows] == [True] * len(told.rows), why
    if told.accepted is not None:
        assert sum(origin.opened for origin in told.report.origins) + case.unseen == told.accepted, why
    (query,) = story.queries(case.thresholds, case)
    # Each request is a trace of its own.
    queried = {span.trace_id for span in told.spans if matches(query, span)}
    assert len(queried) == case.finds if case.finds is not None else queried, why
    if case.says is not None:
        assert any(re.search(case.says, sentence) for trace, sentence in told.said if trace in queried), why

    if case.found is None:
        assert told.report.findings == (), why
        return
    assert [one.verdict for one in told.report.findings] == [case.found.verdict, *case.also], why
    finding = told.report.findings[0]
    assert (finding.origin, finding.sure) == (told.origin, case.found.sure), why
    assert case.found.requests in (finding.requests, None), why
    if case.found.line is None:
        assert finding.line is None, why
    else:
        assert told.lines[case.found.line].fullmatch(finding.line or ""), why
    numbers = finding.numbers or {}
    assert numbers.get("opened", told.accepted) == told.accepted, why
    assert {name: numbers.get(name) for name in case.found.numbers} == case.found.numbers, why
