"""Where a pool was made: noted on it until it is used."""

from __future__ import annotations

from typing import Final

from ..callsite import Place, text
from ..core.ledger import Ledger
from ..core.timeline import NotCopied


class _Unused:
    """The process of a pool that nothing has been observed of."""

    alive: Final = False


class Made(NotCopied):
    """Stands for the ledger of a pool that was made and not yet used: every use of it finds that it is of no process.

    Args:
        place: where the application made it; None if that is not known.
    """

    __slots__ = ("place",)

    process: Final = _Unused()

    def __init__(self, place: Place | None) -> None:
        self.place = place


def made_at(mark: object) -> str | None:
    """The application's line that made the pool on which *mark* is; None if it was not seen."""
    if isinstance(mark, Made):
        return text(mark.place.application) if mark.place is not None else None
    # It has been used before: instrumented again, or in the parent process.
    return mark.made_at if isinstance(mark, Ledger) else None
