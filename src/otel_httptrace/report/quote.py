# What a span names as its line was written by whoever sent it. So only Python files below the folder that the report is
# made in are read: a report of somebody else's spans must not quote what else is on this machine.

"""The source line that a finding is about, where it can be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_PLACE: Final = re.compile(r"(?P<path>[^:]+\.py):(?P<number>\d{1,7}) in ")
_LONGEST: Final = 2_000_000


def quoted(place: str | None, folder: Path | None = None) -> str | None:
    """The line of source code at *place*, ``path:line in function``, without its indentation; None if it is not there.

    Args:
        place: as `httptrace.body.closed_at` has it.
        folder: below which to look, itself and its ``src``; the current one unless given.
    """
    found = located(place, folder)
    if found is None:
        return None
    path, number = found
    try:
        if path.stat().st_size <= _LONGEST:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return (lines[number - 1].strip() or None) if 1 <= number <= len(lines) else None
    except OSError:
        pass
    return None


def located(place: str | None, folder: Path | None = None) -> tuple[Path, int] | None:
    """The file at *place*, ``path:line in function``, and the line's number; None if it is not there.

    Args:
        place: as `httptrace.body.closed_at` has it.
        folder: below which to look, itself and its ``src``; the current one unless given.
    """
    found = _PLACE.match(place or "")
    if found is None:
        return None
    try:
        root = (folder or Path.cwd()).resolve()
        for base in (root, root / "src"):
            path = (base / found["path"]).resolve()
            if path.is_relative_to(root) and path.is_file():
                return path, int(found["number"])
    except (OSError, ValueError):
        pass
    return None
