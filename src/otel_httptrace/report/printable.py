# Text of others reaches a terminal, a log, a page and error messages: names of spans,
# paths of requests, what a server answered. A terminal obeys control characters (an
# ESC sequence can set its title or hide lines), and characters that reverse the
# direction of text make a line read as another. Rule: whatever is shown goes through
# this module, and nothing else decides what is fit to be shown.

"""Text of others, made fit to be shown."""

from __future__ import annotations

from typing import Final

#: Characters of a text of others in a line of ours.
_LONGEST: Final = 200
#: Characters that are shown of any: no text of ours is as long, and no other is to fill a terminal.
_FILLING: Final = 4000


def printable(text: object, longest: int = _FILLING) -> str:
    r"""*text* on one line, without anything that a terminal obeys or a reader does not see.

    White space of any kind becomes a blank. All else that `str.isprintable` calls not printable (control and format
    characters, surrogates, private use) is spelled out, as ``\x1b``.

    Args:
        text: anything; ``str`` is made of it.
        longest: characters of it that are kept; an ellipsis stands for the rest.
    """
    text = _text(text)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: object, longest: int = _LONGEST) -> str:
    """`printable`, with runs of white space as one blank, at most *longest* characters long."""
    # Cut first, so that a text of any size costs no more than a short one.
    line = " ".join(printable(_text(text)[: 2 * longest]).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _text(value: object) -> str:
    try:
        return str(value)
    except RecursionError:
        # Lists within lists, as JSON can have a thousand of.
        return f"{type(value).__name__} nested too deeply"


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
