# A program's Python need not have what its spans take: what it lacks is lent to it, from
# the environment that this command runs in.
#
# It is put at the end of the program's path, so that whatever the program has of its
# own is what it imports. Only what is missing is there, one distribution at a time, and not
# our whole environment, where a program could find what it does not have. A version of
# the program's own that does not go together with what it would be lent is not replaced: then
# we say so before it runs.

"""What the program's Python lacks, lent to it for the time of a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ... import __file__ as _package
from ... import clients
from ..errors import Problem
from . import inside, pythons

#: What spans take to be made and sent to us; the rest follows from what these require.
_ROOTS: Final = ("otel-httptrace", "opentelemetry-distro", "opentelemetry-exporter-otlp-proto-http")

#: Read by every Python that the program starts, of whatever version: so it is written for all.
_SITECUSTOMIZE: Final = """\
import os
import sys


def _start():
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != folder]
    # The one that there would be without us.
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)
        path = os.path.join(folder, "inside.py")
        if sys.version_info >= (3, 10) and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                names = {"__name__": "httptrace_inside", "__file__": path}
                exec(compile(file.read(), path, "exec"), names)
            names["start"](folder)


_start()
"""


def cure(python: str) -> str:
    """What gives *python* all that it may lack, for good."""
    return f"{python} -m pip install 'otel-httptrace[cli]'"


def candidates() -> list[str]:
    """The names of all distributions that may be needed, whatever the program's Python."""
    return list(dict.fromkeys(name for name, _, _ in _closure(None)))


def lacking(facts: Any) -> list[str]:
    """The distributions that the Python with these *facts* lacks, which can be lent to it.

    Args:
        facts: as `inspection.installed` returns them, of all `candidates`.

    Raises:
        Problem: what it has does not go together with what it lacks, or cannot be lent to it.
    """
    versions: Mapping[str, str | None] = facts["versions"]
    python, executable = facts["python"], facts["executable"]
    lent: dict[str, None] = {}
    closure = _closure(facts["markers"], frozenset(name for name, version in versions.items() if version is not None))
    for name, specifier, by in closure:
        theirs = versions.get(name)
        if theirs is not None:
            if by and not specifier.contains(theirs, prereleases=True):
                raise Problem(
                    f"{executable}, which runs the program, has {name} {theirs}, and {by}, which it lacks, needs "
                    f"{name}{specifier}: {cure(executable)}"
                )
            continue
        if name in lent:
            continue
        try:
            ours = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise Problem(
                f"{executable}, which runs the program, lacks {name}, which is not here either: {cure(executable)}"
            ) from None
        # Of an absent one 3.10's is None, which its type does not say.
        needed = SpecifierSet(str(ours.metadata.json.get("requires_python", "")))
        if not needed.contains(python, prereleases=True):
            raise Problem(
                f"{executable}, which runs the program, is Python {python}, and {name} {ours.version} needs {needed}"
            )
        lent[name] = None
    return list(lent)


def _closure(
    markers: Mapping[str, str] | None, there: frozenset[str] = frozenset()
) -> Iterator[tuple[str, SpecifierSet, str]]:
    # Of what the roots require: a distribution's name, in which versions, and who requires it. Of what is *there*
    # it is not asked what it requires; without *markers* whatever these could say.
    left = [("", Requirement(name)) for name in _ROOTS]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        by, required = left.pop()
        name, extras = canonicalize_name(required.name), frozenset(required.extras)
        yield name, required.specifier, by
        if name in there or (name, extras) in seen:
            continue
        seen.add((name, extras))
        left += [(name, further) for further in _requirements(name) if _applies(further.marker, extras, markers)]


def _applies(marker: Marker | None, extras: frozenset[str], markers: Mapping[str, str] | None) -> bool:
    if marker is None or (markers is None and "extra" not in str(marker)):
        return True
    return any(marker.evaluate({**(markers or {}), "extra": extra}) for extra in ("", *extras))


def _requirements(name: str) -> Iterator[Requirement]:
    with contextlib.suppress(metadata.PackageNotFoundError, InvalidRequirement):
        for text in metadata.requires(name) or ():
            yield Requirement(text)


class Unsent(NamedTuple):
    """What processes had not sent when they ended.

    Args:
        processes: how many had not sent all spans that had ended.
        spans: how many spans that were.
        requests: how many requests were under way then: their spans had not ended.
    """

    processes: int = 0
    spans: int = 0
    requests: int = 0


class Lent:
    """A folder for the program's PYTHONPATH, which instruments it; it is gone when this is left."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="httptrace-")
        Path(self.folder, inside.PROCESSES).mkdir()
        Path(self.folder, inside.PACKAGES).mkdir()
        Path(self.folder, inside.IMPORTED).mkdir()
        Path(self.folder, inside.OTHERS).write_text(json.dumps(list(clients.OTHERS)), encoding="utf-8")
        Path(self.folder, inside.PYTHONS).write_text("{}", encoding="utf-8")
        Path(self.folder, "inside.py").write_text(Path(inside.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        Path(self.folder, "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")

    @property
    def packages(self) -> str:
        """Where the distributions are."""
        return str(Path(self.folder, inside.PACKAGES))

    def lend(self, names: list[str], facts: Any) -> None:
        """Put the distributions *names* there, for the Python with these *facts* alone."""
        for name in names:
            _link_distribution(metadata.distribution(name), Path(self.packages))
        version = [int(part) for part in facts["python"].split(".")[:2]]
        Path(self.folder, inside.PYTHONS).write_text(json.dumps({facts["prefix"]: version}), encoding="utf-8")

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """*environ* with the folder on the PYTHONPATH."""
        path = environ.get("PYTHONPATH")
        return {**environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{path}" if path else self.folder}

    def imported(self) -> set[str]:
        """Which modules that make HTTP requests the processes use that have ended: of `inside.OTHERS`."""
        texts = (path.read_text(encoding="utf-8") for path in Path(self.folder, inside.IMPORTED).iterdir())
        return {name for text in texts for name in text.splitlines()}

    def unsent(self) -> Unsent:
        """What processes that have ended had not sent."""
        processes = spans = requests = 0
        for path in Path(self.folder, inside.PROCESSES).iterdir():
            data = path.read_bytes()
            ended, taken, under_way = inside.COUNTS.unpack(data) if len(data) == inside.COUNTS.size else (0, 0, 0)
            if (ended > taken or under_way) and _over(path):
                processes += ended > taken
                spans += max(0, ended - taken)
                requests += under_way
        return Unsent(processes, spans, requests)

    def __enter__(self) -> Lent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _over(path: Path) -> bool:
    # Whether the process that has locked it is no more.
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return True
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _link_distribution(distribution: metadata.Distribution, folder: Path) -> None:
    name = canonicalize_name(distribution.metadata["Name"])
    if name == "otel-httptrace":
        # Where it is under development, its files are elsewhere.
        _link(Path(_package).parent, folder / "otel_httptrace")
        described = getattr(distribution, "_path", None)
        if described is not None:
            _link(Path(described), folder / Path(described).name)
        return
    files = [Path(file) for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")]
    root = Path(str(distribution.locate_file("")))
    regular = {file.parent for file in files if file.name == "__init__.py" or file.parent.suffix == ".dist-info"}
    done: set[Path] = set()
    for file in files:
        # A whole package is linked as one, and so its compiled files are kept: but folders that
        # distributions share (opentelemetry, google) are of their own kind here.
        above = [parent for parent in reversed(file.parents) if parent in regular]
        linked = above[0] if above else file
        if linked not in done and "__pycache__" not in linked.parts:
            done.add(linked)
            _link(root / linked, folder / linked)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except FileExistsError:
        return
    except OSError:
        # Windows allows it to few.
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


def equip(program: str, lent: Lent) -> Any:
    """Lend the Python of *program* what it lacks.

    Args:
        program: its path.
        lent: where to put it.

    Returns:
        The facts of that Python; None if there is none, or if it does not answer.

    Raises:
        Problem: it cannot be used: it is too old, or what it has does not go together with what it lacks.
    """
    python = pythons.python_of(program)
    if python is None:
        return None
    facts = pythons.facts_of(python, *candidates())
    if facts is None:
        version = pythons.version(python)
        if version is not None and version < (3, 10):
            shown = ".".join(map(str, version))
            raise Problem(f"{python}, which runs the program, is Python {shown}: 3.10 or later is supported")
        return None
    missing = lacking(facts)
    if missing:
        lent.lend(missing, facts)
        answer = pythons.inspect(python, "lent", lent.packages)
        if answer is None or answer["error"]:
            why = answer["error"] if answer is not None else "it could not be run"
            raise Problem(
                f"{python}, which runs the program, lacks {', '.join(sorted(missing))}, and cannot use ours: {why}; "
                f"{cure(python)}"
            )
    return facts
