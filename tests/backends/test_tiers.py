"""Two gateways behind an agent: what is kept, what is counted, and what is lost when one of them is gone."""

from __future__ import annotations

import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from kit.command import INSTRUMENTED, exporting
from kit.programs import CONFIGS, ROOT, SCRAPED, Collector, Prometheus, backends, free_port, until
from kit.server import Peer, Request, Server, head
from kit.store import Store, export, span
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.parser import text_string_to_metric_families

#: By kind, what one span of a trace says that must be kept.
MUST: dict[str, dict[str, Any]] = {
    "closed early": {"httptrace__body__outcome": "closed_early"},
    "never closed": {"httptrace__body__outcome": "never_closed"},
    "body failed": {"httptrace__body__outcome": "failed"},
    "body cancelled": {"httptrace__body__outcome": "cancelled"},
    "body not read": {"httptrace__conn__close_reason": "body_not_read"},
    "connection failed": {"httptrace__conn__close_reason": "request_failed"},
    "connection cancelled": {"httptrace__conn__close_reason": "request_cancelled"},
    "new client": {"httptrace__conn__open_reason": "new_client"},
    "slow lookup": {"httptrace__time__dns": 1.001},
    "slow pool": {"httptrace__time__pool": 1.001},
    **{
        f"failed in {phase}": {"httptrace__failed_phase": phase}
        for phase in ("pool", "dns", "connect", "proxy", "tls", "send", "wait")
    },
    "error": {"status": Status.STATUS_CODE_ERROR},
}
#: What comes near to that, and is kept no more often than anything else.
NEED_NOT: dict[str, dict[str, Any]] = {
    "plain": {"http__conn__reused": True},
    "complete": {"httptrace__body__outcome": "complete"},
    "closed by the server": {"httptrace__conn__close_reason": "server_closed"},
    "first connection": {"httptrace__conn__open_reason": "first_connection"},
    "lost before": {"httptrace__conn__open_reason": "body_not_read"},
    "lookup of a second": {"httptrace__time__dns": 1.0},
    "half a second for the pool": {"httptrace__time__pool": 0.5},
    "fine": {"status": Status.STATUS_CODE_OK},
}
EACH = 100
#: Percent of what need not be kept.
SHARE = 25
#: How many times each of programs/culprits.py's, and what requests it makes: for each as many that follow, and
#: that have no story; and a first one of each client.
TIMES = 10
REQUESTS = 3 * 6 * TIMES + 2


def trace(numbers: random.Random, **said: Any) -> list[Span]:
    """A trace by hand: a request in a request, which says it, and what that did for a connection."""
    trace_id = numbers.randbytes(16)
    return [
        span(trace_id, 1, "POST"),
        span(trace_id, 2, "GET", parent=1, **said),
        span(trace_id, 3, "http.getconn", parent=2),
    ]


def shuffled(traces: Iterable[list[Span]], numbers: random.Random) -> list[Span]:
    """All of their spans, in any order."""
    found = [one for spans in traces for one in spans]
    numbers.shuffle(found)
    return found


@dataclass
class Tiers:
    """The collectors, and a store behind each gateway."""

    agent: Collector
    gateways: list[Collector]
    stores: list[Store]

    def send(self, spans: Sequence[Span], size: int = 512) -> None:
        """Export *spans* to the agent, so many in a request."""
        export(self.agent.grpc_address, spans, size)

    def arrived(self) -> dict[bytes, Counter[bytes]]:
        """How often each span has come, by the ids of traces and of spans."""
        found: dict[bytes, Counter[bytes]] = {}
        for store in self.stores:
            for trace_id, spans in store.traces().items():
                found[trace_id] = found.get(trace_id, Counter()) + spans
        return found

    def decided(self) -> Counter[bool]:
        """How many traces the gateways have kept, and not."""
        found: Counter[bool] = Counter()
        for gateway in self.gateways:
            text = gateway.http.get(f"http://{gateway.own_address}/metrics").text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == "otelcol_processor_tail_sampling_global_count_traces_sampled_total":
                        found[sample.labels["sampled"] == "true"] += int(sample.value)
        return found

    @contextmanager
    def settled(self, traces: int) -> Iterator[None]:
        """On leaving, wait until so many more traces are decided about, and those that were kept have arrived."""
        before = self.decided().total()
        yield

        def all_there() -> bool:
            decided = self.decided()
            return decided.total() == before + traces and len(self.arrived()) == decided[True]

        until(f"{traces} traces are decided about", all_there)


@contextmanager
def tiers(keep: float = 100, wait: str = "1s", sets: dict[str, Any] | None = None, **agent: str) -> Iterator[Tiers]:
    """An agent, two gateways that keep this percentage, and their stores."""
    stores = [Store(), Store()]
    gateways = [
        Collector(
            "gateway.yaml",
            TRACES_ENDPOINT=store.address,
            DECISION_WAIT=wait,
            KEEP_PERCENT=str(keep),
            SPANMETRICS_INTERVAL="1s",
            GATEWAY_NAME=f"gateway-{number}",
        )
        for number, store in enumerate(stores)
    ]
    addresses = ", ".join(gateway.grpc_address for gateway in gateways)
    collector = Collector("agent.yaml", sets, GATEWAYS=f"[{addresses}]", **agent)
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store)
        stack.enter_context(backends(*gateways, collector))
        yield Tiers(collector, gateways, stores)


@dataclass
class Sent:
    """Traces by hand, and what had arrived once all were decided about."""

    tiers: Tiers
    #: By kind.
    traces: dict[str, list[list[Span]]]
    arrived: dict[bytes, Counter[bytes]]
    #: By gateway.
    apart: list[set[bytes]]
    #: What Prometheus says of the spans' number, by name, over both gateways.
    counted: dict[str, float]

    def kept(self, kind: str) -> int:
        """How many traces of a kind have arrived."""
        return sum(spans[0].trace_id in self.arrived for spans in self.traces[kind])


@pytest.fixture(scope="module")
def running() -> Iterator[Tiers]:
    """Gateways that keep a quarter of what need not be kept."""
    # Longer than it takes to send all that is sent, in whatever order.
    with tiers(SHARE, "3s") as found:
        yield found


@pytest.fixture(scope="module")
def sent(running: Tiers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """Traces of every kind, all mixed: spans of one trace come in requests of many others'."""
    numbers = random.Random(6)
    traces = {kind: [trace(numbers, **said) for _ in range(EACH)] for kind, said in {**MUST, **NEED_NOT}.items()}
    addresses = ", ".join(gateway.metrics_address for gateway in running.gateways)
    prometheus = Prometheus(SCRAPED.format(addresses=addresses), tmp_path_factory.mktemp("prometheus"))
    with prometheus:
        spans = shuffled((one for kind in traces.values() for one in kind), numbers)
        with running.settled(len(spans) // 3):
            running.send(spans)

        def counted() -> dict[str, float]:
            found = prometheus.query('sum by (span_name) (traces_span_metrics_calls_total{job="by-hand"})')
            return {one["metric"]["span_name"]: float(one["value"][1]) for one in found}

        # What is counted only grows: short of all, it has not been scraped yet.
        until("as many spans are counted as were sent", lambda: sum(counted().values()) >= len(spans))
        apart = [set(store.traces()) for store in running.stores]
        yield Sent(running, traces, running.arrived(), apart, counted())


def test_trace_is_whole_at_one_gateway(sent: Sent) -> None:
    """All spans of a trace arrive at the same gateway, each once; and both gateways have their part."""
    first, second = sent.apart

    assert first & second == set()
    assert {tuple(sorted(spans.values())) for spans in sent.arrived.values()} == {(1, 1, 1)}
    assert min(len(first), len(second)) > 0.3 * len(sent.arrived)


@pytest.mark.parametrize("kind", MUST)
def test_traces_worth_keeping_are_kept(kind: str, sent: Sent) -> None:
    """Traces in which there is something to be learned are kept, 100 of 100."""
    assert sent.kept(kind) == EACH


def test_share_of_the_others(sent: Sent) -> None:
    """Of all other traces the share is kept that was asked for, of whatever kind they are."""
    # Five standard deviations of as many throws of a coin like that; and 4 for each kind.
    others = EACH * len(NEED_NOT)
    spread = (others * SHARE / 100 * (1 - SHARE / 100)) ** 0.5
    kept = {kind: sent.kept(kind) for kind in NEED_NOT}

    assert sum(kept.values()) == pytest.approx(others * SHARE / 100, abs=5 * spread)
    assert all(0 < number < EACH / 2 for number in kept.values()), kept


def test_counts_are_of_all(sent: Sent) -> None:
    """Spans are counted whether or not their trace is kept, and Prometheus has the sum of both gateways."""
    total = EACH * (len(MUST) + len(NEED_NOT))
    assert len(sent.arrived) < 0.9 * total

    assert sent.counted == {"POST": total, "GET": total, "http.getconn": total}


def half_reset(peer: Peer, request: Request) -> None:
    """Half of a body, and no more."""
    peer.send(head("Content-Length: 10") + b"first")
    peer.reset()


@pytest.fixture(scope="module")
def observed(sent: Sent) -> list[Span]:
    """What arrives of a real application's requests, after all the others."""
    running = sent.tiers
    with Server({"/half-reset-now": half_reset}) as server, running.settled(REQUESTS):
        ran = subprocess.run(
            [
                *INSTRUMENTED,
                str(ROOT / "tests/backends/programs/culprits.py"),
                str(TIMES),
                server.url(""),
            ],
            env=exporting("culprits", running.agent.otlp),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    spans = [one for store in running.stores for one in store.spans]
    return [one for one in spans if any(pair.key == "http.url" for pair in one.attributes)]


def test_link_leads_to_a_kept_trace(observed: list[Span]) -> None:
    """A real application's request that lost a connection is kept, and so found by the link to it."""
    linked = [
        (pair.value.string_value, link.trace_id, link.span_id)
        for one in observed
        for link in one.links
        for pair in link.attributes
        if pair.key == "httptrace.conn.close_reason"
    ]
    ids = {(one.trace_id, one.span_id) for one in observed}

    assert Counter(why for why, *_ in linked) == {
        "body_not_read": TIMES,
        "response_leaked": TIMES,
        "request_failed": 2 * TIMES,
        "request_cancelled": 2 * TIMES,
    }
    assert [why for why, *culprit in linked if tuple(culprit) not in ids] == []
    # Each link leads to another trace; and of the requests without a story most are not there.
    assert len({culprit for _, culprit, _ in linked} - {one.trace_id for one in observed if one.links}) == 6 * TIMES
    assert len(observed) < (6 + 6 + 4) * TIMES


def test_metrics_are_at_the_agent(running: Tiers, observed: list[Span]) -> None:
    """What an application counts is for Prometheus to scrape from its agent, whatever became of the traces."""

    def counted() -> float:
        text = running.agent.http.get(f"http://{running.agent.metrics_address}/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == "httptrace_requests_total")

    assert until("its requests are counted", counted) == REQUESTS


def test_a_late_span_joins_its_kept_trace(sent: Sent, observed: list[Span]) -> None:
    """What comes after the decision about its trace: a kept one's is kept, and a leak is, whatever was decided."""
    # The last trace that was not kept is remembered: that is one of the application's.
    assert len(observed) < REQUESTS
    tiers = sent.tiers
    traces = [spans[0].trace_id for kind in NEED_NOT for spans in sent.traces[kind]]
    kept = [trace_id for trace_id in traces if trace_id in sent.arrived][:20]
    dropped = [trace_id for trace_id in traces if trace_id not in sent.arrived][:40]
    leaks, plain = dropped[:20], dropped[20:]
    late = [span(trace_id, 9, parent=1) for trace_id in (*kept, *plain)]
    late += [span(trace_id, 9, parent=1, httptrace__body__outcome="never_closed") for trace_id in leaks]
    # Those of kept traces need no decision.
    with tiers.settled(len(leaks) + len(plain)):
        tiers.send(late)
    arrived = tiers.arrived()

    nine = (9).to_bytes(8, "big")
    assert [sum(arrived.get(trace_id, Counter())[nine] for trace_id in some) for some in (kept, leaks, plain)] == [
        20,
        20,
        0,
    ]


def large(numbers: random.Random) -> list[Span]:
    """Spans with a prompt or a stack trace each: an export of 512, and a batch, are larger than gRPC takes by default."""
    found = [span(numbers.randbytes(16), 1, "GET", exception__stacktrace="x" * 9_300) for _ in range(2 * 512)]
    assert 512 * found[0].ByteSize() > 4 * 2**20
    return found


def test_large_spans_at_two_tiers() -> None:
    """Large spans arrive, each once: no export, batch or request is refused for its size, at the agent or behind it."""
    spans = large(random.Random(11))
    with tiers() as found:
        found.send(spans)
        until("all are there", lambda: len(found.arrived()) == len(spans))

        assert sum(map(Counter.total, found.arrived().values())) == len(spans)


def test_large_spans_of_an_agent() -> None:
    """An agent sends on requests that anybody takes: large spans arrive also where 4 MiB is the limit, as by default."""
    spans = large(random.Random(13))
    with Store() as store, Collector("agent.yaml", GATEWAYS=f"[{store.address}]") as agent:
        export(agent.grpc_address, spans)
        until("all are there", lambda: len(store.traces()) == len(spans))

        assert len(store.spans) == len(spans)


def test_large_spans_at_one_collector() -> None:
    """Large spans arrive, each once: local.yaml takes them and hands them on, to two backends as well as to one."""
    spans = large(random.Random(12))
    overlay = yaml.safe_load((CONFIGS / "compose/collector.yaml").read_text())
    with Store() as jaeger, Store() as tempo:
        collector = Collector("local.yaml", overlay, TRACES_ENDPOINT=jaeger.address, TEMPO_ENDPOINT=tempo.address)
        with collector:
            export(collector.grpc_address, spans)
            for store in (jaeger, tempo):
                until("all are there", lambda: len(store.traces()) == len(spans))  # noqa: B023 - called before the loop goes on
                assert len(store.spans) == len(spans)


def test_ended_gateway_hands_on_what_waits() -> None:
    """A gateway that is ended properly, as with every new version, decides about what waits and loses nothing."""
    numbers = random.Random(10)
    traces = [trace(numbers) for _ in range(500)]
    with tiers(wait="600s") as found:
        found.send(shuffled(traces, numbers))

        def accepted() -> float:
            return sum(gateway.own().get("otelcol_receiver_accepted_spans_total", 0) for gateway in found.gateways)

        until("all are with the gateways", lambda: accepted() == 3 * len(traces))
        assert found.arrived() == {}
        for gateway in found.gateways:
            gateway.stop()

        assert {tuple(sorted(spans.values())) for spans in found.arrived().values()} == {(1, 1, 1)}
        assert len(found.arrived()) == len(traces)


def test_ended_agent_takes_its_queues_with_it() -> None:
    """An agent that is ended while a gateway is away loses what it has for that one, as agent.yaml warns, and no more."""
    numbers = random.Random(15)
    traces = [trace(numbers) for _ in range(1000)]
    with tiers() as found:
        with found.settled(len(traces)):
            found.send(shuffled(traces, numbers))
        first, second = (store.traces() for store in found.stores)
        found.gateways[0].kill()
        # The same go the same way.
        found.send(shuffled(traces, numbers))
        until("the other has its part", lambda: len(found.stores[1].spans) >= 2 * 3 * len(second))
        found.agent.stop()
        found.gateways[0].start()
        for gateway in found.gateways:
            gateway.stop()

        assert found.stores[0].traces() == first
        assert found.stores[1].traces() == {trace_id: spans + spans for trace_id, spans in second.items()}


def test_a_gateway_waits_for_a_backend_that_is_away() -> None:
    """What a gateway has kept waits in its queue until the backend is back, and arrives once; ended before, it is lost."""
    numbers = random.Random(16)
    traces = [trace(numbers) for _ in range(500)]
    port = free_port()
    gateway = Collector(
        "gateway.yaml", TRACES_ENDPOINT=f"127.0.0.1:{port}", DECISION_WAIT="1s", KEEP_PERCENT="100", QUEUE_SPANS="2000"
    )

    def queued() -> None:
        """Send all, and wait until they have been tried."""
        export(gateway.grpc_address, shuffled(traces, numbers))
        until("all are in the queue", lambda: gateway.own().get("otelcol_exporter_queue_size") == 3 * len(traces))

    with gateway:
        queued()
        gateway.stop()
        gateway.start()
        queued()
        # Longer than the first waits between attempts.
        until("it has tried again", lambda: gateway.log.count("Will retry the request") > 8)
        with Store(port) as store:
            until("all are there", lambda: len(store.spans) >= 3 * len(traces))
            # Nothing is left that could come.
            gateway.stop()

            assert {tuple(sorted(spans.values())) for spans in store.traces().values()} == {(1, 1, 1)}
            assert len(store.traces()) == len(traces)


def test_killed_gateway_loses_nothing_queued() -> None:
    """What the agent has taken for a gateway that is killed waits for the next of that name, and arrives once."""
    numbers = random.Random(8)
    traces = [trace(numbers) for _ in range(3000)]
    with tiers() as found:
        with found.settled(500):
            found.send(shuffled(traces[:500], numbers), 50)
        # Requests to it are under way when it dies: it answers none from here on.
        found.gateways[0].send_signal(signal.SIGSTOP)
        found.send(shuffled(traces[500:1500], numbers), 50)
        until("the agent has handed on all", lambda: found.agent.own()["otelcol_exporter_sent_spans_total"] >= 4500)
        found.gateways[0].kill()
        found.send(shuffled(traces[1500:], numbers), 50)
        until("the other has its part", lambda: len(found.stores[1].traces()) > 0.3 * len(traces))
        found.gateways[0].start()
        until("all traces are there", lambda: len(found.arrived()) == len(traces))
        until("all spans are there", lambda: sum(map(Counter.total, found.arrived().values())) >= 3 * len(traces))

        assert {tuple(sorted(spans.values())) for spans in found.arrived().values()} == {(1, 1, 1)}
        assert found.agent.own().get("otelcol_exporter_send_failed_spans_total", 0) == 0


def test_a_full_queue_is_reported() -> None:
    """A gateway's queue holds QUEUE_SPANS spans, to a batch; the agent says what it had no room for."""
    size, batch = 1000, 60
    numbers = random.Random(9)
    traces = [trace(numbers) for _ in range(1500)]
    total = 3 * len(traces)
    sets: dict[str, Any] = {
        # The queue is filled to the last batch that fits: let it be a small one.
        "processors::batch::send_batch_size": batch,
        "processors::batch::send_batch_max_size": batch,
        # As it is, what the log says again and again is left out.
        "service::telemetry::logs::sampling::enabled": False,
    }
    with tiers(sets=sets, QUEUE_SPANS=str(size)) as found:
        found.gateways[0].kill()
        found.send(shuffled(traces, numbers), batch)

        def own(name: str) -> float:
            return found.agent.own().get(f"otelcol_exporter_{name}_spans_total", 0)

        until("the agent is done with all", lambda: own("sent") + own("send_failed") == total)
        failed = own("send_failed")
        # Of each batch that did not get in whole, the part that did not, by its gateway's address.
        rejected = [
            int(number)
            for line in found.agent.log.splitlines()
            if found.gateways[0].grpc_address in line
            for number in re.findall(r'"rejected_items": (\d+)', line)
        ]
        found.gateways[0].start()
        until("the rest arrives", lambda: sum(len(store.spans) for store in found.stores) >= total - sum(rejected))
        # The agent has no more, and the gateways nothing that waits.
        found.agent.stop()
        for gateway in found.gateways:
            gateway.stop()
        held, other = (len(store.spans) for store in found.stores)

    assert size - batch < held <= size
    # Spans are not lost at the door of the other one,
    assert held + other + sum(rejected) == total
    # and the metric says no less than what was lost, and no more than the batches that were cut.
    assert 0 < sum(rejected) <= failed <= len(rejected) * batch
