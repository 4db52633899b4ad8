# One exchange: one request sent to a pool, until its response body is over.
#
# Adapters tell it what happened, in the past tense and with a time; telemetry
# reads it once, when it is over. A keep-alive request is a handful of integer
# stores here and nothing else: whatever is rare (a dial, a failure) hangs off
# an object of its own that most exchanges never have.
#
# Facts may come in any order, twice, late or never. Zero means "not seen".

"""The timeline of one exchange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from .evidence import Evidence
    from .ledger import Connection, Ledger, Loss

# Phases, in the order in which they happen.
POOL: Final = "pool"
DNS: Final = "dns"
CONNECT: Final = "connect"
PROXY: Final = "proxy"
TLS: Final = "tls"
SEND: Final = "send"
WAIT: Final = "wait"
RECEIVE: Final = "receive"

# How a response body ended.
COMPLETE: Final = "complete"
CLOSED_EARLY: Final = "closed_early"
NEVER_CLOSED: Final = "never_closed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


class Origin(NamedTuple):
    """Scheme, host and port (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int | None


#: Where a URL names none.
PORTS: Final = {"http": 80, "https": 443}


def dials(target: Origin | None, host: str, port: int | None) -> bool:
    """Whether who dials *host* and *port* for *target* dials that itself, and no proxy; so it is if nothing tells."""
    if target is None or port is None:
        return True
    return _plain(host) == _plain(target.host) and port == (target.port or PORTS.get(target.scheme))


def _plain(host: str) -> str:
    # urllib3 dials without the dot at a name's end, and an IPv6 address without brackets.
    return host.lower().strip("[]").rstrip(".")


class Shared(NamedTuple):
    """Every plain-HTTP origin, through one forward proxy."""

    proxy: Origin


class Address(NamedTuple):
    """One end of a connection; over a Unix socket the path, without a port."""

    host: str
    port: int | None


class NotCopied:
    """What we put on objects of the libraries is no part of them: their copies and pickles have None there."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> tuple[type, tuple[()]]:
        # By a built-in type, as whoever reads the pickle may not have this package.
        return type(None), ()


@dataclass(eq=False)
class Lookup:
    """One name resolution, as the resolver was asked."""

    name: str
    started: int
    ended: int = 0
    answers: tuple[str, ...] = ()
    error: str | None = None
    #: It failed or was cancelled; only a failure has an error.
    failed: bool = False
    #: Nobody waits for it any more, though a thread may still be in it.
    abandoned: bool = False
    #: How long it waited for a thread to ask the resolver in.
    queued: int = 0


@dataclass(eq=False)
class Attempt:
    """One attempt to connect to a host, all its addresses tried, or to a Unix socket."""

    host: str
    port: int | None
    transport: str
    started: int
    ended: int = 0
    failed: bool = False
    error: str | None = None
    lookups: list[Lookup] = field(default_factory=list)
    peer: Address | None = None
    local: Address | None = None
    #: How often its SYN was sent again, if it took long and that is known.
    resent: int | None = None

    @property
    def connect_started(self) -> int:
        """When the connect itself began: after the last lookup."""
        return max((lookup.ended for lookup in self.lookups), default=0) or self.started

    @property
    def resolving(self) -> bool:
        """Whether it is in a lookup, or failed in one, so that nothing was connected to."""
        if not self.lookups:
            return False
        last = self.lookups[-1]
        return not last.ended or last.failed

    def over(self, at: int, error: str | None = None, *, failed: bool = False) -> None:
        """It connected, or *failed* with *error* (none if it was cancelled)."""
        if not self.ended:
            self.ended, self.failed, self.error = at, failed, error
            for lookup in self.lookups:
                lookup.abandoned = True
                if not lookup.ended:
                    lookup.ended, lookup.error, lookup.failed = at, error, True


@dataclass(eq=False)
class Step:
    """A TLS or proxy handshake."""

    started: int
    ended: int = 0
    failed: bool = False
    error: str | None = None
    server: str | None = None
    port: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def over(self, at: int, error: str | None = None, *, failed: bool = False) -> None:
        """It succeeded, or *failed* with *error* (none if it was cancelled)."""
        if not self.ended:
            self.ended, self.failed, self.error = at, failed, error


class Dial:
    """How an exchange opened a connection: attempts, back-off, handshakes."""

    __slots__ = ("attempts", "backoff", "backoff_started", "done", "handshakes", "last", "phase", "proxy")

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.handshakes: list[Step] = []
        self.proxy: Step | None = None
        self.backoff = 0
        self.backoff_started = 0
        self.done = False
        self.last: Attempt | Step | None = None
        self.phase = CONNECT

    def attempt_started(self, attempt: Attempt) -> None:
        """A connect begins, the first or a retry."""
        self.attempts.append(attempt)
        self.last, self.phase = attempt, CONNECT

    def handshake_started(self, step: Step) -> None:
        """TLS with the server begins; whatever was done with a proxy is over."""
        if self.proxy is not None:
            self.proxy.over(step.started)
        self.handshakes.append(step)
        self.last, self.phase = step, TLS

    def proxy_started(self, step: Step) -> None:
        """The first of what is done with the proxy begins: TLS to it, CONNECT or SOCKS."""
        if self.proxy is None:
            self.proxy = step
        # TLS to the proxy is over, what is asked of the proxy is not.
        self.proxy.ended = 0
        self.last, self.phase = self.proxy, PROXY

    def step_over(self, at: int, error: str | None = None, *, failed: bool = False) -> None:
        """What began last succeeded, or *failed* with *error* (none if it was cancelled)."""
        if self.last is not None:
            self.last.over(at, error, failed=failed)

    def backoff_began(self, at: int) -> None:
        """The pause before a retry begins."""
        self.backoff_started = at
        self.last, self.phase = None, CONNECT

    def backoff_over(self, at: int) -> None:
        """The pause before a retry is over."""
        if self.backoff_started:
            self.backoff += at - self.backoff_started
            self.backoff_started = 0

    def over(self, at: int, error: str | None = None, *, failed: bool = False) -> None:
        """The connection is ready, or dialling it *failed* with *error* (none if it was cancelled)."""
        self.backoff_over(at)
        self.step_over(at, error, failed=failed)
        if self.proxy is not None:
            self.proxy.over(at, error, failed=failed)
        self.done = not failed

    @property
    def current_phase(self) -> str:
        """The phase it is in, or has failed in."""
        if self.phase == CONNECT and isinstance(self.last, Attempt) and self.last.resolving:
            return DNS
        return self.phase

    @property
    def dns(self) -> int | None:
        """Nanoseconds in lookups; None if there was none."""
        return _total((look.started, look.ended) for attempt in self.attempts for look in attempt.lookups)

    @property
    def connect(self) -> int | None:
        """Nanoseconds in connects and in back-off; None if no connect was begun."""
        total = _total((a.connect_started, a.ended) for a in self.attempts if not a.resolving)
        return total + self.backoff if total is not None else self.backoff or None

    @property
    def tls(self) -> int | None:
        """Nanoseconds in TLS handshakes with the server; None if there was none."""
        return _total((step.started, step.ended) for step in self.handshakes)

    @property
    def local(self) -> Address | None:
        """Our end of the newest connection that was made."""
        for attempt in reversed(self.attempts):
            if attempt.local is not None:
                return attempt.local
        return None

    @property
    def peer(self) -> Address | None:
        """The remote end of the newest connection that was made, whether or not TLS then failed."""
        for attempt in reversed(self.attempts):
            if attempt.peer is not None:
                return attempt.peer
        return None


def _total(intervals: Iterable[tuple[int, int]]) -> int | None:
    total = None
    for started, ended in intervals:
        if ended:
            total = (total or 0) + max(0, ended - started)
    return total


class Exchange:
    """One request sent to a pool, from that call to the end of its response body.

    All times are monotonic nanoseconds, zero if not seen; ``wall`` is what to add for the epoch.
    """

    # Slots, and every one set at the start: the interpreter reads and writes
    # these many times faster than defaults that it finds on the class.
    __slots__ = (
        "acquired_at", "announced", "below", "bytes_read", "carried", "carried_before", "close_reason", "closed_at",
        "closed_via", "conn", "context", "dial", "ended", "ends_early", "error", "evidence", "failed_phase", "finished",
        "headers_at", "holds", "http_version", "idle", "iterated", "last_byte_at", "ledger", "lent", "longest_wait",
        "lost_by", "made_at", "method", "outcome", "over_at", "persistent", "pool", "read_wait", "reading_since",
        "received", "request", "request_headers", "response_headers", "reused", "send_at", "silent", "span", "started",
        "status", "target", "upgraded", "upstream_ended", "wait_at", "waits_again", "wall", "was_idle",
    )  # fmt: skip

    def __init__(self, ledger: Ledger, request: Any, started: int, wall: int) -> None:
        self.ledger = ledger
        #: The request as the library holds it; dropped when the headers are in.
        self.request = request
        self.started = started
        self.wall = wall

        #: What it was for, where it has no connection that knows it: none at all, or a shared one.
        self.target: Origin | None = None
        self.conn: Connection | None = None
        self.dial: Dial | None = None
        #: For the adapter, opaque here: puts back what it has put on the request, until the headers are in.
        self.lent: Any = None
        #: The pool when the wait for it began: connections, idle, waiting.
        self.pool: tuple[int, int, int] | None = None
        #: Nanoseconds that the connection had been idle for; how many requests it had carried.
        self.idle: int | None = None
        self.carried_before: int | None = None

        #: Whether it counts as one of the connection's users just now; whether that took its request.
        self.holds = self.carried = False
        #: `waits_again`: a connection that it was assigned to has refused it.
        self.reused = self.was_idle = self.upgraded = self.waits_again = False

        self.acquired_at = self.send_at = self.wait_at = self.headers_at = self.over_at = 0
        #: Bytes of an answer that came before its headers were complete, on HTTP/1.1; -1 if that is not known.
        self.received = 0

        self.method = b""
        self.status = 0
        self.http_version = b"HTTP/1.1"
        self.request_headers: Any = ()
        self.response_headers: Any = ()
        #: Where the library says so itself: whether the connection may live on, and what Content-Length announced.
        self.persistent: bool | None = None
        self.announced: int | None = None

        #: Whether the body was iterated; whether the end of the message was read, which need not be the end of the
        #: exchange.
        self.iterated = self.ended = False
        self.outcome: str | None = None
        self.failed_phase: str | None = None
        self.error: str | None = None
        #: `reading_since`: when the body's own read was entered; zero outside of it.
        self.bytes_read = self.last_byte_at = self.read_wait = self.longest_wait = self.reading_since = 0

        self.close_reason: str | None = None
        self.closed_at: str | None = None
        self.closed_via: str | None = None
        #: Where the application made the request, made into text only if it leaks.
        self.made_at: Any = None
        #: The loss that it paid for, where its own connection could not carry it: see `Connection.spoiled`.
        self.lost_by: Loss | None = None

        #: Only where something failed, waited or was lost.
        self.evidence: Evidence | None = None

        #: Suppressed: nothing is emitted or counted, the ledger goes on.
        self.silent = False
        #: For telemetry, opaque here: the request span, the context it leaves behind, upstream's end of it,
        #: and whether it could not be kept open for the body.
        self.span: Any = None
        self.context: Any = None
        #: Likewise: the span below which the instrumentation that made it has suppressed all others.
        self.below: Any = None
        self.upstream_ended: int | None = None
        self.ends_early = False
        self.finished = False

    def __repr__(self) -> str:
        state = self.outcome or self.failed_phase or (RECEIVE if self.headers_at else self.phase)
        return f"<Exchange on {self.conn!r}: {state}>"

    @property
    def origin(self) -> Origin | None:
        """What it was for; None if it failed before that was known."""
        return self.conn.origin if self.target is None and self.conn is not None else self.target

    @property
    def phase(self) -> str:
        """The phase it is in, as far as seen."""
        if self.headers_at:
            return RECEIVE
        if self.wait_at:
            return WAIT
        if self.send_at:
            return SEND
        if self.dial is None:
            return POOL
        return SEND if self.dial.done else self.dial.current_phase

    # What happens to every exchange.

    def sending(self, at: int) -> None:
        """It has its connection, and the request begins to be written."""
        self.acquired_at = self.acquired_at or at
        self.send_at = at

    def request_failed(self, at: int, error: str, *, cancelled: bool) -> None:
        """An exception came out of the pool instead of a response."""
        if self.over_at:
            return
        self.failed_phase = self.phase
        if self.failed_phase == POOL:
            # Whatever it was given, it never came to use it.
            self.acquired_at = 0
        self.over_at = at
        if not cancelled:
            self.error = error
        if self.dial is not None and not self.send_at:
            self.dial.over(at, self.error, failed=True)

    # The body. These two are called for every part: they add integers, and nothing else.

    def body_read(self, at: int, size: int) -> None:
        """A part of the body came, of *size* bytes."""
        if self.reading_since:
            waited = at - self.reading_since
            self.read_wait += waited
            if waited > self.longest_wait:  # noqa: PLR1730 - max() is a call
                self.longest_wait = waited
            self.reading_since = 0
        self.last_byte_at = at
        self.bytes_read += size

    def body_ended(self, at: int) -> None:
        """The body was read to its end."""
        if self.reading_since:
            waited = at - self.reading_since
            self.read_wait += waited
            if waited > self.longest_wait:  # noqa: PLR1730 - max() is a call
                self.longest_wait = waited
            self.reading_since = 0
        if not self.over_at:
            self.ended, self.outcome, self.over_at = True, COMPLETE, at

    def body_raised(self, at: int, error: str, *, cancelled: bool) -> None:
        """The body's own read raised."""
        if self.reading_since:
            self._waited(at)
        self.reading_since = 0
        if not self.over_at:
            self.outcome, self.over_at = (CANCELLED if cancelled else FAILED), at
            if not cancelled:
                self.error = error

    def body_left(self, at: int) -> None:
        """The response is being closed, and the body's end was not read."""
        if not self.over_at:
            self.outcome, self.over_at = CLOSED_EARLY, at
            if self.reading_since:
                # Under a read in another task or thread, which has yet to notice.
                self._waited(at)
                self.reading_since = at

    def _waited(self, at: int) -> None:
        waited = at - self.reading_since
        self.read_wait += waited
        self.longest_wait = max(self.longest_wait, waited)

    def body_forgotten(self) -> None:
        """Nobody closed the response, and nobody can any more: it ends with its last byte."""
        if not self.over_at:
            self.outcome, self.over_at = NEVER_CLOSED, self.last_byte_at or self.headers_at
            self.read_wait = min(self.read_wait, self.over_at - self.headers_at)

    # Durations in nanoseconds; None where the phase did not happen.

    @property
    def time_pool(self) -> int | None:
        """Waiting for the pool: neither for a stream of an HTTP/2 connection, nor while it was sent before."""
        evidence = self.evidence
        until = self.acquired_at
        if not until:
            if self.failed_phase != POOL:
                return None
            until = (evidence.stream_since if evidence is not None else 0) or self.over_at
        return until - self.started - (evidence.earlier if evidence is not None else 0)

    @property
    def time_stream(self) -> int | None:
        """Waiting for a stream of an HTTP/2 connection that was at its limit."""
        if self.evidence is None or not self.evidence.stream_since:
            return None
        return (self.send_at or self.over_at) - self.evidence.stream_since

    @property
    def time_send(self) -> int | None:
        """Writing the request."""
        if not self.send_at:
            return None
        return (self.wait_at or self.headers_at or self.over_at) - self.send_at

    @property
    def time_wait(self) -> int | None:
        """From the request written to the response headers received."""
        if not self.wait_at:
            return None
        return (self.headers_at or self.over_at) - self.wait_at

    @property
    def time_receive(self) -> int | None:
        """From the response headers to the end of the body."""
        if not self.headers_at or self.upgraded:
            return None
        return max(0, self.over_at - self.headers_at)


#: Responses without a body, whatever Content-Length says (RFC 9110, sections 9.3.2, 15.3.5 and 15.4.5).
BODILESS: Final = frozenset({204, 304})


def body_size(exchange: Exchange) -> int | None:
    """Bytes of a complete body, else what Content-Length announced; None where neither is known or there is no body."""
    if exchange.method == b"HEAD" or exchange.status in BODILESS or exchange.status < 200:
        return None
    if exchange.outcome == COMPLETE:
        return exchange.bytes_read
    announced = exchange.announced
    # OTLP's integers have 64 bits: one beyond them costs the exporter its whole batch.
    if not isinstance(announced, int) or announced >= 2**63:
        announced = None
    for name, value in exchange.response_headers:
        field = name.lower()
        if field == b"transfer-encoding":
            # It overrides Content-Length (RFC 9112, section 6.3).
            return None
        if field == b"content-length" and value.isdigit() and len(value) < 19:
            announced = int(value)
    return announced
