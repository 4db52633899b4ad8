"""Whatever is read of others, read with what nobody would send."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: How many inputs each target gets; `make fuzz` says it.
ASKED = os.environ.get("HTTPTRACE_FUZZ")
EXAMPLES = int(ASKED or 25)


def fuzzing(examples: int = EXAMPLES) -> settings:
    """*examples* inputs: the same ones in each run of the tests, others in each run of `make fuzz`."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **({} if ASKED else {"derandomize": True, "database": None}),
    )
