# The program keeps its environment. What has to be different so that its spans
# come here, and nowhere else, is decided in this module, and said with -v.

"""The environment that a program is run in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ...clients import CLIENTS
from ...report import TOKEN_HEADER
from . import plugins

#: Would keep spans from being made.
_DEFEATING: Final = ("OTEL_SDK_DISABLED", "OTEL_CONFIG_FILE", "OTEL_TRACES_SAMPLER_ARG", "OTEL_PYTHON_CONFIGURATOR")
#: Would cut off what spans say, and with it what is made of them.
_CURTAILING: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)
#: Turned off, there would be nothing to see.
_OURS: Final = ("httptrace", *(client.upstream.entry_point for client in CLIENTS))
_PROXIES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
#: More than the SDK's 2,048, which a program that does nothing but requests can fill between two exports.
_QUEUE: Final = "20000"
#: Milliseconds. What is not sent when a program dies of a signal is lost; uvicorn, asked to stop, ends so:
#: having shut down it raises the signal anew (Server.capture_signals).
_DELAY: Final = "50"
#: Seconds after which the program's exporter gives up, should we be gone.
_TIMEOUT: Final = "3"


class Settings(NamedTuple):
    """An environment, and a line for each setting of the user's that had to give way.

    Args:
        environ: the environment.
        notes: what to say if asked.
        warnings: what to say in any case: without us the program would end there.
    """

    environ: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prepare(
    environ: Mapping[str, str],
    endpoint: str,
    command: Sequence[str],
    *,
    token: str | None,
    forward: bool = False,
    propagators: Collection[str] | None = None,
) -> Settings:
    """The environment for *command*, whose spans are to come to *endpoint*.

    Args:
        environ: the user's.
        endpoint: of the receiver: ``http://127.0.0.1:PORT``.
        command: the program and its arguments.
        token: what the receiver wants to see of its senders.
        forward: whether metrics and logs are to come, too.
        propagators: those that the program's Python has; None if that is not known.
    """
    kept = dict(environ)
    notes = [f"{name} is not passed on: with it there would be no spans" for name in _DEFEATING if kept.pop(name, "")]
    notes += [f"{name} is not passed on: it would cut spans short" for name in _CURTAILING if kept.pop(name, "")]
    endpoint = _past_proxies(kept, endpoint)

    signals = ("traces", "metrics", "logs") if forward else ("traces",)
    for signal in signals:
        prefix = f"OTEL_EXPORTER_OTLP_{signal.upper()}"
        for name in [name for name in kept if name.startswith(f"{prefix}_")]:
            del kept[name]
        kept[f"{prefix}_ENDPOINT"] = f"{endpoint}/v1/{signal}"
        kept[f"{prefix}_PROTOCOL"] = "http/protobuf"
        kept[f"{prefix}_COMPRESSION"] = "none"
        kept[f"{prefix}_TIMEOUT"] = _TIMEOUT
        # Credentials are for the user's backend, and the token for nobody else: what is forwarded has the user's
        # headers. A name that is not empty keeps those of OTEL_EXPORTER_OTLP_HEADERS from coming here.
        kept[f"{prefix}_HEADERS"] = f"{TOKEN_HEADER}={token}" if token else "x-httptrace=run"
    for name, wanted in (
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_BSP_SCHEDULE_DELAY", _DELAY),
        *(() if forward else (("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none"))),
    ):
        if environ.get(name, wanted) != wanted:
            notes.append(f"{name} is {wanted} during this run, not {environ[name]}")
        kept[name] = wanted
    kept.setdefault("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE)

    off = [name.strip() for name in kept.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")]
    defeating = [name for name in off if name in (*_OURS, "*")]
    if defeating:
        kept["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(name for name in off if name not in defeating)
        notes.append(f"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS applies without {', '.join(defeating)}")
    if not kept.get("OTEL_SERVICE_NAME") and "service.name=" not in kept.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        kept["OTEL_SERVICE_NAME"] = service(command)
    return Settings(kept, tuple(notes), tuple(_without_missing(kept, propagators)))


def _without_missing(kept: dict[str, str], propagators: Collection[str] | None) -> list[str]:
    # A program that does not start helps nobody, and what is left out could not have
    # been sent anyway. But it is not to be found out in production.
    value = kept.get(plugins.PROPAGATORS, "")
    lacking = plugins.missing(plugins.PROPAGATORS, value, {plugins.GROUPS[plugins.PROPAGATORS]: propagators or ()})
    if not value or not lacking:
        return []
    kept[plugins.PROPAGATORS] = plugins.without(value, lacking)
    package = plugins.packages(lacking)
    cure = f"pip install {package}, or unset it" if package else "is it misspelled?"
    return [
        f"{plugins.PROPAGATORS} names {', '.join(word or 'nothing' for word in lacking)}, not installed where the "
        f"program runs: left out here, but opentelemetry-instrument alone would not start it; {cure}"
    ]


def service(command: Sequence[str]) -> str:
    """What to call a program that has no name: that of its script, else its own."""
    program = Path(command[0]).name
    if program.startswith("python"):
        arguments = iter(command[1:])
        for argument in arguments:
            if argument == "-m":
                return next(arguments, program)
            if argument == "-c":
                break
            if argument in ("-W", "-X"):
                next(arguments, None)
            elif not argument.startswith("-"):
                return Path(argument).name
    return program


def _past_proxies(environ: dict[str, str], endpoint: str) -> str:
    # The exporter obeys HTTP_PROXY even for loopback. An exception for our port
    # alone changes nothing for the program's own requests; only a host's name can
    # have a port there: requests.utils.should_bypass_proxies.
    if not any(environ.get(name) for name in _PROXIES):
        return endpoint
    port = urlsplit(endpoint).port
    for name in ("no_proxy", "NO_PROXY"):
        if environ.get(name) != "*":
            environ[name] = ",".join(part for part in (environ.get(name), f"localhost:{port}") if part)
    return f"http://localhost:{port}"
