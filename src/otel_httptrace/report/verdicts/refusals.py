"""Story 26: the server refused what it was asked for, most of the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from ...telemetry import names
from ..facts import broke
from ..findings import Finding, Thresholds
from ..rows import Row
from ..units import seconds
from .definitions_attempts import REFUSALS
from .kind import Kind
from .tally import MAX_KEYS, Tally, named, statuses

_ADVICE: Final[dict[int, str]] = {
    401: "the credentials are missing, wrong or have expired: look at how they get into the request (auth=, Authorization, a redirect to another "
    "host drops it)",
    403: "who asks may not have that: look at the credentials' rights, and at what lies between (a firewall, a proxy that filters)",
    405: "the method is not allowed there: look at the URL (a redirect turns POST into GET) and at the method",
    413: "the body is too large for the server, or for a proxy before it (nginx: client_max_body_size): send it in parts, or raise that limit",
    415: "the Content-Type is not what the server takes: look at json=, data=, files= and at the headers",
    431: "the headers are too large: look at cookies and tokens that grow",
}
_ELSE: Final = (
    "the request itself is refused: the answer's body says why; look at the URL, the headers and the body that are sent"
)


class RequestsRefused(Kind):
    """Most answers of a server were 4xx of the kind that says: not so."""

    name = "requests_refused"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        self._answers: Counter[str] = Counter()

    def saw(self, row: Row) -> None:
        """Any request."""
        if row.status is not None and (row.origin in self._answers or len(self._answers) < MAX_KEYS):
            self._answers[row.origin] += 1
            # What the application raised an exception for as it closed the response is told as that.
            if row.status in REFUSALS and not broke(row):
                self.take(row)

    def what(self, row: Row) -> str:
        return f"status {row.status} after {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("statuses", row.status)
        tally.note("redirected", bool(row.asked) or None)
        tally.note("lines", row.attributes.get(names.BODY_CLOSED_AT))

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        together = self.defined.together
        for finding in super().findings():
            if together is not None and together.holds(finding.requests, self._answers[finding.origin]):
                yield finding

    def finding(self, key: Any, tally: Tally) -> Finding:
        ((most, _),) = tally.noted("statuses").most_common(1)
        told, numbers = statuses(tally.noted("statuses"))
        redirected, advice = tally.noted("redirected")[True], _ADVICE.get(most, _ELSE)
        to = f"; {redirected:,} of them had been redirected to it by another server" if redirected else ""
        if redirected == tally.count and most in (401, 403):
            advice = (
                "ask this server itself: it is another one that redirects to it, and clients drop Authorization then; else the credentials are "
                "missing, wrong or have expired"
            )
        return self.make(
            tally,
            f"{named(key)} refused {tally.count:,} of the {self._answers[key]:,} requests that it answered ({told}){to}",
            advice,
            numbers={"statuses": numbers},
        )
