"""Used through `opentelemetry-instrument`, with no change to the program: real processes, real OTLP."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kit.otlp import read
from kit.server import Server, free_port
from kit.telemetry import Telemetry, patchable

from otel_httptrace import HTTPTraceInstrumentor
from otel_httptrace.adapters import loading
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.rows import Row

PROGRAM = """
    import sys, httpx, httpx2
    for library in (httpx, httpx2):
        with library.Client() as client:
            print(client.get(sys.argv[1]).text, client.get(sys.argv[1]).text)
"""


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program with this interpreter, in an environment without settings of ours or of OpenTelemetry's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, *command], env={**kept, **environ}, capture_output=True, text=True, timeout=50, check=False
    )


def auto(program: Path, *arguments: str, **environ: str) -> tuple[subprocess.CompletedProcess[str], list[Row]]:
    """A program under `opentelemetry-instrument`, and the requests that arrived."""
    received: list[Any] = []
    with Receiver(received.append) as receiver:
        ran = run(
            str(Path(sys.executable).with_name("opentelemetry-instrument")),
            sys.executable,
            "-W",
            "error::UserWarning",
            str(program),
            *arguments,
            **{
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                **environ,
            },
        )
    return ran, read(received)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Two requests with each library."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def test_every_request_is_described_without_a_code_change(program: Path, server: Server) -> None:
    """Every request of both libraries arrives once, described, and the program's output is its own."""
    ran, found = auto(program, server.url(host="localhost"))

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello hello\n" * 2, "")
    assert [row.attributes["http.conn.reused"] for row in found] == [False, True] * 2
    assert [row.attributes["httptrace.body.outcome"] for row in found] == ["complete"] * 4
    assert [[step.name for step in row.steps] for row in found] == [
        ["http.getconn", "http.dns", "http.connect"],
        [],
    ] * 2
    assert server.accepted == 2


def test_disabling_us_leaves_upstream_as_it_was(program: Path, server: Server) -> None:
    """`OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=httptrace` leaves upstream's spans as they were."""
    ran, found = auto(program, server.url(), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="httptrace")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert [row.observed for row in found] == [False] * 4


def test_without_upstream_we_make_no_spans(program: Path, server: Server) -> None:
    """Without upstream there is no span to describe, and we make none and turn nothing on."""
    ran, found = auto(program, server.url(), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="httpx,httpx2")

    assert (ran.returncode, ran.stderr, found) == (0, "", [])


def test_settings_from_the_environment(program: Path, server: Server) -> None:
    """Variables reach us; a wrong value is one warning that names it, and the default is used."""
    ran, found = auto(
        program,
        server.url(),
        OTEL_PYTHON_HTTPTRACE_SPANS="none",
        OTEL_PYTHON_HTTPTRACE_SPAN_END="never",
    )

    assert ran.returncode == 0
    assert ran.stderr.splitlines() == [
        "OTEL_PYTHON_HTTPTRACE_SPAN_END='never' is not one of: body, headers; using the default"
    ]
    assert [row.steps for row in found] == [[]] * 4


def test_nobody_at_the_endpoint(program: Path, server: Server) -> None:
    """With nothing at the OTLP endpoint the program's results and exit status are what they were."""
    ran, found = auto(program, server.url(), OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")

    assert (ran.returncode, ran.stdout, found) == (0, "hello hello\n" * 2, [])
    assert "otel_httptrace" not in ran.stderr


IN_ORDER = """
    import sys
    from importlib.metadata import entry_points
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(
        ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\\n")))
    trace.set_tracer_provider(provider)
    found = {entry.name: entry for entry in entry_points(group="opentelemetry_instrumentor")}
    url, *order = sys.argv[1:]
    for name in order:
        found[name].load()().instrument(skip_dep_check=True)

    import httpx, httpx2
    for library in (httpx, httpx2):
        with library.Client() as client:
            client.get(url)
"""


@pytest.mark.parametrize("order", [*itertools.permutations(("httptrace", "httpx", "httpx2"))], ids="-".join)
def test_any_load_order_gives_one_described_span(order: tuple[str, ...], server: Server) -> None:
    """However `opentelemetry-instrument` happens to load the entry points: one described span a request, no word."""
    ran = run("-W", "error", "-c", textwrap.dedent(IN_ORDER), server.url(), *order)

    assert (ran.returncode, ran.stderr) == (0, "")
    spans = [json.loads(line) for line in ran.stdout.splitlines()]
    clients = [span["attributes"] for span in spans if span["kind"] == "SpanKind.CLIENT"]
    assert [attributes["http.conn.reused"] for attributes in clients] == [False, False]
    assert Counter(span["name"] for span in spans) == {"GET": 2, "http.getconn": 2, "http.connect": 2}


@pytest.mark.parametrize(
    ("library", "client", "found"),
    [("httpcore", "httpx", "0.18.0"), ("httpcore", "httpx", "1.0.2"), ("httpcore2", "httpx2", "1.0.9")],
)
def test_an_unsupported_version(
    library: str,
    client: str,
    found: str,
    server: Server,
    bare_telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A version that we do not know is left alone, with one line that says what to install; the other is traced."""
    version = importlib.metadata.version
    monkeypatch.setattr(loading, "version", lambda name: found if name == library else version(name))
    before = patchable()
    bare_telemetry.instrument()
    for name in ("httpx", "httpx2"):
        with __import__(name).Client() as its:
            its.get(server.url())

    wanted = {"httpcore": ">=1.0.3,<2", "httpcore2": ">=2"}[library]
    assert [record.getMessage() for record in caplog.records if record.name == "otel_httptrace"] == [
        f"otel-httptrace needs {library}{wanted}, found {found}, so {client} is not traced: "
        f"pip install -U '{library}{wanted}'"
    ]
    changed = {owner.__module__.split(".")[0] for owner, _ in before.changes() if isinstance(owner, type)}
    assert {"httpcore", "httpcore2"} - changed == {library}
    assert sum(bare_telemetry.metric("httptrace.connections.opened").values()) == 1
    described = ["http.conn.reused" in (span.attributes or {}) for span in bare_telemetry.requests()]
    assert described == [client != "httpx", client != "httpx2"]


def test_with_neither_library_nothing_is_turned_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With neither library in a supported version `instrument()` does nothing and says what it asks for."""
    instrumentor = HTTPTraceInstrumentor()
    monkeypatch.setattr(
        HTTPTraceInstrumentor, "instrumentation_dependencies", lambda self: ("httpcore >= 99", "httpcore2 >= 99")
    )
    with caplog.at_level(logging.ERROR):
        instrumentor.instrument()

    assert not instrumentor.is_instrumented_by_opentelemetry
    (line,) = [record.getMessage() for record in caplog.records]
    assert "httpcore >= 99" in line and "httpcore2 >= 99" in line


@pytest.mark.parametrize("missing", ["httpcore", "httpx"])
def test_a_library_that_cannot_be_imported(
    missing: str, server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library whose metadata is there but that does not import is none, and no fault."""
    # What the import system takes for a module that is not to be had.
    monkeypatch.setitem(sys.modules, missing, None)
    bare_telemetry.instrument()
    import httpx2

    with httpx2.Client() as client:
        client.get(server.url())

    assert bare_telemetry.column("http.conn.reused") == [False]


def test_upstream_that_fails_to_start(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where upstream cannot be turned on that is the caller's to know, and nothing of ours stays."""
    from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor

    def instrument(self: Any, **kwargs: Any) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(HTTPX2ClientInstrumentor, "_instrument", instrument)
    with pytest.raises(RuntimeError, match="not today"):
        bare_telemetry.instrument()

    import httpx

    with httpx.Client() as client:
        client.get(server.url())
    assert bare_telemetry.requests() == []
    assert not bare_telemetry.instrumentor.is_instrumented_by_opentelemetry


#: Makes a request, waits until it is told to go on, and ends.
ENDING = """
    import multiprocessing, os, signal, sys, httpx
    def request():
        httpx.get(sys.argv[1])
        print("asked", flush=True)
        sys.stdin.readline()
    if sys.argv[2] == "multiprocessing":
        # Its children read nothing from stdin but what they are given.
        ours = os.dup(0)
        def child():
            sys.stdin = os.fdopen(ours)
            request()
        forked = multiprocessing.get_context("fork").Process(target=child)
        forked.start()
        forked.join()
    else:
        request()
        {"os._exit": lambda: os._exit(0), "exit": sys.exit,
         "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
         "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM)}[sys.argv[2]]()
"""


@pytest.mark.parametrize(
    ("ending", "delay", "arrive"),
    [
        ("exit", None, 1),
        ("os._exit", None, 0),
        ("SIGKILL", None, 0),
        ("SIGTERM", None, 0),
        ("multiprocessing", None, 0),
        ("os._exit", "50", 1),
        ("SIGKILL", "50", 1),
        ("SIGTERM", "50", 1),
        ("multiprocessing", "50", 1),
    ],
)
def test_what_does_not_arrive(tmp_path: Path, server: Server, ending: str, delay: str | None, arrive: int) -> None:
    """As docs/report.md says: what ends without atexit loses what was not sent, which a shorter delay makes less."""
    path = tmp_path / "ending.py"
    path.write_text(textwrap.dedent(ENDING))
    arrived = threading.Event()
    received: list[Any] = []

    def keep(message: Any) -> None:
        received.append(message)
        arrived.set()

    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with Receiver(keep) as receiver:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            **({"OTEL_BSP_SCHEDULE_DELAY": delay} if delay else {}),
        }
        script = Path(sys.executable).with_name("opentelemetry-instrument")
        with subprocess.Popen(
            [script, sys.executable, str(path), server.url(), ending],
            env={**kept, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "asked\n"
            if delay:
                assert arrived.wait(20)
            process.stdin.write("go on\n")
            process.stdin.close()
            process.wait(20)

    assert len(read(received)) == arrive
