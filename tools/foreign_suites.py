"""The test suites of httpcore and httpx, bare and with our instrumentation on from the start.

Do no harm, asked of somebody else's tests: none may fail that passes without us.

    python tools/foreign_suites.py --httpcore ../httpcore --httpx ../httpx

Each folder is a git clone of the library (a bare one will do) that has the tag
of the version in requirements/foreign.txt; the suites are taken from that tag,
into a temporary folder, and run in an environment of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ROOT / "requirements" / "foreign.txt"

#: What each suite is run with, see foreign_plugin.py; the first is what the others are compared with.
MODES = {
    # httpcore's suite uses httpcore itself, without a request span, so one is put around every request, too.
    "httpcore": ("bare", "ours", "ours+span"),
    # In httpx's suite, upstream's instrumentation makes the spans: what it breaks alone is not ours.
    "httpx": ("bare", "upstream", "ours"),
}
#: A new failure has to fail again alone this many times: the suites have timing-dependent tests.
AGAIN = 3


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    passed: set[str]
    failed: dict[str, str]
    faults: list[str]
    spans: int
    annotated: int


class Suite:
    """One library's tests, unpacked."""

    def __init__(self, name: str, folder: Path, python: Path, scratch: Path) -> None:
        self.name = name
        self.folder = folder
        self.python = python
        self.scratch = scratch

    def run(self, mode: str, *tests: str) -> Run:
        """Run it, or only *tests* of it."""
        junit, said = self.scratch / "junit.xml", self.scratch / "said.txt"
        for old in (junit, said):
            old.unlink(missing_ok=True)
        arguments = ["-p", "foreign_plugin"] if mode != "bare" else []
        arguments += ["--timeout=60", "-o", "junit_family=xunit1", f"--junit-xml={junit}", *tests]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTEST_"))}
        environ |= {"PYTHONPATH": str(ROOT / "tools"), "FOREIGN_MODE": mode, "FOREIGN_REPORT": str(said)}
        result = subprocess.run(
            [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not junit.exists():
            raise SystemExit(f"{self.name} ({mode}) did not run:\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
        passed, failed = _outcomes(junit)
        spans, annotated, *faults = said.read_text().splitlines() if said.exists() else ("0", "0")
        return Run(passed, failed, faults, int(spans), int(annotated))


def _outcomes(junit: Path) -> tuple[set[str], dict[str, str]]:
    passed, failed = set(), {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):  # we had it written
        # xunit1 names the file, so that a test can be run again by its id.
        classes = case.get("classname", "").split(".")[len(Path(case.get("file", "")).with_suffix("").parts) :]
        test = "::".join([case.get("file", ""), *classes, case.get("name", "")])
        problems = [child.text or child.get("message", "") for tag in ("failure", "error") for child in case.iter(tag)]
        if problems:
            failed[test] = "\n".join(problems)
        elif case.find("skipped") is None:
            passed.add(test)
    # One test can have two entries: passed, and then failed in its teardown.
    return passed - failed.keys(), failed


def environment(folder: Path, wheel: str) -> Path:
    """Make an environment with all that the suites need, and us; return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", LOCKED], check=True)
    # Not `--editable`: nothing of this checkout is to change while the suites run.
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", wheel], check=True)
    return python


def unpack(name: str, repository: Path, folder: Path) -> None:
    """Put the sources that belong to the locked version of library *name* into *folder*."""
    found = re.search(rf"^{name}==(\S+)", LOCKED.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{LOCKED.name} has no {name}")
    version = found.group(1)
    archive = subprocess.run(
        ["git", "-C", repository, "archive", version], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if archive.returncode:
        raise SystemExit(f"{repository} is no clone of {name} with the tag {version}:\n{archive.stderr.decode()}")
    folder.mkdir()
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def compare(suite: Suite) -> list[str]:
    """Run a suite in all its modes; return what is wrong."""
    wrong = []
    runs: dict[str, Run] = {}
    for mode in MODES[suite.name]:
        run = runs[mode] = suite.run(mode)
        new = sorted(run.failed.keys() & runs["bare"].passed)
        lost = sorted(runs["bare"].passed - run.passed - run.failed.keys())
        spans = f", {run.spans} request spans, {run.annotated} of them annotated" if mode != "bare" else ""
        print(f"{suite.name:10}{mode:12}{len(run.passed)} passed, {len(run.failed)} failed{spans}", flush=True)
        for test in new:
            if any(test in suite.run(mode, test).passed for _ in range(AGAIN)):
                print(f"  passes when run again: {test}")
            elif mode == "upstream":
                print(f"  fails by upstream alone: {test}")
            elif "upstream" in runs and test in runs["upstream"].failed:
                print(f"  fails by upstream alone, too: {test}")
            else:
                wrong.append(f"{suite.name} ({mode}): {test}\n{run.failed[test]}")
        wrong += [f"{suite.name} ({mode}): did not run: {test}" for test in lost]
        wrong += [f"{suite.name} ({mode}): logged: {fault}" for fault in run.faults]
        if mode.startswith("ours") and mode != "ours" and not run.annotated:
            wrong.append(f"{suite.name} ({mode}): no request span was annotated, so this showed nothing")
    return wrong


def main() -> None:
    """Run the suites whose clones were given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in MODES:
        parser.add_argument(f"--{name}", type=Path, metavar="CLONE", help=f"a git clone of encode/{name}")
    parser.add_argument(
        "--install", default=str(ROOT), metavar="WHEEL", help="what is installed (default: this checkout)"
    )
    arguments = parser.parse_args()
    given = {name: path.resolve() for name in MODES if (path := getattr(arguments, name))}
    if not given:
        parser.error("give at least one clone: --httpcore CLONE --httpx CLONE")

    with tempfile.TemporaryDirectory(prefix="foreign-") as scratch_name:
        scratch = Path(scratch_name)
        for name, repository in given.items():
            unpack(name, repository, scratch / name)
        python = environment(scratch / "venv", arguments.install)
        wrong = [line for name in given for line in compare(Suite(name, scratch / name, python, scratch))]
    print("\n".join(wrong) or "no test fails that passes without us")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
