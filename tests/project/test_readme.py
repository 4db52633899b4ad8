"""What the README says is so: its blocks are run, its tables compared, its links followed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from kit.otlp import read
from kit.server import Server

from otel_httptrace import environment_variables
from otel_httptrace.config import Config
from otel_httptrace.core.ledger import Reason
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.telemetry import names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

APP = "import httpx\nprint(httpx.get({url!r}).text)\n"


def block(language: str) -> str:
    """The README's one block in this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def environ(**settings: str) -> dict[str, str]:
    """An environment without settings of OpenTelemetry's."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}, **settings}


def test_install_set_and_run_is_all_it_takes(server: Server, tmp_path: Path) -> None:
    """Install, set and run, as the README says: the program's request arrives at the endpoint."""
    install, export, command = [line.removeprefix("$ ") for line in block("console").splitlines()]
    assert install.startswith("pip install otel-httptrace ")
    settings = dict(word.split("=", 1) for word in shlex.split(export)[1:])
    assert set(settings) == {"OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    (tmp_path / "app.py").write_text(APP.format(url=server.url()))
    program, *arguments = shlex.split(command)
    folder = Path(sys.executable).parent
    received: list[Any] = []
    with Receiver(received.append) as receiver:
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        ran = subprocess.run(
            [str(folder / program), *arguments],
            cwd=tmp_path,
            # The endpoint in the README is a collector's for gRPC, ours speaks HTTP.
            env=environ(
                **settings,
                PATH=f"{folder}{os.pathsep}{os.environ['PATH']}",
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
                OTEL_METRICS_EXPORTER="none",
                OTEL_LOGS_EXPORTER="none",
            ),
            capture_output=True,
            text=True,
            timeout=50,
        )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello\n", "")
    assert [row.observed for row in read(received)] == [True]


def test_the_block_in_python_is_all_it_takes(server: Server) -> None:
    """The block in Python is all it takes in code."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("python") + APP.format(url=server.url())],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello\n", "")


def test_the_table_has_every_setting() -> None:
    """The table of settings has each of them, with its variable and its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(OTEL_\w+)` \| (?:`(\w+)`)? ?\|", README, re.MULTILINE)
    defaults = Config()
    expected = []
    for setting in fields(Config):
        value = getattr(defaults, setting.name)
        text = "" if value == () else str(value).lower() if isinstance(value, bool) else str(value)
        expected.append((setting.name, f"OTEL_PYTHON_HTTPTRACE_{setting.name.upper()}", text))

    assert rows == expected
    assert {variable for _, variable, _ in rows} <= set(vars(environment_variables))


def test_names_in_the_readme_are_ours_and_all_reasons_are_there() -> None:
    """Every name of an attribute, a span or a metric in the README is one of ours, and every reason is listed."""
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    said = set(re.findall(r"`((?:httptrace|http|dns)\.[a-z_.]+)`", README))

    assert said - ours == set()
    assert {reason.value for reason in Reason} - set(re.findall(r"`(\w+)`", README)) == set()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links_of_the_readme_lead_somewhere(link: str) -> None:
    """Each file that the README points to is there."""
    assert (ROOT / link).exists()


def test_the_excerpt_is_of_what_the_demo_prints() -> None:
    """The output on the README's first screen is part of what the demo prints, as shown further down, and short."""
    excerpt, whole = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[:2]
    lines = excerpt.splitlines()

    assert [line for line in lines if line not in whole.splitlines()] == []
    assert len(lines) <= 15
    assert README.index(excerpt) < README.index("pip install") < README.index(whole)


def test_make_targets_in_the_readme_exist() -> None:
    """The make targets that the README names are there."""
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_example_prints_the_reason_and_the_line() -> None:
    """`examples/early_close.py` by itself prints the reason and the line."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "early_close.py")],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(
        r" 19 httptrace.conn.open_reason = body_not_read\n"
        r"  1 httptrace.conn.open_reason = first_connection\n"
        r" 20 httptrace.body.closed_at = early_close.py:\d+ in status_only\n",
        ran.stdout,
    )
