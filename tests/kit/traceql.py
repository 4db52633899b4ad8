"""TraceQL by Grafana's own grammar, which `make backends` installs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

from .programs import BACKENDS, ROOT


def mistakes(*queries: str) -> list[str]:
    """What is wrong with those of *queries* that are no TraceQL: the query, marked where its first mistake is."""
    ran = subprocess.run(
        ["node", str(ROOT / "tools/backends/traceql.mjs"), str(BACKENDS.resolve() / "node_modules")],
        input=json.dumps(queries),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [f"{one['query'][: one['at']]}<here>{one['query'][one['at'] :]}" for one in json.loads(ran.stdout)]


def queries(markdown: str) -> Iterator[str]:
    """Each query in a text: a ``traceql`` block as it is copied, or code that stands in braces with blanks."""
    blocks = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for language, block in blocks.findall(markdown):
        if language == "traceql":
            yield block.rstrip("\n")
    yield from re.findall(r"`(\{ [^`]*\})`", blocks.sub("", markdown))
