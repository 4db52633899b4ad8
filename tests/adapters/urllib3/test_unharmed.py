"""The application must not be able to tell that we are there, except by the telemetry."""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import inspect
import logging
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from kit.server import Server
from kit.telemetry import Telemetry, attributes
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from otel_httptrace.adapters.urllib3 import observer as observing
from otel_httptrace.observe.marks import attached
from otel_httptrace.observe.observer import Observer


@pytest.fixture
def manager() -> Iterator[urllib3.PoolManager]:
    """A pool manager."""
    with urllib3.PoolManager() as manager:
        yield manager


def _seen(function: Any) -> dict[str, Any]:
    code = function.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    return {
        "argspec": inspect.getfullargspec(function),
        "signature": inspect.signature(function, follow_wrapped=False),
        "names": code.co_varnames[:count],
        "kind": (inspect.isgeneratorfunction(function), inspect.iscoroutinefunction(function)),
        "name": (function.__name__, function.__qualname__, function.__module__, function.__doc__),
        "defaults": (function.__defaults__, function.__kwdefaults__),
    }


def test_introspection_sees_no_difference(bare_telemetry: Telemetry, server: Server) -> None:
    """Signature, parameter names, defaults, kind and texts of what is replaced are those of the originals."""
    bare_telemetry.instrument()
    urllib3.PoolManager().request("GET", server.url())
    lifetime = bare_telemetry.instrumentor._lifetime
    assert lifetime is not None
    found = 0
    for owner, name in lifetime.patches.replaced():
        value = vars(owner)[name]
        if getattr(owner, "__module__", owner.__name__).startswith("urllib3"):
            assert _seen(value) == _seen(value.__wrapped__), name
            found += 1
    assert found >= 15


@pytest.mark.parametrize("path", ["/", "/chunked", "/redirect"])
@pytest.mark.parametrize("streamed", [False, True])
def test_no_reference_cycle(telemetry: Telemetry, server: Server, path: str, streamed: bool) -> None:
    """What a request leaves behind goes without the garbage collector, which a program may have turned off."""
    with requests.Session() as session:
        session.trust_env = False

        def request() -> None:
            with session.get(server.url(path), stream=streamed) as response:
                assert response.content

        request()
        gc.collect()
        gc.disable()
        try:
            request()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            ours = [thing for thing in gc.garbage if type(thing).__module__.startswith(("otel", "opentelemetry"))]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert ours == []


def test_nothing_is_left(bare_telemetry: Telemetry, server: Server) -> None:
    """What is turned off is put back, and pools that were observed go on (the fixture looks for what is left)."""
    manager = urllib3.PoolManager()
    bare_telemetry.instrument()
    manager.request("GET", server.url())
    bare_telemetry.uninstrument()
    manager.request("GET", server.url())
    bare_telemetry.instrument()
    manager.request("GET", server.url())
    assert server.accepted == 1
    assert [span.get("http.conn.reused") for span in map(attributes, bare_telemetry.requests())] == [False, True]
    # Nobody knows how many it carried.
    assert "httptrace.conn.requests" not in attributes(bare_telemetry.requests()[-1])


def test_a_pool_that_was_there_before(bare_telemetry: Telemetry, server: Server) -> None:
    """Its idle connections are reused, and told as such."""
    manager = urllib3.PoolManager()
    manager.request("GET", server.url())
    bare_telemetry.instrument()
    for _ in range(2):
        manager.request("GET", server.url())
    assert server.accepted == 1
    assert bare_telemetry.column("http.conn.reused") == [True, True]
    assert bare_telemetry.column("network.peer.port") == [server.port, server.port]


def test_a_version_that_nobody_has_read(
    bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 1.26 is another library: one line on the log, and nothing of it is touched."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        "otel_httptrace.adapters.loading.version", lambda name: "1.26.20" if name == "urllib3" else real(name)
    )
    before = dict(vars(HTTPConnectionPool))
    with caplog.at_level(logging.WARNING, "otel_httptrace"):
        bare_telemetry.instrument()
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "otel-httptrace needs urllib3>=2.0.2"
    ]
    assert dict(vars(HTTPConnectionPool)) == before
    assert not hasattr(requests.Session.send, "__wrapped__")


@pytest.mark.parametrize("chosen", ["httpx", "httpx,httpx2"])
def test_libraries_that_are_not_wanted(bare_telemetry: Telemetry, chosen: str, server: Server) -> None:
    """What the setting `libraries` leaves out is not touched."""
    before = dict(vars(HTTPConnectionPool))
    bare_telemetry.instrument(libraries=chosen)
    assert dict(vars(HTTPConnectionPool)) == before
    requests.get(server.url())
    assert bare_telemetry.spans() == []


@pytest.mark.parametrize("value", ["aiohttp2", "httpx,requests", 5])
def test_a_library_that_there_is_not(bare_telemetry: Telemetry, value: Any) -> None:
    """A name that is none raises ValueError, which says what is allowed."""
    with pytest.raises(ValueError, match=r"libraries"):
        bare_telemetry.instrument(libraries=value)


_VERBS = [
    name
    for name, value in vars(observing.Observer).items()
    if callable(value) and not name.startswith("_") and name not in ("install", "watch_body", "learn")
]


@pytest.mark.contained
@pytest.mark.parametrize("name", [*_VERBS, "opened", "left"])
def test_a_fault_of_ours_harms_nobody(
    bare_telemetry: Telemetry, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of our own functions fails, requests succeed, connections are kept, and every span ends."""

    def fails(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("of ours")

    owner = observing.Observer if name in vars(observing.Observer) else Observer
    monkeypatch.setattr(owner, name, fails)
    logging.getLogger("otel_httptrace").setLevel(logging.CRITICAL)
    bare_telemetry.instrument()
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            assert session.get(server.url()).text == "hello"
        assert server.accepted == 1
        assert list(session.get(server.url("/chunked"), stream=True).iter_content(2)) != []
        session.get(server.url("/big"), stream=True).close()
        with pytest.raises(requests.ConnectionError):
            session.get(server.url("/no-answer"))
    manager = urllib3.PoolManager()
    assert manager.request("GET", server.url("/redirect")).data == b"hello"
    response = manager.request("GET", server.url(), preload_content=False)
    response.release_conn()
    assert manager.request("GET", server.url()).data == b"hello"
    logging.getLogger("otel_httptrace").setLevel(logging.NOTSET)
    bare_telemetry.metrics()
    assert len(bare_telemetry.requests()) == 10


def test_exceptions_are_the_clients_own(telemetry: Telemetry, server: Server, manager: Any) -> None:
    """Type, arguments and the innermost frames of what is raised are as they would be without us."""
    with pytest.raises(urllib3.exceptions.MaxRetryError) as raised:
        manager.request("GET", server.url("/no-answer"), retries=1)
    assert isinstance(raised.value.reason, urllib3.exceptions.ProtocolError)
    frames = [entry.name for entry in raised.traceback]
    assert frames[-1] == "increment"


def test_what_stands_on_objects_is_not_copied(telemetry: Telemetry, server: Server) -> None:
    """Copies of a pool manager, and sessions from a pickle, have nothing of ours."""
    session = requests.Session()
    session.trust_env = False
    response = session.get(server.url())
    adapter: Any = session.get_adapter("http://")
    assert attached(adapter.poolmanager) is not None
    assert attached(copy.deepcopy(response.raw.headers)) is None
    assert pickle.loads(pickle.dumps(attached(adapter.poolmanager))) is None
    assert pickle.loads(pickle.dumps(session)).get(server.url()).text == "hello"


def test_objects_go_when_they_would(telemetry: Telemetry, server: Server) -> None:
    """A pool manager, its pools, connections and responses are freed as soon as nobody has them."""
    manager = urllib3.PoolManager()
    response = manager.request("GET", server.url(), preload_content=False)
    (pool,) = manager.pools._container.values()
    refs = [weakref.ref(thing) for thing in (manager, pool, response, response.connection)]
    response.read()
    del manager, pool, response
    assert [ref() for ref in refs] == [None] * 4
    # And so the ledger goes.
    telemetry.metrics()
    lifetime: Any = telemetry.instrumentor._lifetime
    assert list(lifetime.process.ledgers) == []
    assert telemetry.counted("httptrace.connections.closed", "httptrace.conn.close_reason") == {"unknown": 1}


def test_other_connections_are_left_alone(telemetry: Telemetry, server: Server) -> None:
    """A connection without a pool is not observed, nor one of a class that is none of urllib3's."""
    connection = HTTPConnection(server.host, server.port)
    connection.request("GET", "/")
    assert connection.getresponse().data == b"hello"
    connection.close()
    assert telemetry.metric("httptrace.requests") == {}


def test_a_connection_taken_and_given_back(telemetry: Telemetry, server: Server) -> None:
    """Taken out of the pool by hand and not used, it counts as no request."""
    pool = HTTPConnectionPool(server.host, server.port)
    pool._put_conn(pool._get_conn())
    pool.request("GET", "/")
    assert telemetry.counted("httptrace.requests", "http.conn.reused") == {False: 1}
    lifetime: Any = telemetry.instrumentor._lifetime
    assert list(lifetime.process.exchanges) == []


def test_many_threads(telemetry: Telemetry, server: Server) -> None:
    """A session that threads share: each request is told once, and connections are counted as accepted."""
    session = requests.Session()
    session.trust_env = False
    barrier = threading.Barrier(20)

    def work() -> None:
        barrier.wait(20)
        for _ in range(5):
            assert session.get(server.url()).text == "hello"

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = telemetry.counted("httptrace.connections.opened", "httptrace.conn.open_reason")
    assert sum(opened.values()) == server.accepted
    assert set(opened) <= {"first_connection", "all_busy", "keepalive_limit"}
    assert len(telemetry.requests()) == 100
    assert sum(telemetry.counted("httptrace.requests", "http.conn.reused").values()) == 100
    assert sum(telemetry.counted("http.client.open_connections", "http.connection.state").values()) <= 10
    session.close()


_FORKS = """
import os, sys, urllib3
from otel_httptrace import HTTPTraceInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
HTTPTraceInstrumentor().instrument(tracer_provider=provider)
manager = urllib3.PoolManager()
manager.request("GET", sys.argv[1])
if os.fork() == 0:
    manager.request("GET", sys.argv[1])
    told = exporter.get_finished_spans()[-1].attributes
    os._exit(0 if told.get("httptrace.conn.inherited") and told.get("http.conn.reused") else 1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork(server: Server, tmp_path: Path) -> None:
    """A connection that a child takes over from its parent is told as inherited."""
    program = tmp_path / "forks.py"
    program.write_text(_FORKS)
    ran = subprocess.run([sys.executable, program, server.url()], capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stderr) == (0, "")


_IMPORTS = """
import sys
from otel_httptrace import HTTPTraceInstrumentor
HTTPTraceInstrumentor().instrument()
print(sorted(name for name in ("urllib3", "requests", "botocore", "httpx") if name in sys.modules))
import requests
print(hasattr(requests.Session.send, "__wrapped__"), "botocore" in sys.modules)
"""


def test_nothing_is_imported_until_the_program_does(tmp_path: Path) -> None:
    """Turned on before the program imports its client, we import none; upstream is turned on when it does."""
    program = tmp_path / "imports.py"
    program.write_text(_IMPORTS)
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=50)
    assert (ran.stdout.splitlines(), ran.stderr) == (["[]", "True False"], "")
