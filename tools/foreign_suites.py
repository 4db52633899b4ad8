"""The test suites of others, without us and with our instrumentation on from the start: `make foreign`.

Do no harm, asked of somebody else's tests: none may fail that passes without us.

The suites come out of the source distributions in requirements/foreign-suites.txt and run in
environments of their own, in build/foreign and, where what they need does not go together,
build/foreign-urllib3. Those of httpx and httpcore run on httpx2 and httpcore2 as well, whose own
distributions hold none, with the names translated: what fails there without us, because the
libraries differ, is not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ROOT / "requirements" / "foreign.txt"
SUITES = ROOT / "requirements" / "foreign-suites.txt"
LOCKED_FOR_URLLIB3 = ROOT / "requirements" / "foreign-urllib3.txt"

#: Seconds after which a suite hangs: many times what the longest takes.
PATIENCE = 300
#: So many failures are no matter of a busy machine, and are not run again.
MANY = 20


@dataclass(frozen=True)
class Suite:
    """One library's tests.

    Args:
        name: what we call it.
        distribution: where the tests are.
        modes: what it is run with besides "bare", see foreign_plugin.py.
        annotates: whether a request of it gets as far as a connection pool, below a span of upstream's.
        plugins: of pytest, that it needs; no other is loaded. None: all, for it runs pytest itself.
        translated: from which name to which, in the tests.
        arguments: more of pytest's.
        tests: which files of it, or all in a folder.
        environ: more variables. Upstream's span goes into a header of each request, and to a test that looks at all
            headers that is a difference, though none of ours: "none" as propagator leaves it out.
        locked: what it needs.
    """

    name: str
    distribution: str
    modes: tuple[str, ...]
    annotates: bool
    plugins: tuple[str, ...] | None
    translated: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    tests: tuple[str, ...] = ("tests",)
    environ: Mapping[str, str] = field(default_factory=dict)
    locked: Path = LOCKED


_CORE: dict[str, Any] = {
    # httpcore's suite uses httpcore itself, without a request span, so one is put around every request, too.
    "modes": ("ours", "ours+span"),
    "annotates": True,
    "plugins": ("anyio", "pytest_trio.plugin", "pytest_httpbin.plugin"),
    # By the newest wheel of flasgger, which httpbin needs.
    "arguments": ("-W", "ignore:the imp module:DeprecationWarning"),
}
_CLIENT: dict[str, Any] = {"modes": ("ours",), "annotates": True, "plugins": ("anyio", "pytest_trio.plugin")}
_NO_HEADER = {"OTEL_PROPAGATORS": "none"}
_TO_2 = {"httpx": "httpx2", "httpcore": "httpcore2"}

#: What has to do with connections and responses. Not what tests the suite's own server, parses or encodes.
_REQUESTS = tuple(f"tests/test_{name}.py" for name in ("adapters", "hooks", "lowlevel", "requests"))
_URLLIB3 = (
    *(f"test/test_{name}.py" for name in ("connection", "connectionpool", "http2_connection", "poolmanager")),
    *(f"test/test_{name}.py" for name in ("proxymanager", "queue_monkeypatch", "response")),
    "test/contrib/test_socks.py",
    "test/with_dummyserver",
)
_HTTPS = "test/with_dummyserver/test_https.py"
_LEFT_OUT = (
    # They need an address that never answers. Where there is no network all fail there at once, and threads meet or not
    # by chance: it fails, or hangs for a minute, without us as well.
    *(f"{_HTTPS}::TestHTTPS_TLSv1_{minor}::test_http2_probe_blocked_per_thread" for minor in (2, 3)),
    # They need a proxy on hypercorn with changes that no release of it has, and wait for three seconds in vain each.
    "test/with_dummyserver/test_proxy_poolmanager.py::TestHTTPSProxyVerification",
)

ALL = (
    Suite("httpx", "httpx", **_CLIENT),
    Suite("httpcore", "httpcore", **_CORE),
    Suite("httpx2", "httpx", **_CLIENT, translated=_TO_2),
    Suite("httpcore2", "httpcore", **_CORE, translated=_TO_2),
    # It mocks nearly every request with respx.
    Suite("upstream", "opentelemetry-instrumentation-httpx", ("ours alone",), annotates=False, plugins=()),
    Suite(
        "pytest-httpx",
        "pytest-httpx",
        ("ours",),
        annotates=False,
        plugins=None,
        # What its pyproject.toml says in a table that only the newest pytest reads.
        arguments=("-o", "asyncio_default_fixture_loop_scope=function"),
    ),
    Suite(
        "requests",
        "requests",
        ("ours",),
        annotates=True,
        plugins=("pytest_httpbin.plugin", "pytest_mock"),
        arguments=("-W", "ignore:the imp module:DeprecationWarning"),
        tests=_REQUESTS,
        environ=_NO_HEADER,
    ),
    Suite(
        "urllib3",
        "urllib3",
        ("ours",),
        annotates=True,
        plugins=("anyio", "pytest_socket"),
        arguments=tuple(f"--deselect={test}" for test in _LEFT_OUT),
        tests=_URLLIB3,
        environ=_NO_HEADER,
        locked=LOCKED_FOR_URLLIB3,
    ),
)


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    passed: frozenset[str]
    failed: dict[str, str]
    #: Failed as their authors expect it, which some do now and then only.
    expected: frozenset[str]
    faults: list[str]
    spans: int
    annotated: int
    seconds: float


class Runner:
    """Runs suites: each run has a folder and a port of its own, so that two at once do not meet."""

    def __init__(self, pythons: Mapping[Path, Path], sources: Mapping[str, Path], scratch: Path) -> None:
        self._pythons = pythons
        self._sources = sources
        self._scratch = scratch

    def run(self, suite: Suite, mode: str, tests: tuple[str, ...] = ()) -> Run:
        """Run *suite*, or only *tests* of it."""
        begun = time.monotonic()
        scratch = Path(tempfile.mkdtemp(prefix=f"{suite.name}-", dir=self._scratch))
        folder, junit, said = scratch / "suite", scratch / "junit.xml", scratch / "said.txt"
        _translate(self._sources[suite.distribution], folder, suite.translated)
        plugins = [*suite.plugins, "pytest_timeout"] if suite.plugins is not None else []
        plugins += ["foreign_plugin"] if mode != "bare" else []
        arguments = [part for plugin in plugins for part in ("-p", plugin)] + list(suite.arguments)
        arguments += [
            "--tb=short",
            "--timeout=60",
            "-o",
            "junit_family=xunit1",
            f"--junit-xml={junit}",
            *(tests or suite.tests),
        ]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTEST_"))}
        environ |= {
            "PYTHONPATH": str(ROOT / "tools"),
            **({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if suite.plugins is not None else {}),
            "FOREIGN_MODE": mode,
            "FOREIGN_REPORT": str(said),
            **suite.environ,
        }
        try:
            result = subprocess.run(
                [self._pythons[suite.locked], "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f"{suite.name} ({mode}) did not end in {PATIENCE} s:\n{error.stdout!r}") from None
        if not junit.exists():
            raise SystemExit(f"{suite.name} ({mode}) did not run:\n{result.stdout[-3000:]}")
        if mode != "bare" and not said.exists():
            raise SystemExit(f"{suite.name} ({mode}) ended early:\n{result.stdout[-3000:]}")
        passed, failed, expected = _outcomes(junit)
        spans, annotated, *faults = said.read_text().splitlines() if said.exists() else ("0", "0")
        return Run(passed, failed, expected, faults, int(spans), int(annotated), time.monotonic() - begun)


def _translate(source: Path, folder: Path, names: Mapping[str, str]) -> None:
    """Copy the tests, with other names and a port that is free for their server, which has a fixed one."""
    shutil.copytree(source, folder)
    # All that the suite has except its package: that is the one which is installed.
    for file in folder.rglob("*.py"):
        text = changed = file.read_text()
        for old, new in names.items():
            changed = re.sub(rf"\b{old}\b", new, changed)
        if file.name == "conftest.py" and "Config(" in text:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            changed = changed.replace('Config(app=app, lifespan="off"', f'Config(app=app, port={port}, lifespan="off"')
        if changed != text:
            file.write_text(changed)


def _outcomes(junit: Path) -> tuple[frozenset[str], dict[str, str], frozenset[str]]:
    passed, failed, expected = set(), {}, set()
    for case in ElementTree.parse(junit).getroot().iter("testcase"):  # noqa: S314 - we had it written
        # xunit1 names the file, so that a test can be run again by its id.
        classes = case.get("classname", "").split(".")[len(Path(case.get("file", "")).with_suffix("").parts) :]
        test = "::".join([case.get("file", ""), *classes, case.get("name", "")])
        problems = [
            child.text or child.get("message") or "" for tag in ("failure", "error") for child in case.iter(tag)
        ]
        if problems:
            failed[test] = "\n".join(problems)
        elif (skipped := case.find("skipped")) is None:
            passed.add(test)
        elif skipped.get("type") == "pytest.xfail":
            expected.add(test)
    # One test can have two entries: passed, and then failed in its teardown.
    return frozenset(passed - failed.keys()), failed, frozenset(expected)


def environment(folder: Path, install: str, locked: Path) -> Path:
    """Have an environment with all that is *locked*, and us as we are now; return its interpreter."""
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = folder / ".done"
    wanted = hashlib.sha256(locked.read_bytes() + sys.version.encode()).hexdigest()
    if not done.exists() or done.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        # Compiled here: what the compiler warns of is an error in a suite that takes warnings for errors.
        subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(locked)], check=True)
        done.write_text(wanted)
    # Not `--editable`: nothing of this checkout is to change while the suites run.
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", install], check=True)
    return python


def sources(python: Path, folder: Path) -> dict[str, Path]:
    """Get the distributions that hold the suites; return by name where the tests of each are."""
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            folder,
            "--require-hashes",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            ":all:",
            "-r",
            SUITES,
        ],
        check=True,
    )
    found = {}
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        inside = folder / archive.name.removesuffix(".tar.gz")
        suite = folder / f"tests-of-{archive.name}"
        suite.mkdir()
        # Not the package: that is the one which is installed.
        for part in ("tests", "test", "dummyserver"):
            if (inside / part).is_dir():
                shutil.copytree(inside / part, suite / part)
        # What tests send as a file, too.
        for file in ("pyproject.toml", "README.md", "requirements-dev.txt"):
            if (inside / file).exists():
                shutil.copy(inside / file, suite)
        found[archive.name.rsplit("-", 1)[0].replace("_", "-")] = suite
    return found


def compare(suite: Suite, runs: Mapping[str, Run], runner: Runner) -> list[str]:
    """Return what is wrong with the *runs* of a suite, by mode."""
    wrong = []
    bare = runs["bare"]
    if not bare.passed:
        wrong.append(f"{suite.name} (bare): no test passes, so this showed nothing")
    for mode, run in runs.items():
        spans = f", {run.spans} request spans, {run.annotated} of them annotated" if mode != "bare" else ""
        counts = f"{len(run.passed):5} passed, {len(run.failed):3} failed in {run.seconds:3.0f} s{spans}"
        print(f"{suite.name:13} {mode:11}{counts}", flush=True)
        suspects = tuple(sorted(run.failed.keys() & bare.passed))
        ours = sorted(suspects if len(suspects) > MANY else _ours(suite, mode, suspects, runner))
        wrong += [f"{suite.name} ({mode}): {test}\n{run.failed[test]}" for test in ours]
        lost = sorted(bare.passed - run.passed - run.failed.keys() - run.expected)
        wrong += [f"{suite.name} ({mode}): did not run: {test}" for test in lost]
        wrong += [f"{suite.name} ({mode}): logged: {fault}" for fault in run.faults]
        if mode == suite.modes[-1] and suite.annotates and not run.annotated:
            wrong.append(f"{suite.name} ({mode}): no request span was annotated, so this showed nothing")
    return wrong


def _ours(suite: Suite, mode: str, suspects: tuple[str, ...], runner: Runner) -> set[str]:
    """Those of *suspects*, which passed without us and failed with us, that do so by us."""
    if not suspects:
        return set()
    # Nothing else runs now: a time limit that a busy machine broke does not break again.
    again = runner.run(suite, mode, suspects)
    for test in suspects:
        if test in again.passed:
            print(f"  passes when run again: {test}")
    ours = set(suspects) - again.passed
    if ours and suite.name != "upstream":
        # There upstream's instrumentation makes the spans: what it breaks alone is not ours.
        upstream = runner.run(suite, "upstream", tuple(sorted(ours)))
        for test in sorted(ours & upstream.failed.keys()):
            print(f"  fails by upstream alone: {test}")
        ours -= upstream.failed.keys()
    return ours


def main() -> None:
    """Run all suites, or those whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(suite.name for suite in ALL))
    parser.add_argument(
        "--install", default=str(ROOT), metavar="WHEEL", help="what is installed (default: this checkout)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - {suite.name for suite in ALL}:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    chosen = [suite for suite in ALL if not arguments.suites or suite.name in arguments.suites]

    pythons = {
        locked: environment(ROOT / "build" / locked.stem, arguments.install, locked)
        # The first also has what the distributions are unpacked with.
        for locked in dict.fromkeys((LOCKED, *(suite.locked for suite in chosen)))
    }
    with tempfile.TemporaryDirectory(prefix="foreign-") as scratch_name:
        scratch = Path(scratch_name)
        (scratch / "suites").mkdir()
        runner = Runner(pythons, sources(pythons[LOCKED], scratch / "suites"), scratch)
        with ThreadPoolExecutor(2) as pool:
            runs = {
                suite.name: {mode: pool.submit(runner.run, suite, mode) for mode in ("bare", *suite.modes)}
                for suite in chosen
            }
        wrong = [
            line
            for suite in chosen
            for line in compare(suite, {mode: run.result() for mode, run in runs[suite.name].items()}, runner)
        ]
    print("\n".join(wrong) or "no test fails that passes without us")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
