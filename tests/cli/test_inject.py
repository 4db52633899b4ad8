"""`httptrace run` with a program of another virtual environment: it is lent what it lacks, or told before it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from kit.command import PATIENCE, environment, httptrace
from kit.server import Server

from otel_httptrace.cli.programs import inject

PROGRAM = """
import sys, httpx
with httpx.Client() as client:
    for _ in range(3):
        client.get(sys.argv[1])
print("done")
"""
#: What httpx needs, and nothing of OpenTelemetry's.
HTTPX = ("httpx", "httpcore", "h11", "anyio", "idna", "certifi", "sniffio", "typing-extensions", "exceptiongroup")


def others() -> list[str]:
    """Pythons of other versions that are promised, where a version manager keeps them beside ours."""
    found = {}
    for path in sorted(Path(sys.base_prefix).parent.glob("*/bin/python3")):
        version = re.match(r"3\.(\d+)\.", path.parts[-3])
        if version and int(version[1]) in {10, 11, 12, 13} - {sys.version_info[1]}:
            found[version[1]] = str(path)
    return list(found.values())


@pytest.fixture
def environ_of(tmp_path: Path) -> Callable[..., Path]:
    """Makes a virtual environment with httpx, for a Python; returns its Python."""

    def make(python: str = sys.executable) -> Path:
        where = tmp_path / "env"
        subprocess.run([python, "-m", "venv", "--without-pip", where], check=True, timeout=PATIENCE)
        for name in HTTPX:
            try:
                inject._link_distribution(metadata.distribution(name), packages(where))
            except metadata.PackageNotFoundError:
                assert name in ("sniffio", "exceptiongroup")
        return where / "bin" / "python"

    return make


def packages(where: Path) -> Path:
    (found,) = where.glob("lib/python3*/site-packages")
    return found


def own(folder: Path, name: str, version: str) -> None:
    """Has *folder* say that a distribution is installed there."""
    described = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    return path


def test_an_environment_with_httpx_alone(environ_of: Callable[..., Path], path: Path, server: Server) -> None:
    """Its requests are seen, and told as fully as with everything installed there; its stderr is its own."""
    ran = httptrace("run", "-q", "--json", "-", "--", environ_of(), path, server.url())

    said, _, document = ran.stdout.partition("\n")
    assert (ran.returncode, ran.stderr, said) == (0, "", "done")
    report = json.loads(document)
    assert (report["requests"], report["unobserved_requests"]) == (3, 0)


@pytest.mark.parametrize("python", others() or [None])
def test_another_version_of_python(
    environ_of: Callable[..., Path], path: Path, server: Server, python: str | None
) -> None:
    """So are those of a Python of another version."""
    if python is None:
        pytest.skip("no other Python of 3.10 to 3.13 is beside this one")
    interpreter = environ_of(python)
    alone = subprocess.run([interpreter, path, server.url()], env=environment(), capture_output=True, timeout=PATIENCE)
    if alone.returncode:
        pytest.skip("httpx as installed for this Python does not run there")
    ran = httptrace("run", "-q", "--json", "-", "--", interpreter, path, server.url())

    said, _, document = ran.stdout.partition("\n")
    assert (ran.returncode, ran.stderr, said) == (0, "", "done")
    assert json.loads(document)["unobserved_requests"] == 0


def test_what_does_not_go_together(environ_of: Callable[..., Path], path: Path, server: Server) -> None:
    """A version of the environment's own that does not go with what it lacks is told before the program runs."""
    python = environ_of()
    own(packages(python.parent.parent), "opentelemetry-api", "1.30.0")
    ran = httptrace("run", "--", python, path, server.url())

    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert "has opentelemetry-api 1.30.0, and opentelemetry-" in line
    assert line.endswith(f"{python} -m pip install 'otel-httptrace[cli]'")


def test_what_cannot_be_imported(environ_of: Callable[..., Path], path: Path, server: Server) -> None:
    """What is lent and fails there is told before the program runs, with what Python said."""
    python = environ_of()
    # A package of the program's own, in whose place nothing of ours can be.
    (packages(python.parent.parent) / "google").mkdir()
    (packages(python.parent.parent) / "google" / "__init__.py").write_text("")
    ran = httptrace("run", "--", python, path, server.url())

    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert "and cannot use ours: ModuleNotFoundError: No module named 'google." in line


def test_a_python_that_is_too_old(tmp_path: Path, path: Path) -> None:
    """A Python that is not supported is told before the program runs."""
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\ncase "$2" in *print*%d*) echo 3 8;; *) exit 1;; esac\n')
    old.chmod(0o755)
    ran = httptrace("run", "--", old, path)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"httptrace: {old}, which runs the program, is Python 3.8: 3.10 or later is supported\n"


def test_its_own_comes_first(environ_of: Callable[..., Path], tmp_path: Path, server: Server) -> None:
    """A program imports what it has from where it has it, and its path has one folder more, at the end."""
    path = tmp_path / "show.py"
    path.write_text(
        "import json, sys, httpx, idna\nprint(json.dumps([sys.path, httpx.__file__, idna.__file__, sys.argv]))\n"
    )
    python = environ_of()
    alone = subprocess.run([python, path, "-x"], env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    ran = httptrace("run", "-q", "--", python, path, "-x")

    before, after = json.loads(alone.stdout), json.loads(ran.stdout)
    assert after[1:] == before[1:]
    assert after[0][:-1] == before[0]
    assert not os.path.exists(after[0][-1])


def test_the_environments_own_sitecustomize_still_runs(
    environ_of: Callable[..., Path], path: Path, server: Server
) -> None:
    """A sitecustomize of the environment's own runs as it would without us."""
    python = environ_of()
    (packages(python.parent.parent) / "sitecustomize.py").write_text("print('customized')\n")
    ran = httptrace("run", "-q", "--json", "-", "--", python, path, server.url())

    assert ran.stdout.startswith("customized\ndone\n{")
    assert ran.stderr == ""


def test_a_child_in_another_environment_runs_as_without_us(
    environ_of: Callable[..., Path], tmp_path: Path, path: Path, server: Server
) -> None:
    """A child of another environment, which is lent nothing, runs as it would without us."""
    parent = tmp_path / "parent.py"
    parent.write_text("import subprocess, sys\nprint(subprocess.run(sys.argv[1:]).returncode)\n")
    ran = httptrace("run", "-q", "--", sys.executable, parent, environ_of(), path, server.url())

    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(ran.stdout.splitlines()) == ["0", "done"]
