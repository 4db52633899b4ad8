"""What collector-config/ ships is what the collector takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from kit.programs import BACKENDS, CONFIGS, Collector, Prometheus, free_port, until

COLLECTORS = ("local.yaml", "agent.yaml", "gateway.yaml")


def validated(config: Path) -> subprocess.CompletedProcess[str]:
    """What the collector says of *config*."""
    command = [str(BACKENDS / "bin/otelcol"), "validate", f"--config=file:{config}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("name", COLLECTORS)
def test_config_is_valid(name: str) -> None:
    """The real collector has nothing to say against a config that is shipped."""
    found = validated(CONFIGS / name)

    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "over"), [*((name, None) for name in COLLECTORS), ("local.yaml", "compose/collector.yaml")]
)
def test_nothing_is_deprecated(name: str, over: str | None) -> None:
    """A collector that starts with a config that is shipped does not warn that something in it has another name now."""
    sets = yaml.safe_load((CONFIGS / over).read_text()) if over else None
    with Collector(name, sets, GATEWAYS=f"[127.0.0.1:{free_port()}]") as collector:
        until("it says that it is ready", lambda: "Everything is ready" in collector.log)

        assert [line for line in collector.log.splitlines() if "deprecated" in line] == []


@pytest.mark.parametrize("name", COLLECTORS)
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("batch:\n", "batsch:\n", "batsch"),
        ("timeout:", "timeuot:", "timeuot"),
        ("receivers: [otlp", "receivers: [oltp", "oltp"),
    ],
)
def test_mistake_is_found(name: str, right: str, wrong: str, said: str, tmp_path: Path) -> None:
    """A component, a key or a pipeline's member that is misspelt is no valid config."""
    text = (CONFIGS / name).read_text()
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong, 1))

    found = validated(tmp_path / name)

    assert found.returncode == 1
    assert said in found.stderr


def test_alerts_on_collectors() -> None:
    """The rules about collectors pass their own tests, in each of which the alert fires."""
    command = [str(BACKENDS / "bin/promtool"), "test", "rules", str(CONFIGS / "alerts.collectors.test.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    (group,) = yaml.safe_load((CONFIGS / "alerts.collectors.yaml").read_text())["groups"]
    tests = yaml.safe_load((CONFIGS / "alerts.collectors.test.yaml").read_text())["tests"]

    assert found.returncode == 0, found.stdout + found.stderr
    assert [test["name"] for test in tests] == [rule["alert"] for rule in group["rules"]]
    assert all(test["alert_rule_test"][-1]["exp_alerts"] for test in tests)


def test_collector_that_is_away(tmp_path: Path) -> None:
    """A Prometheus with the config that is shipped raises the alarm for a collector that is gone, and for none that is there."""
    config = (CONFIGS / "prometheus.yaml").read_text().replace("15s", "250ms")
    rules = (CONFIGS / "alerts.collectors.yaml").read_text().replace("for: 5m", "for: 1s")
    (tmp_path / "alerts.collectors.yaml").write_text(rules)
    with Collector("local.yaml") as collector:
        with Prometheus(config.replace("127.0.0.1:8888", collector.own_address), tmp_path) as prometheus:
            until("it answers", lambda: prometheus.value('up{job="collector"}') == 1)
            assert prometheus.firing() == {}
            collector.stop()
            found = until("the alert fires", lambda: prometheus.firing().get("CollectorDown"))

    assert found["instance"] == collector.own_address


def test_series_are_alike() -> None:
    """What becomes a metric is the same at one collector and at many: dashboards and alerts fit both."""
    local, agent, gateway = (yaml.safe_load((CONFIGS / name).read_text()) for name in COLLECTORS)
    process = "transform/process"

    # By service and not by process: tests/backends/test_scale.py.
    assert gateway["connectors"]["spanmetrics"].pop("resource_metrics_key_attributes")
    assert gateway["connectors"] == local["connectors"]
    assert agent["processors"][process] == local["processors"][process]
    assert all(process in config["service"]["pipelines"]["metrics"]["processors"] for config in (local, agent))


@pytest.mark.parametrize("name", ["agent.yaml", "gateway.yaml"])
def test_memory_is_limited_first(name: str) -> None:
    """Whatever comes in from outside meets the memory_limiter before anything else, in every pipeline that takes it."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    taking = [
        one for one in config["service"]["pipelines"].values() if set(one["receivers"]) & set(config["receivers"])
    ]

    assert len(taking) == 2
    assert [one["processors"][0] for one in taking] == ["memory_limiter", "memory_limiter"]


def test_nobody_gives_up() -> None:
    """Agents and gateways send again and again, without an end: longer than any outage that a test can wait for."""
    agent, gateway = (
        yaml.safe_load((CONFIGS / name).read_text())["exporters"] for name in ("agent.yaml", "gateway.yaml")
    )

    for exporter in (agent["loadbalancing"]["protocol"]["otlp"], gateway["otlp_grpc/traces"]):
        assert exporter["retry_on_failure"].get("enabled", True)
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"


def test_sampling_is_as_large_as_its_comments_say() -> None:
    """memory_limiter holds before num_traces does, and what was kept is remembered for as long as the comment says."""
    text = (CONFIGS / "gateway.yaml").read_text()
    sampling = yaml.safe_load(text)["processors"]["tail_sampling"]
    mib, kib = re.search(r"The (\d+) MiB above", text), re.search(r"a trace of one span takes ([\d.]+) KiB", text)
    minutes = re.search(r"a tenth is kept these are (\d+) minutes", text)
    assert mib and kib and minutes

    assert sampling["num_traces"] > int(mib[1]) * 1024 / float(kib[1])
    assert sampling["decision_cache"]["sampled_cache_size"] // 100 // 60 == int(minutes[1])
