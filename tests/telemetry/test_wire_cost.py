"""What our attributes cost on the wire: counted in bytes, in simulated time, so that the figures repeat."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "exports.py"
#: Of upstream's instrumentation alone: for keep-alive requests, in batches of 512, under the default conventions.
MOST = {"raw": 2.9, "gzip": 1.8}


def exports() -> Any:
    """`benchmarks/exports.py`, as a module."""
    spec = importlib.util.spec_from_file_location("exports", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workload", ["keepalive", "keepalive-3", "keepalive-root"])
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_bytes_of_a_keepalive_request(library: str, workload: str) -> None:
    """A keep-alive request costs at most 2.9 times the bytes of upstream's alone, after gzip 1.8 times."""
    measure = exports().measure
    upstream, ours = (measure(library, workload, setting, "default", batches=2) for setting in ("upstream", "default"))

    assert upstream["spans"] == ours["spans"] == 1
    assert upstream["requests"] == ours["requests"] == 1024
    assert {
        unit: round(ours[unit] / upstream[unit], 2) for unit, most in MOST.items() if ours[unit] > most * upstream[unit]
    } == {}


def test_the_same_traffic_is_the_same_number_of_bytes() -> None:
    """The same traffic is the same number of bytes."""
    measure = exports().measure
    case = ("httpx", "unread", "spans=all", "both")

    assert measure(*case, batches=1) == measure(*case, batches=1)
