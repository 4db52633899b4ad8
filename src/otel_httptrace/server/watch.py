# What every server's hooks do is here, so that an adapter says only what its
# server knows. All of it is called within the server: it awaits nothing and
# blocks nothing, and a fault of ours is contained by the hook that calls.

"""Facts from the servers' hooks, to the ledger and on to telemetry."""

from __future__ import annotations

import os
import time
import weakref
from threading import get_ident
from typing import Any

from ..guard import Guard
from ..observe.marks import attach, attached
from .adapters.fallback import Fallback
from .ledger import Connection, Ledger, Reason, Request
from .telemetry import Metrics, describe, describe_end, describe_inferred, hold, is_request_span, release

_now = time.monotonic_ns


class Watch:
    """Observes the connections of this process's servers.

    Args:
        guard: contains our faults.
        ledger: decides.
        metrics: is told of each connection that ended.
        sentences: whether spans of requests that were not ordinary say so in a sentence, too.
    """

    def __init__(self, guard: Guard, ledger: Ledger, metrics: Metrics, *, sentences: bool = True) -> None:
        self._sentences = sentences
        self.guard = guard
        self.ledger = ledger
        self._metrics = metrics
        self._fallback = Fallback()
        #: Requests under way, by what finds them: the scope's and its headers' identity, or the thread's.
        self._scopes: dict[int, Request] = {}
        self._threads: dict[int, Request] = {}
        #: Whether this process has a server that we know: then a request that is not on one of its connections came on
        #: one of before we were there, or on none at all (a test client), and nothing is inferred.
        self.knows_server = False
        #: False once it is turned off: what somebody has wrapped since stays, and is inert.
        self.active = True
        watched = weakref.ref(self)

        def forked() -> None:
            watch = watched()
            if watch is not None:
                watch.ledger.begin()
                watch._fallback.begin()
                watch._scopes, watch._threads = {}, {}

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked)

    # Connections.

    def accepted(self, owner: object, peer: Any, local: Any) -> Connection | None:
        """A connection was accepted.

        Args:
            owner: the server's object for it, on which its record is put.
            peer: the peer's address, as `socket.getpeername` has it.
            local: our own, as `socket.getsockname` has it.
        """
        if not self.active:
            return None
        address, peer_port = _address(peer)
        conn = self.ledger.accepted(_address(local)[1], address, peer_port, _now())
        return conn if attach(owner, conn) else None

    def of(self, owner: object) -> Connection | None:
        """The record of *owner*; None if it was made by an earlier start, or not at all."""
        conn: Connection | None = attached(owner)
        return conn if conn is not None and conn.ledger is self.ledger else None

    def told(self, owner: object, word: Reason) -> None:
        """It will not carry another request, because of *word*."""
        conn = self.of(owner)
        if conn is not None:
            conn.told(word)

    def closing(self, owner: object, why: Reason | None = None, by: Request | None = None) -> None:
        """The server closes it.

        Args:
            owner: its object for it.
            why: because of this; without, because of what it was told before.
            by: the request whose end closes it; without, those that are under way.
        """
        conn = self.of(owner)
        if conn is not None and conn.reason is None:
            reason = conn.closing(why, _now())
            for request in (by,) if by is not None else conn.under_way:
                describe_end(request, reason, self._sentences)

    def hung_up(self, owner: object, *, unsent: bool = False) -> None:
        """The client's end came first, if nothing else has.

        Args:
            owner: the server's object for it.
            unsent: a part of a response was not taken.
        """
        conn = self.of(owner)
        if conn is not None and conn.reason is None:
            reason = conn.hung_up(_now(), unsent=unsent)
            if reason is not None:
                for request in conn.under_way:
                    describe_end(request, reason, self._sentences)

    def lost(self, owner: object) -> None:
        """The socket is gone."""
        conn = self.of(owner)
        if conn is not None and not conn.closed and self.ledger.lost(conn) and self.active:
            self._metrics.lost(conn, _now())

    # Requests.

    def began(self, owner: object, scope: Any = None, *, threaded: bool = False) -> Request | None:
        """A request that came on *owner* is handed to the application.

        Args:
            owner: the server's object for the connection.
            scope: what is handed over, if it is ASGI and made already: see `handed`.
            threaded: the application runs in this thread, and nothing else until it is done.
        """
        conn = self.of(owner)
        if conn is None or not self.active:
            return None
        request = conn.began(_now())
        if scope is not None:
            self.handed(request, scope)
        elif threaded:
            self._threads[get_ident()] = request
        return request

    def handed(self, request: Request, scope: Any) -> None:
        """The application is handed this scope for *request*."""
        # A middleware may copy the scope, or exchange its headers, but hardly both. Neither goes as long as it is under
        # way, for the server holds them: so none of these numbers is another's meanwhile.
        request.keys = id(scope), id(scope["headers"])
        for key in request.keys:
            self._scopes[key] = request

    def _request_of(self, carrier: Any) -> Request | None:
        # Not by a context variable: an application can list those that are set, and some do.
        if "headers" in carrier:
            return self._scopes.get(id(carrier)) or self._scopes.get(id(carrier["headers"]))
        return self._threads.get(get_ident())

    def span_started(self, span: Any, carrier: Any) -> None:
        """An instrumentation has started the span of a request.

        Args:
            span: that one.
            carrier: what the server handed over: a scope or an environment.
        """
        if not self.active or not is_request_span(span):
            return
        request = self._request_of(carrier)
        if request is not None and not request.over:
            if request.span is None:
                request.span = span
                describe(span, request, self._sentences)
                hold(request, self.guard.contain)
        elif not self.knows_server:
            inferred = self._fallback.request(carrier)
            if inferred is not None:
                describe_inferred(span, inferred)

    def answering(self, owner: object) -> None:
        """The last part of the response is about to be written, on HTTP/1.

        Only for a server that may learn of the client's end before it goes on from there.
        """
        conn = self.of(owner)
        if conn is not None:
            for request in conn.under_way:
                request.answering = True

    def answered(self, request: Request) -> None:
        """Its response is over."""
        request.conn.ended(request, _now())

    def done(self, request: Request) -> None:
        """The server is done with it: nothing more is to be told on its span."""
        request.conn.ended(request, _now())
        request.settle = None
        for key in request.keys:
            self._scopes.pop(key, None)
        if not request.keys and self._threads.get(get_ident()) is request:
            del self._threads[get_ident()]
        span, request.span = request.span, None
        if span is not None:
            release(request, span)


def _address(name: Any) -> tuple[str | None, int | None]:
    """Address and port, neither of which a Unix socket has."""
    if isinstance(name, (tuple, list)) and len(name) >= 2 and isinstance(name[1], int):
        return str(name[0]), name[1]
    return None, None
