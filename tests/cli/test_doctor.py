"""`httptrace doctor`: what is wrong, and what to type."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kit.command import PATIENCE, environment, httptrace
from kit.server import Server, answer, free_port

pytest.importorskip("click")
pytest.importorskip("rich")

from otel_httptrace.cli.checks import SECTIONS, Result, State, Subject
from otel_httptrace.cli.checks.endpoint import endpoint
from otel_httptrace.cli.checks.redaction import redacted
from otel_httptrace.cli.programs import inspection, plugins
from otel_httptrace.cli.programs.pythons import python_of
from otel_httptrace.clients import CLIENTS
from otel_httptrace.report.receiver import Receiver

HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def judged(environ: dict[str, str], facts: Any = None) -> dict[str, Result]:
    """What is said of each setting."""
    (section,) = [section for section in SECTIONS if section.title == "Settings"]
    subject = Subject(environ, facts=facts)
    return {result.what: result for check in section.checks for result in check(subject)}


def test_all_is_ok_where_everything_is_in_place() -> None:
    """With everything in place and an endpoint that answers, all is ok, and real requests have been described."""
    received: list[Any] = []
    with Receiver(received.append) as receiver:
        ran = httptrace("doctor", "--width", "200", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **HTTP})

    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    for expected in (
        f"  ✓ Python: {sys.version.split()[0]}, {sys.executable}",
        "  ✓ entry point httptrace: opentelemetry-instrument finds it",
        f"  ✓ {receiver.endpoint}/v1/traces: accepts an (empty) export",
        "  ✓ httpx: 2 requests, 2 spans: the first opened a connection, the second reused it",
        "  ✓ httpx2: 2 requests, 2 spans: the first opened a connection, the second reused it",
        "  ✓ requests: 2 requests, 2 spans: the first opened a connection, the second reused it",
        "  ✓ urllib3: 2 requests, 2 spans: the first opened a connection, the second reused it",
    ):
        assert expected in [line.rstrip() for line in lines]
    assert any(line.startswith("  ✓ hooks: ") and " 0 in place" not in line for line in lines)
    assert lines[-1] == "no problem, no warnings"
    # The export was empty, and what the test requests said did not go there.
    assert [message.ByteSize() for message in received] == [0]


def test_a_setting_that_defeats_tracing_is_a_problem_and_status_1() -> None:
    """Each setting that defeats tracing is a problem with what to type, and the status is 1; no secret is shown."""
    ran = httptrace(
        "doctor",
        "--width",
        "200",
        environ={
            "OTEL_SDK_DISABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:hunter2@127.0.0.1:{free_port()}/?token=hunter2",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer hunter2,x=hunter2",
            **HTTP,
        },
    )

    assert ran.returncode == 1
    assert "  ✗ OTEL_SDK_DISABLED: true\n      no span is made: unset OTEL_SDK_DISABLED" in [
        "\n".join(line.rstrip() for line in pair) for pair in pairwise(ran.stdout.splitlines())
    ]
    assert "OTEL_EXPORTER_OTLP_HEADERS: authorization=***,x=***" in ran.stdout
    assert "does not answer" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "2 problems, no warnings"
    assert "hunter2" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("environ", "name", "state"),
    [
        ({"OTEL_SDK_DISABLED": "false"}, "OTEL_SDK_DISABLED", State.OK),
        ({"OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER", State.PROBLEM),
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER", State.OK),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "OTEL_TRACES_SAMPLER", State.PROBLEM),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "OTEL_TRACES_SAMPLER", State.OK),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "OTEL_TRACES_SAMPLER",
            State.PROBLEM,
        ),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            "OTEL_TRACES_SAMPLER",
            State.WARNING,
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "some"},
            "OTEL_TRACES_SAMPLER",
            State.WARNING,
        ),
        (
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask, httptrace"},
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
            State.PROBLEM,
        ),
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask"}, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", State.OK),
        ({"OTEL_PYTHON_EXCLUDED_URLS": "health"}, "OTEL_PYTHON_EXCLUDED_URLS", State.WARNING),
        ({"OTEL_PYTHON_HTTPX_EXCLUDED_URLS": "health,.*"}, "OTEL_PYTHON_HTTPX_EXCLUDED_URLS", State.PROBLEM),
        ({"OTEL_PYTHON_HTTPX_EXCLUDED_URLS": "health,("}, "OTEL_PYTHON_HTTPX_EXCLUDED_URLS", State.PROBLEM),
        ({"OTEL_PROPAGATORS": "tracecontext, baggage"}, "OTEL_PROPAGATORS", State.OK),
        ({"OTEL_PROPAGATORS": "tracecontext,none,b3"}, "OTEL_PROPAGATORS", State.OK),
        ({"OTEL_PROPAGATORS": "tracecontext,no-such-one"}, "OTEL_PROPAGATORS", State.PROBLEM),
        ({"OTEL_PROPAGATORS": "tracecontext,"}, "OTEL_PROPAGATORS", State.PROBLEM),
        ({"OTEL_PYTHON_CONTEXT": "contextvars_context"}, "OTEL_PYTHON_CONTEXT", State.OK),
        ({"OTEL_PYTHON_CONTEXT": "no-such-one"}, "OTEL_PYTHON_CONTEXT", State.WARNING),
        ({"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}, "OTEL_PYTHON_TRACER_PROVIDER", State.OK),
        ({"OTEL_PYTHON_TRACER_PROVIDER": "no-such-one"}, "OTEL_PYTHON_TRACER_PROVIDER", State.WARNING),
        ({"OTEL_PYTHON_METER_PROVIDER": "no-such-one"}, "OTEL_PYTHON_METER_PROVIDER", State.PROBLEM),
        ({"OTEL_PYTHON_ID_GENERATOR": "xray"}, "OTEL_PYTHON_ID_GENERATOR", State.PROBLEM),
        ({"OTEL_PYTHON_DISTRO": "no-such-one"}, "OTEL_PYTHON_DISTRO", State.WARNING),
        ({"OTEL_PYTHON_CONFIGURATOR": "no-such-one"}, "OTEL_PYTHON_CONFIGURATOR", State.PROBLEM),
        ({"OTEL_TRACES_EXPORTER": "console,zipkin"}, "OTEL_TRACES_EXPORTER", State.PROBLEM),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER", State.PROBLEM),
        ({"OTEL_LOGS_EXPORTER": "none"}, "OTEL_LOGS_EXPORTER", State.OK),
        ({"OTEL_TRACES_SAMPLER": "Always_On"}, "OTEL_TRACES_SAMPLER", State.OK),
        ({"OTEL_TRACES_SAMPLER": "no-such-one"}, "OTEL_TRACES_SAMPLER", State.WARNING),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT", State.PROBLEM),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "16"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", State.WARNING),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", State.OK),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "16"}, "OTEL_ATTRIBUTE_COUNT_LIMIT", State.WARNING),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20"}, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", State.WARNING),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20"}, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", State.WARNING),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": "0"}, "OTEL_SPAN_LINK_COUNT_LIMIT", State.WARNING),
        ({"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "0"}, "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", State.WARNING),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "0"}, "OTEL_SPAN_EVENT_COUNT_LIMIT", State.OK),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": ""}, "OTEL_SPAN_LINK_COUNT_LIMIT", State.OK),
        ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "-1"}, "OTEL_SPAN_EVENT_COUNT_LIMIT", State.PROBLEM),
        ({"OTEL_PYTHON_FLASK_EXCLUDED_URLS": ".*"}, "OTEL_PYTHON_FLASK_EXCLUDED_URLS", State.OK),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL", State.PROBLEM),
        ({"OTEL_CONFIG_FILE": "otel.yaml"}, "OTEL_CONFIG_FILE", State.WARNING),
        ({"OTEL_TRACES_SAMPLR": "always_on"}, "OTEL_TRACES_SAMPLR", State.WARNING),
        ({"OTEL_SOMEBODYS_OWN": "1"}, "OTEL_SOMEBODYS_OWN", State.OK),
        ({"OTEL_PYTHON_HTTPTRACE_SPANS": "most"}, "OTEL_PYTHON_HTTPTRACE_SPANS", State.WARNING),
    ],
    ids=lambda value: " ".join("=".join(pair) for pair in value.items()) if isinstance(value, dict) else "",
)
def test_each_setting_that_affects_tracing_is_explained(environ: dict[str, str], name: str, state: State) -> None:
    """What each setting means for tracing; advice comes with whatever is not ok."""
    check = judged(environ)[name]

    assert check.state is state
    assert (check.advice == "") is (state is State.OK)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_PYTHON_METER_PROVIDER", "no-such-one"),
        ("OTEL_PYTHON_ID_GENERATOR", "no-such-one"),
        ("OTEL_TRACES_EXPORTER", "no-such-one"),
        ("OTEL_METRICS_EXPORTER", "no-such-one"),
        ("OTEL_LOGS_EXPORTER", "no-such-one"),
        ("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "("),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
    ],
)
def test_what_ends_opentelemetry(name: str, value: str) -> None:
    """What is said to end OpenTelemetry's set-up does: the program runs, and is not instrumented."""
    code = (
        "from otel_httptrace import HTTPTraceInstrumentor; "
        "print(HTTPTraceInstrumentor().is_instrumented_by_opentelemetry)"
    )
    ran = subprocess.run(
        [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "-c", code],
        env=environment(**{name: value}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert (ran.returncode, ran.stdout) == (0, "False\n")
    assert "Failed to auto initialize OpenTelemetry" in ran.stderr
    assert judged({name: value})[name].state is State.PROBLEM


def test_a_propagator_that_is_not_installed() -> None:
    """The command starts, one line says what is not there and what to type, and the requests are tried without it."""
    ran = httptrace("doctor", "--width", "300", environ={"OTEL_PROPAGATORS": "tracecontext,b3"})

    assert (ran.returncode, ran.stderr) == (1, "")
    lines = [line.strip() for line in ran.stdout.splitlines()]
    assert lines[lines.index("✗ OTEL_PROPAGATORS: tracecontext,b3") + 1] == (
        "b3 is not installed: no program starts under opentelemetry-instrument; "
        f"{sys.executable} -m pip install opentelemetry-propagator-b3, or unset OTEL_PROPAGATORS"
    )
    assert "✓ httpx: 2 requests, 2 spans: the first opened a connection, the second reused it" in lines
    assert lines[-1].startswith("1 problem, ")
    assert judged({"OTEL_PROPAGATORS": "b4"})["OTEL_PROPAGATORS"].advice == (
        "b4 is not installed: no program starts under opentelemetry-instrument; "
        # Those of X-Ray come with botocore's instrumentation.
        "unset OTEL_PROPAGATORS, or name one of baggage, tracecontext, xray, xray-lambda"
    )


def test_what_another_python_is_asked_for() -> None:
    """The groups that another Python is asked for are those that the variables name."""
    assert set(inspection.GROUPS) == set(plugins.GROUPS.values())


def told(environ: dict[str, str]) -> list[tuple[State, str]]:
    """What is said of the endpoint."""
    return [(result.state, result.seen) for result in endpoint(Subject(environ))]


@pytest.mark.parametrize(
    ("status", "state", "seen"),
    [
        ("200 OK", State.OK, "accepts an (empty) export"),
        ("401 Unauthorized", State.PROBLEM, "refuses the export with 401"),
        ("404 Not Found", State.PROBLEM, "answers 404 to an export"),
    ],
)
def test_an_empty_export_is_sent_to_the_endpoint(server: Server, status: str, state: State, seen: str) -> None:
    """An empty export is really sent, with the headers that are set, to where the SDK would send it."""
    server.routes = {"/base/v1/traces": answer(b"", status=status)}
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url("/base"), "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b"}

    assert told({**HTTP, **base}) == [(state, seen)]
    (request,) = server.requests
    assert (request.method, request.body) == ("POST", b"")
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-key"] == "a b"


def test_an_endpoint_over_grpc(server: Server) -> None:
    """Over gRPC a connection is all that is tried, and that is said."""
    assert told({"OTEL_EXPORTER_OTLP_ENDPOINT": server.url()}) == [
        (State.OK, "accepts connections; OTLP over gRPC was not tried")
    ]
    assert server.requests == []


def test_an_endpoint_that_is_none(server: Server) -> None:
    """What is no URL, nobody, or no HTTP is told apart; a port of the other protocol is pointed out."""
    nobody = f"http://127.0.0.1:{free_port()}"
    ((state, seen),) = told({**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": nobody})
    assert state is State.PROBLEM and seen.startswith("does not answer: ")
    assert told({**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": "localhost"}) == [(State.PROBLEM, "not a URL")]
    assert told({**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:port"})[0][0] is State.PROBLEM
    server.routes = {"/v1/traces": b"SSH-2.0-nothing of HTTP\r\n"}
    assert told({**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": server.url("")})[0][0] is State.PROBLEM
    other = told({**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"})[0]
    assert other == (State.WARNING, "port 4317 usually speaks gRPC, and the protocol is http/protobuf")
    assert told({"OTEL_TRACES_EXPORTER": "console"})[0][1].startswith("not tried")


def script(path: Path, first: str, *lines: str) -> str:
    """An executable script."""
    path.write_text("\n".join((first, *lines, "")))
    path.chmod(0o755)
    return str(path)


def test_which_python_runs_it(tmp_path: Path) -> None:
    """A program's Python is the program itself, or what its first line says, in the ways that installers write it."""
    long = f'\'\'\'exec\' "{sys.executable}" "$0" "$@"'

    assert python_of(sys.executable) == sys.executable
    assert python_of(script(tmp_path / "a", f"#!{sys.executable}", "")) == sys.executable
    assert python_of(script(tmp_path / "b", "#!/bin/sh", long)) == sys.executable
    assert python_of(script(tmp_path / "c", "#!/bin/sh", "exit")) is None
    assert python_of(script(tmp_path / "d", "#!/usr/bin/env ruby", "")) is None
    env = python_of(script(tmp_path / "e", "#!/usr/bin/env -S python3 -u", ""))
    assert env is not None and os.path.basename(env) == "python3"
    assert python_of("/bin/sh") is None


def test_a_program_of_another_python(tmp_path: Path) -> None:
    """A program whose Python has nothing installed: each lack is a problem with what to type there."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    folder = tmp_path / "bare" / "bin"
    real = (folder / "python").resolve()
    for name in ("python", "python3"):
        (folder / name).unlink()
    # On Python 3.10 it is a link to `python`, which then would execute itself for ever.
    (folder / "python3").symlink_to(real)
    # Not even what is on the path of whoever runs these tests.
    python = script(folder / "python", "#!/bin/sh", f'unset PYTHONPATH; exec {folder}/python3 "$@"')
    program = script(tmp_path / "program", f"#!{python}", "")
    ran = httptrace("doctor", "--width", "300", "--", program)

    assert ran.returncode == 1
    assert f"Installed where {program} runs" in ran.stdout
    assert f"{folder}/python3 -m pip install 'otel-httptrace[cli]'" in ran.stdout
    assert "  ✗ httpx, httpx2, requests, botocore, urllib3: none is installed: there is nothing to trace" in ran.stdout
    after = httptrace("run", "--", program)
    assert after.returncode == 0
    # What it lacks of OpenTelemetry it is lent; a client library it is not.
    assert (
        f"none of httpx, httpx2, requests, botocore and urllib3 is installed where it runs, {folder}/python3."
        in after.stderr
    )


def test_a_program_that_is_no_python() -> None:
    """A program whose Python cannot be told was not checked: that is a problem, and not a guess."""
    ran = httptrace("doctor", "--width", "200", "--", "/bin/sh")

    assert ran.returncode == 1
    assert "  ✗ /bin/sh: neither a Python nor a script of one: what is installed there was not checked" in ran.stdout


def test_unsupported_versions_and_missing_exporters_are_problems() -> None:
    """An unsupported version, a library without its core, and a missing exporter are problems."""
    clients = (name for client in CLIENTS for name in client.distributions)
    versions: dict[str, str | None] = dict.fromkeys((*inspection.DISTRIBUTIONS, *clients), "1.0")
    versions.update({"httpcore": "0.18.0", "httpcore2": None, "opentelemetry-exporter-otlp-proto-grpc": None})
    facts = {
        "python": "3.11",
        "executable": "py",
        "versions": versions,
        "entry_points": ["httpx", "httpx2"],
        "offered": {},
    }
    (section,) = [section for section in SECTIONS if section.title.startswith("Installed")]
    results = [result for check in section.checks for result in check(Subject({}, python="py", facts=facts))]
    problems = {result.what: result for result in results if result.state is State.PROBLEM}

    assert problems["httpcore"].advice == "py -m pip install -U 'httpcore>=1.0.3,<2'"
    assert problems["httpx2"].advice == "py -m pip install httpcore2"
    assert problems["entry point httptrace"].advice == "py -m pip install -U --force-reinstall 'otel-httptrace'"
    exporter = judged({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, facts)["exporter"]
    assert exporter.state is State.PROBLEM
    assert exporter.advice.startswith("export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or py -m pip install")


def test_secrets_are_not_shown() -> None:
    """Headers, tokens, userinfo and queries are not shown."""
    assert redacted("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b=c,d=e") == "a=***,d=***"
    assert redacted("OTEL_EXPORTER_OTLP_HEADERS", "secret") == "***"
    assert redacted("OTEL_VENDOR_TOKEN", "secret") == "***"
    assert redacted("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:p@h:1/x?k=v") == "https://***@h:1/x?***"
    assert redacted("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:p@ss@h:1/x#k") == "https://***@h:1/x?***"
    assert redacted("OTEL_EXPORTER_OTLP_ENDPOINT", "u:p@h:1/x?k=v") == "***@h:1/x?***"
    assert redacted("OTEL_SERVICE_NAME", "shop?") == "shop?"
    assert (
        redacted("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,db.password=a,b,host=https://u:p@h")
        == "service.name=shop,db.password=***,***,host=***"
    )
    assert redacted("OTEL_EXPORTER_OTLP_ENDPONT", "anything", {"OTEL_EXPORTER_OTLP_ENDPOINT"}) == "***"
    assert environment()["PATH"]
