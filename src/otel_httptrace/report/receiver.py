# A real OTLP/HTTP endpoint, as small as one can be: binary protobuf and JSON,
# gzip, the status codes and messages that the specification asks for. It stands
# in for a collector where there is none, so it must take whatever is sent to it,
# by whoever, and live.
#
# https://opentelemetry.io/docs/specs/otlp/#otlphttp

"""An embedded OTLP/HTTP receiver."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from .otlp import FormatError, parse_json

_logger = logging.getLogger(__name__)

#: What one request may be, in bytes, before and after decompression.
MAX_BODY: Final = 64 * 1024 * 1024

_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"

_SERVICES: Final[dict[str, tuple[type[Message], type[Message]]]] = {
    "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
    "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
    "/v1/logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
}

# How many items a request holds, and what its response calls those that were not kept.
_ITEMS: Final[dict[str, tuple[str, str, str, str]]] = {
    "/v1/traces": ("resource_spans", "scope_spans", "spans", "rejected_spans"),
    "/v1/metrics": ("resource_metrics", "scope_metrics", "metrics", "rejected_data_points"),
    "/v1/logs": ("resource_logs", "scope_logs", "log_records", "rejected_log_records"),
}


class Batch(NamedTuple):
    """A request as it came, to be sent on.

    Args:
        path: ``/v1/traces``, ``/v1/metrics`` or ``/v1/logs``.
        content_type: of the body, as is ``content_encoding``, which is empty if there is none.
        items: how many there are in it of ``what``: spans, metrics, log records.
    """

    path: str
    content_type: str
    content_encoding: str
    body: bytes
    items: int
    what: str


class _RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status code.
        message: what is wrong, for whoever sent it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Receiver:
    """Listens on a free port of the loopback interface until it is closed.

    Args:
        keep: takes every export request. Where it raises, the sender is told that nothing was kept.
        max_body: bytes that one request may be, before and after decompression.
        forward: takes every export request, too, as it came, before ``keep`` does. It must not wait or raise.
    """

    def __init__(
        self,
        keep: Callable[[Message], object],
        max_body: int = MAX_BODY,
        forward: Callable[[Batch], object] | None = None,
    ) -> None:
        self._keep = keep
        self._forward = forward
        self._max_body = max_body
        receiver = self

        class Handler(_Handler):
            owner = receiver

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            # How long closing may take, in seconds.
            target=self._server.serve_forever,
            args=(0.05,),
            name="otlp-receiver",
            daemon=True,
        )
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """What ``OTEL_EXPORTER_OTLP_ENDPOINT`` is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening; what was received has been handed on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def receive(self, path: str, content_type: str, encoding: str, body: bytes) -> Message:
        """Take one request's body, and return the response message.

        Raises:
            _RefusedError: it cannot be read.
        """
        kinds = _SERVICES.get(path)
        if kinds is None:
            raise _RefusedError(404, f"no such path: {path}; there are {', '.join(_SERVICES)}")
        request, response = kinds[0](), kinds[1]()
        data = self._decompress(body, encoding)
        try:
            if content_type == _JSON:
                parse_json(data, request)
            else:
                request.ParseFromString(data)
        except (DecodeError, FormatError) as error:
            raise _RefusedError(400, f"not an OTLP request: {error}") from error
        resources, scopes, items, rejected = _ITEMS[path]
        count = sum(
            len(getattr(scope, items))
            for resource in getattr(request, resources)
            for scope in getattr(resource, scopes)
        )
        if self._forward is not None:
            self._forward(Batch(path, content_type, encoding, body, count, items.replace("_", " ")))
        try:
            self._keep(request)
        except Exception as error:
            _logger.warning("received telemetry was not kept: %s", error)
            partial: Any = response.partial_success  # type: ignore[attr-defined]
            setattr(partial, rejected, count)
            partial.error_message = str(error)
        return response

    def _decompress(self, body: bytes, encoding: str) -> bytes:
        if encoding in ("", "identity"):
            return body
        if encoding not in ("gzip", "deflate"):
            raise _RefusedError(415, f"Content-Encoding {encoding} is not supported: gzip, deflate, or none")
        # Bounded: a few bytes can unpack to more than there is memory.
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            data = unpacker.decompress(body, self._max_body)
        except zlib.error as error:
            raise _RefusedError(400, f"not {encoding}: {error}") from error
        if unpacker.unconsumed_tail:
            raise _RefusedError(413, f"more than {self._max_body} bytes after decompression")
        if not unpacker.eof:
            raise _RefusedError(400, f"{encoding} data is cut off")
        return data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Receiver
    # A sender that stalls must not hold a thread for ever.
    timeout = 30

    def do_POST(self) -> None:
        json = False
        try:
            content_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
            json = content_type == _JSON
            body = self._body()
            if content_type not in (_PROTOBUF, _JSON):
                raise _RefusedError(
                    415, f"Content-Type {content_type or 'is missing'}: {_PROTOBUF} or {_JSON} expected"
                )
            encoding = (self.headers.get("Content-Encoding") or "").strip().lower()
            self._answer(200, self.owner.receive(self.path.partition("?")[0], content_type, encoding, body), json)
        except _RefusedError as refused:
            _logger.warning("refused a request to %s: %s", self.path, refused)
            self._answer(refused.status, _Status(str(refused)), json)

    def _body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            self.close_connection = True
            raise _RefusedError(411, "Content-Length expected")
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit():
            self.close_connection = True
            raise _RefusedError(411, "Content-Length expected")
        if int(length) > self.owner._max_body:
            # Not read, so the connection cannot be used for another request.
            self.close_connection = True
            raise _RefusedError(413, f"{length} bytes are more than {self.owner._max_body}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise _RefusedError(400, f"the body ended after {len(body)} of {length} bytes")
        return body

    def do_GET(self) -> None:
        self.close_connection = True
        self._answer(405 if self.path in _SERVICES else 404, _Status("POST telemetry to /v1/traces"), json=False)

    do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

    def _answer(self, status: int, message: Message | _Status, json: bool) -> None:
        if isinstance(message, _Status):
            body = message.json() if json else message.protobuf()
        else:
            body = json_format.MessageToJson(message).encode() if json else message.SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", _JSON if json else _PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        _logger.debug(format, *args)


class _Status:
    """A ``google.rpc.Status`` with a message: two fields, of which we send one (number 2, a string)."""

    def __init__(self, message: str) -> None:
        self._message = message

    def protobuf(self) -> bytes:
        text = self._message.encode()
        length, number = b"", len(text)
        while number > 0x7F:
            length += bytes([number & 0x7F | 0x80])
            number >>= 7
        return b"\x12" + length + bytes([number]) + text

    def json(self) -> bytes:
        import json  # noqa: PLC0415

        return json.dumps({"message": self._message}).encode()
