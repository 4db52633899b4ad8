"""Time that no server took: pauses of retries, connects whose SYN is sent again, proxies that are slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import pytest
import requests
import trio
import urllib3
from kit.otlp import opening, row
from kit.server import Blackhole, Peer, Request, Server, answer, free_port
from kit.telemetry import Telemetry, told
from requests.adapters import HTTPAdapter

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Sure, Thresholds
from otel_httptrace.report.rows import Step

#: Of the clients' pauses the first that is one takes half a second.
LIMITS = Thresholds(backoff=0.4, connect=0.9, proxy=0.2)


def only(telemetry: Telemetry, verdict: str) -> Finding | None:
    """The finding of that *verdict*, if there is one."""
    found = [one for one in told(telemetry, LIMITS) if one.verdict == verdict]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.parametrize("client", [httpx, httpx2], ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("retries", [2, 1])
def test_a_transport_that_connects_again(telemetry: Telemetry, client: Any, kind: str, retries: int) -> None:
    """The pause before the third connect is told, certainly; one repeated at once is not a pause."""
    url = f"http://127.0.0.1:{free_port()}/"

    async def run() -> None:
        async with client.AsyncClient(transport=client.AsyncHTTPTransport(retries=retries)) as one:
            with pytest.raises(client.ConnectError):
                await one.get(url)

    if kind == "sync":
        with client.Client(transport=client.HTTPTransport(retries=retries)) as one, pytest.raises(client.ConnectError):
            one.get(url)
    else:
        asyncio.run(run()) if kind == "asyncio" else trio.run(run)

    first, *rest = told(telemetry, LIMITS)
    assert first.verdict == "failed"
    if retries == 1:
        assert rest == []
        return
    (finding,) = rest
    assert (finding.verdict, finding.sure, finding.requests) == ("waited_to_retry", Sure.CERTAIN, 1)
    assert (finding.numbers or {})["failed"] == {"connection_refused": 3}
    assert 0.4 <= finding.seconds < 0.5 + finding.seconds / 2


@pytest.mark.parametrize("pause", [0.5, 0.0])
def test_retries_of_urllib3(telemetry: Telemetry, pause: float) -> None:
    """What Retry sleeps between attempts that were answered by 503 is told; attempts without a pause are not."""
    left = [b"", b""]

    def later(peer: Peer, request: Request) -> None:
        peer.send(answer(status="503 Busy") if left and left.pop() == b"" else answer())

    retry = urllib3.Retry(3, backoff_factor=pause / 2, status_forcelist=[503])
    with Server({"/": later}) as server, requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        assert session.get(server.url()).status_code == 200

    finding = only(telemetry, "waited_to_retry")
    if not pause:
        assert finding is None
        return
    assert finding is not None
    assert (finding.sure, (finding.numbers or {})["failed"]) == (Sure.LIKELY, {"503": 2})
    assert finding.seconds >= 0.9 * pause


def test_retries_that_are_used_up(telemetry: Telemetry) -> None:
    """What failed after answers that were errors is told by their status, and not as a body that failed."""
    busy = answer(status="429 Too Many Requests")
    with Server({"/": busy}) as server, requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=urllib3.Retry(2, status_forcelist=[429])))
        with pytest.raises(requests.exceptions.RetryError):
            session.get(server.url())

    (finding,) = told(telemetry, LIMITS)
    assert (finding.verdict, finding.requests) == ("failed", 1)
    assert (
        "failed after an answer had been read to its end: an error after repeated attempts (status 429)"
        in finding.sentence
    )
    assert finding.advice.startswith("each attempt was answered by a status of errors")


@contextmanager
def crowded() -> Iterator[str]:
    """The URL of a server whose queue is full until the first SYN has been lost."""
    with Blackhole() as hole:
        listener, opened, talking = hole._listener, [], []
        listener.settimeout(None)

        def serve() -> None:
            try:
                while True:
                    opened.append(listener.accept()[0])
                    talking.append(threading.Thread(target=talk, args=(opened[-1],), daemon=True))
                    talking[-1].start()
            except OSError:
                return

        def talk(sock: Any) -> None:
            with contextlib.suppress(OSError):
                while sock.recv(65536):
                    sock.sendall(answer())

        thread = threading.Timer(0.3, serve)
        thread.start()
        yield hole.url()
        listener.shutdown(2)
        thread.join()
        for sock, one in zip(opened, talking, strict=True):
            with contextlib.suppress(OSError):
                # Else closing it would be an error in the thread that reads from it.
                sock.shutdown(socket.SHUT_RDWR)
            one.join()
            sock.close()


def _asked(client: Any) -> Callable[[str], Any]:
    return requests.get if client is requests else client.get


@pytest.mark.parametrize("client", [httpx2, requests], ids=lambda one: one.__name__)
def test_a_syn_that_is_sent_again(telemetry: Telemetry, client: Any) -> None:
    """A connect that took a second because its SYN was sent again is told, and on Linux certainly."""
    with crowded() as url:
        assert _asked(client)(url).status_code == 200

    finding = only(telemetry, "connect_slow")
    assert finding is not None
    assert finding.requests == 1
    assert finding.sure is (Sure.CERTAIN if sys.platform == "linux" else Sure.LIKELY)
    if sys.platform == "linux":
        assert ": the kernel had to send its SYN again" in finding.sentence
        assert (finding.numbers or {})["resent"] >= 1


def test_a_connect_that_is_answered_at_once(telemetry: Telemetry) -> None:
    """Nothing is asked of the kernel, and nothing told."""
    with Server() as server:
        httpx.get(server.url())

    assert told(telemetry, LIMITS) == []
    assert "httptrace.connect.resent" not in (telemetry.child("http.connect").attributes or {})


@pytest.mark.parametrize(("timeout", "short"), [(0.5, True), (1.0, True), (1.5, False)])
def test_a_connect_timeout_that_is_too_short(timeout: float, short: bool) -> None:
    """A SYN that is lost is sent again after a second: a timeout that is no longer fails by one lost packet."""
    known: dict[str, Any] = {"failed": True, "status": None, "failed_phase": "connect", "error__type": "ConnectTimeout"}
    (finding,) = analyze([row(time__connect=timeout + 0.01, timeout=timeout, **known)]).findings

    assert finding.verdict == "connect_timeout"
    assert ("a lost packet is sent again after 1 s" in finding.advice) is short


def test_a_connect_that_took_long_all_the_same() -> None:
    """Where the first SYN was answered nothing of lost packets is said; of another family's address its own verdict tells."""
    slow = Step("http.connect", 0.0, 2.0, {"httptrace.connect.resent": 0}, 2)
    (finding,) = analyze([opening("first_connection", time__connect=2.0, steps=(slow,))]).findings
    assert (finding.verdict, finding.sure, len(finding.rivals)) == ("connect_slow", Sure.LIKELY, 3)
    assert "the first SYN was not lost" in finding.sentence
    assert "nf_conntrack" not in finding.advice

    answers = Step("http.dns", 0.0, 0.1, {"dns.answers": ["::1", "127.0.0.1"]}, 2)
    other = Step("http.connect", 0.0, 2.0, {"network.peer.address": "127.0.0.1", "httptrace.connect.resent": 1}, 2)
    (finding,) = analyze([opening("first_connection", time__connect=2.0, steps=(answers, other))]).findings
    assert finding.verdict == "address_fallback"


@pytest.mark.parametrize("pause", [0.3, 0.0])
def test_a_proxy_that_takes_its_time(telemetry: Telemetry, pause: float) -> None:
    """A tunnel that comes late is the proxy's, and names it; one that comes at once is not told."""

    def tunnel(peer: Peer, request: Request) -> None:
        threading.Event().wait(pause)
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.close()

    with (
        Server({"shop.test:443": tunnel}) as proxy,
        httpx.Client(proxy=proxy.url()) as client,
        pytest.raises(httpx.HTTPError),
    ):
        client.get("https://shop.test/")

    finding = only(telemetry, "proxy_slow")
    assert (finding is not None) is bool(pause)
    if finding is not None:
        assert (finding.requests, finding.origin, finding.sure) == (1, "https://shop.test", Sure.LIKELY)
        assert f"the proxy 127.0.0.1:{proxy.port} took" in finding.sentence
