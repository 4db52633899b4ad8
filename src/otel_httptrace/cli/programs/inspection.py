# Run by the Python of somebody's program (python -c, with this file as text),
# which may lack everything that is not in the standard library.

"""What a Python has, as facts for ``httptrace doctor``: prints one line of JSON."""

from __future__ import annotations

import inspect
import json
import os
import platform
import sys
from importlib import metadata

DISTRIBUTIONS = (
    "otel-httptrace",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-distro",
    "opentelemetry-instrumentation",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
)

#: Of entry points that variables name: as in `plugins`, which is not to be had where this runs.
GROUPS = (
    "opentelemetry_propagator",
    "opentelemetry_context",
    "opentelemetry_tracer_provider",
    "opentelemetry_meter_provider",
    "opentelemetry_id_generator",
    "opentelemetry_distro",
    "opentelemetry_configurator",
    "opentelemetry_traces_exporter",
    "opentelemetry_metrics_exporter",
    "opentelemetry_logs_exporter",
    "opentelemetry_traces_sampler",
)


def installed(*more: str) -> dict[str, object]:
    """Versions, by distribution, and the instrumentations that ``opentelemetry-instrument`` would find.

    Args:
        *more: distributions to look for, besides.
    """
    versions: dict[str, str | None] = {}
    for name in dict.fromkeys((*DISTRIBUTIONS, *more)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # noqa: PERF203
            versions[name] = None
    names = sorted({entry.name for entry in metadata.entry_points(group="opentelemetry_instrumentor")})
    offered = {group: sorted({entry.name for entry in metadata.entry_points(group=group)}) for group in GROUPS}
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "prefix": sys.prefix,
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": platform.python_version(),
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": platform.python_version(),
            "python_version": ".".join(platform.python_version_tuple()[:2]),
            "sys_platform": sys.platform,
        },
        "versions": versions,
        "entry_points": names,
        "offered": offered,
    }


def lent(folder: str) -> dict[str, object]:
    """Whether what is in *folder* can be imported here, and is found by its entry points."""
    sys.path.append(folder)
    wanted = {
        "opentelemetry_instrumentor": "httptrace",
        "opentelemetry_distro": "distro",
        "opentelemetry_configurator": "configurator",
        "opentelemetry_traces_exporter": "otlp_proto_http",
    }
    for group, name in wanted.items():
        found = [entry for entry in metadata.entry_points(group=group) if entry.name == name]
        if not found:
            return {"error": f"the entry point {name} of {group} is not found"}
        try:
            found[0].load()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None}


def requested(url: str, *names: str) -> dict[str, object]:
    """Two requests with each client, where this runs under ``opentelemetry-instrument``; and the hooks in place.

    Args:
        url: what to request.
        *names: the clients to try, as ``module:class``.
    """
    from otel_httptrace import HTTPTraceInstrumentor  # noqa: PLC0415

    errors: dict[str, str] = {}
    clients: list[str] = []
    for asked in names:
        name, _, kind = asked.partition(":")
        try:
            library = __import__(name)
        except ImportError:
            continue
        clients.append(name)
        try:
            cls = getattr(library, kind)
            # Not by the machine's proxies, as each of them has it.
            environment = "trust_env" in inspect.signature(cls).parameters
            with cls(trust_env=False, timeout=10) if environment else cls() as client:
                if not environment:
                    client.trust_env = False
                for _ in range(2):
                    client.request("GET", url)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    instrumentor = HTTPTraceInstrumentor()
    patches = getattr(getattr(instrumentor, "_lifetime", None), "patches", None)
    hooks = sorted({f"{_name(owner)}.{name}" for owner, name in (patches.replaced() if patches is not None else ())})
    return {
        "instrumented": bool(instrumentor.is_instrumented_by_opentelemetry),
        "hooks": hooks,
        "errors": errors,
        "clients": clients,
    }


def _name(owner: object) -> str:
    module, name = getattr(owner, "__module__", None), getattr(owner, "__qualname__", None)
    return f"{module}.{name}" if module and name else str(getattr(owner, "__name__", type(owner).__name__))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:] or ("installed",)
    facts = globals()[what](*arguments)
    sys.stdout.write(json.dumps(facts) + "\n")
