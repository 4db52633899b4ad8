"""Connections that are lost, or never shared: the pool, its limits, and how responses are left."""

from __future__ import annotations

from functools import partial

from kit.server import answer

from otel_httptrace.report.findings import Sure

from .. import worlds
from ..story import ALL, SOME, AtLeast, Case, Found, Guide, Search, Story, lines, opened, scaled, slowest

_TWENTY = partial(worlds.serving, worlds.together(5, answer(worlds.MUCH[:300_000])), host="localhost")
_SEEN = answer(b"old news", 'ETag: "seen"')
_ANSWERS = "It is so.\n" * 4

CONNECTIONS = (
    Story(
        1,
        "Thousands of lookups a second, and the DNS server at its limit",
        '{ span.httptrace.conn.open_reason = "body_not_read" }',
        "`httptrace.conn.lost_at`: the line; the linked span is the request that lost it",
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
                says=r"^Opened a new connection because of warm_up(_async)?\.py:\d+ in touch, ",
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
            (opened("body_not_read"), lines('httptrace_conn_close_reason="body_not_read"')),
            "Requests that had to open a connection, and what that cost each: `httptrace.time.dns`, `.connect`, `.tls`. "
            "`httptrace.conn.lost_at` is the line that lost the connection before. The link `connection_lost_by` leads to the request "
            "that did: `httptrace.body.closed_at` there is the same line, `httptrace.body.bytes_read` of `http.response.body.size` is how far it had read.",
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
        "`httptrace.conn.lost_at`: the line; the response of the linked span is `text/event-stream`",
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
                says=r"^Opened a new connection because of chat(_async)?\.py:\d+ in ",
            ),
            Case(
                "The end of the body came in the same packet as `[DONE]`, but nobody read on.",
                "chat",
                partial(worlds.serving, worlds.event_stream(terminator=0)),
                _ANSWERS,
                Found("body_not_read", 4, "closed here", {"lost": 4, "opened": 4, "anew": 3, "lookups": 0}),
                finds=3,
                says=r"^Opened a new connection because of chat(_async)?\.py:\d+ in ",
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
            (opened("body_not_read"), lines('httptrace_body_outcome="closed_early"')),
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
                says=r"^It took 1\.\d s until the pool had a connection for this request; as the wait began the pool had 10 of at most 10",
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
                says=r"^The pool had no connection within 1\.\d s: PoolTimeout; fan_out(_async)?\.py:\d+ in price made the request that has "
                r"held one for longest, ",
            ),
            Case(
                "The same with 1.2 s for all, and each answer closes its connection: waiting requests dial.",
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
                says=r"^It took [123]\.\d s until the pool had a connection",
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
            (slowest("http_client_request_time_in_queue_seconds", "le, server_address", "$pool_wait"),),
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
        "`httptrace.pool.held_at`, `httptrace.pool.held_for`; the links `pool_held_by` lead to all who hold it",
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
                says=r"^The pool had no connection within .+: PoolTimeout; poll(_async)?\.py:\d+ in news made the request that has held one",
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
                says=r"^The pool had no connection within .+: PoolTimeout; poll(_async)?\.py:\d+ in news made the request that has held one",
            ),
            Case(
                "The same, but the program is killed: the responses that hold the pool have no spans.",
                "poll",
                partial(worlds.serving, _SEEN),
                "nothing new\n" * 5 + "PoolTimeout\n" * 3,
                Found(
                    "responses_never_closed",
                    3,
                    "opened here",
                    {"responses": 5, "pool_timeouts": 3},
                    Sure.POSSIBLE,
                ),
                arguments=("--keep", "--killed"),
                unseen=5,
                environ=(("OTEL_BSP_SCHEDULE_DELAY", "200"),),
                finds=3,
                says=r"^The pool had no connection within .+: PoolTimeout; poll\.py:\d+ in news made the request that has held one",
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
                lines('httptrace_body_outcome="never_closed"'),
            ),
            "`httptrace.pool.held_at` is the line that made the oldest request that holds the pool, `httptrace.pool.held_for` for how "
            "long; the first is absent where the client's own `get()` or `request()` made it, which closes by itself. "
            "The links `pool_held_by` lead to the requests that hold the pool, at most 8, oldest first. The span of such a request "
            "is sent only when its response is over: collected as garbage, or at the end of the process. Then it has "
            "`httptrace.body.outcome` = `never_closed`, and `httptrace.body.closed_at` is the line that made the request. "
            "Until then only metrics know: `httptrace_responses_open`, and `httptrace_responses_open_max_age_seconds`, "
            "which grows with the clock.",
            "A response that was asked for with `stream=True` is never closed on some path: an early return, an exception, a cache "
            "hit. It keeps its connection; when all are kept, no request gets one any more.",
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
                "Six workers, and a pool that keeps five connections alive; the answers to all six come together.",
                "crawl",
                partial(worlds.serving, worlds.in_rounds(6, 16, answer())),
                "100 pages\n",
                Found("keepalive_limit_too_low", None),
                runs=("httpx sync", "httpx trio"),
                finds=None,
                says=r"the one before had been dropped, as the pool keeps no more than 5 \(max_keepalive_connections\)",
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
            (opened("keepalive_limit"),),
            "Requests that opened a connection although there had been idle ones: these had been dropped over "
            "`max_keepalive_connections`. Those that dropped them have `httptrace.conn.close_reason` = `keepalive_limit`.",
            "`max_keepalive_connections`, 20 unless set, is below the concurrency. httpx keeps so many idle connections and closes "
            "the others after each request; httpcore up to 1.0.9 even counts busy ones as if they were idle.",
        ),
    ),
    Story(
        9,
        "Each call takes 25 to 100 ms more than the server says",
        '{ span.httptrace.conn.open_reason = "new_client" }',
        "`httptrace.client.made_at`: where the client is made; and how many per minute",
        "Share one client.",
        (
            Case(
                "A client for each of four calls.",
                "notify",
                partial(worlds.several, 1),
                "[200, 200, 200, 200]\n",
                Found("client_per_request", 4, "made here", {"clients": 4, "within_a_minute": 4}),
                runs=SOME,
                finds=3,
                says=r"^Opened a new connection, which took [^:]+: the client made at notify(_async)?\.py:\d+ in notify is ",
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
            (opened("new_client"),),
            "Requests that opened a connection in a new pool, while another client of the same process had already connected to "
            "that server. `httptrace.client.made_at` is the line that made the client. `httptrace.time.connect` and `.tls` is what each paid; building a client costs some 25 ms of CPU "
            "for certificates on top, which no span shows.",
            "A client for each call: `httpx.get(...)`, or `with httpx.Client()` inside the function that is called.",
            "One `httpx.Client` for the process, or one `AsyncClient` for the event loop, made at start and handed around.",
            "A new client now and then, for a batch of requests each, is found too and is no harm: look at the rate.",
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
                says=r"the server had closed the one before while it was idle",
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
            (opened("server_closed"),),
            "Requests that opened a connection because the server had closed the idle one. How long it was idle is on no span: "
            "look at the request before on the same server. The `http_client_connection_duration_seconds` of "
            "`httptrace_conn_close_reason` = `server_closed` is how long such connections lived.",
            "The server's keep-alive time is shorter than the pause between bursts.",
            "Harmless in itself; but each is a chance for story 6, so set `keepalive_expiry` below the server's anyway.",
        ),
    ),
)
