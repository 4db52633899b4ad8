"""The scenarios on gunicorn, whose workers are processes: in a file of their own, to be run beside the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.servers import Running

from .test_scenarios import CASES, Scenario, check


@pytest.mark.parametrize(("kind", "case"), [case for case in CASES if "gunicorn" in str(case.id)])
def test_scenario(kind: str, case: Scenario, shared: Callable[..., Running], fresh: Callable[..., Running]) -> None:
    """What is told of each request and connection is what the client did."""
    check(kind, case, shared, fresh)
