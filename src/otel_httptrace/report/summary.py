"""What many requests say together: counts and quantiles, by origin."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .findings import Finding, Thresholds
from .rows import Row, Served
from .units import count, listed

_GROWTH: Final = 1.02
_LOG: Final = math.log(_GROWTH)


class Quantiles:
    """Durations in seconds, in bounded memory: quantiles are right to 1 %.

    Values are counted in buckets whose bounds grow by 2 %, as in OpenTelemetry's exponential
    histograms: from a nanosecond to a year that is 1,900 of them.
    """

    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def add(self, value: float) -> None:
        """Count *value*."""
        self.count += 1
        self.total += value
        self.longest = max(self.longest, value)
        bucket = math.floor(math.log(value) / _LOG) if value > 1e-9 else -1100
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def at(self, share: float) -> float:
        """The value that *share* of all, from 0 to 1, do not exceed; 0 if there is none."""
        rank, seen = share * self.count, 0
        for bucket, number in sorted(self._buckets.items()):
            seen += number
            if seen >= rank:
                return min(self.longest, math.exp((bucket + 0.5) * _LOG)) if bucket > -1100 else 0.0
        return self.longest


@dataclass
class Path:
    """The requests to one path of an origin: how many, how many failed, and how long they took, in seconds."""

    requests: int = 0
    failed: int = 0
    times: Quantiles = field(default_factory=Quantiles)


@dataclass
class Origin:
    """One server, as far as requests told.

    Args:
        name: ``scheme://host:port``.
        requests: how many; ``failed`` those with status ERROR, ``cancelled`` others that their caller gave up.
        opened: connections opened, ``reused`` requests on one that had carried another before.
        lookups: names resolved.
        phases: seconds by phase, and ``total`` for the whole request.
        open_reasons: connections opened, by why; ``close_reasons`` those closed by how a request went.
        outcomes: response bodies, by how they ended.
        failed_phases: requests that got no response, failed or cancelled, by where that was.
        error_types: requests that failed, by the exception that the application saw; ``failed_causes`` by what was
            behind it, where that is known.
        failures: requests that failed, or got a status of 4xx or 5xx, each counted once, by what happened.
        statuses: responses, by their status.
        paths: requests, by their path as `rows.Row` has it; ``_other`` are those over a bound.
    """

    name: str
    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    opened: int = 0
    reused: int = 0
    lookups: int = 0
    phases: dict[str, Quantiles] = field(default_factory=dict)
    open_reasons: Counter[str] = field(default_factory=Counter)
    close_reasons: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failed_phases: Counter[str] = field(default_factory=Counter)
    error_types: Counter[str] = field(default_factory=Counter)
    failed_causes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def slowest_paths(self) -> list[tuple[str, Path]]:
        """The paths whose times are known, by the time that 95 of 100 requests do not exceed: slowest first."""
        timed = [(name, path) for name, path in self.paths.items() if path.times.count]
        return sorted(timed, key=lambda entry: (-entry[1].times.at(0.95), entry[0]))

    @property
    def bad_statuses(self) -> Counter[int]:
        """Of the statuses those that are errors: 4xx and 5xx."""
        return Counter({status: number for status, number in self.statuses.items() if status >= 400})

    @property
    def reuse(self) -> float | None:
        """Share of the requests that reused a connection; None if none got one."""
        got = self.opened + self.reused
        return self.reused / got if got else None


_MAX_PEERS: Final = 100


@dataclass
class Server:
    """What a server tells of its connections.

    Args:
        name: ``service:port``.
        requests: how many; ``failed`` those with status ERROR, ``inferred`` those whose connection is told by the
            client's address and port.
        opened: connections, by their first request; ``reused`` requests on one that had carried another before.
        close_reasons: connections that ended with a request, by why; ``lost`` those that ended between two requests,
            of those that have been told of.
        peers: requests, by the peer's address.
        times: seconds that a request took; ``idle`` seconds for which a connection was idle before one.
    """

    name: str
    requests: int = 0
    failed: int = 0
    inferred: int = 0
    opened: int = 0
    reused: int = 0
    close_reasons: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)
    times: Quantiles = field(default_factory=Quantiles)
    idle: Quantiles = field(default_factory=Quantiles)

    def add(self, row: Served, peer: str) -> None:
        """Count *row*, which came from *peer*."""
        half, lost = row.half, row.lost
        self.requests += 1
        self.failed += row.failed
        self.inferred += half.inferred
        if half.requests:
            self.reused += 1
        elif half.requests == 0:
            self.opened += 1
        if half.close_reason is not None:
            self.close_reasons[half.close_reason] += 1
        if lost is not None:
            self.lost[lost.reason] += 1
        self.peers[peer if peer in self.peers or len(self.peers) < _MAX_PEERS else "_other"] += 1
        if row.timed:
            self.times.add(row.duration)
        if half.idle is not None:
            self.idle.add(half.idle)

    @property
    def reuse(self) -> float | None:
        """Share of the requests that came on a connection that had carried another; None if none is known."""
        known = self.opened + self.reused
        return self.reused / known if known else None


@dataclass(frozen=True)
class Report:
    """Everything that is shown, whatever shows it.

    Args:
        spans: how many were read; ``foreign`` those that are no part of a request.
        requests: how many; ``unobserved`` those of them that otel-httptrace has said nothing about.
        started: seconds since the epoch, as is ``ended``; zero if no request has a time.
        services: their names.
        findings: worst first.
        origins: most requests first.
        slowest: requests, slowest first; ``typical`` the one of about median duration.
        timeline: requests in the order in which they began, at most as many as were asked for;
            ``left_out`` says how many more there were.
        problems: what could not be read, a sentence each.
        servers: what servers tell of their connections, most requests first.
        both_ends: whether there are spans of servers at all, also such as tell of no connection.
        unsent_processes: how many are known to have ended before they had sent all their spans, ``unsent_spans`` of
            them; and ``unended_requests`` how many requests were under way then. What was read from elsewhere than a
            run does not tell.
    """

    spans: int
    foreign: int
    requests: int
    unobserved: int
    started: float
    ended: float
    services: tuple[str, ...]
    findings: tuple[Finding, ...]
    origins: tuple[Origin, ...]
    slowest: tuple[Row, ...]
    typical: Row | None
    timeline: tuple[Row, ...]
    left_out: int
    thresholds: Thresholds
    problems: tuple[str, ...] = ()
    unsent_processes: int = 0
    unsent_spans: int = 0
    unended_requests: int = 0
    servers: tuple[Server, ...] = ()
    both_ends: bool = False

    @property
    def served(self) -> int:
        """Requests that servers tell of."""
        return sum(server.requests for server in self.servers)

    @property
    def failures(self) -> str:
        """A sentence on what failed, also without a finding; empty if nothing did."""
        failed: Counter[str] = sum((origin.failures for origin in self.origins), Counter())
        if not failed:
            return ""
        return f"{sum(failed.values()):,} of {count(self.requests, 'request')} failed: {listed(failed)}"

    @property
    def unsent(self) -> str:
        """What is known to be missing because processes ended, in a sentence; empty if nothing is."""
        told = []
        if self.unsent_processes:
            told.append(
                f"{count(self.unsent_processes, 'process', 'processes')} ended before all spans were sent "
                f"(by os._exit, or of a signal): {count(self.unsent_spans, 'span')} may be missing here"
            )
        if self.unended_requests:
            were, have = ("was", "has") if self.unended_requests == 1 else ("were", "have")
            told.append(
                f"{count(self.unended_requests, 'request')} {were} still under way when "
                f"{'its process' if were == 'was' else 'their processes'} ended, and {have} no span: with a shorter "
                "timeout, what was waited for is told"
            )
        return "; ".join(told)
