"""Programs that do two things wrong at once: both are told, the worse first, and no symptom as a third."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import pytest
from kit.server import Peer, Request, Server, answer, free_port, head

from . import worlds
from .runs import play
from .story import Case, scaled


def _slow(peer: Peer, request: Request) -> None:
    time.sleep(1)
    peer.send(answer())


def _trickle(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    time.sleep(1)
    peer.send(b"other")


_ROUTES: dict[str, Any] = {
    "/large": answer(worlds.MUCH[:300_000]),
    "/slow": _slow,
    "/quick": answer(),
    "/odd": answer(b"this is no gzip", "Content-Encoding: gzip"),
    "/busy": answer(b"later", status="503 Service Unavailable"),
    "/trickle": _trickle,
    "/half": worlds.half(10_000, worlds.no_more),
    "/last": worlds.LAST,
    "/malformed": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
}


@contextmanager
def _two_servers(host: str | None, lookup: float) -> Iterator[worlds.World]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Server(dict(_ROUTES))) for _ in range(2))
        urls = first.url("", host=host), second.url("")
        names = {host: [lookup, ["127.0.0.1"]]} if host else None
        yield worlds.World((*urls, f"http://127.0.0.1:{free_port()}/"), first, names, others=[second])


#: What is done wrong, and what is found, in that order.
MIXED = {
    "left_unread no_shared_client": ["body_not_read", "client_per_request"],
    "left_unread slow_answers": ["server_slow", "body_not_read"],
    "left_unread refused": ["failed", "body_not_read"],
    "slow_answers held_for_ever": ["responses_never_closed", "server_slow"],
    "no_shared_client undecodable": ["application_failed", "client_per_request"],
    "trickling busy": ["error_statuses", "body_slow_server"],
    "each_its_last broken_off": ["body_failed", "connection_close"],
    "slow_answers malformed": ["malformed_response", "server_slow"],
    "each_its_last left_unread": ["body_not_read", "connection_close"],
    "trickling each_its_last": ["body_slow_server", "connection_close"],
}


def _told(done: str, library: str, host: str | None = None, lookup: float = 0.0) -> list[str]:
    case = Case(
        done,
        "mixed",
        partial(_two_servers, host, lookup),
        "",
        arguments=tuple(done.split()),
        thresholds=scaled(wait=0.5, receive=0.5, gap=0.5, dns=0.5),
    )
    told = play(case, f"{library} sync")
    assert told.returned == 0, str(told)
    return [one.verdict for one in told.report.findings]


@pytest.mark.parametrize(("done", "library"), [*zip(MIXED, cycle(["httpx", "httpx2"]), strict=False)])
def test_two_causes_are_two_findings(done: str, library: str) -> None:
    """Two causes are two findings, the worse first."""
    assert _told(done, library) == MIXED[done]


def test_a_slow_resolver_is_asked_too_often() -> None:
    """Where a resolver is slow, and most of its answers are for connections opened in vain, the waste is told first."""
    assert _told("left_unread", "httpx", "shop.test", 0.6) == ["body_not_read", "dns_slow"]
