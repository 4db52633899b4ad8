# hypercorn 0.18, on asyncio and on trio. A `TCPServer` runs a connection, and makes
# a `ProtocolWrapper` for it, which is where its record is put; within that is a
# protocol for HTTP/1.1 or HTTP/2, which may change once. Each request is a stream
# of that, and runs the application in a task of the function `_handle`.
#
# The wrapper is handed what comes: no bytes are the client's end, and `Closed` is
# what the reading loop says when it is over, or a write that failed. Who closes
# first has been told by then, if it was the server: its idle timer, the end of a
# response after which the protocol cannot be used again, or a request that is no
# HTTP each have a function of their own.

"""hypercorn: HTTP/1.1 and HTTP/2, on asyncio and trio."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from ...observe.lookalike import preceded
from ...observe.patches import Patches
from ..ledger import Reason
from ..watch import Watch
from . import seams
from .hooked import replace_all

Hook = Callable[..., Any]


class Hypercorn:
    """Hooks on hypercorn's connections.

    Args:
        patches: what is replaced, to be restored.
        watch: is told what happens.
    """

    modules: ClassVar[tuple[str, ...]] = (
        "hypercorn.protocol",
        "hypercorn.protocol.h11",
        "hypercorn.protocol.http_stream",
        "hypercorn.protocol.h2",
        "hypercorn.asyncio.tcp_server",
        "hypercorn.asyncio.task_group",
        "hypercorn.trio.tcp_server",
        "hypercorn.trio.task_group",
    )

    def __init__(self, patches: Patches, watch: Watch) -> None:
        self._patches = patches
        self._watch = watch

    def install(self, module: ModuleType) -> None:
        """Watch what *module* has."""
        before, part = self._before, module.__name__.rpartition(".")[2]
        hooks: dict[str, Callable[[], list[tuple[Any, str, Any]]]] = {
            "protocol": lambda: [
                (module.ProtocolWrapper, "__init__", self._made),
                (module.ProtocolWrapper, "handle", self._handed),
            ],
            "h11": lambda: [
                (module.H11Protocol, "_maybe_recycle", partial(before, self._responded)),
                (module.H11Protocol, "_send_error_response", partial(before, self._no_http)),
            ],
            "h2": lambda: [(module.H2Protocol, "_handle_events", self._frames)],
            "http_stream": lambda: [
                (module.HTTPStream, "_send_error_response", self._answers_for_it),
                (module.HTTPStream, "app_send", self._sends),
            ],
            "tcp_server": lambda: [
                (module.TCPServer, "run", self._runs),
                (module.TCPServer, "_close", partial(before, self._closing)),
                (module.TCPServer, "_initiate_server_close", partial(before, self._idled_out)),
            ],
            "task_group": lambda: [(module, "_handle", self._handles)],
        }
        replace_all(self._patches, *hooks[part]())

    def _before(self, tell: Callable[[Any], object], original: Hook) -> Hook:
        return preceded(original, tell, partial(self._watch.guard.contain, tell.__name__))

    # A connection.

    def _made(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            try:
                watch.accepted(self, self.client, self.server)
            except BaseException:
                contain("__init__")

        return __init__

    def _runs(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def run(self: Any) -> Any:
            try:
                return await original(self)
            finally:
                try:
                    watch.lost(seams.wrapper_of(self))
                except BaseException:
                    contain("run")

        return run

    def _handed(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def handle(self: Any, event: Any) -> Any:
            try:
                if seams.is_the_clients_end(self, event):
                    watch.hung_up(self, unsent=seams.is_unsent(sys.exc_info()[2]))
            except BaseException:
                contain("handle")
            return await original(self, event)

        return handle

    def _closing(self, server: Any) -> None:
        wrapper = seams.wrapper_of(server)
        if wrapper is not None:
            if seams.h2_failed(wrapper.protocol):
                self._watch.told(wrapper, Reason.ERROR)
            self._watch.closing(wrapper)

    def _idled_out(self, server: Any) -> None:
        wrapper = seams.wrapper_of(server)
        if wrapper is not None:
            self._watch.closing(wrapper, seams.hypercorn_stops(wrapper.context) or Reason.KEEPALIVE_TIMEOUT)

    def _no_http(self, protocol: Any) -> None:
        self._watch.closing(seams.wrapper_of(protocol.send.__self__), Reason.ERROR)

    # A request.

    def _sends(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def app_send(self: Any, message: Any) -> None:
            try:
                if (
                    message is not None
                    and message["type"] == "http.response.body"
                    and not message.get("more_body", False)
                    and type(self.send.__self__).__name__ == "H11Protocol"
                ):
                    # The client may read it and close before this goes on, which on trio is later in any case.
                    watch.answering(seams.wrapper_of(self.send.__self__.send.__self__))
            except BaseException:
                contain("app_send")
            await original(self, message)

        return app_send

    def _responded(self, protocol: Any) -> None:
        wrapper = seams.wrapper_of(protocol.send.__self__)
        conn = self._watch.of(wrapper)
        request = conn.under_way[0] if conn is not None and conn.under_way else None
        if request is not None and request.answering:
            self._watch.answered(request)
        why = seams.not_recycled(protocol)
        if why is not None:
            self._watch.told(wrapper, why)
            self._watch.closing(wrapper, by=request)

    def _answers_for_it(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def _send_error_response(self: Any, status_code: Any) -> Any:
            try:
                if status_code >= 500 and type(self.send.__self__).__name__ == "H11Protocol":
                    # The application has failed, or a server that stops has cancelled it. On HTTP/2 that ends the
                    # stream alone.
                    wrapper = seams.wrapper_of(self.send.__self__.send.__self__)
                    cancelled = sys.exc_info()[1] is not None and not isinstance(sys.exc_info()[1], Exception)
                    stops = seams.hypercorn_stops(wrapper.context) if cancelled else None
                    if stops is not None:
                        watch.closing(wrapper, stops)
                    else:
                        watch.told(wrapper, Reason.ERROR)
            except BaseException:
                contain("_send_error_response")
            return await original(self, status_code)

        return _send_error_response

    def _frames(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def _handle_events(self: Any, events: Any) -> Any:
            try:
                if any(type(event).__name__ == "ConnectionTerminated" for event in events):
                    watch.told(seams.wrapper_of(self.send.__self__), Reason.GOAWAY)
            except BaseException:
                contain("_handle_events")
            result = await original(self, events)
            try:
                if self.keep_alive_requests > self.config.keep_alive_max_requests:
                    watch.told(seams.wrapper_of(self.send.__self__), Reason.MAX_REQUESTS)
            except BaseException:
                contain("_handle_events")
            return result

        return _handle_events

    def _handles(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def _handle(
            app: Any, config: Any, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            request = None
            try:
                wrapper = seams.wrapper_of_stream(send)
                if scope["type"] == "http":
                    request = watch.began(wrapper, scope)
                elif scope["type"] == "websocket" and scope["http_version"] != "2":
                    # Of HTTP/2 it is one stream of many.
                    watch.closing(wrapper, Reason.UPGRADED)
                    watch.lost(wrapper)
            except BaseException:
                contain("_handle")
            try:
                await original(app, config, scope, receive, send, sync_spawn, call_soon)
            finally:
                if request is not None:
                    try:
                        watch.done(request)
                    except BaseException:
                        contain("_handle")

        return _handle
