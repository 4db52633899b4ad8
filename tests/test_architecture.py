"""Who may import whom: `adapters -> core <- telemetry`, joined only in the instrumentor."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_httptrace

ROOT = Path(otel_httptrace.__file__).parent
#: The parts of the library proper; the report, the demo and the command line are programs beside it.
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] in ("core", "adapters", "telemetry", "callsite.py", "config.py", "guard.py")
)


def imports(path: Path) -> Iterator[str]:
    """What a module imports: of our own ``.core.ledger``, of others the top-level name."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = [*package, "_"][: len(package) + 1 - node.level]
            where = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if node.module:
                yield f".{where}"
            else:
                yield from (f".{'.'.join([*base, alias.name])}" for alias in node.names)


def part(name: str) -> str:
    """The part of the package that a module of ours belongs to."""
    return name.lstrip(".").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    """Each module imports only what its part may."""
    own = part(str(path.relative_to(ROOT)).replace("/", ".").removesuffix(".py"))
    for name in imports(path):
        ours = name.startswith(".")
        if own == "core":
            assert part(name) == "core" if ours else name in sys.stdlib_module_names, name
        elif own == "adapters":
            assert not ours or part(name) in ("adapters", "core", "guard", "callsite"), name
            assert name != "opentelemetry", "telemetry is not the adapters' business"
        elif own == "telemetry":
            assert not ours or part(name) in ("telemetry", "core", "config", "guard"), name
            assert ours or name in sys.stdlib_module_names or name == "opentelemetry", name
        else:
            assert ours is False or part(name) in ("environment_variables",), name
            assert ours or name in sys.stdlib_module_names, name


def test_only_the_instrumentor_joins_them() -> None:
    """Of what runs in the application, no module but `instrumentor.py` imports both adapters and telemetry."""
    joining = []
    beside = ("cli", "report", "demo")
    for path in (path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in beside):
        parts = {part(name) for name in imports(path) if name.startswith(".")}
        if {"adapters", "telemetry"} <= parts:
            joining.append(path.name)
    assert joining == ["instrumentor.py"]


def test_the_core_reads_no_clock() -> None:
    """Time is data: the core imports neither `time` nor `socket`, `ssl`, `asyncio`, `contextvars`."""
    for path in MODULES:
        if path.parent.name == "core":
            assert not {"time", "datetime", "socket", "ssl", "asyncio", "contextvars", "sys"} & set(imports(path)), path


def test_private_names_live_in_one_place() -> None:
    """Private attributes of other libraries are touched in `seams.py` only."""
    offenders = []
    for path in MODULES:
        if path.parent.name != "adapters" or path.name == "seams.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ):
                offenders.append(f"{path.name}: {ast.unparse(node)}")
    # The standard library's own way to ask for a loop without raising, and for a frame.
    assert set(offenders) <= {"resolver.py: asyncio._get_running_loop", "observer.py: sys._getframe"}
