"""What is leaned on of the servers and of upstream that they do not document, each with its versions."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Final

from ..ledger import Reason

#: Where upstream's instrumentations start the span of a request, each a name of its own in these modules
#: (opentelemetry-instrumentation 0.65b0 to 0.66b2).
SPAN_STARTERS: Final = (
    "opentelemetry.instrumentation.asgi",
    "opentelemetry.instrumentation.wsgi",
    "opentelemetry.instrumentation.flask",
    "opentelemetry.instrumentation.django.middleware.otel_middleware",
    "opentelemetry.instrumentation.falcon",
    "opentelemetry.instrumentation.pyramid.callbacks",
    "opentelemetry.instrumentation.tornado",
)
SPAN_STARTER: Final = "_start_internal_or_server_span"


def had_its_requests(protocol: Any) -> bool:
    """Whether uvicorn's server stops because of ``limit_max_requests`` (0.54: `Server.on_tick`)."""
    most = protocol.config.limit_max_requests
    return most is not None and protocol.server_state.total_requests >= most


def idled_out(conn: Any) -> bool:
    """Whether gunicorn's `TConn` has waited for as long as it may (27: `ThreadWorker.murder_keepalived`)."""
    return conn.timeout is not None and bool(time.monotonic() >= conn.timeout)


def stops_because(worker: Any) -> Reason:
    """Why a worker of gunicorn's stops (27: it sets ``alive`` for both)."""
    return Reason.MAX_REQUESTS if worker.nr >= worker.max_requests else Reason.SHUTDOWN


def not_kept(worker: Any, req: Any) -> Reason:
    """Why a worker of gunicorn's does not keep a connection after *req* (27: `ThreadWorker.handle_request`)."""
    if req.should_close() or worker.alive:
        # The client's word, HTTP/1.0, or the server's own: no keep-alive, or as many waiting as it may have.
        return Reason.CONNECTION_CLOSE
    return stops_because(worker)


def closes(protocol: Any) -> bool:
    """Whether uvicorn closes the connection with the response that is over (0.54: `RequestResponseCycle.send`)."""
    if not protocol.cycle.keep_alive:
        return True
    machine: Any = getattr(protocol, "conn", None)
    if hasattr(machine, "should_close"):
        return bool(machine.should_close())
    # h11's state of our side; httptools has none.
    return machine is not None and str(machine.our_state) != "DONE"


def speaks_tls(protocol: Any) -> bool:
    """Whether an asyncio protocol's connection is encrypted (uvicorn 0.54, gunicorn 27: ``transport``)."""
    return protocol.transport.get_extra_info("sslcontext") is not None


def is_backed_up(protocol: Any) -> bool:
    """Whether more of a response waits for the client than asyncio holds without a word.

    (uvicorn 0.54, gunicorn 27: `FlowControl`, which either has under another name.)
    """
    flow = getattr(protocol, "flow", None) or getattr(protocol, "_flow_control", None)
    return flow is not None and bool(flow.write_paused)


def raised_in(package: str, error: BaseException) -> bool:
    """Whether *error* was raised by a function of this package, or by a socket that it used."""
    raised = False
    entry = error.__traceback__
    while entry is not None:
        name = entry.tb_frame.f_globals.get("__name__")
        root = name.partition(".")[0] if isinstance(name, str) else None
        # With TLS the innermost functions are ssl's, whoever called them.
        if root not in ("ssl", "socket"):
            raised = root == package
        entry = entry.tb_next
    return raised


def asgi_not_kept(worker: Any, request: Any) -> Reason | None:
    """Why gunicorn's asgi worker does not keep a connection after *request* (27: `ASGIProtocol._will_close`).

    None where that is for none of these: the response was no complete one.
    """
    if request.should_close():
        return Reason.CONNECTION_CLOSE
    if worker.nr + 1 >= worker.max_requests:
        return Reason.MAX_REQUESTS
    if not worker.alive:
        return Reason.SHUTDOWN
    return None if worker.cfg.keepalive else Reason.CONNECTION_CLOSE


# hypercorn 0.18. A stream's `send` is a bound method of its protocol, the protocol's one of the TCPServer.


def wrapper_of(server: Any) -> Any:
    """The `ProtocolWrapper` of a `TCPServer`; None where it has not come to making one."""
    return getattr(server, "protocol", None)


def wrapper_of_stream(app_send: Any) -> Any:
    """The `ProtocolWrapper` of the stream whose `app_send` this is; None for QUIC and whatever else there may be."""
    server = app_send.__self__.send.__self__.send.__self__
    return wrapper_of(server) if type(server).__name__ == "TCPServer" else None


def is_the_clients_end(wrapper: Any, event: Any) -> bool:
    """Whether this event, as the wrapper is handed it, says that the client has closed."""
    kind = type(event).__name__
    if kind == "RawData":
        return not event.data
    # The reading loop is over at the client's end, or after `read_timeout`, or a write has failed.
    return kind == "Closed" and wrapper.config.read_timeout is None


def is_unsent(handled: TracebackType | None) -> bool:
    """Whether this, of the exception that is being handled, says that bytes could not be written.

    `TCPServer.protocol_send` tells the wrapper of the client's end while it handles that. A body whose length was
    announced ends with a write of nothing, which fails on trio's TLS where the client has closed, having had it all.
    """
    if handled is None:
        return False
    event = handled.tb_frame.f_locals.get("event")
    return bool(getattr(event, "data", True))


def hypercorn_stops(context: Any) -> Reason | None:
    """Why a worker of hypercorn's stops, if it does (`WorkerContext.mark_request`)."""
    if not context.terminated.is_set():
        return None
    most = context.max_requests
    return Reason.MAX_REQUESTS if most is not None and context.requests > most else Reason.SHUTDOWN


def not_recycled(protocol: Any) -> Reason | None:
    """Why `H11Protocol._maybe_recycle` is about to close the connection; None if it will not."""
    connection = protocol.connection
    ours, theirs = str(connection.our_state), str(connection.their_state)
    if protocol.keep_alive_requests >= protocol.config.keep_alive_max_requests:
        return Reason.MAX_REQUESTS
    if "MUST_CLOSE" in (ours, theirs):
        return Reason.CONNECTION_CLOSE
    if ours != "DONE":
        # The response has not come to its end.
        return Reason.ERROR
    stops = hypercorn_stops(protocol.context)
    if stops is not None or theirs == "DONE":
        return stops
    # The body of the request was not read to its end.
    return Reason.UNKNOWN


def h2_failed(protocol: Any) -> bool:
    """Whether this is HTTP/2, and h2 has ended the connection because what came was none."""
    machine = getattr(protocol.connection, "state_machine", None)
    return machine is not None and getattr(machine.state, "name", "") == "CLOSED"
