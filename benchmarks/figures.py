"""docs/scale.json, which the benchmarks write, and the tables of docs/scale.md, which come from it (`make docs`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from otel_httptrace.telemetry import described

FILE = Path(__file__).parent.parent / "docs" / "scale.json"

#: The fleet of the tables: processes, and requests a second of each.
PROCESSES, RATE = 10_000, 100
DAY = 86_400
#: Of a gateway's MEMORY_LIMIT_MIB less MEMORY_SPIKE_MIB, from where on it refuses: as shipped.
GATEWAY_MIB = 768
#: KEEP_PERCENT, as shipped.
SHARE = 0.1
#: Of the requests of a fleet in good order: those that the gateways keep for what they tell.
NOTABLE = 0.01

_SETTINGS = {
    "upstream": "upstream alone",
    "default": "**default**",
    "spans=none": "`spans=none`",
    "spans=all": "`spans=all`",
    "span_end=headers": "`span_end=headers`",
    "code_location=false": "`code_location=false`",
}
_OPT_INS = {"default": "not set", "new": "`http`", "both": "`http/dup`"}


def _rounded(found: Any) -> Any:
    # Four digits are more than a repetition agrees in.
    if isinstance(found, float):
        return float(f"{found:.4g}")
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_rounded(value) for value in found]
    return found


def write(name: str, found: Any) -> None:
    """Put *found* in place of what was there as *name*."""
    figures = json.loads(FILE.read_text()) if FILE.exists() else {}
    figures[name] = _rounded(found)
    FILE.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: bool = True) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "|".join(" ---: " if numbers and column else " --- " for column in range(len(header))) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def _cores(microseconds: float) -> str:
    # Microseconds of CPU for a span are cores for a million a second.
    return f"{microseconds / 1000:.3f}"


class Figures:
    """What was measured.

    Args:
        found: docs/scale.json.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self._exports = {
            (one["library"], one["workload"], one["setting"], one["conventions"]): one for one in found["exports"]
        }
        self._fleet = found["fleet"]

    def _export(self, workload: str, setting: str = "default", conventions: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = self._exports["httpx", workload, setting, conventions]
        return found

    def settings(self) -> Iterator[str]:
        """Bytes by setting."""

        def rows() -> Iterator[Sequence[Any]]:
            for setting, title in _SETTINGS.items():
                row = [title]
                for workload in ("keepalive", "unread-http", "unread"):
                    one = self._export(workload, setting)
                    row += [f"{one['spans']:.0f}", f"{one['raw']:.0f}", f"{one['gzip']:.0f}"]
                yield row

        header = ["setting"]
        for title in ("keep-alive", "new connection", "with TLS"):
            header += [f"{title}: spans", "raw", "gzip"]
        yield from _table(header, rows())

    def ratios(self) -> Iterator[str]:
        """Our default, in multiples of upstream alone."""
        shapes = {
            "keepalive": "one call for each request that the service handles",
            "keepalive-3": "three calls for each, in one trace",
            "keepalive-root": "each call its own trace",
        }

        def rows() -> Iterator[Sequence[Any]]:
            for workload, title in shapes.items():
                for conventions, variable in _OPT_INS.items():
                    alone = self._export(workload, "upstream", conventions)
                    ours = self._export(workload, "default", conventions)
                    yield (
                        f"{title}; {variable}",
                        f"{alone['raw']:.0f}",
                        f"{ours['raw']:.0f}",
                        f"{ours['ratio']['raw']:.2f}",
                        f"{alone['gzip']:.0f}",
                        f"{ours['gzip']:.0f}",
                        f"{ours['ratio']['gzip']:.2f}",
                    )

        header = ("keep-alive requests; `OTEL_SEMCONV_STABILITY_OPT_IN`", "raw: upstream", "ours", "ratio")
        yield from _table((*header, "gzip: upstream", "ours", "ratio"), rows())

    def batches(self) -> Iterator[str]:
        """Bytes by the size of a batch."""
        sizes = dict(sorted(self._export("keepalive")["gzip by batch size"].items(), key=lambda item: int(item[0])))
        yield from _table(
            ("spans in an export", *sizes),
            [("gzip, a keep-alive request", *(f"{size:.0f}" for size in sizes.values()))],
        )

    def throughput(self) -> Iterator[str]:
        """The highest rates, and CPU."""

        def rows() -> Iterator[Sequence[Any]]:
            for kind, title in {**_KINDS, "zstd": "ours, keep-alive; zstd between the tiers"}.items():
                one = self._fleet["kinds"][kind]
                rates = [f"{rate:,.0f}" for rate in sorted(one["fastest"]["rates"])]
                cpu = one["fastest"]["cpu"]
                alone = self._fleet["kinds"]["upstream"]["fastest"]["rates"]
                ratios = sorted(rate / other for rate, other in zip(one["fastest"]["rates"], alone, strict=True))
                yield (
                    title,
                    f"{one['ratio by CPU']:.2f}",
                    f"{one['fastest']['rate']:,.0f} ({rates[0]} to {rates[-1]})",
                    f"{one['ratio']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    f"{one['fastest']['rate'] / one['spans_per_request']:,.0f}",
                    _cores(cpu["agent"]),
                    _cores(cpu["gateways"]),
                )

        header = (
            "spans", "ratio by CPU", "spans/s without loss", "ratio, round by round", "that is, requests/s",
            "agent: cores per 1,000 spans/s", "gateways",
        )  # fmt: skip
        yield from _table(header, rows())

    def memory(self) -> Iterator[str]:
        """What the programs hold."""

        def rows() -> Iterator[Sequence[Any]]:
            for kind, title in _KINDS.items():
                one = self._fleet["kinds"][kind]["steady"]
                idle, peak = one["idle"], one["peak"]
                yield (
                    title,
                    f"{one['rate']:,.0f}",
                    f"{idle['agent']:.0f} → {peak['agent']:.0f}",
                    f"{self._agent_mib(kind):.0f}",
                    f"{idle['gateway']:.0f} → {peak['gateway']:.0f}",
                    f"{self._gateway_mib(kind):.0f}",
                    _cores(one["cpu"]["agent"]),
                    _cores(one["cpu"]["gateways"]),
                )

        header = (
            "spans", "spans/s", "agent: MiB", "more per 1,000 spans/s", "each gateway: MiB", "more per 1,000 spans/s",
            "agent: cores per 1,000 spans/s", "gateways",
        )  # fmt: skip
        yield from _table(header, rows())

    def _agent_mib(self, kind: str) -> float:
        one = self._fleet["kinds"][kind]["steady"]
        return float((one["peak"]["agent"] - one["idle"]["agent"]) / one["rate"] * 1000)

    def _gateway_mib(self, kind: str) -> float:
        # Each of the two gets half of the spans.
        one = self._fleet["kinds"][kind]["steady"]
        return float((one["peak"]["gateway"] - one["idle"]["gateway"]) / (one["rate"] / 2) * 1000)

    def _stored(self, workload: str, setting: str, kept: float) -> str:
        one = self._export(workload, setting)
        requests = PROCESSES * RATE * DAY * kept
        return f"{_bytes(one['raw'] * requests)} ({_bytes(one['gzip'] * requests)})"

    def storage(self) -> Iterator[str]:
        """A day of the fleet."""
        kept = SHARE * (1 - NOTABLE) + NOTABLE
        header = ("OTLP bytes a day: raw (gzip)", "all", f"tail sampling, {kept:.1%} kept")
        rows = [
            (
                "keep-alive, upstream alone",
                self._stored("keepalive", "upstream", 1),
                self._stored("keepalive", "upstream", SHARE) + f", as only {SHARE:.0%} are kept",
            ),
            ("keep-alive, ours", self._stored("keepalive", "default", 1), self._stored("keepalive", "default", kept)),
            (
                "founding story: every body unread, over TLS",
                self._stored("unread", "default", 1),
                "all is kept, as every trace tells of an early close",
            ),
        ]
        yield from _table(header, rows)

    def sizes(self) -> Iterator[str]:
        """How many machines that takes."""

        def rows() -> Iterator[Sequence[Any]]:
            for kind, title in _KINDS.items():
                one = self._fleet["kinds"][kind]
                workload, setting = {"upstream": ("keepalive", "upstream"), "ours": ("keepalive", "default")}.get(
                    kind, ("unread", "default")
                )
                spans = PROCESSES * RATE * self._export(workload, setting)["spans"]
                # A span takes more where collectors have little to do, as most of a fleet's have.
                cpu = one["steady"]["cpu"]
                room = GATEWAY_MIB - one["steady"]["idle"]["gateway"]
                most = room / self._gateway_mib(kind) * 1000
                yield (
                    title,
                    f"{spans / 1e6:.3g} million",
                    _bytes(self._export(workload, setting)["gzip"] * PROCESSES * RATE) + "/s",
                    f"{cpu['agent'] * spans / 1e6:.0f}",
                    f"{cpu['gateways'] * spans / 1e6:.0f}",
                    f"{most:,.0f}",
                    f"{math.ceil(spans / most)}",
                )

        header = (
            "every request is", "spans/s", "gzip into the agents", "cores of all agents", "of all gateways",
            "spans/s that fit into one gateway", "gateways",
        )  # fmt: skip
        yield from _table(header, rows())

    def turn(self) -> Iterator[str]:
        """What to turn, the greatest effect first."""
        keep, unread = self._export("keepalive"), self._export("unread")
        none, all_spans = self._export("unread", "spans=none"), self._export("keepalive", "spans=all")
        alone = self._export("keepalive", "upstream")
        both, new = self._export("keepalive", "default", "both"), self._export("keepalive", "default", "new")
        location, headers = self._export("unread", "code_location=false"), self._export("unread", "span_end=headers")
        small = keep["gzip by batch size"]
        gzip, zstd = (self._fleet["kinds"][kind]["fastest"]["cpu"] for kind in ("ours", "zstd"))

        def less(now: float, then: float) -> str:
            change = f"{100 * (then - now) / now:+.0f} %"
            return "nothing" if change in ("+0 %", "-0 %") else change

        rows = [
            (
                "`OTEL_TRACES_SAMPLER=parentbased_traceidratio`, `OTEL_TRACES_SAMPLER_ARG=0.1`",
                "-90 % of all: wire, collectors, storage, as nine of ten requests have no span",
                "nine of ten early closes, leaks and failures as spans, and links to requests that were not"
                " sampled. Span metrics and the alerts on them see a tenth. Not our own metrics: they count every"
                " request, connection, lookup and body",
            ),
            (
                "`KEEP_PERCENT` of the gateways",
                f"storage {less(1, SHARE * (1 - NOTABLE) + NOTABLE)} at 10, with {NOTABLE:.0%} notable; wire, agents"
                " and gateways nothing",
                "traces in which nothing happened",
            ),
            (
                "`OTEL_EXPORTER_OTLP_COMPRESSION=gzip`, which is not the SDK's default",
                f"wire to the agent {less(keep['raw'], keep['gzip'])} ({keep['raw']:.0f} to {keep['gzip']:.0f}"
                f" bytes); takes the application {self._fleet['gzip']:.0f} µs of CPU a request",
                "nothing",
            ),
            (
                "`spans=connection` instead of `all`",
                f"wire {less(all_spans['gzip'], keep['gzip'])} of a keep-alive request, and a fifth of the spans",
                "child spans of what the attributes say as well",
            ),
            (
                "`spans=none` instead of `connection`",
                f"wire {less(unread['gzip'], none['gzip'])} of a request that opens a connection, and a fifth of the"
                " spans; of a keep-alive request nothing",
                "the resolver's answers, local addresses, TLS version and cipher",
            ),
            (
                "off: `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=httptrace`",
                f"wire {less(keep['gzip'], alone['gzip'])} of a keep-alive request: what is left is upstream's",
                "all of it",
            ),
            (
                "`compression: zstd` in agent.yaml, under `loadbalancing`, `protocol`, `otlp`; as shipped it is gzip",
                f"CPU of the agents {less(gzip['agent'], zstd['agent'])}, of the gateways"
                f" {less(gzip['gateways'], zstd['gateways'])}; bytes between the tiers were not measured",
                "nothing",
            ),
            (
                "`OTEL_SEMCONV_STABILITY_OPT_IN=http` instead of `http/dup`",
                f"wire {less(both['gzip'], new['gzip'])} after gzip, {less(both['raw'], new['raw'])} before",
                "upstream's old names",
            ),
            (
                "`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`: leave it at 512",
                f"wire after gzip: 32 would be {less(small['512'], small['32'])},"
                f" 2048 {less(small['512'], small['2048'])}",
                "",
            ),
            (
                "`code_location=false`",
                f"wire {less(unread['gzip'], location['gzip'])} of a request whose body is not read"
                f" ({less(unread['raw'], location['raw'])} before gzip); of others nothing",
                "the line to be mended",
            ),
            (
                "`span_end=headers`",
                f"wire {less(unread['gzip'], headers['gzip'])}: it moves a timestamp",
                "the body's time in the span's duration",
            ),
        ]
        yield from _table(("what", "what it saves", "what is lost"), rows, numbers=False)

    def series(self) -> Iterator[str]:
        """Series of metrics that were counted."""
        demo, gateway = self._fleet["series"]["demo"], self._fleet["series"]["gateway"]
        healthy, unread = (self._export(workload)["metrics"] for workload in ("keepalive", "unread"))

        def ours(series: dict[str, int]) -> int:
            return sum(number for name, number in series.items() if name != "http.client.duration")

        rows = [
            (
                "keep-alive, 4 origins, HTTP/1.1",
                ours(healthy["series"]),
                healthy["series"]["http.client.duration"],
                "-",
            ),
            ("bodies unread, 4 origins", ours(unread["series"]), unread["series"]["http.client.duration"], "-"),
            *(
                (f"`httptrace demo`, bodies {name}, 1 origin", one["ours"], one["upstream"], one["spanmetrics"])
                for name, one in demo.items()
            ),
            (
                f"one gateway, {gateway['processes']} processes that make one kind of span",
                "-",
                "-",
                gateway["series"],
            ),
        ]
        yield from _table(("Prometheus series of", "our metrics", "upstream's", "spanmetrics"), rows)
        yield ""
        yield (
            f"An export of all metrics of the first row is {healthy['raw']:,} bytes ({healthy['gzip']:,} after gzip),"
            " once a minute."
        )

    def caps(self) -> Iterator[str]:
        """At most so many series of an origin."""
        opened = sum(bool(opens) for opens, _ in described.REASONS.values())
        closed = sum(bool(closes) for _, closes in described.REASONS.values())
        histogram = 17
        rows = [
            ("`httptrace.requests`", "reused or not, the five phases in which none is obtained, or none of these", 8),
            ("`httptrace.connections.opened`", "reasons", opened),
            ("`httptrace.connections.closed`", "reasons", closed),
            ("`httptrace.bodies`", "outcomes", 5),
            ("`httptrace.responses.open`, `.max_age`", "", 2),
            ("`http.client.open_connections`", "2 states x 1.0, 1.1, 2 or no version yet", 8),
            ("`http.client.connection.duration`", f"reasons x {histogram}", closed * histogram),
            ("`http.client.request.time_in_queue`", f"{histogram}", histogram),
            ("`dns.lookup.duration`", f"(1 + kinds of error, 4 with a name of their own) x {histogram}", 5 * histogram),
        ]
        yield from _table(("instrument", "series of an origin, at most", "number"), rows)
        total = sum(int(row[2]) for row in rows)
        yield ""
        yield f"In sum at most {total} of an origin, and {total} x (`max_origins` + 1) of a process."

    def machine(self) -> Iterator[str]:
        """Where it was measured."""
        machine = self._fleet["machine"]
        yield (
            f"Measured on a shared virtual machine with {machine['processors']} processors ({machine['machine']}), all"
            f" programs and senders on it. Rounds of each kind, in turn: {self._fleet['rounds']}; medians, and from the"
            " lowest to the highest."
        )

    def blocks(self) -> dict[str, Callable[[], Iterator[str]]]:
        """What makes each generated block, by its name in docs/scale.md."""
        made = (
            self.settings, self.ratios, self.batches, self.throughput, self.memory, self.machine, self.storage,
            self.sizes, self.turn, self.series, self.caps,
        )  # fmt: skip
        return {block.__name__: block for block in made}


_KINDS = {
    "upstream": "upstream alone, keep-alive",
    "ours": "ours, keep-alive",
    "unread": "ours, bodies unread, over TLS",
}
