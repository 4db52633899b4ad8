"""What real servers tell of clients that nobody has instrumented: the guide's queries, and the alerts on it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kit.programs import CONFIGS, ROOT, Collector, Jaeger, Prometheus, backends, counted, quick, until
from kit.serving import (
    CLOSES_EACH,
    FAILS,
    IDLES,
    KEEPS,
    LEAVES,
    LEAVES_UNREAD,
    NOT_KEPT,
    TIMES,
    Clients,
    gunicorn,
    uvicorn,
)
from kit.sockets import Client
from stories.catalogue import SERVER_STORIES
from stories.runs import matches

from otel_httptrace.report.findings import Thresholds
from otel_httptrace.report.sources.jaeger import JaegerSource

#: uvicorn, and a gunicorn with its default worker.
SERVICE, SYNC = "shop", "till"
#: Of the last one both ends tell.
STORIES = {story.number: story for story in SERVER_STORIES[:-1]}


@dataclass
class Told:
    """The backends, with all that every client has done once; the server still runs.

    Args:
        port: uvicorn's.
        at: when all of it was there.
        traces: ids of the traces that there were then.
    """

    jaeger: Jaeger
    prometheus: Prometheus
    port: int
    at: float
    traces: set[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A uvicorn that was used by each client, well and badly, a gunicorn by one, and all that they told."""
    jaeger, folder = Jaeger(), tmp_path_factory.mktemp("prometheus")
    collector = Collector("local.yaml", TRACES_ENDPOINT=jaeger.grpc_address)
    (folder / "alerts.servers.yaml").write_text(quick((CONFIGS / "alerts.servers.yaml").read_text()))
    config = (CONFIGS / "prometheus.yaml").read_text().replace("15s", "250ms")
    prometheus = Prometheus(config.replace("127.0.0.1:8889", collector.metrics_address), folder)
    with (
        backends(jaeger, collector, prometheus),
        gunicorn(SYNC, collector.otlp) as sync,
        uvicorn(SERVICE, collector.grpc) as port,
    ):
        client = Client(sync, itertools.count(1))
        for _ in range(TIMES):
            conn = client.connect()
            conn.get()
            conn.ended()
        with Clients(port) as clients:
            clients.everything()
            clients.is_not_kept()
            # Only who comes again can be told that it was closed before.
            clients.idles()
        sent = clients.sent + TIMES

        def traces() -> set[str]:
            return {trace["traceID"] for service in (SERVICE, SYNC) for trace in jaeger.traces(service)}

        def arrived() -> bool:
            counted = prometheus.value("sum(httptrace_server_requests_total)")
            ended = prometheus.value("sum(httptrace_server_connections_open)") == 0
            return len(traces()) == sent == counted and ended

        until("all spans and metrics have arrived", arrived)
        yield Told(jaeger, prometheus, port, time.time(), traces())


@pytest.mark.parametrize(
    ("service", "number", "times"),
    [
        (SERVICE, 41, 7 * TIMES + 1),
        (SERVICE, 42, TIMES),
        (SERVICE, 43, TIMES),
        (SYNC, 43, TIMES),
        (SERVICE, 44, 2 * TIMES),
        (SERVICE, 45, TIMES),
    ],
)
def test_jaeger_finds_the_requests_that_the_query_is_true_of(service: str, number: int, times: int, told: Told) -> None:
    """Jaeger's searches of a story find the requests that its TraceQL is true of, as many as there must be, and no others."""
    story = STORIES[number]
    (query,) = story.queries(Thresholds())
    spans = [span for span in JaegerSource(told.jaeger.url, service, environ={}) if span.trace_id in told.traces]
    expected = {span.trace_id for span in spans if matches(query, span)}
    found: set[str] = set()
    for search in (story.guide.search, *story.guide.rows):
        tags = dict(tag.split("=", 1) for tag in search.tags.split())
        found |= {trace["traceID"] for trace in told.jaeger.traces(service, tags=json.dumps(tags))}

    assert len(expected) == times
    assert found & told.traces == expected


#: By story, what each of its queries in PromQL says: by peer, or by reason.
SAID: dict[tuple[str, int], list[dict[str, float]]] = {
    (SERVICE, 41): [
        # Of the last it is the server that keeps none: the second query, and story 43, say so.
        {CLOSES_EACH: 1, LEAVES_UNREAD: 1, NOT_KEPT: 1},
        {
            "client_closed": TIMES + 1,
            "client_left": 2 * TIMES,
            "keepalive_timeout": 2 * TIMES,
            "connection_close": TIMES,
            "error": TIMES,
        },
    ],
    (SERVICE, 42): [{IDLES: 2 * TIMES}],
    (SERVICE, 43): [{}, {NOT_KEPT: TIMES}],
    (SYNC, 43): [{KEEPS: TIMES}, {}],
    (SERVICE, 44): [{LEAVES: TIMES, LEAVES_UNREAD: TIMES}],
    (SERVICE, 45): [{FAILS: TIMES}, {}, {}],
}


@pytest.mark.parametrize(("service", "number"), SAID)
def test_promql_names_the_clients_of_the_story_and_no_other(service: str, number: int, told: Told) -> None:
    """Each query in PromQL of a story says of which client it is true, and how often; the one that does well is in none."""
    said: list[dict[str, float]] = []
    for query in STORIES[number].guide.asked(Thresholds(), service):
        # As it is: Prometheus takes it.
        told.prometheus.query(query)
        series = told.prometheus.query(counted(query), told.at)
        assert all(len(one["metric"]) == 1 for one in series), query
        said.append({next(iter(one["metric"].values())): float(one["value"][1]) for one in series})

    assert said == SAID[service, number]


def test_a_service_that_only_answers_can_be_chosen(told: Told) -> None:
    """In the dashboard a service that sends no requests itself is among those that can be chosen, by its server's half."""
    dashboard = json.loads((ROOT / "dashboards/httptrace.json").read_text())
    (variable,) = (one for one in dashboard["templating"]["list"] if one["name"] == "service")
    selector = variable["query"]["query"].removeprefix("label_values(").removesuffix(", job)")
    url = f"{told.prometheus.url}/api/v1/label/job/values"

    assert told.prometheus.query("httptrace_requests_total") == []
    assert told.prometheus.http.get(url, params={"match[]": selector}).json()["data"] == [SERVICE, SYNC]


#: What fires while all of it goes on: of whom, and whose story it is.
FIRES = {
    ("HTTPServerClientsDoNotReuse", CLOSES_EACH): (41, CLOSES_EACH),
    ("HTTPServerClientsDoNotReuse", LEAVES_UNREAD): (41, LEAVES_UNREAD),
    ("HTTPServerKeepaliveTooShort", IDLES): (42, IDLES),
    ("HTTPServerClientsLeave", ""): (44, LEAVES),
    ("HTTPServerFailuresCloseConnections", ""): (45, FAILS),
}
KEEPS_NONE = ("HTTPServerKeepsNoConnection", "")


def test_alerts_fire_and_end(told: Told) -> None:
    """Each alert fires for what is wrong, and the story that it leads to says so; it ends with it, and never is of the control."""
    alerts = f'ALERTS{{alertstate="firing", job="{SERVICE}"}}'

    def firing() -> set[tuple[str, str]]:
        found = told.prometheus.query(alerts)
        return {(one["metric"]["alertname"], one["metric"].get("network_peer_address", "")) for one in found}

    def all_goes_on() -> bool:
        clients.everything()
        return FIRES.keys() <= firing()

    def guided(number: int, peer: str) -> bool:
        queries = STORIES[number].guide.asked(Thresholds(), SERVICE)
        found = [one["metric"] for query in queries for one in told.prometheus.query(query.replace("[5m]", "[4s]"))]
        return any(one.get("network_peer_address") == peer for one in found)

    def only_that_none_is_kept() -> bool:
        clients.is_not_kept()
        return firing() == {KEEPS_NONE}

    with Clients(told.port) as clients:
        until("each alert fires", all_goes_on)
        assert KEEPS_NONE not in firing()
        assert [alert for alert, (number, peer) in FIRES.items() if not guided(number, peer)] == []
        until("all others have ended, and the last one fires", only_that_none_is_kept)
    assert guided(43, NOT_KEPT)
    ever = told.prometheus.query(f"last_over_time({alerts}[1h])")
    assert KEEPS not in {one["metric"].get("network_peer_address") for one in ever}
