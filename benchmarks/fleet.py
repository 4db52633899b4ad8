"""Spans through an agent and two gateways: how many a second, and what the collectors spend on each.

The real collector with the configs that are shipped, agent.yaml and gateway.yaml;
what the gateways keep goes to another collector that counts it. The spans are those
of real requests (benchmarks/exports.py), encoded beforehand, of which each copy
gets trace ids of its own; processes of the service send them over gRPC, in batches
of 512, and wait for the answer. Two kinds take turns: spans of upstream's
instrumentation alone, and of ours, of the same requests.

How many a second: as many as there are while never more than a window of spans is
between the senders and the gateways. That is less than the agent's queues hold, so
nothing may be lost; a run in which anything was refused, dropped or not counted by
the gateways is an error. Programs and senders share this machine's processors, so
the rate is the machine's; the ratio of two kinds is that of the programs. Other work
on the machine blurs it. What blurs it less are seconds of CPU per span.

The decision about a trace is made after 2 s here, so that a run need not take
minutes, and no limit of memory holds; that is measured by itself: at a given rate,
with the wait and the limits that are shipped, once as many traces wait as ever will.

Needs `make backends`. Linux only, as /proc says what a process has used.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import figures
import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
programs: Any = importlib.import_module("kit.programs")

#: Workload and setting of benchmarks/exports.py, and what is changed in agent.yaml.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "upstream": ("keepalive", "upstream", {}),
    "ours": ("keepalive", "default", {}),
    "zstd": ("keepalive", "default", {"exporters::loadbalancing::protocol::otlp::compression": "zstd"}),
    "unread": ("unread", "default", {}),
}
BATCH = 512
SENDERS = 6
#: Of instances of the service: each makes its series of the spans' metrics.
PROCESSES = 20
#: Spans on their way to the gateways, at most: the agent's queues hold 50,000 for each.
WINDOW = 30_000
#: What counts as lost, by what the collectors say of themselves.
LOSSES = (
    "otelcol_receiver_refused_spans",
    "otelcol_receiver_failed_spans",
    "otelcol_processor_refused_spans",
    "otelcol_exporter_enqueue_failed_spans",
    "otelcol_exporter_send_failed_spans",
    "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early",
)
_SINK = """
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: ${env:OTLP_GRPC_ENDPOINT}
extensions:
  health_check:
    endpoint: ${env:HEALTH_ENDPOINT}
exporters:
  debug:
    verbosity: basic
    sampling_initial: 1
    sampling_thereafter: 1000000
service:
  extensions: [health_check]
  telemetry:
    metrics:
      readers:
        - pull:
            exporter:
              prometheus:
                host: ${env:OWN_METRICS_HOST}
                port: ${env:OWN_METRICS_PORT}
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [debug]
"""


def gzip_cost(template: Template) -> float:
    """Microseconds of CPU that gzip takes for a request, as the exporter over HTTP does it: the least of several."""
    spent = []
    for number in range(20):
        data = template.fresh(number)
        begun = time.process_time()
        gzip.compress(data)
        spent.append(time.process_time() - begun)
    return min(spent) / (BATCH / template.spans_per_request) * 1e6


class Template:
    """Batches of one kind, and where in them the trace ids are."""

    def __init__(self, kind: str, batches: int = 4) -> None:
        self.agent = KINDS[kind][2]
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(ROOT / "benchmarks/exports.py"), "--worker", "httpx", *KINDS[kind][:2]]
            command += ["--batches", str(batches), "--save", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            self._batches = [self._read(path.read_bytes()) for path in sorted(Path(folder).iterdir())]
        self.spans_per_request = batches * BATCH / sum(requests for _, _, _, requests in self._batches)
        self.bytes_per_span = statistics.fmean(len(data) for data, _, _, _ in self._batches) / BATCH

    @staticmethod
    def _read(data: bytes) -> tuple[bytes, int, list[tuple[int, int]], int]:
        request = ExportTraceServiceRequest.FromString(data)
        spans = [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
        ids = list(dict.fromkeys(span.trace_id for span in spans))
        found = [
            (match.start(), number) for number, one in enumerate(ids) for match in re.finditer(re.escape(one), data)
        ]
        (instance,) = (match.start() for match in re.finditer(rb"12461068-aa5c-45c3-8b51-0f8a6eb19d01", data))
        return data, instance, found, sum(span.kind == span.SPAN_KIND_CLIENT for span in spans)

    def fresh(self, number: int, processes: int = PROCESSES) -> bytes:
        """A batch with ids that no other has, of one of the processes."""
        data, instance, found, _ = self._batches[number % len(self._batches)]
        copy = bytearray(data)
        copy[instance : instance + 36] = b"12461068-aa5c-45c3-8b51-0f8a6eb1%04d" % (number % processes)
        ids = os.urandom(16 * (found[-1][1] + 1) if found else 0)
        for offset, one in found:
            copy[offset : offset + 16] = ids[16 * one : 16 * one + 16]
        return bytes(copy)


def said(program: Any, *names: str) -> dict[str, float]:
    """Some of what a collector says of itself, each the sum of its series; without the parser, which costs the CPU."""
    text = program.http.get(f"http://{program.own_address}/metrics").text
    found = dict.fromkeys(names, 0.0)
    for name, value in re.findall(r"^(\w+?)(?:_total)?(?:\{[^\n]*\})? (\S+)$", text, re.MULTILINE):
        if name in found:
            found[name] += float(value)
    return found


def exposed(program: Any) -> str:
    """What Prometheus would find at a collector's prometheus exporter."""
    text: str = program.http.get(f"http://{program.metrics_address}/metrics").text
    return text


class Tiers:
    """An agent, two gateways and what stands for the backend, and the senders."""

    def __init__(self, template: Template, folder: Path, processes: int = PROCESSES, **settings: str) -> None:
        self.template = template
        self._processes = processes
        (folder / "sink.yaml").write_text(_SINK)
        self.sink = programs.Collector(folder / "sink.yaml")
        # Beyond what memory_limiter lets in; see gateway.yaml.
        sets = {"processors::tail_sampling::num_traces": 5_000_000} if "MEMORY_LIMIT_MIB" in settings else None
        self.gateways = [
            programs.Collector(
                "gateway.yaml", sets, TRACES_ENDPOINT=self.sink.grpc_address, GATEWAY_NAME=name, **settings
            )
            for name in ("gateway-0", "gateway-1")
        ]
        settings.pop("DECISION_WAIT", None)
        addresses = ", ".join(gateway.grpc_address for gateway in self.gateways)
        self.agent = programs.Collector("agent.yaml", template.agent or None, GATEWAYS=f"[{addresses}]", **settings)
        self.sent = self.arrived = 0
        self._going = threading.Event()
        self._room = threading.Condition()
        self._errors: list[Exception] = []
        self._pace: float | None = None
        self._begun = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """With all of them."""
        with programs.backends(self.sink, *self.gateways, self.agent):
            yield

    def _take(self) -> int | None:
        # The number of the next batch, once it may be sent.
        with self._room:
            while self._going.is_set():
                wait = 0.1
                if self._pace is not None:
                    wait = self._begun + self.sent / self._pace - time.monotonic()
                    if wait <= 0:
                        break
                elif self.sent + BATCH - self.arrived <= WINDOW:
                    break
                self._room.wait(wait)
            else:
                return None
            self.sent += BATCH
            return self.sent // BATCH

    def _send(self) -> None:
        with grpc.insecure_channel(self.agent.grpc_address) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            try:
                while (number := self._take()) is not None:
                    answer = export(self.template.fresh(number, self._processes), timeout=30)
                    if ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans:
                        raise RuntimeError(f"not all was accepted: {answer!r}")
            except Exception as error:
                self._errors.append(error)
                self._going.clear()

    def _look(self) -> None:
        arrived = sum(
            said(gateway, "otelcol_receiver_accepted_spans")["otelcol_receiver_accepted_spans"]
            for gateway in self.gateways
        )
        with self._room:
            self.arrived = int(arrived)
            self._room.notify_all()

    def _follow(self) -> None:
        while self._going.is_set():
            self._look()
            time.sleep(0.1)

    @contextmanager
    def sending(self, pace: float | None = None) -> Iterator[None]:
        """While the senders send: as much as there is room for, or *pace* spans a second."""
        self._pace, self._begun = pace, time.monotonic() - self.sent / pace if pace else 0.0
        self._going.set()
        threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        threads.append(threading.Thread(target=self._follow))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._going.clear()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]

    def used(self) -> dict[str, float]:
        """Seconds of CPU by now, and when that was."""
        own = time.process_time()
        return {
            "at": time.monotonic(),
            "spans": self.arrived,
            "agent": self.agent.cpu(),
            "gateways": sum(gateway.cpu() for gateway in self.gateways),
            "sink": self.sink.cpu(),
            "senders": own,
        }

    def memory(self) -> dict[str, float]:
        """MiB resident, of a gateway on average."""
        return {
            "agent": self.agent.memory() / 2**20,
            "gateway": statistics.fmean(gateway.memory() for gateway in self.gateways) / 2**20,
        }

    def counted(self) -> int:
        """Spans that the gateways' metrics of spans have counted."""
        pattern = re.compile(r"^traces_span_metrics_calls(?:_total)?\{[^}]*\} (\S+)", re.MULTILINE)
        return int(sum(float(value) for gateway in self.gateways for value in pattern.findall(exposed(gateway))))

    def arrive(self) -> None:
        """Wait until all that was sent is counted, and what was kept is where it is stored; complain of losses."""

        def all_there() -> bool:
            self._look()
            return self.arrived >= self.sent

        programs.until("all spans are with the gateways", all_there)
        assert self.arrived == self.sent, f"sent {self.sent}, arrived {self.arrived}"
        programs.until("all spans are counted", lambda: self.counted() >= self.sent)
        assert self.counted() == self.sent

    def kept(self) -> int:
        """Spans that the gateways kept, once all of them are in the backend."""
        found = 0

        def stored() -> bool:
            nonlocal found
            inside = "otelcol_processor_tail_sampling_sampling_traces_on_memory"
            sent = "otelcol_exporter_sent_spans"
            gateways = [said(gateway, inside, sent) for gateway in self.gateways]
            found = int(sum(one[sent] for one in gateways))
            at_sink = said(self.sink, "otelcol_receiver_accepted_spans")["otelcol_receiver_accepted_spans"]
            return found > 0 and found == at_sink and all(one[inside] <= 1 for one in gateways)

        programs.until("what was kept is in the backend", stored)
        return found

    def losses(self) -> dict[str, float]:
        """What was lost, by anybody's count."""
        found: dict[str, float] = {}
        for name, program in (
            ("agent", self.agent),
            ("gateway-0", self.gateways[0]),
            ("gateway-1", self.gateways[1]),
            ("sink", self.sink),
        ):
            found.update({f"{name}: {what}": lost for what, lost in said(program, *LOSSES).items() if lost})
        return found


def fastest(template: Template, seconds: float) -> dict[str, Any]:
    """One run at the highest rate: spans a second, and CPU microseconds per span."""
    with tempfile.TemporaryDirectory() as folder:
        tiers = Tiers(
            template,
            Path(folder),
            DECISION_WAIT="2s",
            MEMORY_LIMIT_MIB="6000",
            MEMORY_SPIKE_MIB="1000",
            SPANMETRICS_INTERVAL="2s",
        )
        with tiers.running():
            with tiers.sending():
                # Until decisions are made as fast as traces arrive.
                time.sleep(4)
                before = tiers.used()
                time.sleep(seconds)
                after = tiers.used()
            tiers.arrive()
            kept = tiers.kept()
            losses = tiers.losses()
    assert not losses, losses
    spans = after["spans"] - before["spans"]
    return {
        "rate": spans / (after["at"] - before["at"]),
        "cpu": {who: (after[who] - before[who]) / spans * 1e6 for who in ("agent", "gateways", "sink", "senders")},
        "sent": tiers.sent,
        "kept": kept / tiers.sent,
    }


def steady(template: Template, pace: float, seconds: float) -> dict[str, Any]:
    """One run at a given rate with all limits as they are shipped: MiB of memory, and CPU."""
    with tempfile.TemporaryDirectory() as folder:
        tiers = Tiers(template, Path(folder), SPANMETRICS_INTERVAL="2s")
        with tiers.running():
            idle = tiers.memory()
            peak = dict(idle)
            with tiers.sending(pace):
                time.sleep(18)  # decision_wait, and a bit
                before = tiers.used()
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.5)
                    peak = {who: max(peak[who], now) for who, now in tiers.memory().items()}
                after = tiers.used()
            tiers.arrive()
            losses = tiers.losses()
    assert not losses, losses
    spans = after["spans"] - before["spans"]
    return {
        "rate": spans / (after["at"] - before["at"]),
        "idle": idle,
        "peak": peak,
        "cpu": {who: (after[who] - before[who]) / spans * 1e6 for who in ("agent", "gateways")},
    }


def series(template: Template, processes: int = 200) -> dict[str, Any]:
    """How many series one gateway makes of the spans of many processes, all of which make the same kind of request."""
    with tempfile.TemporaryDirectory() as folder:
        tiers = Tiers(template, Path(folder), processes, DECISION_WAIT="2s", SPANMETRICS_INTERVAL="2s")
        with tiers.running():
            with tiers.sending():
                programs.until("all processes have sent", lambda: tiers.sent >= processes * BATCH)
            tiers.arrive()
            text = exposed(tiers.gateways[0])
    return {"processes": processes, "series": len(re.findall(r"^traces_span_metrics_", text, re.MULTILINE))}


#: Whose series one is, by the beginning of its name.
_OWNERS = {
    "spanmetrics": ("traces_span_metrics_",),
    "ours": (
        "httptrace_",
        "dns_lookup_duration_",
        "http_client_open_connections",
        "http_client_connection_duration_",
        "http_client_request_time_in_queue_",
    ),
    "upstream": ("http_client_duration_", "http_client_request_duration_"),
}


def demo_series() -> dict[str, dict[str, int]]:
    """How many series the demo's service has behind local.yaml, with bodies unread and read."""
    demo = importlib.import_module("otel_httptrace.demo")
    server: Any = importlib.import_module("otel_httptrace.demo.server").Server
    found = {}
    for name, arguments in (("unread", []), ("read", ["--read"])):
        sink = programs.Jaeger()
        collector = programs.Collector("local.yaml", TRACES_ENDPOINT=sink.grpc_address, SPANMETRICS_INTERVAL="1s")
        with (
            tempfile.TemporaryDirectory() as folder,
            programs.backends(sink, collector),
            server() as served,
        ):
            program = shutil.copy(Path(str(demo.__file__)).with_name("status_page.py"), folder)
            command = [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, program, served.url]
            settings = {
                **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_SERVICE_NAME": "demo",
            }
            subprocess.run([*command, *arguments], env=settings, check=True)
            calls = re.compile(r'^traces_span_metrics_calls_total\{.*span_name="GET".*\} (\S+)', re.MULTILINE)
            programs.until(
                "all requests are counted",
                lambda: sum(map(float, calls.findall(exposed(collector)))) == 20,  # noqa: B023 - called here
            )
            lines = exposed(collector).splitlines()
        found[name] = {owner: sum(line.startswith(prefixes) for line in lines) for owner, prefixes in _OWNERS.items()}
    return found


def middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs, of all numbers in them."""
    found: dict[str, Any] = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs]
        found[name] = middle(values) if isinstance(value, dict) else statistics.median(values)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All kinds, taking turns."""
    templates = {kind: Template(kind) for kind in KINDS}
    fast: dict[str, list[dict[str, Any]]] = {kind: [] for kind in templates}
    slow: dict[str, list[dict[str, Any]]] = {kind: [] for kind in templates}
    for number in range(options.rounds):
        for kind, template in templates.items():
            fast[kind].append(run := fastest(template, options.seconds))
            print(f"{number + 1} {kind:18}{run['rate']:9,.0f} spans/s  {run['cpu']}", file=sys.stderr)
    for _ in range(options.steady_rounds):
        for kind, template in templates.items():
            if template.agent:
                continue
            slow[kind].append(run := steady(template, options.pace, options.seconds))
            print(f"steady {kind:18}{run['rate']:9,.0f} spans/s  {run}", file=sys.stderr)
    found: dict[str, Any] = {
        "machine": {"processors": os.cpu_count(), "machine": platform.machine()},
        "rounds": options.rounds,
        "kinds": {
            kind: {
                "spans_per_request": template.spans_per_request,
                "bytes_per_span": template.bytes_per_span,
                "fastest": {**middle(fast[kind]), "rates": [run["rate"] for run in fast[kind]]},
                "steady": middle(slow[kind]) if slow[kind] else None,
            }
            for kind, template in templates.items()
        },
        "gzip": gzip_cost(templates["ours"]),
        "series": {"gateway": series(templates["ours"]), "demo": demo_series()},
    }
    alone = found["kinds"]["upstream"]["fastest"]["cpu"]
    for kind, one in found["kinds"].items():
        # Of each round by itself: what else the machine does comes and goes.
        one["ratio"] = statistics.median(
            ours["rate"] / upstream["rate"] for ours, upstream in zip(fast[kind], fast["upstream"], strict=True)
        )
        cpu = one["fastest"]["cpu"]
        one["ratio by CPU"] = (alone["agent"] + alone["gateways"]) / (cpu["agent"] + cpu["gateways"])
    return found


def table(found: dict[str, Any]) -> str:
    """The results for people."""
    lines = [f"{'':18}{'spans/s':>9}{'ratio':>7}{'CPU us/span: agent':>20}{'gateways':>10}{'senders':>9}{'kept':>7}"]
    for kind, one in found["kinds"].items():
        fast = one["fastest"]
        lines.append(
            f"{kind:18}{fast['rate']:9,.0f}{one['ratio']:7.2f}{fast['cpu']['agent']:20.1f}"
            f"{fast['cpu']['gateways']:10.1f}{fast['cpu']['senders']:9.1f}{fast['kept']:7.1%}"
        )
    lines.append(f"{'':18}{'spans/s':>9}{'MiB idle: agent':>17}{'gateway':>9}{'MiB then: agent':>17}{'gateway':>9}")
    for kind, one in found["kinds"].items():
        steady = one["steady"]
        if steady is None:
            continue
        memory = "".join(f"{steady[when]['agent']:17.0f}{steady[when]['gateway']:9.0f}" for when in ("idle", "peak"))
        lines.append(f"{kind:18}{steady['rate']:9,.0f}{memory}")
    lines.append(f"series: {found['series']}")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, of each run")
    parser.add_argument("--steady-rounds", type=int, default=1)
    parser.add_argument("--pace", type=float, default=4000.0, help="spans a second, where memory is measured")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="to docs/scale.json, for docs/scale.md")
    options = parser.parse_args()
    found = measure(options)
    if options.write:
        figures.write("fleet", found)
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
