"""Where spans come from: files, and the query APIs of backends.

A source is iterated over for its spans. What could not be read on the way is in its ``problems``; where nothing can
be read at all, iterating raises `SourceError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from ..spans import Span

#: How many problems are told one by one.
_TOLD: Final = 5


class SourceError(Exception):
    """A source cannot be read. The message is one line to print: what, why, and where there is one, what to do."""


class Problems:
    """What could not be read: the first few, and how many more there were."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._more = 0

    def add(self, problem: str) -> None:
        """Take note of *problem*, a sentence without its full stop."""
        if len(self._told) < _TOLD:
            self._told.append(problem)
        else:
            self._more += 1

    def __len__(self) -> int:
        return len(self._told) + self._more

    def __iter__(self) -> Iterator[str]:
        yield from self._told
        if self._more:
            yield f"and {self._more:,} more like these"


class SpanSource(Protocol):
    """What all sources have in common."""

    #: What could not be read, so far.
    problems: Problems

    def __iter__(self) -> Iterator[Span]:
        """Read it, once.

        Raises:
            SourceError: it cannot be read.
        """

    @property
    def position(self) -> int:
        """How far reading has come, out of ``size``: bytes of a file, traces of a backend."""

    @property
    def size(self) -> int | None:
        """Where ``position`` will end, as far as that can be known."""
