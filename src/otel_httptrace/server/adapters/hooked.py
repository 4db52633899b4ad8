"""All of a server's hooks, or none; and those that servers on asyncio's protocols share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...observe.lookalike import preceded
from ...observe.patches import Patches
from ..watch import Watch
from . import seams

Hook = Callable[..., Any]


class UnknownServerError(Exception):
    """A server is not as we know it, so nothing of it is replaced."""


def replace_all(patches: Patches, *hooks: tuple[Any, str, Callable[[Any], Any]]) -> None:
    """Replace each attribute: whose, its name, and what makes its stand-in.

    Raises:
        UnknownServerError: one of them is not there; none is replaced.
    """
    missing = [f"{owner.__name__}.{name}" for owner, name, _ in hooks if not callable(getattr(owner, name, None))]
    if missing:
        raise UnknownServerError(", ".join(missing))
    for owner, name, make in hooks:
        patches.replace(owner, name, make)


class OnProtocols:
    """Hooks on a server whose connections are asyncio's protocols.

    Args:
        patches: what is replaced, to be restored.
        watch: is told what happens.
    """

    def __init__(self, patches: Patches, watch: Watch) -> None:
        self._patches = patches
        self._watch = watch

    def _before(self, tell: Callable[[Any], object], original: Hook) -> Hook:
        return preceded(original, tell, partial(self._watch.guard.contain, tell.__name__))

    # A connection.

    def _connection_made(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def connection_made(self: Any, transport: Any) -> Any:
            result = original(self, transport)
            try:
                watch.accepted(self, transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
            except BaseException:
                contain("connection_made")
            return result

        return connection_made

    def _connection_lost(self, original: Hook) -> Hook:
        watch, contain, hung_up = self._watch, self._watch.guard.contain, self._hung_up

        def connection_lost(self: Any, exc: Any) -> Any:
            try:
                # uvloop (0.23, sslproto.pyx: `_do_flush`) tells of no end of the stream where the client closes without
                # saying so in TLS, as many do. What the server does has been told by now.
                if exc is not None or seams.speaks_tls(self):
                    hung_up(self)
                watch.lost(self)
            except BaseException:
                contain("connection_lost")
            return original(self, exc)

        return connection_lost

    def _hung_up(self, protocol: Any) -> None:
        # A response that was handed over whole is over for the application, but perhaps not for the client.
        self._watch.hung_up(protocol, unsent=seams.is_backed_up(protocol))
