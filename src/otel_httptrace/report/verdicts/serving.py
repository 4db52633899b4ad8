# What a server tells of the connections of its clients, instrumented or not. Whose
# client is, and has told of the same connection itself, is left to the verdicts on
# clients, which know why. As that may come later than the server's span, what is a
# case of a verdict is kept, and counted when the report is made.

"""Verdicts on what servers say of their connections: stories 41 to 45."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from ...server import names as served
from ..ends import Ends
from ..findings import Finding, Severity, Thresholds
from ..rows import Row, Served
from ..units import count, listed, seconds, share, spread
from .kind import Kind
from .seen_there import HTTP_1_0
from .tally import MAX_KEYS, Tally, named

#: Cases of a verdict that are kept; of more, each is counted as it comes.
_KEPT: Final = 5_000
#: Connections of which it is kept when they were open, to tell how many were so at a time.
_INTERVALS: Final = 20_000

#: A server, and an address that connects to it.
_Peer = tuple[str, str]


class Counts:
    """What is counted of all that servers tell.

    Args:
        ends: knows who is at the other end.
    """

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.requests: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self.by_peer: Counter[_Peer] = Counter()
        #: Connections, and those of them that carried another request.
        self.connections: Counter[_Peer] = Counter()
        self.again: Counter[_Peer] = Counter()
        self._open: dict[_Peer, list[tuple[float, int]]] = {}
        self._intervals = 0

    def add(self, row: Served) -> None:
        """Count *row*."""
        peer = (row.origin, self._ends.peer(row))
        if peer not in self.by_peer and len(self.by_peer) >= MAX_KEYS:
            return
        self.requests[row.origin] += 1
        self.by_peer[peer] += 1
        before = row.attributes.get(served.CONN_REQUESTS)
        self.reused[row.origin] += bool(before)
        self.connections[peer] += before == 0
        self.again[peer] += before == 1
        if row.timed and before == 0 and self._intervals < _INTERVALS:
            self._intervals += 1
            accepted = row.start - row.attributes.get(served.CONN_AGE, 0.0)
            self._open.setdefault(peer, []).extend(((accepted, 1), (row.end, -1)))

    def at_once(self, peer: _Peer) -> int:
        """How many connections of *peer* were open at a time with their first request not over, at most.

        By the server's own clock. Of a burst that one event loop answers, no two requests are under way at a time.
        """
        most = now = 0
        for _, change in sorted(self._open.get(peer, ())):
            now += change
            most = max(most, now)
        return most


class _Serving(Kind):
    """A verdict on what a server tells.

    Args:
        limits: from where on something is a finding.
        ends: knows who is at the other end, and whether that has told of it.
        counts: of all that servers tell.
    """

    #: Whether what a client has told of, too, is left to the verdicts on clients.
    left_to_clients: ClassVar[bool] = True

    def __init__(self, limits: Thresholds, ends: Ends, counts: Counts) -> None:
        super().__init__(limits)
        self.ends = ends
        self.counts = counts
        self._kept: list[Served] = []

    def take(self, row: Row) -> bool:
        if not isinstance(row, Served) or not self.defined.holds(row, self.limits):
            return False
        if len(self._kept) < _KEPT:
            self._kept.append(row)
        else:
            self._settle(row)
        return True

    def _settle(self, row: Served) -> None:
        if not self.left_to_clients or not self.ends.known(row):
            self.count(row)

    def findings(self) -> Iterator[Finding]:
        # More may come: what is kept stays to be looked at again.
        told = copy.copy(self)
        told.tallies = copy.deepcopy(self.tallies)
        for row in self._kept:
            told._settle(row)
        return Kind.findings(told)

    def key(self, row: Row) -> Any:
        return (row.origin, self.ends.peer(row) if isinstance(row, Served) else "")

    def what(self, row: Row) -> str:
        reason = row.attributes.get(served.CONN_CLOSE_REASON)
        return f"took {seconds(row.duration)}" + (f", and its connection ended: {reason}" if reason else "")


def _from(peer: str) -> str:
    return f"from {peer}" if peer else "from an unknown address"


class ServerFailed(_Serving):
    """Story 45: the application failed, and its caller lost the connection, too."""

    name = "server_failed"
    left_to_clients = False

    def key(self, row: Row) -> Any:
        return row.origin

    def finding(self, key: Any, tally: Tally) -> Finding:
        of = max(tally.count, self.counts.requests[key])
        return self.make(
            tally,
            f"{tally.count:,} of {count(of, 'request')} to {named(key)} ended with an exception of the application, and each cost its caller "
            "the connection, too",
            "look at the exceptions, in the traces and in the server's log: an error that is answered (an exception handler) keeps the connection",
            numbers={"requests": of},
        )


class ClientsLeft(_Serving):
    """Story 44."""

    name = "clients_left"

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, peer = key
        of = max(tally.count, self.counts.by_peer[key])
        # A time limit strikes after the same time.
        limit = tally.count > 1 and tally.least >= 1.0 and tally.most - tally.least <= 0.05 * tally.most
        at = (
            f", always after about {seconds(tally.least)}: a timeout"
            if limit
            else f", after {spread(tally.least, tally.most)}"
        )
        return self.make(
            tally,
            f"{tally.count:,} of {count(of, 'request')} {_from(peer)} to {named(origin)} were left by the client before the response was over{at}",
            "look at that client: "
            + (
                "it waits no longer; answer sooner, or let it wait longer"
                if limit
                else "it closes responses before it has read them (Go: io.Copy(io.Discard, resp.Body) before Close; httpx: response.read()), or "
                "its user or its own timeout gave up"
            ),
            severity=Severity.SLOW if tally.most >= 1.0 else Severity.WASTE,
            numbers={"peer": peer, "requests": of, "least": tally.least, "longest": tally.most},
        )


class ClientsDoNotReuse(_Serving):
    """Story 41."""

    name = "clients_do_not_reuse"

    def cost(self, row: Row) -> float:
        return 0.0

    def noting(self, row: Row, tally: Tally) -> None:
        if isinstance(row, Served):
            ended = row.close_reason or (row.lost.reason if row.lost is not None else None)
            tally.note("ended", ended)

    def findings(self) -> Iterator[Finding]:
        return (one for one in super().findings() if one.numbers and one.numbers["together"])

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, peer = key
        connections, again = max(tally.count, self.counts.connections[key]), self.counts.again[key]
        single, at_once = connections - again, self.counts.at_once(key)
        together = self.defined.together
        ended = tally.noted("ended")
        how = f" ({listed(ended)})" if ended else ""
        left = ended["client_left"] * 2 > ended.total()
        return self.make(
            tally,
            f"{share(single, connections)} of the connections {_from(peer)} to {named(origin)} carried one request ({single:,} of "
            f"{connections:,}), and the other end closed them{how}: each request pays for a new one",
            "look at that client: "
            + (
                "it closes its responses before they are read to their end (Go: io.Copy(io.Discard, resp.Body) before Close; Python: read the "
                "response, or use a client for which closing is reading)"
                if left
                else "it makes a client for each request, or does not keep connections (Go: DisableKeepAlives, a new Transport; Python: one "
                "httpx.Client, one requests.Session); a proxy in front may need to be told (nginx: keepalive in the upstream, "
                'proxy_http_version 1.1, proxy_set_header Connection "")'
            ),
            requests=connections,
            numbers={
                "peer": peer,
                "connections": connections,
                "single": single,
                "at_once": at_once,
                "together": together is not None and together.holds(tally.count, again, connections, at_once),
                "ended": dict(ended),
            },
        )


class ServerKeepsNone(_Serving):
    """Story 43."""

    name = "server_keeps_none"
    left_to_clients = False

    def cost(self, row: Row) -> float:
        return 0.0

    def key(self, row: Row) -> Any:
        if row.attributes.get(served.CONN_CLOSE_REASON) == "worker_sync":
            return (row.origin, "worker_sync")
        return (row.origin, "http/1.0" if HTTP_1_0.holds(row, self.limits) else "connection_close")

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("peers", self.ends.peer(row) if isinstance(row, Served) else None)

    def findings(self) -> Iterator[Finding]:
        return (one for one in super().findings() if one.numbers and one.numbers["together"])

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, why = key
        requests, peers = max(tally.count, self.counts.requests[origin]), tally.noted("peers")
        together = self.defined.together
        told, advice = {
            "worker_sync": (
                "gunicorn's sync worker never keeps a connection",
                "use --worker-class gthread (--threads 4), or put a proxy that buffers in front, which keeps its clients' connections",
            ),
            "http/1.0": (
                f"the requests are HTTP/1.0 ({', '.join(f'from {peer}' for peer, _ in peers.most_common(3))})",
                'let that client, or the proxy in front, speak HTTP/1.1 (nginx: proxy_http_version 1.1, proxy_set_header Connection "")',
            ),
            "connection_close": (
                "each answer ends with Connection: close",
                "if the application or the server's settings say so (a keep-alive of 0, a header that a framework or a middleware adds), do not; "
                "else the clients ask for it",
            ),
        }[why]
        return self.make(
            tally,
            f"{named(origin)} kept none of the connections of {count(requests, 'request')}: {told}",
            advice,
            because="gunicorn's sync worker closes every connection after its first response"
            if why == "worker_sync"
            else None,
            numbers={
                "why": why,
                "requests": requests,
                "peers": len(peers),
                "together": together is not None and together.holds(self.counts.reused[origin]),
            },
        )


class KeepaliveTimeoutCloses(_Serving):
    """Story 42, as the server alone sees it: what it closed, and that its peer came again."""

    name = "keepalive_timeout_closes"

    def cost(self, row: Row) -> float:
        return 0.0

    def what(self, row: Row) -> str:
        lost = row.lost if isinstance(row, Served) else None
        return (
            f"came again after the connection before was closed, idle for {seconds(lost.idle)}"
            if lost is not None
            else ""
        )

    def noting(self, row: Row, tally: Tally) -> None:
        lost = row.lost if isinstance(row, Served) else None
        tally.measure("idle", lost.idle if lost is not None else None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, peer = key
        idle = tally.measures["idle"]
        connections = max(tally.count, self.counts.connections[key])
        return self.make(
            tally,
            f"{tally.count:,} of {count(connections, 'connection')} {_from(peer)} to {named(origin)} had to be opened after this server's "
            f"keep-alive timeout had closed one, idle for {spread(idle.least, idle.most)}: a request that comes at that moment is lost",
            f"set this server's keep-alive (uvicorn: --timeout-keep-alive; gunicorn: --keep-alive) above that of its clients, or theirs "
            f"below {seconds(idle.least)}",
            requests=tally.count,
            numbers={"peer": peer, "connections": connections, "idle": idle.least, "longest_idle": idle.most},
        )


class ServerRetires(_Serving):
    """Story 45: a limit of requests, a worker that is told to stop."""

    name = "server_retires"

    def cost(self, row: Row) -> float:
        return 0.0

    def key(self, row: Row) -> Any:
        return (row.origin, row.attributes[served.CONN_CLOSE_REASON])

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, why = key
        told, advice = (
            (
                "its worker, or they, had carried as many requests as they may",
                "raise the limit (uvicorn: --limit-max-requests; gunicorn: --max-requests; hypercorn: keep_alive_max_requests), or accept it",
            )
            if why == "max_requests"
            else (
                "the server was told to stop",
                "nothing, if these were deployments; else look at what stops it (a reload, a health check, memory)",
            )
        )
        return self.make(
            tally,
            f"{count(tally.count, 'connection')} to {named(origin)} ended with a request because {told}",
            advice,
            numbers={"why": why},
        )


class Serving:
    """All verdicts on what servers tell.

    Args:
        limits: from where on something is a finding.
        ends: knows who is at the other end.
    """

    def __init__(self, limits: Thresholds, ends: Ends) -> None:
        self._counts = Counts(ends)
        kinds = (
            ServerFailed, ClientsLeft, ClientsDoNotReuse, ServerKeepsNone, KeepaliveTimeoutCloses, ServerRetires,
        )  # fmt: skip
        self._kinds: tuple[_Serving, ...] = tuple(kind(limits, ends, self._counts) for kind in kinds)

    def add(self, row: Served) -> None:
        """Take *row* into account."""
        self._counts.add(row)
        for kind in self._kinds:
            kind.take(row)

    def findings(self) -> Iterable[Finding]:
        """What was found."""
        return [finding for kind in self._kinds for finding in kind.findings()]
