"""What reads the records: the one thing that the adapters know of telemetry."""

from __future__ import annotations

from typing import Protocol

from .ledger import Connection, Process
from .timeline import Exchange, Lookup


class Sink(Protocol):
    """Takes records as they become complete. Every method must be quick: the caller is a client's request."""

    def begins(self, process: Process) -> None:
        """Reports are on *process* from now on, with empty counts."""

    def claim(self, exchange: Exchange) -> None:
        """An exchange begins: note what it is to be reported on, or that it is to be silent."""

    def suppressed(self) -> bool:
        """Whether instrumentation is suppressed here and now."""

    def looked_up(self, exchange: Exchange, lookup: Lookup) -> None:
        """A lookup is over."""

    def opened(self, exchange: Exchange, conn: Connection) -> None:
        """A connection is ready; *exchange* dialled it."""

    def closed(self, conn: Connection, at: int, *, silent: bool) -> None:
        """A connection that was ready is closed."""

    def failed(self, exchange: Exchange) -> None:
        """The exchange failed, before its body or in it; a cancellation is no failure."""

    def awaits_body(self, exchange: Exchange) -> None:
        """The headers are in: the exchange goes on until its body is over."""

    def describe(self, exchange: Exchange, error: BaseException | None) -> None:
        """The exchange is over, by *error* if it failed: say what is to be said of it."""

    def end(self, exchange: Exchange) -> bool:
        """Nothing more will be said of it, whatever became of `describe`. False: its span is not over."""
