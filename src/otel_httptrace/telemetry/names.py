"""Every name that `otel-httptrace` emits, once.

These are a public interface: dashboards, alerts and saved queries depend on
them. In this order: an OpenTelemetry semantic-convention name where one exists,
the span names and two boolean keys of Go's `otelhttptrace`, and for everything
else our own root ``httptrace.``.
"""

from __future__ import annotations

from typing import Final

# Semantic conventions. Spelled out rather than imported where the installed
# version of opentelemetry-semantic-conventions may still call them incubating
# and move them between modules.
DNS_QUESTION_NAME: Final = "dns.question.name"
DNS_ANSWERS: Final = "dns.answers"
ERROR_TYPE: Final = "error.type"
EVENT_EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
HTTP_RESPONSE_BODY_SIZE: Final = "http.response.body.size"
HTTP_REQUEST_RESEND_COUNT: Final = "http.request.resend_count"
NETWORK_LOCAL_ADDRESS: Final = "network.local.address"
NETWORK_LOCAL_PORT: Final = "network.local.port"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
NETWORK_PROTOCOL_VERSION: Final = "network.protocol.version"
NETWORK_TRANSPORT: Final = "network.transport"
NETWORK_TYPE: Final = "network.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
TLS_CIPHER: Final = "tls.cipher"
TLS_NEXT_PROTOCOL: Final = "tls.next_protocol"
TLS_PROTOCOL_NAME: Final = "tls.protocol.name"
TLS_PROTOCOL_VERSION: Final = "tls.protocol.version"
TLS_RESUMED: Final = "tls.resumed"
URL_SCHEME: Final = "url.scheme"
HTTP_CONNECTION_STATE: Final = "http.connection.state"

# Go's otelhttptrace.
CONN_REUSED: Final = "http.conn.reused"
CONN_WAS_IDLE: Final = "http.conn.wasidle"
SPAN_GETCONN: Final = "http.getconn"
SPAN_DNS: Final = "http.dns"
SPAN_CONNECT: Final = "http.connect"
SPAN_PROXY: Final = "http.proxy"
SPAN_TLS: Final = "http.tls"
SPAN_SEND: Final = "http.send"
SPAN_WAIT: Final = "http.wait"
SPAN_RECEIVE: Final = "http.receive"

# Ours.
CONN_ID: Final = "httptrace.conn.id"
CONN_REQUESTS: Final = "httptrace.conn.requests"
CONN_IDLE: Final = "httptrace.conn.idle"
CONN_OPEN_REASON: Final = "httptrace.conn.open_reason"
CONN_CLOSE_REASON: Final = "httptrace.conn.close_reason"
TIME_POOL: Final = "httptrace.time.pool"
TIME_DNS: Final = "httptrace.time.dns"
TIME_CONNECT: Final = "httptrace.time.connect"
TIME_PROXY: Final = "httptrace.time.proxy"
TIME_TLS: Final = "httptrace.time.tls"
TIME_SEND: Final = "httptrace.time.send"
TIME_WAIT: Final = "httptrace.time.wait"
TIME_RECEIVE: Final = "httptrace.time.receive"
BODY_OUTCOME: Final = "httptrace.body.outcome"
BODY_BYTES_READ: Final = "httptrace.body.bytes_read"
BODY_READ_WAIT: Final = "httptrace.body.read_wait"
BODY_CLOSED_AT: Final = "httptrace.body.closed_at"
BODY_CLOSED_VIA: Final = "httptrace.body.closed_via"
FAILED_PHASE: Final = "httptrace.failed_phase"
FAILED_CAUSE: Final = "httptrace.failed_cause"
RESPONSE_BYTES_RECEIVED: Final = "httptrace.response.bytes_received"
TIMEOUT: Final = "httptrace.timeout"
STALLED: Final = "httptrace.stalled"
CONN_INHERITED: Final = "httptrace.conn.inherited"
CONN_FOREIGN_LOOP: Final = "httptrace.conn.foreign_loop"
CONN_CLOSED_AT: Final = "httptrace.conn.closed_at"
CONN_CLOSED_VIA: Final = "httptrace.conn.closed_via"
CONN_STREAMS: Final = "httptrace.conn.streams"
CONN_STREAM_LIMIT: Final = "httptrace.conn.stream_limit"
TIME_STREAM: Final = "httptrace.time.stream"
BODY_CLOSED_BY: Final = "httptrace.body.closed_by"
BODY_MAX_GAP: Final = "httptrace.body.max_gap"
TCP_UNACKED: Final = "httptrace.tcp.unacked"
TCP_RETRANSMITS: Final = "httptrace.tcp.retransmits"
TCP_RTT: Final = "httptrace.tcp.rtt"
POOL_CONNECTIONS: Final = "httptrace.pool.connections"
POOL_IDLE: Final = "httptrace.pool.idle"
POOL_WAITING: Final = "httptrace.pool.waiting"
POOL_LIMIT: Final = "httptrace.pool.limit"
LINK: Final = "httptrace.link"

LINK_CONNECTION_LOST_BY: Final = "connection_lost_by"
LINK_POOL_HELD_BY: Final = "pool_held_by"
LINK_CONNECTION_OPENED_BY: Final = "connection_opened_by"

#: The instrumentation scope of the spans that we annotate.
UPSTREAM_SCOPE: Final = "opentelemetry.instrumentation.httpx"

# Metrics.
METRIC_DNS_LOOKUP_DURATION: Final = "dns.lookup.duration"
METRIC_OPEN_CONNECTIONS: Final = "http.client.open_connections"
METRIC_CONNECTION_DURATION: Final = "http.client.connection.duration"
METRIC_TIME_IN_QUEUE: Final = "http.client.request.time_in_queue"
METRIC_REQUESTS: Final = "httptrace.requests"
METRIC_REQUESTS_FAILED: Final = "httptrace.requests.failed"
METRIC_CONNECTIONS_OPENED: Final = "httptrace.connections.opened"
METRIC_CONNECTIONS_CLOSED: Final = "httptrace.connections.closed"
METRIC_BODIES: Final = "httptrace.bodies"
METRIC_RESPONSES_OPEN: Final = "httptrace.responses.open"
METRIC_RESPONSES_OPEN_MAX_AGE: Final = "httptrace.responses.open.max_age"
