"""Each query of docs/incidents.md, asked of the real programs, finds the requests of its story and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pytest
import yaml
from kit.programs import CONFIGS, SCRAPED, Collector, Jaeger, Prometheus, backends, counted, until
from stories.catalogue import STORIES
from stories.runs import matches, run
from stories.story import Case, Search, Story

from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.sources.jaeger import JaegerSource
from otel_httptrace.report.spans import Span

#: The first test has to wait until all of them were played.
# All are played first.
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Played:
    """A case, and the service that it was played as: of each there is one."""

    story: Story
    case: Case
    service: str

    @property
    def how(self) -> str:
        """One of the ways to run it. Over all stories, all of them come up."""
        return self.case.runs[self.story.number % len(self.case.runs)]

    @property
    def search(self) -> Search:
        """What is asked of Jaeger."""
        return self.case.search or self.story.guide.search


def _cases() -> Iterator[Played]:
    for story in STORIES:
        for kind, cases in (("told", story.cases), ("control", story.controls)):
            for number, case in enumerate(cases, 1):
                yield Played(story, case, f"{story.number}-{kind}{number}")
                if story.number == 12:
                    # As its section says: with all spans, Jaeger can tell.
                    every = (("OTEL_PYTHON_HTTPTRACE_SPANS", "all"),)
                    search = Search("", "http.receive", "receive")
                    exact = replace(case, environ=every, search=search, also_searched=0)
                    yield Played(story, exact, f"{story.number}-{kind}{number}-spans-all")


PLAYED = list(_cases())


@dataclass
class Asked:
    """The backends, with all that was played in them."""

    jaeger: Jaeger
    prometheus: Prometheus

    def spans(self, service: str) -> list[Span]:
        """All spans of a service."""
        return list(JaegerSource(self.jaeger.url, service, environ={}))

    def searched(self, service: str, search: Search, duration: str) -> set[str]:
        """The traces that Jaeger finds, as its page would ask."""
        tags = dict(tag.split("=", 1) for tag in search.tags.split())
        query = {"tags": json.dumps(tags), "operation": search.operation, "minDuration": duration}
        return {
            trace["traceID"]
            for trace in self.jaeger.traces(service, **{name: value for name, value in query.items() if value})
        }


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Every case that is asked for has been played, as a service of its own, and all that it sent has arrived."""
    items = [
        item for item in request.session.items if isinstance(item, pytest.Function) and "asked" in item.fixturenames
    ]
    # Some tests are about all of them.
    wanted = [item.callspec.params["played"] if hasattr(item, "callspec") else None for item in items]
    cases = [played for played in PLAYED if played in wanted or None in wanted]
    jaeger = Jaeger()
    collector = Collector("local.yaml", TRACES_ENDPOINT=jaeger.grpc_address, SPANMETRICS_INTERVAL="1s")
    prometheus = Prometheus(SCRAPED.format(addresses=collector.metrics_address), tmp_path_factory.mktemp("prometheus"))

    def play(played: Played) -> None:
        ran = run(
            played.case,
            played.how,
            OTEL_SERVICE_NAME=played.service,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp,
            OTEL_METRICS_EXPORTER="otlp",
            # What is open is said while it is; one program is killed, and says nothing at its end.
            OTEL_METRIC_EXPORT_INTERVAL="200",
        ).process
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, played.case.prints, ""), played.service

    with backends(jaeger, collector, prometheus):
        with ThreadPoolExecutor(3) as pool:
            # They mostly wait.
            list(pool.map(play, cases))
        found = Asked(jaeger, prometheus)
        sent = collector.own()["otelcol_receiver_accepted_spans_total"]

        def arrived() -> bool:
            here = sum(len(trace["spans"]) for played in cases for trace in jaeger.traces(played.service))
            seen = prometheus.value("sum(traces_span_metrics_calls_total)")
            client = prometheus.value('sum(traces_span_metrics_calls_total{span_kind="SPAN_KIND_CLIENT"})')
            # Each request is counted once in its process, and has one span.
            return sent == here == seen and client == prometheus.value("sum(httptrace_requests_total)")

        until("all spans and metrics have arrived", arrived)
        yield found


@pytest.mark.parametrize("played", PLAYED, ids=lambda played: played.service)
def test_jaeger_finds_the_requests_that_the_query_is_true_of(played: Played, asked: Asked) -> None:
    """Jaeger's search finds the requests that the query in TraceQL is true of, as many as there must be, and no others."""
    case = played.case
    (query,) = played.story.queries(case.thresholds, case)
    spans = asked.spans(played.service)
    # Each request is a trace of its own.
    expected = {span.trace_id for span in spans if matches(query, span)}
    assert len(expected) == case.finds if case.finds is not None else expected

    found = asked.searched(played.service, played.search, played.search.duration(case.thresholds))

    assert expected <= found
    assert len(found - expected) == case.also_searched


def test_others_are_not_found(asked: Asked) -> None:
    """In most stories the same program has sent requests which its search does not find."""
    stories = set()
    for played in PLAYED:
        found = asked.searched(played.service, played.search, played.search.duration(played.case.thresholds))
        if found and found < {span.trace_id for span in asked.spans(played.service)}:
            stories.add(played.story.number)

    assert stories == {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 15, 16, 17, 18, 23, 24, 25, 26, 27, 28, 32}


def _has(key: str, values: list[str], span: Span) -> bool:
    return span.attributes.get(key) in values


def policies(thresholds: Thresholds) -> list[Callable[[Span], bool]]:
    """What gateway.yaml keeps traces for, beside a share: whether a span is such. Lookups are as slow as in *thresholds*."""
    config = yaml.safe_load(re.sub(r"\$\{env:\w+:-([^}]*)\}", r"\1", (CONFIGS / "gateway.yaml").read_text()))
    found: list[Callable[[Span], bool]] = []
    for policy in config["processors"]["tail_sampling"]["policies"]:
        match policy:
            case {"string_attribute": {"key": key, "values": values}}:
                found.append(partial(_has, key, values))
            case {"ottl_condition": {"span": conditions}}:
                for condition in conditions:
                    query = condition.replace('span.attributes["', "span.").replace('"]', "")
                    if query == f"span.httptrace.time.dns > {Thresholds().dns}":
                        query = f"span.httptrace.time.dns > {thresholds.dns}"
                    found.append(partial(matches, query))
            case {"status_code": {"status_codes": ["ERROR"]}}:
                found.append(lambda span: span.failed)
            case _:
                assert policy["type"] == "probabilistic", policy
    return found


def test_a_gateway_keeps_the_stories_it_is_said_to_keep(asked: Asked) -> None:
    """Of the stories that are said to be kept by a gateway every request that is found is; and of no other all are."""
    kept: dict[int, bool] = {}
    for played in PLAYED:
        if played.case not in played.story.cases:
            continue
        keep = policies(played.case.thresholds)
        spans = asked.spans(played.service)
        (query,) = played.story.queries(played.case.thresholds, played.case)
        found = {span.trace_id for span in spans if matches(query, span)}
        traces = {span.trace_id for span in spans if any(policy(span) for policy in keep)}
        kept[played.story.number] = kept.get(played.story.number, True) and found <= traces
        # As the guide says of stories 1 and 2.
        assert {span.trace_id for span in spans if matches(LOSES, span)} <= traces

    # Of these three the guide says more. Here each request that was lost a connection loses one, too, and all waits
    # are longer than a second; in life they are not.
    assert [kept.pop(number) for number in (1, 2, 3)] == [True] * 3
    assert kept == {story.number: story.guide.kept for story in STORIES[3:]}


LOSES = '{ span.httptrace.conn.close_reason = "body_not_read" }'


@pytest.mark.parametrize("played", PLAYED, ids=lambda played: played.service)
def test_a_promql_query_finds_the_story_and_not_its_control(played: Played, asked: Asked) -> None:
    """A query in PromQL has data of a story, as many requests as there were, and of its control none."""
    case = played.case
    for query in played.story.guide.asked(case.thresholds, played.service):
        # As it is: Prometheus takes it.
        asked.prometheus.query(query)
        series = asked.prometheus.query(counted(query))

        if not case.finds and not case.also_counted and case.finds is not None:
            assert series == [], query
            continue
        if case.unseen and "closed_at" in query:
            # The program was killed: whose line it was went down with it.
            continue
        assert series, query
        # Whatever it is summed by is there: a server, a name, a line.
        for by in re.findall(r"by \(([^)]*)\)", query):
            labels = set(by.split(", ")) - {"le"}
            # Of two, joined by "or", each has its own.
            if " or " in query:
                assert all(set() != one["metric"].keys() <= labels for one in series), query
            else:
                assert all(labels == one["metric"].keys() for one in series), query
        if query.startswith("sum by") and case.finds is not None:
            assert sum(float(one["value"][1]) for one in series) == case.finds + case.also_counted, query
