# A story is told by a program that knows nothing of us and a server that does
# what servers do. Beside what must be found there is a control: the same, but for
# one thing, and nothing is found. tools/make_docs.py prints docs/stories.md from
# this, so that what is documented is what was played.

"""The incident stories, as data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from string import Template
from typing import Any

from kit.server import answer, head

from otel_httptrace.report.findings import Sure, Thresholds

from . import worlds
from .worlds import World

Worlds = Callable[[], AbstractContextManager[World]]


@dataclass(frozen=True)
class AtLeast:
    """Equal to what is not less: no machine is so slow that this could fail."""

    least: float

    def __eq__(self, other: object) -> bool:
        """Whether *other* is at least so much."""
        return isinstance(other, float) and other >= self.least


@dataclass(frozen=True)
class Found:
    """What the report must say first.

    Args:
        verdict: its name.
        requests: how many it concerns; None where that depends on who was quicker.
        line: the comment that marks the line of the program; None if the finding names none.
        numbers: some of its numbers.
        sure: how sure it is.
    """

    verdict: str
    requests: int | None
    line: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    sure: Sure = Sure.CERTAIN


@dataclass(frozen=True)
class Case:
    """A program against a server.

    Args:
        what: happens, in a sentence.
        program: of tests/stories/programs: ``NAME.py`` is sync, ``NAME_async.py`` runs on asyncio and trio.
        world: what it talks to.
        prints: all that the program prints.
        found: what the report must say first; None: it finds nothing.
        also: verdicts that come with it, in their order: what else is true of the same requests.
        arguments: the program's, after the URL.
        runs: what it is run with: the library and how, ``httpx2 trio``.
        thresholds: lowered where the story would take long in real time.
        query: what finds it, where that is not the story's.
        queried: whether the query finds it, where the verdict knows better: it counts.
        unseen: connections to the server of which no span can tell.
        environ: variables that the program is run with.
    """

    what: str
    program: str
    world: Worlds
    prints: str
    found: Found | None = None
    also: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    runs: tuple[str, ...] = ("httpx sync",)
    thresholds: Thresholds = Thresholds()
    query: str | None = None
    queried: bool | None = None
    unseen: int = 0
    environ: tuple[tuple[str, str], ...] = ()

    def file(self, how: str) -> str:
        """The program's file, for one of `runs`."""
        return f"{self.program}.py" if how.endswith(" sync") else f"{self.program}_async.py"


@dataclass(frozen=True)
class Story:
    """An incident.

    Args:
        number: as in the issue that it came from.
        title: what people see.
        query: what finds it in a backend, in TraceQL; ``$name`` is a threshold.
        look: where to look on what was found.
        advice: what to do.
        cases: in which it must be found.
        controls: in which it must not.
    """

    number: int
    title: str
    query: str
    look: str
    advice: str
    cases: tuple[Case, ...]
    controls: tuple[Case, ...]

    def queries(self, thresholds: Thresholds, case: Case | None = None) -> tuple[str, ...]:
        """The query with its *thresholds*: that of *case*, or all that there are."""
        values = {name: f"{value:g}" for name, value in vars(thresholds).items()}
        asked = [one.query or self.query for one in (self.cases if case is None else (case,))]
        return tuple(dict.fromkeys(Template(query).substitute(values) for query in asked))


def scaled(**settings: Any) -> Thresholds:
    """Thresholds lowered, so that nothing takes more than a second or two."""
    return replace(Thresholds(), **settings)


#: Both libraries, in every way to run them: where what they do differs, or how it is seen.
ALL = ("httpx sync", "httpx2 sync", "httpx asyncio", "httpx2 trio")
ASYNC = ("httpx asyncio", "httpx2 asyncio", "httpx trio", "httpx2 trio")
#: A run takes a second of a processor.
SOME = ("httpx sync", "httpx2 asyncio")

_TWENTY = partial(worlds.serving, worlds.together(5, answer(worlds.MUCH[:300_000])), host="localhost")
_SEEN = answer(b"old news", 'ETag: "seen"')
_ANSWERS = "It is so.\n" * 4

STORIES = (
    Story(
        1,
        "Thousands of lookups a second, and the DNS server at its limit",
        '{ span.httptrace.conn.open_reason = "body_not_read" }',
        "`httptrace.body.closed_at` on the linked span",
        "Read the body before closing, or ask for less (HEAD, Range).",
        (
            Case(
                "Five workers ask for 20 parts and close each response unread.",
                "warm_up",
                _TWENTY,
                "20 parts are warm\n",
                Found("body_not_read", 20, "closed here", {"lost": 20, "opened": 20, "anew": 15, "lookups": 15}),
                runs=ALL,
            ),
        ),
        (
            Case(
                "The same, with the bodies read to the end.",
                "warm_up",
                _TWENTY,
                "20 parts are warm\n",
                arguments=("--read",),
                runs=SOME,
            ),
            Case(
                "Closed unread, but the server had said that it would close the connection anyway.",
                "warm_up",
                partial(worlds.serving, worlds.and_close(answer(b"warm", "Connection: close")), host="localhost"),
                "20 parts are warm\n",
            ),
        ),
    ),
    Story(
        2,
        "Calls to a language model take 300 ms more each, without an error",
        '{ span.httptrace.conn.open_reason = "body_not_read" }',
        "`httptrace.body.closed_at` on the linked span, whose response is `text/event-stream`",
        "Read on after `[DONE]`: the end of the body is still to come.",
        (
            Case(
                "The stream is left at `[DONE]`, and the end of the body comes a moment later.",
                "chat",
                partial(worlds.serving, worlds.event_stream(terminator=0.05)),
                _ANSWERS,
                Found("body_not_read", 4, "closed here", {"lost": 4, "opened": 4, "anew": 3, "lookups": 0}),
                runs=SOME,
            ),
            Case(
                "The end of the body came in the same packet as `[DONE]`, but nobody read on.",
                "chat",
                partial(worlds.serving, worlds.event_stream(terminator=0)),
                _ANSWERS,
                Found("body_not_read", 4, "closed here", {"lost": 4, "opened": 4, "anew": 3, "lookups": 0}),
            ),
        ),
        (
            Case(
                "After `[DONE]` the program reads on to the end.",
                "chat",
                partial(worlds.serving, worlds.event_stream(terminator=0.05)),
                _ANSWERS,
                arguments=("--drain",),
                runs=SOME,
            ),
        ),
    ),
    Story(
        3,
        "The slowest calls got slower, and the server's own log says 50 ms",
        "{ span.httptrace.time.pool > $pool_wait }",
        "`httptrace.pool.limit`, `httptrace.pool.waiting`",
        "Raise max_connections, or cut concurrency.",
        (
            Case(
                "Forty at once through a pool of ten; the first ten answers take 0.5 s, the others 50 ms.",
                "fan_out",
                partial(worlds.serving, worlds.slow_at_first(10, 0.5, 0.05, answer())),
                "40 prices\n",
                Found("pool_saturated", 30, numbers={"limit": 10, "waiting": 30, "pool_timeouts": 0}),
                arguments=("10",),
                runs=SOME,
            ),
            Case(
                "The same, and nobody waits longer than 0.3 s: PoolTimeout, but all responses are closed in the end.",
                "fan_out",
                partial(worlds.serving, worlds.after(1, answer())),
                "10 prices\n",
                Found("pool_saturated", 30, numbers={"limit": 10, "waiting": 30, "pool_timeouts": 30}),
                arguments=("10", "0.3"),
            ),
        ),
        (
            Case(
                "Forty at once with room for fifty, and the server takes 0.5 s.",
                "fan_out",
                partial(worlds.serving, worlds.after(0.5, answer())),
                "40 prices\n",
                arguments=("50",),
                runs=SOME,
            ),
        ),
    ),
    Story(
        4,
        "After a day every call is a PoolTimeout, and a restart cures it",
        '{ span.httptrace.failed_phase = "pool" }',
        "the links `pool_held_by`, and `httptrace.body.closed_at` there",
        "Close every response: `with client.stream(...)`, or `close()` in a `finally`.",
        (
            Case(
                "A pool of five; a response that brings nothing new is never closed.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 5 + "PoolTimeout\n" * 3,
                Found("responses_never_closed", 3, "opened here", {"responses": 5, "pool_timeouts": 3}),
                runs=ALL,
            ),
            Case(
                "The same, and the program still has the responses when it ends.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 5 + "PoolTimeout\n" * 3,
                Found("responses_never_closed", 3, "opened here", {"responses": 5, "pool_timeouts": 3}),
                arguments=("--keep",),
                runs=SOME,
            ),
            Case(
                "The same, but the program is killed: of the responses that hold the pool there are no spans.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 5 + "PoolTimeout\n" * 3,
                Found("responses_never_closed", 3, numbers={"responses": 5, "pool_timeouts": 3}, sure=Sure.POSSIBLE),
                arguments=("--keep", "--killed"),
                unseen=5,
                environ=(("OTEL_BSP_SCHEDULE_DELAY", "200"),),
            ),
        ),
        (
            Case(
                "The same, and all are closed.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 8,
                arguments=("--close",),
                runs=SOME,
            ),
        ),
    ),
    Story(
        5,
        "Many times more connections than requests at a time, and no error",
        '{ span.httptrace.conn.open_reason = "keepalive_limit" }',
        "the client's `max_keepalive_connections`",
        "Raise max_keepalive_connections above the concurrency, or move to httpx2: httpcore 1.0.9 counts busy "
        "connections against it, too.",
        (
            Case(
                "Six workers, of whose connections five may be kept alive.",
                "crawl",
                partial(worlds.serving, worlds.one_by_one(0.003, answer())),
                "100 pages\n",
                Found("keepalive_limit_too_low", None),
                runs=("httpx sync", "httpx trio"),
            ),
        ),
        (
            Case(
                "The same load with httpcore2, which counts idle connections only.",
                "crawl",
                partial(worlds.serving, worlds.one_by_one(0.003, answer())),
                "100 pages\n",
                runs=("httpx2 sync", "httpx2 asyncio"),
            ),
        ),
    ),
    Story(
        6,
        'Now and then a POST fails with "Server disconnected without sending a response"',
        '{ span.http.conn.reused = true && span.httptrace.failed_phase = "wait" '
        "&& span.httptrace.conn.idle > $stale_idle }",
        "`httptrace.conn.idle`: about the server's keep-alive time",
        "Set keepalive_expiry below the server's.",
        (
            Case(
                "The server drops a connection after 0.5 s, just as a request comes on it.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.no_answer)),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                Found("stale_keepalive", 1, numbers={"idle": AtLeast(0.4)}, sure=Sure.LIKELY),
                arguments=("0.5",),
                runs=ALL,
            ),
        ),
        (
            Case(
                "The connection is closed instead of answered, but it had not been idle.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.no_answer)),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                arguments=("0",),
            ),
            Case(
                "A new connection is closed instead of answered.",
                "audit",
                partial(worlds.serving, worlds.third_new_one_fails),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                arguments=("0.5",),
                runs=SOME,
            ),
            Case(
                "On the connection that was idle, the response had begun: its body failed, and that is another story.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.half(1000, worlds.no_more))),
                "200\n200\nRemoteProtocolError: peer closed connection without sending complete message body "
                "(received 500 bytes, expected 1000)\n200\n",
                Found("body_failed", 1, numbers={"error": "RemoteProtocolError", "bytes_read": 500, "size": 1000}),
                arguments=("0.5",),
            ),
        ),
    ),
    Story(
        7,
        "Every call takes 5 s, but only in the cluster",
        "{ span.httptrace.time.dns > $dns }",
        "`http.dns`: the name, as it was asked for",
        "Look at the resolver: search domains (ndots), a server that does not answer.",
        (
            Case(
                "The resolver takes 0.4 s for the name.",
                "price",
                partial(worlds.name, answer(), 0.4, "127.0.0.1"),
                "200\n" * 3,
                Found("dns_slow", 1, numbers={"name": "prices.test", "longest": AtLeast(0.4), "lookups": 1}),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                runs=SOME,
            ),
            Case(
                "The resolver fails after 0.4 s.",
                "price",
                partial(worlds.no_name, 0.4),
                "ConnectError\n",
                Found("dns_slow", 1, numbers={"name": "prices.test", "longest": AtLeast(0.4), "lookups": 1}),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
            ),
        ),
        (
            Case(
                "The name is there at once, and the connect takes a second.",
                "price",
                partial(worlds.slow_to_accept, 0.3),
                "200\n" * 3,
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                runs=SOME,
            ),
        ),
    ),
    Story(
        8,
        "ConnectTimeout, but which part of it?",
        '{ span.error.type = "ConnectTimeout" }',
        "`httptrace.failed_phase`",
        "dns: the resolver. connect: the network, a firewall, a server that is overloaded. tls: what listens there. proxy: the proxy.",
        (
            Case(
                "The resolver does not answer in time.",
                "price",
                partial(worlds.name, answer(), 1.2, "127.0.0.1"),
                "ConnectTimeout\n",
                Found("dns_timeout", 1, numbers={"phase": "dns", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=("httpx asyncio", "httpx2 trio"),
            ),
            Case(
                "Nobody answers the connect.",
                "price",
                worlds.unreachable,
                "ConnectTimeout\n",
                Found("connect_timeout", 1, numbers={"phase": "connect", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=SOME,
            ),
            Case(
                "The proxy accepts, and never answers: that is a ReadTimeout, before there was anything to read.",
                "download",
                worlds.silent_proxy,
                "ReadTimeout after 0 bytes\n",
                Found("proxy_timeout", 1, numbers={"phase": "proxy", "longest": AtLeast(0.2)}),
                arguments=("0", "0.3"),
                runs=SOME,
                query='{ span.httptrace.failed_phase = "proxy" && status = error }',
            ),
            Case(
                "The server accepts, and never says a word of TLS.",
                "price",
                worlds.silent,
                "ConnectTimeout\n",
                Found("tls_timeout", 1, numbers={"phase": "tls", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=SOME,
            ),
        ),
        (
            Case(
                "The connection is refused at once.",
                "price",
                worlds.refused,
                "ConnectError\n",
                arguments=("0.3",),
                runs=("httpx sync",),
            ),
        ),
    ),
    Story(
        9,
        "Each call takes 25 to 100 ms more than the server says",
        '{ span.httptrace.conn.open_reason = "new_client" }',
        "how many per minute, and where the client is made",
        "Share one client.",
        (
            Case(
                "A client for each of four calls.",
                "notify",
                partial(worlds.several, 1),
                "[200, 200, 200, 200]\n",
                Found("client_per_request", 3, numbers={"clients": 3, "within_a_minute": 3}),
                runs=SOME,
            ),
        ),
        (
            Case(
                "One client for all.",
                "notify",
                partial(worlds.several, 1),
                "[200, 200, 200, 200]\n",
                arguments=("--shared",),
            ),
            Case(
                "A client for each of four batches.",
                "notify",
                partial(worlds.several, 1),
                f"{[200] * 4}\n" * 4,
                arguments=("--by-batch",),
                queried=True,
            ),
            Case(
                "One client for each of four origins.",
                "notify",
                partial(worlds.several, 4),
                f"{[200] * 16}\n",
                arguments=("--by-origin",),
            ),
        ),
    ),
    Story(
        10,
        "Calls stall, where a host has addresses of both families",
        '{ name = "http.connect" && duration > ${fallback}s && span.network.type = "ipv4" }',
        "`dns.answers` of `http.dns` beside it: it begins with an IPv6 address",
        "Mend the way to the first address, or take it out of DNS.",
        (
            Case(
                "Nobody answers at the IPv6 address, the IPv4 one works.",
                "price",
                partial(worlds.addresses, "::1", "127.0.0.1", silent=True),
                "200\n" * 3,
                Found(
                    "address_fallback",
                    1,
                    numbers={"first": "::1", "won": "127.0.0.1", "longest": AtLeast(0.25)},
                    sure=Sure.LIKELY,
                ),
                arguments=("0.6",),
                runs=("httpx sync", "httpx asyncio"),
            ),
        ),
        (
            Case(
                "The IPv6 address refuses at once.",
                "price",
                partial(worlds.addresses, "::1", "127.0.0.1"),
                "200\n" * 3,
                arguments=("0.6",),
                runs=("httpx sync", "httpx asyncio"),
            ),
            Case(
                "The name has one address, and it works.",
                "price",
                partial(worlds.addresses, "127.0.0.1"),
                "200\n" * 3,
                arguments=("0.6",),
                runs=("httpx sync",),
            ),
        ),
    ),
    Story(
        11,
        "TLS is slow since the certificate was changed",
        '{ name = "http.tls" && duration > ${tls}s }',
        "`tls.protocol.version`, `tls.resumed`",
        "Keep connections; look at the chain, at OCSP, at the server's load.",
        (
            Case(
                "A handshake takes 0.4 s.",
                "price",
                partial(worlds.tls, 0.4, answer()),
                "200\n" * 3,
                Found("tls_slow", 1, numbers={"longest": AtLeast(0.3), "details": "version 1.3, not resumed"}),
                arguments=("5",),
                thresholds=scaled(tls=0.3),
                runs=SOME,
            ),
        ),
        (
            Case(
                "The handshake is quick, and answers on the connection take 0.4 s.",
                "price",
                partial(worlds.tls, 0, worlds.after(0.4, answer())),
                "200\n" * 3,
                arguments=("5",),
                thresholds=scaled(tls=0.3),
                runs=("httpx sync",),
            ),
        ),
    ),
    Story(
        12,
        '"The server is slow": 30 s for a call',
        "{ span.httptrace.time.receive > $receive }",
        "`httptrace.body.read_wait`: how much of it was spent waiting for bytes",
        "Ask who was waited for: the server's body, our own code, or the first byte.",
        (
            Case(
                "The body trickles for 0.6 s.",
                "download",
                partial(worlds.serving, worlds.trickle(0.6, 6)),
                "all 600 bytes\n",
                Found("body_slow_server", 1, numbers={"read_wait": AtLeast(0.3)}),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
            ),
            Case(
                "The body is there at once, and our code takes 0.1 s for each part.",
                "download",
                partial(worlds.serving, answer(worlds.MUCH[:400_000])),
                "all 400000 bytes\n",
                Found("body_slow_consumer", 1, numbers={"longest": AtLeast(0.6)}),
                arguments=("0.1",),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
            ),
        ),
        (
            Case(
                "The first byte takes 0.6 s: the server is slow indeed.",
                "download",
                partial(worlds.serving, worlds.after(0.6, answer())),
                "all 5 bytes\n",
                Found("server_slow", 1, numbers={"longest": AtLeast(0.5)}),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
            ),
        ),
    ),
    Story(
        13,
        "The user had left, and the trace shows a green 60 ms",
        '{ span.httptrace.body.outcome = "cancelled" }',
        "`httptrace.failed_phase` where it was before the body; `httptrace.conn.close_reason`",
        "Nothing was wrong with the server; a connection was lost with it.",
        (
            Case(
                "The user leaves in the middle of the body.",
                "export",
                partial(worlds.serving, worlds.until_left(head("Content-Length: 1000") + b"x" * 500)),
                "500 bytes\n",
                Found("cancelled_in", 1, numbers={"phase": "receive", "connections_lost": 1}),
                arguments=("--leaves-late",),
                runs=ASYNC,
            ),
            Case(
                "The user leaves before there is an answer.",
                "export",
                partial(worlds.serving, worlds.until_left(b"")),
                "",
                Found("cancelled_in", 1, numbers={"phase": "wait", "connections_lost": 1}),
                arguments=("--leaves-early",),
                runs=("httpx asyncio", "httpx2 trio"),
                query='{ span.httptrace.failed_phase = "wait" && status != error }',
            ),
        ),
        (
            Case(
                "Nobody leaves, but the client's own read timeout strikes: that is a failure.",
                "download",
                partial(worlds.serving, worlds.until_left(head("Content-Length: 1000") + b"x" * 500)),
                "ReadTimeout after 500 bytes\n",
                Found("body_failed", 1, numbers={"error": "ReadTimeout", "bytes_read": 500, "size": 1000}),
                arguments=("0", "0.3"),
                runs=("httpx asyncio", "httpx2 trio"),
            ),
            Case(
                "The user stays.",
                "export",
                partial(worlds.serving, answer(b"x" * 1000)),
                "1000 bytes\ndone\n",
                runs=("httpx asyncio", "httpx2 trio"),
            ),
        ),
    ),
    Story(
        14,
        "The response broke off half-way, and the trace says 200 OK in 2 ms",
        '{ span.httptrace.body.outcome = "failed" }',
        "`httptrace.body.bytes_read`, `http.response.body.size`, `error.type`",
        "Look at what lies between: a proxy's timeout, a worker that was killed.",
        (
            Case(
                "The server closes after half of the body.",
                "download",
                partial(worlds.serving, worlds.half(1000, worlds.no_more)),
                "RemoteProtocolError after 500 bytes\n",
                Found("body_failed", 1, numbers={"error": "RemoteProtocolError", "bytes_read": 500, "size": 1000}),
                runs=SOME,
            ),
            Case(
                "The connection is reset after half of the body.",
                "download",
                partial(worlds.serving, worlds.half(1000, worlds.reset)),
                "ReadError after 500 bytes\n",
                Found("body_failed", 1, numbers={"error": "ReadError", "bytes_read": 500, "size": 1000}),
                runs=SOME,
            ),
        ),
        (
            Case(
                "The body is complete.",
                "download",
                partial(worlds.serving, answer(b"x" * 1000)),
                "all 1000 bytes\n",
                runs=SOME,
            ),
        ),
    ),
    Story(
        15,
        "Each burst of requests begins with new connections",
        '{ span.httptrace.conn.open_reason = "server_closed" }',
        "how long it had been since the request before",
        "Send more often than the server's keep-alive time, or accept it.",
        (
            Case(
                "The server closes connections idle for 0.2 s, and bursts are 0.5 s apart.",
                "bursts",
                partial(worlds.serving, b"", kind=worlds.Impatient),
                "[200, 200, 200]\n" * 4,
                Found("server_closes_idle", 3, numbers={"opened": 4, "because": 3, "gap": AtLeast(0.2)}),
                runs=SOME,
            ),
        ),
        (
            Case(
                "The client itself lets idle connections go after 0.2 s.",
                "bursts",
                partial(worlds.serving, answer()),
                "[200, 200, 200]\n" * 4,
                arguments=("0.2",),
                runs=SOME,
            ),
        ),
    ),
)
