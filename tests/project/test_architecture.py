"""Who may import whom: `adapters -> observe -> core <- telemetry`, joined only in the instrumentor."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import ClassVar

import pytest

import otel_httptrace
from otel_httptrace.clients import CLIENTS
from otel_httptrace.instrumentor import HTTPTraceInstrumentor
from otel_httptrace.observe.marks import KEY

ROOT = Path(otel_httptrace.__file__).parent
#: The parts of the library proper; the report, the demo and the command line are programs beside it.
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0]
    in ("core", "observe", "adapters", "telemetry", "server", "callsite.py", "config.py", "guard.py")
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
def test_modules_import_only_what_their_part_may(path: Path) -> None:
    """Each module imports only what its part may."""
    own = part(str(path.relative_to(ROOT)).replace("/", ".").removesuffix(".py"))
    for name in imports(path):
        ours = name.startswith(".")
        if own == "core":
            assert part(name) == "core" if ours else name in sys.stdlib_module_names, name
        elif own in ("observe", "adapters"):
            allowed = {"observe", "core", "guard", "callsite"} | (
                {"adapters", "clients"} if own == "adapters" else set()
            )
            assert not ours or part(name) in allowed, name
            assert name != "opentelemetry", "telemetry is not their business"
        elif own == "server":
            assert_server_may(path, name)
        elif own == "telemetry":
            assert not ours or part(name) in ("telemetry", "core", "clients", "config", "guard"), name
            assert ours or name in sys.stdlib_module_names or name == "opentelemetry", name
        else:
            assert ours is False or part(name) in ("environment_variables", "clients"), name
            assert ours or name in sys.stdlib_module_names, name


def assert_server_may(path: Path, name: str) -> None:
    """The server's half: a ledger that knows nothing, adapters that know their server, and telemetry of its own."""
    where = path.relative_to(ROOT / "server").parts
    if not name.startswith("."):
        allowed = {"opentelemetry", "wrapt"} if where[0] in ("telemetry.py", "instrumentor.py") else set()
        assert name in sys.stdlib_module_names | allowed, name
        clocks = {"time", "datetime", "socket", "ssl", "asyncio", "contextvars", "sys"}
        assert where[0] != "ledger.py" or name not in clocks, name
    elif part(name) == "server":
        assert where[0] != "ledger.py", name
        known = {"ledger", "watch", "adapters"}
        assert where[0] != "adapters" or name.split(".")[2] in known, name
    else:
        beside = (
            {"telemetry.units"}
            if where[0] in ("telemetry.py", "sentences.py")
            else {"telemetry.described"}
            if where[0] == "described.py"
            else {"version", "environment_variables"}
            if where[0] == "instrumentor.py"
            else set()
        )
        assert part(name) in ("observe", "guard") or name.lstrip(".") in beside, name


def test_only_the_instrumentor_joins_them() -> None:
    """Of what runs in the application, no module but `instrumentor.py` imports telemetry and what it is told by."""
    joining = []
    beside = ("cli", "report", "demo")
    for path in (path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in beside):
        parts = {part(name) for name in imports(path) if name.startswith(".")}
        if "telemetry" in parts and parts & {"observe", "adapters"}:
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
        if path.relative_to(ROOT).parts[0] not in ("observe", "adapters") and path.parent.parent.name != "server":
            continue
        if path.name == "seams.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                # Ours, which stands on their objects.
                and node.attr != KEY
                and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ):
                offenders.append(f"{path.name}: {ast.unparse(node)}")  # noqa: PERF401 - its condition is long
    # The standard library's own way to ask for a loop without raising, and for a frame.
    assert set(offenders) <= {"resolver.py: asyncio._get_running_loop", "observer.py: sys._getframe"}


def test_private_names_of_clients_are_no_strings_elsewhere() -> None:
    """Nor does an adapter of a client name a private attribute in a string, as a hook would, but in its `seams.py`."""
    offenders = [
        f"{path.relative_to(ROOT)}: {node.value}"
        for path in (ROOT / "adapters").rglob("*.py")
        if path.name != "seams.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"_[a-z]\w*", node.value)
    ]
    assert offenders == []


#: Where a client's name stands outside `adapters/` and `clients.py`, and why. No file is to be added; each that
#: becomes free of it has to go.
NAMES_A_CLIENT = {
    # They send HTTP requests themselves, with httpx, which the extra `cli` brings.
    "cli/__init__.py": "the extra's own list",
    "cli/commands/probe.py": "reads a URL",
    "cli/probing/plan.py": "has the URL",
    "cli/probing/requests.py": "sends the requests",
    "cli/probing/sockets.py": "trusts as httpx does",
    "report/verdicts/settings.py": "what each client calls what can be set",
    "report/forward.py": "sends to the user's backend",
    "report/sources/api.py": "asks Jaeger and Tempo",
    "demo/status_page.py": "the program with the fault",
}
CLIENT = re.compile(r"httpx|httpcore|urllib3|aiohttp", re.IGNORECASE)


def named_clients(path: Path) -> set[str]:
    """Where a module names a client, other than in prose: in a name, an import, or a text without blanks."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            texts = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            texts = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Name):
            texts = [node.id]
        elif isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            texts = [node.value]
        else:
            continue
        found |= {text for text in texts if CLIENT.search(text)}
    return found


def test_clients_are_named_in_one_place() -> None:
    """No module names a client library, but `clients.py`, the adapters, and those in the list above."""
    found = {
        str(path.relative_to(ROOT)): named_clients(path) for path in ROOT.rglob("*.py") if "adapters" not in path.parts
    }
    assert found.pop("clients.py")
    assert {path for path, names in found.items() if names} == set(NAMES_A_CLIENT)


def test_each_client_has_an_adapter() -> None:
    """A client's adapter is a folder with an observer, and any one client is enough for the instrumentor."""
    assert {client.adapter for client in CLIENTS} == {
        path.parent.name for path in (ROOT / "adapters").glob("*/observer.py")
    }
    wanted = HTTPTraceInstrumentor().instrumentation_dependencies()
    assert tuple(wanted) == tuple(dict.fromkeys(client.requirement for client in CLIENTS))


def graph() -> dict[str, set[str]]:
    """Each module of ours, and those that it imports, at its top or later: `cli.app`."""
    modules = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text())
        # What is imported for the type checker alone is not imported.
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        package = path.relative_to(ROOT).parts[:-1]
        edges[module] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*package][: len(package) + 1 - node.level]
                where = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
                for alias in node.names:
                    target = f"{where}.{alias.name}".lstrip(".")
                    edges[module].add(target if target in modules else where or "__init__")
    return edges


def test_no_module_imports_itself_through_others() -> None:
    """No module imports, by way of others, itself: not even within a function."""
    edges = graph()
    order = TopologicalSorter(edges)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


#: What a room of the package may import of the others.
ROOMS = {
    "demo": {"report", "telemetry"},
    "report": {"core", "telemetry", "clients", "version"},
    "cli": {"report", "demo", "telemetry", "clients", "config", "instrumentor", "version", "__init__"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_from_above(room: str) -> None:
    """The report knows nothing of the command line, and the demo neither; of the server's half it knows the names."""
    found = {
        target.partition(".")[0]
        for module, targets in graph().items()
        if module.partition(".")[0] == room
        for target in targets - {"server.names"}
    }
    assert found - {room} <= ROOMS[room]


# What is asynchronous is written twice, as a coroutine cannot be called where there is no event loop.

TWINS = {"_sync_request": "_async_request", "_sync_assignment": "_async_assignment", "_sync_close": "_async_close"}


class _AsIfSync(ast.NodeTransformer):
    """What a coroutine would be without ``async``, ``await`` and the names of its kind."""

    _NAMES: ClassVar = {"handle_async_request": "handle_request", "aclose": "close"}

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """A plain function."""
        self.generic_visit(node)
        name = self._NAMES.get(node.name, node.name)
        return ast.FunctionDef(name, node.args, node.body, node.decorator_list, node.returns, lineno=0)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        """What is awaited."""
        return self.visit(node.value)  # type: ignore[no-any-return]

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A name of the other kind."""
        return ast.Name(self._NAMES.get(node.id, node.id), node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The observer is told which of the two calls."""
        self.generic_visit(node)
        if ast.unparse(node) == "assigned(exchange, conn, True)":
            node.args[-1] = ast.Constant(value=False)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """Only a coroutine may be closed from another context, so only there it is asked whether to put one back."""
        self.generic_visit(node)
        return node.body[0] if ast.unparse(node.test) == "CURRENT.get() is not outer" else node


@pytest.mark.parametrize("sync", TWINS)
def test_asynchronous_hooks_mirror_the_others(sync: str) -> None:
    """The hook of an asynchronous function does, step by step, what that of its twin does."""
    tree = ast.parse((ROOT / "adapters/httpcore/hooks.py").read_text())
    written = {
        node.name: "\n".join(ast.unparse(_AsIfSync().visit(step)) for step in node.body)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in {*TWINS, *TWINS.values()}
    }
    assert written[TWINS[sync]] == written[sync]
