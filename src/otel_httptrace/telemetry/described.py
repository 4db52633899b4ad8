"""What every name means. For documentation: nothing of it is imported on the instrumented path."""

from __future__ import annotations

from typing import Final, NamedTuple

from . import names


class Attribute(NamedTuple):
    """An attribute: its OpenTelemetry type, its unit if it has one, when it is there, and what it says."""

    name: str
    type: str
    when: str
    meaning: str


class Described(NamedTuple):
    """A span, a link or a metric, and the attributes on it."""

    name: str
    kind: str
    meaning: str
    attributes: tuple[str, ...]


REQUEST: Final = (
    Attribute(names.CONN_REUSED, "boolean", "a connection was obtained", "it had carried a request before"),
    Attribute(names.CONN_WAS_IDLE, "boolean", "reused, HTTP/2", "nothing else was using it"),
    Attribute(names.CONN_ID, "int", "a connection was obtained", "number of the connection, unique in the process"),
    Attribute(names.CONN_REQUESTS, "int", "a connection was obtained", "requests it had carried before this one"),
    Attribute(names.CONN_IDLE, "double, s", "reused, and it was idle", "how long since its last use"),
    Attribute(names.CONN_OPEN_REASON, "string", "this request opened it", "why no connection could be reused"),
    Attribute(names.CONN_CLOSE_REASON, "string", "it closed with this request", "why it was closed"),
    Attribute(
        names.CONN_ENDED_BY,
        "string",
        "closed for `connection_close`; httpx",
        "whose it was: `client` (its request said `Connection: close`), `server` (the answer did), `http_1_0`, or "
        "`no_length` (its body ended with the connection)",
    ),
    Attribute(
        names.CONN_LOST_AT,
        "string",
        "opened because of a loss with a known line",
        "the application's line that lost the connection before: what the link says, on this span",
    ),
    Attribute(
        names.CLIENT_MADE_AT, "string", "opened because `new_client`", "the application's line that made the client"
    ),
    Attribute(names.NETWORK_PEER_ADDRESS, "string", "connected", "the real remote address, or the Unix socket's path"),
    Attribute(names.NETWORK_PEER_PORT, "int", "connected over TCP", "the remote port"),
    Attribute(names.NETWORK_TRANSPORT, "string", "not TCP", "`unix`"),
    Attribute(names.NETWORK_LOCAL_PORT, "int", "this request opened it, over TCP", "our end's port"),
    Attribute(names.TIME_POOL, "double, s", "1 ms or more", "waiting for the pool: a slot, or another request's dial"),
    Attribute(names.TIME_DNS, "double, s", "looked up", "name resolution"),
    Attribute(names.TIME_CONNECT, "double, s", "dialled", "TCP or Unix socket connect, all addresses tried"),
    Attribute(names.TIME_PROXY, "double, s", "through a proxy", "TLS to the proxy, CONNECT or SOCKS handshake"),
    Attribute(names.TIME_TLS, "double, s", "TLS", "handshake with the server"),
    Attribute(names.TIME_SEND, "double, s", "1 ms or more", "writing the request's headers and body"),
    Attribute(names.TIME_WAIT, "double, s", "headers received", "request written until response headers received"),
    Attribute(names.TIME_RECEIVE, "double, s", "headers received", "headers received until the body was over"),
    Attribute(
        names.BODY_OUTCOME,
        "string",
        "headers received",
        "`complete`, `closed_early`, `never_closed`, `failed` or `cancelled`",
    ),
    Attribute(
        names.HTTP_RESPONSE_BODY_SIZE, "int, bytes", "known", "of a complete body, else what Content-Length announced"
    ),
    Attribute(names.BODY_BYTES_READ, "int, bytes", "not `complete`", "taken from the wire, before content decoding"),
    Attribute(
        names.BODY_READ_WAIT, "double, s", f"`{names.TIME_RECEIVE}` is 1 ms or more", "its part spent waiting for bytes"
    ),
    Attribute(
        names.BODY_CLOSED_AT,
        "string",
        "`closed_early`, `never_closed`",
        "the application's line, `path:line in function`: where it closed, or where it made a request never closed",
    ),
    Attribute(names.BODY_CLOSED_VIA, "string", "a library in between", "that library's line, in the same form"),
    Attribute(
        names.FAILED_PHASE,
        "string",
        "an exception before the body",
        "`pool`, `dns`, `connect`, `proxy`, `tls`, `send` or `wait`",
    ),
    Attribute(names.POOL_CONNECTIONS, "int", f"`{names.TIME_POOL}` is there", "connections, as the wait began"),
    Attribute(names.POOL_IDLE, "int", f"`{names.TIME_POOL}` is there", "those that nobody used"),
    Attribute(names.POOL_WAITING, "int", f"`{names.TIME_POOL}` is there", "other requests that waited"),
    Attribute(names.POOL_LIMIT, "int", f"`{names.TIME_POOL}` is there, and a limit", "`max_connections`"),
    Attribute(
        names.POOL_HELD_AT,
        "string",
        "`PoolTimeout`, and the line is known",
        "the application's line that made the oldest request that holds a connection of the pool",
    ),
    Attribute(names.POOL_HELD_FOR, "double, s", "`PoolTimeout`", "for how long that one had held its connection"),
    Attribute(names.ERROR_TYPE, "string", "it failed", "the exception's class"),
    Attribute(
        names.FAILED_CAUSE,
        "string",
        "it failed",
        "the most specific name in the exception's causes: an errno (`ECONNRESET`), a reason of `ssl` "
        "(`CERTIFICATE_VERIFY_FAILED`), a resolver's code (`EAI_AGAIN`), an HTTP/2 error code (`INTERNAL_ERROR`), "
        "else a class; never a message",
    ),
    Attribute(
        names.RESPONSE_BYTES_RECEIVED,
        "int, bytes",
        "it failed in `wait`",
        "how much of an answer had come: 0 is not one byte, more could not be read",
    ),
    Attribute(names.TIMEOUT, "double, s", "a timeout struck", "as it was configured, for that phase"),
    Attribute(
        names.STALLED,
        "double, s",
        "known, and 10 ms or more",
        "how long this process did not get to run this request, at least",
    ),
    Attribute(names.CONN_INHERITED, "boolean", "`true` only", "the connection was opened before a fork"),
    Attribute(names.CONN_FOREIGN_LOOP, "boolean", "`true` only, and it failed", "opened in another event loop"),
    Attribute(
        names.CONN_CLOSED_AT,
        "string",
        "`client_closed` under a request",
        "the application's line that closed the client",
    ),
    Attribute(names.CONN_CLOSED_VIA, "string", "a library in between", "that library's line, in the same form"),
    Attribute(
        names.BODY_CLOSED_BY,
        "string",
        "closed early by an exception",
        "the class of what was passing through the caller: its own, or that of a body that could not be decoded",
    ),
    Attribute(names.BODY_MAX_GAP, "double, s", f"`{names.TIME_RECEIVE}` is 1 s or more", "the longest wait for bytes"),
    Attribute(
        names.TIME_STREAM,
        "double, s",
        "1 ms or more, HTTP/2",
        "waiting for a stream of a connection that was at its limit",
    ),
    Attribute(names.CONN_STREAMS, "int", f"`{names.TIME_STREAM}` is there", "streams that were open"),
    Attribute(names.CONN_STREAM_LIMIT, "int", f"`{names.TIME_STREAM}` is there", "how many the server allows"),
    Attribute(names.HTTP_REQUEST_RESEND_COUNT, "int", "sent again", "how often it had been sent before"),
    Attribute(
        names.TCP_UNACKED,
        "int, bytes",
        "failed, or 1 s or more, in `send`, `wait` or the body; Linux",
        "written, and not acknowledged by the other end: at the failure, or when the request had been written",
    ),
    Attribute(
        names.TCP_RETRANSMITS,
        "int",
        f"as `{names.TCP_UNACKED}`",
        "how often in a row that was sent again in vain",
    ),
    Attribute(names.TCP_RTT, "double, s", f"as `{names.TCP_UNACKED}`", "the round trip, smoothed"),
    Attribute(
        names.NETWORK_PROTOCOL_VERSION,
        "string",
        "HTTP/2, and it failed",
        "`2`; with a response it is upstream's",
    ),
)

#: Those that are on no request span: of child spans, links and metrics.
OTHERS: Final = (
    Attribute(names.DNS_QUESTION_NAME, "string", "always", "the name that was looked up"),
    Attribute(names.DNS_ANSWERS, "string[]", "answered", "addresses, in the resolver's order"),
    Attribute(
        names.DNS_QUEUED,
        "double, s",
        "asyncio's own loops, 100 ms or more",
        "how much of the lookup it waited for a thread of the event loop's executor: the resolver was not asked yet",
    ),
    Attribute(
        names.CONNECT_RESENT,
        "int",
        "a connect that took 1 s or longer; Linux",
        "how often the kernel had to send its SYN again, first after 1 s: 0 means that the first was answered",
    ),
    Attribute(
        names.PROXY_SET_BY,
        "string",
        "a proxy was dialled",
        "the variable of the environment that names this proxy, such as `HTTPS_PROXY`; `program` if none does",
    ),
    Attribute(names.SERVER_ADDRESS, "string", "known", "the host; on `http.connect` what was dialled"),
    Attribute(names.SERVER_PORT, "int", "known", "the port"),
    Attribute(names.NETWORK_LOCAL_ADDRESS, "string", "connected", "our end"),
    Attribute(names.NETWORK_TYPE, "string", "connected over TCP", "`ipv4` or `ipv6`"),
    Attribute(names.TLS_PROTOCOL_NAME, "string", "shaken hands", "`tls`"),
    Attribute(names.TLS_PROTOCOL_VERSION, "string", "shaken hands", "as `1.3`"),
    Attribute(names.TLS_CIPHER, "string", "shaken hands", "the cipher's name"),
    Attribute(names.TLS_NEXT_PROTOCOL, "string", "negotiated", "by ALPN: `h2` or `http/1.1`"),
    Attribute(names.TLS_RESUMED, "boolean", "shaken hands", "whether a session was resumed"),
    Attribute(names.HTTP_RESPONSE_STATUS_CODE, "int", "answered", "the status; on request spans it is upstream's"),
    Attribute(names.URL_SCHEME, "string", "always", "`http` or `https`"),
    Attribute(names.HTTP_CONNECTION_STATE, "string", "always", "`active` or `idle`"),
    Attribute(names.LINK, "string", "on links", "what the link is about"),
    Attribute(names.EXCEPTION_TYPE, "string", "on the event", "the exception's class, with its module"),
    Attribute(names.MESSAGE, "string", "on the event", "a sentence, in English"),
)

EVENTS: Final = (
    Described(names.EVENT_EXCEPTION, "reading the body failed", "that moment", (names.EXCEPTION_TYPE,)),
    Described(
        names.EVENT_DIAGNOSIS,
        "it lost or replaced a connection, was never closed, waited for the pool in vain or for 200 ms, failed, "
        'was cancelled, a step of its dial took 200 ms, or its body a second; not with `spans="none"`',
        "what happened at that moment, in a sentence with the line: see below",
        (names.MESSAGE,),
    ),
)

LINKS: Final = (
    Described(
        names.LINK_CONNECTION_LOST_BY,
        "from a request that had to open a connection",
        "to the one that lost the connection before",
        (names.CONN_CLOSE_REASON, names.BODY_CLOSED_AT),
    ),
    Described(
        names.LINK_POOL_HELD_BY,
        "from a request that ended in PoolTimeout",
        "to those that held the pool's connections, at most 8, oldest first",
        (),
    ),
    Described(
        names.LINK_CONNECTION_OPENED_BY,
        'from a reused request, with `spans="all"`',
        "to the one that opened the connection",
        (),
    ),
)

_CONN = (names.CONN_REUSED, names.CONN_WAS_IDLE, names.CONN_ID, names.CONN_OPEN_REASON)
_SERVER = (names.SERVER_ADDRESS, names.SERVER_PORT)

SPANS: Final = (
    Described(
        names.SPAN_EXCHANGE,
        "sent before, within one request span: a redirect, a retry, an auth round",
        "one request sent, with the attributes of a request span",
        (names.HTTP_RESPONSE_STATUS_CODE, names.ERROR_TYPE),
    ),
    Described(
        names.SPAN_GETCONN,
        'a connection was opened or waited for, or getting one failed; always with `spans="all"`',
        "from the request to its connection",
        (*_CONN, *_SERVER, names.ERROR_TYPE),
    ),
    Described(
        names.SPAN_DNS,
        "looked up",
        "a lookup",
        (names.DNS_QUESTION_NAME, names.DNS_ANSWERS, names.DNS_QUEUED, names.ERROR_TYPE),
    ),
    Described(
        names.SPAN_CONNECT,
        "dialled",
        "one attempt to connect",
        (
            names.NETWORK_PEER_ADDRESS,
            names.NETWORK_PEER_PORT,
            names.NETWORK_LOCAL_ADDRESS,
            names.NETWORK_LOCAL_PORT,
            names.NETWORK_TRANSPORT,
            names.NETWORK_TYPE,
            names.CONNECT_RESENT,
            names.PROXY_SET_BY,
            *_SERVER,
            names.ERROR_TYPE,
        ),
    ),
    Described(names.SPAN_PROXY, "through a proxy", "the handshake with it", (*_SERVER, names.ERROR_TYPE)),
    Described(
        names.SPAN_TLS,
        "TLS",
        "the handshake with the server",
        (
            names.TLS_PROTOCOL_NAME,
            names.TLS_PROTOCOL_VERSION,
            names.TLS_CIPHER,
            names.TLS_NEXT_PROTOCOL,
            names.TLS_RESUMED,
            names.SERVER_ADDRESS,
            names.ERROR_TYPE,
        ),
    ),
    Described(names.SPAN_SEND, '`spans="all"`', "writing the request", ()),
    Described(names.SPAN_WAIT, '`spans="all"`', "waiting for the response's headers", ()),
    Described(
        names.SPAN_RECEIVE,
        '`spans="all"`, and where a request span cannot be kept open',
        "the response's body",
        (
            names.BODY_OUTCOME,
            names.BODY_READ_WAIT,
            names.BODY_BYTES_READ,
            names.BODY_CLOSED_AT,
            names.BODY_CLOSED_VIA,
            names.BODY_CLOSED_BY,
        ),
    ),
)

_ORIGIN = (*_SERVER, names.URL_SCHEME)

METRICS: Final = (
    Described(
        names.METRIC_DNS_LOOKUP_DURATION,
        "histogram, s",
        "lookups",
        (names.DNS_QUESTION_NAME, names.ERROR_TYPE),
    ),
    Described(
        names.METRIC_OPEN_CONNECTIONS,
        "up-down counter, {connection}",
        "connections open now",
        (names.HTTP_CONNECTION_STATE, *_ORIGIN, names.NETWORK_PROTOCOL_VERSION),
    ),
    Described(
        names.METRIC_CONNECTION_DURATION,
        "histogram, s",
        "how long connections lived",
        (*_ORIGIN, names.CONN_CLOSE_REASON),
    ),
    Described(names.METRIC_TIME_IN_QUEUE, "histogram, s", "waits for the pool of 1 ms or more", _ORIGIN),
    Described(
        names.METRIC_REQUESTS,
        "counter, {request}",
        "requests; where no connection was obtained by failed phase",
        (*_SERVER, names.CONN_REUSED, names.FAILED_PHASE),
    ),
    Described(
        names.METRIC_REQUESTS_FAILED,
        "counter, {request}",
        "requests that failed, in the body where there is no phase; 100 names of errors and causes, the rest `_other`",
        (*_SERVER, names.FAILED_PHASE, names.ERROR_TYPE, names.FAILED_CAUSE),
    ),
    Described(
        names.METRIC_CONNECTIONS_OPENED,
        "counter, {connection}",
        "connections opened, by why",
        (*_SERVER, names.CONN_OPEN_REASON),
    ),
    Described(
        names.METRIC_CONNECTIONS_CLOSED,
        "counter, {connection}",
        "connections closed, by why",
        (*_SERVER, names.CONN_CLOSE_REASON),
    ),
    Described(
        names.METRIC_BODIES,
        "counter, {response}",
        "response bodies, by how they ended",
        (*_SERVER, names.BODY_OUTCOME),
    ),
    Described(
        names.METRIC_RESPONSES_OPEN,
        "up-down counter, {response}",
        "responses neither read to the end nor closed",
        _SERVER,
    ),
    Described(names.METRIC_RESPONSES_OPEN_MAX_AGE, "gauge, s", "the age of the oldest of them", _SERVER),
)

#: Why a connection was opened and why closed; empty where that cannot be the reason.
REASONS: Final = {
    "first_connection": ("this process had not connected to this origin before", ""),
    "new_client": ("this pool is new, while another had connected to the origin: a client per request", ""),
    "all_busy": ("every open connection to the origin was carrying a request", ""),
    "body_not_read": (
        "the one before was closed with a response that had not been read",
        "its response was closed before the body had been read to the end",
    ),
    "response_leaked": ("the one before is held by a response that nobody closed", ""),
    "keepalive_expired": (
        "the one before had been idle for longer than `keepalive_expiry`",
        "idle for longer than `keepalive_expiry`",
    ),
    "keepalive_limit": (
        "the one before was dropped over `max_keepalive_connections`",
        "more connections than `max_keepalive_connections`",
    ),
    "pool_full": ("the one before was dropped to make room", "idle, and its slot was needed for another origin"),
    "server_closed": ("the server had closed the one before while it was idle", "closed by the server while idle"),
    "connection_close": (
        "the one before could not be kept",
        "`Connection: close` on either side, HTTP/1.0, or a body that ends with the connection",
    ),
    "request_failed": ("the one before broke", "an error or timeout while it carried a request"),
    "request_cancelled": ("the one before was dropped with a cancelled request", "its request was cancelled"),
    "goaway": ("the one before was retired by HTTP/2", "GOAWAY, or out of stream ids"),
    "upgraded": ("the one before was handed over", "101 or CONNECT: it left the pool"),
    "client_closed": ("the pool had been closed, and was used again", "the client or its pool was closed"),
    "unknown": ("not seen", "not seen"),
}
