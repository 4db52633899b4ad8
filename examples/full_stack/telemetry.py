"""What both services do with their telemetry before they end."""

from opentelemetry import metrics, trace


def flush() -> None:
    # uvicorn ends by the very SIGTERM that stopped it, so Python's exit handlers never run,
    # and it is one of them that would send what has not been sent yet.
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        if hasattr(provider, "force_flush"):  # there is an SDK: opentelemetry-instrument runs this
            provider.force_flush()
