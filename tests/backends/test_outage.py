"""The collector is away, hangs, dies and comes back; the application does not notice, and every span is accounted for."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import IO

import pytest
from kit.command import INSTRUMENTED, environment, exporting
from kit.programs import PATIENCE, ROOT, Collector, until
from kit.server import Server
from kit.store import Store
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = ROOT / "tests/backends/programs/outage.py"
#: Of four requests each: more than the SDK's queue holds.
ROUNDS = 40
TARGETS = ["/chunked", "/missing", "/big", "/no-answer"]
QUEUE = 64
#: What to export over, and where to.
PROTOCOLS = {"grpc": "grpc", "http/protobuf": "otlp"}


class Application:
    """programs/outage.py, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout

    def ask(self, what: str) -> str:
        """Its answer; none for a long time is an error."""
        self._in.write(f"{what}\n")
        self._in.flush()
        ready, _, _ = select.select([self._out], [], [], PATIENCE)
        assert ready, f"no answer to {what!r}"
        return self._out.readline()

    def requests(self) -> tuple[list[str], float]:
        """Make some: their results, and what they took, by their median."""
        found = json.loads(self.ask(str(ROUNDS)))
        return [result for result, _ in found], median(took for _, took in found)


@contextmanager
def application(server: Server, endpoint: str = "", protocol: str = "") -> Iterator[Application]:
    """The program, under opentelemetry-instrument if there is an endpoint."""
    command, settings = [sys.executable], environment()
    if endpoint:
        command = [*INSTRUMENTED]
        settings = exporting(
            "outage",
            endpoint,
            protocol,
            # It says how many spans it has dropped.
            OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true",
            # Each request is one span.
            OTEL_PYTHON_HTTPTRACE_SPANS="none",
            OTEL_BSP_MAX_QUEUE_SIZE=str(QUEUE),
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16",
            OTEL_BSP_SCHEDULE_DELAY="100",
            # After one more attempt it gives up.
            OTEL_EXPORTER_OTLP_TIMEOUT="2",
            # Once, at the end.
            OTEL_METRIC_EXPORT_INTERVAL="600000",
        )
    with subprocess.Popen(
        [*command, str(PROGRAM), server.url("")],
        env=settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # It is told again and again that there is nobody.
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Application(process)
        except BaseException:
            process.kill()
            raise


def told(collector: Collector) -> Counter[str]:
    """What the SDK says became of its spans, as the collector has it: sent, or lost at its queue or in its exporter."""
    found: Counter[str] = Counter()
    text = collector.http.get(f"http://{collector.metrics_address}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "otel_sdk_processor_span_processed_total" and "error_type" in sample.labels:
                found["queue was full"] += int(sample.value)
            if sample.name == "otel_sdk_exporter_span_exported_total":
                found["export failed" if "error_type" in sample.labels else "sent"] += int(sample.value)
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_do_not_notice_an_outage_of_the_collector(protocol: str) -> None:
    """Whatever happens to the collector, requests end as ever and wait for nothing; each span arrives or is told of."""
    with Server() as server, Store() as store:
        with application(server) as alone:
            expected, _ = alone.requests()
        collector = Collector("local.yaml", TRACES_ENDPOINT=store.address)

        def settle(app: Application, requests: int) -> Counter[str]:
            """Wait until the collector has handed on all there is to hand on, and knows of the rest."""
            assert app.ask("flush") == "flushed\n"
            until("all spans are told of", lambda: told(collector).total() >= requests)
            found = told(collector)
            until("all that were sent arrive", lambda: len(store.spans) >= found["sent"])
            return found

        with ExitStack() as stack:
            # Not entered: the application begins without it.
            stack.callback(collector.__exit__, None, None, None)
            app = stack.enter_context(application(server, getattr(collector, PROTOCOLS[protocol]), protocol))
            away = app.requests()
            collector.start()
            settle(app, len(expected))
            well = app.requests()
            # What it has taken and not yet handed on would die with it.
            settle(app, 2 * len(expected))
            collector.send_signal(signal.SIGSTOP)
            # Takes connections, and never answers: who waits for that, waits two seconds each time.
            hanging = app.requests()
            collector.kill()
            dead = app.requests()
            collector.start()
            found = settle(app, 4 * len(expected))

        assert [results for results, _ in (away, well, hanging, dead)] == [expected] * 4
        assert [request.target for request in server.requests] == TARGETS * ROUNDS * 5
        # Between them are machines that have other things to do, but no attempt to reach a collector.
        assert max(took for _, took in (away, hanging, dead)) < 10 * well[1]
        assert found.total() == 4 * len(expected)
        assert found["sent"] == len(store.spans) == len({span.span_id for span in store.spans})
        # While it was well nothing was lost, and some of the rest had waited; there was more than the queue holds.
        assert found["sent"] > len(expected)
        assert found["queue was full"] > 0
