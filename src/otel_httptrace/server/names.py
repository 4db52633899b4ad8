"""Every name that the server's half emits, once: a public interface."""

from __future__ import annotations

from typing import Final

# Semantic conventions and Go's otelhttptrace.
SERVER_PORT: Final = "server.port"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
HTTP_CONNECTION_STATE: Final = "http.connection.state"
CONN_REUSED: Final = "http.conn.reused"

# Ours, on the request span of a server.
CONN_ID: Final = "httptrace.server.conn.id"
CONN_REQUESTS: Final = "httptrace.server.conn.requests"
CONN_IDLE: Final = "httptrace.server.conn.idle"
CONN_AGE: Final = "httptrace.server.conn.age"
CONN_CLOSE_REASON: Final = "httptrace.server.conn.close_reason"
CONN_INFERRED: Final = "httptrace.server.conn.inferred"
LOST_PORT: Final = "httptrace.server.lost.port"
LOST_CLOSE_REASON: Final = "httptrace.server.lost.close_reason"
LOST_IDLE: Final = "httptrace.server.lost.idle"
LOST_REQUESTS: Final = "httptrace.server.lost.requests"

# The event of a request that was not ordinary: as on the spans of clients.
EVENT_DIAGNOSIS: Final = "httptrace.diagnosis"
MESSAGE: Final = "httptrace.message"

# Metrics.
METRIC_CONNECTIONS_OPEN: Final = "httptrace.server.connections.open"
METRIC_CONNECTIONS_OPENED: Final = "httptrace.server.connections.opened"
METRIC_CONNECTIONS_CLOSED: Final = "httptrace.server.connections.closed"
METRIC_CONNECTION_DURATION: Final = "httptrace.server.connection.duration"
METRIC_REQUESTS: Final = "httptrace.server.requests"
