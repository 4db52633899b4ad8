"""Fixtures of the torture suite."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from kit.http2 import H2Server
from kit.server import Server
from kit.telemetry import Telemetry, patchable

from torture import LONG, SEED
from torture.worlds import Log, Spans

S = TypeVar("S", Server, H2Server)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the long form each test may take its time; in either, faults are contained, as in production."""
    if not LONG:
        kept = _sample([item for item in items if "torture" in item.nodeid and isinstance(item, pytest.Function)])
        config.hook.pytest_deselected(items=[item for item in items if "torture" in item.nodeid and item not in kept])
        items[:] = [item for item in items if "torture" not in item.nodeid or item in kept]
    for item in items:
        if "torture" in item.nodeid:
            item.add_marker(pytest.mark.contained)
            # What comes before anybody has a socket leaves it to the interpreter: how many are open is counted.
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
            # trio's, of generators of httpcore's that were left when something came in between.
            item.add_marker(pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"))
            if LONG:
                item.add_marker(pytest.mark.timeout(7200))


def _sample(items: list[pytest.Function]) -> list[pytest.Item]:
    # Of each test and shape one flavour, of the next one the next: so that each of them has its turn.
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        flavour: Any = params.pop("flavour", None)
        shape: Any = params.get("shape")
        params.pop("library", None)
        if flavour is None or shape is None or flavour.mode in shape.modes:
            groups.setdefault(f"{item.originalname} {params}", []).append(item)
    return [group[(SEED + number) % len(group)] for number, group in enumerate(groups.values())]


def pytest_report_header() -> str:
    """How to see the same again."""
    return f"torture: {'long' if LONG else 'short'}, HTTPTRACE_TORTURE_SEED={SEED}"


@pytest.fixture
def spans(bare_telemetry: Telemetry) -> Spans:
    """Every span that begins, and how often it ends."""
    spans = Spans()
    bare_telemetry.tracer_provider.add_span_processor(spans)
    return spans


@pytest.fixture
def log() -> Iterator[Log]:
    """All that is logged."""
    with Log().listening() as log:
        yield log


def _prompt(server: S) -> S:
    # Accepted sockets have it, too: else each handshake waits for a delayed acknowledgement.
    server._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    serve: Callable[..., Server],
    h2_server: Callable[..., H2Server],
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    bare_telemetry: Telemetry,
    spans: Spans,
) -> Any:
    """Makes the place where a flavour's requests are made, and instruments."""
    from torture.worlds import World

    def make(flavour: Any) -> World:
        servers = _prompt(serve()), _prompt(serve(tls=server_tls))
        before = patchable()
        bare_telemetry.instrument()
        return World(flavour, *servers, _prompt(h2_server()), client_tls, bare_telemetry, spans, before)

    return make
