"""Durations, as they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Nanoseconds to seconds.
Seconds = Callable[[int], float]

SECOND: Final = 1_000_000_000
#: Durations are told in steps of 2**-20 s, 0.95 microseconds: a double then ends in
#: zeros, and of its eight bytes gzip keeps four. Three of them are on every request,
#: and were most of what it cost on the wire.
STEPS: Final = 2**20
#: A wait shorter than this says nothing: the least nanoseconds that are told as a millisecond or
#: more. What is told is what counts: 1,000,000 are told as 0.00099945 s, for a step less is not seen.
NOTEWORTHY: Final = -(-SECOND * -(-STEPS // 1000) // STEPS)


def seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds."""
    # Down, so that the phases are still no more than the whole.
    return nanoseconds * STEPS // SECOND / STEPS


def readable_seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds, in decimal microseconds: where a person will look, ``0.001179``."""
    # Down, too.
    return nanoseconds // 1000 / 1_000_000


def spoken(value: float) -> str:
    """Seconds in a sentence: three digits and a unit, ``5.0 s``, ``12.3 ms``, ``85 µs``."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        # What would be rounded up to the next unit belongs there: 999.6 ms is 1.0 s.
        if value * factor >= 0.9995:
            number = value * factor
            return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:.1f} {unit}"
    return f"{value * 1e6:.0f} µs"
