"""Every story that a server tells: the report, from the server's spans alone or from both ends, says what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kit.servers import Running, Seen, sharing

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.rows import both_ends
from otel_httptrace.report.verdicts.definitions_server import SERVERS

from .catalogue import SERVER_STORIES
from .runs import matches
from .servers import ServerCase, ServerStory, Stage, instrumented


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Instrumented, for the module."""
    seen = Seen()
    seen.instrument()
    yield seen
    seen.shutdown()


@pytest.fixture(scope="module")
def shared(seen: Seen) -> Iterator[Callable[..., Running]]:
    """A server of a kind and with these options: the same one for all stories."""
    with sharing(seen) as server:
        yield server


def _runs() -> Iterator[object]:
    for story in SERVER_STORIES:
        for kind, cases in (("told", story.cases), ("control", story.controls)):
            for number, case in enumerate(cases, 1):
                for server in case.kinds:
                    yield pytest.param(story, case, server, id=f"{story.number}-{kind}{number}-{server}")


def test_every_verdict_of_servers_has_a_story() -> None:
    """They go on where the stories of clients end, each has a control, and every verdict on servers comes up."""
    assert [story.number for story in SERVER_STORIES] == list(range(41, 47))
    assert all(story.cases and story.controls for story in SERVER_STORIES)
    assert all(case.found for story in SERVER_STORIES for case in story.cases)
    # 43 is true of each request, and 46 nothing that a server sees.
    assert {story.number for story in SERVER_STORIES if not any(case.event for case in story.cases)} == {43, 46}
    told = {case.found.verdict for story in SERVER_STORIES for case in story.cases if case.found is not None}
    assert told == {one.name for one in SERVERS} | {"stale_keepalive", "time_between"}


@pytest.mark.parametrize(("story", "case", "kind"), list(_runs()))
def test_the_server_tells(story: ServerStory, case: ServerCase, kind: str, shared: Callable[..., Running]) -> None:
    """What the client did is the one finding, and what the query finds; of a control there is none."""
    server = shared(kind, **case.options)
    before = {span.span_id for span in server.spans()}
    with instrumented(both=case.both) as telemetry:
        stage = Stage(server, telemetry)
        case.play(stage)
        spans = stage.spans(before)
    found = list(both_ends(spans))
    report = analyze(found, case.thresholds)
    why = (
        "\n".join(f"{row.name} {row.origin} {row.start:.3f} {row.duration:.3f} {row.attributes}" for row in found)
        + f"\n{report.findings}"
    )

    (query,) = story.queries(case.thresholds)
    queried = [span for span in spans if matches(query, span)]
    assert len(queried) == case.finds, why
    said = [text for span in queried for _, text in span.sentences]
    assert case.event is None or [text for text in said if case.event in text], (said, why)
    if case.found is None:
        assert report.findings == (), why
        return
    assert len(report.findings) == 1, why
    (finding,) = report.findings
    assert (finding.verdict, finding.requests, finding.sure) == (
        case.found.verdict,
        case.found.requests,
        case.found.sure,
    ), why
    assert case.says in finding.sentence, why
    numbers = finding.numbers or {}
    assert {name: numbers.get(name) for name in case.found.numbers} == case.found.numbers, why
