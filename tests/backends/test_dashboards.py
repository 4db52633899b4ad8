"""Every query of the dashboard finds data on a real Prometheus, and from every panel there is a way to its traces."""

from __future__ import annotations

import json
import math
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import trustme
from kit.command import INSTRUMENTED, exporting
from kit.programs import ROOT, SCRAPED, Collector, Jaeger, Prometheus, backends, until
from kit.server import Peer, Request, Server, answer, free_port, head
from kit.serving import CLOSES_EACH, FAILS, IDLES, KEEPS, LEAVES, LEAVES_UNREAD, NOT_KEPT, Clients, uvicorn
from kit.traceql import mistakes

DASHBOARD = json.loads((ROOT / "dashboards/httptrace.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
TARGETS = [(title, target["refId"]) for title, panel in PANELS.items() for target in panel["targets"]]


def slow(peer: Peer, request: Request) -> None:
    """An answer that others have to wait for."""
    time.sleep(0.12)
    peer.send(answer())


def half_closed(peer: Peer, request: Request) -> None:
    """Half of a body."""
    peer.send(head("Content-Length: 10") + b"first")
    peer.close()


#: What it is called: its namespace, and a name that means something else in a regular expression.
NAMESPACE, SERVICE = "shop", "traffic++"
#: What Grafana writes into PromQL for all servers, and for several.
ALL, SEVERAL = ".*", "(127\\\\.0\\\\.0\\\\.1|shop\\\\.test|nowhere\\\\.test)"


@dataclass
class Observed:
    """What a program has sent, in the backends."""

    jaeger: Jaeger
    prometheus: Prometheus
    start: float
    #: The last moment at which the program did what it does.
    busy: float
    #: When all that it did was in the backends.
    end: float

    @property
    def values(self) -> dict[str, str]:
        """The dashboard's variables, and those of Grafana itself."""
        return {
            "service": SERVICE,
            "server_address": ALL,
            "prometheus": "prometheus",
            "tempo": "tempo",
            "jaeger": "jaeger",
            "__rate_interval": "3s",
            "__range": f"{math.ceil(self.end - self.start)}s",
            "__from": str(int(self.start * 1000)),
            "__to": str(int(self.end * 1000)),
            "__url_time_range": "from=now-1h&to=now",
        }

    def series(self, target: Mapping[str, Any], at: float | None = None, **values: str) -> list[dict[str, Any]]:
        """What Prometheus returns for a query, asked as Grafana asks: only the series that have a number.

        What is shown ends *at* this time. Unless given, it is one at which there is what the query asks for.
        """
        query = filled(target["expr"], {**self.values, **values})
        if target["range"]:
            options: dict[str, Any] = {"start": self.start, "end": at or self.end, "step": 0.5}
            path = "query_range"
        else:
            options, path = {"time": at or (self.end if "$__range]" in target["expr"] else self.busy)}, "query"
        found = self.prometheus.http.get(
            f"{self.prometheus.url}/api/v1/{path}", params={"query": query, **options}
        ).json()
        assert found["status"] == "success", f"{query}: {found}"
        return [
            one
            for one in found["data"]["result"]
            if any(math.isfinite(float(value)) for _, value in one.get("values", [one.get("value")]))
        ]

    def shown(self, title: str, at: float | None = None) -> float | None:
        """What a panel of one number shows: the last of what its query returns."""
        (target,), reduced = PANELS[title]["targets"], PANELS[title]["options"]["reduceOptions"]
        assert (reduced["calcs"], reduced["values"]) == (["lastNotNull"], False)
        numbers = [
            float(value)
            for one in self.series(target, at)
            for _, value in one.get("values", [one.get("value")])
            if math.isfinite(float(value))
        ]
        return numbers[-1] if numbers else None

    def faults(self, target: Mapping[str, Any], *chosen: str) -> list[str]:
        """What is wrong with a query, with each of these chosen as servers."""
        found = []
        for servers in chosen:
            series = self.series(target, server_address=servers)
            if not series:
                found.append(f"no data for server_address = {servers}")
            labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            found += [
                f"no label {label}, of the legend"
                for label in labels
                if not series or not all(label in one["metric"] for one in series)
            ]
            if len(series) > 20:
                found.append(f"{len(series)} series")
            text = filled(target["expr"], {**self.values, "server_address": servers})
            for selector in set(re.findall(r"\w+\{[^}]*\}", text)):
                if not self.prometheus.query(f"last_over_time({selector}[1h])"):
                    found.append(f"nothing matches {selector}")
        return found


def filled(text: str, values: Mapping[str, str], labels: Mapping[str, str] | None = None) -> str:
    """*text* with Grafana's variables filled in; ``$1``, of a regular expression, is none."""

    def value(match: re.Match[str]) -> str:
        name, _, how = (match[1] or match[2]).partition(":")
        field = name.removeprefix("__field.labels.")
        found = values[name] if field == name else (labels or {})[field]
        if how == "queryparam":
            return f"var-{name}={quote(found)}"
        if how == "regex":
            return re.sub(r"[\\^$*+?.()|[\]{}/]", r"\\\g<0>", found)
        return quote(found, safe="") if how == "percentencode" else found

    return re.sub(r"\$\{([^}]+)\}|\$([a-z_]\w*)", value, text)


@contextmanager
def used(port: int) -> Iterator[None]:
    """The server at this port has clients, who use it well and badly until this is left."""
    over = threading.Event()

    def use() -> None:
        with Clients(port) as clients:
            while not over.is_set():
                clients.everything()
                clients.is_not_kept()

    with ThreadPoolExecutor(1) as pool:
        using = pool.submit(use)
        try:
            yield
        finally:
            over.set()
        using.result()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A program that does everything there is, through the collector, in Jaeger and Prometheus."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    jaeger = Jaeger()
    # What is exported has the exemplars since the export before. Of several in one batch the exporter keeps the last,
    # and what is scraped less often than it is exported is lost: so batches are shorter, and scrapes more frequent.
    batches = {"processors::batch::timeout": "100ms"}
    collector = Collector("local.yaml", batches, TRACES_ENDPOINT=jaeger.grpc_address, SPANMETRICS_INTERVAL="1s")
    prometheus = Prometheus(SCRAPED.format(addresses=collector.metrics_address), tmp_path_factory.mktemp("prometheus"))
    http, https = Server({"/slow": slow, "/half-closed": half_closed}), Server(tls=tls)
    # As a server it is another process of the same service.
    as_server = {"OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={NAMESPACE}", "OTEL_METRIC_EXPORT_INTERVAL": "600"}
    with (
        http,
        https,
        backends(jaeger, collector, prometheus),
        uvicorn(SERVICE, collector.grpc, **as_server) as served,
    ):
        start = time.time()
        arguments = ["6", http.url(""), https.url(""), f"http://127.0.0.1:{free_port()}"]
        with used(served):
            ran = subprocess.run(
                [
                    *INSTRUMENTED,
                    str(ROOT / "tests/stories/resolver.py"),
                    str(ROOT / "tests/backends/programs/traffic.py"),
                    *arguments,
                ],
                env=exporting(
                    SERVICE,
                    collector.grpc,
                    "grpc",
                    # Then the job is not just the service's name.
                    OTEL_RESOURCE_ATTRIBUTES=f"service.namespace={NAMESPACE}",
                    OTEL_METRIC_EXPORT_INTERVAL="600",
                    OTEL_BSP_SCHEDULE_DELAY="100",
                    RESOLVER=json.dumps({"shop.test": [0.02, ["127.0.0.1"]], "nowhere.test": [0.01, -2]}),
                ),
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
        assert ran.returncode == 0, ran.stderr
        kept, busy = ran.stdout.split()
        assert kept == "3"

        def arrived() -> bool:
            # Each request is one span, and is counted once.
            counted = prometheus.value("sum(httptrace_requests_total)")
            spans = prometheus.value('sum(traces_span_metrics_calls_total{span_kind="SPAN_KIND_CLIENT"})')
            return counted is not None and counted == spans

        until("all requests are counted, and have their spans", arrived)
        yield Observed(jaeger, prometheus, start, float(busy), time.time())


def targeted(title: str, letter: str) -> dict[str, Any]:
    """One of a panel's queries."""
    return next(target for target in PANELS[title]["targets"] if target["refId"] == letter)


@pytest.mark.parametrize(("title", "letter"), TARGETS)
def test_query_returns_data(title: str, letter: str, observed: Observed) -> None:
    """Each query has a result, each part of it matches something, and the legend's labels are there."""
    target = targeted(title, letter)

    assert observed.faults(target, ALL, SEVERAL) == []


@pytest.mark.parametrize(("title", "letter"), TARGETS)
def test_misspelt_query_fails(title: str, letter: str, observed: Observed) -> None:
    """One letter less in any metric, label or value of a query, and the test above fails."""
    target = targeted(title, letter)
    expression = target["expr"]
    inside = re.findall(r"(?<!\$)\{((?:\$\{\w+:\w+\}|[^}])*)\}", expression)
    misspelt = {
        *re.findall(r"\w+(?=\{)", expression),
        *(label for text in inside for label in re.findall(r"(\w+)(?:=|!)", text)),
        *(value for text in inside for value in re.findall(r'[^~!]="(\w+)"', text)),
        *(label for text in re.findall(r"by \(([^)]*)\)", expression) for label in text.split(", ")),
    } - {"le"}
    assert len(misspelt) >= 2
    # A quantile needs its buckets: without `le` there is none.
    misspelt |= {"le"} & set(re.findall(r"\ble\b", expression))

    unnoticed = []
    for name in misspelt:
        wrong = {**target, "expr": re.sub(rf"(?<![\w$]){name}(?!\w)", name[:-1], expression)}
        assert wrong["expr"] != expression
        if not observed.faults(wrong, SEVERAL):
            unnoticed.append(name)

    assert unnoticed == []


NUMBERS = [title for title, panel in PANELS.items() if panel["type"] == "stat"]


@pytest.mark.parametrize("title", NUMBERS)
def test_number_is_of_now(title: str, observed: Observed) -> None:
    """A trouble that is over is no longer shown at the top, nor is that of a service which is gone."""
    assert (observed.shown(title) or 0) > 0

    # Spans are counted later than requests are.
    counted = "sum(rate(httptrace_requests_total[3s])) + sum(rate(traces_span_metrics_calls_total[3s]))"
    until("nothing is counted any more", lambda: observed.prometheus.value(counted) == 0)
    over = time.time()
    assert observed.shown(title, over) in (None, 0)
    # Prometheus looks back for a value for five minutes.
    assert observed.shown(title, over + 310) is None


@pytest.mark.parametrize("name", ["service", "server_address"])
def test_variable_has_values(name: str, observed: Observed) -> None:
    """What can be chosen at the top is what there is; of a service with a namespace, its name."""
    variable = next(one for one in DASHBOARD["templating"]["list"] if one["name"] == name)
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", filled(variable["query"]["query"], observed.values))
    assert found is not None
    selector, label = found.groups()
    url = f"{observed.prometheus.url}/api/v1/label/{label}/values"
    values = observed.prometheus.http.get(url, params={"match[]": selector}).json()["data"]
    if variable["regex"]:
        pattern = re.compile(variable["regex"][1:-1].replace("\\/", "/"))
        values = [match[1] for value in values if (match := pattern.fullmatch(value))]

    assert values == {"service": [SERVICE], "server_address": ["127.0.0.1", "nowhere.test", "shop.test"]}[name]


def test_clients_are_told_apart(observed: Observed) -> None:
    """Of each client of a server its panel shows how many requests it sends on a connection."""
    (target,) = PANELS["Requests per connection, by peer"]["targets"]
    shown = {
        one["metric"]["network_peer_address"]: median(
            number for _, value in one["values"] if math.isfinite(number := float(value))
        )
        for one in observed.series(target)
    }

    # The control opened its one connection in the beginning.
    assert shown.pop(KEEPS, 100) > 10
    assert shown == pytest.approx(
        {CLOSES_EACH: 1, LEAVES_UNREAD: 1, NOT_KEPT: 1, LEAVES: 2, FAILS: 3, IDLES: 3}, rel=0.1
    )


def explored(link: Mapping[str, Any], observed: Observed, labels: Mapping[str, str]) -> dict[str, Any]:
    """The query that Explore opens with, after a click on a series with these labels."""
    url = urlsplit(filled(link["url"], observed.values, labels))
    assert url.path == "/explore"
    panes = json.loads(parse_qs(url.query)["panes"][0])
    (query,) = panes["traces"]["queries"]
    assert query["datasource"]["uid"] == panes["traces"]["datasource"] == query["datasource"]["type"]
    assert panes["traces"]["range"] == {"from": observed.values["__from"], "to": observed.values["__to"]}
    return dict(query)


def clicked(title: str, observed: Observed) -> dict[str, list[dict[str, Any]]]:
    """By data source, the queries that a click on any of a panel's series leads to."""
    panel = PANELS[title]
    series = [one["metric"] for target in panel["targets"] for one in observed.series(target)]
    found: dict[str, list[dict[str, Any]]] = {}
    for link in panel["fieldConfig"]["defaults"]["links"]:
        for labels in series:
            query = explored(link, observed, labels)
            found.setdefault(query["datasource"]["type"], []).append(query)
    assert len(found["tempo"]) == len(series) > 0
    assert len(found["jaeger"]) % len(series) == 0
    return found


#: Of all services: it leads to this dashboard.
BY_SERVICE = "Reuse by service"
TRACED = [title for title in PANELS if title != BY_SERVICE]
#: Of which a click offers two searches in Jaeger, and one of them finds.
EITHER = "The server's connections end, because"


def test_link_is_traceql(observed: Observed) -> None:
    """A click on any series of any panel leads to a query that Grafana's grammar for TraceQL knows."""
    queries = [query["query"] for title in TRACED for query in clicked(title, observed)["tempo"]]

    assert len(queries) > len(TRACED)
    assert mistakes(*queries) == []


def searched(query: Mapping[str, Any], observed: Observed, limit: int) -> list[dict[str, Any]]:
    """Traces that Grafana's query finds in Jaeger."""
    tags = {name: value.strip('"') for name, value in re.findall(r'([\w.]+)=("[^"]*"|\S+)', query.get("tags", ""))}
    own = {name: query[name] for name in ("operation", "minDuration") if name in query}
    return observed.jaeger.traces(query["service"], tags=json.dumps(tags), limit=limit, **own)


@pytest.mark.parametrize("title", TRACED)
def test_link_finds_traces(title: str, observed: Observed) -> None:
    """A click on any series of a panel leads to a search that finds traces in Jaeger."""
    queries = clicked(title, observed)["jaeger"]
    empty = [query for query in queries if not searched(query, observed, 1)]

    if title != EITHER:
        assert empty == []
        return
    # By reason: of each connection that ended, one of two spans tells.
    reasons = [re.sub(r".*=", "", query["tags"]) for query in queries]
    assert {reasons.count(reason) for reason in reasons} == {2}
    assert {re.sub(r".*=", "", query["tags"]) for query in empty} == set(reasons)
    assert len(empty) == len(set(reasons))


def requests(observed: Observed) -> dict[str, dict[str, Any]]:
    """Attributes of each request's span, by its trace: there is one request in each."""
    found = {}
    for trace in observed.jaeger.traces(SERVICE):
        for span in trace["spans"]:
            tags = {tag["key"]: tag["value"] for tag in span["tags"]}
            if tags.get("span.kind") == "client":
                assert trace["traceID"] not in found
                found[trace["traceID"]] = tags
    return found


def found_from(title: str, observed: Observed) -> set[str]:
    """Ids of all traces that a click on a panel leads to in Jaeger."""
    queries = clicked(title, observed)["jaeger"]
    return {trace["traceID"] for query in queries for trace in searched(query, observed, 100_000)}


@pytest.mark.parametrize("title", ["Wait for the pool, p99", "Wait for the pool"])
def test_links_find_every_wait(title: str, observed: Observed) -> None:
    """Whether a wait ended with a reused connection, with a new one or with none: its trace is found."""
    waited = {trace: tags for trace, tags in requests(observed).items() if tags.get("httptrace.time.pool", 0) >= 0.1}
    assert {tags.get("http.conn.reused") for tags in waited.values()} == {True, False, None}

    assert waited.keys() - found_from(title, observed) == set()


def test_links_find_every_failure(observed: Observed) -> None:
    """What "Failed requests" counts is found, and nothing else: not a response with an error's status code."""
    sent = requests(observed)
    failed = {
        trace
        for trace, tags in sent.items()
        if tags.get("error") and (tags.get("httptrace.failed_phase") or tags.get("httptrace.body.outcome") == "failed")
    }
    phases = {sent[trace].get("httptrace.failed_phase") for trace in failed}
    assert phases == {"pool", "dns", "connect", "tls", "send", "wait", None}
    assert any(tags.get("error") for trace, tags in sent.items() if trace not in failed)

    assert found_from("Failed requests", observed) == failed


def test_link_chooses_a_service(observed: Observed) -> None:
    """A click on a service shows the dashboard for it, by its name without its namespace."""
    (series,) = observed.series(PANELS[BY_SERVICE]["targets"][0])
    (link,) = PANELS[BY_SERVICE]["fieldConfig"]["defaults"]["links"]
    url = urlsplit(filled(link["url"], observed.values, series["metric"]))

    assert (url.path, parse_qs(url.query)) == (
        "/d/httptrace",
        {
            "var-service": [SERVICE],
            "from": ["now-1h"],
            "to": ["now"],
            "var-prometheus": ["prometheus"],
            "var-tempo": ["tempo"],
            "var-jaeger": ["jaeger"],
        },
    )


@pytest.mark.parametrize(
    ("title", "letter"), [(title, letter) for title, letter in TARGETS if targeted(title, letter).get("exemplar")]
)
def test_exemplar_leads_to_a_trace(title: str, letter: str, observed: Observed) -> None:
    """Where a panel shows exemplars, there are some, and their traces are in Jaeger."""
    target = targeted(title, letter)
    url = f"{observed.prometheus.url}/api/v1/query_exemplars"
    options = {
        "query": filled(target["expr"], observed.values),
        "start": str(observed.start),
        "end": str(observed.end),
    }
    found = observed.prometheus.http.get(url, params=options).json()
    ids = {exemplar["labels"]["trace_id"] for one in found["data"] for exemplar in one["exemplars"]}
    assert len(ids) > 0

    for trace in sorted(ids)[:3]:
        assert observed.jaeger.http.get(f"{observed.jaeger.url}/api/traces/{trace}").status_code == 200


def test_our_histograms_have_exemplars(observed: Observed) -> None:
    """These metrics carry ids of traces: our histograms, and both of spanmetrics."""
    url = f"{observed.prometheus.url}/api/v1/query_exemplars"
    options = {"query": f'{{job="{NAMESPACE}/{SERVICE}"}}', "start": str(observed.start), "end": str(observed.end)}
    found = observed.prometheus.http.get(url, params=options).json()["data"]

    with_trace = {one["seriesLabels"]["__name__"] for one in found if "trace_id" in one["exemplars"][0]["labels"]}
    # As a server it has others, most of them not ours.
    with_trace = {name for name in with_trace if not name.startswith(("http_server_", "httptrace_server_"))}
    # By chance: only where a span was current when a connection was closed, and no other closed after it.
    assert with_trace - {"http_client_connection_duration_seconds_bucket"} == {
        "dns_lookup_duration_seconds_bucket",
        "http_client_request_time_in_queue_seconds_bucket",
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_seconds_bucket",
        # Not ours: the instrumentation's that we build upon.
        "http_client_duration_milliseconds_bucket",
    }
