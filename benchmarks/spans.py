"""A file of many spans, as the collector's file exporter would have written them.

Names, types and shapes are what the instrumentation emits (a test compares them):
most requests reuse a connection and are one span; some open one, and have a lookup,
a connect and TLS beneath; some of these lost the previous one to a body that was not
read. Several processes, many origins, the SDK's batches of 512.

    python benchmarks/spans.py FILE [--spans N]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

BATCH = 512
#: Of the requests: how many open a connection, how many close the body early, how many fail.
OPENED, EARLY, FAILED = 0.07, 0.02, 0.005
ORIGINS = [f"api-{number}.example.com" for number in range(20)]
PATHS = ["/v1/status", "/v1/orders/1234567", "/v1/customers/42/invoices", "/search"]
PROCESSES = 4


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": value}


def _pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


class _Process:
    # One client for each origin, one connection at a time.

    def __init__(self, number: int, chance: random.Random) -> None:
        self.resource = {
            "attributes": _pairs(
                {
                    "telemetry.sdk.language": "python",
                    "telemetry.sdk.name": "opentelemetry",
                    "telemetry.sdk.version": "1.45.2",
                    "service.instance.id": f"12461068-aa5c-45c3-8b51-0f8a6eb19d{number:02}",
                    "service.name": "billing",
                }
            )
        }
        self._chance = chance
        self._connections: dict[str, tuple[int, int]] = {}
        self._next = 1
        #: Who lost the connection to an origin, and where.
        self._lost: dict[str, tuple[str, str]] = {}
        self.now = 1_790_000_000_000_000_000

    def spans(self) -> Iterator[tuple[bool, dict[str, Any]]]:
        """One request: its children, then itself; with each, whether it is a child."""
        chance = self._chance
        # Other requests are under way meanwhile.
        self.now += chance.randrange(100_000, 2_000_000)
        start = self.now
        host = chance.choice(ORIGINS)
        trace, span = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(64):016x}"
        opened = host not in self._connections or chance.random() < OPENED
        wait, receive = chance.lognormvariate(-4.5, 0.8), chance.lognormvariate(-7, 1)
        attributes: dict[str, Any] = {
            "http.method": "GET",
            "http.url": f"https://{host}{chance.choice(PATHS)}",
            "http.status_code": 200,
            "http.conn.reused": not opened,
        }
        links = []
        at = start
        if opened:
            number, carried = self._next, 0
            self._next += 1
            reason = "body_not_read" if host in self._lost else "server_closed"
            attributes |= {
                "httptrace.conn.id": number,
                "httptrace.conn.requests": 0,
                "httptrace.conn.open_reason": reason if host in self._connections else "first_connection",
            }
            if host in self._lost:
                lost_trace, lost_span = self._lost.pop(host)
                described = {
                    "httptrace.link": "connection_lost_by",
                    "httptrace.conn.close_reason": "body_not_read",
                    "httptrace.body.closed_at": "billing/client.py:42 in charge",
                }
                links = [{"traceId": lost_trace, "spanId": lost_span, "attributes": _pairs(described), "flags": 256}]
            dial = f"{chance.getrandbits(64):016x}"
            for name, seconds, more in (
                ("dns", 0.002, {"dns.question.name": host, "dns.answers": ["192.0.2.10", "192.0.2.11"]}),
                (
                    "connect",
                    0.011,
                    {
                        "server.address": host,
                        "network.transport": "tcp",
                        "server.port": 443,
                        "network.peer.address": "192.0.2.10",
                        "network.peer.port": 443,
                        "network.local.address": "198.51.100.7",
                        "network.local.port": chance.randrange(32768, 60999),
                        "network.type": "ipv4",
                    },
                ),
                (
                    "tls",
                    0.014,
                    {
                        "tls.protocol.name": "tls",
                        "tls.protocol.version": "1.3",
                        "tls.cipher": "TLS_AES_256_GCM_SHA384",
                        "tls.next_protocol": "http/1.1",
                        "tls.resumed": False,
                        "server.address": host,
                    },
                ),
            ):
                took = seconds * chance.lognormvariate(0, 0.3)
                attributes[f"httptrace.time.{name}"] = took
                yield True, self._span(f"http.{name}", trace, dial, at, at + int(took * 1e9), more)
                at += int(took * 1e9)
            getconn = {
                "http.conn.reused": False,
                "http.conn.wasidle": False,
                "httptrace.conn.id": number,
                "server.address": host,
                "server.port": 443,
            }
            yield True, self._span("http.getconn", trace, span, start, at, getconn, span=dial)
        else:
            number, carried = self._connections[host]
            attributes |= {
                "httptrace.conn.id": number,
                "httptrace.conn.requests": carried,
                "httptrace.conn.idle": chance.lognormvariate(-3, 1),
            }
        self._connections[host] = (number, carried + 1)
        early = chance.random() < EARLY
        attributes |= {
            **({"httptrace.conn.close_reason": "body_not_read"} if early else {}),
            "network.peer.address": "192.0.2.10",
            "network.peer.port": 443,
            "httptrace.time.wait": wait,
            "httptrace.time.receive": receive,
        }
        if early:
            attributes |= {
                "httptrace.body.outcome": "closed_early",
                "httptrace.body.bytes_read": 0,
                "httptrace.body.closed_at": "billing/client.py:42 in charge",
            }
            self._lost[host] = (trace, span)
        else:
            attributes["httptrace.body.outcome"] = "complete"
            if receive >= 0.001:
                attributes["httptrace.body.read_wait"] = receive * 0.9
        attributes["http.response.body.size"] = chance.randrange(200, 20_000)
        failed = chance.random() < FAILED
        if failed:
            attributes |= {"http.status_code": 503, "error.type": "503"}
        whole = self._span("GET", trace, "", start, at + int((wait + receive) * 1e9), attributes, span=span, kind=3)
        if links:
            whole["links"] = links
        if failed:
            whole["status"] = {"code": 2}
        yield False, whole

    def _span(
        self,
        name: str,
        trace: str,
        parent: str,
        start: int,
        end: int,
        attributes: dict[str, Any],
        span: str = "",
        kind: int = 1,
    ) -> dict[str, Any]:
        return {
            "traceId": trace,
            "spanId": span or f"{self._chance.getrandbits(64):016x}",
            "parentSpanId": parent,
            "flags": 256,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(end),
            "attributes": _pairs(attributes),
            "status": {},
        }


def lines(spans: int, seed: int = 1) -> Iterator[bytes]:
    """Lines of a file with at least *spans* spans: the same for the same *seed*."""
    chance = random.Random(seed)
    processes = [_Process(number, chance) for number in range(PROCESSES)]
    written = 0
    while written < spans:
        process = chance.choice(processes)
        ours: list[dict[str, Any]] = []
        upstreams: list[dict[str, Any]] = []
        while len(ours) + len(upstreams) < BATCH:
            for child, span in process.spans():
                (ours if child else upstreams).append(span)
        written += len(ours) + len(upstreams)
        scopes = [
            {"scope": {"name": "otel_httptrace", "version": "0.1.0"}, "spans": ours},
            {
                "scope": {"name": "opentelemetry.instrumentation.httpx", "version": "0.66b2"},
                "spans": upstreams,
                "schemaUrl": "https://opentelemetry.io/schemas/1.11.0",
            },
        ]
        yield orjson.dumps({"resourceSpans": [{"resource": process.resource, "scopeSpans": scopes}]}) + b"\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--spans", type=int, default=1_000_000)
    options = parser.parse_args()
    with options.file.open("wb") as file:
        file.writelines(lines(options.spans))


if __name__ == "__main__":
    main()
