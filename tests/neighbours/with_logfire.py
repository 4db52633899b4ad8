"""logfire, which wants OpenTelemetry's providers for itself and wraps httpx by upstream's instrumentation."""

import logfire

logfire.configure(send_to_logfire=False, console=False)
logfire.instrument_httpx()

from exchange import play  # noqa: E402 - as its users do: first logfire

with logfire.span("play"):
    play()
