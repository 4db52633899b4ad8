"""The checks of ``httptrace doctor``, in their order. A new one is a function, and its name here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from . import endpoint, installed, request, settings
from .result import Check, Result, State, Subject


class Section(NamedTuple):
    """Checks under one title.

    Args:
        title: of the section; ``{where}`` in it is the program whose Python is checked, if one is named.
        checks: each yields no result where it does not apply.
        applies: whether the section does.
    """

    title: str
    checks: tuple[Check, ...]
    applies: Callable[[Subject], bool] = lambda subject: True


SECTIONS: Final = (
    Section("Installed{where}", (installed.python, installed.ours, installed.clients, installed.entry_points)),
    Section("Settings", (settings.variables, settings.our_own, settings.exporter)),
    Section("Endpoint", (endpoint.endpoint,)),
    Section("A request to a server on this machine", (request.request,), request.possible),
)

__all__ = ["SECTIONS", "Check", "Result", "Section", "State", "Subject"]
