"""What must hold of the shipped configs where there are thousands of processes."""

from __future__ import annotations

import importlib
import os
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.otlp import pairs
from kit.programs import Collector, until
from kit.store import Store, export, span
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

#: More than the thousand for which spanmetrics has counters by default.
PROCESSES = 1100
#: As the configs have it, and how many span names come beyond it.
LIMIT, BEYOND = 5000, 150


def one_of_each() -> bytes:
    """A span of each process of a service."""
    request = ExportTraceServiceRequest()
    for number in range(PROCESSES):
        found = request.resource_spans.add()
        found.resource.attributes.extend(
            pairs({"service.name": "checkout", "service.namespace": "shop", "service.instance.id": f"process-{number}"})
        )
        found.scope_spans.add().spans.add(
            name="GET",
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=1_790_000_000_000_000_000,
            end_time_unix_nano=1_790_000_000_010_000_000,
        )
    return request.SerializeToString()


@pytest.mark.parametrize("config", ["local.yaml", "gateway.yaml"])
def test_span_names_without_end_are_counted_together(config: str) -> None:
    """Beyond a number of span names there are no more series, and still every span is counted."""
    numbers = random.Random(14)
    spans = [span(numbers.randbytes(16), 1, f"GET /user/{number}") for number in range(LIMIT + BEYOND)]
    with Store() as store, Collector(config, TRACES_ENDPOINT=store.address, SPANMETRICS_INTERVAL="200ms") as collector:

        def counted() -> dict[str, float]:
            text = collector.http.get(f"http://{collector.metrics_address}/metrics").text
            calls = re.findall(r"^traces_span_metrics_calls_total\{(.*)\} (\S+)", text, re.MULTILINE)
            return {labels: float(value) for labels, value in calls}

        export(collector.grpc_address, spans, len(spans))
        until("all are counted", lambda: sum(counted().values()) >= len(spans))
        found = counted()

    assert len(found) == LIMIT + 1
    assert [value for labels, value in found.items() if 'otel_metric_overflow="true"' in labels] == [BEYOND]


def test_a_gateway_counts_the_spans_of_any_number_of_processes() -> None:
    """The series of a gateway are those of a service, however many processes it has, and no count is lost."""
    with Collector("gateway.yaml", KEEP_PERCENT="0", SPANMETRICS_INTERVAL="200ms") as gateway:

        def counted() -> list[tuple[str, float]]:
            text = gateway.http.get(f"http://{gateway.metrics_address}/metrics").text
            calls = re.findall(r"^traces_span_metrics_calls_total\{(.*)\} (\S+)", text, re.MULTILINE)
            return [(labels, float(value)) for labels, value in calls]

        for times in (1, 2):
            sent = gateway.http.post(
                f"{gateway.otlp}/v1/traces",
                content=one_of_each(),
                headers={"Content-Type": "application/x-protobuf"},
            )
            assert sent.status_code == httpx.codes.OK
            until("all are counted", lambda: sum(value for _, value in counted()) >= times * PROCESSES, 20)  # noqa: B023 - called before the loop goes on

        ((labels, value),) = counted()
        assert value == 2 * PROCESSES
        assert 'job="shop/checkout"' in labels
        assert "instance=" not in labels.replace("collector_instance_id=", "")


@pytest.mark.timeout(180)
def test_nothing_is_lost_at_the_highest_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many spans as the two tiers take, the gateways count each one and keep the share that they should."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    fleet: Any = importlib.import_module("fleet")

    # It complains itself of what was refused, dropped or not counted.
    found = fleet.fastest(fleet.Template("ours", batches=1), seconds=1.0)

    assert found["sent"] > fleet.WINDOW
    assert 0.08 < found["kept"] < 0.12
