"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..telemetry.units import spoken


def seconds(value: float) -> str:
    """Three digits and a unit: ``5.0 s``, ``12.3 ms``, ``85 µs``; hours and minutes where there are many."""
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    if value >= 180:
        return f"{value / 60:.1f} min"
    return spoken(value)


def spread(least: float, most: float) -> str:
    """``5.0 s``, or ``4.8 to 5.2 s`` where the two read differently."""
    low, high = seconds(least), seconds(most)
    if low == high:
        return high
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if unit == high.partition(" ")[2] else f"{low} to {high}"


def count(number: int, what: str, many: str | None = None) -> str:
    """``1 request``, ``1,200 requests``."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def listed(counted: Mapping[Any, int], most: int = 6) -> str:
    """``3 x ReadError, 2 x HTTP 500``: the most frequent first, and how many more there are."""
    first = sorted(counted.items(), key=lambda entry: -entry[1])
    told = ", ".join(f"{number:,} x {name}" for name, number in first[:most])
    rest = sum(number for _, number in first[most:])
    return f"{told} and {rest:,} more" if rest else told


def share(part: int, whole: int) -> str:
    """``84 %``; never 100 % of what is not all, nor 0 % of what is some."""
    if not whole:
        return "0 %"
    percent = round(100 * part / whole)
    if part < whole:
        percent = min(percent, 99)
    if part:
        percent = max(percent, 1)
    return f"{percent} %"


def size(number: float) -> str:
    """``512 B``, ``1.0 MiB``."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1023.95 or unit == "GiB":
            break
    return f"{number:.1f} {unit}"
