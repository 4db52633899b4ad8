# The interpreter throws away what is raised in a finaliser, in a callback of a weak reference or of the
# garbage collector: also what a signal handler of the application's raises that happens to run there. So
# there is no Python code of ours in any of them, but functions written in C: no handler runs within these.

"""Whether the garbage collector is at work: what it finalises may be inside any lock there is."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

#: Whether the garbage collector is at work: then its phase "stop" comes first, as "start" was the last it told. What
#: it finalises may close responses and connections, inside any lock there is: the SDK's, or one of ours.
PHASES: Final[OrderedDict[str, None]] = OrderedDict.fromkeys(("start", "stop"))
_, STOP = PHASES

#: What the collector told last with each phase, anywhere and in this thread. A finaliser may let other threads run.
_told: Final[dict[str, object]] = {}
_here: Final = threading.local()

#: gevent's, which may stand in for it, is no C to the last: then no thread is told from another.
_TELLS_THREADS: Final = threading.local.__module__ == "_thread"

#: Called by the collector with a phase and what it found. The first takes that for whether to move the phase to the
#: end: it does. All are called with the same object.
_COLLECTION: Final[tuple[Callable[..., None], ...]] = (
    PHASES.move_to_end,
    *((_told.__setitem__, partial(setattr, _here)) if _TELLS_THREADS else ()),
)


def watch() -> None:
    """Be told when the collector starts and stops. Idempotent."""
    for callback in _COLLECTION:
        if callback not in gc.callbacks:
            gc.callbacks.append(callback)


def leave() -> None:
    """Be told no more."""
    for callback in _COLLECTION:
        if callback in gc.callbacks:
            gc.callbacks.remove(callback)
    forget()


def forget() -> None:
    """A collection under way is none of this process: it was begun by a thread that is gone."""
    PHASES.move_to_end(STOP)


def collecting() -> bool:
    """Whether the garbage collector is at work in this thread."""
    # Not by `next` and `iter`: the collector may be at work between two calls.
    for phase in PHASES:
        return phase is STOP and in_this_thread()
    return False


def in_this_thread() -> bool:
    """Whether the collection that was told last is one of this thread."""
    # Where none is told from another, both are None.
    found: Any = getattr(_here, "start", None)
    return found is _told.get("start")
