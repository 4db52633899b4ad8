# A real OTLP/HTTP endpoint, as small as one can be: binary protobuf and JSON,
# gzip, the status codes and messages that the specification asks for. It stands
# in for a collector where there is none, so it must take whatever is sent to it,
# by anybody, and live.
#
# Any user of the machine can connect to a port of the loopback interface, and so can
# any page in a browser. So a receiver can have a token, which the program that is to
# be listened to has in its environment, and nobody else. A page that gets a name of
# its own to mean 127.0.0.1 (DNS rebinding) still sends that name as Host.
#
# Nothing here is written to the terminal but lines of ours, few, and fit to be shown: it is the user's.
#
# https://opentelemetry.io/docs/specs/otlp/#otlphttp

"""An embedded OTLP/HTTP receiver."""

from __future__ import annotations

import contextlib
import hmac
import io
import logging
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from . import TOKEN_HEADER
from .bounds import TooMuchError, check_json, check_protobuf, inflate
from .otlp import FormatError, parse_json
from .printable import one_line

_logger = logging.getLogger(__name__)

#: What one request may be, in bytes, before and after decompression: as much as the collector takes by default
#: (confighttp's max_request_body_size). An SDK's batch of 512 spans is about one of 20 parts of it.
MAX_BODY: Final = 20 * 1024 * 1024

#: Connections that may wait to be accepted, which each process of a program may open at the same moment. The
#: kernel has a limit of its own: net.core.somaxconn, 4,096 as a rule.
_BACKLOG: Final = 1024
#: Connections that are served at a time, each by a thread: fewer than the 1,024 files that a process may open.
_CONNECTIONS: Final = 512
#: Seconds: between two requests of a connection, and then from the first byte of one to its last.
_IDLE: Final = 30.0
_REQUEST: Final = 30.0
#: Bytes of a refused body that are read, so that its sender gets to read why; and seconds that takes.
_DRAINED: Final = 1024 * 1024
_DRAINING: Final = 1.0
#: Refusals that are told. More are no news, and would be a way to fill a terminal.
_TOLD: Final = 5

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


def new_token() -> str:
    """A token that cannot be guessed, of letters that any header and any variable can hold."""
    return secrets.token_urlsafe(32)


class Receiver:
    """Listens on a free port of the loopback interface until it is closed.

    Args:
        keep: takes every export request. Where it raises, the sender is told that nothing was kept.
        max_body: bytes that one request may be, before and after decompression.
        forward: takes every export request, too, as it came, before ``keep`` does. It must not wait or raise.
        token: what senders must have in the header ``x-httptrace-token``; None to take what anybody sends.
    """

    def __init__(
        self,
        keep: Callable[[Message], object],
        max_body: int = MAX_BODY,
        forward: Callable[[Batch], object] | None = None,
        token: str | None = None,
    ) -> None:
        self._keep = keep
        self._forward = forward
        self._max_body = max_body
        #: What senders must have in `TOKEN_HEADER`; None if nothing.
        self.token = token
        # One request is unpacked and parsed at a time: what that takes of memory is not multiplied by the senders.
        self._parsing = threading.Lock()
        self._refused = 0
        receiver = self

        class Handler(_Handler):
            owner = receiver

        self._server = _Server(("127.0.0.1", 0), Handler)
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
        with self._parsing:
            self._parse(request, content_type, encoding, body)
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
            _logger.warning("received telemetry was not kept: %s", one_line(error))
            partial: Any = response.partial_success  # type: ignore[attr-defined]
            setattr(partial, rejected, count)
            partial.error_message = str(error)
        return response

    def _parse(self, request: Message, content_type: str, encoding: str, body: bytes) -> None:
        if encoding not in ("", "identity", "gzip", "deflate"):
            raise _RefusedError(415, f"Content-Encoding {encoding} is not supported: gzip, deflate, or none")
        packed = encoding in ("gzip", "deflate")
        sent = len(body) if packed else None
        try:
            data = inflate(body, self._max_body) if packed else body
            if content_type == _JSON:
                check_json(data, sent)
                parse_json(data, request)
            else:
                check_protobuf(data, type(request), sent)
                request.ParseFromString(data)
        except zlib.error as error:
            raise _RefusedError(400, f"not {encoding}: {error}") from error
        except EOFError:
            raise _RefusedError(400, f"{encoding} data is cut off") from None
        except TooMuchError as error:
            raise _RefusedError(413, str(error)) from error
        except (DecodeError, FormatError) as error:
            raise _RefusedError(400, f"not an OTLP request: {error}") from error

    def admit(self, host: str | None, token: str | None) -> None:
        """See that a request was meant for us and sent by who may.

        Args:
            host: the header Host, as ``token`` is the one of that name; None if there is none.

        Raises:
            _RefusedError: it was not.
        """
        if host is None:
            raise _RefusedError(400, "Host expected")
        if host.strip().lower() not in self._hosts():
            raise _RefusedError(421, "Host is not this receiver's")
        # In the same time, however much of it is right.
        if self.token is not None and not hmac.compare_digest((token or "").encode(), self.token.encode()):
            raise _RefusedError(403, f"{TOKEN_HEADER} is missing or wrong: this receiver listens to one program only")

    def _hosts(self) -> tuple[str, ...]:
        port = self._server.server_port
        return f"127.0.0.1:{port}", f"localhost:{port}"

    def tell(self, path: str, refused: _RefusedError) -> None:
        """Log that a request was refused, unless that has been done often enough."""
        self._refused += 1
        level = logging.WARNING if self._refused <= _TOLD else logging.DEBUG
        more = "; further ones are not shown" if self._refused == _TOLD else ""
        _logger.log(level, "refused a request to %s: %s%s", one_line(path), one_line(refused), more)


class _Server(ThreadingHTTPServer):
    # The stdlib's lets five connections wait: one more tries again after a second, and then after three. It also asks
    # the DNS who 127.0.0.1 is, and prints tracebacks.
    request_queue_size = _BACKLOG
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be had for it.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        # That a sender went away is no news.
        if not isinstance(error, OSError):
            _logger.warning("a request could not be served: %s", type(error).__name__)
        _logger.debug("a request could not be served", exc_info=True)


class _Timed(io.RawIOBase):
    # What a connection sends, with an end to waiting: a byte a second must not hold a thread for ever.

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until: float | None = None

    def rest(self) -> None:
        """What comes next is another request, if it comes."""
        self._until = None

    def limit(self, seconds: float) -> None:
        """All that is still to come has to come within *seconds*."""
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wait = _IDLE if self._until is None else self._until - time.monotonic()
        if wait <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(wait)
        number = self._connection.recv_into(buffer)
        if self._until is None:
            self.limit(_REQUEST)
        return number


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Receiver
    #: Seconds that an answer may take to be written.
    timeout = 10

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._timed = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._timed)

    def handle_one_request(self) -> None:
        self._timed.rest()
        super().handle_one_request()

    def do_POST(self) -> None:
        json = False
        try:
            self._admit()
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
            self.owner.tell(self.path, refused)
            self._answer(refused.status, _Status(str(refused)), json)
            if self.close_connection:
                self._drain()

    def _admit(self) -> None:
        # Before the body is read: who may not send anything may not fill memory either.
        try:
            self.owner.admit(self.headers.get("Host"), self.headers.get(TOKEN_HEADER))
        except _RefusedError:
            self.close_connection = True
            raise

    def _body(self) -> bytes:
        # Until it has been read the connection cannot be used for another request.
        close, self.close_connection = self.close_connection, True
        lengths = set(self.headers.get_all("Content-Length", ()))
        length = lengths.pop().strip() if len(lengths) == 1 else ""
        # Not what str.isdigit takes for digits: there are more than ten.
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]+", length):
            raise _RefusedError(411, "Content-Length expected")
        # Nor as a number, before it is known to be a short one: of 4,301 digits int() makes an error.
        if len(length) > 18 or int(length) > self.owner._max_body:
            raise _RefusedError(413, f"{one_line(length, 40)} bytes are more than {self.owner._max_body}")
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            raise _RefusedError(408, f"the request did not come whole within {_REQUEST:g} s") from None
        if len(body) < int(length):
            raise _RefusedError(400, f"the body ended after {len(body)} of {length} bytes")
        self.close_connection = close
        return body

    def _drain(self) -> None:
        # A connection that is closed with something unread is reset, and with it goes the answer.
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self._timed.limit(_DRAINING)
            left = _DRAINED
            while left > 0 and (read := self.rfile.read1(65536)):
                left -= len(read)

    def do_GET(self) -> None:
        self.close_connection = True
        self._answer(405 if self.path in _SERVICES else 404, _Status("POST telemetry to /v1/traces"), json=False)

    do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET

    def _answer(self, status: int, message: Message | _Status, json: bool) -> None:
        if isinstance(message, _Status):
            body = message.json() if json else message.protobuf()
        else:
            body = json_format.MessageToJson(message).encode() if json else message.SerializeToString()
        self.connection.settimeout(self.timeout)
        self.send_response(status)
        self.send_header("Content-Type", _JSON if json else _PROTOBUF)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        _logger.debug("%s", one_line(format % args))


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
