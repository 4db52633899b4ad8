"""The same scripts below TLS, on IPv6 and on Unix sockets, on another event loop, and on trio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit.servers import KINDS, Running, until
from kit.sockets import Client

from . import test_scenarios as scenarios
from .test_scenarios import Expected, Scenario, check


def over_tls(client: Client, server: Running) -> None:
    """A client that says in TLS that it is over."""
    conn = client.connect()
    conn.get()
    conn.bid_farewell()


def over_tls_mid_response(client: Client, server: Running) -> None:
    """And one that says so in the middle of a response."""
    conn = client.connect()
    conn.send(conn.head("/stream"))
    conn.some()
    conn.bid_farewell()


def too_large_to_wait_for(client: Client, server: Running) -> None:
    """A response in one part, larger than what any buffer takes, of which nothing is read."""
    conn = client.connect()
    conn.send(conn.head("/large"))
    conn.some()
    conn.close()


_BY_NAME = {case.play.__name__: case for case in scenarios.SCENARIOS}
BRIEF = ("one_request", "two_connections", "client_says_close", "leaves_mid_response", "resets_mid_response")
ON_TRIO = (
    *BRIEF,
    "idle_too_long",
    "leaves_mid_upload",
    "slow_upload",
    "no_http",
    "application_fails_and_the_server_closes",
)
SYNC = ("sync_worker", "sync_worker_left_mid_response")
TLS = ("uvicorn-httptools", "hypercorn", "hypercorn-trio", "gunicorn-gthread", "gunicorn-asgi")

PLAYED: dict[tuple[str, str], tuple[str, ...]] = {
    **{(kind, "tls"): BRIEF for kind in TLS},
    ("uvicorn-h11-asyncio", "tls"): BRIEF,
    ("gunicorn-sync", "tls"): SYNC,
    **{(kind, "unix"): BRIEF for kind in ("uvicorn-h11", "hypercorn", "gunicorn-gthread")},
    **{(kind, "tcp6"): BRIEF for kind in ("uvicorn-httptools", "hypercorn")},
    ("gunicorn-sync", "tcp6"): SYNC,
    ("hypercorn-trio", "tcp"): ON_TRIO,
}
CASES = [
    pytest.param(kind, wire, _BY_NAME[name], id=f"{kind}-{wire}-{name}")
    for (kind, wire), names in PLAYED.items()
    for name in names
]


def stopped_while_busy(client: Client, server: Running) -> None:
    """Who asks for longer than a server takes to stop gets no answer, and it is the server that closes."""
    conn = client.connect()
    conn.send(conn.head("/ok", "Content-Length: 4", method="POST"))
    until(lambda: server.busy() == 1)
    server.stop()
    conn.ended()


_STOPPED = Scenario(
    stopped_while_busy,
    (Expected(0, "shutdown"),),
    ("shutdown",),
    ("hypercorn-trio",),
    {"fresh": True, "graceful_timeout": 0.1},
)
CASES.append(pytest.param("hypercorn-trio", "tcp", _STOPPED, id="hypercorn-trio-tcp-stopped_while_busy"))
for _kind in TLS:
    for _play, _expected, _closed in (
        (over_tls, Expected(0), "client_closed"),
        (over_tls_mid_response, Expected(0, "client_left"), "client_left"),
    ):
        _case = Scenario(_play, (_expected,), (_closed,), (_kind,), {})
        CASES.append(pytest.param(_kind, "tls", _case, id=f"{_kind}-tls-{_play.__name__}"))


@pytest.mark.parametrize(("kind", "wire", "case"), CASES)
def test_scenario(
    kind: str, wire: str, case: Scenario, shared: Callable[..., Running], fresh: Callable[..., Running]
) -> None:
    """What is told is what the client did; on a Unix socket without ports and peers, which there are none of."""
    options: dict[str, Any] = {**case.options, "wire": wire}
    if kind == "uvicorn-h11-asyncio":
        # The others are on uvloop.
        kind, options["loop"] = "uvicorn-h11", "asyncio"
    check(kind, case._replace(options=options), shared, fresh)


@pytest.mark.parametrize("kind", ["uvicorn-h11", "uvicorn-httptools", "hypercorn", "uvicorn-zttp", "hypercorn-trio"])
def test_a_large_response_is_left(kind: str, shared: Callable[..., Running]) -> None:
    """An application that has handed over its whole response is done; the client that has not read it has left."""
    server = shared(kind)
    before = server.closed()
    client = server.client()
    too_large_to_wait_for(client, server)
    until(lambda: server.closed() != before)
    assert server.closed() - before == {"client_left": 1}
    client.over()


def test_a_unix_socket_has_no_port_and_no_peer(shared: Callable[..., Running]) -> None:
    """Nothing is said of who is there: neither on spans nor in metrics, and no connection before explains another."""
    server = shared("uvicorn-httptools", wire="unix")
    client = server.client()
    for _ in range(2):
        conn = client.connect()
        conn.get()
        conn.close()
        until(lambda: not server.busy())
    spans = [server.requests()[sent.number] for sent in client.sent]
    names = {name for span in spans for name in span}
    assert not {name for name in names if name.startswith(("network.peer", "httptrace.server.lost"))}
    points = [set(said) for said, _ in server.points("httptrace.server.connections.opened")]
    assert set() in points


def test_the_kinds_are_there() -> None:
    """Each server that is played here is one that there is."""
    assert {kind for kind, _ in PLAYED} - {"uvicorn-h11-asyncio"} <= set(KINDS)
