"""What a check is told, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple


class State(str, Enum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Result(NamedTuple):
    """A line of the list: what was looked at, what was seen, and for a problem what to type."""

    state: State
    what: str
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class Subject:
    """What is checked: an environment, and the Python that would run in it.

    Args:
        environ: the environment variables.
        program: the program whose Python it is, as the user names it; empty for our own Python.
        python: the path of the Python; None if the program is not run by one.
        facts: what `programs.inspection` says of that Python; None if it does not answer.
    """

    environ: Mapping[str, str]
    program: str = ""
    python: str | None = None
    facts: Any = None

    @property
    def where(self) -> str:
        """For a title: where the program runs that was named."""
        return f" where {self.program} runs" if self.program else ""

    @property
    def versions(self) -> Mapping[str, str | None]:
        """The version of each distribution that was looked for; None for one that is not installed."""
        found: Mapping[str, str | None] = self.facts["versions"] if self.facts is not None else {}
        return found

    @property
    def pip(self) -> str:
        """What to type before the name of a distribution to install it there."""
        return f"{self.facts['executable']} -m pip install"


Check = Callable[[Subject], Iterator[Result]]
