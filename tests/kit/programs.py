"""The real programs that tests/backends runs, each on free ports of the loopback, for as long as a `with` lasts."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "collector-config"
#: What `make backends` made.
BACKENDS = Path(os.environ.get("HTTPTRACE_BACKENDS", ROOT / "build/backends"))
#: How long a program may take to begin, or to say what was asked of it: much longer than it does.
PATIENCE = 50.0

#: How Prometheus gets what is at *addresses*, of collectors: several times a second.
SCRAPED = """
global:
  scrape_interval: 250ms
  scrape_timeout: 250ms
scrape_configs:
  - job_name: collector
    # The job and the instance are those of the applications, the same at all collectors.
    honor_labels: true
    static_configs:
      - targets: [{addresses}]
"""


#: A rate, and what it is of.
RATE = re.compile(r"(?:rate|increase)\((\w+\{[^}]*\})\[\w+\]\)")


def counted(query: str) -> str:
    """The same query in PromQL of what was counted, and not of rates.

    A program of a second is over before anyone has looked twice, so there is no rate of what it counted. But it
    counted from zero: its counters are what they increased by. The last that was scraped: where one scrape takes too
    long, for a moment there is nothing.
    """
    return RATE.sub(r"last_over_time(\1[1h])", query)


def quick(rules: str) -> str:
    """The same rules in less time: rates over 4 s instead of 5 min, alerts after 1 s, responses leaked after 2 s."""
    quicker = re.sub(r"for: \d+m\b", "for: 1s", rules.replace("[5m]", "[4s]")).replace("> 600\n", "> 2\n")
    assert not re.search(r"\d+m\b(?!s)", re.sub("rate5m", "", quicker).partition("groups:")[2])
    return quicker


def until(what: str, found: Any, patience: float = PATIENCE) -> Any:
    """Ask *found* again and again until what it returns is true, and return that."""
    end = time.monotonic() + patience
    while True:
        if answer := found():
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {patience:g} s; the last answer was {answer!r}")
        time.sleep(0.02)


#: Below those that the system gives to connections: such a one could get the port before the program does.
_PORTS = itertools.islice(itertools.cycle(range(16_000, 32_000)), random.randrange(16_000), None)


def free_port() -> int:
    """A port of the loopback that nobody listens on, and that this has not returned before."""
    while True:
        port = next(_PORTS)
        with socket.socket() as sock:
            # As programs do: what a connection left behind is no hindrance.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Program:
    """A process that is ready once `ready` says so.

    Args:
        program: its name in what `make backends` made.
        arguments: its own.
        environ: variables to set beside those that are.
    """

    #: Where an answer of 200 tells that it is ready.
    health = ""

    def __init__(self, program: str, *arguments: str | Path, **environ: str) -> None:
        self._command = [str(BACKENDS / "bin" / program), *map(str, arguments)]
        self._environ = environ
        self._files = ExitStack()
        self._log: IO[bytes] = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered
        self.process: subprocess.Popen[bytes] | None = None
        #: Asks the program's own pages.
        self.http = httpx.Client(trust_env=False, timeout=PATIENCE)

    def start(self) -> None:
        """Start it, and return when it is ready."""
        self.process = subprocess.Popen(
            self._command,
            env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), **self._environ},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        until(f"{self._command[0]} is ready", self._is_ready)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self._command} ended at once:\n{self.log}"
        return self.ready()

    def ready(self) -> bool:
        """Whether it can be used."""
        try:
            return self.http.get(self.health).status_code == 200
        except httpx.TransportError:
            return False

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and return when it is gone."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    def kill(self) -> None:
        """End it without a chance to do anything about it."""
        self.stop(signal.SIGKILL)

    @property
    def log(self) -> str:
        """All that it has printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def cpu(self) -> float:
        """Seconds of a processor that it has used, in user and system mode (Linux only)."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of memory that it has in use (Linux only)."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Any:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop(signal.SIGKILL)
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End it."""
        self.stop()
        self._close()

    def _close(self) -> None:
        self.http.close()
        self._files.close()


class Collector(Program):
    """An OpenTelemetry Collector with one of the configs that are shipped.

    Args:
        config: a file of collector-config/, or any other.
        sets: what to change in it, ``{"processors::batch::timeout": "100ms"}``: texts, numbers, lists or mappings.
        environ: the variables that the config asks for; those for its own ports are set here.
    """

    def __init__(self, config: str | Path, sets: Mapping[str, Any] | None = None, **environ: str) -> None:
        ports = [free_port() for _ in range(5)]
        grpc, http, health, metrics, own = (f"127.0.0.1:{port}" for port in ports)
        #: For OTEL_EXPORTER_OTLP_ENDPOINT, by protocol.
        self.grpc, self.otlp = f"http://{grpc}", f"http://{http}"
        #: Host and port of the same.
        self.grpc_address, self.http_address = grpc, http
        #: Where Prometheus finds what the prometheus exporter has, and what the collector says of itself.
        self.metrics_address, self.own_address = metrics, own
        self.health = f"http://{health}"
        super().__init__(
            "otelcol",
            f"--config=file:{CONFIGS / config}",
            **{
                "OTLP_GRPC_ENDPOINT": grpc,
                "OTLP_HTTP_ENDPOINT": http,
                "HEALTH_ENDPOINT": health,
                "METRICS_ENDPOINT": metrics,
                "OWN_METRICS_HOST": "127.0.0.1",
                "OWN_METRICS_PORT": str(ports[4]),
                **environ,
            },
        )
        if sets:
            self._command.append(f"--config=file:{self._changed(sets)}")

    def _changed(self, sets: Mapping[str, Any]) -> str:
        """A second config, laid over the first: ``--set`` would need a provider that this build has not."""
        changes: dict[str, Any] = {}
        for name, value in sets.items():
            *path, last = name.split("::")
            inner = changes
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = value
        file = self._files.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yaml"))  # noqa: SIM115 - entered
        json.dump(changes, file)  # JSON is YAML
        file.flush()
        return file.name

    def own(self) -> dict[str, float]:
        """What it says of itself: the sum of the values of each metric by its full name, as ``otelcol_x_total``."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.http.get(f"http://{self.own_address}/metrics").text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found


#: What Jaeger's UI is to show.
UI = Path(__file__).parents[2] / "collector-config" / "jaeger" / "jaeger-ui.json"


class Jaeger(Program):
    """A Jaeger that keeps what it gets in memory."""

    def __init__(self) -> None:
        ports = iter([free_port() for _ in range(9)])
        #: Where it takes OTLP: host and port.
        self.grpc_address, self.http_address = f"127.0.0.1:{next(ports)}", f"127.0.0.1:{next(ports)}"
        #: Its API and, in other builds, its pages.
        self.url = f"http://127.0.0.1:{next(ports)}"
        self.health = f"http://127.0.0.1:{(admin := next(ports))}/"
        super().__init__(
            "jaeger",
            "--collector.otlp.enabled=true",
            f"--collector.otlp.grpc.host-port={self.grpc_address}",
            f"--collector.otlp.http.host-port={self.http_address}",
            f"--query.http-server.host-port={self.url.removeprefix('http://')}",
            f"--admin.http.host-port=127.0.0.1:{admin}",
            f"--query.grpc-server.host-port=127.0.0.1:{next(ports)}",
            f"--collector.http-server.host-port=127.0.0.1:{next(ports)}",
            f"--collector.grpc-server.host-port=127.0.0.1:{next(ports)}",
            f"--http-server.host-port=127.0.0.1:{next(ports)}",
            "--processor.jaeger-compact.server-host-port=127.0.0.1:0",
            "--processor.jaeger-binary.server-host-port=127.0.0.1:0",
            "--processor.zipkin-compact.server-host-port=127.0.0.1:0",
            "--memory.max-traces=1000000",
            # It ends if it cannot read that.
            f"--query.ui-config={UI}",
            SPAN_STORAGE_TYPE="memory",
            # It would trace the queries of its own, send that to port 4317, and at its end wait for an answer.
            OTEL_TRACES_SAMPLER="always_off",
        )

    def traces(self, service: str, **query: Any) -> list[dict[str, Any]]:
        """Traces as its API has them, of ``/api/traces``: ``tags`` is JSON text, ``operation``, ``minDuration`` ..."""
        found = self.http.get(f"{self.url}/api/traces", params={"service": service, "limit": 100_000, **query})
        found.raise_for_status()
        return found.json()["data"] or []


JAEGER2 = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry: {metrics: {level: none}}
extensions:
  jaeger_storage: {backends: {memory: {memory: {max_traces: 1000000}}}}
  jaeger_query:
    storage: {traces: memory}
    ui: {config_file: %(ui)s}
    http: {endpoint: "%(query)s"}
    grpc: {endpoint: "%(grpc_query)s"}
receivers:
  otlp:
    protocols: {grpc: {endpoint: "%(grpc)s"}, http: {endpoint: "%(http)s"}}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
"""


class Jaeger2(Program):
    """A Jaeger 2 that keeps what it gets in memory, where `make backends2` has made one."""

    def __init__(self) -> None:
        query, grpc_query, grpc, http = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self.url, self.otlp = f"http://{query}", f"http://{http}"
        self.health = f"{self.url}/api/services"
        config = tempfile.NamedTemporaryFile("w", suffix=".yaml")  # noqa: SIM115 - closed with the program
        config.write(JAEGER2 % {"ui": UI, "query": query, "grpc_query": grpc_query, "grpc": grpc, "http": http})
        config.flush()
        super().__init__("jaeger2", f"--config={config.name}", OTEL_TRACES_SAMPLER="always_off")
        self._files.enter_context(config)

    @staticmethod
    def made() -> bool:
        """Whether there is one."""
        return (BACKENDS / "bin" / "jaeger2").exists()

    def links(self, trace: str) -> list[dict[str, Any]]:
        """Attributes of the links of a trace's spans, of ``/api/v3``."""
        found = self.http.get(f"{self.url}/api/v3/traces/{trace}").json()["result"]
        return [
            {one["key"]: next(iter(one["value"].values())) for one in link.get("attributes", ())}
            for resource in found["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
            for link in span.get("links", ())
        ]


class Prometheus(Program):
    """A Prometheus that scrapes, and evaluates rules, several times a second.

    Args:
        config: the text of its configuration, with its ``scrape_configs``.
        folder: where its data are kept, and what relative paths of the config begin at.
    """

    def __init__(self, config: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.health = f"{self.url}/-/ready"
        (folder / "prometheus.yaml").write_text(config)
        super().__init__(
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        )

    def query(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query: of each series ``metric``, its labels, and ``value``, a time and a text.

        It is of now, or of the time *at*, in seconds.
        """
        time = {} if at is None else {"time": at}
        found = self.http.get(f"{self.url}/api/v1/query", params={"query": query, **time}).json()
        assert found["status"] == "success", f"{query}: {found}"
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def value(self, query: str) -> float | None:
        """The one value of an instant query; None if there is none."""
        found = self.query(query)
        assert len(found) < 2, f"{query}: {found}"
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, str]]:
        """Labels of the alerts that fire now, by name."""
        alerts = self.http.get(f"{self.url}/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


class Dnsmasq(Program):
    """A DNS server that knows *names* and nothing else, and writes a log of what it was asked.

    It listens on port 53 of *address*, as resolver files have no other: its own network or, on the
    loopback, an address that nobody else uses.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], address: str = "127.0.0.53", *options: str) -> None:
        self.address = address
        super().__init__(
            "dnsmasq",
            "--keep-in-foreground",
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            f"--listen-address={address}",
            "--log-queries",
            "--log-facility=-",
            "--cache-size=0",
            *(f"--host-record={name},{','.join(found)}" for name, found in names.items()),
            *options,
        )

    def ready(self) -> bool:
        """It has said that it has started; its sockets are bound before."""
        return "started, version" in self.log

    def asked(self) -> list[tuple[str, str]]:
        """Its log of queries: type and name, in their order."""
        return [
            (line.partition("query[")[2].partition("]")[0], line.partition("] ")[2].partition(" from ")[0])
            for line in self.log.splitlines()
            if "query[" in line
        ]


@contextmanager
def backends(*started: Program) -> Iterator[None]:
    """All of *started*, in this order, ended in the other."""
    begun: list[Program] = []
    try:
        for program in started:
            program.__enter__()
            begun.append(program)
        yield
    finally:
        for program in reversed(begun):
            program.__exit__(None, None, None)
