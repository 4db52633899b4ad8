"""Programs that do two things wrong at once: both are told, the worse first, and no symptom as a third."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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


def _killed(peer: Peer, request: Request) -> None:
    time.sleep(0.2)
    peer.close()


_ROUTES: dict[str, Any] = {
    "/large": answer(worlds.MUCH[:300_000]),
    "/slow": _slow,
    "/quick": answer(),
    "/odd": answer(b"this is no gzip", "Content-Encoding: gzip"),
    "/busy": answer(b"later", status="503 Service Unavailable"),
    "/trickle": _trickle,
    "/half": worlds.half(10_000, worlds.no_more),
    "/last": worlds.LAST,
    "/soon": worlds.after(0.3, answer()),
    "/never": worlds.silence,
    "/moved": answer(b"", "Location: /quick", status="301 Moved Permanently"),
    "/killed": _killed,
    "/forbidden": answer(b"", status="403 Forbidden"),
    "/cookies": answer(b"", *(f"Set-Cookie: {number}=" for number in range(120))),
    "/malformed": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
}


@contextmanager
def _two_servers(host: str | None, lookup: float) -> Iterator[worlds.World]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Server(dict(_ROUTES))) for _ in range(2))
        urls = first.url("", host=host), second.url("")
        first.routes["/elsewhere"] = answer(b"", f"Location: {second.url('/forbidden')}", status="302 Found")
        names = {host: [lookup, ["127.0.0.1"]]} if host else None
        yield worlds.World((*urls, f"http://127.0.0.1:{free_port()}/"), first, names, others=[second])


#: What is done wrong, and what is found, in that order; with httpx and httpx2 in turn.
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
    "killed crowded": ["closed_without_answer", "pool_saturated"],
}


#: The same where calls are made together, or with requests: how it is run, and with which program.
MORE = {
    ("mixed", "httpx asyncio", "given_up no_shared_client"): ["cancelled_in", "client_per_request"],
    ("mixed", "httpx2 trio", "crowded refused"): ["failed", "pool_saturated"],
    ("mixed", "httpx2 asyncio", "left_unread blocked"): ["process_stalled", "body_not_read"],
    ("mixed", "httpx trio", "failed_over_it crowded"): ["application_failed", "pool_saturated"],
    ("mixed", "httpx2 asyncio", "one_of_several_fails no_shared_client"): ["malformed_response", "client_per_request"],
    ("mixed", "httpx2 trio", "closed_too_soon out_of_patience"): ["client_closed_in_use", "cancelled_in"],
    ("mixed_requests", "httpx sync", "left_unread busy"): ["error_statuses", "body_not_read"],
    ("mixed_requests", "httpx sync", "no_shared_session slow_answers"): ["server_slow", "client_per_request"],
    ("mixed_requests", "httpx sync", "moved each_its_last"): ["redirected", "connection_close"],
    ("mixed_requests", "httpx sync", "undecodable left_unread"): ["failed", "body_not_read"],
    ("mixed_requests", "httpx sync", "refused broken_off"): ["body_failed", "failed"],
    ("mixed_requests", "httpx sync", "one_kept_of_four tried_again_in_vain"): [
        "server_slow",
        "keepalive_limit_too_low",
    ],
    ("mixed_requests", "httpx sync", "refused_elsewhere too_much_of_a_head"): [
        "requests_refused",
        "malformed_response",
    ],
}


def _told(done: str, how: str, host: str | None = None, lookup: float = 0.0, program: str = "mixed") -> list[str]:
    case = Case(
        done,
        program,
        partial(_two_servers, host, lookup),
        "",
        arguments=tuple(done.split()),
        thresholds=scaled(wait=0.5, receive=0.5, gap=0.5, dns=0.5),
        stalls="blocked" in done,
    )
    told = play(case, how)
    assert told.returned == 0, str(told)
    return [one.verdict for one in told.report.findings]


@pytest.mark.parametrize("done", MIXED)
def test_two_causes_are_two_findings(done: str) -> None:
    """Two causes are two findings, the worse first."""
    library = ("httpx", "httpx2")[[*MIXED].index(done) % 2]
    assert _told(done, f"{library} sync") == MIXED[done]


@pytest.mark.parametrize(("program", "how", "done"), MORE)
def test_two_causes_of_other_clients(program: str, how: str, done: str) -> None:
    """So it is on asyncio and trio, where one call holds up another, and with requests."""
    assert _told(done, how, program=program) == MORE[program, how, done]


def test_a_slow_resolver_is_asked_too_often() -> None:
    """Where a resolver is slow, and most of its answers are for connections opened in vain, the waste is told first."""
    assert _told("left_unread", "httpx sync", "shop.test", 0.6) == ["body_not_read", "dns_slow"]
