# Evidence: what tells one cause from another with the same symptom. All of it is
# taken only where something failed, waited or was lost, and hangs off an exchange
# that has such a thing to say; most have none, and their `evidence` is None.
#
# None and zero mean "not known", and are not told.

"""What an exchange that failed, waited or lost something can prove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .ledger import Holder

#: A phase that took so long is slow, and what the kernel says of its socket is told: nanoseconds. For a second
#: Linux waits for the answer to a SYN before it sends another (TCP_TIMEOUT_INIT; RFC 6298, section 2.1).
SLOW: Final = 1_000_000_000
#: A process must have been held up for so long at least, to be told: nanoseconds. Twice the 5 ms for which a thread may
#: keep the interpreter's lock (`sys.getswitchinterval`): shorter waits are ordinary.
STALL: Final = 10_000_000


class Socket(NamedTuple):
    """What the kernel says of a TCP socket at one moment; None where it does not say."""

    #: Bytes written that the other end has not acknowledged, whether or not they were sent.
    unacked: int | None = None
    #: How often in a row what is not acknowledged was sent again in vain.
    retransmits: int | None = None
    #: The smoothed round trip, in nanoseconds.
    rtt: int | None = None
    #: Nanoseconds since data came last, or since it was connected.
    quiet: int | None = None
    #: Bytes that came and that nobody has read.
    unread: int = 0
    #: Nanoseconds since data was sent last.
    sent: int | None = None

    def as_of(self, before: Socket) -> Socket:
        """The same, save that what was not acknowledged is as it was *before*."""
        return self._replace(unacked=before.unacked)


class Evidence:
    """Facts about one exchange. All durations are nanoseconds."""

    __slots__ = (
        "ahead", "assigned_at", "awaits_close", "cause", "closed_by", "conn_closed_at", "conn_closed_via", "earlier",
        "foreign_loop", "handled", "held_at", "held_for", "holders", "resends", "socket", "stalled", "stream_limit",
        "stream_since", "struck_at", "timeout",
    )  # fmt: skip

    def __init__(self) -> None:
        #: The most specific name in the exception's chain of causes.
        self.cause: str | None = None
        #: The configured timeout that struck, in seconds, as it was configured.
        self.timeout: float | None = None
        #: For how long this process did not get to run, demonstrably.
        self.stalled = 0
        self.socket: Socket | None = None
        #: When what ended it began to close its connection: that is before it came out of the pool.
        self.struck_at = 0
        #: The connection it used belongs to another event loop.
        self.foreign_loop = False
        #: Where the client was closed under it.
        self.conn_closed_at: str | None = None
        self.conn_closed_via: str | None = None
        #: The class of the exception that was passing through the caller as the body was closed.
        self.closed_by: str | None = None
        #: Its iterator was finalised, and so the body closed, by what is not to be seen yet:
        self.awaits_close = False
        #: The id of the exception that was being handled as it began: not one that passes later.
        self.handled = 0
        #: On HTTP/2, when it was given its connection, and since when it waited for a stream of that.
        self.assigned_at = self.stream_since = 0
        #: How many requests were on that connection then, or waited for a stream of it.
        self.ahead = 0
        #: How many streams the server allows; so many were open then.
        self.stream_limit: int | None = None
        #: How often it had been sent before, and how long that took, from when it was given a connection.
        self.resends = self.earlier = 0

        #: Who held the pool's connections when waiting for one had been in vain, oldest request first; where the
        #: application made that one, and for how long it had held its connection.
        self.holders: list[Holder] = []
        self.held_at: str | None = None
        self.held_for: int | None = None

    @property
    def tells(self) -> bool:
        """Whether any of this is told, so that the exchange was no plain one."""
        return bool(
            self.cause
            or self.timeout is not None
            or self.stalled >= STALL
            or self.socket is not None
            or self.closed_by is not None
            or self.conn_closed_at is not None
            or self.stream_since
            or self.resends
        )

    def held_up(self, duration: int) -> None:
        """The process did not get to run for *duration*, by one of the ways to know it."""
        if duration >= STALL:
            self.stalled = max(self.stalled, duration)
