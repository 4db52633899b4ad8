# A program is a file that the shell would find. Most often it is a Python, or a script whose first
# line names one; that Python is then asked what is installed there (`inspection`).

"""Finds a program and the Python that runs it, and asks that Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ...clients import CLIENTS
from ..errors import Problem
from . import inspection

_SCRIPT: Final = "opentelemetry-instrument"


def find(program: str) -> str:
    """The path of *program*, as a shell finds it.

    Raises:
        Problem: there is none (127), or it cannot be executed (126).
    """
    hint = f"; to run a Python file: httptrace run -- python {program}" if program.endswith(".py") else ""
    candidates = list(_candidates(program))
    for path in candidates:
        if Path(path).is_file() and os.access(path, os.X_OK):
            interpreter = shebang(path)
            if interpreter and not Path(interpreter).exists():
                raise Problem(f"{program}: its interpreter {interpreter} is not there", 126)
            return path
    for path in candidates:
        if Path(path).is_dir() and os.sep in program:
            raise Problem(f"{program} is a directory", 126)
        if Path(path).is_file():
            raise Problem(f"{program}: permission denied{hint}", 126)
    raise Problem(f"{program}: not found{hint}", 127)


def _candidates(program: str) -> Iterator[str]:
    # Not as Path, to which ./program is program, and that is another one.
    if os.sep in program:
        yield program
    elif os.name == "nt":
        found = shutil.which(program)
        if found:
            yield found
    else:
        for folder in os.get_exec_path():
            yield os.path.join(folder or os.curdir, program)


def shebang(path: str) -> str | None:
    """The interpreter that a script names; None if it is no script."""
    try:
        with open(path, "rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    parts = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return parts[0] if parts else None


def instrument(program: str) -> str:
    """The path of ``opentelemetry-instrument``: beside *program*, beside this Python, or on the PATH.

    Raises:
        Problem: there is none.
    """
    for folder in (Path(program).absolute().parent, Path(sys.executable).parent):
        script = folder / _SCRIPT
        if script.is_file() and os.access(script, os.X_OK):
            return str(script)
    found = shutil.which(_SCRIPT)
    if found is None:
        raise Problem(f"{_SCRIPT} is not there: pip install opentelemetry-distro")
    return found


def python_of(program: str) -> str | None:
    """The Python that runs *program*; None if that cannot be told."""
    path = Path(program)
    if _is_python(path.name):
        return program
    interpreter = shebang(program)
    if interpreter is None:
        return None
    with path.open("rb") as file:
        lines = [os.fsdecode(file.readline(1024)) for _ in range(2)]
    words = lines[0][2:].split()
    name = Path(interpreter).name
    if name == "env":
        found = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
        return shutil.which(found) if _is_python(Path(found).name) else None
    if name == "sh":
        # What pip writes where the path is too long for the kernel.
        match = re.match(r"'''exec' \"?([^\" ]+)\"?", lines[1])
        return match[1] if match and _is_python(Path(match[1]).name) else None
    return interpreter if _is_python(name) else None


def _is_python(name: str) -> bool:
    return re.fullmatch(r"(python|pypy)(\d+(\.\d+)*)?t?(\.exe)?", name) is not None


def facts_of(python: str, *more: str) -> Any:
    """What is installed for *python*; None if it does not say.

    Args:
        python: its path.
        *more: distributions to look for, besides our own, OpenTelemetry's and the clients'.
    """
    clients = (distribution for client in CLIENTS for distribution in client.distributions)
    return inspect(python, "installed", *dict.fromkeys((*clients, *more)))


def inspect(python: str, *arguments: str, environ: Mapping[str, str] | None = None, under: str = "") -> Any:
    """What `inspection` says in *python*; None if it says nothing.

    Args:
        python: its path.
        *arguments: a function of `inspection`, and its arguments.
        environ: the environment; None for ours.
        under: the path of opentelemetry-instrument, to run it under that.
    """
    command = [python, "-c", Path(inspection.__file__).read_text(encoding="utf-8"), *arguments]
    if under:
        command = [under, python, "--", *command[1:]]
    try:
        ran = subprocess.run(  # noqa: S603
            command,
            env=dict(environ) if environ is not None else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return json.loads(ran.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def version(python: str) -> tuple[int, int] | None:
    """Major and minor version of *python*, whatever its age; None if it does not say."""
    try:
        ran = subprocess.run(  # noqa: S603
            [python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        major, minor = map(int, ran.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return major, minor
