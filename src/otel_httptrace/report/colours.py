"""The colour of each phase, wherever it is drawn: on a terminal, and on the page."""

from __future__ import annotations

from typing import Final, NamedTuple


class Colour(NamedTuple):
    """How a phase is told from the others, for those who see colours.

    Args:
        terminal: one of a terminal's 16 colours.
        light: on a light page, ``dark`` on a dark one: each has a contrast of 3 to the page.
    """

    terminal: str
    light: str
    dark: str


#: By phase, as in `rows.PHASES`.
COLOURS: Final[dict[str, Colour]] = {
    "pool": Colour("yellow", "#a8408f", "#db7fc6"),
    "dns": Colour("magenta", "#2c6fd1", "#6ea8ff"),
    "connect": Colour("blue", "#0c8577", "#3fbfae"),
    "proxy": Colour("bright_blue", "#6c5fc7", "#a79cf5"),
    "tls": Colour("cyan", "#a86400", "#e8a33d"),
    "send": Colour("white", "#5d7a1f", "#9dbb58"),
    "wait": Colour("green", "#64748a", "#8a9ab0"),
    "receive": Colour("bright_green", "#8595a6", "#5c6c7f"),
}

__all__ = ["COLOURS", "Colour"]
