"""A server that we know nothing of: what follows from the client's address and port, and says that it does."""

from __future__ import annotations

import asyncio
import http.server
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from kit.servers import NUMBERS, Seen, until
from kit.sockets import Client
from kit.webapps import wsgi
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

from otel_httptrace.server.adapters.fallback import _FORGOTTEN, _MOST, Fallback


@pytest.fixture
def port(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where a server listens that no adapter knows; it keeps connections."""
    # Those that are known are imported here, too.
    monkeypatch.setattr(seen.instrumentor._watch, "knows_server", False)
    app = OpenTelemetryMiddleware(wsgi, tracer_provider=seen.tracer_provider)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            environ: dict[str, Any] = {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "SERVER_PROTOCOL": "HTTP/1.1",
                "wsgi.input": io.BytesIO(),
                "wsgi.url_scheme": "http",
                "SERVER_NAME": "test",
                "SERVER_PORT": "80",
                "REMOTE_ADDR": self.client_address[0],
                "REMOTE_PORT": str(self.client_address[1]),
                "RAW_URI": self.path,
            }

            def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
                self.send_response(int(status.split(maxsplit=1)[0]))
                for header in headers:
                    self.send_header(*header)
                self.end_headers()

            for part in app(environ, start_response):
                self.wfile.write(part)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_says_that_it_is_inferred(seen: Seen, port: int) -> None:
    """Reused, requests and an id of its own for each connection: no idle time, no age, and the mark."""
    client = Client(port, NUMBERS)
    first, second = client.connect(), client.connect()
    for conn in (first, second, first):
        conn.get()
    client.over()
    numbers = [sent.number for sent in client.sent]
    until(lambda: set(numbers) <= set(seen.requests()))
    told = [{k: v for k, v in seen.requests()[n].items() if "httptrace" in k or "reused" in k} for n in numbers]
    ids = [one.pop("httptrace.server.conn.id") for one in told]
    assert ids[0] == ids[2] != ids[1]
    assert told == [
        {
            "http.conn.reused": before > 0,
            "httptrace.server.conn.requests": before,
            "httptrace.server.conn.inferred": True,
        }
        for before in (0, 0, 1)
    ]


def test_calls_in_the_process_are_no_connections(seen: Seen, port: int) -> None:
    """What httpx's WSGITransport and ASGITransport hand over has a client, but no connection: nothing is said."""
    number = next(NUMBERS)

    async def call() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(seen.app())) as client:
            await client.get(f"http://test/ok?n={number}")

    asyncio.run(call())
    assert not [name for name in seen.requests()[number] if "httptrace" in name]


def test_a_pair_that_was_long_gone_is_another_connection() -> None:
    """After two minutes unseen, the port has been used again."""
    fallback = Fallback()
    scope = {"client": ("10.0.0.7", 40000)}
    times = (1, 2, _FORGOTTEN + 3)
    assert [(found.number, found.before) for at in times if (found := fallback.request(scope, at))] == [
        (1, 0),
        (1, 1),
        (2, 0),
    ]


@pytest.mark.parametrize(
    "carrier",
    [
        {},
        {"client": None},
        {"client": ("testclient", 50000)},
        {"client": ("10.0.0.7", 0)},
        {"REMOTE_ADDR": "::1"},
        None,
    ],
)
def test_no_client_no_word(carrier: Any) -> None:
    """Without a client's address and port nothing is inferred."""
    assert Fallback().request(carrier) is None


def test_bounded() -> None:
    """However many clients come, so many are remembered."""
    fallback = Fallback()
    for number in range(_MOST + 500):
        fallback.request({"client": (f"10.0.{number // 60000}.1", 2000 + number % 60000)}, number)
    assert len(fallback._seen) == _MOST
