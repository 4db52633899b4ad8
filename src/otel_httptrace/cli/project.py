# What a team agreed on belongs beside its code: a command line in CI and one on a desk
# then mean the same. What is here is weaker than a variable, and that than an option.

"""The settings of ``httptrace`` in a project: ``[tool.httptrace]`` of its pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from .errors import Problem

#: What may be set, by its name in the file: the option's name, and the types that it takes.
SETTINGS: Final[dict[str, tuple[str, tuple[type, ...]]]] = {
    "all": ("everything", (bool,)),
    "baseline": ("baseline", (str,)),
    "fail-on": ("fail_on", (str, list)),
    "html": ("html", (str,)),
    "json": ("json", (str,)),
    "output": ("output", (str,)),
    "quiet": ("quiet", (bool,)),
    "threshold": ("threshold", (dict,)),
    "width": ("width", (int,)),
}
#: The variable that has the same, for each: ``HTTPTRACE_FAIL_ON``.
VARIABLES: Final = {name: f"HTTPTRACE_{name.upper().replace('-', '_')}" for name in SETTINGS}
_FILES: Final = frozenset({"baseline", "html", "json", "output"})


def settings(folder: Path | None = None) -> dict[str, Any]:
    """What the nearest pyproject.toml above says, by the options' names, as `click` takes it; empty if it says nothing.

    Files are relative to it.

    Args:
        folder: where to look first; the current one unless given.

    Raises:
        Problem: a setting that there is not, or one of another type.
    """
    start = (folder or Path.cwd()).absolute()
    for where in (start, *start.parents):
        path = where / "pyproject.toml"
        try:
            text = path.read_bytes()
        except OSError:
            continue
        return _read(text, path) if b"httptrace" in text else {}
    return {}


def _read(text: bytes, path: Path) -> dict[str, Any]:
    try:
        if sys.version_info >= (3, 11):
            import tomllib  # noqa: PLC0415
        else:
            import tomli as tomllib  # noqa: PLC0415
    except ImportError as error:
        raise Problem(f"{path} cannot be read: pip install tomli") from error
    try:
        tool = tomllib.loads(text.decode()).get("tool")
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not TOML: {error}") from error
    table = tool.get("httptrace", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise Problem(f"{path}: tool.httptrace is not a table")
    found = {}
    for name, value in table.items():
        if name not in SETTINGS:
            raise Problem(f"{path}: [tool.httptrace] has no setting {name!r}; there are {', '.join(SETTINGS)}")
        option, kinds = SETTINGS[name]
        if type(value) not in kinds or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise Problem(f"{path}: {name} = {value!r} in [tool.httptrace] is not {_KINDS[kinds]}")
        if name in _FILES and value != "-":
            value = str(path.parent / value)  # noqa: PLW2901
        found[option] = _as_given(name, value)
    return found


_KINDS: Final = {
    (bool,): "true or false",
    (str,): "a string",
    (str, list): "a string, or a list of strings",
    (dict,): "a table of numbers",
    (int,): "an integer",
}


def _as_given(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return [f"{threshold}={number}" for threshold, number in value.items()]
    return [value] if name == "fail-on" and isinstance(value, str) else value


__all__ = ["SETTINGS", "VARIABLES", "settings"]
