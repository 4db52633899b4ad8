"""Redirects: a circle is told, and so is a URL that is wrong each time; what is as it should be is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import pytest
import requests
from kit.otlp import reusing
from kit.server import Server, answer, free_port
from kit.telemetry import Telemetry, reported, told

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Severity, Sure
from otel_httptrace.report.rows import Row

WAYS = {
    "/login": (302, "/check"),
    "/check": (302, "/login"),
    "/old": (301, "/new"),
    "/items": (307, "/items/"),
    "/file": (302, "/new"),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, location = WAYS.get(self.path, (200, ""))
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server that redirects as `WAYS` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _with(client: Any) -> Any:
    return requests.Session() if client is requests else client.Client(follow_redirects=True)


CLIENTS = pytest.mark.parametrize("client", [httpx, httpx2, requests], ids=lambda one: one.__name__)


@CLIENTS
@pytest.mark.parametrize("parent", [False, True], ids=["", "in a span"])
def test_a_circle(telemetry: Telemetry, url: str, client: Any, parent: bool) -> None:
    """Two URLs that send to each other are one failed call, whoever follows; requests says itself that it gave up."""
    with _with(client) as one:
        one.get(f"{url}/new")
        with telemetry.tracer().start_as_current_span("call") if parent else nullcontext():
            with pytest.raises(client.TooManyRedirects):
                one.get(f"{url}/login")

    (finding,) = told(telemetry)
    assert (finding.verdict, finding.severity, finding.requests, finding.numbers) == (
        "redirect_loop", Severity.FAILED, 1, {"calls": 1, "hops": 31 if client is requests else 21},
    )  # fmt: skip
    assert finding.sure is (Sure.CERTAIN if client is requests else Sure.LIKELY)


@CLIENTS
@pytest.mark.parametrize(("path", "least"), [("/old", 1), ("/items", 1), ("/file", None), ("/new", None)])
def test_a_url_that_is_wrong_each_time(
    telemetry: Telemetry, url: str, client: Any, path: str, least: int | None
) -> None:
    """What moved for ever, or lacks a slash, costs a request each time; a redirect to where a file is today does not tell of waste."""
    with _with(client) as one:
        for _ in range(4):
            one.get(url + path)

    found = told(telemetry)
    if least is None or (client is requests and path == "/items"):
        # Within one span of requests the URL of a hop is not known.
        assert found == []
        return
    (finding,) = found
    assert (finding.verdict, finding.severity, finding.requests) == ("redirected", Severity.WASTE, 4)
    assert finding.numbers == {"statuses": {"301" if path == "/old" else "307": 4}}
    assert finding.sure is (Sure.CERTAIN if path == "/old" else Sure.LIKELY)


def test_where_a_redirect_leads(telemetry: Telemetry) -> None:
    """What happened after a redirect is told of the server that it led to, which is nobody's proxy; the first one redirected."""
    gone = f"http://127.0.0.1:{free_port()}"
    with Server({"/in": answer(b"", status="401 Unauthorized")}) as other, Server() as first, requests.Session() as one:
        first.routes["/in"] = answer(b"", f"Location: {other.url('/in')}", status="301 Moved Permanently")
        first.routes["/gone"] = answer(b"", f"Location: {gone}/", status="302 Found")
        for _ in range(3):
            assert one.get(first.url("/in")).status_code == 401
        with pytest.raises(requests.ConnectionError):
            one.get(first.url("/gone"))
        one.get(other.url())

        report = reported(telemetry)
        assert [(finding.verdict, finding.origin) for finding in report.findings] == [
            ("requests_refused", other.url("")),
            ("failed", gone),
            ("redirected", first.url("")),
        ]
        assert "3 of them had been redirected to it by another server" in report.findings[0].sentence
        assert {origin.name: (origin.requests, origin.opened, origin.reused) for origin in report.origins} == {
            first.url(""): (0, 1, 3),
            other.url(""): (4, 1, 3),
            gone: (1, 0, 0),
        }


def test_circles_of_requests_one_after_the_other(telemetry: Telemetry, url: str) -> None:
    """Each call that gave up is counted once, however soon the next one begins."""
    with requests.Session() as session:
        session.max_redirects = 6
        for _ in range(8):
            with pytest.raises(requests.TooManyRedirects):
                session.get(f"{url}/login")

    (finding,) = told(telemetry)
    assert (finding.verdict, finding.numbers) == ("redirect_loop", {"calls": 8, "hops": 7})


def test_many_redirects_that_nobody_follows() -> None:
    """However many spans end with a redirect, of which each may be followed, what goes in a circle later is told."""
    left = [row for number in range(2_000) for row in circle(float(number), 1, parent_id=f"{number:016x}")]
    # All hops of one call are in one trace.
    last = [replace(row, trace_id="c" * 32) for row in circle(9_000.0, 21, parent_id="b" * 16)]
    (finding,) = analyze([*left, *last]).findings

    assert (finding.verdict, finding.requests) == ("redirect_loop", 1)


def circle(start: float, hops: int, **rest: Any) -> list[Row]:
    """Redirects that follow each other at once."""
    return [reusing(start + hop / 50, status=302, target=f"GET http://a/{hop % 2}", **rest) for hop in range(hops)]


def test_circles_at_the_same_time() -> None:
    """Circles of several calls at a time, in no span, are told all together; a report may be made in between."""
    every = sorted(circle(0.0, 21) + circle(0.003, 21) + [reusing(9.0)], key=lambda row: row.end)
    (finding,) = analyze(every).findings

    assert (finding.verdict, finding.requests) == ("redirect_loop", 2)


@pytest.mark.parametrize("last", [200, 404])
def test_redirects_that_lead_somewhere(last: int) -> None:
    """However many redirects there are, if an answer follows it is no circle."""
    assert analyze([*circle(0.0, 30), reusing(0.6, status=last)]).findings == ()


def test_redirects_with_pauses() -> None:
    """A program that asks now and then, and does not follow, goes in no circle."""
    assert analyze([row for at in range(30) for row in circle(at, 1)]).findings == ()


@pytest.mark.parametrize(
    ("statuses", "refused"),
    [
        ([413] * 6, 6),
        ([401, 401, 401, 200, 200], 3),
        ([401, 200] * 5, 0),
        ([404] * 9, 0),
        ([403] * 2, 0),
        ([403, 500] * 3, 0),
    ],
)
def test_requests_that_are_refused(statuses: list[int], refused: int) -> None:
    """More than half of a server's answers being refusals is told, and what is not there, or a challenge each, is not."""
    rows = [reusing(status=status, failed=status >= 400) for status in statuses]
    found = [one for one in analyze(rows).findings if one.verdict == "requests_refused"]

    assert [one.requests for one in found] == ([refused] if refused else [])
    assert all(one.sure is Sure.LIKELY for one in found)


def test_a_refusal_that_raised() -> None:
    """What the application raised an exception for is told once, as that."""
    left: dict[str, Any] = {"body__closed_by": "HTTPStatusError", "body__outcome": "closed_early", "failed": True}
    found = [one.verdict for one in analyze([reusing(status=403, **left) for _ in range(4)]).findings]

    assert found == ["application_failed"]


def test_a_circle_that_is_repeated_at_once() -> None:
    """Httpx gives up after 21 requests: what asks for the same URL then is another call."""
    rows = [reusing(hop / 100, status=307, target="GET http://a/doc") for hop in range(84)]
    (finding,) = analyze(rows).findings

    assert finding.numbers == {"calls": 4, "hops": 21}
