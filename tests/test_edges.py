"""Edges that an unkind reader looked for: what must hold where things go wrong in an unusual way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from kit.clients import Flavour
from kit.server import Server, answer, chunk, head
from kit.telemetry import Telemetry
from opentelemetry.trace import StatusCode

from otel_httptrace.adapters.observer import Observer
from otel_httptrace.core.ledger import Ledger, Limits, Process
from otel_httptrace.core.timeline import Exchange, Origin

SECRET = "hunter2"


def everything(telemetry: Telemetry) -> str:
    """All that was emitted, as text."""
    return "".join(span.to_json() for span in telemetry.spans()) + repr(telemetry.metrics())


BROKEN = {
    "chunk": head("Transfer-Encoding: chunked") + chunk(b"one") + b"hunter2-is-no-length\r\n",
    "trailer": head("Transfer-Encoding: chunked") + chunk(b"one") + b"0\r\nhunter2 no colon\r\n\r\n",
}


@pytest.mark.parametrize("where", BROKEN)
async def test_no_body_byte_is_recorded(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry, where: str
) -> None:
    """What the parser quotes of a body that it cannot read is recorded nowhere."""
    server = serve({"/broken": BROKEN[where]})
    async with flavour.client() as client:
        async with client.stream("GET", server.url("/broken")) as response:
            with pytest.raises(flavour.httpx.RemoteProtocolError, match=SECRET):
                async for _ in response.parts():
                    pass

    span = telemetry.request()
    assert (span.attributes or {})["error.type"] == "RemoteProtocolError"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "RemoteProtocolError")
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("exception", {"exception.type": f"{flavour.httpcore.RemoteProtocolError.__module__}.RemoteProtocolError"})
    ]
    assert SECRET not in everything(telemetry)


@pytest.mark.contained
async def test_a_contained_fault_quotes_nothing(
    flavour: Flavour,
    serve: Callable[..., Server],
    bare_telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log line of a fault of ours does not print the application's exception that it came up with."""
    server = serve({"/broken": BROKEN["chunk"]})
    monkeypatch.setattr(Observer, "body_raised", lambda *args: 1 / 0)
    bare_telemetry.instrument()
    async with flavour.client() as client:
        with pytest.raises(flavour.httpx.RemoteProtocolError, match=SECRET):
            await client.get(server.url("/broken"))

    assert "ZeroDivisionError" in caplog.text
    assert SECRET not in caplog.text


# Threads.


def test_connections_come_and_go_while_one_is_created() -> None:
    """A connection may close in one thread while another looks for those that are missing."""
    ledger = Ledger(Process(), Limits())
    origin = Origin("http", "origin", 80)
    stop = threading.Event()
    faults: list[BaseException] = []

    def come_and_go() -> None:
        while not stop.is_set():
            conn = ledger.created(origin, 1)
            ledger.opened(conn, 2)
            ledger.closed(conn, 3)

    def use(conn: Any) -> None:
        while not stop.is_set():
            exchange = Exchange(ledger, None, 1, 0)
            ledger.acquired(conn, exchange, 2)
            ledger.released(exchange, 3)

    def look() -> None:
        try:
            for _ in range(20_000):
                ledger.missing(set())
                ledger.holders()
                _ = [conn.last_user for conn in kept]
        except BaseException as error:
            faults.append(error)
        stop.set()

    kept = [ledger.created(origin, 1) for _ in range(20)]
    for conn in kept:
        ledger.opened(conn, 2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go), threading.Thread(target=look)]
        threads += [threading.Thread(target=use, args=(conn,)) for conn in kept[:2]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert faults == []
