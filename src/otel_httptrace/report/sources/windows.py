# Neither Jaeger's search nor Tempo's has pages. Both return at most so many
# traces of a window of time; which of them is up to the storage: the newest (Jaeger
# in memory, Elasticsearch), or those found first (Tempo says so). So
# a window that is full is asked for again in two halves, the newer first, whatever
# had come from it, until none is full or it cannot be divided any more.

"""Everything in a span of time from a search that returns only so much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from . import SourceError

_Found = TypeVar("_Found")

#: Seconds by unit of a duration.
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def everything(
    search: Callable[[int, int], list[_Found]],
    start: int,
    end: int,
    full: int,
    smallest: int,
    dense: Callable[[int, int], Any],
) -> Iterator[_Found]:
    """What *search* finds from *start* to *end*, newer windows first; what lies in several comes several times.

    Args:
        search: takes a window, both of its ends inclusive, and returns at most *full* things in it.
        start: of the whole window, in any unit.
        full: a search that returned as many left something out, maybe.
        smallest: a window of this length is not divided.
        dense: is told of such a window that was full.
    """
    windows = [(start, end)]
    while windows:
        low, high = windows.pop()
        found = search(low, high)
        yield from found
        if len(found) < full:
            continue
        if high - low <= smallest:
            dense(low, high)
            continue
        middle = (low + high) // 2
        # The last is the next.
        windows += [(low, middle), (middle, high)]


def seconds(duration: str) -> float:
    """A length of time such as ``90s``, ``30m``, ``1h``, ``2d``.

    Raises:
        SourceError: it is none.
    """
    text = duration.strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = -1
    if not 0 < value < 10 * 365 * 86400:
        raise SourceError(f"{duration!r} is not a length of time: expected one like 30m, 1h, 2d")
    return value
