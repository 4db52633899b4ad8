"""Whose it was that connections could carry one response only."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ...core.ledger import Ended
from ...telemetry import names
from ..findings import Thresholds
from ..rows import Row
from .connections import Reopened
from .tally import MAX_KEYS, Tally

#: By who ended them: the words, and what to do.
_WHOSE: Final[dict[str, tuple[str, str]]] = {
    Ended.CLIENT.value: (
        "this program's requests said `Connection: close`",
        "leave that header out (headers= of the client or the request): the server would have kept the connection, as far as is known",
    ),
    Ended.SERVER.value: (
        "the answers said `Connection: close`",
        "turn keep-alive on in the server, or in the proxy that answers (gunicorn's sync worker has none; a limit of requests for a connection; a "
        "server that is shutting down)",
    ),
    Ended.HTTP_1_0.value: (
        "the answers were HTTP/1.0",
        "look at what answers in HTTP/1.0: a proxy (nginx: proxy_http_version 1.1), or a small server (Python's http.server: protocol_version)",
    ),
    Ended.NO_LENGTH.value: (
        "the answers had neither Content-Length nor chunks, so that their bodies ended with the connection",
        "look at what sends answers without Content-Length or Transfer-Encoding: a gateway, a script",
    ),
}


class ConnectionClose(Reopened):
    """Story 23: `Connection: close`, and whose it was, where that was seen."""

    def __init__(self, limits: Thresholds, opened: Counter[str]) -> None:
        super().__init__(limits, opened, "connection_close")
        self._ended: dict[str, Counter[str]] = {}

    def saw(self, row: Row) -> None:
        """A request whose connection was closed so."""
        ended = row.attributes[names.CONN_ENDED_BY]
        if ended in _WHOSE and (row.origin in self._ended or len(self._ended) < MAX_KEYS):
            self._ended.setdefault(row.origin, Counter())[ended] += 1

    def ended(self, tally: Tally) -> Counter[str]:
        """Who ended the connections to these servers, as far as that was seen."""
        all_of: Counter[str] = Counter()
        for origin in tally.origins:
            all_of.update(self._ended.get(origin, {}))
        return all_of

    def whose(self, tally: Tally) -> tuple[str, str]:
        """Whose it is, and what to do."""
        ended = self.ended(tally)
        if not ended:
            return super().whose(tally)
        ((most, number),) = ended.most_common(1)
        told, advice = _WHOSE[most]
        every = f" ({number:,} of {ended.total():,} of which that was seen)" if len(ended) > 1 else ""
        return f"{'this program' if most == Ended.CLIENT.value else 'the server'}'s: {told}{every}", advice

    def numbers(self, tally: Tally) -> dict[str, Any]:
        """What the sentence says."""
        ended = self.ended(tally)
        return {**super().numbers(tally), **({"ended_by": dict(sorted(ended.items()))} if ended else {})}
