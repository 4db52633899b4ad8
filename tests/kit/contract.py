"""The names of the contract, of both halves: what queries may ask for."""

from __future__ import annotations

from otel_httptrace.server import names as served
from otel_httptrace.telemetry import described


def attributes() -> set[str]:
    """Attributes of spans and metrics."""
    of_servers = {value for name, value in vars(served).items() if name.isupper() and not name.startswith("METRIC_")}
    return {one.name for one in (*described.REQUEST, *described.OTHERS)} | of_servers


def server_metrics() -> set[str]:
    """Metrics of the server's half."""
    return {value for name, value in vars(served).items() if name.startswith("METRIC_")}
