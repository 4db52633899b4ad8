"""``httptrace doctor``: for "I see nothing in Jaeger"."""

from __future__ import annotations

import difflib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import click

from ..adapters.libraries import LIBRARIES
from ..config import Config
from ..telemetry import described
from . import inspection, named
from .environ import prepare
from .output import console
from .problem import printable
from .run import find, instrument, shebang

if TYPE_CHECKING:
    from ..report.rows import Row


class State(str, Enum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Check(NamedTuple):
    """A line of the list: what was looked at, what was seen, and for a problem what to type."""

    state: State
    what: str
    seen: str
    advice: str = ""


_MARKS: Final = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.PROBLEM: ("✗", "bold red")}


@click.command(
    "doctor",
    context_settings={"allow_interspersed_args": False},
    short_help="Why is nothing to be seen? Checks the installation and the settings.",
    epilog="Values that may be secret (headers, resource attributes, passwords and queries of URLs) are not shown. "
    "The exit status is 1 if there is a problem.",
)
@click.option("--width", type=click.IntRange(40, 1000), help="Columns of the text.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[PROGRAM [ARGS]...]")
def command(*, width: int | None, program: tuple[str, ...]) -> int:
    """Check what is installed, what the settings say, and that a request yields a span.

    With PROGRAM it is the Python of that program which is checked; PROGRAM is not run.

    \b
      httptrace doctor
      httptrace doctor -- gunicorn
      httptrace doctor -- .venv/bin/python
    """
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    out = console(sys.stdout, width)
    problems = warnings = 0
    for title, checks in _sections(program):
        out.print(f"\n{title}", style="bold")
        for check in checks:
            mark, style = _MARKS[check.state]
            problems += check.state is State.PROBLEM
            warnings += check.state is State.WARNING
            line = Table.grid(padding=(0, 1))
            line.add_row("", Text(mark, style=style), printable(f"{check.what}: {check.seen}"))
            if check.advice:
                advice = Text(printable(check.advice), style="bold" if check.state is State.PROBLEM else "dim")
                line.add_row("", "", Padding(advice, (0, 0, 0, 2)))
            out.print(Padding(line, (0, 0, 0, 1)))
    out.print()
    if problems:
        out.print(f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}", style="bold red")
    else:
        out.print(f"no problem, {_number(warnings, 'warning')}", style="green")
    return 1 if problems else 0


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _sections(program: Sequence[str]) -> Iterator[tuple[str, Iterator[Check]]]:
    environ = os.environ
    python: str | None = sys.executable
    title = "Installed"
    if program:
        path = find(program[0])
        python = python_of(path)
        title = f"Installed where {program[0]} runs"
    facts = inspect(python) if python is not None else None
    if python is None:
        what = Check(
            State.WARNING,
            program[0],
            "not a Python, and no script of one: what it has installed could not be told",
            "name the Python that it runs: httptrace doctor -- /path/to/python",
        )
        yield title, iter((what,))
    elif facts is None:
        yield title, iter((Check(State.PROBLEM, python, "could not be run", f"try: {python} -c 'import sys'"),))
    else:
        yield title, installed(facts)
    yield "Settings", settings(environ, facts)
    yield "Endpoint", endpoint(environ)
    if python is not None and facts is not None and facts["versions"]["otel-httptrace"] is not None:
        yield "A request to a server on this machine", request(python, environ)


# What is installed.


def python_of(program: str) -> str | None:
    """The Python that runs *program*; None if that cannot be told."""
    path = Path(program)
    if _is_python(path.name):
        return program
    interpreter = shebang(program)
    if interpreter is None:
        return None
    with path.open("rb") as file:
        lines = [os.fsdecode(file.readline(1024)) for _ in range(2)]
    words = lines[0][2:].split()
    name = Path(interpreter).name
    if name == "env":
        found = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
        return shutil.which(found) if _is_python(Path(found).name) else None
    if name == "sh":
        # What pip writes where the path is too long for the kernel.
        match = re.match(r"'''exec' \"?([^\" ]+)\"?", lines[1])
        return match[1] if match and _is_python(Path(match[1]).name) else None
    return interpreter if _is_python(name) else None


def _is_python(name: str) -> bool:
    return re.fullmatch(r"(python|pypy)(\d+(\.\d+)*)?t?(\.exe)?", name) is not None


def inspect(python: str, *arguments: str, environ: Mapping[str, str] | None = None, under: str = "") -> Any:
    """What `inspection` says in *python*; None if it says nothing."""
    command = [python, "-c", Path(inspection.__file__).read_text(encoding="utf-8"), *arguments]
    if under:
        command = [under, python, "--", *command[1:]]
    try:
        ran = subprocess.run(  # noqa: S603
            command,
            env=dict(environ) if environ is not None else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return json.loads(ran.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def version(python: str) -> tuple[int, int] | None:
    """Major and minor version of *python*, whatever its age; None if it does not say."""
    try:
        ran = subprocess.run(  # noqa: S603
            [python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        major, minor = map(int, ran.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return major, minor


def why_unseen(program: str, environ: Mapping[str, str]) -> str | None:
    """Why the requests of *program*, run with *environ*, are not seen, as far as that shows; None if it does not."""
    python = python_of(program)
    facts = inspect(python) if python is not None else None
    if facts is not None and facts["versions"]["httpx"] is None and facts["versions"]["httpx2"] is None:
        return f"neither httpx nor httpx2 is installed where it runs, {facts['executable']}."
    checks = list(settings(environ, facts))
    # What surely keeps spans from being made comes before what may.
    for check in checks:
        if check.state is State.PROBLEM:
            return f"{check.what} is {check.seen}; {check.advice}"
    for check in checks:
        if check.what in _EXCLUDING:
            return f"{check.what} is {check.seen}, and {check.advice}"
    return None


def installed(facts: Any) -> Iterator[Check]:
    """Versions and entry points."""
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415

    versions: dict[str, str | None] = facts["versions"]
    install = f"{facts['executable']} -m pip install"
    yield Check(State.OK, "Python", f"{facts['python']}, {facts['executable']}")
    for name, advice in (
        ("otel-httptrace", "'otel-httptrace[cli]'"),
        ("opentelemetry-sdk", "opentelemetry-distro"),
        ("opentelemetry-distro", "opentelemetry-distro"),
        ("opentelemetry-instrumentation-httpx", "opentelemetry-instrumentation-httpx"),
    ):
        found = versions[name]
        if found is None:
            # With the first all others come.
            one = name == "otel-httptrace" or versions["otel-httptrace"] is not None
            yield Check(State.PROBLEM, name, "not installed", f"{install} {advice}" if one else "")
        else:
            yield Check(State.OK, name, found)
    some = False
    for library in LIBRARIES:
        found, client = versions[library.name], versions[library.client]
        if found is None and client is None:
            continue
        some = True
        if found is None:
            yield Check(State.PROBLEM, library.client, f"{client}, without {library.name}", f"{install} {library.name}")
        elif not SpecifierSet(library.supported).contains(found, prereleases=True):
            yield Check(
                State.PROBLEM,
                library.name,
                f"{found} is not supported, which is {library.supported}",
                f"{install} -U '{library.name}{library.supported}'",
            )
        else:
            seen = f"{client or 'not installed'}, {library.name} {found}: supported ({library.supported})"
            yield Check(State.OK, library.client, seen)
    if not some:
        yield Check(
            State.PROBLEM, "httpx, httpx2", "neither is installed: there is nothing to trace", f"{install} httpx"
        )
    found_names = set(facts["entry_points"])
    for name in ("httptrace", "httpx", "httpx2"):
        if name == "httptrace" or versions[name] is not None:
            if name in found_names:
                yield Check(State.OK, f"entry point {name}", "opentelemetry-instrument finds it")
            elif versions["otel-httptrace"] is not None or name != "httptrace":
                wanted = "otel-httptrace" if name == "httptrace" else "opentelemetry-instrumentation-httpx>=0.65b0"
                yield Check(
                    State.PROBLEM,
                    f"entry point {name}",
                    "opentelemetry-instrument does not find it",
                    f"{install} -U --force-reinstall '{wanted}'",
                )


# What the environment says.


def settings(environ: Mapping[str, str], facts: Any = None) -> Iterator[Check]:
    """Each ``OTEL_*`` variable that is set: what it says, and whether it keeps spans from being made or sent."""
    variables = {name: value for name, value in sorted(environ.items()) if name.startswith("OTEL_")}
    if not variables:
        yield Check(State.OK, "OTEL_*", "none is set: defaults apply")
    known = _known_variables()
    there = facts["offered"] if facts is not None else named.offered()
    for name, value in variables.items():
        state, advice = _judge(name, value, environ)
        lacking = named.missing(name, value, there) if name in named.GROUPS and value else []
        if state is State.OK and lacking:
            state, advice = _judge_missing(name, lacking, there, facts["executable"] if facts else sys.executable)
        if state is State.OK and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.9)
            if near:
                state, advice = State.WARNING, f"nothing reads it; {near[0]} is meant?"
        yield Check(state, name, redacted(name, value, known), advice)
    yield from _own_settings(environ)
    protocol = _protocol(environ)
    exporters = environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if facts is not None and "otlp" in exporters:
        package = f"opentelemetry-exporter-otlp-proto-{'grpc' if protocol == 'grpc' else 'http'}"
        if facts["versions"][package] is None and facts["versions"]["opentelemetry-sdk"] is not None:
            other = "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or "
            yield Check(
                State.PROBLEM if _endpoint_is_set(environ) else State.WARNING,
                "exporter",
                f"the protocol is {protocol}, and {package} is not installed",
                f"{other if protocol == 'grpc' else ''}{facts['executable']} -m pip install {package}",
            )


_EXCLUDING: Final = ("OTEL_PYTHON_EXCLUDED_URLS", "OTEL_PYTHON_HTTPX_EXCLUDED_URLS")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


def _judge(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    word = value.strip().lower()
    if name == "OTEL_SDK_DISABLED" and word == "true":
        return State.PROBLEM, f"no span is made: unset {name}"
    if name == "OTEL_TRACES_EXPORTER" and word == "none":
        return State.PROBLEM, f"no span is sent: export {name}=otlp"
    if name == "OTEL_TRACES_SAMPLER":
        return _judge_sampler(word, environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    if name == "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS":
        off = {part.strip() for part in word.split(",")} & {"*", "httptrace", "httpx", "httpx2"}
        if off:
            which = ", ".join(sorted(off))
            return State.PROBLEM, f"nothing is to be seen with {which} turned off: take that out of it"
    if name in _EXCLUDING and word:
        parts = [part.strip() for part in value.split(",")]
        if not all(map(_is_pattern, parts)):
            return State.PROBLEM, f"no regular expression: opentelemetry-instrument gives up on it; unset {name}"
        if any(map(_matches_everything, parts)):
            return State.PROBLEM, f"it matches every URL: unset {name}"
        return State.WARNING, "requests to URLs that match have no span"
    if name in _LIMITS:
        return _judge_limit(name, word)
    if name in _PROTOCOLS and word not in ("grpc", "http/protobuf"):
        return State.PROBLEM, f"the Python SDK knows grpc and http/protobuf: export {name}=http/protobuf"
    if name in ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") and not _is_number(value):
        return State.PROBLEM, f"not a number: opentelemetry-instrument gives up on it; export {name}=10"
    if name == "OTEL_CONFIG_FILE" and word:
        return State.WARNING, "what this file says counts, and not these variables"
    return State.OK, ""


#: Upstream's own attributes of a request, generously.
_UPSTREAMS: Final = 10
#: The line is `folder/file.py:42 in function`: shorter than this it is rarely.
_LINE: Final = 100
#: What the SDK drops beyond a limit are the oldest, so that it need not be ours that go.
_FEW: Final = "attributes of requests are dropped, {least} there can be"
_SHORT: Final = "values are cut, and with them the line that left a body unread (httptrace.body.closed_at)"
#: By limit: the least that does no harm, and what happens below.
_LIMITS: Final = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": (len(described.REQUEST) + _UPSTREAMS, _FEW),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": (len(described.REQUEST) + _UPSTREAMS, _FEW),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": (_LINE, _SHORT),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": (_LINE, _SHORT),
    "OTEL_SPAN_LINK_COUNT_LIMIT": (8, "links are dropped, as to the request that lost a connection"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": (3, "links do not say what they are (httptrace.link)"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": (0, ""),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": (0, ""),
}


def _judge_limit(name: str, word: str) -> tuple[State, str]:
    # As SpanLimits reads it.
    if not word:
        return State.OK, ""
    least, what = _LIMITS[name]
    try:
        limit = int(word)
    except ValueError:
        limit = -1
    if limit < 0:
        return (
            State.PROBLEM,
            f"no number: opentelemetry-instrument gives up on it, and there are no spans; unset {name}",
        )
    if limit < least:
        return State.WARNING, f"{what.format(least=least)}: unset {name}"
    return State.OK, ""


#: What a name that is not installed comes to: what was seen, and not what is documented.
_WITHOUT: Final = {
    named.PROPAGATORS: "no program starts under opentelemetry-instrument",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_PYTHON_ID_GENERATOR": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_PYTHON_CONFIGURATOR": "nothing sets up the SDK, and there are no spans",
    "OTEL_TRACES_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_METRICS_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_LOGS_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
}
_BARELY: Final = {
    "OTEL_PYTHON_CONTEXT": "the default is used, after a traceback in the log",
    "OTEL_PYTHON_TRACER_PROVIDER": "whatever asks for a tracer before the SDK is set up fails",
    "OTEL_PYTHON_DISTRO": "no distro is used: spans are sent only if OTEL_TRACES_EXPORTER is set",
    "OTEL_TRACES_SAMPLER": "the default is used, which records all that a parent does not forbid",
}


def _judge_missing(
    name: str, lacking: Sequence[str], there: Mapping[str, Sequence[str]], python: str
) -> tuple[State, str]:
    what = f"{_listed(lacking)} not installed: {_WITHOUT.get(name) or _BARELY[name]}"
    state = State.PROBLEM if name in _WITHOUT else State.WARNING
    package = named.packages(lacking) if name == named.PROPAGATORS else ""
    if package:
        return state, f"{what}; {python} -m pip install {package}, or unset {name}"
    return state, f"{what}; unset {name}, or name one of {', '.join(there[named.GROUPS[name]])}"


def _listed(lacking: Sequence[str]) -> str:
    return f"{', '.join(word or 'an empty name' for word in lacking)} {'is' if len(lacking) == 1 else 'are'}"


def _judge_sampler(word: str, argument: str) -> tuple[State, str]:
    if word in ("always_off", "parentbased_always_off"):
        return State.PROBLEM, "no span is recorded: export OTEL_TRACES_SAMPLER=parentbased_always_on"
    if word in ("traceidratio", "parentbased_traceidratio"):
        try:
            ratio = float(argument)
        except ValueError:
            return State.WARNING, "OTEL_TRACES_SAMPLER_ARG is not a number: all are recorded"
        if ratio <= 0:
            return State.PROBLEM, "no span is recorded: export OTEL_TRACES_SAMPLER_ARG=1"
        if ratio < 1:
            return State.WARNING, f"{ratio:.3g} of the traces are recorded; to see all: OTEL_TRACES_SAMPLER_ARG=1"
    return State.OK, ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _matches_everything(pattern: str) -> bool:
    # opentelemetry.util.http.ExcludeList searches for the pattern in the URL.
    return bool(pattern) and all(
        re.search(pattern, url) for url in ("https://host.example/some/path", "http://127.0.0.1:1/")
    )


def _own_settings(environ: Mapping[str, str]) -> Iterator[Check]:
    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    heard: list[str] = []
    logger, handler = logging.getLogger("otel_httptrace.config"), Heard()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        Config.load(environ, {})
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    for message in heard:
        yield Check(State.WARNING, "otel-httptrace", message)


def _known_variables() -> set[str]:
    known: set[str] = set()
    for entry in entry_points(group="opentelemetry_environment_variables"):
        try:
            known |= {name for name in dir(entry.load()) if name.startswith("OTEL_")}
        except Exception:  # noqa: PERF203, S112 - somebody's module that cannot be imported here
            continue
    return known


_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH")
#: Lists of pairs, whose values may be anything.
_PAIRS: Final = re.compile(r"HEADERS|RESOURCE_ATTRIBUTES")
#: Of a resource, what says who and where a process is: these are shown, for one looks for them.
_PUBLIC: Final = frozenset(
    {
        "service.name",
        "service.namespace",
        "service.version",
        "service.instance.id",
        "deployment.environment",
        "deployment.environment.name",
    }
)


def redacted(name: str, value: str, known: Collection[str] = ()) -> str:
    """What may be shown of a variable: of headers and attributes the names, of URLs neither password nor query.

    Args:
        name: of the variable.
        value: of it.
        known: names that something reads; of any other, nothing is known of the value, and it is not shown.
    """
    if _PAIRS.search(name):
        return ",".join(_pair(part, "HEADERS" not in name) for part in value.split(",") if part.strip()) or "***"
    # Names of this form are made up by upstream, for each library.
    read = name in known or name.endswith("_EXCLUDED_URLS")
    if _SECRET.search(name) or (known and not read):
        return "***"
    # Userinfo may hold any sign: it ends at the last @ of the authority, or of what a careless one left unquoted.
    value = re.sub(r"(?<=//)[^\s]*@", "***@", value)
    if "//" not in value:
        value = re.sub(r"^[^/\s]*:[^/\s]*@", "***@", value)
    return re.sub(r"[?#].*", "?***", value) if "//" in value or "***@" in value else value


def _pair(text: str, attributes: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        # The rest of a value that has a comma in it.
        return "***"
    shown = attributes and key.strip() in _PUBLIC and not re.search(r"//|@", value)
    return f"{key.strip()}={value.strip() if shown else '***'}"


# Whether anybody listens.


def _protocol(environ: Mapping[str, str]) -> str:
    # The distro's default is grpc.
    for name in reversed(_PROTOCOLS):
        if environ.get(name, "").strip():
            return environ[name].strip()
    return "grpc"


def _endpoint_is_set(environ: Mapping[str, str]) -> bool:
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def endpoint(environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether the endpoint takes an export: an empty one over HTTP, over gRPC a connection is all that is tried."""
    grpc = _protocol(environ) == "grpc"
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    if not url:
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        base = base or ("http://localhost:4317" if grpc else "http://localhost:4318")
        url = base if grpc else f"{base.rstrip('/')}/v1/traces"
    shown = redacted("", url)
    if "otlp" not in environ.get("OTEL_TRACES_EXPORTER", "otlp"):
        yield Check(State.WARNING, shown, "not tried: OTEL_TRACES_EXPORTER names no OTLP exporter")
        return
    failed = State.PROBLEM if _endpoint_is_set(environ) else State.WARNING
    hint = (
        "start a collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT"
        if failed is State.PROBLEM
        else "OTEL_EXPORTER_OTLP_ENDPOINT is not set, and this is the default; httptrace run needs none"
    )
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or (not grpc and parts.scheme not in ("http", "https")):
        yield Check(State.PROBLEM, shown, "not a URL", "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318")
        return
    port = port or (443 if parts.scheme == "https" else 80)
    if port == (4318 if grpc else 4317):
        yield Check(
            State.WARNING,
            shown,
            f"port {port} usually speaks {'HTTP' if grpc else 'gRPC'}, and the protocol is {_protocol(environ)}",
            f"export OTEL_EXPORTER_OTLP_PROTOCOL={'http/protobuf' if grpc else 'grpc'}",
        )
    try:
        if grpc:
            socket.create_connection((parts.hostname, port), timeout=5).close()
            yield Check(State.OK, shown, "takes connections; whether it speaks OTLP over gRPC was not tried")
            return
        status = _export_nothing(parts, port, environ)
    except (OSError, http.client.HTTPException) as error:
        yield Check(failed, shown, f"does not answer: {str(error) or type(error).__name__}", hint)
        return
    if 200 <= status < 300:
        yield Check(State.OK, shown, "takes an (empty) export")
    elif status in (401, 403):
        yield Check(State.PROBLEM, shown, f"refuses us with {status}", "see OTEL_EXPORTER_OTLP_HEADERS")
    else:
        yield Check(
            State.PROBLEM,
            shown,
            f"answers {status} to an export",
            "is it an OTLP/HTTP endpoint? Collectors listen on port 4318",
        )


def _export_nothing(parts: SplitResult, port: int, environ: Mapping[str, str]) -> int:
    host = str(parts.hostname)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        file = environ.get("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE") or environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
        context = ssl.create_default_context(cafile=file or None)
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=5)
    headers = {"Content-Type": "application/x-protobuf"}
    for pair in (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    ).split(","):
        name, equals, value = pair.partition("=")
        if equals and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name.strip()):
            headers[name.strip()] = unquote(value.strip())
    try:
        connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), b"", headers)
        return connection.getresponse().status
    except ValueError as error:
        # A header that cannot be sent: its value is not to be shown.
        raise http.client.HTTPException("OTEL_EXPORTER_OTLP_HEADERS has a value that cannot be sent") from error
    finally:
        connection.close()


# Whether it works.


class _Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        pass


def request(python: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether requests of *python* under ``opentelemetry-instrument`` yield described spans, over OTLP."""
    from ..report.otlp import from_protobuf  # noqa: PLC0415
    from ..report.receiver import Receiver, new_token  # noqa: PLC0415
    from ..report.rows import rows  # noqa: PLC0415

    came: list[Any] = []
    script = instrument(python)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server, Receiver(came.append, token=new_token()) as receiver:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        clean = {name: value for name, value in environ.items() if not name.endswith("EXCLUDED_URLS")}
        # Told among the settings; here it would hide whatever else there is.
        prepared = prepare(
            clean, receiver.endpoint, [python], token=receiver.token, propagators=_propagators(python, environ)
        ).environ
        url = f"http://127.0.0.1:{server.server_port}/"
        told = inspect(python, "requested", url, environ=prepared, under=script)
        server.shutdown()
    if told is None:
        yield Check(
            State.PROBLEM,
            "opentelemetry-instrument",
            f"{python} could not be run under {script}",
            f"try: {script} {python} -c 'import otel_httptrace'",
        )
        return
    if told["instrumented"]:
        yield Check(State.OK, "hooks", f"{len(told['hooks'])} in place: {_short(told['hooks'])}")
    else:
        yield Check(State.PROBLEM, "hooks", "not in place: opentelemetry-instrument did not turn otel-httptrace on")
    for client, error in told["errors"].items():
        yield Check(State.WARNING, client, f"the request failed: {error}")
    requests = list(rows(span for message in came for span in from_protobuf(message)))
    for client in told["clients"]:
        yield _described(client, requests, len(told["clients"]))


def _propagators(python: str, environ: Mapping[str, str]) -> Sequence[str] | None:
    facts = inspect(python) if named.PROPAGATORS in environ else None
    return facts["offered"][named.GROUPS[named.PROPAGATORS]] if facts is not None else None


def _described(client: str, requests: Sequence[Row], clients: int) -> Check:
    # Both libraries' spans come from the same instrumentation: they are told apart by their order.
    which = 0 if client == "httpx" or clients == 1 else 2
    own = requests[which : which + 2]
    if len(own) < 2:
        return Check(State.PROBLEM, client, "no span came", "see the entry points above, and OTEL_PYTHON_* settings")
    if not own[0].opened or own[1].opened or own[1].connection != own[0].connection:
        return Check(
            State.PROBLEM,
            client,
            "spans came, but without what otel-httptrace says",
            "see the entry points and the versions above",
        )
    return Check(State.OK, client, "2 requests, 2 spans: the first opened a connection, the second reused it")


def _short(hooks: Sequence[str]) -> str:
    shown = list(hooks[:4])
    return ", ".join(shown) + (f" and {len(hooks) - len(shown)} more" if len(hooks) > len(shown) else "")
