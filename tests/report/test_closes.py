"""`Connection: close`: whose it was, from the headers' tokens alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kit.clients import Flavour
from kit.server import Server, answer, head
from kit.telemetry import Telemetry, told

from otel_httptrace.report.findings import Severity
from otel_httptrace.telemetry import names

CASES = {
    "client": ("/", {"Connection": "close"}),
    "server": ("/close", {}),
    "http_1_0": ("/old", {}),
    "no_length": ("/endless", {}),
    None: ("/", {}),
}


@pytest.mark.parametrize("whose", CASES, ids=str)
async def test_whose_it_was(flavour: Flavour, telemetry: Telemetry, whose: str | None) -> None:
    """The client's word comes before the server's, which echoes it; where nobody said it nothing is told."""
    path, headers = CASES[whose]
    routes: dict[str, Any] = {
        "/close": answer(b"x", "Connection: keep-alive, CLOSE"),
        "/old": answer(version="1.0"),
        "/endless": lambda peer, request: (peer.send(head() + b"x"), peer.close()),
    }
    with Server(routes) as server:
        client = flavour.client()
        for _ in range(4):
            await client.get(server.url(path), headers=headers)
        await client.close()

    ended = [(span.attributes or {}).get(names.CONN_ENDED_BY) for span in telemetry.requests()]
    assert ended == [whose] * 4
    found = told(telemetry)
    if whose is None:
        assert found == []
        return
    (finding,) = found
    assert (finding.verdict, finding.severity) == ("connection_close", Severity.WASTE)
    assert (finding.numbers or {})["ended_by"] == {whose: 4}
    assert re.search(f"This is {'this program' if whose == 'client' else 'the server'}'s: ", finding.sentence)
