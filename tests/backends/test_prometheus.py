"""What the real collector hands on to a real Prometheus is what servers saw, and the alerts on it fire and end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.programs import BACKENDS, CONFIGS

ALERTS = (CONFIGS / "alerts.yaml").read_text()
TESTS = (CONFIGS / "alerts.test.yaml").read_text()
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS)["groups"] for rule in group["rules"] if "alert" in rule
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What Prometheus' own tool says."""
    command = [str(BACKENDS / "bin/promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


# The rules, as files.


def test_files_are_valid() -> None:
    """Prometheus takes its config and the rules, and the rules pass their own tests."""
    for arguments in (
        ("check", "config", CONFIGS / "prometheus.yaml"),
        ("check", "rules", CONFIGS / "alerts.yaml"),
        ("test", "rules", CONFIGS / "alerts.test.yaml"),
    ):
        found = promtool(*arguments)

        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("alert", RULES)
def test_alert_has_its_test(alert: str) -> None:
    """Each alert is tested where it fires for one of several services, and before its time is over for none."""
    (test,) = [test for test in yaml.safe_load(TESTS)["tests"] if test["name"] == alert]
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

    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert "$labels.job" in rule["annotations"]["summary"]
    assert anchor is not None
    assert 1 <= int(anchor[1]) <= 15
    row = f"| `{alert}` | .* | {rule['labels']['severity']} | .*story-{anchor[1]}\\) \\|"
    assert re.search(row.replace("| ", r"\| "), (CONFIGS / "README.md").read_text())


#: In an expression: a metric, a label, a value or one of several, a comparison.
PARTS = re.compile(r'[a-z]\w+(?=[\[{ ]*[\[{])|\w+(?=(?:=|!)~?")|(?<==")\w+(?=")|(?<=["|])\w+(?=[|"])| > ')


def mutants() -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rules of which one has a mistake, and the tests that are about it."""
    (group,) = yaml.safe_load(ALERTS)["groups"]
    records = [rule for rule in group["rules"] if "record" in rule]
    tests = {test["name"]: test for test in yaml.safe_load(TESTS)["tests"]}
    for wrong in group["rules"]:
        concerned = [rule for rule in RULES.values() if rule == wrong or wrong.get("record", "alert") in rule["expr"]]
        for part in PARTS.finditer(wrong["expr"]):
            mistake = " < " if part[0] == " > " else part[0][:-1]
            mutant = {**wrong, "expr": wrong["expr"][: part.start()] + mistake + wrong["expr"][part.end() :]}
            rules = [mutant if rule == wrong else rule for rule in (*records, *concerned)]
            yield rules, [tests[rule["alert"]] for rule in concerned]


def test_mistake_in_a_rule_is_found(tmp_path: Path) -> None:
    """With a metric, label or value misspelt in any rule, or a comparison the wrong way round, the rules' tests fail."""
    files, expressions = [], []
    for number, (rules, tests) in enumerate(mutants()):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump({"groups": [{"name": "wrong", "rules": rules}]}))
        files.append(tmp_path / f"{number}.test.yaml")
        files[-1].write_text(yaml.safe_dump({"rule_files": [f"{number}.yaml"], "tests": tests}))
        expressions.append([rule["expr"] for rule in rules])
    said = promtool("test", "rules", *files)
    passed = [number for number, part in enumerate(said.stdout.split("Unit Testing:")[1:]) if "SUCCESS" in part]

    assert len(files) > 80
    assert said.stdout.count("Unit Testing:") == len(files)
    assert [expressions[number] for number in passed] == []
