"""Text for a terminal, a file or a pipe, each as far as it can show it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console


class Unread(Exception):  # noqa: N818 - nothing went wrong
    """Nobody reads our output any more: the reader of a pipe has seen enough."""

    def __init__(self) -> None:
        super().__init__("nobody reads what is written")


#: What to write where an encoding lacks a character.
_PLAINER: Final = {"█": "#", "─": "-", "━": "=", "µ": "u", "✓": "+", "✗": "x", "…": "...", "—": "-"}


def plainer(stream: TextIO) -> dict[int, str]:
    """For `str.translate`: what to write to *stream* instead of characters that its encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return {ord(sign): other for sign, other in _PLAINER.items() if not _encodable(sign, encoding)}


def _encodable(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def console(stream: TextIO, width: int | None = None) -> Console:
    """For *stream*: colour if it is a terminal, NO_COLOR and FORCE_COLOR obeyed."""
    from rich.console import Console  # noqa: PLC0415

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            # Where rich would exit: the exit status is not its business.
            raise Unread

    return Ours(file=cast(TextIO, _Fitted(stream)), width=width, highlight=False, markup=False, emoji=False)


class _Fitted:
    # A stream to which goes what it can show: rich fills lines up with blanks, which
    # only a terminal has a use for, and draws with signs that not all encodings have.

    # A word's own blank may be before a colour's end, and rich's behind it.
    _FILL: Final = re.compile(r" +((?: |\x1b\[[0-9;]*m)*\n)")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._plainer = plainer(stream)
        self._trimmed = not stream.isatty()
        self._held = ""

    def write(self, text: str) -> int:
        length = len(text)
        text = self._held + text.translate(self._plainer)
        if self._trimmed:
            text = self._FILL.sub(lambda found: found[1].replace(" ", ""), text)
            # Whether these are the last of their line shows later.
            kept = text.rstrip(" ")
            self._held, text = text[len(kept) :], kept
        self._stream.write(text)
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
