# A story is told by a program that knows nothing of us and a server that does
# what servers do. Beside what must be found there is a control: the same, but for
# one thing, and nothing is found. tools/make_docs.py prints docs/stories.md and the
# guide for those on call, docs/incidents.md, from this: what is documented was played,
# and tests/backends/test_incidents.py has asked every query of the real backends.

"""The incident stories, as data."""

from __future__ import annotations

import socket
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
class Search:
    """What is filled into Jaeger's search, beside the service. All of it is about one span.

    Args:
        tags: as there, in logfmt: ``a=b c=d``. They are compared as text, and must be equal.
        operation: the span's name.
        longer: the threshold that its duration is compared with, by name.
    """

    tags: str = ""
    operation: str = ""
    longer: str = ""

    def duration(self, thresholds: Thresholds) -> str:
        """Its "Min Duration"; empty if there is none."""
        if not self.longer:
            return ""
        seconds = getattr(thresholds, self.longer)
        return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


@dataclass(frozen=True)
class Guide:
    """What who is on call needs to know, beside the query in TraceQL.

    Args:
        symptoms: what it looks like from outside; each begins with a word of `KINDS`.
        search: what finds it in Jaeger.
        promql: what tells that it happens, and more that say where; ``$service`` and ``$name``, a threshold, are to
            be filled in.
        sees: what is on that which was found.
        cause: why it happens.
        fix: more of what to do than the story's advice.
        but: what else is found, where a language cannot tell it apart.
        fired: more in PromQL for whom an alert has led here: it has data while it goes on, of other stories too.
        rows: more to search for in Jaeger, that no program here can bring about.
        kept: whether gateway.yaml keeps all that is found. Of the rest it keeps a share.
    """

    symptoms: tuple[str, ...]
    search: Search
    promql: tuple[str, ...]
    sees: str
    cause: str
    fix: str = ""
    but: str = ""
    fired: tuple[str, ...] = ()
    rows: tuple[Search, ...] = ()
    kept: bool = False

    def asked(self, thresholds: Thresholds, service: str, *, fired: bool = False) -> tuple[str, ...]:
        """The queries in PromQL, about *service*: `promql`, or those for whom an alert has *fired*."""
        values = {"service": service, **{name: f"{value:g}" for name, value in vars(thresholds).items()}}
        return tuple(Template(query).substitute(values) for query in (self.fired if fired else self.promql))


#: What an incident looks like from outside.
KINDS = ("slow", "fails", "load")


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
        search: the same in Jaeger.
        finds: how many requests the query finds; None where that depends on who was quicker. More than none where
            a verdict knows better that it is a control: it counts.
        also_searched: and how many more Jaeger's search finds, which cannot tell them apart.
        also_counted: whether PromQL returns data of what the query does not find.
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
    search: Search | None = None
    finds: int | None = 0
    also_searched: int = 0
    also_counted: bool = False
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
        guide: for those on call.
    """

    number: int
    title: str
    query: str
    look: str
    advice: str
    cases: tuple[Case, ...]
    controls: tuple[Case, ...]
    guide: Guide

    def queries(self, thresholds: Thresholds, case: Case | None = None) -> tuple[str, ...]:
        """The query with its *thresholds*: that of *case*, or all that there are."""
        values = {name: f"{value:g}" for name, value in vars(thresholds).items()}
        asked = [one.query or self.query for one in (self.cases if case is None else (case,))]
        return tuple(dict.fromkeys(Template(query).substitute(values) for query in asked))


def _opened(reason: str) -> str:
    """Connections opened for this reason, each second."""
    return f'sum by (server_address) (rate(httptrace_connections_opened_total{{job="$service", httptrace_conn_open_reason="{reason}"}}[5m]))'


def _lines(selected: str) -> str:
    """The lines of code that most of these spans name."""
    return f'topk(10, sum by (httptrace_body_closed_at) (increase(traces_span_metrics_calls_total{{job="$service", {selected}}}[1h])))'


def _slowest(metric: str, by: str, threshold: str, selected: str = "") -> str:
    """Where the slowest of a hundred take longer than a threshold, or as long as the last bucket tells."""
    labels = 'job="$service"' + (f", {selected}" if selected else "")
    return f"histogram_quantile(0.99, sum by ({by}) (rate({metric}_bucket{{{labels}}}[5m]))) >= {threshold}"


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
                finds=15,
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
                partial(worlds.serving, worlds.together(5, answer(b"warm", "Connection: close")), host="localhost"),
                "20 parts are warm\n",
                Found("connection_close", 15, numbers={"opened": 20, "because": 15}),
            ),
        ),
        guide=Guide(
            (
                "load: DNS lookups grow with the requests; the DNS server is at its limit",
                "load: as many new connections, or TLS handshakes, as requests",
            ),
            Search("httptrace.conn.open_reason=body_not_read"),
            (_opened("body_not_read"), _lines('httptrace_conn_close_reason="body_not_read"')),
            "Requests that had to open a connection, and what that cost each: `httptrace.time.dns`, `.connect`, `.tls`. The link "
            "`connection_lost_by` leads to the request that lost the connection before: `httptrace.body.closed_at` there is the "
            "line, `httptrace.body.bytes_read` of `http.response.body.size` is how far it had read.",
            "An HTTP/1.1 connection can carry another request only once the response has been read to its end. Closed before "
            "(`response.close()`, leaving `with client.stream(...)`, an exception in it), it is closed with its response, and the "
            "next request pays for a lookup, a connect and a TLS handshake.",
            "`response.read()` in front of the close is enough where bodies are small.",
            fired=(
                "sum by (server_address, httptrace_conn_open_reason) "
                '(rate(httptrace_connections_opened_total{job="$service"}[5m]))',
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
                finds=3,
            ),
            Case(
                "The end of the body came in the same packet as `[DONE]`, but nobody read on.",
                "chat",
                partial(worlds.serving, worlds.event_stream(terminator=0)),
                _ANSWERS,
                Found("body_not_read", 4, "closed here", {"lost": 4, "opened": 4, "anew": 3, "lookups": 0}),
                finds=3,
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
        guide=Guide(
            (
                "slow: each call to a language model takes a connect and a TLS handshake more, without an error",
                "load: a new connection for each event stream",
            ),
            Search("httptrace.conn.open_reason=body_not_read"),
            (_opened("body_not_read"), _lines('httptrace_body_outcome="closed_early"')),
            "As in story 1; the line is in the loop that reads events, or `httptrace.body.closed_via` names the SDK's line and "
            "`httptrace.body.closed_at` yours. `httptrace.body.bytes_read` is nearly all of the body.",
            "The stream is left at `data: [DONE]`. What ends the body comes after that: the last chunk was never read, so "
            "the connection cannot be used again.",
            "In your own loop: do not `break`, let the iterator end. In an SDK: a newer version, or read the rest of "
            "`response` yourself.",
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
                "Forty at once through a pool of ten; the first ten answers take 1.5 s, the others 50 ms.",
                "fan_out",
                partial(worlds.serving, worlds.slow_at_first(10, 1.5, 0.05, answer())),
                "40 prices\n",
                Found("pool_saturated", 30, numbers={"limit": 10, "waiting": 30, "pool_timeouts": 0}),
                arguments=("10",),
                thresholds=scaled(pool_wait=0.5),
                runs=SOME,
                finds=30,
            ),
            Case(
                "The same, and nobody waits longer than a second: PoolTimeout, but all responses are closed in the end.",
                "fan_out",
                partial(worlds.serving, worlds.after(3, answer())),
                "10 prices\n",
                Found("pool_saturated", 30, numbers={"limit": 10, "waiting": 30, "pool_timeouts": 30}),
                arguments=("10", "1"),
                finds=30,
                search=Search("httptrace.failed_phase=pool"),
            ),
            Case(
                "The same with 1.2 s for all, and each answer ends its connection: who waited opens one.",
                "fan_out",
                partial(worlds.serving, worlds.after(1.2, worlds.LAST)),
                "40 prices\n",
                Found("pool_saturated", 30, numbers={"limit": 10, "waiting": 30, "pool_timeouts": 0}),
                also=("connection_close",),
                arguments=("10", "20"),
                thresholds=scaled(pool_wait=0.5),
                runs=SOME,
                finds=30,
                search=Search("http.conn.reused=false", "http.getconn", "pool_wait"),
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
        guide=Guide(
            (
                "slow: p99 jumped, but the server's own log says 50 ms",
                "slow: calls get slower as the concurrency grows; the server is bored",
            ),
            Search("http.conn.reused=true", "http.getconn", "pool_wait"),
            (_slowest("http_client_request_time_in_queue_seconds", "le, server_address", "$pool_wait"),),
            "`httptrace.time.pool` is how long the request waited inside the client, before a byte was sent. As the wait began the "
            "pool had `httptrace.pool.connections` of at most `httptrace.pool.limit`, `httptrace.pool.idle` of them idle, and "
            "`httptrace.pool.waiting` requests waited already.",
            "More requests at a time than the pool may have connections: `max_connections`, 100 unless set. The others queue in "
            "the client, where no server can see them.",
            "First look whether responses are held open (story 4): then a larger pool only takes longer to fill.",
            "In Jaeger `http.getconn` with `http.conn.reused=false` has the lookup, the connect and the handshake in it: read "
            "`httptrace.time.pool`, which is the wait alone.",
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
                finds=3,
            ),
            Case(
                "The same, and the program still has the responses when it ends.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 5 + "PoolTimeout\n" * 3,
                Found("responses_never_closed", 3, "opened here", {"responses": 5, "pool_timeouts": 3}),
                arguments=("--keep",),
                runs=SOME,
                finds=3,
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
                finds=3,
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
        guide=Guide(
            (
                "fails: `PoolTimeout` on every call, and a restart cures it for some hours",
                "load: open connections only ever grow, up to `max_connections`",
            ),
            Search("httptrace.failed_phase=pool"),
            (
                'sum by (server_address) (rate(httptrace_requests_total{job="$service", httptrace_failed_phase="pool"}[5m]))',
                _lines('httptrace_body_outcome="never_closed"'),
            ),
            "The links `pool_held_by` lead to the requests that hold the pool, at most 8, oldest first. The span of such a request "
            "is sent only when its response is over: collected as garbage, or at the end of the process. Then it has "
            "`httptrace.body.outcome` = `never_closed`, and `httptrace.body.closed_at` is the line that made the request. "
            "Until then only metrics know: `httptrace_responses_open`, and `httptrace_responses_open_max_age_seconds`, "
            "which grows with the clock.",
            "A response that was asked for with `stream=True` is never closed on some path: an early return, an exception, a cache "
            "hit. It keeps its connection; when all are kept, every request waits in vain.",
            "Restarting helps until the pool is full again. All open, none old, and `PoolTimeout`: then it is story 3.",
            fired=('max by (server_address) (httptrace_responses_open_max_age_seconds{job="$service"})',),
            kept=True,
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
                "Six workers, of whose connections five may be kept alive; the answers to all six come together.",
                "crawl",
                partial(worlds.serving, worlds.in_rounds(6, 16, answer())),
                "100 pages\n",
                Found("keepalive_limit_too_low", None),
                runs=("httpx sync", "httpx trio"),
                finds=None,
            ),
        ),
        (
            Case(
                "The same program with httpcore2, which counts idle connections only: never more than five.",
                "crawl",
                partial(worlds.serving, worlds.never_all_idle(100, answer())),
                "100 pages\n",
                runs=("httpx2 sync", "httpx2 asyncio"),
            ),
        ),
        guide=Guide(
            (
                "load: many times more connections than requests at a time, no error",
                "slow: some requests under load pay for a connect that the others do not",
            ),
            Search("httptrace.conn.open_reason=keepalive_limit"),
            (_opened("keepalive_limit"),),
            "Requests that opened a connection although there had been idle ones: these had been dropped over "
            "`max_keepalive_connections`. Those that dropped them have `httptrace.conn.close_reason` = `keepalive_limit`.",
            "`max_keepalive_connections`, 20 unless set, is below the concurrency. httpx keeps so many idle connections and closes "
            "the others after each request; httpcore up to 1.0.9 even counts busy ones as if they were idle.",
        ),
    ),
    Story(
        6,
        'Now and then a POST fails with "Server disconnected without sending a response"',
        '{ span.http.conn.reused = true && span.httptrace.failed_phase =~ "send|wait" '
        '&& span.error.type =~ "RemoteProtocolError|ReadError|WriteError" && span.httptrace.conn.idle > $stale_idle }',
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
                finds=1,
            ),
            Case(
                "The same, and it resets the connection: that is a ReadError.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.no_answer_but_reset)),
                "200\n200\nReadError: [Errno 104] Connection reset by peer\n200\n",
                Found("stale_keepalive", 1, numbers={"idle": AtLeast(0.4)}, sure=Sure.LIKELY),
                arguments=("0.5",),
                runs=("httpx sync", "httpx2 sync"),
                finds=1,
                search=Search("http.conn.reused=true httptrace.failed_phase=wait error.type=ReadError"),
            ),
        ),
        (
            Case(
                "The connection is closed instead of answered, but it had not been idle.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.no_answer)),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                Found("closed_without_answer", 1),
                arguments=("0",),
                also_searched=1,
                also_counted=True,
            ),
            Case(
                "There is no answer, but the connection stays: a timeout is the server's own.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.silence)),
                "200\n200\nReadTimeout: timed out\n200\n",
                Found("server_slow", 1, numbers={"read_timeouts": 1}),
                arguments=("0.5", "1"),
            ),
            Case(
                "A new connection is closed instead of answered.",
                "audit",
                partial(worlds.serving, worlds.third_new_one_fails),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                Found("closed_without_answer", 1),
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
        guide=Guide(
            (
                'fails: "Server disconnected without sending a response", now and then, `RemoteProtocolError`',
                'fails: "Connection reset by peer", `ReadError`, on a connection that had worked',
                "fails: one POST in a thousand, mostly after a quiet time",
            ),
            Search("http.conn.reused=true httptrace.failed_phase=wait error.type=RemoteProtocolError"),
            (
                'sum by (error_type) (rate(traces_span_metrics_calls_total{job="$service", span_kind="SPAN_KIND_CLIENT", '
                'http_conn_reused="true", httptrace_failed_phase=~"send|wait", '
                'error_type=~"RemoteProtocolError|ReadError|WriteError"}[5m]))',
            ),
            "`httptrace.conn.idle` is about the same on all of them: it is the server's (or its load balancer's) keep-alive time. "
            "`httptrace.conn.requests` is 1 or more: the connection had worked before. `error.type`: `RemoteProtocolError` was "
            "closed, `ReadError` reset (a load balancer's way); `WriteError`, over HTTP/2 only, before all was sent.",
            "The server closed the idle connection just as the request was on its way. The client cannot know, and must not send a "
            "POST again by itself.",
            "`httpx.Limits(keepalive_expiry=...)` is 5 s unless set; so are the keep-alive times of uvicorn and Node.js, gunicorn's "
            "is 2 s. Requests that may be repeated can be: by your own code.",
            "Jaeger and PromQL cannot compare `httptrace.conn.idle`. Is it near 0, then the server (a worker that was killed, a "
            "deployment) ended a connection in use, and this is not the story.",
            rows=(Search("http.conn.reused=true httptrace.failed_phase=send error.type=WriteError"),),
            kept=True,
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
                Found(
                    "dns_slow",
                    1,
                    numbers={"name": "prices.test", "longest": AtLeast(0.4), "lookups": 1},
                    sure=Sure.LIKELY,
                ),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                runs=SOME,
                finds=1,
            ),
            Case(
                "The resolver fails after 0.4 s.",
                "price",
                partial(worlds.no_name, 0.4),
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "dns", "cause": "EAI_AGAIN"}),
                also=("dns_slow",),
                arguments=("5",),
                thresholds=scaled(dns=0.3),
                finds=1,
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
        guide=Guide(
            (
                "slow: every call takes 5 s, but only in the cluster",
                "slow: some calls take 5 s or 10 s longer, nearly to the millisecond",
            ),
            Search("", "http.dns", "dns"),
            (_slowest("dns_lookup_duration_seconds", "le, dns_question_name", "$dns"),),
            "The child span `http.dns` is nearly the whole request; `http.connect` and `http.tls` beside it are short. It has the "
            "name (`dns.question.name`), the answer (`dns.answers`) or `error.type`: `try_again` and `timed_out` are the resolver's "
            "fault, `host_not_found` is the name's.",
            "A resolver of /etc/resolv.conf did not answer: after 5 s glibc asks the next, or again. In Kubernetes `ndots:5` makes "
            "five questions of one, each with another search domain, before the name itself is asked for.",
            "`ndots:1`, or a dot at the end of the name; a cache on the node. Fewer connections mean fewer lookups: see story 1.",
            kept=True,
        ),
    ),
    Story(
        8,
        "ConnectTimeout or ConnectError, but which part of it?",
        '{ span.httptrace.failed_phase =~ "dns|connect|proxy|tls" }',
        "`httptrace.failed_phase`, `error.type`",
        "dns: the resolver, or the name. connect: the network, a firewall, a server that is down or overloaded. "
        "tls: what listens there. proxy: the proxy.",
        (
            Case(
                "The resolver does not answer in time.",
                "price",
                partial(worlds.name, answer(), 1.2, "127.0.0.1"),
                "ConnectTimeout\n",
                Found("dns_timeout", 1, numbers={"phase": "dns", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=("httpx asyncio", "httpx2 trio"),
                finds=1,
                search=Search("httptrace.failed_phase=dns"),
            ),
            Case(
                "Nobody answers the connect.",
                "price",
                worlds.unreachable,
                "ConnectTimeout\n",
                Found("connect_timeout", 1, numbers={"phase": "connect", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
            ),
            Case(
                "The proxy accepts, and never answers: that is a ReadTimeout, before there was anything to read.",
                "download",
                worlds.silent_proxy,
                "ReadTimeout after 0 bytes\n",
                Found("proxy_timeout", 1, numbers={"phase": "proxy", "longest": AtLeast(0.2)}),
                arguments=("0", "0.3"),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=proxy"),
            ),
            Case(
                "The server accepts, and never says a word of TLS.",
                "price",
                worlds.silent,
                "ConnectTimeout\n",
                Found("tls_timeout", 1, numbers={"phase": "tls", "longest": AtLeast(0.2)}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=tls"),
            ),
        ),
        (
            Case(
                "The connection is refused at once.",
                "price",
                worlds.refused,
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "connect", "cause": "ECONNREFUSED"}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
            ),
            Case(
                "There is no such name, as the resolver says at once.",
                "price",
                partial(worlds.no_name, 0, socket.EAI_NONAME),
                "ConnectError\n",
                Found("failed", 1, numbers={"phase": "dns", "cause": "EAI_NONAME"}),
                arguments=("0.3",),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=dns"),
            ),
            Case(
                "The connection is there, and the answer is late.",
                "price",
                partial(worlds.serving, worlds.after(0.5, answer())),
                "200\n" * 3,
                arguments=("0.3",),
            ),
        ),
        guide=Guide(
            (
                "fails: `ConnectTimeout`, and it is not clear what timed out",
                'fails: `ConnectError`, "Connection refused"',
                'fails: `ConnectError`, "Name or service not known", "No address associated with hostname"',
                "fails: `ReadTimeout` before anything was sent, through a proxy",
            ),
            Search("httptrace.failed_phase=connect"),
            (
                'sum by (server_address, httptrace_failed_phase) (rate(httptrace_requests_total{job="$service", '
                'httptrace_failed_phase=~"dns|connect|proxy|tls"}[5m]))',
                'sum by (httptrace_failed_phase, error_type) (rate(traces_span_metrics_calls_total{job="$service", '
                'span_kind="SPAN_KIND_CLIENT", httptrace_failed_phase=~"dns|connect|proxy|tls"}[5m]))',
            ),
            "`httptrace.failed_phase` says where it struck: `dns`, `connect`, `proxy` or `tls`. The times of the phases before are "
            "there too. `ConnectTimeout` (behind a proxy also `ReadTimeout`): the failed phase is about as long as the timeout. "
            "`ConnectError`: somebody said no, mostly at once, and `error.type` of the child span is more exact: on `http.connect` "
            "`connection_refused` if nothing listens on that port, on `http.dns` `host_not_found` if there is no such name. In the "
            "phase `tls` it is mostly the certificate. `ProxyError`: the proxy refused.",
            "httpx has one timeout for all that it takes to connect, and the exception does not say which part it was. Async "
            "clients apply it to the lookup too; a sync client waits for the resolver, however long that takes (story 7). A "
            "connection that is refused: the server is down or restarting, or it is the wrong port. An unknown name: a typing "
            "error, a search domain, a service that is not there any more.",
            "The same timeout in all phases of all servers: look at this host's CPU first.",
            "Without an error it was given up by the caller: story 13. What is refused at once is `failed` in the report, with its cause.",
            kept=True,
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
                Found("client_per_request", 4, numbers={"clients": 4, "within_a_minute": 4}),
                runs=SOME,
                finds=3,
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
                finds=3,
            ),
            Case(
                "One client for each of four origins.",
                "notify",
                partial(worlds.several, 4),
                f"{[200] * 16}\n",
                arguments=("--by-origin",),
            ),
        ),
        guide=Guide(
            (
                "slow: each call takes 25 to 100 ms more than the server says",
                "load: CPU in `ssl.create_default_context` or in TLS handshakes",
            ),
            Search("httptrace.conn.open_reason=new_client"),
            (_opened("new_client"),),
            "Requests that opened a connection in a new pool, while another client of the same process had already connected to "
            "that server. `httptrace.time.connect` and `.tls` is what each paid; building a client costs some 25 ms of CPU "
            "for certificates on top, which no span shows.",
            "A client for each call: `httpx.get(...)`, or `with httpx.Client()` inside the function that is called.",
            "One `httpx.Client` for the process, or one `AsyncClient` for the event loop, made at start and handed around.",
            "A new client now and then, for a batch of requests each, is found too and is no harm: look at the rate.",
            kept=True,
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
                finds=1,
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
        guide=Guide(
            (
                "slow: calls stall for the connect timeout, or for 250 ms, and then work",
                "slow: only where a host has IPv6 and IPv4 addresses",
            ),
            Search("network.type=ipv4", "http.connect", "fallback"),
            (
                _slowest(
                    "traces_span_metrics_duration_seconds",
                    "le",
                    "$fallback",
                    'span_name="http.connect", span_kind="SPAN_KIND_INTERNAL"',
                ),
            ),
            "`http.connect` ended on an IPv4 address (`network.peer.address`) and took long. `dns.answers` of `http.dns` beside it "
            "begins with an IPv6 address: that was tried first, and did not answer.",
            "The host, or the network between, drops IPv6. asyncio and trio try the next address after 250 ms; the sync client only "
            "after the connect timeout.",
            "",
            "A slow connect to a far or busy server over IPv4 is found too, hence the look at `dns.answers`. PromQL does not even "
            "know the family.",
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
                Found(
                    "tls_slow",
                    1,
                    numbers={"longest": AtLeast(0.3), "details": "version 1.3, not resumed"},
                    sure=Sure.LIKELY,
                ),
                arguments=("5",),
                thresholds=scaled(tls=0.3),
                runs=SOME,
                finds=1,
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
        guide=Guide(
            ("slow: since a certificate or a load balancer was changed, on new connections only",),
            Search("", "http.tls", "tls"),
            (
                _slowest(
                    "traces_span_metrics_duration_seconds",
                    "le",
                    "$tls",
                    'span_name="http.tls", span_kind="SPAN_KIND_INTERNAL"',
                ),
            ),
            "The child span `http.tls` is long, `http.connect` beside it is short: so it is not the network. "
            "`tls.protocol.version`, `tls.cipher` and `tls.resumed` are what was agreed upon.",
            "The server is short of CPU for handshakes, its chain got long or its key large, or it asks somebody else first "
            "(OCSP, a client certificate).",
            "Reused connections have no handshake: `http.conn.reused` = `true` on most requests makes this a matter of the first.",
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
                Found("body_slow_server", 1, numbers={"read_wait": AtLeast(0.3)}, sure=Sure.POSSIBLE),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
                finds=1,
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
                finds=1,
            ),
        ),
        (
            Case(
                "The first byte takes 0.6 s: the server is slow indeed.",
                "download",
                partial(worlds.serving, worlds.after(0.6, answer())),
                "all 5 bytes\n",
                Found("server_slow", 1, numbers={"longest": AtLeast(0.5)}, sure=Sure.LIKELY),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
                also_searched=1,
                also_counted=True,
            ),
        ),
        guide=Guide(
            (
                'slow: 30 s for a call; "the server is slow", and its owner denies it',
                "slow: response headers come at once, and then it takes long",
            ),
            Search("httptrace.body.outcome=complete", "", "receive"),
            (
                _slowest(
                    "traces_span_metrics_duration_seconds",
                    "le",
                    "$receive",
                    'span_kind="SPAN_KIND_CLIENT", httptrace_body_outcome="complete"',
                ),
            ),
            "`httptrace.time.receive` is from the headers to the end of the body, `httptrace.body.read_wait` its part spent waiting "
            "for bytes. Nearly equal: the server or the network trickles. Much less: our own code reads slowly. "
            "`httptrace.time.wait` is the time to the first byte.",
            "A body that is made while it is sent, a narrow network; or a loop over `iter_bytes()` that does other work for "
            "each part, or an event loop that is blocked.",
            "A slow server: ask its owner, with the trace. Slow reading: take the body first, work on it after.",
            "Jaeger and PromQL see the whole request, so a slow first byte is found too: look at `httptrace.time.wait`. With "
            "`OTEL_PYTHON_HTTPTRACE_SPANS=all` there is a span `http.receive` to search for by its duration.",
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
                finds=1,
            ),
            Case(
                "The user leaves before there is an answer.",
                "export",
                partial(worlds.serving, worlds.until_left(b"")),
                "",
                Found("cancelled_in", 1, numbers={"phase": "wait", "connections_lost": 1}),
                arguments=("--leaves-early",),
                runs=("httpx asyncio", "httpx2 trio"),
                query="{ span.httptrace.failed_phase != nil && status != error }",
                finds=1,
                search=Search("httptrace.conn.close_reason=request_cancelled"),
            ),
        ),
        (
            Case(
                "Nobody leaves, but the client's own read timeout strikes: that is a failure.",
                "download",
                partial(worlds.serving, worlds.until_left(head("Content-Length: 1000") + b"x" * 500)),
                "ReadTimeout after 500 bytes\n",
                Found(
                    "body_failed",
                    1,
                    numbers={"error": "ReadTimeout", "bytes_read": 500, "size": 1000},
                ),
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
        guide=Guide(
            (
                "fails: users gave up, and the trace shows a green 60 ms",
                "load: new connections whenever users leave or deadlines strike",
            ),
            Search("httptrace.body.outcome=cancelled"),
            (
                'sum by (server_address) (rate(httptrace_connections_closed_total{job="$service", '
                'httptrace_conn_close_reason="request_cancelled"}[5m]))',
                "sum by (httptrace_failed_phase, httptrace_body_outcome) ("
                'rate(traces_span_metrics_calls_total{job="$service", span_kind="SPAN_KIND_CLIENT", '
                'httptrace_failed_phase!="", error_type=""}[5m]) '
                'or rate(traces_span_metrics_calls_total{job="$service", span_kind="SPAN_KIND_CLIENT", '
                'httptrace_body_outcome="cancelled"}[5m]))',
            ),
            "Before the headers: `httptrace.failed_phase` without an error. In the body: `httptrace.body.outcome` = `cancelled`, "
            "and `httptrace.body.bytes_read` how far it came. `httptrace.conn.close_reason` = `request_cancelled` where the "
            "connection was lost with it.",
            "The task was cancelled: the caller of the service left, or `asyncio.timeout` struck. That is nobody's failure, "
            "so the span has no error.",
            "Look at what took so long up to then: the phases are there.",
            "Jaeger cannot ask for spans without an error; the close reason, which it can ask for, is there only where a connection "
            "was lost: not over HTTP/2, and not while waiting for the pool.",
            kept=True,
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
                finds=1,
            ),
            Case(
                "The connection is reset after half of the body.",
                "download",
                partial(worlds.serving, worlds.half(1000, worlds.reset)),
                "ReadError after 500 bytes\n",
                Found("body_failed", 1, numbers={"error": "ReadError", "bytes_read": 500, "size": 1000}),
                runs=SOME,
                finds=1,
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
        guide=Guide(
            (
                'fails: the response broke off half-way, "peer closed connection without sending complete message body"',
                "fails: the trace says 200 OK in 2 ms, the program says `ReadError` or `ReadTimeout`",
            ),
            Search("httptrace.body.outcome=failed"),
            (
                'sum by (server_address) (rate(httptrace_bodies_total{job="$service", httptrace_body_outcome="failed"}[5m]))',
            ),
            "`httptrace.body.bytes_read` of `http.response.body.size` bytes had come after `httptrace.time.receive`. `error.type`: "
            "`RemoteProtocolError` was closed, `ReadError` reset, `ReadTimeout` came to nothing more.",
            "The status was sent before the body was made. What makes or carries the body was ended: a worker killed or out of "
            "time, a proxy's timeout, a deployment.",
            "Is the time or the size always the same? Then it is somebody's limit.",
            kept=True,
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
                finds=3,
            ),
        ),
        (
            Case(
                "The client itself lets idle connections go after 0.2 s.",
                "bursts",
                partial(worlds.serving, answer()),
                "[200, 200, 200]\n" * 4,
                Found("keepalive_expired", 3, numbers={"opened": 4, "because": 3}),
                arguments=("0.2",),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                "load: each burst of requests begins with new connections",
                "slow: the first calls after a pause",
            ),
            Search("httptrace.conn.open_reason=server_closed"),
            (_opened("server_closed"),),
            "Requests that opened a connection because the server had closed the idle one. How long it was idle is on no span: "
            "look at the request before on the same server. The `http_client_connection_duration_seconds` of "
            "`httptrace_conn_close_reason` = `server_closed` is how long such connections lived.",
            "The server's keep-alive time is shorter than the pause between bursts.",
            "Harmless in itself; but each is a chance for story 6, so set `keepalive_expiry` below the server's anyway.",
        ),
    ),
)
