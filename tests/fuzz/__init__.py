"""Whatever is read of others, read with what nobody would send."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: How many inputs each target gets; `make fuzz` says it.
ASKED = os.environ.get("HTTPTRACE_FUZZ")
EXAMPLES = int(ASKED or 25)


def fuzzing(examples: int = EXAMPLES) -> settings:
    """*examples* inputs: the same ones in each run of the tests, others in each run of `make fuzz`."""
    chosen = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    return chosen if ASKED else settings(chosen, derandomize=True, database=None)
