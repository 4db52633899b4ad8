"""A Python that was injected into, as the OpenTelemetry Operator does it: a copied folder, and variables."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import otel_httptrace

#: What there is in the operator's own image of what we need, of the operator's requirements.txt.
OPERATOR = (
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation",
    "opentelemetry-instrumentation-httpx",
)


def _needed(names: Iterable[str]) -> set[str]:
    """*names*, and all that these depend on."""
    found: set[str] = set()
    asked = list(names)
    while asked:
        if (name := asked.pop()) not in found:
            found.add(name)
            wanted = (Requirement(text) for text in importlib.metadata.requires(name) or ())
            asked += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def _install(names: Iterable[str], to: Path) -> None:
    """Put what is installed here under *names* into *to*, as links."""
    for name in _needed(names):
        for file in importlib.metadata.files(name) or ():
            # What is beside the packages, such as scripts, is not wanted.
            if ".." not in file.parts and not (target := to / file).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file.locate())


def image(to: Path) -> None:
    """/autoinstrumentation of the image: the operator's packages, and otel-httptrace without anything else."""
    _install(OPERATOR, to)
    package = Path(otel_httptrace.__file__).parent
    shutil.copytree(package, to / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (described,) = [
        file.locate() for file in importlib.metadata.files("otel-httptrace") or () if file.name == "entry_points.txt"
    ]
    described = Path(str(described)).parent
    shutil.copytree(described, to / described.name)


def application(to: Path, *names: str) -> Path:
    """A Python with *names* and nothing of OpenTelemetry: its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", to], check=True)
    (packages,) = to.glob("lib/python*/site-packages")
    _install(names, packages)
    return to / "bin/python"


def environment(instrumentation: Mapping[str, Any], folder: Path, node: str) -> dict[str, str]:
    """The variables that the operator sets in a container; what a pod has itself comes before these.

    Args:
        instrumentation: the resource of that kind.
        folder: where the volume is.
        node: the address of the pod's node.
    """
    spec = instrumentation["spec"]
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": spec["exporter"]["endpoint"].replace("$(OTEL_NODE_IP)", node),
        "OTEL_PROPAGATORS": ",".join(spec["propagators"]),
        "OTEL_TRACES_SAMPLER": spec["sampler"]["type"],
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=shop-0,service.instance.id=default.shop-0.shop",
        **{one["name"]: one["value"] for one in spec["python"]["env"]},
        "PYTHONPATH": f"{folder}/opentelemetry/instrumentation/auto_instrumentation:{folder}",
    }
