# uvicorn 0.54. A protocol object is a connection; for each request it makes a
# cycle, whose `run_asgi` is a task. The cycle knows its protocol by the callback
# `on_response`, which is a bound method of it until the task is over.
#
# `on_response_complete` runs within the application's last `send`, after the
# transport was closed if it is to be, and before the instrumentation ends the
# span: there the reason of a close can still be told on it.
#
# Who closes? The timer, `shutdown`, a response that says "Connection: close", a
# failed application, and a request that is no HTTP each have a function of their
# own. The client's end comes as `eof_received`, a reset as `connection_lost` with
# an exception. A transport that is lost without any of these is UNKNOWN.

"""uvicorn: its protocols on h11, httptools and zttp."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from ...observe.marks import attach, attached
from ..ledger import Reason
from . import seams
from .hooked import OnProtocols, replace_all

Hook = Callable[..., Any]

#: Module, and the classes of its connections and its requests.
PROTOCOLS = {
    "uvicorn.protocols.http.h11_impl": ("H11Protocol", "RequestResponseCycle"),
    "uvicorn.protocols.http.httptools_impl": ("HttpToolsProtocol", "RequestResponseCycle"),
    "uvicorn.protocols.http.zttp_impl": ("ZttpProtocol", "RequestResponseCycle"),
    "uvicorn.protocols.http.zttp_h2_impl": ("ZttpH2Protocol", "RequestResponseCycle"),
}


class Uvicorn(OnProtocols):
    """Hooks on uvicorn's protocols.

    Args:
        patches: what is replaced, to be restored.
        watch: is told what happens.
    """

    #: Modules whose import is waited for.
    modules: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)

    def install(self, module: ModuleType) -> None:
        """Watch the connections of the protocol that *module* has."""
        connection, cycle = PROTOCOLS[module.__name__]
        protocol, cycles = getattr(module, connection, None), getattr(module, cycle, None)
        hooks: list[tuple[Any, str, Any]] = [
            (protocol, "connection_made", self._connection_made),
            (protocol, "connection_lost", self._connection_lost),
            (protocol, "eof_received", partial(self._before, self._hung_up)),
            (protocol, "timeout_keep_alive_handler", partial(self._before, self._timed_out)),
            (protocol, "shutdown", partial(self._before, self._shutting_down)),
            (cycles, "run_asgi", self._run_asgi),
            (cycles, "send_500_response", partial(self._before, self._failing)),
        ]
        if hasattr(protocol, "_close_connection"):
            # HTTP/2, which closes in this one function.
            hooks.append((protocol, "_close_connection", partial(self._before, self._going_away)))
            hooks.append((protocol, "data_received", self._received))
            hooks.append((protocol, "on_response_complete", self._stream_complete))
        else:
            hooks.append((protocol, "send_400_response", partial(self._before, self._no_http)))
            hooks.append((protocol, "handle_websocket_upgrade", partial(self._before, self._upgraded)))
            hooks.append((protocol, "on_response_complete", partial(self._before, self._response_complete)))
        replace_all(self._patches, *hooks)

    def _going_away(self, protocol: Any) -> None:
        # Of what calls it, the client's GOAWAY alone has no function of its own.
        if not protocol.transport.is_closing():
            self._watch.told(protocol, Reason.GOAWAY)
            self._watch.closing(protocol)

    def _timed_out(self, protocol: Any) -> None:
        if not protocol.transport.is_closing():
            self._watch.closing(protocol, Reason.KEEPALIVE_TIMEOUT)

    def _shutting_down(self, protocol: Any) -> None:
        self._watch.told(protocol, Reason.MAX_REQUESTS if seams.had_its_requests(protocol) else Reason.SHUTDOWN)
        conn = self._watch.of(protocol)
        if conn is not None and not conn.under_way:
            self._watch.closing(protocol)

    def _no_http(self, protocol: Any) -> None:
        self._watch.closing(protocol, Reason.ERROR)

    def _upgraded(self, protocol: Any) -> None:
        self._watch.closing(protocol, Reason.UPGRADED)
        self._watch.lost(protocol)

    # A request.

    def _run_asgi(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        async def run_asgi(self: Any, app: Any) -> Any:
            request = protocol = None
            try:
                protocol = self.on_response.__self__
                request = watch.began(protocol, self.scope)
                if request is not None:
                    # On HTTP/2 there may be others: it is asked for by its cycle.
                    attach(self, request)
            except BaseException:
                contain("run_asgi")
            try:
                return await original(self, app)
            finally:
                if request is not None:
                    try:
                        if self.transport.is_closing():
                            # By none of the functions that have a reason: because the application failed.
                            watch.told(protocol, Reason.ERROR)
                            watch.closing(protocol, by=request)
                        watch.done(request)
                    except BaseException:
                        contain("run_asgi")

        return run_asgi

    def _failing(self, cycle: Any) -> None:
        self._watch.told(cycle.on_response.__self__, Reason.ERROR)

    def _response_complete(self, protocol: Any) -> None:
        conn = self._watch.of(protocol)
        if conn is None or not conn.under_way:
            return
        request = conn.under_way[0]
        if protocol.transport.is_closing():
            if attached(protocol.cycle) is request and not seams.closes(protocol):
                # A write has failed, and the transport has not come to say so.
                self._watch.hung_up(protocol, unsent=True)
            else:
                conn.told(Reason.CONNECTION_CLOSE)
                self._watch.closing(protocol)
        self._watch.answered(request)

    def _received(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def data_received(self: Any, data: Any) -> Any:
            result = original(self, data)
            try:
                if self.transport.is_closing():
                    # By none of the functions that have a reason: because what came was no HTTP/2.
                    watch.closing(self, Reason.ERROR)
            except BaseException:
                contain("data_received")
            return result

        return data_received

    def _stream_complete(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def on_response_complete(self: Any, stream_id: Any) -> Any:
            try:
                request = attached(self.cycles.get(stream_id))
                if request is not None:
                    watch.answered(request)
            except BaseException:
                contain("on_response_complete")
            return original(self, stream_id)

        return on_response_complete
