"""What a value of an ``OTEL_*`` variable means for tracing: one judge each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ...clients import CLIENTS
from ...telemetry import described
from ..programs import plugins
from .result import State

#: Is told a variable's name and value, and all variables; says how bad it is, and what to do.
Judge = Callable[[str, str, Mapping[str, str]], tuple[State, str]]

_OK: Final = (State.OK, "")
#: Requests to URLs that match have no span.
EXCLUDING: Final = (
    "OTEL_PYTHON_EXCLUDED_URLS",
    *dict.fromkeys(client.upstream.excluded_urls for client in CLIENTS),
)
#: Those that name the protocol of traces, the stronger one last.
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")


def protocol(environ: Mapping[str, str]) -> str:
    """The OTLP protocol that the SDK would use for traces."""
    for name in reversed(PROTOCOLS):
        if environ.get(name, "").strip():
            return environ[name].strip()
    # The distro's default.
    return "grpc"


def judge(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    """How the variable *name* bears on tracing, and what to do about it; OK for one that has no judge."""
    return JUDGES[name](name, value, environ) if name in JUDGES else _OK


def _disabled(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    return (State.PROBLEM, f"no span is made: unset {name}") if _word(value) == "true" else _OK


def _not_exported(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    return (State.PROBLEM, f"no span is sent: export {name}=otlp") if _word(value) == "none" else _OK


def _turned_off(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    needed = {"*", "httptrace", *(client.upstream.entry_point for client in CLIENTS)}
    off = {part.strip() for part in _word(value).split(",")} & needed
    if not off:
        return _OK
    which = ", ".join(sorted(off))
    return State.PROBLEM, f"there are no spans with {which} turned off: remove it from this list"


def _excluded(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    if not _word(value):
        return _OK
    parts = [part.strip() for part in value.split(",")]
    if not all(map(_is_pattern, parts)):
        return State.PROBLEM, f"not a regular expression: opentelemetry-instrument gives up on it; unset {name}"
    if any(map(_matches_everything, parts)):
        return State.PROBLEM, f"it matches every URL: unset {name}"
    return State.WARNING, "requests to URLs that match have no span"


def _protocol(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    if _word(value) in ("grpc", "http/protobuf"):
        return _OK
    return State.PROBLEM, f"the Python SDK knows grpc and http/protobuf: export {name}=http/protobuf"


def _timeout(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    if _is_number(value):
        return _OK
    return State.PROBLEM, f"not a number: opentelemetry-instrument gives up on it; export {name}=10"


def _config_file(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    return (State.WARNING, "this file is used instead of these variables") if _word(value) else _OK


#: Upstream's own attributes of a request, generously.
_UPSTREAMS: Final = 10
#: The line is `folder/file.py:42 in function`: shorter than this it is rarely.
_LINE: Final = 100
#: What the SDK drops beyond a limit are the oldest, so that it need not be ours that go.
_FEW: Final = "a request span has up to {least} attributes: with this limit some are dropped"
_SHORT: Final = "values are cut, and with them the line that left a body unread (httptrace.body.closed_at)"
#: By limit: the least that does no harm, and what happens below.
_LIMITS: Final = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": (len(described.REQUEST) + _UPSTREAMS, _FEW),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": (len(described.REQUEST) + _UPSTREAMS, _FEW),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": (_LINE, _SHORT),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": (_LINE, _SHORT),
    "OTEL_SPAN_LINK_COUNT_LIMIT": (8, "links are dropped, such as that to the request that lost a connection"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": (3, "links do not say what they are (httptrace.link)"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": (0, ""),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": (0, ""),
}


def _limit(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    # As SpanLimits reads it.
    word = _word(value)
    if not word:
        return _OK
    least, what = _LIMITS[name]
    try:
        limit = int(word)
    except ValueError:
        limit = -1
    if limit < 0:
        return (
            State.PROBLEM,
            f"not a number: opentelemetry-instrument gives up on it, and there are no spans; unset {name}",
        )
    if limit < least:
        return State.WARNING, f"{what.format(least=least)}: unset {name}"
    return _OK


def _sampler(name: str, value: str, environ: Mapping[str, str]) -> tuple[State, str]:
    word = _word(value)
    if word in ("always_off", "parentbased_always_off"):
        return State.PROBLEM, "no span is recorded: export OTEL_TRACES_SAMPLER=parentbased_always_on"
    if word in ("traceidratio", "parentbased_traceidratio"):
        try:
            ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
        except ValueError:
            return State.WARNING, "OTEL_TRACES_SAMPLER_ARG is not a number: all are recorded"
        if ratio <= 0:
            return State.PROBLEM, "no span is recorded: export OTEL_TRACES_SAMPLER_ARG=1"
        if ratio < 1:
            return State.WARNING, f"{ratio:.3g} of the traces are recorded; to see all: OTEL_TRACES_SAMPLER_ARG=1"
    return _OK


def _word(value: str) -> str:
    return value.strip().lower()


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


JUDGES: Final[Mapping[str, Judge]] = {
    "OTEL_SDK_DISABLED": _disabled,
    "OTEL_TRACES_EXPORTER": _not_exported,
    "OTEL_TRACES_SAMPLER": _sampler,
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": _turned_off,
    "OTEL_CONFIG_FILE": _config_file,
    **dict.fromkeys(EXCLUDING, _excluded),
    **dict.fromkeys(_LIMITS, _limit),
    **dict.fromkeys(PROTOCOLS, _protocol),
    **dict.fromkeys(_TIMEOUTS, _timeout),
}

#: What a name that is not installed comes to: what was seen, and not what is documented.
_WITHOUT: Final = {
    plugins.PROPAGATORS: "no program starts under opentelemetry-instrument",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_PYTHON_ID_GENERATOR": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_PYTHON_CONFIGURATOR": "nothing sets up the SDK, and there are no spans",
    "OTEL_TRACES_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_METRICS_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
    "OTEL_LOGS_EXPORTER": "opentelemetry-instrument gives up, and there are no spans",
}
_BARELY: Final = {
    "OTEL_PYTHON_CONTEXT": "the default is used, after a traceback in the log",
    "OTEL_PYTHON_TRACER_PROVIDER": "code that asks for a tracer before the SDK is set up fails",
    "OTEL_PYTHON_DISTRO": "no distro is used: spans are sent only if OTEL_TRACES_EXPORTER is set",
    "OTEL_TRACES_SAMPLER": "the default is used: all traces are recorded, but for those whose parent is not",
}


def judge_missing(
    name: str, lacking: Sequence[str], there: Mapping[str, Sequence[str]], python: str
) -> tuple[State, str]:
    """How bad it is that what the variable *name* names is not installed, and what to do about it.

    Args:
        name: of the variable.
        lacking: the names in its value that are not installed.
        there: the names that are, by group of entry points.
        python: what to install it with.
    """
    what = f"{_listed(lacking)} not installed: {_WITHOUT.get(name) or _BARELY[name]}"
    state = State.PROBLEM if name in _WITHOUT else State.WARNING
    package = plugins.packages(lacking) if name == plugins.PROPAGATORS else ""
    if package:
        return state, f"{what}; {python} -m pip install {package}, or unset {name}"
    return state, f"{what}; unset {name}, or name one of {', '.join(there[plugins.GROUPS[name]])}"


def _listed(lacking: Sequence[str]) -> str:
    return f"{', '.join(word or 'an empty name' for word in lacking)} {'is' if len(lacking) == 1 else 'are'}"
