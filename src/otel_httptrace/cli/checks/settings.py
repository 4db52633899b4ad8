"""What the environment says: each ``OTEL_*`` variable, our own settings, and the exporter that they ask for."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

from ...config import Config
from ..programs import plugins
from .endpoint import is_set
from .redaction import redacted
from .result import Result, State, Subject
from .variables import PROTOCOLS, judge, judge_missing, protocol

#: Where one of these is set, somebody wants spans to be sent.
_ASKING = ("OTEL_TRACES_EXPORTER", *PROTOCOLS)


def variables(subject: Subject) -> Iterator[Result]:
    """Each ``OTEL_*`` variable that is set: what it says, and whether it keeps spans from being made or sent."""
    environ, facts = subject.environ, subject.facts
    found = {name: value for name, value in sorted(environ.items()) if name.startswith("OTEL_")}
    if not found:
        yield Result(State.OK, "OTEL_*", "none is set: defaults apply")
    known = _known_variables()
    heard = _heard(subject)
    there = facts["offered"] if facts is not None else plugins.offered()
    python = facts["executable"] if facts is not None else sys.executable
    for name, value in found.items():
        state, advice = judge(name, value, environ)
        lacking = plugins.missing(name, value, there) if name in plugins.GROUPS and value else []
        if state is State.OK and lacking:
            state, advice = judge_missing(name, lacking, there, python)
        if state is State.OK and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.9)
            if near:
                state, advice = State.WARNING, f"unknown variable: did you mean {near[0]}?"
        if state is State.OK:
            of_this = [message for message in heard if message.startswith(name)]
            if of_this:
                state, advice = State.WARNING, "; ".join(of_this)
        yield Result(state, name, redacted(name, value, known), advice)


def exporter(subject: Subject) -> Iterator[Result]:
    """Whether the exporter is installed that the protocol takes."""
    environ, facts = subject.environ, subject.facts
    if facts is None or "otlp" not in environ.get("OTEL_TRACES_EXPORTER", "otlp"):
        return
    asked = protocol(environ)
    package = f"opentelemetry-exporter-otlp-proto-{'grpc' if asked == 'grpc' else 'http'}"
    if subject.versions[package] is None and subject.versions["opentelemetry-sdk"] is not None:
        other = "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or "
        yield Result(
            State.PROBLEM if is_set(environ) or any(name in environ for name in _ASKING) else State.WARNING,
            "exporter",
            f"the protocol is {asked}, and {package} is not installed: opentelemetry-instrument needs it to send",
            f"{other if asked == 'grpc' else ''}{subject.pip} {package}",
        )


def our_own(subject: Subject) -> Iterator[Result]:
    """What our own settings warn of as they are read, beyond single variables."""
    for message in _heard(subject):
        if not message.startswith(tuple(subject.environ)):
            yield Result(State.WARNING, "otel-httptrace", message)


def _heard(subject: Subject) -> list[str]:
    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    heard: list[str] = []
    logger, handler = logging.getLogger("otel_httptrace.config"), Heard()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        Config.load(subject.environ, {})
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    return heard


def _known_variables() -> set[str]:
    known: set[str] = set()
    for entry in entry_points(group="opentelemetry_environment_variables"):
        try:
            known |= {name for name in dir(entry.load()) if name.startswith("OTEL_")}
        except Exception:  # noqa: PERF203, S112 - somebody's module that cannot be imported here
            continue
    return known
