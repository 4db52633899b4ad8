"""What is built, and what this repository promises of itself."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import otel_httptrace
from otel_httptrace.instrumentor import HTTPTraceInstrumentor
from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_distribution_has_its_metadata() -> None:
    """The distribution has its name, licence, version and the oldest Python that it says."""
    metadata = distribution("otel-httptrace").metadata

    assert metadata["Version"] == otel_httptrace.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_entry_points_are_found() -> None:
    """`opentelemetry-instrument` finds the instrumentor, and the variables have their entry point."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="httptrace")
    assert found.load() is HTTPTraceInstrumentor
    (server,) = entry_points(group="opentelemetry_instrumentor", name="httptrace_server")
    assert server.load() is HTTPTraceServerInstrumentor
    (plugin,) = entry_points(group="pytest11", name="httptrace")
    assert plugin.value == "otel_httptrace.pytest_plugin"
    (variables,) = entry_points(group="opentelemetry_environment_variables", name="otel_httptrace")
    assert variables.value == "otel_httptrace.environment_variables"


def test_the_instrumented_path_depends_on_little() -> None:
    """Nothing but OpenTelemetry's own packages, `packaging` and `wrapt` is required; what is optional to the clients is not."""
    required = {re.split(r"[ <>=~!]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert required == {
        "opentelemetry-api",
        "opentelemetry-instrumentation",
        "opentelemetry-instrumentation-httpx",
        "packaging",
        "wrapt",
    }


def test_the_extra_says_what_the_instrumentor_says() -> None:
    """The extra that `opentelemetry-instrument` compares with what is installed is the instrumentor's own list, and servers."""
    told = PROJECT["project"]["optional-dependencies"]["instruments-any"]
    clients = HTTPTraceInstrumentor().instrumentation_dependencies()
    assert tuple(told[: len(clients)]) == tuple(clients)
    assert {Requirement(line).name for line in told[len(clients) :]} == {"gunicorn", "hypercorn", "uvicorn"}


def test_every_requirement_has_a_tested_lower_bound() -> None:
    """Everything that is required has a lower bound, and the tests run with just that version or say which instead."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    required = [Requirement(line) for line in (*project["dependencies"], *extras["cli"], *extras["instruments-any"])]
    locked = dict(re.findall(r"^([\w.-]+)==([^ ]+)", (ROOT / "requirements/oldest.txt").read_text(), re.MULTILINE))
    told = (ROOT / "requirements/oldest.in").read_text()

    bounds = {
        one.name: next((Version(it.version) for it in one.specifier if it.operator == ">="), None) for one in required
    }
    assert [name for name, bound in bounds.items() if bound != Version(locked[name])] == [
        name for name in bounds if re.search(rf"\b{name}\b", told)
    ]
    assert [name for name, bound in bounds.items() if bound is None] == []


def test_type_checkers_read_our_annotations() -> None:
    """Type checkers may read our annotations."""
    assert (Path(otel_httptrace.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_locked_distributions_have_hashes_and_no_addresses(path: Path) -> None:
    """Every pinned distribution has hashes, and no line names where to download it."""
    text = path.read_text()
    pinned = re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE | re.IGNORECASE)

    assert pinned
    assert "://" not in text and "--index-url" not in text
    assert len(re.findall(r"^[^ #\n].*==.* \\\n +--hash=sha256:", text, re.MULTILINE)) == len(pinned)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: str(path.relative_to(ROOT / "tests"))
)
def test_every_test_has_its_claim(path: Path) -> None:
    """Every test has a docstring of one line, which is what it claims."""
    tree = ast.parse(path.read_text())
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    without = [node.name for node in tests if not (ast.get_docstring(node) or "").strip()]
    longer = [node.name for node in tests if "\n" in (ast.get_docstring(node) or "").strip()]

    assert (without, longer) == ([], [])
