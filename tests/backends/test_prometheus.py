"""What the real collector hands on to a real Prometheus is what servers saw, and the alerts on it fire and end."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.command import INSTRUMENTED, exporting
from kit.programs import BACKENDS, CONFIGS, PATIENCE, ROOT, Collector, Prometheus, quick, until
from kit.server import Peer, Request, Server, answer, free_port, head
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from prometheus_client.parser import text_string_to_metric_families
from stories.catalogue import STORIES

from otel_httptrace.report.findings import Thresholds

ALERTS = (CONFIGS / "alerts.yaml").read_text()
#: All rules on services: of what they call, and of who calls them. And their tests, by name.
GROUPS: list[list[dict[str, Any]]] = [
    group["rules"]
    for name in ("alerts.yaml", "alerts.servers.yaml")
    for group in yaml.safe_load((CONFIGS / name).read_text())["groups"]
]
TESTS: dict[str, dict[str, Any]] = {
    test["name"]: test
    for name in ("alerts.test.yaml", "alerts.servers.test.yaml")
    for test in yaml.safe_load((CONFIGS / name).read_text())["tests"]
}
RULES = {rule["alert"]: rule for rules in GROUPS for rule in rules if "alert" in rule}


def instrumented(collector: Collector, service: str, *command: str | Path, **environ: str) -> dict[str, Any]:
    """How to run one of tests/backends/programs under opentelemetry-instrument: what subprocess takes."""
    return {
        "args": [*INSTRUMENTED, *command],
        # Lines of code are told by where a program runs.
        "cwd": ROOT / "tests/backends/programs",
        "env": exporting(
            service,
            collector.grpc,
            **{
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_METRIC_EXPORT_INTERVAL": "200",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                **environ,
            },
        ),
        "text": True,
    }


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What Prometheus' own tool says."""
    command = [str(BACKENDS / "bin/promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One as it is shipped; nobody takes its traces."""
    with Collector("local.yaml", TRACES_ENDPOINT=f"127.0.0.1:{free_port()}", SPANMETRICS_INTERVAL="250ms") as started:
        yield started


@pytest.fixture(scope="module")
def prometheus(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One as it is shipped, that scrapes several times a second; with the rules in less time."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "alerts.yaml").write_text(quick(ALERTS))
    config = (CONFIGS / "prometheus.yaml").read_text().replace("15s", "250ms")
    for port, address in (("127.0.0.1:8889", collector.metrics_address), ("127.0.0.1:8888", collector.own_address)):
        assert port in config
        config = config.replace(port, address)
    with Prometheus(config, folder) as started:
        yield started


# The rules, as files.


def test_files_are_valid() -> None:
    """Prometheus takes its config and the rules, and the rules pass their own tests."""
    for arguments in (
        ("check", "config", CONFIGS / "prometheus.yaml"),
        ("check", "rules", CONFIGS / "alerts.yaml", CONFIGS / "alerts.servers.yaml"),
        ("test", "rules", CONFIGS / "alerts.test.yaml", CONFIGS / "alerts.servers.test.yaml"),
    ):
        found = promtool(*arguments)

        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("alert", RULES)
def test_alert_has_its_test(alert: str) -> None:
    """Each alert is tested where it fires for one of several services, and before its time is over for none."""
    test = TESTS[alert]
    early, late = test["alert_rule_test"]
    services = {re.findall(r'job="(\w+)"', series["series"])[0] for series in test["input_series"]}

    assert {early["alertname"], late["alertname"]} == {alert}
    assert "exp_alerts" not in early
    assert {expected["exp_labels"]["job"] for expected in late["exp_alerts"]} == {"shop"}
    assert {"shop", "calm"} <= services


@pytest.mark.parametrize("alert", RULES)
def test_alert_helps(alert: str) -> None:
    """Each alert says in words which service it is about and leads to a story of the incident guide."""
    rule = RULES[alert]
    anchor = re.fullmatch(r"docs/incidents\.md#story-(\d+)", rule["annotations"]["runbook"])

    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    # One sentence, as it is what a list of alerts shows.
    assert re.fullmatch(r"[^.]*\.", re.sub(r"\{\{.*?\}\}", "", rule["annotations"]["summary"]))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert "$labels.job" in rule["annotations"]["summary"]
    assert anchor is not None
    assert f'<a id="story-{anchor[1]}">' in (ROOT / "docs/incidents.md").read_text()
    row = f"| `{alert}` | .* | {rule['labels']['severity']} | .*story-{anchor[1]}\\) \\|"
    assert re.search(row.replace("| ", r"\| "), (CONFIGS / "README.md").read_text())


@pytest.mark.parametrize("alert", RULES)
def test_numbers_of_an_alert_have_their_test(alert: str) -> None:
    """Each alert is tested a little over its numbers, under its threshold, and with a floor also with few requests."""
    test = TESTS[f"{alert}, its numbers"]
    (asked,) = test["promql_expr_test"]
    services = {re.findall(r'job="(\w+)"', series["series"])[0] for series in test["input_series"]}

    assert asked["expr"] == f'count by (job) (ALERTS{{alertname="{alert}", alertstate="firing"}})'
    assert asked["exp_samples"] == [{"labels": '{job="over"}', "value": 1}]
    assert services == {"over", "under"} | ({"seldom"} if FLOOR.search(RULES[alert]["expr"]) else set())


#: In an expression: a metric, a label, a value or one of several, a comparison.
PARTS = re.compile(r'[a-z]\w+(?=[\[{ ]*[\[{])|\w+(?=(?:=|!)~?")|(?<==")\w+(?=")|(?<=["|])\w+(?=[|"])| > ')
#: A number that is compared with, or goes into it; and at the end the traffic below which an alert is silent.
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
FLOOR = re.compile(r" and .*")


def expressions(wrong: str) -> Iterator[tuple[str, str]]:
    """The expression with one mistake, and how its tests are called that have to find it, behind the alert's name."""
    for part in PARTS.finditer(wrong):
        mistake = " < " if part[0] == " > " else part[0][:-1]
        yield wrong[: part.start()] + mistake + wrong[part.end() :], ""
    for number in NUMBER.finditer(wrong):
        for factor in (0.5, 2):
            yield f"{wrong[: number.start()]}{float(number[0]) * factor:g}{wrong[number.end() :]}", ", its numbers"
    if FLOOR.search(wrong):
        yield FLOOR.sub("", wrong), ", its numbers"


def mutants() -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rules of which one has a mistake, and the tests that are about it."""
    for group in GROUPS:
        records = [rule for rule in group if "record" in rule]
        for wrong in group:
            # A record is asked for by alerts, and by other records.
            names = [wrong.get("record", "alert")]
            names += [rule["record"] for rule in records if names[0] in rule["expr"]]
            concerned = [
                rule for rule in RULES.values() if rule == wrong or any(name in rule["expr"] for name in names)
            ]
            for expression, kind in expressions(wrong["expr"]):
                mutant = {**wrong, "expr": expression}
                rules = [mutant if rule == wrong else rule for rule in (*records, *concerned)]
                yield rules, [TESTS[rule["alert"] + kind] for rule in concerned]


def test_mistake_in_a_rule_is_found(tmp_path: Path) -> None:
    """With a name misspelt, a comparison turned, a number halved or doubled or a floor removed, the rules' tests fail."""
    files, mistakes = [], []
    for number, (rules, tests) in enumerate(mutants()):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump({"groups": [{"name": "wrong", "rules": rules}]}))
        files.append(tmp_path / f"{number}.test.yaml")
        files[-1].write_text(yaml.safe_dump({"rule_files": [f"{number}.yaml"], "tests": tests}))
        mistakes.append([rule["expr"] for rule in rules])
    said = promtool("test", "rules", *files)
    passed = [number for number, part in enumerate(said.stdout.split("Unit Testing:")[1:]) if "SUCCESS" in part]

    assert len(files) > 210
    assert said.stdout.count("Unit Testing:") == len(files)
    assert [mistakes[number] for number in passed] == []


# Many processes of one service.


def shown(collector: Collector, name: str, **labels: str) -> list[dict[str, Any]]:
    """The samples of a metric that the collector has for a Prometheus, with these labels: `labels` and `value`."""
    text = collector.http.get(f"http://{collector.metrics_address}/metrics").text
    return [
        {"labels": sample.labels, "value": sample.value}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def send_count(collector: Collector, count: int, resource: dict[str, str | int]) -> None:
    """Send a counter as an SDK does whose resource has these attributes."""
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add()
    for name, value in resource.items():
        kind = {"string_value": value} if isinstance(value, str) else {"int_value": value}
        metrics.resource.attributes.add(key=name).value.CopyFrom(AnyValue(**kind))
    metric = metrics.scope_metrics.add().metrics.add(name="sent")
    metric.sum.aggregation_temporality, metric.sum.is_monotonic = AGGREGATION_TEMPORALITY_CUMULATIVE, True
    metric.sum.data_points.add(as_int=count, time_unix_nano=time.time_ns(), start_time_unix_nano=1)
    headers = {"Content-Type": "application/x-protobuf"}
    url = f"{collector.otlp}/v1/metrics"
    assert collector.http.post(url, content=request.SerializeToString(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("service", "resources", "instances"),
    [
        ("own-ids", [{"service.instance.id": "a"}, {"service.instance.id": "b"}], {"a": 1, "b": 2}),
        (
            "one-id",
            [{"service.instance.id": "a", "process.pid": 1}, {"service.instance.id": "a", "process.pid": 2}],
            {"a:1": 1, "a:2": 2},
        ),
        (
            "hosts",
            [{"host.name": "h", "process.pid": 1}, {"host.name": "i", "process.pid": 1}],
            {"h:1": 1, "i:1": 2},
        ),
        ("hosts-only", [{"host.name": "h"}, {"host.name": "i"}], {"h": 1, "i": 2}),
        ("pids-only", [{"process.pid": 1}, {"process.pid": 2}], {":1": 1, ":2": 2}),
        # As the README says, nothing can be done about these: one has overwritten the other.
        ("nothing", [{}, {}], {"": 2}),
    ],
)
def test_processes_are_told_apart(
    service: str, resources: list[dict[str, str | int]], instances: dict[str, int], collector: Collector
) -> None:
    """Counters of processes that can be told apart are series of their own, whatever they are told apart by."""
    for number, resource in enumerate(resources, 1):
        send_count(collector, number, {"service.name": service, **resource})

    def found() -> dict[str, float]:
        samples = shown(collector, "sent_total", job=service)
        return {sample["labels"].get("instance", ""): sample["value"] for sample in samples}

    until(f"{instances} are there", lambda: found() == instances)


@pytest.mark.parametrize("how", ["forked", "one-id"])
def test_workers_add_up(how: str, collector: Collector) -> None:
    """Of a server's workers, forked or started with one service.instance.id, sums are what was sent, and of spans too."""
    # Forked as gunicorn's; started one by one as uvicorn's, here with what the Operator would set for a pod.
    one_id = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod.app",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
    }
    runs: list[list[str]] = [["3", "5"]] if how == "forked" else [["3"], ["5"]]
    with Server() as server:
        started = [
            subprocess.Popen(
                **instrumented(
                    collector, how, "workers.py", server.url(), *numbers, **({} if how == "forked" else one_id)
                )
            )
            for numbers in runs
        ]
        assert [process.wait(50) for process in started] == [0] * len(started)
        seen = sorted(len(peer.requests) for peer in server.peers)

    def found(metric: str, **labels: str) -> list[float]:
        by_instance: dict[str, float] = {}
        for sample in shown(collector, metric, job=how, **labels):
            instance = sample["labels"]["instance"]
            by_instance[instance] = by_instance.get(instance, 0) + sample["value"]
        return sorted(by_instance.values())

    assert seen == [3, 5]
    until("all were counted", lambda: found("httptrace_requests_total") == seen)
    calls = {"span_kind": "SPAN_KIND_CLIENT"}
    until("all spans were counted", lambda: found("traces_span_metrics_calls_total", **calls) == seen)


# Numbers.


def after(seconds: float) -> Callable[[Peer, Request], None]:
    """An answer that takes *seconds*."""

    def script(peer: Peer, request: Request) -> None:
        time.sleep(seconds)
        peer.send(answer())

    return script


def half_closed(peer: Peer, request: Request) -> None:
    """Half of a body."""
    peer.send(head("Content-Length: 10") + b"first")
    peer.close()


def leaving(peer: Peer, request: Request) -> None:
    """A whole answer, and no more on this connection, of which it says nothing."""
    peer.send(answer())
    peer.close()


ROUTES = {"/slow": after(0.1), "/slower": after(0.3), "/half-closed": half_closed, "/leaving": leaving}


@pytest.mark.parametrize(("protocol", "library"), [("grpc", "httpx"), ("http/protobuf", "httpx2")])
def test_numbers_are_the_servers(protocol: str, library: str, collector: Collector, prometheus: Prometheus) -> None:
    """What Prometheus has in the end is what the server has seen, over either protocol, with either library."""
    endpoint = collector.grpc if protocol == "grpc" else collector.otlp
    settings = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    with Server(ROUTES) as server:
        dead = f"http://127.0.0.1:{free_port()}"
        arguments = [library, server.url("", host="localhost"), dead]
        options = instrumented(collector, library, "counted.py", *arguments, **settings)
        with subprocess.Popen(**options, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None and program.stdout is not None
            assert program.stdout.readline() == "kept\n"
            assert seen(server)["responses"] == {"localhost": 2}
            same(prometheus, library, server)
            print("close them", file=program.stdin, flush=True)
            # Now the server goes on with those two, and sees that nobody is there.
            server.go.set()
            until("the server has seen the last of them", lambda: seen(server)["responses"] == {"localhost": 0})
            same(prometheus, library, server)
            program.stdin.close()
        assert program.returncode == 0
        same(prometheus, library, server)


def same(prometheus: Prometheus, service: str, server: Server) -> None:
    """Wait until both say the same."""
    try:
        until("both say the same", lambda: told(prometheus, service) == seen(server), PATIENCE / 2)
    except AssertionError:
        assert told(prometheus, service) == seen(server)
        raise


def told(prometheus: Prometheus, service: str) -> dict[str, dict[str, float]]:
    """What Prometheus has of a service."""

    def get(metric: str, by: str, **labels: str) -> dict[str, float]:
        selected = ", ".join(f'{name}="{value}"' for name, value in {"job": service, **labels}.items())
        found = prometheus.query(f"sum by ({by}) ({metric}{{{selected}}})")
        return {one["metric"].get(by, ""): float(one["value"][1]) for one in found}

    waits = "http_client_request_time_in_queue_seconds"
    waited, briefly = get(f"{waits}_count", ""), get(f"{waits}_bucket", "", le="0.025")
    return {
        "reused": get("httptrace_requests_total", "http_conn_reused"),
        "failed": get("httptrace_requests_total", "httptrace_failed_phase"),
        "opened": get("httptrace_connections_opened_total", "httptrace_conn_open_reason"),
        "closed": get("httptrace_connections_closed_total", "httptrace_conn_close_reason"),
        "lifetimes": get("http_client_connection_duration_seconds_count", "httptrace_conn_close_reason"),
        "bodies": get("httptrace_bodies_total", "httptrace_body_outcome"),
        "lookups": get("dns_lookup_duration_seconds_count", "dns_question_name"),
        "waits": {"": waited.get("", 0) - briefly.get("", 0)},
        "connections": get("http_client_open_connections", "http_connection_state"),
        "responses": get("httptrace_responses_open", "server_address"),
        "spans": get("traces_span_metrics_calls_total", "", span_kind="SPAN_KIND_CLIENT"),
    }


def seen(server: Server) -> dict[str, dict[str, float]]:
    """What the server has seen; two of the requests were never sent, and it could not see those."""
    came = Counter(request.target for request in server.requests)
    gone = Counter(peer.requests[-1].target for peer in server.peers if peer.closed_by is not None)
    there = Counter(peer.requests[-1].target for peer in server.peers if peer.closed_by is None)
    early = came["/big"] + came["/?unread"] + gone["/half"]
    closed: dict[str, float] = {
        "body_not_read": early,
        "request_failed": came["/half-closed"],
        "client_closed": came["/?another"],
    }
    if gone["/"]:
        closed["client_closed"] += gone["/"]
    assert sum(closed.values()) == gone.total()
    # A request is counted once its response is over.
    finished = len(server.requests) - there["/half"]
    return {
        "reused": {"false": server.accepted - there["/half"], "true": len(server.requests) - server.accepted, "": 2},
        "failed": {"": finished, "pool": 1, "connect": 1},
        "opened": {
            "first_connection": 1,
            "body_not_read": came["/big"],
            "request_failed": came["/half-closed"],
            # And that of three, of which two had to wait.
            "new_client": came["/?another"] + 1,
            "all_busy": came["/half"],
        },
        "closed": closed,
        "lifetimes": closed,
        "bodies": {
            "complete": came["/"] + came["/?another"] + came["/slow"],
            "closed_early": early,
            "failed": came["/half-closed"],
        },
        "lookups": {"localhost": server.accepted},
        "waits": {"": came["/slow"] - 1 + 1},
        "connections": {"active": there["/half"], "idle": there["/"]},
        "responses": {"localhost": there["/half"]},
        "spans": {"": finished + 2},
    }


# Alarms.

#: By alert, which of the troubles of the program it is about: label and value.
TROUBLES = {
    "HTTPConnectionsNotReused": ("server_address", "unread.test"),
    "HTTPClientPerRequest": ("server_address", "clients.test"),
    "HTTPKeepaliveLimit": ("server_address", "keepalive.test"),
    "HTTPServerClosesIdle": ("server_address", "idle.test"),
    "HTTPStaleConnections": ("severity", "ticket"),
    "HTTPConnectsFail": ("server_address", "refused.test"),
    "HTTPRequestsFail": ("server_address", "stale.test"),
    "HTTPPoolTimeouts": ("server_address", "timeouts.test"),
    "HTTPPoolWaits": ("server_address", "waits.test"),
    "HTTPBodiesClosedEarly": ("httptrace_body_closed_at", "the marked line"),
    "HTTPResponsesLeaked": ("server_address", "leaked.test"),
    "HTTPBodiesFail": ("server_address", "broken.test"),
    "HTTPRequestsCancelled": ("severity", "ticket"),
    "DNSLookupsPerRequest": ("severity", "ticket"),
    "DNSLookupsSlow": ("dns_question_name", "lookups.test"),
}


def firing(prometheus: Prometheus, service: str, ever: bool = False) -> set[tuple[str, str, str]]:
    """The alerts that fire for a service now, or that *ever* have: name, and the label that says where."""
    alerts = f'ALERTS{{alertstate="firing", job="{service}"}}'
    found = [one["metric"] for one in prometheus.query(f"last_over_time({alerts}[1h])" if ever else alerts)]
    return {(one["alertname"], where, one.get(where, "")) for one in found for where, _ in [TROUBLES[one["alertname"]]]}


def guided(prometheus: Prometheus, alert: str, where: str, value: str) -> bool:
    """Whether a query of the story that an alert leads to has data, about what the alert is about."""
    number = RULES[alert]["annotations"]["runbook"].rpartition("-")[2]
    (guide,) = [story.guide for story in STORIES if story.number == int(number)]
    asked = (guide.asked(Thresholds(), "shop", fired=fired) for fired in (False, True))
    series = [one["metric"] for query in chain(*asked) for one in prometheus.query(query.replace("[5m]", "[4s]"))]
    return any(where == "severity" or one.get(where) == value for one in series)


def test_alerts_fire_and_end(collector: Collector, prometheus: Prometheus) -> None:
    """Each alert fires for what is wrong and its runbook finds that; it ends with it, and never fires for the control."""
    program = (ROOT / "tests/backends/programs/trouble.py").read_text().splitlines()
    (line,) = [number for number, text in enumerate(program, 1) if "# <- closed here" in text]
    troubles = {**TROUBLES, "HTTPBodiesClosedEarly": ("httptrace_body_closed_at", f"trouble.py:{line} in unread")}
    expected = {(alert, *where) for alert, where in troubles.items()}
    names = [*re.findall(r"^@trouble\ndef (\w+)", "\n".join(program), re.MULTILINE), "cancelled"]
    # A lookup takes a while for one of them.
    resolver = json.dumps({f"{name}.test": [1.2 if name == "lookups" else 0, ["127.0.0.1"]] for name in names})
    with Server(ROUTES) as server:
        command: list[str | Path] = [
            ROOT / "tests/stories/resolver.py",
            "trouble.py",
            str(server.port),
            str(free_port()),
        ]
        programs: dict[str, list[str]] = {"shop": [], "calm": ["--right"]}
        shop, calm = (
            subprocess.Popen(
                **instrumented(collector, service, *command, *options, RESOLVER=resolver), stdin=subprocess.PIPE
            )
            for service, options in programs.items()
        )
        with shop, calm:
            assert shop.stdin is not None
            try:
                until("all alerts fire", lambda: expected <= firing(prometheus, "shop", ever=True))
                for alert, (where, value) in troubles.items():
                    # Whoever is woken finds in the guide what has woken them.
                    until(f"the guide finds {alert}", partial(guided, prometheus, alert, where, value))
                print("do it right", file=shop.stdin, flush=True)
                until("no alert fires any more", lambda: not firing(prometheus, "shop"))
                # It has sent as many requests meanwhile, or more.
                # The last that was scraped: where one scrape takes too long, for a moment there is nothing.
                sent = prometheus.value('sum(last_over_time(httptrace_requests_total{job="calm"}[1h]))')
                assert sent is not None and sent > 100
                assert firing(prometheus, "calm", ever=True) == set()
            finally:
                print("never fired:", sorted(expected - firing(prometheus, "shop", ever=True)))
                print("fire now:", sorted(firing(prometheus, "shop")))
    assert (shop.returncode, calm.returncode) == (0, 0)
    # Of those on servers: tests/backends/test_servers.py.
    assert [rule["alert"] for rule in GROUPS[0] if "alert" in rule] == list(TROUBLES)
