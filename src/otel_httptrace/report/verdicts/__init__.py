# Each verdict answers one of the incident stories of docs/stories.md. It looks
# at one row at a time, keeps counts and a few examples, and in the end says what
# it found: nothing unless its criterion is met. A row that shows nothing rare
# (reused, read to its end, quick) is passed over after a few look-ups.
#
# Rule 1: what the client saw is certain; what only follows from it says so.
# Rule 2: a cause silences its symptoms. Who waits for a pool that leaked
#         responses hold is told of the leak, not to enlarge the pool.
# Rule 3: everything is bounded, for a report may be of a month.

"""The verdicts: from rows to findings."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ...telemetry import names
from ..findings import Finding, Thresholds
from ..rows import Row
from .connections import BodyNotRead, ClientPerRequest, KeepaliveLimit, ServerClosesIdle
from .dialling import AddressFallback, ConnectTimeouts, DnsSlow, TlsSlow
from .pool import Pool
from .responses import BodyFailed, BodySlow, Cancelled, ServerSlow, StaleKeepalive
from .tally import DIAL, error_type

VERDICTS: Final = (
    "body_not_read",
    "pool_saturated",
    "responses_never_closed",
    "keepalive_limit_too_low",
    "stale_keepalive",
    "dns_slow",
    "dns_timeout",
    "connect_timeout",
    "proxy_timeout",
    "tls_timeout",
    "client_per_request",
    "address_fallback",
    "tls_slow",
    "body_slow_server",
    "body_slow_consumer",
    "server_slow",
    "cancelled_in",
    "body_failed",
    "server_closes_idle",
)
"""Every verdict there is, in the order of the stories."""


class Verdicts:
    """All verdicts, fed row by row.

    Args:
        thresholds: from where on something is a finding.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._opened: Counter[str] = Counter()
        self._body_not_read = BodyNotRead(thresholds, self._opened)
        self._pool = Pool(thresholds)
        self._keepalive_limit = KeepaliveLimit(thresholds, self._opened)
        self._stale = StaleKeepalive(thresholds)
        self._dns = DnsSlow(thresholds)
        self._timeouts = ConnectTimeouts()
        self._clients = ClientPerRequest(thresholds)
        self._fallback = AddressFallback(thresholds)
        self._tls = TlsSlow(thresholds)
        self._body = BodySlow(thresholds)
        self._server = ServerSlow(thresholds)
        self._cancelled = Cancelled()
        self._failed = BodyFailed()
        self._idle = ServerClosesIdle(thresholds, self._opened)
        self._all = (
            self._body_not_read, self._pool, self._keepalive_limit, self._stale, self._dns, self._timeouts,
            self._clients, self._fallback, self._tls, self._body, self._server, self._cancelled, self._failed,
            self._idle,
        )  # fmt: skip

    def add(self, row: Row) -> None:
        """Take *row* into account."""
        known, phases, limits = row.attributes, row.phases, self._thresholds
        self._pool.saw(row)
        if known.get(names.CONN_REUSED) is False:
            self._opening(row, known, phases)
        else:
            self._clients.reused(row)
            if names.CONN_IDLE in known:
                self._stale.add(row, known[names.CONN_IDLE])
        if known.get(names.CONN_CLOSE_REASON) == "body_not_read":
            self._body_not_read.lost(row)
        outcome = known.get(names.BODY_OUTCOME)
        if outcome is not None and outcome != "complete":
            if outcome == "never_closed":
                self._pool.leaked(row)
            elif outcome == "cancelled":
                self._cancelled.add(row, "receive")
            elif outcome == "failed":
                self._failed.add(row)
        failed_phase = known.get(names.FAILED_PHASE)
        if failed_phase is not None:
            if not row.failed and names.ERROR_TYPE not in known:
                self._cancelled.add(row, failed_phase)
            else:
                self._timeouts.add(row, failed_phase)
        if phases.get("pool", 0.0) >= limits.pool_wait or failed_phase == "pool":
            self._pool.waited(row, failed_phase)
        if phases.get("receive", 0.0) >= limits.receive and outcome != "never_closed":
            self._body.add(row)
        if failed_phase == "wait" and error_type(row) == "ReadTimeout":
            self._server.gave_up(row)
        elif phases.get("wait", 0.0) >= limits.wait and outcome is not None:
            self._server.add(row)
        if "dns" in phases or "connect" in phases:
            # A dial, whether or not it led to a connection.
            self._dns.add(row, failed_phase)
            if failed_phase is None or failed_phase not in DIAL:
                self._fallback.add(row)
                if phases.get("tls", 0.0) >= limits.tls:
                    self._tls.add(row)
        self._idle.saw(row)

    def _opening(self, row: Row, known: dict[str, Any], phases: dict[str, float]) -> None:
        self._opened[row.origin] += 1
        why = known.get(names.CONN_OPEN_REASON)
        if why == "body_not_read":
            self._body_not_read.replaced(row)
        elif why == "keepalive_limit":
            self._keepalive_limit.add(row)
        elif why == "server_closed":
            self._idle.add(row)
        elif why == "new_client":
            self._clients.opened(row)

    def findings(self) -> tuple[Finding, ...]:
        """Worst first."""
        found = [finding for verdict in self._all for finding in verdict.findings()]
        return tuple(sorted(found, key=lambda finding: finding.rank, reverse=True))
