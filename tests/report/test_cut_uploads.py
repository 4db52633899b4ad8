"""Uploads that the server closes on: not told as requests that it had, and worked on."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import pytest
from kit.otlp import reusing
from kit.telemetry import Telemetry, told

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Sure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged")


@contextmanager
def cutting(most: int) -> Iterator[str]:
    """The URL of a server that closes its one connection when it has read so many bytes, or the head."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                came = b""
                while len(came) < most and not (most == 1 and b"\r\n\r\n" in came):
                    came += sock.recv(65_536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.mark.parametrize("client", [httpx, httpx2], ids=lambda one: one.__name__)
@pytest.mark.parametrize("size", [20_000_000, 0])
def test_an_upload_that_is_refused(telemetry: Telemetry, client: Any, size: int) -> None:
    """An upload that was closed on is told so, and not as one that the server worked on; a request without a body is not."""
    with cutting(max(size // 10, 1)) as url, client.Client() as one, pytest.raises(client.TransportError):
        one.request("POST" if size else "GET", url, content=b"x" * size)

    (finding,) = told(telemetry)
    assert finding.verdict == "closed_without_answer"
    assert ("while the request was being sent" in finding.sentence) is bool(size)
    assert ("413" in finding.advice) is bool(size)


def uploaded(send: float, **rest: Any) -> Finding:
    """The finding of an upload whose connection was closed after *send* seconds of it."""
    known = {"failed_phase": "wait", "error__type": "RemoteProtocolError", "conn__close_reason": "request_failed",
             "response__bytes_received": 0, "tcp__unacked": 500_000, "time__send": send, "time__wait": 0.001, "failed": True, "status": None}  # fmt: skip
    (finding,) = analyze([reusing(**{"conn__requests": 3, **known, **rest})]).findings
    return finding


def test_an_upload_that_takes_too_long() -> None:
    """After seconds of it the limit of the server, or of a proxy, is looked for; after a moment it is not."""
    slow, quick = uploaded(8.0), uploaded(0.1)

    assert "after 8.0 s of that" in slow.sentence
    assert slow.advice.startswith("the upload took longer than the server, or a proxy, allows")
    assert quick.advice.startswith("look at the server's log at that moment: it refused the upload")
    assert slow.sure is Sure.CERTAIN
    assert slow.seconds == pytest.approx(8.001)


def test_a_server_that_closes_after_each_answer() -> None:
    """The second request of a connection may have met a close that was not said; the fourth has not."""
    second, fourth = uploaded(0.1, conn__requests=1), uploaded(0.1)

    assert second.sure is Sure.LIKELY
    assert second.advice.endswith("did not say so (Connection: close)")
    assert fourth.rivals == ()
