"""A few lines of Python, as a process of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run_script(script: str, *args: str, env: dict[str, str] | None = None) -> str:
    """Run a script with warnings as errors; what it printed."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *args],
        capture_output=True,
        text=True,
        timeout=50,
        env=env,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout
