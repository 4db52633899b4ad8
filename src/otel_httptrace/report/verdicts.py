"""The verdicts of incident stories: folds over rows."""

from __future__ import annotations

from .findings import Finding, Thresholds
from .rows import Row


class Verdicts:
    """All verdicts, fed row by row."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds

    def add(self, row: Row) -> None:
        """Take *row* into account."""

    def findings(self) -> tuple[Finding, ...]:
        """Worst first."""
        return ()
