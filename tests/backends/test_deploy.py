"""What collector-config/ deploys is what the programs take that it is for: Compose's own reader, the collector, promtool."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest
import yaml
from kit import injected
from kit.command import INSTRUMENTED
from kit.manifests import Deployment, configs, environment, named, ports
from kit.programs import BACKENDS, CONFIGS, ROOT, Collector, Jaeger, backends, free_port, until
from kit.store import Store

#: What is sent: OTLP as JSON.
SPAN = {
    "spanId": "b7ad6b7169203331",
    "name": "GET",
    "kind": "SPAN_KIND_CLIENT",
    "attributes": [{"key": "http.conn.reused", "value": {"boolValue": True}}],
}
#: The oldest and the newest that the manifests are for.
KUBERNETES = ("1.29", "1.35")
#: As a Prometheus of version 3 asks.
ANY_NAME = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5"


def said(program: str, *arguments: str | Path, **environ: str) -> tuple[int, str]:
    """How *program* ended, and all that it said."""
    ran = subprocess.run(
        [str(BACKENDS / "bin" / program), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def composed(file: Path) -> dict[str, Any]:
    """What Docker Compose makes of *file*."""
    code, text = said("compose", file)
    assert code == 0, text
    project: dict[str, Any] = json.loads(text)
    for name, service in project["services"].items():
        for mount in service.get("volumes", ()):
            # Docker would make a folder of what is not there.
            assert mount["type"] != "bind" or Path(mount["source"]).exists(), f"{name}: no file {mount['source']}"
    return project


def laid_out(service: Mapping[str, Any], folder: Path) -> None:
    """Put into *folder* the files of the container."""
    for mount in service["volumes"]:
        if mount["type"] == "bind":
            target = folder / mount["target"].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            copied = shutil.copytree if Path(mount["source"]).is_dir() else shutil.copy
            copied(mount["source"], target)


def inside(folder: Path, arguments: list[str]) -> list[str]:
    """The container's *arguments*, with *folder* for its root."""
    return [argument.replace("=/", f"=file:{folder}/") for argument in arguments]


def sent(collector: Collector, number: int = 1) -> None:
    """The span of a trace of its own, which began now, has been sent."""
    now = str(time.time_ns())
    span = {**SPAN, "traceId": f"{number:032x}", "startTimeUnixNano": now, "endTimeUnixNano": now}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "deployed"}}]}
    spans = {"resource": resource, "scopeSpans": [{"spans": [span]}]}
    collector.http.post(f"{collector.otlp}/v1/traces", json={"resourceSpans": [spans]}).raise_for_status()


def test_compose_accepts_its_file_and_every_mount_exists() -> None:
    """Compose's own reader has nothing to say against compose.yaml, and every file that it mounts is there."""
    assert set(composed(CONFIGS / "compose.yaml")["services"]) == {
        "collector",
        "jaeger",
        "tempo",
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        ("restart:", "restrat:", r"services\.collector\.restrat false schema"),
        ("${GRAFANA_PORT:-3000}", "${GRAFANA_PORT}", r'The "GRAFANA_PORT" variable is not set'),
        ("${GRAFANA_PORT:-3000}", "${GRAFANA_PORT:-3000", "invalid"),
        ("depends_on: [collector]", "depends_on: [colector]", 'depends on undefined service "colector"'),
        ("- prometheus:/prometheus", "- promeths:/prometheus", "refers to undefined volume promeths"),
        ("./compose/tempo.yaml", "./compose/tempo.yml", "tempo: no file .*/compose/tempo.yml"),
    ],
)
def test_a_mistake_in_compose_yaml_is_found(right: str, wrong: str, what: str, tmp_path: Path) -> None:
    """A key that is misspelt, a variable without a value, a service, a volume or a file that is not there is found."""
    folder = shutil.copytree(CONFIGS, tmp_path / "collector-config")
    shutil.copytree(ROOT / "dashboards", tmp_path / "dashboards")
    text = (CONFIGS / "compose.yaml").read_text()
    assert right in text
    (folder / "compose.yaml").write_text(text.replace(right, wrong, 1))

    with pytest.raises(AssertionError, match=what):
        composed(folder / "compose.yaml")


def test_the_collector_takes_the_configs_of_compose(tmp_path: Path) -> None:
    """The collector takes the two configs that compose.yaml mounts, with the variables that are set there."""
    service = composed(CONFIGS / "compose.yaml")["services"]["collector"]
    laid_out(service, tmp_path)

    assert said("otelcol", "validate", *inside(tmp_path, service["command"]), **service["environment"]) == (0, "")


def test_prometheus_takes_the_config_of_compose(tmp_path: Path) -> None:
    """Prometheus takes its config, and the files that are named in it are mounted."""
    service = composed(CONFIGS / "compose.yaml")["services"]["prometheus"]
    laid_out(service, tmp_path)
    (config,) = [one.partition("=")[2] for one in service["command"] if one.startswith("--config.file=")]

    code, text = said("promtool", "check", "config", f"{tmp_path}{config}")

    assert code == 0, text


def test_both_get_the_traces() -> None:
    """With the second config laid over the first, each trace is in Jaeger and in the other backend."""
    jaeger, other = Jaeger(), Jaeger()
    overlay = yaml.safe_load((CONFIGS / "compose/collector.yaml").read_text())
    collector = Collector(
        "local.yaml", sets=overlay, TRACES_ENDPOINT=jaeger.grpc_address, TEMPO_ENDPOINT=other.grpc_address
    )
    with backends(jaeger, other, collector):
        sent(collector, 7)

        for backend in (jaeger, other):
            (trace,) = until("the trace", lambda: backend.traces("deployed"))  # noqa: B023 - called before the loop goes on
            assert int(trace["traceID"], 16) == 7


def test_prometheus_3_gets_the_same_names() -> None:
    """A Prometheus 3, which takes names with dots, is given the same names as one that does not."""
    with Collector("local.yaml", {"processors::batch::timeout": "100ms"}, SPANMETRICS_INTERVAL="200ms") as collector:
        sent(collector)

        def page(accepted: str) -> tuple[str, set[str]]:
            answer = collector.http.get(f"http://{collector.metrics_address}/metrics", headers={"Accept": accepted})
            labels = re.findall(r'[{,]"?([^=,{}"]+)"?=', answer.text)
            return answer.headers["content-type"], {*re.findall(r"^[^#{ ]+", answer.text, re.MULTILINE), *labels}

        until("metrics of the span", lambda: "traces_span_metrics_calls_total" in page("text/plain")[1])
        kind, names = page(ANY_NAME)

        assert "escaping=allow-utf-8" in kind
        assert {"http_conn_reused", "traces_span_metrics_duration_seconds_bucket"} <= names
        assert [name for name in names if "." in name] == []


def deployed(folder: Path) -> Deployment:
    """What kustomize makes of *folder*."""
    code, text = said("kustomize", "build", folder)
    assert code == 0, text
    return Deployment(list(yaml.safe_load_all(text)))


def test_kustomize_builds_manifests_that_fit_together() -> None:
    """Kustomize builds the manifests, and they fit together."""
    found = deployed(CONFIGS)

    assert found.faults() == []
    assert sorted(named(one) for one in found.objects if one["kind"] != "ConfigMap") == [
        "DaemonSet agent",
        "Namespace observability",
        "NetworkPolicy gateway",
        "PodDisruptionBudget gateway",
        "Service gateway",
        "ServiceAccount agent",
        "ServiceAccount gateway",
        "StatefulSet gateway",
    ]


def test_prometheus_in_the_cluster_scrapes_every_collector(tmp_path: Path) -> None:
    """A Prometheus in the cluster takes the jobs, and each keeps the one port that it is for of every collector's pod."""
    config = yaml.safe_load((CONFIGS / "kubernetes/prometheus.yaml").read_text())
    found = deployed(CONFIGS)
    (namespace,) = [one["metadata"]["name"] for one in found.of("Namespace")]

    for job, port in zip(config["scrape_configs"], ("metrics", "own-metrics"), strict=True):
        # Debian's Prometheus is built without it.
        (discovery,) = job.pop("kubernetes_sd_configs")
        assert (discovery["role"], discovery["namespaces"]["names"]) == ("pod", [namespace])
        keep = job["relabel_configs"][0]
        assert keep["source_labels"] == [
            "__meta_kubernetes_pod_label_app_kubernetes_io_part_of",
            "__meta_kubernetes_pod_container_port_name",
        ]
        for workload in found.workloads:
            template = workload["spec"]["template"]
            labels = template["metadata"]["labels"]["app.kubernetes.io/part-of"]
            kept = [one for one in ports(template["spec"]) if re.fullmatch(keep["regex"], f"{labels};{one}")]
            assert kept == [port], named(workload)
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    code, text = said("promtool", "check", "config", tmp_path / "prometheus.yaml")
    assert code == 0, text


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_have_only_fields_of_their_schemas(version: str) -> None:
    """Every object is what its schema says, with no field that it does not know."""
    for one in deployed(CONFIGS).objects:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "what"),
    [
        ("agent.yaml", "readinessProbe:", "readynessProbe:", "'readynessProbe' was unexpected"),
        ("gateway.yaml", "replicas: 2", 'replicas: "2"', "'2' is not of type 'integer'"),
        ("gateway.yaml", "maxUnavailable: 1", "maxUnavailabel: 1", "'maxUnavailabel' was unexpected"),
    ],
)
def test_mistake_against_a_schema(name: str, right: str, wrong: str, what: str) -> None:
    """A field that is misspelt or of another type is found."""
    text = (CONFIGS / "kubernetes" / name).read_text()
    assert right in text

    with pytest.raises(kubernetes_validate.ValidationError, match=what):
        for one in yaml.safe_load_all(text.replace(right, wrong, 1)):
            kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_each_pod_has_the_config_of_its_tier(name: str, tmp_path: Path) -> None:
    """The collector takes the config of each pod with the pod's variables, and it is the very file of the tier."""
    found = deployed(CONFIGS)
    (workload,) = [one for one in found.workloads if one["metadata"]["name"] == name]
    pod = workload["spec"]["template"]["spec"]
    ((path, text),) = configs(pod, found.objects).items()
    assert text == (CONFIGS / Path(path).name).read_text()
    (tmp_path / path.lstrip("/")).parent.mkdir(parents=True)
    (tmp_path / path.lstrip("/")).write_text(text)

    assert said("otelcol", "validate", *inside(tmp_path, pod["containers"][0]["args"]), **environment(pod)) == (0, "")


def test_kustomization_of_your_own(tmp_path: Path) -> None:
    """The README's kustomization, in a folder beside this one, changes what it says and leaves the rest fitting together."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL)
    shutil.copytree(CONFIGS, tmp_path / "collector-config")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(block)

    found = deployed(tmp_path / "mine")

    assert found.faults() == []
    (gateway,) = found.of("StatefulSet")
    assert gateway["spec"]["replicas"] == 3
    assert environment(gateway["spec"]["template"]["spec"])["TRACES_ENDPOINT"] == "tempo.tracing:4317"


@pytest.mark.parametrize(
    ("name", "right", "wrong", "what"),
    [
        ("kustomization.yaml", "files: [agent.yaml]", "files: [agnet.yaml]", "agnet.yaml"),
        ("kustomization.yaml", "labels:", "lables:", 'unknown field "lables"'),
        ("kustomization.yaml", "\nnamespace: observability", "", "is in no namespace that is made"),
        (
            "kubernetes/agent.yaml",
            "            name: agent",
            "            name: agnet",
            "no file /etc/otelcol/agent.yaml",
        ),
        ("kubernetes/agent.yaml", "otelcol/agent.yaml", "otelcol/agents.yaml", "no file /etc/otelcol/agents.yaml"),
        (
            "kubernetes/agent.yaml",
            "serviceAccountName: agent",
            "serviceAccountName: agents",
            "no service account agents",
        ),
        ("kubernetes/agent.yaml", "port: health", "port: metrics", "asks another port than health"),
        (
            "kubernetes/agent.yaml",
            "value: 0.0.0.0:13133",
            "value: 127.0.0.2:13134",
            "HEALTH_ENDPOINT is 127.0.0.2:13134",
        ),
        ("kubernetes/agent.yaml", "GATEWAYS", "GATEWAY", "no config asks for GATEWAY"),
        ("kubernetes/agent.yaml", 'value: "512"', 'value: "1024"', "680 MiB for a memory_limiter of 1024"),
        ("kubernetes/agent.yaml", "410MiB", "700MiB", "GOMEMLIMIT is 700MiB"),
        ("kubernetes/gateway.yaml", "replicas: 2", "replicas: 3", "and there are .*gateway-2.gateway:4317"),
        ("kubernetes/gateway.yaml", "serviceName: gateway", "serviceName: gateways", "has no headless service"),
        ("kubernetes/gateway.yaml", "clusterIP: None", "type: ClusterIP", "has no headless service"),
        ("kubernetes/gateway.yaml", "port: 4317\n", "port: 4318\n", "Service gateway: .* has no otlp-grpc at 4318"),
        ("kubernetes/gateway.yaml", "/name: agent\n", "/name: agents\n", "lets nobody in"),
        ("kubernetes/gateway.yaml", "port: own-metrics", "port: ownmetrics", "no port ownmetrics"),
        (
            "kubernetes/gateway.yaml",
            "fieldPath: metadata.name",
            "fieldPath: metadata.namespace",
            "GATEWAY_NAME is not the pod's own",
        ),
    ],
)
def test_a_mistake_in_the_manifests_is_found(name: str, right: str, wrong: str, what: str, tmp_path: Path) -> None:
    """A mistake is found by kustomize, or where two manifests do not fit together."""
    folder = shutil.copytree(CONFIGS, tmp_path / "collector-config")
    text = (CONFIGS / name).read_text()
    assert right in text
    (folder / name).write_text(text.replace(right, wrong, 1))

    with pytest.raises(AssertionError, match=what):
        assert deployed(folder).faults() == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Collector], None]:
    """A request by an application that has httpx and nothing else, injected into as by the operator."""
    folder = tmp_path_factory.mktemp("pod")
    python = injected.application(folder / "app", "httpx")
    injected.image(folder / "volume")
    resource = yaml.safe_load((CONFIGS / "kubernetes/python/instrumentation.yaml").read_text())

    def run(collector: Collector) -> None:
        # The node's port is another one here.
        resource["spec"]["exporter"]["endpoint"] = collector.otlp
        ran = subprocess.run(
            [python, "-c", f"import httpx\nprint(httpx.get({collector.health!r} + '/').status_code)"],
            env={**injected.environment(resource, folder / "volume", "127.0.0.1"), "OTEL_SERVICE_NAME": "shop"},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "200\n", "")

    return run


def test_an_application_that_was_injected_into_is_in_jaeger(run: Callable[[Collector], None]) -> None:
    """An application that was injected into is seen in Jaeger, with its pod, and no import of it fails."""
    jaeger = Jaeger()
    collector = Collector("local.yaml", TRACES_ENDPOINT=jaeger.grpc_address)
    with backends(jaeger, collector):
        run(collector)
        # Jaeger stores one span after the other.
        (trace,) = until(
            "the trace, with what is below the request",
            lambda: [
                trace
                for trace in jaeger.traces("shop", tags='{"http.conn.reused": "false"}')
                if "http.getconn" in {span["operationName"] for span in trace["spans"]}
            ],
        )

    (process,) = trace["processes"].values()
    assert "k8s.pod.name" in {tag["key"] for tag in process["tags"]}


def test_processes_of_a_pod(run: Callable[[Collector], None]) -> None:
    """Two processes of one container, to which the operator gives one service.instance.id, are two series at the agent."""
    agent = Collector("agent.yaml", {"processors::batch::timeout": "100ms"}, GATEWAYS=f"[127.0.0.1:{free_port()}]")
    opened = re.compile(r'^httptrace_connections_opened_total\{.*instance="(.*?)".*job="shop".*\} 1$', re.MULTILINE)
    with agent:
        run(agent)
        run(agent)
        found = until(
            "both",
            lambda: (
                len(series := opened.findall(agent.http.get(f"http://{agent.metrics_address}/metrics").text)) == 2
                and series
            ),
        )

    assert len(set(found)) == 2
    assert all(re.fullmatch(r"default\.shop-0\.shop:\d+", instance) for instance in found)


def test_service_to_look_at(tmp_path: Path) -> None:
    """The README's service for those who have none runs as it is written, and sends what the dashboard shows."""
    text = (CONFIGS / "README.md").read_text().partition("<!-- service -->")[2].partition("```\n\n")[0]
    (serve,) = re.findall(r"^\$ python (-m http\.server .*) &$", text, re.MULTILINE)
    (program,) = re.findall(r"-c '\n(.*)'\n", text, re.DOTALL)
    port = str(free_port())
    settings = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    unread = r'\{.*open_reason="body_not_read".*job="shop".*\} (\d+)'
    names = ("httptrace_connections_opened_total", "traces_span_metrics_calls_total")
    with Collector("local.yaml", SPANMETRICS_INTERVAL="1s") as collector, ExitStack() as stack:

        def started(*command: str) -> None:
            """It runs until the end."""
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env={
                        **settings,
                        "OTEL_SERVICE_NAME": "shop",
                        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
                        "OTEL_METRIC_EXPORT_INTERVAL": "500",
                    },
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)

        def counted() -> bool:
            page = collector.http.get(f"http://{collector.metrics_address}/metrics").text
            return all(sum(map(int, re.findall(name + unread, page))) > 5 for name in names)

        started(sys.executable, *serve.replace("8000", port).split())
        until("the server answers", lambda: answers(port))
        started(*INSTRUMENTED, "-c", program.replace("8000", port))
        until("its connections are counted", counted)


def answers(port: str) -> bool:
    """Whether somebody listens on this port of the loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port))):
        return True
    return False


def test_jaeger_of_one_machine() -> None:
    """The README's Jaeger is set by flags that it has, and takes OTLP where local.yaml sends it."""
    text = (CONFIGS / "README.md").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^\$ OTEL_TRACES_SAMPLER=always_off jaeger-all-in-one (.*)$", text, re.MULTILINE)
    flags = dict(one.removeprefix("--").split("=") for one in line.split())
    with Jaeger() as jaeger:
        known = {one.removeprefix("--").partition("=")[0] for one in jaeger._command[1:]}

    assert set(flags) <= known
    assert f":-{flags['collector.otlp.grpc.host-port']}}}" in (CONFIGS / "local.yaml").read_text()


def test_the_readme_names_metrics_that_collectors_have() -> None:
    """What the README says to look at is what collectors say of themselves, once it has happened."""
    table = (CONFIGS / "README.md").read_text().partition("<!-- own metrics -->")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(otelcol_\w+)` \| ([\w, ]+) \|", table, re.MULTILINE)
    away = f"127.0.0.1:{free_port()}"
    local = Collector(
        "local.yaml", sets={"exporters::otlp_grpc/traces::retry_on_failure::enabled": False}, TRACES_ENDPOINT=away
    )
    gateway = Collector(
        "gateway.yaml",
        # Each trace by itself, and a queue in which there is room for one.
        sets={"processors::batch": {"timeout": 0, "send_batch_size": 0, "send_batch_max_size": 0}},
        TRACES_ENDPOINT=local.grpc_address,
        QUEUE_SPANS="1",
        DECISION_WAIT="1s",
        KEEP_PERCENT="100",
    )
    agent = Collector("agent.yaml", GATEWAYS=f"[{gateway.grpc_address}]")
    full = Collector("agent.yaml", GATEWAYS=f"[{away}]", QUEUE_SPANS="1")
    store = Store(refuses=grpc.StatusCode.INVALID_ARGUMENT)
    refused = Collector("gateway.yaml", TRACES_ENDPOINT=store.address, DECISION_WAIT="1s", KEEP_PERCENT="100")
    collectors = {"local": (local,), "agent": (agent, full), "gateway": (gateway, refused)}
    expected = {
        (name, where) for name, places in told for where in (collectors if places == "all" else places.split(", "))
    }
    assert {where for _, where in expected} == set(collectors)
    metric = {"name": "one", "sum": {"aggregationTemporality": 2, "dataPoints": [{"asInt": "1"}]}}
    metrics = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}

    def missing() -> set[tuple[str, str]]:
        for number in range(20):
            sent(agent, number + 1)
        sent(full)
        sent(refused)
        for one in (local, agent):
            one.http.post(f"{one.otlp}/v1/metrics", json=metrics).raise_for_status()
        return expected - {(name, where) for where, some in collectors.items() for one in some for name in one.own()}

    with store, backends(local, gateway, agent, full, refused):
        with contextlib.suppress(AssertionError):
            until("all of them", lambda: not missing())
        assert missing() == set()
