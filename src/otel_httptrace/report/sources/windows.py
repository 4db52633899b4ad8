# Neither Jaeger's search nor Tempo's has pages. Both return at most so many
# traces of a window of time; which of them is up to the storage: the newest (Jaeger
# in memory, Elasticsearch), or those found first (Tempo says so). So of
# a window that is full nothing is believed: it is asked for again in two halves,
# until none is full or it cannot be divided any more.
#
# What comes out is in the order of time, as far as windows tell: who lost a
# connection comes before who had to open it anew, and a report can tell what it was.

"""Everything in a span of time from a search that returns only so much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from . import SourceError

_Found = TypeVar("_Found")

#: Searches for one report: a million traces or two. A window of an hour has 3.6 million milliseconds.
_MOST: Final = 10_000

#: Seconds by unit of a duration.
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def everything(
    search: Callable[[int, int], list[_Found] | None],
    start: int,
    end: int,
    full: int,
    smallest: int,
    dense: Callable[[int, int], object],
    newest_first: bool = False,
) -> Iterator[list[_Found]]:
    """What *search* finds from *start* to *end*, by window; what lies in several of them comes several times.

    Args:
        search: takes a window, both of its ends inclusive, and returns at most *full* things in it; None if there is
            more than can be read at once.
        start: of the whole window, in any unit.
        full: a search that returned as many left something out, maybe.
        smallest: a window of this length is not divided.
        dense: is told of such a window that was full.
        newest_first: the order of the windows.

    Raises:
        SourceError: that has taken too many searches, as it does where the answer is always full, whatever the window.
    """
    windows = [(start, end)]
    searches = 0
    while windows:
        low, high = windows.pop()
        searches += 1
        if searches > _MOST:
            raise SourceError(f"{_MOST:,} searches have not been enough: look back less far, or set --limit")
        found = search(low, high)
        if found is None or len(found) >= full:
            if high - low > smallest:
                middle = (low + high) // 2
                halves = [(middle, high), (low, middle)]
                # The last is the next.
                windows += reversed(halves) if newest_first else halves
                continue
            dense(low, high)
        if found is not None:
            yield found


class Limited(Generic[_Found]):
    """Things of windows, each once, in the order of time; of too many the newest.

    Args:
        limit: how many at most; None is all.
        key: what makes one of them, ``when`` it began.
        more: is called if there are more than the limit allows.
    """

    def __init__(
        self,
        limit: int | None,
        key: Callable[[_Found], str],
        when: Callable[[_Found], int],
        more: Callable[[], object],
    ) -> None:
        self._limit = limit
        self._key = key
        self._when = when
        self._more = more

    def of(self, windows: Iterable[list[_Found]]) -> Iterator[_Found]:
        """Those of *windows*: without a limit they are handed on as they come, with one only the newest are kept."""
        seen: set[str] = set()
        kept: list[_Found] = []
        for window in windows:
            new = {self._key(thing): thing for thing in window if self._key(thing) not in seen}
            seen |= new.keys()
            found = sorted(new.values(), key=self._when)
            if self._limit is None:
                yield from found
                continue
            kept += reversed(found)
            if len(kept) > self._limit:
                self._more()
                break
        yield from sorted(kept[: self._limit], key=self._when)


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
