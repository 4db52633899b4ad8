"""What a server tells of clients, whoever they are: connections that are not kept, and who ends them."""

from __future__ import annotations

from otel_httptrace.report.findings import Sure

from ..servers import (
    ServerCase,
    ServerStory,
    asks,
    blocked_by_another,
    client_per_request,
    closes_unread,
    comes_a_moment_too_late,
    comes_in_time,
    fails,
    idles_not_too_long,
    idles_too_long,
    leaves,
    one_at_a_time_in_a_burst,
    reads_and_keeps,
    search,
    slow_itself,
)
from ..story import Found, Guide, Search, scaled

#: Ten connections are enough to be told.
TEN = scaled(peer_connections=10)
KEEPING = ("uvicorn-httptools", "uvicorn-h11", "hypercorn")


def closed(reason: str) -> str:
    """Connections that ended for this reason, each second, by peer."""
    return f'sum by (network_peer_address) (rate(httptrace_server_connections_closed_total{{job="$service", httptrace_server_conn_close_reason="{reason}"}}[5m]))'


REUSE = (
    'sum by (network_peer_address) (rate(httptrace_server_requests_total{job="$service"}[5m])) '
    '/ sum by (network_peer_address) (rate(httptrace_server_connections_opened_total{job="$service"}[5m])) < 1.5'
)
REASONS = (
    'sum by (httptrace_server_conn_close_reason) (rate(httptrace_server_connections_closed_total{job="$service"}[5m]))'
)

SERVERS = (
    ServerStory(
        41,
        "My clients do not reuse connections",
        "{ span.http.conn.reused = false && span.httptrace.server.conn.id > 0 }",
        "`network.peer.address`: whose; `httptrace.server.conn.close_reason`, and on the next one "
        "`httptrace.server.lost.close_reason`: who closed the connection before, and why",
        "Look at that client: let it read its responses to their end, and share one client object.",
        (
            ServerCase(
                "Twelve responses are closed before they are read, as in Go without io.Copy.",
                closes_unread,
                KEEPING,
                Found(
                    "clients_do_not_reuse", 12, numbers={"single": 12, "ended": {"client_left": 12}}, sure=Sure.LIKELY
                ),
                "100 % of the connections from 127.0.0.1",
                thresholds=scaled(peer_connections=10, left=100),
                finds=12,
                event="The client left before this request was over",
            ),
            ServerCase(
                "A client for each of twelve requests.",
                client_per_request,
                ("uvicorn-httptools",),
                Found("clients_do_not_reuse", 12, numbers={"single": 12}, sure=Sure.LIKELY),
                "client_closed",
                thresholds=TEN,
                finds=12,
                event="the client had closed one before, which had carried 1 request",
            ),
        ),
        (
            ServerCase("One connection for all.", reads_and_keeps, KEEPING, thresholds=TEN, finds=1),
            ServerCase(
                "Twelve at once: each needs a connection.",
                one_at_a_time_in_a_burst,
                ("uvicorn-httptools",),
                thresholds=TEN,
                finds=12,
            ),
        ),
        Guide(
            (
                "load: the server accepts as many connections as it gets requests; TIME_WAIT, TLS handshakes, CPU",
                "slow: callers say 20 to 100 ms more than this server does, for each request",
            ),
            search(http__conn__reused="false"),
            (REUSE, REASONS),
            "`http.conn.reused` = false on nearly all requests of one `network.peer.address`. `httptrace.server.conn.close_reason` = "
            "`client_left`: it closed the connection while the response was under way. `httptrace.server.lost.close_reason` = "
            "`client_closed` on the next one: it closed it after the response.",
            "A client that does not read its responses to their end loses the connection (Go: `io.Copy(io.Discard, resp.Body)` before "
            "`resp.Body.Close()`; httpx: `response.read()`). Or it makes a client object for each request, or says "
            "`Connection: close`, or is a proxy that does not keep connections to its upstream.",
            'nginx: `keepalive` in the upstream, `proxy_http_version 1.1`, `proxy_set_header Connection ""`.',
            "Behind one address there may be many clients, each of which came once: the report says so.",
        ),
    ),
    ServerStory(
        42,
        "This server's keep-alive timeout loses requests",
        '{ span.httptrace.server.lost.close_reason = "keepalive_timeout" }',
        "`httptrace.server.lost.idle`: after how long it struck; `.lost.port`: `network.local.port` of the client's span",
        "Set the server's keep-alive above that of all its clients.",
        (
            ServerCase(
                "A request comes a moment after the timeout has closed its connection, and is sent again.",
                comes_a_moment_too_late,
                ("uvicorn-h11", "uvicorn-httptools"),
                Found("stale_keepalive", 1, numbers={"told": 1}),
                "the server says that its keep-alive timeout closed these connections, after ",
                {"keep_alive": 1},
                both=True,
                finds=1,
                event="this server's keep-alive timeout had closed one before",
            ),
            ServerCase(
                "A client that nobody has instrumented comes again after each timeout.",
                idles_too_long,
                ("uvicorn-httptools", "gunicorn-gthread", "hypercorn"),
                Found("keepalive_timeout_closes", 3),
                "this server's keep-alive timeout had closed one",
                {"keep_alive": 1},
                finds=3,
                event="this server's keep-alive timeout had closed one before",
            ),
        ),
        (
            ServerCase("The client closes its connections itself.", idles_not_too_long, ("uvicorn-httptools",)),
            ServerCase(
                "The requests come in time.", comes_in_time, ("uvicorn-h11",), options={"keep_alive": 1}, both=True
            ),
        ),
        Guide(
            (
                "fails: callers see a reset or `RemoteProtocolError` now and then, mostly after a quiet time; this server's log has nothing",
            ),
            search(httptrace__server__lost__close_reason="keepalive_timeout"),
            (closed("keepalive_timeout"),),
            "`httptrace.server.lost.close_reason` = `keepalive_timeout` on the first request of a connection: the one before was "
            "closed by this server's timer, after `httptrace.server.lost.idle` seconds. The spans of both ends together make it certain "
            "for each request that was lost.",
            "The client keeps connections for as long as the server, or longer. A request that it sends while the server closes finds no "
            "connection. uvicorn, hypercorn: 5 s; gunicorn: 2 s.",
            "uvicorn: `--timeout-keep-alive 75`; gunicorn: `--keep-alive 75`; hypercorn: `keep_alive_timeout`.",
        ),
    ),
    ServerStory(
        43,
        "This server keeps no connection",
        '{ span.httptrace.server.conn.close_reason =~ "worker_sync|connection_close" }',
        "`httptrace.server.conn.close_reason`; `network.protocol.version`",
        "gunicorn: --worker-class gthread; take Connection: close out of the answers.",
        (
            ServerCase(
                "gunicorn's sync worker.",
                asks("/ok"),
                ("gunicorn-sync",),
                Found("server_keeps_none", 12, numbers={"why": "worker_sync"}),
                "gunicorn's sync worker never keeps a connection",
                thresholds=TEN,
                finds=12,
            ),
            ServerCase(
                "Each answer says Connection: close.",
                asks("/close"),
                ("uvicorn-httptools",),
                Found("server_keeps_none", 12, numbers={"why": "connection_close"}, sure=Sure.LIKELY),
                "each answer ends with Connection: close",
                thresholds=TEN,
                finds=12,
            ),
            ServerCase(
                "HTTP/1.0, as nginx speaks it to its upstreams unless told otherwise.",
                asks("/ok", 12, version="1.0"),
                ("uvicorn-h11",),
                Found("server_keeps_none", 12, numbers={"why": "http/1.0"}),
                "the requests are HTTP/1.0 (from 127.0.0.1)",
                thresholds=TEN,
                finds=12,
            ),
        ),
        (ServerCase("gunicorn's gthread worker.", reads_and_keeps, ("gunicorn-gthread",), thresholds=TEN),),
        Guide(
            ("load: every client opens a connection for each request, whatever it does",),
            search(httptrace__server__conn__close_reason="worker_sync"),
            (closed("worker_sync"), closed("connection_close")),
            "`worker_sync`: gunicorn's default worker closes each connection after its first response. `connection_close`: an answer, or "
            "its request, says so, or it was HTTP/1.0 (`network.protocol.version`).",
            "The worker class, a keep-alive of 0, a header that a framework or a middleware adds, or a proxy that speaks HTTP/1.0.",
            "Behind a proxy that keeps its clients' connections a sync worker costs little: a connect on the loopback.",
            "A client that asks for `Connection: close` looks alike: then only its requests are so.",
            rows=(search(httptrace__server__conn__close_reason="connection_close"),),
        ),
    ),
    ServerStory(
        44,
        "Clients leave before the response is over",
        '{ span.httptrace.server.conn.close_reason = "client_left" }',
        "the span's duration: always the same is a timeout; `network.peer.address`",
        "Look at that client: its timeout, its user, or a response that it does not read.",
        (
            ServerCase(
                "Three responses are left half-way.",
                leaves,
                ("uvicorn-httptools", "gunicorn-asgi"),
                Found("clients_left", 3, sure=Sure.LIKELY),
                "3 of 6 requests from 127.0.0.1",
                finds=3,
                event="The client left before this request was over",
            ),
        ),
        (ServerCase("All are read.", reads_and_keeps, ("uvicorn-httptools",)),),
        Guide(
            ("fails: users see nothing, or a timeout; this server says 200",),
            search(httptrace__server__conn__close_reason="client_left"),
            (closed("client_left"),),
            "`httptrace.server.conn.close_reason` = `client_left`: the client's end came while the response was under way. The span may "
            "say 200.",
            "The client's timeout is shorter than the answer takes; its user has left; or it closes responses that it does not read.",
            "",
            "A proxy or load balancer between that gives up looks alike.",
        ),
    ),
    ServerStory(
        45,
        "Each failure of the application costs its caller the connection",
        '{ span.httptrace.server.conn.close_reason = "error" }',
        "the span's exception",
        "Answer errors (an exception handler) instead of letting them reach the server.",
        (
            ServerCase(
                "Three requests fail, and their connections are closed.",
                fails("/fail-mid"),
                ("uvicorn-httptools", "gunicorn-gthread"),
                Found("server_failed", 3),
                "3 of 3 requests",
                finds=3,
                event="the application failed",
            ),
            ServerCase(
                "hypercorn allows a connection one request.",
                asks("/ok", 3),
                ("hypercorn",),
                Found("server_retires", 3, numbers={"why": "max_requests"}),
                "as many requests as they may",
                {"keep_alive_max_requests": 1},
                finds=0,
            ),
        ),
        (ServerCase("All is well.", reads_and_keeps, ("gunicorn-gthread",)),),
        Guide(
            ("fails: 500, and with it callers' `RemoteProtocolError` or a reset on other requests",),
            search(httptrace__server__conn__close_reason="error"),
            (closed("error"), closed("max_requests"), closed("shutdown")),
            "`error`: an exception of the application reached the server, which closes the connection. `max_requests`, `shutdown`: a "
            "limit, or a worker that was told to stop.",
            "An exception that nobody handles. On HTTP/2 it costs all requests on the connection.",
        ),
    ),
    ServerStory(
        46,
        "The server's span is 40 ms of the client's 900",
        "{ span.httptrace.time.wait > $between }",
        "the server's span below it: how long it is, and `httptrace.server.conn.age` of a new connection",
        "Look at what comes before the handler: accept backlog, workers, a blocked event loop; at proxies; at the network.",
        (
            ServerCase(
                "Another request blocks the server's event loop.",
                blocked_by_another,
                ("uvicorn-httptools",),
                Found("time_between", 1, sure=Sure.LIKELY),
                "the server's own span of it is",
                both=True,
                finds=2,
            ),
        ),
        (ServerCase("The handler takes as long itself.", slow_itself, ("uvicorn-httptools",), both=True, finds=1),),
        Guide(
            ('slow: "your API is slow", and its own dashboard says 40 ms',),
            Search("span.kind=client", longer="between"),
            (
                'histogram_quantile(0.99, sum by (le) (rate(traces_span_metrics_duration_seconds_bucket{job="$service", span_kind="SPAN_KIND_CLIENT"}[5m])))',
            ),
            "The client's `httptrace.time.wait` and the length of the server's span below it: two durations, each by a clock of its own. "
            "Where the rest was, the spans do not say: the report names what is left.",
            "Before its span a request waits in the accept backlog, for a worker or thread that is free, or for an event loop that is "
            "blocked; or in a proxy, or on the way.",
            "",
            "`shop` is the client here. No backend compares two spans: what is found is slow for its client, whoever is to blame.",
        ),
    ),
)
