# A request's span says nearly all. Its children (a lookup, a connect, TLS) end
# before it does and so usually arrive before it, but a collector may batch them
# otherwise, and a file may be anything. So a request waits for its children in a
# window of spans, and so do children for their request: memory is bounded by the
# window, whatever is read.

"""One row per request, from received spans."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ..clients import CLIENTS, scopes
from ..core.timeline import PORTS
from ..server import names as served
from ..telemetry import described, names
from . import paths
from .spans import Link, Source, Span

#: Whose spans are requests. Those whose spans may be of several may have scopes of their own for parts of a client.
_SCOPES: Final = frozenset(scopes())
#: Which client's they are; httpx's is of both.
_CLIENTS: Final = {client.upstream.scope: client.name for client in reversed(CLIENTS)}
_PARTS: Final = tuple(f"{scope}." for scope in scopes(several=True))

#: The phases of a request in their order, each with the attribute that has its time.
PHASES: Final[dict[str, str]] = {
    "pool": names.TIME_POOL,
    "dns": names.TIME_DNS,
    "connect": names.TIME_CONNECT,
    "proxy": names.TIME_PROXY,
    "tls": names.TIME_TLS,
    "send": names.TIME_SEND,
    "wait": names.TIME_WAIT,
    "receive": names.TIME_RECEIVE,
}

#: Child spans that we know; others (a user's own) are no part of a request's picture.
STEPS: Final = frozenset(
    {
        names.SPAN_GETCONN,
        names.SPAN_DNS,
        names.SPAN_CONNECT,
        names.SPAN_PROXY,
        names.SPAN_TLS,
        names.SPAN_SEND,
        names.SPAN_WAIT,
        names.SPAN_RECEIVE,
        names.SPAN_EXCHANGE,
    }
)


def _makes_requests(scope: str) -> bool:
    return scope in _SCOPES or scope.startswith(_PARTS)


def _client(scope: str) -> str:
    # A part of a client has a scope below the client's.
    while scope and scope not in _CLIENTS:
        scope = scope.rpartition(".")[0]
    return _CLIENTS.get(scope, "")


@dataclass(slots=True)
class Step:
    """A child span: times in seconds since its request began, how deep it is nested."""

    name: str
    start: float
    duration: float
    attributes: dict[str, Any]
    depth: int


class Half(NamedTuple):
    """What the other end says of a request, in few words: of many they are kept.

    Args:
        span_id: of the server's span, hexadecimal.
        source: who sent that.
        seconds: how long it is.
        connection: the number of the server's connection; None where that end is not told of by us.
        requests: that this had carried before; None where that is not known.
        idle: seconds for which nothing had used it; None where it was new, shared, or that is not known.
        close_reason: why it ended with this request; None if it did not.
        inferred: whether it is told by the client's address and port.
        address: the peer's, as the server sees it; empty where that is not known.
        port: the peer's; None where that is not known.
        failed: whether its status is ERROR.
    """

    span_id: str
    source: Source
    seconds: float
    connection: int | None = None
    requests: int | None = None
    idle: float | None = None
    close_reason: str | None = None
    inferred: bool = False
    address: str = ""
    port: int | None = None
    failed: bool = False


class Lost(NamedTuple):
    """A server's word on a connection that ended between requests: why, after how many idle seconds, and requests."""

    reason: str
    idle: float
    requests: int


class Other(NamedTuple):
    """What is known of a request from its other end.

    Args:
        half: the server's half; None if there is none, or there are several.
        same: whether client and server see the same TCP connection: if not, something stands between; None if that
            cannot be told.
        lost: what the server says of the end of the connection that it was sent on.
    """

    half: Half | None = None
    same: bool | None = None
    lost: Lost | None = None


@dataclass(slots=True)
class Sent:
    """What was sent before, within one request span: a redirect, a retry, an auth round.

    Args:
        start: seconds since the request began, of which ``duration`` is the length in seconds.
        failed: whether its status is ERROR.
        status: the response's status code; None if there was no response.
        attributes: of the span, with the names and types of a request's.
        steps: its own child spans.
        origin: which server it was sent to, as far as that is known: else the one that was asked before.
    """

    start: float
    duration: float
    failed: bool
    status: int | None
    attributes: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    origin: str = ""


@dataclass(slots=True)
class Row:
    """One request.

    Args:
        name: of the span: the method, as a rule.
        trace_id: hexadecimal, as is ``span_id``.
        start: seconds since the epoch, of which ``duration`` is the length in seconds.
        failed: whether its status is ERROR.
        origin: ``scheme://host:port``, a default port left out, of what was sent last; empty if the span does not say.
        status: the response's status code; None if there was no response.
        attributes: of the span; those of `telemetry.names` are of their type. A URL is not to be shown: see ``path``.
        phases: seconds by phase, those that were observed.
        timed: whether ``start`` and ``duration`` can be; if not, the phases are all that is known.
        impossible: how many of its spans have times that cannot be.
        parent_id: hexadecimal, of the span that it was made in; empty for a root.
        target: method, origin and path, to know the same request again; not to be shown.
        before: what was sent before, within the same span; the rest tells of what was sent last.
        sentences: what its events ``httptrace.diagnosis`` say, in the order in which it happened.
        raised: the class of the exception that passed through it, as upstream has recorded; empty if it has not.
        path: that of the URL, with ``{id}`` for what is no word; empty if the span does not say.
        other: what is known of it from the server; None if nothing is. Set by whoever has both ends.
        client: the library that made it, as in `clients`; empty if the span does not say.
        asked: origin and path of what was sent first, where redirects within it led to another server; else empty.
    """

    name: str
    trace_id: str
    span_id: str
    start: float
    duration: float
    failed: bool
    source: Source
    origin: str
    status: int | None
    attributes: dict[str, Any]
    phases: dict[str, float]
    links: tuple[Link, ...] = ()
    steps: list[Step] = field(default_factory=list)
    timed: bool = True
    impossible: int = 0
    parent_id: str = ""
    target: str = ""
    path: str = ""
    sentences: tuple[str, ...] = ()
    raised: str = ""
    before: list[Sent] = field(default_factory=list)
    other: Other | None = None
    client: str = ""
    asked: str = ""

    @property
    def observed(self) -> bool:
        """Whether otel-httptrace saw it."""
        known = self.attributes
        return (
            names.CONN_REUSED in known
            or names.FAILED_PHASE in known
            or names.BODY_OUTCOME in known
            or any(name.startswith("httptrace.") for name in known)
        )

    @property
    def end(self) -> float:
        """Seconds since the epoch."""
        return self.start + self.duration

    @property
    def opened(self) -> bool:
        """Whether it opened a connection."""
        return self.attributes.get(names.CONN_REUSED) is False

    @property
    def cancelled(self) -> bool:
        """Whether its caller gave it up; what failed is not counted as cancelled, too."""
        known = self.attributes
        if self.failed:
            return False
        return known.get(names.BODY_OUTCOME) == "cancelled" or (
            names.FAILED_PHASE in known and names.ERROR_TYPE not in known
        )

    @property
    def connection(self) -> tuple[Source, int] | None:
        """Which connection it used, unique among processes as far as these tell themselves apart."""
        number = self.attributes.get(names.CONN_ID)
        return (self.source, number) if number is not None else None

    @property
    def lost_by(self) -> Link | None:
        """The request that lost the connection which this one had to open again."""
        for link in self.links:
            if link.attributes.get(names.LINK) == names.LINK_CONNECTION_LOST_BY:
                return link
        return None


@dataclass(slots=True)
class Served(Row):
    """One request, as the server's span tells of it: its origin is the server, ``service:port``.

    Args:
        address: the peer's, as the server sees it; empty if the span does not say.
        port: the peer's; None if the span does not say, as only a connection's first does.
        only_half: whether it is only taken as the other end of a request, and tells nothing of the server.
    """

    address: str = ""
    port: int | None = None
    only_half: bool = False

    @property
    def observed(self) -> bool:
        """Whether otel-httptrace saw it."""
        return served.CONN_ID in self.attributes

    @property
    def connection(self) -> tuple[Source, int] | None:
        """Which connection it came on, unique among processes as far as these tell themselves apart."""
        number = self.attributes.get(served.CONN_ID)
        return (self.source, number) if number is not None else None

    @property
    def close_reason(self) -> str | None:
        """Why its connection ended with it; None if it did not."""
        return self.attributes.get(served.CONN_CLOSE_REASON)

    @property
    def lost(self) -> Lost | None:
        """What it says of a connection of that peer that ended before, between two requests."""
        known = self.attributes
        if served.LOST_CLOSE_REASON not in known or served.LOST_IDLE not in known:
            return None
        return Lost(known[served.LOST_CLOSE_REASON], known[served.LOST_IDLE], known.get(served.LOST_REQUESTS, 0))

    @property
    def half(self) -> Half:
        """What is kept of it for the other end."""
        known = self.attributes
        return Half(
            self.span_id, self.source, self.duration, known.get(served.CONN_ID), known.get(served.CONN_REQUESTS),
            known.get(served.CONN_IDLE), self.close_reason, known.get(served.CONN_INFERRED, False), self.address,
            self.port, self.failed,
        )  # fmt: skip


def both_ends(spans: Iterable[Span], window: int = 20_000) -> Iterator[Row]:
    """As `rows`, and what servers say of requests: `Served`."""
    assembler = Assembler(window)
    for span in spans:
        yield from assembler.add(span)
    yield from assembler.finish()


def rows(spans: Iterable[Span], window: int = 20_000) -> Iterator[Row]:
    """Requests, in the order in which their spans came, each once its children can be expected to be there.

    Args:
        spans: in any order.
        window: how many spans a request waits for its children, and children for their request.
    """
    return (row for row in both_ends(spans, window) if not isinstance(row, Served))


class Assembler:
    """Brings requests and their children together, in bounded memory.

    Args:
        window: how many spans one waits for the other.
        unnamed: whether a request's span may be one that names no scope, as from a source that does not say.
    """

    def __init__(self, window: int = 20_000, *, unnamed: bool = True) -> None:
        self._window = window
        self._unnamed = unnamed
        self._clock = 0
        #: Requests that wait, with the number of spans that had come before.
        self._requests: OrderedDict[tuple[str, str], tuple[int, Span]] = OrderedDict()
        self._children: OrderedDict[tuple[str, str], tuple[int, list[Span]]] = OrderedDict()
        #: Where connections lead: some requests have no URL, and of redirected ones it is not that of the last.
        self._led: OrderedDict[tuple[Source, int], str] = OrderedDict()
        #: Spans of others.
        self.foreign = 0

    def add(self, span: Span) -> list[Row]:
        """Take *span*; hand out the requests that have waited long enough, and what a server says at once."""
        self._clock += 1
        if span.client and (_makes_requests(span.scope) or (not span.scope and self._may_be(span))):
            self._requests[span.trace_id, span.span_id] = (self._clock, span)
        elif span.parent_id and span.name in STEPS:
            key = (span.trace_id, span.parent_id)
            waiting = self._children.get(key)
            if waiting is None:
                self._children[key] = (self._clock, [span])
            else:
                waiting[1].append(span)
        elif span.server and (span.parent_id or served.CONN_ID in span.attributes):
            found = _served(span)
            # One that is none of ours is the other half of a request, if anything.
            self.foreign += span.half or not found.observed
            return [found, *self._waited()]
        else:
            self.foreign += 1
        return self._waited()

    def _waited(self) -> list[Row]:
        limit = self._clock - self._window
        if limit <= 0:
            return []
        found = []
        requests, children = self._requests, self._children
        while requests and next(iter(requests.values()))[0] <= limit:
            found.append(self._row(requests.popitem(last=False)[1][1]))
        while children and next(iter(children.values()))[0] <= limit:
            children.popitem(last=False)
        return found

    def _may_be(self, span: Span) -> bool:
        # ddtrace, asked to send OTLP, makes a span of its own of each request, which names no scope.
        return self._unnamed and not any(name.startswith("_dd.") for name in span.attributes)

    def ready(self) -> Iterator[Row]:
        """Hand out all requests there are, where their children are known to have come; others' go on waiting."""
        while self._requests:
            _, (_, request) = self._requests.popitem(last=False)
            yield self._row(request)

    def finish(self) -> Iterator[Row]:
        """Hand out all requests that are left."""
        yield from self.ready()
        self._children.clear()

    def _row(self, span: Span) -> Row:
        attributes = _well_typed(span.attributes)
        timed = _possible(span)
        row = Row(
            name=span.name,
            trace_id=span.trace_id,
            span_id=span.span_id,
            start=span.start / 1e9,
            duration=max(0, span.end - span.start) / 1e9,
            failed=span.failed,
            source=span.source,
            origin=origin(attributes),
            status=attributes.get("http.response.status_code", attributes.get("http.status_code")),
            attributes=attributes,
            phases={phase: attributes[name] for phase, name in PHASES.items() if name in attributes},
            links=span.links,
            timed=timed,
            impossible=not timed,
            parent_id=span.parent_id,
            target=_target(span.name, attributes),
            path=paths.path(attributes),
            sentences=tuple(said for _, said in sorted(span.sentences)) if span.sentences else (),
            raised=span.raised,
            client=_client(span.scope),
        )
        if attributes.get(names.BODY_OUTCOME) == "never_closed" and not round(row.phases.get("receive", 1.0) * 1e6):
            # Nobody began to.
            del row.phases["receive"]
        if self._children:
            row.steps = list(self._steps(row, span, span))
        if row.origin and not row.before and attributes.get(names.CONN_REUSED) is not False:
            # Most: nothing is to be learnt or asked.
            return row
        led = self._led_to(row, row.attributes, row.steps)
        if not row.origin:
            row.origin = led
        elif row.before and led not in ("", row.origin) and any(sent.status in REDIRECTS for sent in row.before):
            row.asked, row.origin, row.path = row.origin + row.path, led, ""
        return row

    def _led_to(self, row: Row, attributes: dict[str, Any], steps: list[Step]) -> str:
        # Where what was sent went: what got its connection says that, or what had opened it. Some instrumentations
        # (botocore's) say no URL.
        number, reused = attributes.get(names.CONN_ID), attributes.get(names.CONN_REUSED)
        connection = (row.source, number) if number is not None else None
        if connection is not None and reused is not False and connection in self._led:
            return self._led[connection]
        for step in steps:
            host, port = step.attributes.get(names.SERVER_ADDRESS), step.attributes.get(names.SERVER_PORT)
            if step.name == names.SPAN_GETCONN and isinstance(host, str) and isinstance(port, int):
                tls = any(one.name == names.SPAN_TLS for one in steps)
                scheme = "https" if tls or port == PORTS["https"] else "http"
                if (reused or number is None) and not tls and port not in PORTS.values():
                    # It got as far as to neither.
                    scheme = row.origin.partition(":")[0] or scheme
                found = _origin(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
                # A forward proxy's connection leads anywhere.
                if connection is not None and not reused and (tls or not _forwards(steps, host, port)):
                    self._led[connection] = found
                    if len(self._led) > self._window:
                        self._led.popitem(last=False)
                return found
        return ""

    def _before(self, row: Row, request: Span, child: Span) -> Sent:
        attributes = _well_typed(child.attributes)
        steps = list(self._steps(row, request, child))
        led = self._led_to(row, attributes, steps)
        return Sent(
            start=(child.start - request.start) / 1e9 if row.timed else 0.0,
            duration=(child.end - child.start) / 1e9,
            failed=child.failed,
            status=attributes.get("http.response.status_code"),
            attributes=attributes,
            steps=steps,
            origin=led if row.before and led else row.before[-1].origin if row.before else row.origin,
        )

    def _steps(self, row: Row, request: Span, parent: Span) -> Iterator[Step]:
        # Each level's children that are still to come. No recursion, for a chain can be as long as a sender likes.
        levels = [self._take_children(parent)]
        while levels:
            child = next(levels[-1], None)
            if child is None:
                levels.pop()
                continue
            if child.name == names.SPAN_EXCHANGE and parent is request and _possible(child):
                row.before.append(self._before(row, request, child))
                continue
            if _possible(child):
                yield Step(
                    name=child.name,
                    start=(child.start - request.start) / 1e9 if row.timed else 0.0,
                    duration=(child.end - child.start) / 1e9,
                    attributes=child.attributes,
                    depth=min(len(levels), _DEEPEST),
                )
            else:
                row.impossible += 1
            levels.append(self._take_children(child))

    def _take_children(self, span: Span) -> Iterator[Span]:
        _, children = self._children.pop((span.trace_id, span.span_id), (0, ()))
        return iter(sorted(children, key=lambda child: (child.start, child.end)))


def _forwards(steps: list[Step], host: str, port: int) -> bool:
    return any(
        step.name == names.SPAN_CONNECT
        and (step.attributes.get(names.SERVER_ADDRESS), step.attributes.get(names.SERVER_PORT)) != (host, port)
        for step in steps
    )


def _served(span: Span) -> Served:
    attributes = _well_typed(span.attributes)
    timed = _possible(span)
    known = attributes.get
    port = known("server.port", known("net.host.port"))
    # Who is at the other end of the connection. What upstream calls the client may come from a forwarding header: that
    # will do to tell clients apart, but its port is not the connection's.
    address = known(served.NETWORK_PEER_ADDRESS, known("client.address", known("net.peer.ip")))
    peer_port = known(served.NETWORK_PEER_PORT)
    return Served(
        name=span.name,
        trace_id=span.trace_id,
        span_id=span.span_id,
        start=span.start / 1e9,
        duration=max(0, span.end - span.start) / 1e9,
        failed=span.failed,
        source=span.source,
        origin=f"{span.source.service or 'server'}:{port}" if isinstance(port, int) else span.source.service,
        status=known("http.response.status_code", known("http.status_code")),
        attributes=attributes,
        phases={},
        timed=timed,
        impossible=not timed,
        parent_id=span.parent_id,
        address=address if isinstance(address, str) else "",
        port=peer_port if isinstance(peer_port, int) and peer_port > 0 else None,
        only_half=span.half,
    )


#: No deeper is a step drawn. Ours are at most two deep.
_DEEPEST: Final = 10

#: Nanoseconds since 1970: no span is older than the year 2000. What is was never given a time.
_EARLIEST: Final = 946_684_800 * 10**9


def _possible(span: Span) -> bool:
    return _EARLIEST <= span.start <= span.end


_TYPES: Final[dict[str, type]] = {
    **{
        attribute.name: {"boolean": bool, "int": int, "double": float, "string": str}[attribute.type.partition(",")[0]]
        for attribute in described.REQUEST
    },
    "http.response.status_code": int,
    "http.status_code": int,
    served.CONN_ID: int,
    served.CONN_REQUESTS: int,
    served.CONN_IDLE: float,
    served.CONN_AGE: float,
    served.CONN_CLOSE_REASON: str,
    served.CONN_INFERRED: bool,
    served.LOST_PORT: int,
    served.LOST_CLOSE_REASON: str,
    served.LOST_IDLE: float,
    served.LOST_REQUESTS: int,
}


def _well_typed(attributes: dict[str, Any]) -> dict[str, Any]:
    """*attributes*, of which what is known by name is of its type; what is not is left out.

    Whatever a file says: whoever counts and compares need not ask.
    """
    odd = None
    for name, value in attributes.items():
        kind = _TYPES.get(name)
        if kind is float:  # noqa: SIM108 - one case a line
            # Neither "not a number", which JSON can say, nor a time before it began.
            fits = type(value) is float and 0.0 <= value < _YEARS
        else:
            fits = kind is None or type(value) is kind
        if not fits:
            odd = [name] if odd is None else [*odd, name]
    if odd is None:
        return attributes
    typed = dict(attributes)
    for name in odd:
        value = typed.pop(name)
        # JSON written by others has 1 for 1.0.
        if _TYPES[name] is float and type(value) is int and 0 <= value < _YEARS:
            typed[name] = float(value)
    return typed


_YEARS: Final = 1e9

#: Statuses that a client follows.
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AUTHORITY: Final = re.compile("[^/?#]*//[^/?#]*")


def origin(attributes: dict[str, Any]) -> str:
    """``scheme://host:port`` of the URL that upstream recorded, without userinfo; empty if there is none."""
    url = attributes.get("url.full") or attributes.get("http.url")
    start = _AUTHORITY.match(url) if isinstance(url, str) else None
    return _origin(start.group()) if start is not None else ""


def _target(name: str, attributes: dict[str, Any]) -> str:
    url = attributes.get("url.full") or attributes.get("http.url")
    return f"{name} {url.partition('?')[0]}" if isinstance(url, str) else ""


@functools.lru_cache(maxsize=4096)
def _origin(start: str) -> str:
    try:
        parts = urlsplit(start)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not host:
        return ""
    if ":" in host:
        host = f"[{host}]"
    if port is None or port == PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"
