"""Requests and responses that are slow, or break."""

from __future__ import annotations

from functools import partial

from kit.server import answer, head

from otel_httptrace.report.findings import Sure

from .. import worlds
from ..story import ALL, ASYNC, SOME, AtLeast, Case, Found, Guide, Search, Story, scaled, slowest

#: Where the server sees a request and closes at once, which may be late on a machine that has other things to do.
_HELD_UP = scaled(crossed=2.0)

EXCHANGES = (
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
                thresholds=_HELD_UP,
                runs=ALL,
                finds=1,
                says=r"^No response could be read from connection 1 .+ had been idle for \d+ ms, after 2 requests",
            ),
            Case(
                "The same, and it resets the connection: that is a ReadError.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.no_answer_but_reset)),
                "200\n200\nReadError: [Errno 104] Connection reset by peer\n200\n",
                Found("stale_keepalive", 1, numbers={"idle": AtLeast(0.4)}, sure=Sure.LIKELY),
                arguments=("0.5",),
                thresholds=_HELD_UP,
                runs=("httpx sync", "httpx2 sync"),
                finds=1,
                search=Search("http.conn.reused=true httptrace.failed_phase=wait error.type=ReadError"),
                says=r"ReadError \(ECONNRESET\).* had been idle for \d+ ms, after 2 requests",
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
                also_counted=1,
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
        12,
        '"The server is slow": 30 s for a call',
        "{ span.httptrace.time.receive > $receive }",
        "`httptrace.body.read_wait`: how much of it was spent waiting for bytes",
        "Ask who was waited for: the server's body, our own code, or the first byte.",
        (
            Case(
                "The body trickles for 1.2 s.",
                "download",
                partial(worlds.serving, worlds.trickle(1.2, 6)),
                "all 600 bytes\n",
                Found("body_slow_server", 1, numbers={"read_wait": AtLeast(0.6)}, sure=Sure.LIKELY),
                thresholds=scaled(receive=0.3, wait=0.5, gap=0.1),
                runs=SOME,
                finds=1,
                says=r"The body took 1\.\d s from the headers to its end, 600 bytes; [1-9].* s of that were spent waiting",
            ),
            Case(
                "The body is there at once, and our code takes 0.2 s for each part.",
                "download",
                partial(worlds.serving, answer(worlds.MUCH[:400_000])),
                "all 400000 bytes\n",
                Found("body_slow_consumer", 1, numbers={"longest": AtLeast(0.6)}),
                arguments=("0.2",),
                thresholds=scaled(receive=0.3, wait=0.5),
                runs=SOME,
                finds=1,
                says=r"The body took \d\.\d s from the headers to its end, .+ (?:ms|µs) of that were spent waiting for bytes",
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
                also_counted=1,
            ),
        ),
        guide=Guide(
            (
                'slow: 30 s for a call; "the server is slow", and its owner denies it',
                "slow: response headers come at once, and then it takes long",
            ),
            Search("httptrace.body.outcome=complete", "", "receive"),
            (
                slowest(
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
                says=r"^Cancelled in the body, after 500 bytes of 1000 bytes, .+; connection 1 was lost with it",
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
                says=r"^Cancelled while it waited for the response, for .+; connection 1 was lost with it",
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
                says=r"^The body broke off after 500 bytes of 1000 bytes, .+: RemoteProtocolError",
            ),
            Case(
                "The connection is reset after half of the body.",
                "download",
                partial(worlds.serving, worlds.half(1000, worlds.reset)),
                "ReadError after 500 bytes\n",
                Found("body_failed", 1, numbers={"error": "ReadError", "bytes_read": 500, "size": 1000}),
                runs=SOME,
                finds=1,
                says=r"^The body broke off after 500 bytes of 1000 bytes, .+: ReadError \(ECONNRESET\)",
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
)
