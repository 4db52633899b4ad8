"""Settings: keywords, then the environment, then the defaults; what a wrong value does."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import httpx
import pytest
from kit.server import Server
from kit.telemetry import Telemetry, attributes

from otel_httptrace import environment_variables
from otel_httptrace.config import Config

DEFAULTS = {
    "spans": "connection",
    "span_end": "body",
    "code_location": True,
    "max_origins": 1000,
    "app_packages": (),
    "libraries": (),
}


def test_defaults_are_those_of_the_contract() -> None:
    """The defaults are the contract's."""
    assert dataclasses.asdict(Config.load({}, {})) == DEFAULTS
    assert dataclasses.asdict(Config()) == DEFAULTS


def test_every_setting_has_its_variable() -> None:
    """Each keyword has the variable of the same name."""
    assert {name for name in vars(environment_variables) if name.startswith("OTEL_")} == {
        f"OTEL_PYTHON_HTTPTRACE_{name.upper()}" for name in DEFAULTS
    }
    for name in vars(environment_variables):
        if name.startswith("OTEL_"):
            assert getattr(environment_variables, name) == name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("spans", "none", "none"),
        ("spans", " ALL ", "all"),
        ("span_end", "headers", "headers"),
        ("code_location", "false", False),
        ("code_location", "0", False),
        ("code_location", "True", True),
        ("max_origins", "5", 5),
        ("app_packages", "one, two,", ("one", "two")),
        ("app_packages", "", ()),
        ("spans", "", "connection"),
    ],
)
def test_a_variable_is_read_as_its_kind(name: str, text: str, value: object) -> None:
    """A variable is read as its kind; an empty one counts as not set."""
    config = Config.load({f"OTEL_PYTHON_HTTPTRACE_{name.upper()}": text}, {})
    assert dataclasses.asdict(config) == {**DEFAULTS, name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spans", "all"),
        ("span_end", "headers"),
        ("code_location", False),
        ("max_origins", 7),
        ("app_packages", ("mine",)),
    ],
)
def test_a_keyword_wins(name: str, value: object) -> None:
    """A keyword wins over its variable, whatever that says."""
    config = Config.load({f"OTEL_PYTHON_HTTPTRACE_{name.upper()}": "nonsense, 5"}, {name: value})
    assert dataclasses.asdict(config) == {**DEFAULTS, name: value}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("spans", "some", "none, connection, all"),
        ("spans", 1, "none, connection, all"),
        ("span_end", "tail", "body, headers"),
        ("code_location", "perhaps", "true, false"),
        ("code_location", 2, "true, false"),
        ("max_origins", 0, "positive integer"),
        ("max_origins", -1, "positive integer"),
        ("max_origins", "many", "positive integer"),
        ("max_origins", True, "positive integer"),
        ("max_origins", 1.5, "positive integer"),
        ("app_packages", 5, "list of package names"),
        ("app_packages", [1], "list of package names"),
    ],
)
def test_a_wrong_keyword_is_a_value_error(bare_telemetry: Telemetry, name: str, value: object, allowed: str) -> None:
    """A keyword's wrong value is a `ValueError` that names it and what is allowed, and nothing is turned on."""
    with pytest.raises(ValueError, match=allowed) as raised:
        bare_telemetry.instrument(**{name: value})
    assert f"{name}={value!r}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("spans", "some"), ("span_end", "tail"), ("code_location", "perhaps"), ("max_origins", "0"), ("max_origins", "x")],
)
def test_a_wrong_variable_is_a_warning_and_the_default(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A variable's wrong value is one warning, and the default: a typo must not stop a deployment."""
    variable = f"OTEL_PYTHON_HTTPTRACE_{name.upper()}"
    config = Config.load({variable: text}, {})

    assert dataclasses.asdict(config) == DEFAULTS
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{variable}={text!r}" in record.getMessage()


def test_the_environment_is_read_when_it_is_turned_on(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`instrument()` without keywords takes what the environment says."""
    monkeypatch.setenv("OTEL_PYTHON_HTTPTRACE_SPANS", "none")
    bare_telemetry.instrument()
    with httpx.Client() as client:
        client.get(server.url())

    assert bare_telemetry.tree(bare_telemetry.request()) == []


def test_a_failed_start_can_be_tried_again(server: Server, bare_telemetry: Telemetry) -> None:
    """After a `ValueError` a correct `instrument()` works."""
    with pytest.raises(ValueError, match="spans"):
        bare_telemetry.instrument(spans="some")
    bare_telemetry.instrument(spans="none")
    with httpx.Client() as client:
        client.get(server.url())

    assert attributes(bare_telemetry.request())["httptrace.body.outcome"] == "complete"


def test_names_in_the_environment_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of another instrumentation is none of ours."""
    assert dataclasses.asdict(Config.load({"OTEL_PYTHON_HTTPX_SPANS": "all"}, {})) == DEFAULTS


def test_a_config_cannot_be_changed() -> None:
    """A config cannot be changed once it is in use."""
    config: Any = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.spans = "all"
