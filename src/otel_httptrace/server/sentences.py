# A request on a kept connection that lives on has no sentence. Nor has one whose
# connection ends as all of its kind do: with a worker that keeps none, or a client
# or an application that says "Connection: close". That would be on each request,
# and the attribute says it.

"""The sentences of the event ``httptrace.diagnosis`` on the request spans of servers."""

from __future__ import annotations

from typing import Final

from ..telemetry.units import spoken
from .ledger import Loss, Reason, Request

#: Of a request that came on a new connection, by why one of that peer had ended between two requests before.
LOST: Final = {
    Reason.KEEPALIVE_TIMEOUT: "A new connection of {peer}: this server's keep-alive timeout had closed one before, "
    "which had carried {requests} and had been idle for {idle}.",
    # Only where it had carried one request: to close a connection that was used is what clients do in the end.
    Reason.CLIENT_CLOSED: "A new connection of {peer}: the client had closed one before, which had carried {requests} "
    "and had been idle for {idle}.",
}

#: Of a request with which its connection ends, by why.
ENDED: Final = {
    Reason.CLIENT_LEFT: "The client left before this request was over, {took} after it had begun: it closed connection "
    "{conn}.",
    Reason.ERROR: "Connection {conn} ends with this request: the application failed, or what came was no HTTP.",
    Reason.MAX_REQUESTS: "Connection {conn} ends with this request: it, or its worker, has carried as many requests as "
    "it may.",
    Reason.SHUTDOWN: "Connection {conn} ends with this request: the server, or the worker, was told to stop.",
}


def of_loss(loss: Loss, peer: str | None) -> str | None:
    """What is said of a request that came on a new connection after *loss*; None if nothing is.

    Args:
        loss: what the ledger says that it came after.
        peer: whose it was, the peer's address.
    """
    text = LOST.get(loss.reason)
    if text is None or (loss.reason is Reason.CLIENT_CLOSED and loss.requests > 1):
        return None
    requests = "1 request" if loss.requests == 1 else f"{loss.requests} requests"
    return text.format(peer=peer, requests=requests, idle=spoken(loss.idle / 1e9))


def of_end(request: Request, reason: Reason) -> str | None:
    """What is said of *request*, with which its connection ends; None if nothing is."""
    text = ENDED.get(reason)
    if text is None:
        return None
    conn = request.conn
    began = conn.at + request.age
    return text.format(conn=conn.id, took=spoken(((conn.closing_at or began) - began) / 1e9))
