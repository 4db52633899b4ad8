"""Event loops: which one runs here, and whether another one opened a connection."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable

#: A weak reference to a loop, as nothing of ours may keep one.
Loop = Callable[[], object]


def running() -> Loop | None:
    """The asyncio loop or trio run that this code runs in; None if there is none, or it cannot be told."""
    loop = _running()
    try:
        return weakref.ref(loop) if loop is not None else None
    except TypeError:
        return None


def foreign(loop: Loop | None) -> bool:
    """Whether *loop* is another one than runs here; False where either is not known."""
    if loop is None:
        return False
    here = _running()
    # One that is gone was another.
    return here is not None and loop() is not here


def _running() -> object | None:
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    try:
        return asyncio.get_running_loop() if asyncio is not None else None
    except RuntimeError:
        pass
    try:
        return trio.lowlevel.current_trio_token() if trio is not None else None
    except RuntimeError:
        return None
