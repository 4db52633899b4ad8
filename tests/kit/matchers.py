"""Stand-ins for values that differ from run to run, to be compared as part of a whole output."""

from __future__ import annotations

import re


class Seconds:
    """A duration: a float, not negative, and between what a script has made sure of."""

    def __init__(self, at_least: float = 0.0, below: float = 30.0) -> None:
        self._at_least, self._below = at_least, below

    def __eq__(self, other: object) -> bool:
        return type(other) is float and self._at_least <= other < self._below

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._at_least} s or more>" if self._at_least else "<seconds>"


#: Any duration.
SECONDS = Seconds()


class Like:
    """A text that a pattern matches whole."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self._pattern, other) is not None

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<like {self._pattern!r}>"


#: A line of code, as telemetry spells it.
LINE = Like(r"[^/].*\.py:\d+ in \S+")


class Port:
    """A port that the system chose."""

    def __eq__(self, other: object) -> bool:
        return type(other) is int and 0 < other < 65536

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<port>"


PORT = Port()


class Count:
    """A number of something."""

    def __eq__(self, other: object) -> bool:
        return type(other) is int and other >= 0

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<count>"


COUNT = Count()
