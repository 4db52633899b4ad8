"""Requests that break or stall though nothing is wrong with the dial: HTTP itself, dead connections, this program."""

from __future__ import annotations

from functools import partial

from kit.server import answer

from otel_httptrace.report.findings import Sure

from .. import worlds
from .. import worlds_protocol as wp
from ..story import SOME, AtLeast, Case, Found, Guide, Search, Story, scaled, slowest

#: A timeout that strikes late on a busy machine is no part of these stories.
_PATIENT = scaled(stall=1.0)
_LOOP = ("httpx asyncio", "httpx2 trio")
_REPORTS = "/ping 200\n/report {0}\n/ping 200\n/report {0}\n/ping 200\n"
_THIRD = "200\n200\nRemoteProtocolError: {0}\n200\n"
_GONE = "Server disconnected without sending a response."
_BURSTS = "[200, 200, 200]\n" * 4


def failures(selected: str, by: str = "server_address") -> str:
    """Requests that failed so, each second."""
    return f'sum by ({by}) (rate(httptrace_requests_failed_total{{job="$service", {selected}}}[5m]))'


PROTOCOL = (
    Story(
        16,
        "Over HTTP/2 some requests fail with StreamReset, and the next one on the same connection is fine",
        '{ span.error.type = "RemoteProtocolError" && span.httptrace.failed_cause =~ '
        '"INTERNAL_ERROR|REFUSED_STREAM|CANCEL|ENHANCE_YOUR_CALM|STREAM_CLOSED|FLOW_CONTROL_ERROR|HTTP_1_1_REQUIRED" }',
        "`httptrace.failed_cause`: the server's reason; `httptrace.conn.id`: the connection lived on",
        "Look at the server's log for these requests; the connection is not to blame.",
        (
            Case(
                "The server resets the stream of each report (INTERNAL_ERROR), 0.3 s after the request before.",
                "reports",
                partial(wp.http2, report=wp.stream_reset),
                _REPORTS.format("RemoteProtocolError"),
                Found("http2_stream_reset", 2, numbers={"codes": ["INTERNAL_ERROR"]}),
                runs=SOME,
                finds=2,
                says=r"RemoteProtocolError \(INTERNAL_ERROR\)",
            ),
        ),
        (
            Case(
                "The server answers.",
                "reports",
                wp.http2,
                _REPORTS.format(200),
            ),
            Case(
                "The server retires the connection (GOAWAY) instead: all that was on it is lost.",
                "reports",
                partial(wp.http2, report=wp.retired),
                _REPORTS.format("RemoteProtocolError"),
                Found("http2_goaway", 2),
                runs=SOME,
            ),
        ),
        guide=Guide(
            ("fails: `RemoteProtocolError`, `StreamReset` in its text, on some paths or under load",),
            Search("error.type=RemoteProtocolError httptrace.failed_cause=INTERNAL_ERROR"),
            (
                failures(
                    'httptrace_failed_cause=~"INTERNAL_ERROR|REFUSED_STREAM|CANCEL|ENHANCE_YOUR_CALM|STREAM_CLOSED|'
                    'FLOW_CONTROL_ERROR|HTTP_1_1_REQUIRED"',
                    "server_address, httptrace_failed_cause",
                ),
            ),
            "`httptrace.failed_cause` is the code that the server sent for the stream. There is no `httptrace.conn.close_reason`: the "
            "connection stayed, and requests with the same `httptrace.conn.id` went well before and after.",
            "The server, or a proxy in front of it, gave up that one request: its handler died (`INTERNAL_ERROR`), it was not begun "
            "(`REFUSED_STREAM`: it may be sent again), or there were too many (`ENHANCE_YOUR_CALM`).",
            "`keepalive_expiry` has no part in it.",
            "Jaeger finds one code at a time.",
            rows=(Search("error.type=RemoteProtocolError httptrace.failed_cause=REFUSED_STREAM"),),
            kept=True,
        ),
    ),
    Story(
        17,
        "A response that cannot be parsed",
        '{ span.error.type = "RemoteProtocolError" && span.httptrace.response.bytes_received > 0 }',
        "`httptrace.response.bytes_received`: so much had come; the exception's text has the line",
        "Look at what the server, or a proxy, sent: the exception's text, or tcpdump.",
        (
            Case(
                "A header without a colon, in answer to a request on a connection that was idle for half a second.",
                "audit",
                partial(worlds.serving, wp.on((3,), wp.says(b"HTTP/1.1 200 OK\r\nContent-Length 5\r\n\r\nhello"))),
                _THIRD.format("illegal header line: bytearray(b'Content-Length 5')"),
                Found("malformed_response", 1, numbers={"bytes_received": 42}, sure=Sure.LIKELY),
                arguments=("0.5",),
                runs=SOME,
                finds=1,
                says=r"RemoteProtocolError; 42 bytes of a response had come",
            ),
            Case(
                "What answers is no HTTP server: it sends the line of another protocol, and closes.",
                "audit",
                partial(worlds.serving, wp.on((3,), wp.says(b"SSH-2.0-OpenSSH_9.6\r\n"))),
                _THIRD.format(_GONE),
                Found("malformed_response", 1, numbers={"bytes_received": 21}, sure=Sure.LIKELY),
                arguments=("0.5",),
                finds=1,
                says=r"RemoteProtocolError; \d+ bytes of a response had come",
            ),
        ),
        (
            Case(
                "Not one byte came: the idle connection was closed just then.",
                "audit",
                partial(worlds.serving, wp.on((3,), worlds.no_answer)),
                _THIRD.format(_GONE),
                Found("stale_keepalive", 1, sure=Sure.LIKELY),
                arguments=("0.5",),
                runs=SOME,
                also_searched=1,
                also_counted=1,
            ),
        ),
        guide=Guide(
            (
                'fails: `RemoteProtocolError`, "illegal header line", "illegal status line"',
                'fails: "Server disconnected without sending a response", and it had sent something',
            ),
            Search("error.type=RemoteProtocolError httptrace.failed_phase=wait"),
            (failures('httptrace_failed_phase="wait", error_type="RemoteProtocolError"'),),
            "`httptrace.response.bytes_received` is more than 0: an answer had begun.",
            "A header or a status line that is against the rules (a proxy's, or a program's that writes its own), another protocol "
            "on that port, or the rest of the answer before. Or the connection ended in the middle of the head: the client raises "
            "the same.",
            "",
            "Jaeger and PromQL cannot compare `httptrace.response.bytes_received`. Is it 0, it is story 6, or the server ended "
            "while it worked.",
            kept=True,
        ),
    ),
    Story(
        18,
        "After a pause a request gets no answer until it times out; without a pause all do",
        '{ span.http.conn.reused = true && span.error.type = "ReadTimeout" && span.httptrace.failed_phase = "wait" '
        "&& span.httptrace.conn.idle > $stale_idle }",
        "`httptrace.conn.idle`: those that failed were idle for longer than any that went well",
        "Set keepalive_expiry below the shortest idle time that failed, or TCP keep-alive.",
        (
            Case(
                "What has been idle for 0.8 s reaches nobody any more, and nobody says so.",
                "updates",
                partial(worlds.serving, wp.on((3, 6), worlds.silence)),
                "200\n200\nReadTimeout\n200\n200\nReadTimeout\n200\n",
                Found("connection_dead", 2, numbers={"idle": AtLeast(0.7)}, sure=Sure.LIKELY),
                arguments=("0.8", "2"),
                runs=SOME,
                thresholds=scaled(stall=1.0, stale_idle=0.6),
                finds=2,
                says=r"ReadTimeout; the timeout was 2\.0 s; 0 bytes of a response had come; .*had been idle for",
            ),
        ),
        (
            Case(
                "Requests that came without a pause get no answer either: that is the server.",
                "updates",
                partial(worlds.serving, wp.on((2, 4), worlds.silence)),
                "200\nReadTimeout\n200\nReadTimeout\n200\n200\n200\n",
                Found("server_slow", 2, numbers={"read_timeouts": 2}),
                arguments=("0.8", "2"),
                runs=SOME,
                thresholds=scaled(stall=1.0, stale_idle=0.6),
                also_searched=2,
                also_counted=2,
            ),
            Case(
                "Connections that were idle get their answers.",
                "updates",
                partial(worlds.serving, answer()),
                "200\n" * 7,
                arguments=("0.8", "2"),
                thresholds=scaled(stall=1.0, stale_idle=0.6),
            ),
        ),
        guide=Guide(
            ("fails: `ReadTimeout` on the first call after a pause, and the server never saw it",),
            Search("http.conn.reused=true error.type=ReadTimeout httptrace.failed_phase=wait"),
            (
                'sum by (error_type) (rate(traces_span_metrics_calls_total{job="$service", span_kind="SPAN_KIND_CLIENT", '
                'http_conn_reused="true", httptrace_failed_phase="wait", error_type="ReadTimeout"}[5m]))',
            ),
            "`httptrace.conn.idle` of those that failed is longer than of any that went well. `httptrace.tcp.unacked` above 0 "
            "with `httptrace.tcp.retransmits`: nothing arrived. With 0 something took the request in: a load balancer or proxy.",
            "A NAT, a firewall or a load balancer forgets connections that are silent (350 s at AWS, 240 s at Azure), and drops "
            "what comes on them later.",
            "TCP keep-alive does not help where a load balancer or proxy answers it itself.",
            "Jaeger and PromQL cannot compare `httptrace.conn.idle`: is it short, the server is slow. A server that sleeps when "
            "nobody asks looks the same; its access log tells.",
            kept=True,
        ),
    ),
    Story(
        19,
        "All that was under way timed out at once",
        "{ span.httptrace.stalled > $stall }",
        "`httptrace.stalled`: for how long at least this process did not run",
        "Look for what blocks the event loop: a synchronous library, time.sleep, heavy computation.",
        (
            Case(
                "A chart is drawn in the event loop for 4 s, while three requests with timeouts of 1.5 s look up a name.",
                "dashboard",
                partial(wp.uncounted, answer(), "localhost"),
                "tile ConnectTimeout\n" * 3,
                Found("process_stalled", 3, numbers={"failed": 3, "longest": AtLeast(1.0)}),
                arguments=("4",),
                runs=_LOOP,
                thresholds=_PATIENT,
                finds=3,
                stalls=True,
                says=r"this process did not get to run it for \d\.\d s",
            ),
        ),
        (
            Case(
                "It is drawn in a thread.",
                "dashboard",
                partial(worlds.serving, answer(), host="localhost"),
                "tile 200\n" * 3,
                arguments=("2", "--elsewhere"),
                runs=_LOOP,
                thresholds=_PATIENT,
            ),
            Case(
                "They time out together because they began together, and the server is silent: nobody stood still.",
                "dashboard",
                partial(worlds.serving, worlds.silence),
                "tile ReadTimeout\n" * 3,
                Found("server_slow", 3, numbers={"read_timeouts": 3}),
                arguments=("0",),
                also_counted=3,
                runs=_LOOP,
                thresholds=_PATIENT,
            ),
        ),
        guide=Guide(
            (
                "fails: `ConnectTimeout`, `ReadTimeout` or `PoolTimeout` of many requests at one instant, to all servers",
                "slow: every call is slow at the same moments, and the servers are bored",
            ),
            Search("error.type=ConnectTimeout"),
            (failures('error_type=~".*Timeout"', "server_address, error_type"),),
            "`httptrace.stalled`: the timeout struck so much later than `httptrace.timeout` says, or the answer lay there so long "
            "and nobody read it. Other requests of the process ended at the same moment.",
            "Something ran in the event loop and did not give way, or the process got no CPU: a limit of the container's, a "
            "machine that swaps.",
            "asyncio's debug mode (`PYTHONASYNCIODEBUG=1`) names the callback that took long; move such work to a thread.",
            "Jaeger and PromQL cannot compare `httptrace.stalled`: they find all timeouts.",
            rows=(Search("error.type=PoolTimeout"), Search("error.type=ReadTimeout")),
            kept=True,
        ),
    ),
    Story(
        20,
        "The stream ends in an exception of our own, or the body cannot be decoded; the trace says 200",
        "{ span.httptrace.body.closed_by != nil }",
        "`httptrace.body.closed_by`, the exception's class, and `httptrace.body.closed_at`",
        "Look at that line: the server and the network have done their part.",
        (
            Case(
                "The body says that it is compressed, and is not: DecodingError.",
                "digest",
                partial(worlds.serving, wp.UNDECODABLE),
                "DecodingError\n" * 3,
                Found("application_failed", 3, "the loop", {"error": "DecodingError"}),
                runs=SOME,
                finds=3,
                says=r"^Connection 1 was lost at digest(_async)?\.py:\d+ in digest: .+ as DecodingError passed through; all of "
                r"its [\d.]+ KiB had been read, and only its end had not",
            ),
            Case(
                "The program raises an error in its loop over the body.",
                "digest",
                partial(worlds.serving, answer(worlds.MUCH)),
                "ValueError\n" * 3,
                Found("application_failed", 3, "raised here", {"error": "ValueError"}),
                arguments=("1000",),
                search=Search("httptrace.body.closed_by=ValueError"),
                finds=3,
                says=r"lost at digest(_async)?\.py:\d+ in digest: .+, as ValueError passed through",
            ),
            Case(
                "The same with asyncio and trio, where the block is what closes the response.",
                "digest",
                partial(worlds.serving, answer(worlds.MUCH)),
                "ValueError\n" * 3,
                Found("application_failed", 3, "the block", {"error": "ValueError"}),
                arguments=("1000",),
                search=Search("httptrace.body.closed_by=ValueError"),
                runs=("httpx2 asyncio",),
                finds=3,
                says=r"lost at digest_async\.py:\d+ in digest: .+, as ValueError passed through",
            ),
        ),
        (
            Case(
                "The body is what it says, and is read.",
                "digest",
                partial(worlds.serving, wp.DECODABLE),
                "24000 characters\n" * 3,
                runs=SOME,
            ),
            Case(
                "The connection breaks half-way: that is no exception of the application's.",
                "digest",
                partial(worlds.serving, worlds.half(1000, worlds.no_more)),
                "RemoteProtocolError\n" * 3,
                Found("body_failed", 3, numbers={"error": "RemoteProtocolError"}),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                "fails: `DecodingError`, or an exception of our own while a body is read; the span says 200 and no error",
                "load: new connections whenever a consumer fails",
            ),
            Search("httptrace.body.closed_by=DecodingError"),
            (
                'sum by (httptrace_body_closed_at) (increase(traces_span_metrics_calls_total{job="$service", '
                'span_kind="SPAN_KIND_CLIENT", httptrace_body_outcome="closed_early"}[1h]))',
            ),
            "`httptrace.body.closed_by` passed through the block that closed the response, at `httptrace.body.closed_at`. "
            "`httptrace.body.bytes_read` equal to `http.response.body.size`: all had come, and could not be used.",
            "A parser that chokes, a consumer that gives up, a `Content-Encoding` that is not so (a proxy that changed one and not "
            "the other).",
            "For `DecodingError` look at what sends the body, or ask for another (`Accept-Encoding: identity`).",
            "Jaeger finds one class at a time. PromQL cannot tell why a body was closed early: stories 1 and 2 are found, too.",
            kept=True,
        ),
    ),
    Story(
        21,
        "ReadError or ClosedResourceError at shutdown",
        '{ span.httptrace.conn.close_reason = "client_closed" && span.httptrace.conn.closed_at != nil }',
        "`httptrace.conn.closed_at`: the line that closed the client",
        "Wait for the tasks that use a client before you close it.",
        (
            Case(
                "The client is closed while it waits for a response and reads another.",
                "shutdown",
                partial(wp.service, worlds.silence, wp.never_ends),
                "job ReadError\nfeed ReadError\n",
                Found("client_closed_in_use", 2, "closed here"),
                runs=_LOOP,
                finds=2,
                says=r"the client was closed under it, at shutdown_async\.py:\d+ in stop",
            ),
        ),
        (
            Case(
                "The client is closed when all is done.",
                "shutdown",
                partial(wp.service, answer(), answer()),
                "job 200\nfeed 200\n",
                arguments=("--waits",),
                runs=_LOOP,
                also_counted=2,
            ),
        ),
        guide=Guide(
            ("fails: `ReadError` without a text, `ClosedResourceError`, when a service stops or reloads",),
            Search("httptrace.conn.close_reason=client_closed"),
            (
                'sum by (server_address) (rate(httptrace_connections_closed_total{job="$service", '
                'httptrace_conn_close_reason="client_closed"}[5m]))',
            ),
            "`httptrace.conn.close_reason` = `client_closed` on a request that failed, `httptrace.conn.closed_at` the line.",
            "A shutdown hook, a `with` block that is left, or a garbage collector's finaliser closes the client while other tasks "
            "use it.",
            "Leave the client's `with` block last. The server had no part in it, and may have done what was asked.",
            "PromQL counts idle connections that were closed with their client, too.",
            kept=True,
        ),
    ),
    Story(
        22,
        "An upload times out, or takes longer than the server says",
        "{ span.httptrace.time.send > $wait }",
        "`httptrace.time.send`, and `httptrace.tcp.unacked`: what the kernel had left when the timeout struck",
        "Send less at a time or allow more time; look at the uplink, and at who reads at the other end.",
        (
            Case(
                "The other end reads nothing: WriteTimeout.",
                "upload",
                partial(wp.reading),
                "WriteTimeout\n",
                Found("upload_stalled", 1, numbers={"longest": AtLeast(1.5), "unacked": AtLeast(1)}),
                arguments=("12000000", "2"),
                runs=SOME,
                thresholds=scaled(stall=1.0, wait=1.0),
                finds=1,
                says=r"^Sending the request on connection 1 failed after .+: WriteTimeout",
            ),
            Case(
                "All of it is in the kernel, and the other end reads nothing: the read timeout strikes.",
                "upload",
                partial(wp.reading),
                "ReadTimeout\n",
                Found("upload_stalled", 1, numbers={"unacked": AtLeast(1)}),
                arguments=("300000", "2"),
                runs=("httpx sync", "httpx2 asyncio"),
                thresholds=scaled(stall=1.0, wait=1.0),
                query='{ span.httptrace.failed_phase = "wait" && span.httptrace.tcp.unacked > 0 }',
                search=Search("httptrace.failed_phase=wait error.type=ReadTimeout"),
                finds=1,
                says=r"KiB written had not been acknowledged",
            ),
            Case(
                "The other end begins to read after 2 s, and the upload goes well in the end.",
                "upload",
                partial(wp.reading, pause=2.0),
                "200\n",
                Found("upload_slow", 1, numbers={"send": AtLeast(1.0)}, sure=Sure.LIKELY),
                arguments=("12000000",),
                runs=SOME,
                thresholds=scaled(stall=1.0, wait=1.0),
                search=Search("", "POST", "wait"),
                finds=1,
                says=r"^Sending the request on connection 1 took [1-9].* s",
            ),
        ),
        (
            Case(
                "It is read at once, and the answer takes 2 s: that is the server.",
                "upload",
                partial(wp.reading, pause=0.0, think=2.0),
                "200\n",
                Found("server_slow", 1, numbers={"longest": AtLeast(1.5)}, sure=Sure.LIKELY),
                arguments=("300000",),
                runs=SOME,
                thresholds=scaled(stall=1.0, wait=1.0),
                also_counted=1,
            ),
        ),
        guide=Guide(
            (
                "fails: `WriteTimeout`; or `ReadTimeout` of uploads only",
                "slow: uploads take long, and the server's log says milliseconds",
            ),
            Search("httptrace.failed_phase=send error.type=WriteTimeout"),
            (slowest("traces_span_metrics_duration_seconds", "le", "$wait", 'span_kind="SPAN_KIND_CLIENT"'),),
            "`httptrace.time.send` is from the first byte written to the last. `httptrace.tcp.unacked` is what the other end had "
            "not acknowledged when the timeout struck, or when the request had been written.",
            "A narrow uplink, a proxy that takes the body in slowly, or a server that does not read. What is written last is still on "
            "its way when the wait for the answer begins: so the read timeout may strike although the server is quick.",
            "Each part of the body has the write timeout for itself; the answer has the read timeout, counted from the last byte "
            "handed to the kernel.",
            "Jaeger and PromQL cannot compare `httptrace.time.send`: uploads that went well in the end are found by their whole "
            "duration, and a slow answer is found, too.",
        ),
    ),
    Story(
        23,
        "Every call pays for a new connection, and nothing failed",
        '{ span.httptrace.conn.open_reason =~ "keepalive_expired|connection_close" }',
        "`httptrace.conn.open_reason`: whose setting it is; `httptrace.time.dns`, `.connect`, `.tls`: the cost",
        "keepalive_expired: set keepalive_expiry above the pause. connection_close: turn keep-alive on in the server or proxy.",
        (
            Case(
                "The client lets idle connections go after 0.2 s, and bursts are 0.5 s apart.",
                "bursts",
                partial(worlds.serving, answer(), host="localhost"),
                _BURSTS,
                Found("keepalive_expired", 3, numbers={"opened": 4, "because": 3}),
                arguments=("0.2",),
                runs=SOME,
                finds=3,
                says=r"had not been used for keepalive_expiry \(200 ms\) or longer",
            ),
            Case(
                "Each answer says `Connection: close`.",
                "bursts",
                partial(worlds.serving, worlds.LAST, host="localhost"),
                _BURSTS,
                Found("connection_close", 11, numbers={"opened": 12, "because": 11, "ended_by": {"server": 12}}),
                runs=SOME,
                search=Search("httptrace.conn.open_reason=connection_close"),
                finds=11,
                says=r"the one before could not be kept \(Connection: close on either side",
            ),
        ),
        (
            Case(
                "Connections are kept for 5 s.",
                "bursts",
                partial(worlds.serving, answer(), host="localhost"),
                _BURSTS,
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                "slow: each call after a pause takes a lookup, a connect and a TLS handshake more",
                "load: as many connections as requests, and no error",
            ),
            Search("httptrace.conn.open_reason=keepalive_expired"),
            (
                "sum by (server_address, httptrace_conn_open_reason) (rate(httptrace_connections_opened_total{"
                'job="$service", httptrace_conn_open_reason=~"keepalive_expired|connection_close"}[5m]))',
            ),
            "`keepalive_expired`: the client's own `keepalive_expiry`, 5 s unless set. `connection_close`: the answer before said "
            "`Connection: close`, or was HTTP/1.0; or this program sends that header.",
            "A client that is used less often than its `keepalive_expiry`; a server or proxy without keep-alive (`gunicorn` with sync "
            "workers, nginx's `proxy_http_version 1.0`).",
            "Stay below the server's own keep-alive time, or it is story 6.",
        ),
    ),
)
