# gunicorn 27, its own asgi worker. A protocol object is a connection; each HTTP/1
# request is a task of `_handle_http_request`, which answers whether the
# connection may be kept. It settles the future `complete` with the same answer
# as soon as the response is out, and the application may go on after that.
#
# `_close_transport` is how the server closes; the functions that call it without
# a request have told why before, or it is the end of a request that was not kept.

"""gunicorn: its asgi worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from ..ledger import Reason, Request
from ..watch import Watch
from . import seams
from .hooked import OnProtocols, replace_all

Hook = Callable[..., Any]


class GunicornAsgi(OnProtocols):
    """Hooks on the protocol of gunicorn's asgi worker.

    Args:
        patches: what is replaced, to be restored.
        watch: is told what happens.
    """

    modules: ClassVar[tuple[str, ...]] = ("gunicorn.asgi.protocol",)

    def install(self, module: ModuleType) -> None:
        """Watch the connections of the protocol that *module* has."""
        protocol, before = module.ASGIProtocol, self._before
        replace_all(
            self._patches,
            (protocol, "connection_made", self._connection_made),
            (protocol, "connection_lost", self._connection_lost),
            # Inherited, and so put on the class itself.
            (protocol, "eof_received", partial(before, self._hung_up)),
            (protocol, "_keepalive_timeout", partial(before, self._timed_out)),
            (protocol, "_close_transport", partial(before, self._closing)),
            (protocol, "_send_error_response", self._send_error),
            (protocol, "_handle_http_request", self._handle_request),
            (protocol, "_build_http_scope", self._builds),
        )
        if hasattr(protocol, "_handle_http2_request"):
            replace_all(
                self._patches,
                (protocol, "_handle_http2_request", self._handle_stream),
                (protocol, "_build_http2_scope", self._builds_stream),
            )

    def _timed_out(self, protocol: Any) -> None:
        self._watch.closing(protocol, Reason.KEEPALIVE_TIMEOUT)

    def _send_error(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def _send_error_response(self: Any, status: Any, message: Any, extra_headers: Any = ()) -> Any:
            try:
                watch.told(self, Reason.ERROR)
            except BaseException:
                contain("_send_error_response")
            return original(self, status, message, extra_headers)

        return _send_error_response

    def _closing(self, protocol: Any) -> None:
        if not protocol.worker.alive:
            self._watch.told(protocol, seams.stops_because(protocol.worker))
        self._watch.closing(protocol)

    # A request.

    def _handle_request(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def _handle_http_request(
            self: Any, request: Any, sockname: Any, peername: Any, complete: Any = None
        ) -> Any:
            ours: Request | None = None
            try:
                ours = watch.began(self)
                if ours is not None and complete is not None:
                    ours.settle = partial(_settle, watch, self, request, ours, complete)
                    complete.add_done_callback(partial(_settled, contain, ours))
            except BaseException:
                contain("_handle_http_request")
            kept = False
            try:
                kept = await original(self, request, sockname, peername, complete)
            finally:
                if ours is not None:
                    try:
                        if not kept and not ours.over:
                            watch.told(self, Reason.ERROR)
                            watch.closing(self, by=ours)
                        watch.done(ours)
                    except BaseException:
                        contain("_handle_http_request")
            return kept

        return _handle_http_request

    def _builds(self, original: Hook) -> Hook:
        hand, contain = self._hand, self._watch.guard.contain

        def _build_http_scope(self: Any, request: Any, sockname: Any, peername: Any) -> Any:
            scope = original(self, request, sockname, peername)
            try:
                hand(self, scope)
            except BaseException:
                contain("_build_http_scope")
            return scope

        return _build_http_scope

    def _builds_stream(self, original: Hook) -> Hook:
        hand, contain = self._hand, self._watch.guard.contain

        def _build_http2_scope(self: Any, *args: Any, **kwargs: Any) -> Any:
            scope = original(self, *args, **kwargs)
            try:
                hand(self, scope)
            except BaseException:
                contain("_build_http2_scope")
            return scope

        return _build_http2_scope

    def _hand(self, protocol: Any, scope: Any) -> None:
        # It is built in the same step in which the request began: the last one.
        conn = self._watch.of(protocol)
        if conn is not None and conn.under_way and not conn.under_way[-1].keys:
            self._watch.handed(conn.under_way[-1], scope)

    def _handle_stream(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def _handle_http2_request(self: Any, request: Any, h2_conn: Any, sockname: Any, peername: Any) -> Any:
            ours: Request | None = None
            try:
                ours = watch.began(self)
            except BaseException:
                contain("_handle_http2_request")
            try:
                return await original(self, request, h2_conn, sockname, peername)
            finally:
                if ours is not None:
                    try:
                        watch.done(ours)
                    except BaseException:
                        contain("_handle_http2_request")

        return _handle_http2_request


def _settled(contain: Callable[[str], object], request: Request, complete: Any) -> None:
    # The event loop calls this, and tells of what is raised here: perhaps when the request has been over for a while.
    try:
        if request.settle is not None:
            request.settle()
    except BaseException:
        contain("_handle_http_request")


def _settle(watch: Watch, protocol: Any, head: Any, request: Request, complete: Any) -> None:
    """The response is out, if *complete* is done, and that has not been told before."""
    if complete.done() and not request.over:
        if not complete.cancelled() and complete.exception() is None and not complete.result():
            watch.closing(protocol, seams.asgi_not_kept(protocol.worker, head), by=request)
        watch.answered(request)
