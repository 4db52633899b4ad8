"""What a connection can be asked, where its client knows."""

from __future__ import annotations

from typing import Any


class Probe:
    """Asks a connection what it knows, without keeping it alive. An adapter overrides what its client knows."""

    __slots__ = ()

    def readable(self) -> bool | None:
        """Whether its socket is readable, which an idle one is when the server has closed it; None if not known."""
        return None

    def clean(self) -> bool | None:
        """Whether it is between two messages; None if not known."""
        return None

    def goaway(self) -> bool:
        """Whether the server has retired it, as HTTP/2 can."""
        return False

    def available(self) -> bool:
        """Whether it takes further requests."""
        return True

    def stream_limit(self) -> int | None:
        """On HTTP/2, how many streams may be open; None if not known."""
        return None

    def stream(self) -> Any:
        """Its network stream, with httpcore's ``get_extra_info("socket")``; None if it is gone or not known."""
        return None
