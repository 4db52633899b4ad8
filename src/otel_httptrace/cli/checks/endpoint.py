"""Whether anybody listens where spans are to go."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from .redaction import redacted
from .result import Result, State, Subject
from .variables import protocol


def is_set(environ: Mapping[str, str]) -> bool:
    """Whether an endpoint is named; else it is the default."""
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def endpoint(subject: Subject) -> Iterator[Result]:
    """Whether the endpoint takes an export: an empty one over HTTP, over gRPC a connection is all that is tried."""
    environ = subject.environ
    grpc = protocol(environ) == "grpc"
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    if not url:
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        base = base or ("http://localhost:4317" if grpc else "http://localhost:4318")
        url = base if grpc else f"{base.rstrip('/')}/v1/traces"
    shown = redacted("", url)
    if "otlp" not in environ.get("OTEL_TRACES_EXPORTER", "otlp"):
        yield Result(State.WARNING, shown, "not tried: OTEL_TRACES_EXPORTER names no OTLP exporter")
        return
    failed = State.PROBLEM if is_set(environ) else State.WARNING
    hint = (
        "start a collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT"
        if failed is State.PROBLEM
        else "OTEL_EXPORTER_OTLP_ENDPOINT is not set, and this is the default; httptrace run needs none"
    )
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or (not grpc and parts.scheme not in ("http", "https")):
        yield Result(State.PROBLEM, shown, "not a URL", "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318")
        return
    port = port or (443 if parts.scheme == "https" else 80)
    if port == (4318 if grpc else 4317):
        yield Result(
            State.WARNING,
            shown,
            f"port {port} usually speaks {'HTTP' if grpc else 'gRPC'}, and the protocol is {protocol(environ)}",
            f"export OTEL_EXPORTER_OTLP_PROTOCOL={'http/protobuf' if grpc else 'grpc'}",
        )
    try:
        if grpc:
            socket.create_connection((parts.hostname, port), timeout=5).close()
            yield Result(State.OK, shown, "accepts connections; OTLP over gRPC was not tried")
            return
        status = _export_nothing(parts, port, environ)
    except (OSError, http.client.HTTPException) as error:
        yield Result(failed, shown, f"does not answer: {str(error) or type(error).__name__}", hint)
        return
    if 200 <= status < 300:
        yield Result(State.OK, shown, "accepts an (empty) export")
    elif status in (401, 403):
        yield Result(State.PROBLEM, shown, f"refuses the export with {status}", "see OTEL_EXPORTER_OTLP_HEADERS")
    else:
        yield Result(
            State.PROBLEM,
            shown,
            f"answers {status} to an export",
            "is it an OTLP/HTTP endpoint? Collectors listen on port 4318",
        )


def _export_nothing(parts: SplitResult, port: int, environ: Mapping[str, str]) -> int:
    host = str(parts.hostname)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        file = environ.get("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE") or environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
        context = ssl.create_default_context(cafile=file or None)
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=5)
    headers = {"Content-Type": "application/x-protobuf"}
    for pair in (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    ).split(","):
        name, equals, value = pair.partition("=")
        if equals and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name.strip()):
            headers[name.strip()] = unquote(value.strip())
    try:
        connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), b"", headers)
        return connection.getresponse().status
    except ValueError as error:
        # A header that cannot be sent: its value is not to be shown.
        raise http.client.HTTPException("OTEL_EXPORTER_OTLP_HEADERS has a value that cannot be sent") from error
    finally:
        connection.close()
