"""What a report says: a finding, the evidence for it, and the thresholds that make one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from .units import count


class Severity(IntEnum):
    """How bad it is: the worse, the greater."""

    #: Work is done that need not be: connections opened and lookups made again.
    WASTE = 1
    #: Requests took longer than they had to.
    SLOW = 2
    #: Requests failed.
    FAILED = 3


class Sure(str, Enum):
    """How sure a finding is."""

    #: The client saw it happen.
    CERTAIN = "certain"
    #: It follows from what was seen, unless something unseen interfered.
    LIKELY = "likely"
    #: One of several explanations of what was seen.
    POSSIBLE = "possible"


class Evidence(NamedTuple):
    """A request to look at: hexadecimal ids, and what it shows."""

    trace_id: str
    span_id: str
    what: str


class Rival(NamedTuple):
    """Another cause that the facts do not exclude.

    Args:
        cause: what it is.
        decided_by: the fact that would exclude it.
        requests: of how many requests it may be the cause.
    """

    cause: str
    decided_by: str
    requests: int

    @property
    def sentence(self) -> str:
        """What else it may be, and what would tell."""
        return f"or: {self.cause} ({count(self.requests, 'request')}); ruled out by: {self.decided_by}"


class Share(NamedTuple):
    """How many of a finding's requests went to a server."""

    origin: str
    requests: int


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Args:
        verdict: its name, as in ``--fail-on``: ``body_not_read``.
        origin: which server; empty if it is about none in particular.
        sentence: what was found, with its numbers.
        advice: what to do.
        sure: how sure it is, ``because`` says why.
        criterion: what made it a finding, with the thresholds in force.
        requests: how many requests it concerns.
        seconds: what it cost these, as far as that was measured.
        line: the application's line, ``path:line in function``; ``via`` the library's in between.
        evidence: requests to look at.
        numbers: what the sentence says, for machines.
        rivals: other causes that the facts do not exclude; none if it is certain.
        origins: which servers, most requests first.
        harmless: whether it comes last, for it is rare and costs next to nothing.
    """

    verdict: str
    severity: Severity
    origin: str
    sentence: str
    advice: str
    sure: Sure
    because: str
    criterion: str
    requests: int
    seconds: float
    line: str | None = None
    via: str | None = None
    evidence: tuple[Evidence, ...] = ()
    numbers: dict[str, Any] | None = None
    rivals: tuple[Rival, ...] = ()
    origins: tuple[Share, ...] = ()
    harmless: bool = False


#: A report without servers does not have them.
_OF_SERVERS = frozenset({"between", "left", "peer_connections"})


@dataclass(frozen=True)
class Thresholds:
    """From where on something is a finding. Each can be set: ``--threshold NAME=VALUE``.

    Args:
        lost_connections: connections lost to an origin by bodies that were not read.
        leaked_responses: responses never closed.
        pool_wait: seconds that a request waited for the pool, at its limit.
        keepalive_limit: connections opened because idle ones were dropped over the limit.
        stale_idle: seconds that a connection had been idle for when a request on it failed.
        dns: seconds of a lookup.
        clients: clients that one process made for one origin within a minute, each for at most ``client_requests``
            requests.
        client_requests: see ``clients``.
        fallback: seconds of a connect that ended on another family than the first address's.
        tls: seconds of a TLS handshake.
        receive: seconds of a response body.
        wait: seconds from the request written to the response headers.
        server_closed: connections opened because the server had closed an idle one.
        reopened: new connections opened for one of the other reasons.
        stall: seconds for which this process stood still.
        crossed: seconds from the request written to the connection closed, within which the two may have crossed.
        gap: seconds without a byte within a response body.
        statuses: responses of one server with status 5xx or 429.
        cancelled: cancelled requests: fewer come last in the report.
        between: seconds that a wait for response headers exceeds the server's own span by.
        left: responses that a peer of a server left before they were over.
        peer_connections: connections of a peer, or of a server, that carried one request each.
        connect: seconds of a connect that succeeded.
        proxy: seconds of what was asked of a proxy: TLS with it, CONNECT, SOCKS.
        backoff: seconds of the pauses between the attempts of one request.
        redirects: responses of one server that only redirected, where the right URL would have saved them.
    """

    lost_connections: int = 2
    leaked_responses: int = 1
    pool_wait: float = 0.2
    keepalive_limit: int = 3
    stale_idle: float = 0.2
    dns: float = 1.0
    clients: int = 3
    client_requests: int = 2
    fallback: float = 0.25
    tls: float = 0.5
    receive: float = 10.0
    wait: float = 5.0
    server_closed: int = 2
    reopened: int = 3
    stall: float = 0.1
    crossed: float = 0.05
    gap: float = 5.0
    statuses: int = 3
    cancelled: int = 3
    connect: float = 1.0
    proxy: float = 1.0
    backoff: float = 1.0
    redirects: int = 3
    between: float = 0.2
    left: int = 3
    peer_connections: int = 20

    def told(self, *, servers: bool) -> dict[str, int | float]:
        """By name.

        Args:
            servers: whether servers have told of anything; else those that judge it are left out.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if servers or name not in _OF_SERVERS}

    @classmethod
    def parse(cls, settings: dict[str, str]) -> Thresholds:
        """From text, by name.

        Raises:
            ValueError: an unknown name, or no number of the right kind. The message says which, and what there is.
        """
        kinds: dict[str, type[Any]] = {field.name: int if field.type == "int" else float for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in settings.items():
            kind = kinds.get(name)
            if kind is None:
                raise ValueError(f"no threshold is called {name!r}; there are {', '.join(kinds)}")
            try:
                value = kind(text)
            except ValueError:
                value = -1
            if value < 0 or value != value:  # noqa: PLR0124 - not a number
                raise ValueError(f"{name}={text!r}: expected {'an integer' if kind is int else 'a number of seconds'}")
            values[name] = value
        return cls(**values)
