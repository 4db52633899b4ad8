"""What a request costs a server: uvicorn on httptools, a connection that is kept, without a socket.

Three applications in turn, round after round, each in a process time of its own; the least of all rounds counts.
The unit is what the ASGI instrumentation adds to a bare request: what is printed is our share of that.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor

#: Of what the instrumentation adds.
BUDGET = 0.15
_REQUEST = b"GET /ok HTTP/1.1\r\nHost: test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


class _Transport(asyncio.Transport):
    """A connection that takes what is written."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _connection(app: Any) -> tuple[HttpToolsProtocol, ServerState]:
    config = Config(app, log_config=None, access_log=False, ws="none")
    config.load()
    state = ServerState()
    protocol = HttpToolsProtocol(config=config, server_state=state, app_state={})
    protocol.connection_made(_Transport())
    return protocol, state


async def _serve(app: Any, requests: int) -> float:
    """Process time of one request, in seconds."""
    protocol, state = _connection(app)
    gc.collect()
    gc.disable()
    before = time.process_time()
    for _ in range(requests):
        protocol.data_received(_REQUEST)
        while state.tasks:
            await asyncio.sleep(0)
    spent = time.process_time() - before
    gc.enable()
    protocol.timeout_keep_alive_task.cancel()  # type: ignore[union-attr]
    protocol.connection_lost(None)
    return spent / requests


def measure(exclude: list[Any], rounds: int = 15, requests: int = 2000) -> tuple[float, float, float]:
    """Process time of a request, in seconds: bare, with the ASGI instrumentation, and with ours as well."""
    provider = TracerProvider(shutdown_on_exit=False)
    meters = MeterProvider(shutdown_on_exit=False)
    instrumented = OpenTelemetryMiddleware(_app, tracer_provider=provider, meter_provider=meters, exclude_spans=exclude)
    ours = HTTPTraceServerInstrumentor()

    def once(app: Any, on: bool) -> float:
        if on:
            ours.instrument(meter_provider=meters)
        try:
            return asyncio.run(_serve(app, requests))
        finally:
            if on:
                ours.uninstrument()

    kinds: tuple[Callable[[], float], ...] = (
        lambda: once(_app, False),
        lambda: once(instrumented, False),
        lambda: once(instrumented, True),
    )
    least = [float("inf")] * len(kinds)
    for _ in range(rounds):
        for index, kind in enumerate(kinds):
            least[index] = min(least[index], kind())
    return least[0], least[1], least[2]


def main() -> None:
    """Print what the server's half adds, against what the ASGI instrumentation adds."""
    parts: list[str] = ["send", "receive"]
    for name, excluded in (("spans of send and receive too", parts[:0]), ("without them", parts)):
        bare, upstream, both = measure(excluded)
        share = (both - upstream) / (upstream - bare)
        print(
            f"{name}: bare {bare * 1e6:.1f}, the ASGI instrumentation adds {(upstream - bare) * 1e6:.1f}, "
            f"ours {(both - upstream) * 1e6:.1f} microseconds: {share:.3f} of it"
        )
    print(f"budget: {BUDGET}")


if __name__ == "__main__":
    main()
