"""The tests on each Python that is there, with the newest and with the oldest dependencies: `make matrix`.

`nox -s tests-3.13-oldest -- tests/test_dns.py` runs some of them, `nox -t ci` what `.ci/run` does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: Everything else of `.ci/run` is on this one.
MAIN = "3.11"
LOCKED = {"newest": Path("requirements/dev.txt"), "oldest": Path("requirements/oldest.txt")}

nox.options.envdir = "build/nox"
nox.options.reuse_venv = "yes"
nox.needs_version = ">=2024.4.15"


def _found(version: str) -> str | None:
    """The interpreter of a *version*: one on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for one in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        # On the path there may be one that only says where pyenv has it.
        if one and subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(one)
    return None


def _tests(locked: Path) -> Callable[[nox.Session], None]:
    def tests(session: nox.Session) -> None:
        # The oldest do not all agree with one another: requirements/oldest-overrides.in.
        pip = ("--disable-pip-version-check", "--no-deps")
        session.install(*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(locked))
        session.install(*pip, "--no-build-isolation", "--editable", ".")
        # The page is the same on any Python; where there is a browser it is looked at all the same.
        env = {"HTTPTRACE_REQUIRE_CHROMIUM": None}
        session.run("python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *session.posargs, env=env)

    return tests


def _alone(library: str) -> Callable[[nox.Session], None]:
    def alone(session: nox.Session) -> None:
        # What pip itself accepts, which the tests' environment of the oldest is not: so these are real floors.
        folder = Path(session.create_tmp())
        oldest = re.findall(r"^(?!h11|packaging)[\w.-]+==[^\\\n]+", LOCKED["oldest"].read_text(), re.MULTILINE)
        (folder / "constraints.txt").write_text("\n".join([*oldest, "packaging==18.0", ""]))
        shutil.rmtree(folder / "dist", ignore_errors=True)
        session.run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", external=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        session.install(
            *("--disable-pip-version-check", "--only-binary", ":all:", "--force-reinstall"),
            *("-c", str(folder / "constraints.txt"), str(wheel), library, "opentelemetry-sdk"),
        )
        session.run("python", "tests/alone.py", library)

    return alone


def _missing(said: str) -> Callable[[nox.Session], None]:
    def missing(session: nox.Session) -> None:
        session.skip(said)

    return missing


def _sessions() -> None:
    found = {version: where for version in PYTHONS if (where := _found(version))}
    others = [version for version in found if version != MAIN]
    for version in PYTHONS:
        where = found.get(version)
        if where is None:
            nox.session(_missing(f"there is no Python {version} here"), name=f"tests-{version}", python=False)
            continue
        for which, locked in LOCKED.items():
            # The newest of both and the oldest of both: what they do to one another is in between.
            chosen = version in (others[-1:] if which == "newest" else others[:1])
            nox.session(
                _tests(locked),
                name=f"tests-{version}-{which}",
                python=where,
                venv_backend="venv",
                tags=["ci"] if chosen else [],
            )
        for library in ("httpx", "httpx2"):
            nox.session(
                _alone(library),
                name=f"floors-{version}-{library}",
                python=where,
                venv_backend="venv",
                tags=["ci"] if version in others[:1] else [],
            )
    if not others:
        nox.session(_missing(f"there is no Python but {MAIN} here"), name="others", python=False, tags=["ci"])


_sessions()
