"""``httptrace demo``."""

from __future__ import annotations

import os

import click


@click.command("demo", short_help="Run a small service that loses its connections, and show the line that does it.")
def command() -> int:
    """A program that knows nothing of tracing closes responses unread: what that costs, and which line does it.

    Everything runs on this machine. With OTEL_EXPORTER_OTLP_ENDPOINT set, such as http://localhost:4318,
    the spans go to that backend, over HTTP.
    """
    from ...demo.__main__ import main  # noqa: PLC0415

    return main(os.environ)
