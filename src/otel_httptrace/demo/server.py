"""A local HTTP/1.1 server that keeps connections alive and counts them."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: More than socket buffers hold, as an API's answers often are.
_BODY = b'{"state": "up"}\n' * 65536
#: What the service takes to answer: long enough that five requests overlap.
_WORK = 0.005


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(_WORK)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_BODY)))
        self.end_headers()
        self.wfile.write(_BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing."""


class _Counting(ThreadingHTTPServer):
    daemon_threads = True
    accepted = 0

    def get_request(self) -> tuple[object, object]:  # type: ignore[override]
        connection = super().get_request()
        self.accepted += 1
        return connection

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that leaves before the body is sent is what this is about.
        pass


class Server:
    """Serves on a free port of the loopback interface, as ``localhost``, until it is left."""

    def __enter__(self) -> Server:
        self._server = _Counting(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """With a name rather than an address, so that it has to be looked up."""
        return f"http://localhost:{self._server.server_port}"

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self._server.accepted
