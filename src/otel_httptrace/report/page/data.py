# What leaves this module is all that a page can show. Spans come from anywhere,
# so there are three rules. An attribute that is not in the list below stays out:
# a URL, with its path, its query and its credentials, is not in it, and of its path
# there is what `report/paths.py` leaves. Every string
# is cleaned of what would change how others are read: control characters, and
# those that reverse the direction of text. And no value's type is taken for granted.
#
# It is compact because a page of 10,000 requests is to be mailed and opened on a
# phone: columns instead of objects, integers of microseconds, every string once,
# ids in base64.

"""What of a report goes into its page, for the page's script: JSON."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final

from ...telemetry import names
from ..look import Look
from ..printable import printable
from ..rows import PHASES, STEPS, Row, Step
from ..summary import Report

#: Attributes of a request that are shown, besides those that have a column of their own.
SHOWN: Final = (
    names.CONN_REQUESTS,
    names.CONN_IDLE,
    names.CONN_WAS_IDLE,
    names.HTTP_RESPONSE_BODY_SIZE,
    names.BODY_BYTES_READ,
    names.BODY_READ_WAIT,
    names.ERROR_TYPE,
    names.POOL_CONNECTIONS,
    names.POOL_IDLE,
    names.POOL_WAITING,
    names.POOL_LIMIT,
    names.NETWORK_PEER_ADDRESS,
    names.NETWORK_PEER_PORT,
    names.NETWORK_PROTOCOL_VERSION,
    names.NETWORK_TRANSPORT,
)

#: Attributes of a child span that are shown.
SHOWN_ON_STEPS: Final = (
    names.DNS_QUESTION_NAME,
    names.DNS_ANSWERS,
    names.SERVER_ADDRESS,
    names.SERVER_PORT,
    names.NETWORK_PEER_ADDRESS,
    names.NETWORK_PEER_PORT,
    names.NETWORK_LOCAL_ADDRESS,
    names.NETWORK_LOCAL_PORT,
    names.NETWORK_TRANSPORT,
    names.NETWORK_TYPE,
    names.TLS_PROTOCOL_NAME,
    names.TLS_PROTOCOL_VERSION,
    names.TLS_CIPHER,
    names.TLS_NEXT_PROTOCOL,
    names.TLS_RESUMED,
    names.ERROR_TYPE,
    # Of what was sent before, within one request.
    names.HTTP_RESPONSE_STATUS_CODE,
    names.CONN_OPEN_REASON,
    names.CONN_CLOSE_REASON,
    names.FAILED_PHASE,
    names.FAILED_CAUSE,
    names.BODY_OUTCOME,
    names.BODY_CLOSED_AT,
)

#: A connection was opened because ...
OPENED: Final = {
    "first_connection": "this process had not connected to this origin before",
    "new_client": "this client was new, while another of this process had already connected to the origin",
    "all_busy": "every open connection to the origin was carrying a request",
    "body_not_read": "the one it would have used was closed with a response that had not been read to the end",
    "response_leaked": "the one it would have used was held by a response that nobody closed",
    "keepalive_expired": "the one it would have used had been idle for longer than keepalive_expiry",
    "keepalive_limit": "the one it would have used had been dropped, as the pool keeps only so many idle ones",
    "pool_full": "the one it would have used had been dropped to make room for another origin",
    "server_closed": "the server had closed the one it would have used while that was idle",
    "connection_close": "the one it would have used could not be kept: Connection: close, or HTTP/1.0",
    "request_failed": "the one it would have used broke with another request",
    "request_cancelled": "the one it would have used was dropped with a cancelled request",
    "goaway": "the server had retired the one it would have used",
    "upgraded": "the one it would have used had been handed over",
    "client_closed": "the client had been closed and was used again",
    "unknown": "the cause was not seen",
}

#: A connection was closed because ...
CLOSED: Final = {
    "body_not_read": "its response was closed before the body had been read to the end",
    "response_leaked": "it was held by a response that nobody closed",
    "keepalive_expired": "it had been idle for longer than keepalive_expiry",
    "keepalive_limit": "the pool keeps only so many idle ones",
    "pool_full": "it was idle, and the pool needed its slot for another origin",
    "server_closed": "the server closed it while it was idle",
    "connection_close": "one side sent Connection: close, or spoke HTTP/1.0",
    "request_failed": "of an error or a timeout while it carried a request",
    "request_cancelled": "its request was cancelled",
    "goaway": "the server sent GOAWAY, or the stream ids were used up",
    "upgraded": "it left the pool: 101 or CONNECT",
    "client_closed": "the client was closed",
    "unknown": "the cause was not seen",
}

#: A server's connection ended because ...
ENDED: Final = {
    "keepalive_timeout": "it had been idle for as long as the server's keep-alive timeout",
    "client_closed": "the client closed it between two requests",
    "client_left": "the client closed it while a request was under way",
    "connection_close": "one side sent Connection: close, or spoke HTTP/1.0, or the server keeps none",
    "worker_sync": "gunicorn's sync worker keeps none",
    "max_requests": "the worker, or the connection, had carried as many requests as it may",
    "shutdown": "the server, or the worker, was told to stop",
    "goaway": "the client sent GOAWAY",
    "upgraded": "it became a WebSocket",
    "error": "the application failed, or what came was no HTTP",
    "unknown": "the cause was not seen",
}

#: Response bodies, by how they ended.
OUTCOMES: Final = {
    "complete": "read to the end",
    "closed_early": "closed before the end",
    "never_closed": "never closed",
    "failed": "failed half-way",
    "cancelled": "cancelled half-way",
}

_METHOD: Final = re.compile("[A-Z]{1,20}")
_IDS: Final = re.compile("[0-9a-f]{48}")
_NO_CONNECTION: Final = 0
_NOT_DRAWN: Final = -1


def clean(value: object, longest: int = 500) -> str:
    """*value* as text of at most *longest* characters, fit to be shown."""
    return printable(value, longest)


def number(value: object) -> float | None:
    """*value*, if it is a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18 and math.isfinite(value):
        return value
    return None


def micros(value: object) -> int:
    """Seconds to whole microseconds; 0 where *value* is no number, or negative."""
    seconds = number(value)
    return max(0, round(seconds * 1e6)) if seconds is not None else 0


def whole(value: object) -> int:
    """*value*, if it is a number above zero, without what follows its point; 0 if it is not."""
    found = number(value)
    return int(found) if found is not None and 0 < found < 2**53 else 0


def method(row: Row) -> str:
    """The request's method; ``HTTP`` where the span has none that looks like one.

    A span's name is a method, too, as a rule. But a hook of the application's may have put a URL there.
    """
    for name in ("http.request.method", "http.method"):
        value = row.attributes.get(name)
        if isinstance(value, str) and _METHOD.fullmatch(value):
            return value
    return "HTTP"


def phases(row: Row) -> dict[str, float]:
    """Seconds by phase, those that are numbers."""
    found = {}
    for phase in PHASES:
        seconds = number(row.phases.get(phase))
        if seconds is not None and seconds >= 0:
            found[phase] = seconds
    return found


class _Table:
    # Values by number: what is repeated is written once.

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.values: list[Any] = []

    def __call__(self, value: Any) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
        return number


class Requests:
    """The requests of a report, those of its timeline first, and what the page's script needs of them."""

    def __init__(self, report: Report, look: Look) -> None:
        self.look = look
        self.rows: list[Row] = []
        self._numbers: dict[tuple[str, str], int] = {}
        for row in (*report.timeline, *report.slowest, *((report.typical,) if report.typical else ())):
            key = (row.trace_id, row.span_id)
            if len(self.rows) < len(report.timeline) or key not in self._numbers:
                self._numbers.setdefault(key, len(self.rows))
                self.rows.append(row)
        self.drawn = len(report.timeline)
        #: Whether servers tell of any of them.
        self.halves = any(row.other is not None for row in self.rows)
        self.connections = 0

    def find(self, trace_id: str, span_id: str) -> int | None:
        """The number of a request in the page; None if it is not there."""
        return self._numbers.get((trace_id, span_id))

    def embed(self) -> str:
        """JSON that can stand in a script element: nothing in it ends the element, or opens a comment."""
        text = json.dumps(self._data(), separators=(",", ":"), allow_nan=False)
        # Non-ASCII is escaped already, U+2028 with it.
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

    def _data(self) -> dict[str, Any]:
        strings, lanes, sources, origins, sets = _Table(), _Table(), _Table(), _Table(), _Table()
        strings("")
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        ids, odd = bytearray(), {}
        starts = [number(row.start) or 0.0 for row in self.rows]
        begin = min(starts[: self.drawn], default=0.0)
        before = 0
        for index, row in enumerate(self.rows):
            known = row.attributes
            start = round((starts[index] - begin) * 1e6)
            source = sources((clean(row.source.service), clean(row.source.instance)))
            origin = origins(clean(row.origin))
            lane = lanes(self._lane(row, source, origin)) if index < self.drawn else _NOT_DRAWN
            reused = known.get(names.CONN_REUSED)
            values: dict[str, Any] = {
                "start": start - before,
                "duration": micros(row.duration),
                "lane": lane,
                "source": source,
                "origin": origin,
                "path": strings(clean(row.path)),
                "connection": whole(known.get(names.CONN_ID)),
                "method": strings(method(row)),
                "status": whole(row.status),
                "flags": row.failed | (reused is True) << 1 | (reused is False) << 2 | row.observed << 3,
                "outcome": strings(_text(known, names.BODY_OUTCOME)),
                "opened": strings(_text(known, names.CONN_OPEN_REASON)),
                "closed": strings(_text(known, names.CONN_CLOSE_REASON)),
                "failed": strings(_text(known, names.FAILED_PHASE)),
                "at": strings(_text(known, names.BODY_CLOSED_AT)),
                "via": strings(_text(known, names.BODY_CLOSED_VIA)),
                "phases": _phases(row),
                "more": _pairs(known, SHOWN, strings),
            }
            before = start
            for name, value in values.items():
                columns[name].append(value)
            both = row.trace_id + row.span_id
            if len(row.trace_id) == 32 and _IDS.fullmatch(both):
                ids += bytes.fromhex(both)
            else:
                ids += bytes(24)
                odd[index] = [clean(row.trace_id), clean(row.span_id)]
        self.connections = sum(number > 0 for _, number, *_ in lanes.values)
        halves = self._halves(strings, sources)
        return {
            "begin": begin,
            "drawn": self.drawn,
            "columns": columns,
            "ids": base64.b64encode(ids).decode(),
            "odd": odd,
            "steps": self._steps(strings, sets),
            "links": self._links(strings),
            "sets": sets.values,
            "lanes": lanes.values,
            "sources": sources.values,
            "origins": origins.values,
            "strings": strings.values,
            "phases": list(PHASES),
            "shown": [*SHOWN, *SHOWN_ON_STEPS],
            "because": {"opened": OPENED, "closed": CLOSED, "outcome": OUTCOMES},
            **({"halves": halves} if halves else {}),
            **({"jaeger": self.look.jaeger} if self.look.jaeger else {}),
        }

    @staticmethod
    def _lane(row: Row, source: int, origin: int) -> tuple[int, ...]:
        connection = whole(row.attributes.get(names.CONN_ID))
        if connection > 0:
            # Through a forward proxy one connection carries requests to many origins: its lane stands at the first's.
            return (source, connection)
        return (source, _NO_CONNECTION if row.observed else _NOT_DRAWN, origin)

    def _steps(self, strings: _Table, sets: _Table) -> dict[int, list[int]]:
        found = {}
        for index, row in enumerate(self.rows):
            flat: list[int] = []
            for step in _all_steps(row):
                if step.name not in STEPS:
                    continue
                start = number(step.start) or 0.0
                shown = sets(tuple(_pairs(step.attributes, SHOWN_ON_STEPS, strings, len(SHOWN))))
                flat += (strings(step.name), round(start * 1e6), micros(step.duration), step.depth, shown)
            if flat:
                found[index] = flat
        return found

    def _halves(self, strings: _Table, sources: _Table) -> dict[int, dict[str, Any]]:
        """What the server says of each request of which it says anything."""
        found: dict[int, dict[str, Any]] = {}
        for index, row in enumerate(self.rows):
            other = row.other
            if other is None:
                continue
            half, lost = other.half, other.lost
            told: dict[str, Any] = {} if other.same is None else {"same": other.same}
            if half is not None:
                told |= {
                    "source": sources((clean(half.source.service), clean(half.source.instance))),
                    "took": micros(half.seconds),
                    "connection": whole(half.connection),
                    "inferred": half.inferred,
                    **({} if half.requests is None else {"before": whole(half.requests)}),
                    **({} if half.idle is None else {"idle": micros(half.idle)}),
                    **({} if half.close_reason is None else {"closed": strings(clean(half.close_reason))}),
                }
            if lost is not None:
                told |= {"lost": strings(clean(lost.reason)), "lost_idle": micros(lost.idle)}
            found[index] = told
        return found

    def _links(self, strings: _Table) -> dict[int, list[list[Any]]]:
        found = {}
        for index, row in enumerate(self.rows):
            links = []
            for link in row.links:
                kind = link.attributes.get(names.LINK)
                if kind not in _LINKS:
                    continue
                target = self.find(link.trace_id, link.span_id)
                links.append(
                    [
                        _LINKS.index(kind),
                        -1 if target is None else target,
                        *(() if target is not None else (strings(clean(link.trace_id)), strings(clean(link.span_id)))),
                    ]
                )
            if links:
                found[index] = links[:8]
        return found


def _all_steps(row: Row) -> list[Step]:
    if not row.before:
        return row.steps
    # What was sent before, each with its steps, and the steps of what was sent last, in the order in which they began.
    groups: list[list[Step]] = []
    for sent in row.before:
        own = [Step(step.name, step.start, step.duration, step.attributes, step.depth + 1) for step in sent.steps]
        groups.append([Step(names.SPAN_EXCHANGE, sent.start, sent.duration, sent.attributes, 1), *own])
    for step in row.steps:
        if step.depth <= 1 or not groups:
            groups.append([])
        groups[-1].append(step)
    return [step for group in sorted(groups, key=lambda group: group[0].start) for step in group]


_COLUMNS: Final = (
    "start",
    "duration",
    "lane",
    "source",
    "origin",
    "path",
    "connection",
    "method",
    "status",
    "flags",
    "outcome",
    "opened",
    "closed",
    "failed",
    "at",
    "via",
    "phases",
    "more",
)
_LINKS: Final = (names.LINK_CONNECTION_LOST_BY, names.LINK_POOL_HELD_BY, names.LINK_CONNECTION_OPENED_BY)


def _text(attributes: dict[str, Any], name: str) -> str:
    value = attributes.get(name)
    return clean(value) if value is not None else ""


def _phases(row: Row) -> list[int]:
    # Which there are, as bits, then the time of each.
    bits, values = 0, []
    known = phases(row)
    for bit, phase in enumerate(PHASES):
        if phase in known:
            bits |= 1 << bit
            values.append(micros(known[phase]))
    return [bits, *values]


def _pairs(attributes: dict[str, Any], shown: Iterable[str], strings: _Table, first: int = 0) -> list[Any]:
    # Key, value, key, value: a key below zero has a string for its value.
    pairs: list[Any] = []
    for key, name in enumerate(shown, first):
        value = attributes.get(name)
        if value is None:
            continue
        numeric = number(value)
        if numeric is not None:
            pairs += (key, round(numeric, 6))
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, (list, tuple)):
            value = ", ".join(clean(item) for item in value[:20])
        pairs += (-1 - key, strings(clean(value)))
    return pairs
