"""The founding story against a real DNS server: the lookups that we tell of are those that it was asked for."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kit.command import INSTRUMENTED, exporting
from kit.programs import PATIENCE, ROOT, Collector, Dnsmasq, Jaeger, backends, until
from kit.server import Server, answer
from prometheus_client.parser import text_string_to_metric_families
from stories import worlds

#: Nobody else's: that of systemd's own resolver is 127.0.0.53.
ADDRESS = "127.0.0.153"
RUNS = [("httpx", "sync"), ("httpx2", "sync"), ("httpx", "asyncio"), ("httpx2", "trio")]
#: Names that nobody knows but our DNS server; one for each run, so that its log tells them apart.
NAMES = {
    f"{what}.{library}-{how}.internal": ["127.0.0.1"]
    for library, how in RUNS
    for what in ("unread", "read", "searched")
}

# In a mount namespace of its own a process has files of its own under the names of the system's.
ENTER = """
set -e
for file in resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$RESOLVER/$file" "/etc/$file"; fi
done
exec "$@"
"""
# Who is not root becomes it in a user namespace, where that is allowed.
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


@dataclass
class Backends:
    """What the programs' telemetry goes to, and who answers them."""

    dns: Dnsmasq
    jaeger: Jaeger
    collector: Collector

    def asked(self, name: str) -> Counter[str]:
        """How often the DNS server was asked for *name*, by type of record: its own log."""
        return Counter(kind for kind, asked in self.dns.asked() if asked == name)

    def spans(self, name: str) -> int:
        """How many spans in Jaeger are of a lookup of *name*."""
        traces = self.jaeger.traces(service(name), operation="http.dns")
        spans = [span for trace in traces for span in trace["spans"] if span["operationName"] == "http.dns"]
        tags = [{tag["key"]: tag["value"] for tag in span["tags"]} for span in spans]
        assert {said["dns.question.name"] for said in tags} <= {name}
        return len(spans)

    def counted(self, name: str) -> float:
        """How many lookups of *name* the metric has counted."""
        text = self.collector.http.get(f"http://{self.collector.metrics_address}/metrics").text
        wanted = {"job": service(name), "dns_question_name": name}
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "dns_lookup_duration_seconds_count" and wanted.items() <= sample.labels.items()
        )


@pytest.fixture(scope="module")
def found() -> Iterator[Backends]:
    """A DNS server, Jaeger and a collector."""
    jaeger = Jaeger()
    collector = Collector("local.yaml", TRACES_ENDPOINT=jaeger.grpc_address)
    # What is not one of these names does not exist: nobody else is asked.
    dns = Dnsmasq(NAMES, ADDRESS, "--local=/internal/")
    with backends(dns, jaeger, collector):
        yield Backends(dns, jaeger, collector)


def service(name: str) -> str:
    """Whose lookups these are."""
    return name.replace(".", "-")


@contextmanager
def started(
    found: Backends, folder: Path, name: str, command: list[str | Path], options: str = "", **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """A program under opentelemetry-instrument that asks our DNS server for names, and nobody else."""
    folder = folder / name
    folder.mkdir()
    (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n{options}")
    # No file of names, no multicast.
    (folder / "nsswitch.conf").write_text("hosts: dns\n")
    with subprocess.Popen(
        [*UNSHARE, "sh", "-c", ENTER, "sh", *INSTRUMENTED, *command],
        env=exporting(service(name), found.collector.grpc, "grpc", RESOLVER=str(folder), **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.mark.parametrize(("library", "how"), RUNS)
def test_lookups_are_the_servers(library: str, how: str, found: Backends, tmp_path: Path) -> None:
    """Twenty requests, five at a time: 20 lookups with bodies closed unread, 5 with bodies read, as the DNS server says."""
    source = f"warm_up{'' if how == 'sync' else '_async'}.py"
    program = tmp_path / source
    # As it would be written for that library.
    text = (
        (ROOT / "tests/stories/programs" / source).read_text().replace("import httpx\n", f"import {library} as httpx\n")
    )
    program.write_text(text)
    with ExitStack() as both:
        runs = []
        for what, options in (("unread", []), ("read", ["--read"])):
            name = f"{what}.{library}-{how}.internal"
            parts = worlds.together(5, answer(worlds.MUCH[:300_000]))
            world = both.enter_context(worlds.serving(parts, host=name))
            command: list[str | Path] = [program, *world.urls, *options]
            runs.append((name, world, both.enter_context(started(found, tmp_path, name, command, BACKEND=how))))
        for _, _, process in runs:
            assert process.communicate(timeout=PATIENCE) == ("20 parts are warm\n", "")
            assert process.returncode == 0
        # One lookup is two queries: glibc asks for both kinds of address at once.
        (unread, before, _), (read, after, _) = runs
        assert (before.accepted, found.asked(unread)) == (20, {"A": 20, "AAAA": 20})
        assert (after.accepted, found.asked(read)) == (5, {"A": 5, "AAAA": 5})

    for name in (unread, read):
        lookups = found.asked(name)["A"]
        until("the lookups have spans", lambda name=name, lookups=lookups: found.spans(name) == lookups)
        until("the lookups are counted", lambda name=name, lookups=lookups: found.counted(name) == lookups)


def test_a_lookup_of_many_queries(found: Backends, tmp_path: Path) -> None:
    """With search domains one lookup is many queries: we tell of the one that the application waits for."""
    name = "searched.httpx-sync.internal"
    with Server() as server:
        command = ["-c", "import httpx, sys; print(httpx.get(sys.argv[1]).status_code)", server.url(host=name)]
        search = "search a.internal b.internal\noptions ndots:5\n"
        with started(found, tmp_path, name, list(command), search) as process:
            printed = process.communicate(timeout=PATIENCE)

    assert (process.returncode, *printed) == (0, "200\n", "")
    asked = Counter(asked for _, asked in found.dns.asked() if asked.startswith(name))
    assert asked == {f"{name}.a.internal": 2, f"{name}.b.internal": 2, name: 2}
    until("the lookup has its span", lambda: found.spans(name) == 1)
    until("the lookup is counted", lambda: found.counted(name) == 1)
