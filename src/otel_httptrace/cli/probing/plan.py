"""What to ask, and what was answered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Plan:
    """What to do.

    Args:
        requests: how many, of which ``concurrency`` at a time.
        timeout: seconds for each step of a request, and for its body.
        verify: whether certificates are checked.
        idle: seconds for which a connection is left idle at most; None not to try.
        guessed: whether the URL was given without a scheme, so that https was taken.
        client: the library that sends the requests, ``httpx`` or ``requests``.
    """

    url: httpx.URL
    method: str
    requests: int
    concurrency: int
    early_close: bool
    http2: bool
    verify: bool
    timeout: float
    headers: tuple[tuple[str, str], ...]
    idle: float | None
    guessed: bool = False
    client: str = "httpx"

    @property
    def quotes_queries(self) -> bool:
        """Whether what its client says of an error has the path in it, with the query."""
        return self.client != "httpx"

    @property
    def shown(self) -> str:
        """The URL as it may be printed: without userinfo and query."""
        return str(self.url.copy_with(userinfo=b"", query=None, fragment=None))


@dataclass
class Answers:
    """What the responses said."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
