"""What every name of the server's half means. For documentation: nothing of it is imported where it is at work."""

from __future__ import annotations

from typing import Final

from ..telemetry.described import Attribute, Described
from . import names
from .ledger import MAX_PEERS, Reason

REQUEST: Final = (
    Attribute(names.CONN_REUSED, "boolean", "", "the connection had carried a request before"),
    Attribute(names.CONN_ID, "int", "", "its number, unique in the process"),
    Attribute(names.CONN_REQUESTS, "int", "", "requests that it had carried before this one"),
    Attribute(
        names.CONN_IDLE,
        "double, s",
        "reused, and nothing else was under way",
        "since the response before was over, until this request was handed to the application",
    ),
    Attribute(names.CONN_AGE, "double, s", "", "since it was accepted"),
    Attribute(names.CONN_CLOSE_REASON, "string", "the connection ended with this request", "why: see below"),
    Attribute(
        names.NETWORK_PEER_ADDRESS,
        "string",
        "the connection's first request, not on a Unix socket",
        "who is at its other end, whatever a forwarding header says",
    ),
    Attribute(
        names.NETWORK_PEER_PORT,
        "int",
        "with it",
        "its port; it equals `network.local.port` of the client's span, if no proxy is in between",
    ),
    Attribute(
        names.LOST_CLOSE_REASON,
        "string",
        "the connection's first request, and one of that peer had ended between two requests",
        "why it did: `keepalive_timeout` or `client_closed`. A connection that closes while it is idle has no span for "
        "that, so the same peer's next connection tells it: the newest first, each once",
    ),
    Attribute(names.LOST_IDLE, "double, s", "with it", "for how long nothing had used it then"),
    Attribute(names.LOST_PORT, "int", "with it", "the peer's port on it"),
    Attribute(names.LOST_REQUESTS, "int", "with it", "requests that it had carried"),
    Attribute(
        names.CONN_INFERRED,
        "boolean",
        "present only when true",
        "the server is none that we know: connections are identified by the client's address and port, and idle time, "
        "age and reason are absent",
    ),
)

EVENTS: Final = (
    Described(
        names.EVENT_DIAGNOSIS,
        "its connection ended with it in a way that is not each request's, or it came on a new one as that peer had "
        'lost one; not with `OTEL_PYTHON_HTTPTRACE_SPANS="none"`',
        "what happened at that moment, in a sentence: see below",
        (names.MESSAGE,),
    ),
)

_PORT = (names.SERVER_PORT,)
_PEER = (*_PORT, names.NETWORK_PEER_ADDRESS)

METRICS: Final = (
    Described(
        names.METRIC_CONNECTIONS_OPEN,
        "observable up-down counter, {connection}",
        "connections that are open, by whether they carry a request (`active`, `idle`)",
        (*_PORT, names.HTTP_CONNECTION_STATE),
    ),
    Described(
        names.METRIC_CONNECTIONS_OPENED,
        "observable counter, {connection}",
        "connections that the server accepted",
        _PEER,
    ),
    Described(
        names.METRIC_CONNECTIONS_CLOSED,
        "observable counter, {connection}",
        "connections that ended, by why",
        (*_PEER, names.CONN_CLOSE_REASON),
    ),
    Described(
        names.METRIC_CONNECTION_DURATION,
        "histogram, s",
        "how long connections that the server accepted were open, by why they ended",
        (*_PORT, names.CONN_CLOSE_REASON),
    ),
    Described(
        names.METRIC_REQUESTS,
        "observable counter, {request}",
        "requests, by whether their connection had carried one",
        (*_PEER, names.CONN_REUSED),
    ),
)

PEERS: Final = (
    "Peers are the addresses that the server sees: behind a proxy, the proxy's.",
    f"At most {MAX_PEERS} pairs of a port and a peer are told apart, the first ones; what goes beyond counts as",
    "`_other`, and no total is lost. On a Unix socket there is neither port nor peer.",
)

REASONS: Final = {
    Reason.KEEPALIVE_TIMEOUT: "it was idle for as long as the server's keep-alive timeout",
    Reason.CLIENT_CLOSED: "the client closed it between two requests, or before the first",
    Reason.CLIENT_LEFT: "the client closed it while a request was under way",
    Reason.CONNECTION_CLOSE: "`Connection: close` on either side, or HTTP/1.0, or a server that is set to keep none",
    Reason.WORKER_SYNC: "gunicorn's sync worker closes every connection after its first response",
    Reason.MAX_REQUESTS: "the worker, or the connection, has carried as many requests as it may",
    Reason.SHUTDOWN: "the server, or the worker, was told to stop",
    Reason.GOAWAY: "HTTP/2: the client sent GOAWAY",
    Reason.UPGRADED: "it became a WebSocket",
    Reason.ERROR: "the application failed, or what came was no HTTP",
    Reason.UNKNOWN: "not seen",
}
