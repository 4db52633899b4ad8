"""Whether the objects of a Kubernetes deployment fit together: what a cluster would not say, or only by not working."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

Object = Mapping[str, Any]

#: The port that each variable of a collector's config opens, by its name in the manifests.
PORTS = {
    "OTLP_GRPC_ENDPOINT": "otlp-grpc",
    "OTLP_HTTP_ENDPOINT": "otlp-http",
    "HEALTH_ENDPOINT": "health",
    "METRICS_ENDPOINT": "metrics",
    "OWN_METRICS_PORT": "own-metrics",
}
POD_S_NAME = {"fieldRef": {"fieldPath": "metadata.name"}}
WORKLOADS = ("DaemonSet", "StatefulSet", "Deployment")


def named(one: Object) -> str:
    """Kind and name, for a message."""
    return f"{one['kind']} {one['metadata']['name']}"


def environment(pod: Object) -> dict[str, str]:
    """The variables of its one container; what is known only in a cluster is made up."""
    (container,) = pod["containers"]
    return {one["name"]: one.get("value", "gateway-0") for one in container.get("env", ())}


def ports(pod: Object) -> dict[str, int]:
    """The ports of its one container, by name."""
    (container,) = pod["containers"]
    return {port["name"]: port["containerPort"] for port in container.get("ports", ())}


def configs(pod: Object, objects: Sequence[Object]) -> dict[str, str]:
    """Path and text of each file in the pod that comes out of a ConfigMap."""
    (container,) = pod["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container.get("volumeMounts", ())}
    found = {}
    for volume in pod.get("volumes", ()):
        for one in objects:
            if one["kind"] == "ConfigMap" and one["metadata"]["name"] == volume["configMap"]["name"]:
                found.update({f"{mounts[volume['name']]}/{file}": text for file, text in one["data"].items()})
    return found


class Deployment:
    """All objects together.

    Args:
        objects: as kustomize has written them.
    """

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects
        self.workloads = [one for one in objects if one["kind"] in WORKLOADS]

    def of(self, kind: str, name: str | None = None) -> list[Object]:
        """The objects of a kind, or the one of this name."""
        return [one for one in self.objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]

    def selected(self, labels: Mapping[str, str]) -> list[Object]:
        """The workloads whose pods have these labels."""
        return [
            one for one in self.workloads if labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]

    def faults(self) -> list[str]:
        """All that does not fit together."""
        return [
            *self._places(),
            *self._selectors(),
            *(fault for one in self.workloads for fault in self._pod(one, one["spec"]["template"]["spec"])),
            *self._gateways(),
        ]

    def _places(self) -> Iterator[str]:
        namespaces = {one["metadata"]["name"] for one in self.of("Namespace")}
        for one in self.objects:
            if one["kind"] != "Namespace" and one["metadata"].get("namespace") not in namespaces:
                yield f"{named(one)} is in no namespace that is made"

    def _selectors(self) -> Iterator[str]:
        for one in self.workloads:
            if one not in self.selected(one["spec"]["selector"]["matchLabels"]):
                yield f"{named(one)} does not select its own pods"
        for one in self.of("Service"):
            pods = self.selected(one["spec"]["selector"])
            if len(pods) != 1:
                yield f"{named(one)} selects {len(pods)} workloads"
            for port in one["spec"]["ports"]:
                for pod in pods:
                    if ports(pod["spec"]["template"]["spec"]).get(port["targetPort"]) != port["port"]:
                        yield f"{named(one)}: {named(pod)} has no {port['targetPort']} at {port['port']}"
        for one in self.of("PodDisruptionBudget"):
            if not self.selected(one["spec"]["selector"]["matchLabels"]):
                yield f"{named(one)} selects no pod"
        for one in self.of("NetworkPolicy"):
            pods = self.selected(one["spec"]["podSelector"]["matchLabels"])
            if not pods:
                yield f"{named(one)} selects no pod"
            for rule in one["spec"]["ingress"]:
                for peer in rule.get("from", ()):
                    if not self.selected(peer["podSelector"]["matchLabels"]):
                        yield f"{named(one)} lets nobody in"
                for port in rule["ports"]:
                    if any(port["port"] not in ports(pod["spec"]["template"]["spec"]) for pod in pods):
                        yield f"{named(one)}: no port {port['port']}"

    def _pod(self, one: Object, pod: Object) -> Iterator[str]:
        """The pod of a collector."""
        name = named(one)
        (container,) = pod["containers"]
        if not self.of("ServiceAccount", pod["serviceAccountName"]):
            yield f"{name}: no service account {pod['serviceAccountName']}"
        for probe in ("readinessProbe", "livenessProbe"):
            if container[probe]["httpGet"]["port"] != "health":
                yield f"{name}: {probe} asks another port than health"
        files, asked = configs(pod, self.objects), ""
        for argument in container["args"]:
            path = argument.removeprefix("--config=")
            if path not in files:
                yield f"{name}: no file {path}"
            asked += files.get(path, "")
        yield from self._variables(name, pod, set(re.findall(r"\$\{env:(\w+)", asked)))
        yield from self._memory(name, container, environment(pod))
        for variable in container["env"]:
            # Series of two pods would overwrite each other if it were the same for both.
            if variable["name"] == "GATEWAY_NAME" and variable.get("valueFrom") != POD_S_NAME:
                yield f"{name}: GATEWAY_NAME is not the pod's own"

    def _variables(self, name: str, pod: Object, asked: set[str]) -> Iterator[str]:
        found, opened = environment(pod), ports(pod)
        yield from (f"{name}: no config asks for {one}" for one in sorted({*found} - asked - {"GOMEMLIMIT"}))
        for variable, port in PORTS.items():
            host, _, number = found.get(variable, "").rpartition(":")
            # What listens on the pod's loopback needs no port.
            if host != "127.0.0.1" and str(opened.get(port)) != number:
                yield f"{name}: {variable} is {found.get(variable)}, and the port {port} {opened.get(port)}"
        if set(opened) - set(PORTS.values()):
            yield f"{name}: nobody listens at {sorted(set(opened) - set(PORTS.values()))}"

    def _memory(self, name: str, container: Object, environ: Mapping[str, str]) -> Iterator[str]:
        """What agent.yaml and gateway.yaml say of the container's memory."""
        limit, given = int(environ["MEMORY_LIMIT_MIB"]), int(container["resources"]["limits"]["memory"].rstrip("Mi"))
        if not 1.2 * (limit + 50) <= given <= 1.25 * (limit + 50):
            yield f"{name}: {given} MiB for a memory_limiter of {limit}"
        if environ["GOMEMLIMIT"] != f"{round(0.8 * limit, -1):g}MiB":
            yield f"{name}: GOMEMLIMIT is {environ['GOMEMLIMIT']} for a memory_limiter of {limit}"

    def _gateways(self) -> Iterator[str]:
        """The names that agents send to are those of the gateways' pods."""
        (agent,), (gateway,) = self.of("DaemonSet"), self.of("StatefulSet")
        services = self.of("Service", gateway["spec"]["serviceName"])
        if [one["spec"].get("clusterIP") for one in services] != ["None"]:
            yield f"{named(gateway)} has no headless service"
            return
        name, service = gateway["metadata"]["name"], services[0]["metadata"]["name"]
        port = ports(gateway["spec"]["template"]["spec"])["otlp-grpc"]
        names = [f"{name}-{number}.{service}:{port}" for number in range(gateway["spec"]["replicas"])]
        sent = yaml.safe_load(environment(agent["spec"]["template"]["spec"]).get("GATEWAYS", "[]"))
        if sent != names:
            yield f"agents send to {sent}, and there are {names}"
