"""Fixtures, and how a test that is a coroutine runs: on the flavour it asks for."""

from __future__ import annotations

import email
import functools
import inspect
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context

# Wherever pytest is started: `from kit...` is tests/kit.
sys.path.insert(0, str(Path(__file__).parent))

from kit.clients import LIBRARIES, MODES, Flavour
from kit.dns import Resolver
from kit.http2 import H2Server
from kit.server import Answer, Server
from kit.telemetry import Telemetry, collect, patchable, restore

from otel_httptrace.guard import Guard

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# To be turned on asks for the versions of what is installed, and all of importlib.metadata's time is this, of the same
# few texts. It keeps to itself what it gets.
email.message_from_string = functools.lru_cache(maxsize=64)(email.message_from_string)  # type: ignore[assignment]

FLAVOURS = [Flavour(library, mode) for library in LIBRARIES for mode in MODES]


#: Where it is set, Python measures the coverage of the processes that it starts: it takes as long as the program.
_MEASURED = "COVERAGE_PROCESS_CONFIG"


def pytest_configure(config: pytest.Config) -> None:
    """Say which markers there are."""
    config.addinivalue_line("markers", "settings(**settings): what the telemetry fixture instruments with")
    config.addinivalue_line("markers", "modes(*modes): which flavours a test runs on")
    config.addinivalue_line("markers", "contained: faults of ours are contained, as in production, instead of raised")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a flavour runs on all; on uvloop only where it says so, for little differs there."""
    if "flavour" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("modes")
        modes = marker.args if marker is not None else ("sync", "asyncio", "trio")
        chosen = [flavour for flavour in FLAVOURS if flavour.mode in modes]
        metafunc.parametrize("flavour", chosen, ids=repr)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test that is a coroutine on its flavour."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    flavour = pyfuncitem.funcargs["flavour"]
    assert isinstance(flavour, Flavour)
    flavour.run(pyfuncitem.obj(**wanted))
    return True


@pytest.fixture(autouse=True)
def _loud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of ours are raised, except where a test is about their containment."""
    monkeypatch.setattr(Guard, "loud", request.node.get_closest_marker("contained") is None)


@pytest.fixture(autouse=True)
def _measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coverage of processes is measured but for the stories, which run what other tests do, two hundred times."""
    if "stories" in request.path.parts:
        monkeypatch.delenv(_MEASURED, raising=False)


@pytest.fixture(autouse=True)
def _nothing_left_attached() -> Iterator[None]:
    """No test leaves a span current in the thread that runs them."""
    yield
    left = trace.get_current_span()
    # By force, so that one test's failure stays its own.
    context_api.attach(Context())
    assert left is trace.INVALID_SPAN


@pytest.fixture
def bare_telemetry() -> Iterator[Telemetry]:
    """Providers; the test instruments by itself."""
    before = patchable()
    telemetry = Telemetry()
    yield telemetry
    if telemetry.instrumentor.is_instrumented_by_opentelemetry:
        telemetry.uninstrument()
    collect()
    telemetry.shutdown()
    # By force, so that one test's failure stays its own.
    left = restore(before)
    if left:
        telemetry.instrumentor._lifetime = None
    assert left == []


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """A resolver below our hook: ask for it before `telemetry`, so that it is what gets wrapped."""
    return Resolver(monkeypatch)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def telemetry(request: pytest.FixtureRequest, bare_telemetry: Telemetry) -> Iterator[Telemetry]:
    """Instrumented with the defaults, or what the test's `settings` mark says; silent on the log."""
    marker = request.node.get_closest_marker("settings")
    records = _Records()
    logger = logging.getLogger("otel_httptrace")
    logger.addHandler(records)
    bare_telemetry.instrument(**(marker.kwargs if marker is not None else {}))
    yield bare_telemetry
    logger.removeHandler(records)
    if request.node.get_closest_marker("contained") is None:
        assert records.messages == []


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server for each call, with the routes and options given."""
    running: list[Server] = []

    def start(routes: dict[str, Answer] | None = None, **options: Any) -> Server:
        server = Server(routes, **options).__enter__()
        running.append(server)
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server with the stock of answers."""
    return serve()


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A certificate authority for loopback."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    """TLS for servers: a certificate for localhost and 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    ca.issue_cert("localhost", "127.0.0.1", "origin.test").configure_cert(context)
    return context


@pytest.fixture
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    """TLS for clients that trust `server_tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture
def h2_server(ca: trustme.CA) -> Iterator[Callable[..., H2Server]]:
    """Starts an HTTP/2 server for each call, which holds the targets given."""
    running: list[H2Server] = []

    def start(*held: str) -> H2Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        running.append(H2Server(context, *held).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture
def running() -> Iterator[Callable[[Any], Any]]:
    """Runs what it is given, a proxy, until the test is over."""
    servers: list[Any] = []

    def run(server: Any) -> Any:
        servers.append(server.__enter__())
        return server

    yield run
    for server in servers:
        server.__exit__(None, None, None)
