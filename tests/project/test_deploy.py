"""What collector-config/ deploys agrees with itself: addresses, ports, data sources; tests/backends asks real programs."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kit import contract
from packaging.requirements import Requirement

from otel_httptrace.server import names as served
from otel_httptrace.server.ledger import BETWEEN_REQUESTS, Reason
from otel_httptrace.telemetry import described, names
from otel_httptrace.version import __version__

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "collector-config"
KUBERNETES = CONFIGS / "kubernetes"
README = (CONFIGS / "README.md").read_text()
DEFAULTS = re.compile(r"\$\{env:(\w+):-([^}]*)\}")

#: Ports that programs have by themselves, here as in their documentation.
LISTENS = {
    "collector": {8888},
    "jaeger": {4317, 4318, 16686},
    "tempo": set[int](),
    "prometheus": {9090},
    "grafana": {3000},
}
#: What compose/tempo.yaml sets, spelt as in Tempo's documentation ("Configuration"): there is no Tempo here to ask.
TEMPO = {
    "server.http_listen_port",
    "distributor.receivers.otlp.protocols.grpc.endpoint",
    "ingester.max_block_duration",
    "compactor.compaction.block_retention",
    "storage.trace.backend",
    "storage.trace.wal.path",
    "storage.trace.local.path",
    "usage_report.reporting_enabled",
}


def keys(value: Any, above: str = "") -> Iterator[str]:
    """Every setting of a file, by its full name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys(inner, f"{above}.{key}" if above else key)
    else:
        yield above


def loaded(path: Path) -> Any:
    """A file of YAML."""
    return yaml.safe_load(path.read_text())


def texts(value: Any) -> Iterator[str]:
    """Every text in what a file says, without its comments."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def addresses(value: Any) -> Iterator[tuple[str, int]]:
    """Every host and port in it, but for those of the machine itself."""
    for text in texts(value):
        for host, port in re.findall(r"(?:^|//)([a-z][\w.-]*):(\d+)(?:/|$)", text):
            yield host, int(port)


def rows(table: str) -> Iterator[list[str]]:
    """The cells of each row that is about a name, without their marks."""
    for line in table.splitlines():
        if line.startswith("| `"):
            yield [cell.strip(" `") for cell in line.strip("|").split("|")]


def faults(configs: Path) -> list[str]:
    """What in compose.yaml, and in the files that it mounts, does not fit together."""
    services = loaded(configs / "compose.yaml")["services"]
    tempo = loaded(configs / "compose/tempo.yaml")
    listens = {name: set(ports) for name, ports in LISTENS.items()}
    for variable, value in services["collector"]["environment"].items():
        if variable.endswith("_ENDPOINT") and value.startswith("0.0.0.0:"):
            listens["collector"].add(int(value.removeprefix("0.0.0.0:")))
    listens["tempo"].add(tempo["server"]["http_listen_port"])
    for protocol in tempo["distributor"]["receivers"]["otlp"]["protocols"].values():
        listens["tempo"].add(int(protocol["endpoint"].removeprefix("0.0.0.0:")))

    found = [f"Tempo knows no {one}" for one in keys(tempo) if one not in TEMPO]
    sources = [services, *(loaded(path) for path in sorted((configs / "compose").rglob("*.yaml")))]
    for host, port in (address for source in sources for address in addresses(source)):
        if port not in listens.get(host, ()):
            found.append(f"nobody listens at {host}:{port}")
    for name, service in services.items():
        if not re.search(r":v?\d+\.\d+\.\d+$", service["image"]):
            found.append(f"{name} is of no version: {service['image']}")
        for port in service.get("ports", ()):
            published = re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-(\d+)\}:(\d+)", port)
            if published is None:
                found.append(f"{name} is open to others, or its port is not to be set: {port}")
            elif int(published[2]) not in listens[name]:
                found.append(f"{name} does not listen at {published[2]}")
    return found


def test_jaeger_ui() -> None:
    """What Jaeger's UI is to show first we do send, a reason that leads to the guide is one, and compose.yaml mounts it."""
    ui = json.loads((CONFIGS / "jaeger" / "jaeger-ui.json").read_text())
    sent = {one.name: one for one in described.REQUEST}
    reasons = {names.CONN_OPEN_REASON: set(described.REASONS), names.CONN_CLOSE_REASON: set(described.REASONS)}
    reasons |= {
        served.CONN_CLOSE_REASON: {reason.value for reason in Reason},
        served.LOST_CLOSE_REASON: {reason.value for reason in BETWEEN_REQUESTS},
    }
    service = loaded(CONFIGS / "compose.yaml")["services"]["jaeger"]

    every = contract.attributes()
    assert [prefix for prefix in ui["topTagPrefixes"] if not any(name.startswith(prefix) for name in every)] == []
    sentences, *patterns = ui["linkPatterns"]
    # A span's event is matched by the name of its attribute: utils/filter-spans.tsx.
    assert (sentences["type"], sentences["url"]) == ("traces", f"trace/#{{traceID}}?uiFind={names.MESSAGE}")
    for pattern in patterns:
        # The five that the UI reads; a value that none has would be a link that nobody sees.
        assert set(pattern) == {"type", "key", "value", "url", "text"}
        told = reasons.get(pattern["key"]) or set(re.findall(r"`(\w+)`", sent[pattern["key"]].meaning))
        assert pattern["value"] in told and pattern["type"] == "tags"
    assert service["volumes"] == ["./jaeger:/etc/jaeger:ro"]
    assert "--query.ui-config=/etc/jaeger/jaeger-ui.json" in service["command"]
    # Jaeger watches the folder.
    assert [path.name for path in (CONFIGS / "jaeger").iterdir()] == ["jaeger-ui.json"]


def test_compose_uses_known_addresses_and_fixed_versions() -> None:
    """In compose.yaml every address is one where somebody listens, every port this machine's own, every image of a version."""
    assert faults(CONFIGS) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "said"),
    [
        ("compose.yaml", "jaeger:4317", "jaeger:14317", "nobody listens at jaeger:14317"),
        ("compose.yaml", "TEMPO_ENDPOINT: tempo", "TEMPO_ENDPOINT: temp0", "nobody listens at temp0:4317"),
        ("compose.yaml", "all-in-one:1.62.0", "all-in-one:latest", "jaeger is of no version"),
        ("compose.yaml", "127.0.0.1:${GRAFANA", "${GRAFANA", "grafana is open to others"),
        ("compose.yaml", "-3200}:3200", "-3200}:3100", "tempo does not listen at 3100"),
        ("compose/tempo.yaml", "0.0.0.0:4317", "0.0.0.0:4319", "nobody listens at tempo:4317"),
        ("compose/tempo.yaml", "max_block_duration", "max_blok_duration", "no ingester.max_blok_duration"),
        ("compose/prometheus.yaml", "collector:8889", "collector:8890", "nobody listens at collector:8890"),
        ("compose/grafana/datasources.yaml", "tempo:3200", "tempo:3100", "nobody listens at tempo:3100"),
    ],
)
def test_a_wrong_address_port_or_version_is_found(name: str, right: str, wrong: str, said: str, tmp_path: Path) -> None:
    """An address, a port or a version that is wrong is found."""
    shutil.copytree(CONFIGS, tmp_path, dirs_exist_ok=True)
    text = (CONFIGS / name).read_text()
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong))

    (found, *_) = faults(tmp_path)

    assert said in found


def test_grafana_has_the_data_sources_of_the_dashboard() -> None:
    """Grafana's data sources are those that the dashboard asks for by itself, and each exemplar leads to one of them."""
    dashboard = json.loads((ROOT / "dashboards/httptrace.json").read_text())
    asked = {
        one["current"]["value"]: one["query"] for one in dashboard["templating"]["list"] if one["type"] == "datasource"
    }
    sources = loaded(CONFIGS / "compose/grafana/datasources.yaml")["datasources"]

    assert {one["uid"]: one["type"] for one in sources} == asked
    (exemplars,) = [one["jsonData"]["exemplarTraceIdDestinations"] for one in sources if one["uid"] == "prometheus"]
    assert [(one["name"], one["datasourceUid"]) for one in exemplars] == [("trace_id", "tempo"), ("trace_id", "jaeger")]


def test_grafana_shows_our_dashboard_first() -> None:
    """The folder that Grafana looks for dashboards in is where compose.yaml mounts ours, and its first page is ours."""
    (provider,) = loaded(CONFIGS / "compose/grafana/dashboards.yaml")["providers"]
    grafana = loaded(CONFIGS / "compose.yaml")["services"]["grafana"]
    mounted = f"{provider['options']['path']}/httptrace.json"

    assert f"../dashboards/httptrace.json:{mounted}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == mounted


def test_the_two_prometheus_configs_agree() -> None:
    """Compose's Prometheus does as the other, but for where the collector is, and as Grafana takes for granted."""
    text = (CONFIGS / "prometheus.yaml").read_text().replace("127.0.0.1:888", "collector:888")
    (source,) = [
        one for one in loaded(CONFIGS / "compose/grafana/datasources.yaml")["datasources"] if one["uid"] == "prometheus"
    ]
    config = loaded(CONFIGS / "compose/prometheus.yaml")

    assert config == yaml.safe_load(text)
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert "--enable-feature=exemplar-storage" in loaded(CONFIGS / "compose.yaml")["services"]["prometheus"]["command"]


#: The fields of an Instrumentation that are used here, as in the operator's definition of the resource.
FIELDS = {
    "exporter": {"endpoint"},
    "propagators": None,
    "sampler": {"type"},
    "python": {"image", "env", "resourceRequirements"},
}


def test_the_instrumentation_has_fields_that_the_operator_knows() -> None:
    """The Instrumentation has fields that the operator knows, the Dockerfile's image, and settings that somebody reads."""
    resource = loaded(KUBERNETES / "python/instrumentation.yaml")
    dockerfile = (KUBERNETES / "python/Dockerfile").read_text()

    for field, fields in FIELDS.items():
        assert fields is None or set(resource["spec"][field]) <= fields
    assert set(resource["spec"]) == set(FIELDS)
    assert f"docker build -t {resource['spec']['python']['image']} " in dockerfile
    known = importlib.metadata.entry_points(group="opentelemetry_environment_variables")
    names = {name for one in known for name in vars(one.load())}
    assert {one["name"] for one in resource["spec"]["python"]["env"]} <= names


def test_the_dockerfile_adds_this_version_to_the_operators_image() -> None:
    """The image is the operator's with this version added, where the operator copies from, with what it needs there."""
    dockerfile = (KUBERNETES / "python/Dockerfile").read_text()
    (operator,) = re.findall(r"^ARG OPERATOR=\S+:(\S+)$", dockerfile, re.MULTILINE)
    needed = [Requirement(one) for one in importlib.metadata.requires("otel-httptrace") or ()]
    (httpx,) = [one for one in needed if one.name == "opentelemetry-instrumentation-httpx"]

    assert re.findall(r"otel-httptrace(?:==|:)(\d[\w.]*)$", dockerfile, re.MULTILINE) == [__version__]
    assert f"httptrace:{__version__} " in dockerfile
    assert httpx.specifier.contains(operator, prereleases=True)
    assert re.findall(r"^COPY --from=build /added (\S+)$", dockerfile, re.MULTILINE) == [
        "/autoinstrumentation",
        "/autoinstrumentation-musl",
    ]


def test_the_example_names_the_instrumentation() -> None:
    """The example's annotation names the Instrumentation, and Kubernetes knows all its fields."""
    example = loaded(KUBERNETES / "python/example.yaml")
    resource = loaded(KUBERNETES / "python/instrumentation.yaml")["metadata"]

    kubernetes_validate.validate(example, "1.35", strict=True)
    assert example["spec"]["template"]["metadata"]["annotations"] == {
        "instrumentation.opentelemetry.io/inject-python": f"{resource['namespace']}/{resource['name']}"
    }


def test_applications_send_to_the_agents_port() -> None:
    """What is injected into applications sends to a port that the agent has on the node."""
    endpoint = loaded(KUBERNETES / "python/instrumentation.yaml")["spec"]["exporter"]["endpoint"]
    (agent,) = [
        one for one in yaml.safe_load_all((KUBERNETES / "agent.yaml").read_text()) if one["kind"] == "DaemonSet"
    ]
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    opened = {port["name"]: port["hostPort"] for port in container["ports"] if "hostPort" in port}

    # The operator's default protocol is OTLP over HTTP.
    assert endpoint == f"http://$(OTEL_NODE_IP):{opened['otlp-http']}"
    assert opened == {"otlp-grpc": 4317, "otlp-http": 4318}


def test_every_deployment_has_the_tested_collector() -> None:
    """Wherever a collector is deployed, it is of the version that the tests run."""
    (image,) = loaded(CONFIGS / "kustomization.yaml")["images"]
    tested = loaded(ROOT / "tools/backends/otelcol.yaml")["dist"]["version"]

    assert image["newTag"] == tested
    assert loaded(CONFIGS / "compose.yaml")["services"]["collector"]["image"] == f"{image['name']}:{tested}"


def test_the_readme_has_every_variable_of_the_configs() -> None:
    """The README's table has every variable of the collectors' configs, each with its default."""
    table = README.partition("<!-- variables -->")[2].partition("\n\n")[0]
    names = ("local.yaml", "agent.yaml", "gateway.yaml")
    said = {
        name: {row[0]: row[number + 1] for row in rows(table) if row[number + 1]} for number, name in enumerate(names)
    }

    assert said == {name: dict(DEFAULTS.findall((CONFIGS / name).read_text())) for name in names}
    assert list(dict(DEFAULTS.findall((CONFIGS / "compose/collector.yaml").read_text()))) == ["TEMPO_ENDPOINT"]


def test_names_of_own_metrics() -> None:
    """Every metric of a collector that a config or docs/scale.md names is in the README's table, by its full name."""
    table = README.partition("<!-- own metrics -->")[2].partition("\n\n")[0]
    known = {row[0] for row in rows(table)}
    files = [*CONFIGS.rglob("*.yaml"), ROOT / "docs/scale.md"]
    named = {(path.name, name) for path in files for name in re.findall(r"otelcol_\w+", path.read_text())}

    assert {"agent.yaml", "gateway.yaml", "scale.md"} <= {name for name, _ in named}
    assert {one for one in named if one[1] not in known} == set()


def test_the_gateway_allows_the_measured_memory_of_a_trace() -> None:
    """What gateway.yaml says a waiting trace takes is what was measured for docs/scale.md."""
    text = " ".join((CONFIGS / "gateway.yaml").read_text().replace("#", "").split())
    (five,) = re.findall(r"15 s of 1 000 traces/s of five spans take (\d+) MiB", text)
    said = re.findall(r"(\d+) KiB a trace|about (\d \d+) such traces/s|a trace of one span takes ([\d.]+) KiB", text)
    each, rate, one = (float("".join(found).replace(" ", "")) for found in said)
    kinds = json.loads((ROOT / "docs/scale.json").read_text())["fleet"]["kinds"]

    def mib(kind: str) -> float:
        """For a thousand traces a second."""
        steady = kinds[kind]["steady"]
        traces = steady["rate"] / kinds[kind]["spans_per_request"]
        return float((steady["peak"]["gateway"] - steady["idle"]["gateway"]) * 2 / traces * 1000)

    # Of gateways there are two, and memory differs between runs.
    assert float(five) == pytest.approx(mib("unread"), rel=0.1)
    assert each == pytest.approx(mib("unread") / 15_000 * 1024, rel=0.1)
    assert rate == pytest.approx((768 - kinds["unread"]["steady"]["idle"]["gateway"]) / mib("unread") * 1000, rel=0.1)
    assert one == pytest.approx(mib("ours") / 15_000 * 1024, rel=0.1)


def test_the_readme_has_every_port_of_compose() -> None:
    """The README has the variable of every port that compose.yaml opens, with its default."""
    opened = re.findall(r"\$\{(\w+_PORT):-(\d+)\}", (CONFIGS / "compose.yaml").read_text())

    assert sorted(re.findall(r"`([A-Z_]+_PORT)` \((\d+)\)", README)) == sorted(opened)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!https?:)[^)#]+)", README))))
def test_links_of_the_configs_readme_lead_somewhere(link: str) -> None:
    """Each file that the README of the configs points to is there."""
    assert (CONFIGS / link).exists()


def test_every_file_is_told_of() -> None:
    """No config is without a word in the README."""
    there = {path.name for path in CONFIGS.iterdir() if path.is_file()} - {"README.md"}

    assert there <= set(re.findall(r"\]\(([\w.]+)\)", README))
