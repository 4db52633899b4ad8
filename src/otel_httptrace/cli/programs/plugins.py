# OpenTelemetry finds by name, among entry points, what these variables ask for.
# What is not there ends its set-up with a traceback: of a request nothing is seen
# then, and with OTEL_PROPAGATORS the program does not even start, for
# opentelemetry-instrument itself imports opentelemetry.propagate.
#
# Read, and tried, with opentelemetry-api 1.45.2 and -instrumentation 0.66b2.

"""Variables that name what has to be installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Final

PROPAGATORS: Final = "OTEL_PROPAGATORS"

#: The group of entry points that each is looked up in.
GROUPS: Final = {
    PROPAGATORS: "opentelemetry_propagator",
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_ID_GENERATOR": "opentelemetry_id_generator",
    "OTEL_PYTHON_DISTRO": "opentelemetry_distro",
    "OTEL_PYTHON_CONFIGURATOR": "opentelemetry_configurator",
    "OTEL_TRACES_EXPORTER": "opentelemetry_traces_exporter",
    "OTEL_METRICS_EXPORTER": "opentelemetry_metrics_exporter",
    "OTEL_LOGS_EXPORTER": "opentelemetry_logs_exporter",
    "OTEL_TRACES_SAMPLER": "opentelemetry_traces_sampler",
}
_LISTS: Final = (PROPAGATORS, "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER")

#: What brings a propagator, by its name.
_PACKAGES: Final = {
    "b3": "opentelemetry-propagator-b3",
    "b3multi": "opentelemetry-propagator-b3",
    "jaeger": "opentelemetry-propagator-jaeger",
    "xray": "opentelemetry-propagator-aws-xray",
    "xray-lambda": "opentelemetry-propagator-aws-xray",
    "ottrace": "opentelemetry-propagator-ot-trace",
}


def offered() -> dict[str, list[str]]:
    """What is installed here, by group."""
    return {group: sorted({entry.name for entry in entry_points(group=group)}) for group in GROUPS.values()}


def missing(name: str, value: str, there: Mapping[str, Iterable[str]]) -> list[str]:
    """What the variable *name*, which is *value*, asks for and is not among what is *there*, by group."""
    found = set(there.get(GROUPS[name], ()))
    if not found:
        # Nothing is known of this group: nor is it known to be missing.
        return []
    if name == "OTEL_TRACES_SAMPLER":
        return [] if value.strip().lower() in found else [value.strip()]
    if name not in _LISTS:
        return [] if value in found else [value]
    lacking = []
    for word in map(str.strip, value.split(",")):
        if word.lower() == "none" and (name == PROPAGATORS or value.lower().strip() == "none"):
            # Of propagators, those after it are not looked at.
            break
        # OTLP has a check of its own, which knows the protocol.
        if word not in found and not (word.startswith("otlp") and name != PROPAGATORS):
            lacking.append(word)
    return lacking


def packages(propagators: Iterable[str]) -> str:
    """What to install for *propagators*; empty if that is not known of one of them."""
    known = [_PACKAGES.get(name, "") for name in propagators]
    return " ".join(dict.fromkeys(known)) if all(known) else ""


def without(value: str, lacking: Iterable[str]) -> str:
    """OTEL_PROPAGATORS without those that are *lacking*."""
    gone = set(lacking)
    return ",".join(word for word in map(str.strip, value.split(",")) if word not in gone)
