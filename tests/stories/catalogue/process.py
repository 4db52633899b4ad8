"""What a process does to itself, and what stands between it and its servers: forks, files, loops, proxies, workers."""

from __future__ import annotations

from functools import partial

from kit.server import answer

from otel_httptrace.report.findings import Sure

from .. import worlds, worlds_process
from ..story import SOME, AtLeast, Case, Found, Guide, Search, Story, scaled, slowest


def failed(by: str, selected: str) -> str:
    """Requests that failed, each second."""
    return f'sum by ({by}) (rate(httptrace_requests_failed_total{{job="$service", {selected}}}[5m]))'


SYNC = ("httpx sync", "httpx2 sync")
ASYNCIO = ("httpx asyncio", "httpx2 asyncio")
#: HTTP/2 from several threads at once breaks httpcore's connections now and then, without us, too.
IN_A_LOOP = ("httpx asyncio", "httpx2 trio")

#: How far a request came, and what became of it. Metrics and spans have other parts of it.
HOW = "httptrace_failed_phase, error_type, httptrace_failed_cause, status_code"

#: Nothing is sent before the program is over: with no file left to open there is nothing to send it with, and whoever
#: forks while another thread exports may leave that thread's locks held in the child.
AT_THE_END = (("OTEL_BSP_SCHEDULE_DELAY", "60000"), ("OTEL_METRIC_EXPORT_INTERVAL", "60000"))

PROCESS = (
    Story(
        24,
        "Since the workers are forked, requests get each other's answers",
        "{ span.httptrace.conn.inherited = true }",
        "`service.instance.id`: how many processes; `network.local.port`: one socket",
        "Make the client after the fork, in each worker.",
        (
            Case(
                "A client is made and used before the fork, and two workers use it after.",
                "workers",
                partial(worlds.serving, answer()),
                "loaded 200\nworker 0 200 200\nworker 1 200 200\n",
                Found("connection_inherited", 4, numbers={"processes": 2}),
                runs=SYNC,
                environ=AT_THE_END,
                finds=4,
                says=r"which another process opened, before a fork",
            ),
        ),
        (
            Case(
                "Each worker makes a client of its own.",
                "workers",
                partial(worlds.serving, answer()),
                "loaded 200\nworker 0 200 200\nworker 1 200 200\n",
                arguments=("--own",),
                runs=SYNC,
                environ=AT_THE_END,
            ),
        ),
        guide=Guide(
            (
                "fails: answers belong to other requests, or are mixed with them: wrong JSON, wrong user",
                "fails: `RemoteProtocolError`, `ReadError` or a TLS error in workers that were forked, with no load",
            ),
            Search("httptrace.conn.inherited=true"),
            (),
            "`httptrace.conn.inherited`: the connection was opened by the process before the fork, and this one uses it. Two "
            "processes that share a connection may each read what the other asked for.",
            "The client is made, and has sent a request, when the application is loaded; then the server forks its workers: "
            "gunicorn with `--preload`, Celery's prefork, `multiprocessing` with `fork`. The socket is the same in all of them.",
            "With gunicorn in `post_fork`, with `multiprocessing` in the pool's `initializer`, or with the method `spawn`. What "
            "such connections brought may be wrong in ways that no error tells.",
            "Is it over TLS, the second process to use it breaks the connection for both.",
        ),
    ),
    Story(
        25,
        "After some hours no connection can be opened: too many open files",
        '{ span.httptrace.failed_cause =~ "EMFILE|ENFILE" }',
        "`httptrace.conn.open_reason` = `new_client` on those before: a client each, that nobody closed",
        "Share one client, and close those that are not used any more.",
        (
            Case(
                "A client for each tenant, none is closed, and there are ten file descriptors.",
                "tenants",
                partial(worlds.serving, answer()),
                "ConnectError\n" * 3 + "3 failed\n",
                Found("too_many_open_files", 3, numbers={"clients": AtLeast(3)}),
                also=("client_per_request",),
                runs=SOME,
                finds=3,
                environ=AT_THE_END,
                says=r"^Connecting to .+ failed after .+: ConnectError \(EMFILE\)",
            ),
        ),
        (
            Case(
                "As few file descriptors, and one client for all tenants.",
                "tenants",
                partial(worlds.serving, answer()),
                "0 failed\n",
                arguments=("--shared",),
                runs=SOME,
                environ=AT_THE_END,
            ),
        ),
        guide=Guide(
            (
                'fails: `ConnectError`, "Too many open files", "[Errno 24]"',
                "fails: after some hours, all requests at once, and a restart cures it",
            ),
            Search("httptrace.failed_cause=EMFILE"),
            (failed("server_address, httptrace_failed_cause", 'httptrace_failed_cause=~"EMFILE|ENFILE"'),),
            "`httptrace.failed_cause` = `EMFILE`: this process has no file descriptor left; `ENFILE`: the machine has none. The phase "
            "is `connect`, or `dns`, for a lookup needs a socket, too: the resolver is not to blame.",
            "Something opens sockets or files and does not close them. Clients that are made for each call, or for each tenant, keep "
            "their connections until they are closed. The report says how many connections had been opened, and by how many clients.",
            "`ls -l /proc/PID/fd` shows what is open. The limit is `ulimit -n`.",
            kept=True,
            rows=(Search("httptrace.failed_cause=ENFILE"),),
        ),
    ),
    Story(
        26,
        "Requests fail, and no other story fits",
        '{ span.error.type =~ "[A-Za-z_].*" }',
        "`error.type`, `httptrace.failed_phase` and `httptrace.failed_cause`, by server",
        "Look at the cause: a certificate, a port, a name, a header, the server's own log.",
        (
            Case(
                "The certificate is not one that the client trusts.",
                "orders",
                worlds_process.untrusted,
                "ConnectError\n" * 4,
                Found(
                    "failed", 4, numbers={"phase": "tls", "cause": "CERTIFICATE_VERIFY_FAILED", "error": "ConnectError"}
                ),
                runs=SOME,
                finds=4,
                says=r"^The TLS handshake with .+: ConnectError \(CERTIFICATE_VERIFY_FAILED\)",
            ),
            Case(
                "Nobody listens on the port.",
                "orders",
                worlds_process.gone,
                "ConnectError\n" * 4,
                Found("failed", 4, numbers={"phase": "connect", "cause": "ECONNREFUSED", "error": "ConnectError"}),
                runs=SOME,
                finds=4,
                says=r"^Connecting to .+: ConnectError \(ECONNREFUSED\)",
            ),
            Case(
                "There is no such name.",
                "orders",
                worlds_process.nameless,
                "ConnectError\n" * 4,
                Found("failed", 4, numbers={"phase": "dns", "cause": "EAI_NONAME", "error": "ConnectError"}),
                runs=SOME,
                finds=4,
                says=r"^Looking up orders\.test failed .+\(EAI_NONAME\)",
            ),
            Case(
                "The token was read with the end of its line, which no header may have.",
                "orders",
                partial(worlds.serving, answer()),
                "LocalProtocolError\n" * 4,
                Found("failed", 4, numbers={"error": "LocalProtocolError"}),
                arguments=("secret\n",),
                runs=SOME,
                finds=4,
                says=r"^Sending the request on connection \d+ failed .+: LocalProtocolError",
            ),
            Case(
                "The server answers, and with 500.",
                "orders",
                partial(worlds.serving, worlds_process.in_turn(answer(), answer(status="500 Internal Server Error"))),
                "200\n500\n500\n500\n",
                Found("error_statuses", 3, numbers={"statuses": {"200": 1, "500": 3}}),
                runs=SOME,
                query="{ status = error }",
                finds=3,
            ),
        ),
        (
            Case(
                "What was asked for is not there: 404 is an answer.",
                "orders",
                partial(worlds.serving, answer(status="404 Not Found")),
                "404\n" * 4,
                runs=SOME,
                also_searched=4,
                also_counted=4,
            ),
            Case(
                "All is well.",
                "orders",
                partial(worlds.serving, answer()),
                "200\n" * 4,
                arguments=("secret",),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                'fails: "certificate verify failed", `CERTIFICATE_VERIFY_FAILED`',
                'fails: `LocalProtocolError`, "Illegal header value"',
                "fails: the server answers with 500, 502, 503 or 429",
                "fails: and nothing here looks like it",
            ),
            Search("error=true"),
            (
                failed(f"server_address, {HOW}", 'error_type!=""')
                + f' or sum by (server_address, {HOW}) (rate(traces_span_metrics_calls_total{{job="$service", '
                'span_kind="SPAN_KIND_CLIENT", status_code="STATUS_CODE_ERROR", httptrace_failed_phase="", '
                'httptrace_body_outcome!="failed"}[5m]))',
            ),
            "`error.type` is the exception that the program saw; an answer of 400 or more has its status instead. `httptrace.failed_phase` says how far the request had "
            "come, `httptrace.failed_cause` what is behind the exception, in the words of the operating system (`ECONNREFUSED`), of "
            "`ssl` (`CERTIFICATE_VERIFY_FAILED`), of the resolver (`EAI_NONAME`) or of HTTP/2.",
            "The report has a line for each such cause: how many of how many requests, to which server, in which phase, with "
            "which cause.",
            "A certificate: `openssl s_client -connect HOST:PORT -servername HOST`. Refused: is it running, is it that port? A name: "
            "`getent hosts NAME`. An illegal header: a value read from a file with the end of its line. Statuses: the server's log.",
            "Responses with 4xx, where statuses are asked for: to the instrumentation of httpx each is an error.",
            kept=True,
        ),
    ),
    Story(
        27,
        'The second task fails with "Event loop is closed"',
        "{ span.httptrace.conn.foreign_loop = true }",
        "`httptrace.conn.id`: the request that opened it was in another loop",
        "Make one AsyncClient for each event loop, and close it in that loop.",
        (
            Case(
                "A client is made once, and each task has an event loop of its own.",
                "tasks",
                partial(worlds.serving, answer()),
                "200\nRuntimeError\n",
                Found("connection_of_other_loop", 1),
                runs=ASYNCIO,
                finds=1,
                says=r"the connection was opened in another event loop",
            ),
        ),
        (
            Case(
                "Each task makes its client.",
                "tasks",
                partial(worlds.serving, answer()),
                "200\n200\n",
                arguments=("--own",),
                runs=ASYNCIO,
            ),
            Case(
                "The same client in two loops, and trio does not mind.",
                "tasks",
                partial(worlds.serving, answer()),
                "200\n200\n",
                runs=("httpx trio",),
            ),
        ),
        guide=Guide(
            (
                'fails: `RuntimeError`, "Event loop is closed", "bound to a different event loop"',
                "fails: the first call works, the next does not: Celery tasks, `asyncio.run()` in a loop, tests",
            ),
            Search("httptrace.conn.foreign_loop=true"),
            (failed("server_address, error_type", 'error_type="RuntimeError"'),),
            "`httptrace.conn.foreign_loop`: the connection was opened in another event loop than the one that now uses it. In the "
            "phase `wait` the server may have had the request, and done what it asked for.",
            "The client, and with it its pool, outlives the loop that its connections belong to: `asyncio.run()` makes a new loop each "
            "time, and so do `async_to_sync` and most test runners.",
            "Or keep one loop, and hand work to it: `asyncio.Runner`, `run_coroutine_threadsafe`.",
            "In PromQL any `RuntimeError` is.",
            kept=True,
        ),
    ),
    Story(
        28,
        "Over HTTP/2 some calls wait, though the pool is empty",
        "{ span.httptrace.time.stream > $pool_wait }",
        "`httptrace.conn.stream_limit`, `httptrace.conn.streams`",
        "Raise the server's limit of streams, or spread the requests over several clients.",
        (
            Case(
                "Six at once, and the server allows two streams; the first two take a second.",
                "summaries",
                partial(worlds_process.streams, 2, 1.0),
                f"200\n{[200] * 6}\n",
                Found("http2_stream_limit", 4, numbers={"limit": 2, "longest": AtLeast(0.5)}),
                runs=IN_A_LOOP,
                finds=4,
                also_searched=2,
                says=r"^It took .+ until connection 1 had a stream for this request; the server allows 2, and 2 were open",
            ),
        ),
        (
            Case(
                "The same, and the server allows a hundred.",
                "summaries",
                partial(worlds_process.streams, None, 1.0),
                f"200\n{[200] * 6}\n",
                runs=IN_A_LOOP,
                also_searched=6,
            ),
        ),
        guide=Guide(
            (
                "slow: over HTTP/2 only, with many requests at a time; raising max_connections changes nothing",
                "slow: a few long requests (event streams, long polls) hold up all others to the same server",
            ),
            Search("http.conn.reused=true", "", "pool_wait"),
            (),
            "`httptrace.time.stream` is how long the request waited for a stream of a connection that carried "
            "`httptrace.conn.streams`, as many as the server allows: `httptrace.conn.stream_limit`. It is no part of "
            "`httptrace.time.pool`.",
            "httpx opens one HTTP/2 connection to a server, and the server says how many requests may be on it at a time "
            "(SETTINGS_MAX_CONCURRENT_STREAMS). What comes beyond that waits, in no timeout.",
            "nginx: `http2_max_concurrent_streams`. Who holds them? Requests to that server that were under way then.",
            "Jaeger cannot compare that time, and finds all requests that took long on a connection that had carried others.",
        ),
    ),
    Story(
        29,
        "A call takes 4 s, and each of its requests looks harmless",
        "{ status = error }",
        "the trace: requests to one URL with one parent, each begun just after one that had failed",
        "Look at why the first failed; the time of the call is all attempts, with the pauses between.",
        (
            Case(
                "The first attempt times out, the second gets 503, the third is answered.",
                "complete",
                partial(
                    worlds.serving,
                    worlds_process.in_turn(worlds.silence, answer(status="503 Service Unavailable"), answer()),
                ),
                "200\n",
                Found("call_repeated", 3, numbers={"calls": 1, "attempts": 3, "longest": AtLeast(1.3)}),
                also=("server_slow",),
                runs=SOME,
                finds=1,
                says=r"^No response could be read from connection 1 within 1\.\d s: ReadTimeout",
            ),
        ),
        (
            Case(
                "Three calls, one after the other, and each is answered.",
                "complete",
                partial(worlds.serving, answer()),
                "200\n200\n200\n",
                arguments=("--others",),
                runs=SOME,
            ),
            Case(
                "Three calls, and each gets 503: nobody has repeated any.",
                "complete",
                partial(worlds.serving, answer(status="503 Service Unavailable")),
                "503\n503\n503\n",
                Found("error_statuses", 3, numbers={"statuses": {"503": 3}}, sure=Sure.LIKELY),
                arguments=("--others",),
                runs=SOME,
                finds=3,
            ),
        ),
        guide=Guide(
            (
                "slow: one call of an SDK takes several times its timeout",
                "slow: three requests for each call, and the user sees no error",
                "load: two or three times the requests, whenever the server is slow",
            ),
            Search("error=true"),
            (
                'topk(10, sum by (span_name) (rate(traces_span_metrics_calls_total{job="$service", '
                'span_kind="SPAN_KIND_CLIENT", status_code="STATUS_CODE_ERROR"}[5m])))',
            ),
            "In one trace, below one span, several requests to one URL, one after the other: all but the last have an error, and "
            "between them are pauses that get longer.",
            "SDKs repeat what failed, mostly twice (openai, anthropic: `max_retries=2`), after a pause. A timeout is one attempt's: a "
            "call may take three times as long.",
            "Set the SDK's `max_retries` and `timeout` so that their product is what a caller will wait for.",
            "Requests that failed and were not repeated are found, too: look for traces with more than one.",
            kept=True,
        ),
    ),
    Story(
        30,
        "A stream of events stops for a while",
        "{ span.httptrace.body.max_gap > $gap }",
        "`httptrace.body.max_gap`: the longest time without a byte",
        "Look at what makes the events then, and at what lies between; the stream's length is no fault.",
        (
            Case(
                "Between two events of a stream there is nothing for a second.",
                "download",
                partial(worlds.serving, worlds_process.events(0.1, 0.1, 1.2, 0.1)),
                "all 48 bytes\n",
                Found(
                    "body_slow_server", 1, numbers={"read_wait": AtLeast(0.9), "gap": AtLeast(0.9)}, sure=Sure.LIKELY
                ),
                thresholds=scaled(receive=0.8, gap=0.7),
                runs=SOME,
                finds=1,
                says=r"The body took 1\.\d s .*, 1\.\d s at most at a time, and the rest in this program",
            ),
        ),
        (
            Case(
                "A stream that lasts, as it is meant to: an event each tenth of a second.",
                "download",
                partial(worlds.serving, worlds_process.events(*[0.1] * 14)),
                "all 168 bytes\n",
                thresholds=scaled(receive=0.8, gap=0.7),
                runs=SOME,
                also_searched=1,
                also_counted=True,
            ),
        ),
        guide=Guide(
            (
                "slow: a stream of events (a chat, MCP) stops, and goes on after a while",
                "slow: requests of minutes, and they are streams that are meant to last",
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
            "`httptrace.body.max_gap` is the longest wait for bytes within the body. Compare it with what the stream promises: a "
            "comment or a ping each 15 s, say. `httptrace.time.receive` is its length, and no fault.",
            "What makes the events waits for something itself; or a proxy between keeps them back until its buffer is full "
            "(nginx: `proxy_buffering`).",
            "",
            "Jaeger and PromQL know no gaps: streams that went well are found, too.",
        ),
    ),
    Story(
        31,
        "Nothing reaches a server that everybody else reaches",
        '{ span.httptrace.failed_phase =~ "dns|connect" && span.error.type =~ "ConnectTimeout|ConnectError" }',
        "`server.address` and `server.port` of `http.connect` below it: are they the server's, or a proxy's?",
        "Look at the proxy, and where it is set: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, or `proxy=`.",
        (
            Case(
                "HTTPS_PROXY is left in the environment, and that proxy does not answer.",
                "price",
                partial(worlds_process.dead_proxy, listens=True),
                "ConnectTimeout\n",
                Found("proxy_unreachable", 1, numbers={"error": "ConnectTimeout", "cause": None}),
                arguments=("0.5",),
                runs=SOME,
                finds=1,
                says=r"^Connecting to the proxy 127\.0\.0\.1:\d+ failed after .+: ConnectTimeout",
            ),
            Case(
                "The same, and nobody listens there any more.",
                "price",
                partial(worlds_process.dead_proxy, listens=False),
                "ConnectError\n",
                Found("proxy_unreachable", 1, numbers={"error": "ConnectError", "cause": "ECONNREFUSED"}),
                arguments=("0.5",),
                runs=SOME,
                finds=1,
                search=Search("httptrace.failed_phase=connect error.type=ConnectError"),
                says=r"^Connecting to the proxy .+\(ECONNREFUSED\)",
            ),
        ),
        (
            Case(
                "No proxy is set, and it is the server that does not answer.",
                "price",
                worlds.unreachable,
                "ConnectTimeout\n",
                Found("connect_timeout", 1, numbers={"phase": "connect"}),
                arguments=("0.5",),
                runs=SOME,
                finds=1,
            ),
            Case(
                "The proxy answers that it cannot reach the server.",
                "price",
                worlds_process.refusing_proxy,
                "ProxyError\n",
                Found("failed", 1, numbers={"phase": "proxy", "error": "ProxyError"}),
                arguments=("0.5",),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                "fails: `ConnectTimeout` or `ConnectError` to a server that other machines reach",
                "fails: in a new container or after a move, all requests to servers outside",
            ),
            Search("httptrace.failed_phase=connect error.type=ConnectTimeout"),
            (
                failed(
                    "server_address, httptrace_failed_phase, error_type",
                    'httptrace_failed_phase=~"dns|connect", error_type=~"ConnectTimeout|ConnectError"',
                ),
            ),
            "`http.connect` names what was dialled: `server.address` and `server.port` there are the proxy's, while those of the "
            "request are the server's. The server was never tried.",
            "httpx takes proxies from the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, in capitals or not, left from a build "
            "or set for another network.",
            "`NO_PROXY` names servers to reach without it; `trust_env=False` has the client look at none of them.",
            "A server that does not answer looks the same but for those two attributes: story 8.",
            kept=True,
        ),
    ),
    Story(
        32,
        "Long calls end without an answer, after about the same time",
        '{ span.httptrace.failed_phase = "wait" && span.error.type =~ "RemoteProtocolError|ReadError" '
        "&& span.httptrace.time.wait > $crossed }",
        "`httptrace.time.wait`: how long the server had had the request",
        "Look at the server's log at that moment: a worker that was killed, or ran out of time.",
        (
            Case(
                "A worker is killed after it has worked on the request for 0.8 s.",
                "audit",
                partial(worlds.serving, worlds.third(worlds_process.works_until_killed(0.8, worlds.no_more))),
                "200\n200\nRemoteProtocolError: Server disconnected without sending a response.\n200\n",
                Found("closed_without_answer", 1, numbers={"longest": AtLeast(0.7)}),
                arguments=("0.5",),
                runs=SOME,
                finds=1,
                says=r"^No response could be read from connection 1 within (8\d\d ms|[\d.]+ s): RemoteProtocolError",
            ),
            Case(
                "The same, and the connection is reset.",
                "audit",
                partial(worlds.serving, worlds.third(worlds_process.works_until_killed(0.8, worlds.reset))),
                "200\n200\nReadError: [Errno 104] Connection reset by peer\n200\n",
                Found("closed_without_answer", 1, numbers={"longest": AtLeast(0.7)}),
                arguments=("0.5",),
                runs=SYNC,
                finds=1,
                search=Search("httptrace.failed_phase=wait error.type=ReadError"),
                says=r"^No response could be read from connection 1 within (8\d\d ms|[\d.]+ s): ReadError \(ECONNRESET\)",
            ),
        ),
        (
            Case(
                "It works for as long, and answers.",
                "audit",
                partial(worlds.serving, worlds.third(worlds.after(0.8, answer()))),
                "200\n" * 4,
                arguments=("0.5",),
                runs=SOME,
            ),
        ),
        guide=Guide(
            (
                'fails: long calls, "Server disconnected without sending a response", after 30 s, say, each time',
                "fails: a few calls at the same moment: a deployment, a worker out of memory",
            ),
            Search("httptrace.failed_phase=wait error.type=RemoteProtocolError"),
            (
                failed(
                    "server_address, error_type",
                    'httptrace_failed_phase="wait", error_type=~"RemoteProtocolError|ReadError"',
                ),
            ),
            "`httptrace.time.wait` is far longer than a round trip (`httptrace.tcp.rtt`): the server had the request, and no byte of "
            "an answer came (`httptrace.response.bytes_received` = 0).",
            "Something ended what worked on it: gunicorn's `--timeout` (30 s), the kernel as memory ran out, a deployment, a crash; "
            "or a proxy's own limit.",
            "If the time is always the same, it is a limit that somebody set. The request may have been done: look before it is repeated.",
            "Jaeger and PromQL cannot compare `httptrace.time.wait`. Near 0 it is story 6: the close crossed the request.",
            kept=True,
        ),
    ),
)
