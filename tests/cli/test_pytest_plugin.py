"""`pytest --httptrace`: what the requests of tests did, as a section of pytest's summary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.command import PATIENCE
from kit.server import Server

TESTS = """
import httpx, pytest

client = httpx.Client()

@pytest.mark.parametrize("number", range(4))
def test_status(number):
    with client.stream("GET", {url!r}) as response:
        assert response.is_success
"""


def ran(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Pytest, in a folder."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OTEL_", "COV_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**known, **environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Path:
    """A project with four tests, each of which leaves a response unread."""
    (tmp_path / "test_shop.py").write_text(TESTS.format(url=server.url()))
    (tmp_path / "pyproject.toml").write_text('[tool.httptrace]\nfail-on = "dns_slow"\njson = "seen.json"\n')
    return tmp_path


def test_a_section_tells_the_findings_and_in_which_tests(project: Path) -> None:
    """The summary has the findings with their lines and tests; only what is asked for fails; the project's file is read."""
    passed = ran(project, "--httptrace")
    failed = ran(project, "--httptrace-fail-on", "waste", GITHUB_ACTIONS="true")
    lines = failed.stdout.splitlines()

    assert (passed.returncode, failed.returncode) == (0, 1), passed.stdout + passed.stderr
    assert "4 passed" in passed.stdout and "4 passed" in failed.stdout
    assert any(line.strip("= ") == "httptrace" and line.startswith("=") for line in lines)
    assert "1. body_not_read  waste, certain" in passed.stdout
    assert "test_shop.py:8 in test_status" in passed.stdout
    assert "body_not_read: seen in test_shop.py::test_status[" in passed.stdout
    assert "fails this run" not in passed.stdout
    assert "--httptrace-fail-on fails this run: found body_not_read" in lines
    assert any(line.startswith("::error file=test_shop.py,line=8,title=") for line in lines)
    assert json.loads((project / "seen.json").read_text())["requests"] == 4


def test_workers_hand_over_what_they_saw(project: Path) -> None:
    """Under pytest-xdist there is one summary of all workers' requests."""
    done = ran(project, "--httptrace", "-n", "2", HTTPTRACE_FAIL_ON="body_not_read")

    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("4 requests to 1 origin in ") == 1
    assert "body_not_read: seen in test_shop.py::test_status[" in done.stdout
    assert "--httptrace-fail-on fails this run: found body_not_read" in done.stdout


def test_without_the_option_there_is_nothing_of_it(tmp_path: Path) -> None:
    """Without its option the plugin imports itself and what is beside it, and no module besides."""
    (tmp_path / "test_modules.py").write_text(
        "import sys\n\ndef test_modules():\n    print('MODULES', *sorted(sys.modules))\n"
    )

    def modules(*arguments: str) -> set[str]:
        done = ran(tmp_path, "-s", "-p", "no:xdist", *arguments)
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("MODULES")]
        return set(line.split()[1:])

    assert modules() - modules("-p", "no:httptrace") == {
        "otel_httptrace", "otel_httptrace.pytest_plugin", "otel_httptrace.version",
    }  # fmt: skip


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    """A verdict that there is not, and tests that made no request where a failure was asked for, are told in a line."""
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    wrong = ran(tmp_path, "--httptrace-fail-on", "bodies")
    blind = ran(tmp_path, "--httptrace-fail-on", "any")

    assert wrong.returncode == pytest.ExitCode.USAGE_ERROR
    assert "httptrace: no verdict is called 'bodies'; there are address_fallback, " in wrong.stderr
    assert blind.returncode == pytest.ExitCode.TESTS_FAILED
    assert "--httptrace-fail-on fails this run: no request was seen by otel-httptrace" in blind.stdout.splitlines()
