"""The command ``httptrace``: run a program and say what its requests did.

Needs the extra ``otel-httptrace[cli]``. Nothing here is imported by the instrumentation.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final, NoReturn

#: What the extra brings, by import name.
_NEEDED: Final = (
    "click",
    "rich",
    "jinja2",
    "orjson",
    "httpx",
    "opentelemetry.sdk",
    "opentelemetry.distro",
    "opentelemetry.proto",
    "opentelemetry.exporter.otlp.proto.http",
)


def main() -> NoReturn:
    """Run the command that ``sys.argv`` names, and exit with its status."""
    missing = [name for name in _NEEDED if not _there(name)]
    if missing:
        print(  # noqa: T201
            f"httptrace needs {', '.join(missing)}: pip install 'otel-httptrace[cli]'", file=sys.stderr
        )
        sys.exit(2)
    _usable_streams()
    from .app import run  # noqa: PLC0415 - only now is it known that this can be imported

    sys.exit(run(sys.argv[1:]))


def _usable_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the process that started us: nobody reads it.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            # A terminal that cannot show a sign shows another; Python would stop there.
            stream.reconfigure(errors="replace")


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
