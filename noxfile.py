"""The tests on each Python that is there, with the newest and with the oldest dependencies: `make matrix`.

`make matrix ARGS="-s tests-3.13-oldest -- tests/core"` runs some of them, `ARGS="-t ci"` what `.ci/run` does.
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
#: A wheel may lack a file, which is looked for, an entry point, or the way to a file: the tests that need these.
BUILT = (
    "tests/cli/test_report.py",
    "tests/report/test_page.py",
    "tests/test_auto_instrumentation.py",
    "tests/project/test_demo.py",
    "tests/project/test_packaging.py",
)
_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
PYTEST = ("python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile")

nox.options.envdir = "build/nox"
nox.options.reuse_venv = "yes"

Run = Callable[[nox.Session], None]


def _found(version: str) -> str | None:
    """The interpreter of a *version*: one on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for one in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        # On the path there may be one that only says where pyenv has it.
        if one and subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(one)
    return None


def _install(session: nox.Session, *options: str) -> None:
    session.install("--disable-pip-version-check", "--only-binary", ":all:", *options)


def _install_locked(session: nox.Session, locked: Path) -> None:
    # The oldest do not all agree with one another: requirements/oldest-overrides.in.
    _install(session, "--no-deps", "--require-hashes", "-r", str(locked))


def _wheel(session: nox.Session) -> str:
    # As `make wheel` does, which might set up anew the environment that this runs in.
    shutil.rmtree("dist", ignore_errors=True)
    session.run(sys.executable, "-m", "hatchling", "build", external=True)
    (wheel,) = Path("dist").absolute().glob("*.whl")
    return str(wheel)


def _tests(locked: Path) -> Run:
    def tests(session: nox.Session) -> None:
        _install_locked(session, locked)
        session.install("--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--editable", ".")
        session.run(*PYTEST, *session.posargs)

    return tests


def _floors(library: str) -> Run:
    def floors(session: nox.Session) -> None:
        # What pip itself accepts, which the tests' environment of the oldest is not: so these are real floors.
        oldest = re.findall(r"^(?!h11|packaging)[\w.-]+==[^\\\n]+", LOCKED["oldest"].read_text(), re.MULTILINE)
        constraints = Path(session.create_tmp(), "constraints.txt")
        constraints.write_text("\n".join([*oldest, "packaging==18.0", ""]))
        _install(session, "--force-reinstall", "-c", str(constraints), _wheel(session), library, "opentelemetry-sdk")
        session.run("python", "tests/alone.py", library)

    return floors


def _built() -> Run:
    def wheel(session: nox.Session) -> None:
        _install_locked(session, LOCKED["newest"])
        _install(session, "--no-deps", "--force-reinstall", _wheel(session))
        # All but the sources: what is imported is what was built.
        folder = Path(session.create_tmp(), "tests").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout  # noqa: S607
        packages = Path(str(session.run("python", "-c", _PACKAGES, silent=True)).strip())
        for name in tracked.rstrip("\0").split("\0"):
            if name.startswith("src/"):
                if (packages / name.removeprefix("src/")).read_bytes() != Path(name).read_bytes():
                    session.error(f"{name} is another one in the wheel")
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(name, folder / name)
        with session.chdir(folder):
            session.run(*PYTEST, "-p", "no:cacheprovider", *(session.posargs or BUILT))

    return wheel


def _missing(version: str) -> Run:
    def missing(session: nox.Session) -> None:
        session.skip(f"there is no Python {version} here")

    return missing


def _sessions() -> None:
    found = {version: where for version in PYTHONS if (where := _found(version))}
    for version in PYTHONS:
        if version not in found:
            nox.session(_missing(version), name=f"tests-{version}", python=False)
    others = [version for version in found if version != MAIN]
    # `make test` has been on 3.11: the newest of the others is the farthest from it.
    chosen = others[-1] if others else MAIN
    if not others:
        print(f"On Python {MAIN} alone: there is no other one of {', '.join(PYTHONS)} here")
    for version, where in found.items():
        ci = ["ci"] if version == chosen else []
        for which, locked in LOCKED.items():
            nox.session(_tests(locked), name=f"tests-{version}-{which}", python=where, venv_backend="venv")
        for library in ("httpx", "httpx2"):
            nox.session(
                _floors(library), name=f"floors-{version}-{library}", python=where, venv_backend="venv", tags=ci
            )
    nox.session(
        _built(),
        name=f"wheel-{MAIN}",
        python=found.get(MAIN, sys.executable),
        venv_backend="venv",
        tags=["ci"],
        default=False,
    )


_sessions()
