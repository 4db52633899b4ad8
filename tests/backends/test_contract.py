# The contract is one module of names and what docs/attributes.md says of each. Here
# programs of both libraries do one of everything, over both protocols of OTLP, and
# what arrives in Jaeger and in Prometheus is compared as a whole: each request, what it
# took, its links and events, and each metric, with types and values. Only one thing
# does not get there: Jaeger has no attributes of links. Those are read from what
# the collector exports beside.

"""All that there is to be sent arrives in real backends, as what it is."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from h2.errors import ErrorCodes
from kit.command import INSTRUMENTED, exporting
from kit.http2 import H2Server, Stream
from kit.matchers import COUNT, LINE, PORT, SECONDS, Like, Seconds
from kit.programs import ROOT, SCRAPED, Collector, Jaeger, Prometheus, backends, until
from kit.proxies import Proxy
from kit.server import Peer, Request, Server, answer, free_port, head

from otel_httptrace.report import otlp
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.report.spans import Span
from otel_httptrace.telemetry import described, names

pytestmark = pytest.mark.timeout(180)

#: Both libraries, over both protocols.
RUNS = {
    "httpx-grpc": ("httpx", "grpc"),
    "httpx-http": ("httpx", "http/protobuf"),
    "httpx2-grpc": ("httpx2", "grpc"),
    "httpx2-http": ("httpx2", "http/protobuf"),
}
PROGRAM = (ROOT / "tests/backends/programs/contract.py").read_text()

#: An installed package that is built on httpx.
SDK = """
import httpx


def exists(client, url):
    response = client.send(client.build_request("GET", url), stream=True)
    response.close()
    return response.is_success


async def close(client):
    await client.aclose()
"""


def line(mark: str, function: str) -> str:
    """The program's line that is marked so, as it is told."""
    (number,) = [number for number, text in enumerate(PROGRAM.splitlines(), 1) if text.endswith(f"# <- {mark}")]
    return f"contract.py:{number} in {function}"


# What is to be there, by the path of the request.

#: A number of a connection.
ID = PORT
PEER = {names.NETWORK_PEER_ADDRESS: "127.0.0.1", names.NETWORK_PEER_PORT: PORT}
LEFT, FORGOTTEN = line("left", "closed_early"), line("forgotten", "streamed")
SDK_LEFT, SDK_LINE = line("sdk", "closed_early"), "some_sdk.py:7 in exists"
UNDECODABLE = line("undecodable", "tried")
CLOSED, SDK_CLOSES = line("closed in use", "closed_in_use"), "some_sdk.py:12 in close"


def opened(reason: str, lost_at: str | None = None) -> dict[str, Any]:
    """On a new connection, the one before having been lost at some line."""
    return {
        **({names.CONN_LOST_AT: lost_at} if lost_at is not None else {}),
        **({names.CLIENT_MADE_AT: LINE} if reason == "new_client" else {}),
        names.NETWORK_LOCAL_PORT: PORT,
        names.CONN_REUSED: False,
        names.CONN_ID: ID,
        names.CONN_REQUESTS: 0,
        names.CONN_OPEN_REASON: reason,
        names.TIME_CONNECT: SECONDS,
        **PEER,
    }


def reused(requests: int) -> dict[str, Any]:
    """On a connection that had carried so many."""
    return {
        names.CONN_REUSED: True,
        names.CONN_ID: ID,
        names.CONN_REQUESTS: requests,
        names.CONN_IDLE: SECONDS,
        **PEER,
    }


def body(outcome: str, size: int, read: int | None = None, closed: str | None = None) -> dict[str, Any]:
    """A response, of which so much was read."""
    return {
        names.TIME_WAIT: SECONDS,
        names.TIME_RECEIVE: SECONDS,
        names.BODY_OUTCOME: outcome,
        names.HTTP_RESPONSE_BODY_SIZE: size,
        **({} if read is None else {names.BODY_BYTES_READ: read}),
        **({} if closed is None else {names.BODY_CLOSED_AT: closed}),
    }


def failed(phase: str, error: str, *times: str, cause: str | None = None) -> dict[str, Any]:
    """No response."""
    said = {names.FAILED_PHASE: phase, names.ERROR_TYPE: error, names.FAILED_CAUSE: cause or error}
    return said | dict.fromkeys(times, SECONDS)


def waited(error: str, close_reason: str = "request_failed") -> dict[str, Any]:
    """Nothing of a response came, on a connection that ends with that."""
    return (
        failed("wait", error, names.TIME_WAIT)
        | {names.RESPONSE_BYTES_RECEIVED: 0, names.CONN_CLOSE_REASON: close_reason}
        | KERNEL
    )


#: What Linux says of a connection over which all has gone well.
KERNEL = {names.TCP_UNACKED: 0, names.TCP_RETRANSMITS: 0, names.TCP_RTT: SECONDS}
LOOKED_UP = {names.TIME_DNS: Seconds(0.01)}
NOT_READ = {names.CONN_CLOSE_REASON: "body_not_read"}

REQUESTS: dict[str, dict[str, Any]] = {
    "/first": opened("first_connection") | LOOKED_UP | body("complete", 5),
    "/second": reused(1) | body("complete", 5),
    "/trickle": reused(2)
    | body("complete", 10)
    | {names.TIME_RECEIVE: Seconds(0.01), names.BODY_READ_WAIT: Seconds(0.01)},
    "/upload": reused(3) | body("complete", 5) | {names.TIME_SEND: Seconds(0.001)},
    "/left": reused(4) | body("closed_early", 300_000, 0, LEFT) | NOT_READ,
    "/after-left": opened("body_not_read", LEFT) | LOOKED_UP | body("complete", 5),
    "/sdk": reused(1) | body("closed_early", 300_000, 0, SDK_LEFT) | NOT_READ | {names.BODY_CLOSED_VIA: SDK_LINE},
    "/half": opened("first_connection")
    | body("failed", 10, 5)
    | {names.CONN_CLOSE_REASON: "request_failed"}
    | {names.ERROR_TYPE: "RemoteProtocolError", names.FAILED_CAUSE: "RemoteProtocolError"}
    | KERNEL,
    "/no-answer": opened("request_failed") | waited("RemoteProtocolError"),
    "/refused": failed("connect", "ConnectError", names.TIME_CONNECT, cause="ECONNREFUSED"),
    "/no-such-name": failed("dns", "ConnectError", names.TIME_DNS, cause="EAI_NONAME"),
    "/untrusted": failed("tls", "ConnectError", names.TIME_CONNECT, names.TIME_TLS, cause="CERTIFICATE_VERIFY_FAILED")
    | PEER,
    "/holding": opened("new_client") | body("complete", 300_000),
    "/too-late": failed("pool", "PoolTimeout")
    | {
        names.TIME_POOL: Seconds(0.05),
        names.POOL_CONNECTIONS: 1,
        names.POOL_IDLE: 0,
        names.POOL_WAITING: 0,
        names.POOL_LIMIT: 1,
        names.TIMEOUT: 0.05,
        names.POOL_HELD_AT: LINE,
        names.POOL_HELD_FOR: SECONDS,
    },
    "/timed-out": reused(1) | waited("ReadTimeout") | {names.TIMEOUT: 0.2},
    "/undecodable": opened("request_failed")
    | body("closed_early", 15, 15, UNDECODABLE)
    | {names.BODY_CLOSED_BY: "DecodingError"}
    | NOT_READ,
    "/gap": opened("request_failed")
    | body("complete", 10)
    | {names.BODY_READ_WAIT: Seconds(1), names.BODY_MAX_GAP: Seconds(1)}
    | KERNEL,
    "/stood-still": opened("new_client") | waited("ReadTimeout") | {names.TIMEOUT: 0.3, names.STALLED: Seconds(0.5)},
    "/closed-in-use": opened("new_client")
    | {name: value for name, value in waited("ReadError", "client_closed").items() if name not in KERNEL}
    | {names.FAILED_CAUSE: "ClosedResourceError", names.CONN_CLOSED_AT: CLOSED, names.CONN_CLOSED_VIA: SDK_CLOSES},
    "/in-its-loop": opened("new_client") | body("complete", 5),
    "/in-another-loop": reused(1)
    | waited("RuntimeError")
    # It failed before anything can have been acknowledged.
    | {names.CONN_FOREIGN_LOOP: True, names.TCP_UNACKED: COUNT},
    "/h2-limited": opened("first_connection") | {names.TIME_TLS: SECONDS} | body("complete", 5),
    "/h2-held": reused(1) | {names.CONN_WAS_IDLE: True} | body("complete", 5),
    "/h2-waited": {name: value for name, value in reused(2).items() if name != names.CONN_IDLE}
    | {names.CONN_WAS_IDLE: False, names.TIME_STREAM: Seconds(0.2)}
    | {names.CONN_STREAMS: 1, names.CONN_STREAM_LIMIT: 1}
    | body("complete", 5),
    "/h2-reset": reused(3)
    | failed("wait", "RemoteProtocolError", names.TIME_WAIT, cause="INTERNAL_ERROR")
    | {names.CONN_WAS_IDLE: True, names.NETWORK_PROTOCOL_VERSION: "2", names.RESPONSE_BYTES_RECEIVED: 0}
    | KERNEL,
    "/h2-again": opened("goaway") | {names.TIME_TLS: SECONDS, names.HTTP_REQUEST_RESEND_COUNT: 1} | body("complete", 5),
    "/cancelled": opened("new_client") | body("cancelled", 10, 5) | {names.CONN_CLOSE_REASON: "request_cancelled"},
    "/h2-first": opened("first_connection") | {names.TIME_TLS: SECONDS} | body("complete", 5),
    "/h2-second": reused(1) | {names.CONN_WAS_IDLE: True} | body("complete", 5),
    "/unix": {
        name: value
        for name, value in opened("first_connection").items()
        if name not in (names.NETWORK_PEER_PORT, names.NETWORK_LOCAL_PORT)
    }
    | {names.NETWORK_PEER_ADDRESS: Like(r"/.*/socket"), names.NETWORK_TRANSPORT: "unix"}
    | body("complete", 5),
    "/proxied": opened("first_connection") | {names.TIME_PROXY: SECONDS, names.TIME_TLS: SECONDS} | body("complete", 5),
    "/refused-by-proxy": failed("proxy", "ProxyError", names.TIME_CONNECT, names.TIME_PROXY) | PEER,
    "/forgotten": opened("body_not_read", SDK_LEFT) | LOOKED_UP | body("never_closed", 300_000, 0, FORGOTTEN),
    "/after-forgotten": opened("response_leaked", FORGOTTEN) | LOOKED_UP | body("complete", 5),
    "/kept": reused(1) | body("complete", 300_000) | {names.BODY_MAX_GAP: SECONDS} | KERNEL,
}
#: There where it took a millisecond, which it may on a machine that has other things to do.
BY_CHANCE = {
    names.TIME_POOL,
    names.TIME_SEND,
    names.BODY_READ_WAIT,
    names.POOL_CONNECTIONS,
    names.POOL_IDLE,
    names.POOL_WAITING,
    names.POOL_LIMIT,
    # And these on a machine that has so much to do that something took a second.
    names.STALLED,
    names.BODY_MAX_GAP,
    *KERNEL,
}


#: A program that has forked must not go on exporting over gRPC: see tests/adapters/httpcore/test_evidence.py for it.
NOT_HERE = {names.CONN_INHERITED}
#: Nor is there more than one exchange in a span of these clients: tests/adapters/urllib3/test_telemetry.py. And a lookup
#: that waits for a thread takes as long as what fills the event loop's executor: tests/adapters/httpcore/test_dns.py;
#: a connect whose SYN is lost takes a second: tests/report/test_retries.py. Of those that say close: test_closes.py there.
ELSEWHERE = {
    names.SPAN_EXCHANGE,
    names.HTTP_RESPONSE_STATUS_CODE,
    names.DNS_QUEUED,
    names.CONNECT_RESENT,
    names.CONN_ENDED_BY,
}


def server(address: str = "127.0.0.1") -> dict[str, Any]:
    """What was called."""
    return {names.SERVER_ADDRESS: address, names.SERVER_PORT: PORT}


def got(address: str = "127.0.0.1", because: str | None = None) -> dict[str, Any]:
    """A connection that was got: one that was there, or opened for a reason."""
    known = {names.CONN_OPEN_REASON: because} if because is not None else {}
    reused = because is None
    return {names.CONN_REUSED: reused, names.CONN_WAS_IDLE: reused, names.CONN_ID: ID, **known, **server(address)}


def dialled(address: str = "127.0.0.1") -> dict[str, Any]:
    """A connect over TCP."""
    return {
        **PEER,
        names.NETWORK_LOCAL_ADDRESS: "127.0.0.1",
        names.NETWORK_LOCAL_PORT: PORT,
        names.NETWORK_TRANSPORT: "tcp",
        names.NETWORK_TYPE: "ipv4",
        **server(address),
    }


def handshake() -> dict[str, Any]:
    """A handshake."""
    return {
        names.TLS_PROTOCOL_NAME: "tls",
        names.TLS_PROTOCOL_VERSION: "1.3",
        names.TLS_CIPHER: Like(r"TLS_\w+"),
        names.TLS_RESUMED: False,
        names.SERVER_ADDRESS: "127.0.0.1",
    }


def received(outcome: str) -> dict[str, Any]:
    """All that every request does."""
    said = {names.BODY_OUTCOME: outcome, names.BODY_READ_WAIT: SECONDS}
    return {names.SPAN_SEND: {}, names.SPAN_WAIT: {}, names.SPAN_RECEIVE: said}


LOOKUP = {names.DNS_QUESTION_NAME: "shop.test", names.DNS_ANSWERS: ["127.0.0.1"]}
REFUSED = {names.ERROR_TYPE: "ConnectError"}

#: Child spans of some requests: all of them, and all that is on them.
STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "/first": {
        names.SPAN_GETCONN: got("shop.test", "first_connection"),
        names.SPAN_DNS: LOOKUP,
        names.SPAN_CONNECT: dialled("shop.test"),
        **received("complete"),
    },
    "/second": {names.SPAN_GETCONN: got("shop.test"), **received("complete")},
    "/undecodable": {
        names.SPAN_GETCONN: got(because="request_failed"),
        names.SPAN_CONNECT: dialled(),
        names.SPAN_SEND: {},
        names.SPAN_WAIT: {},
        names.SPAN_RECEIVE: {
            names.BODY_OUTCOME: "closed_early",
            names.BODY_READ_WAIT: SECONDS,
            names.BODY_BYTES_READ: 15,
            names.BODY_CLOSED_AT: UNDECODABLE,
            names.BODY_CLOSED_BY: "DecodingError",
        },
    },
    "/sdk": {
        names.SPAN_GETCONN: got("shop.test"),
        names.SPAN_SEND: {},
        names.SPAN_WAIT: {},
        names.SPAN_RECEIVE: {
            names.BODY_OUTCOME: "closed_early",
            names.BODY_READ_WAIT: SECONDS,
            names.BODY_BYTES_READ: 0,
            names.BODY_CLOSED_AT: SDK_LEFT,
            names.BODY_CLOSED_VIA: SDK_LINE,
        },
    },
    "/refused": {
        names.SPAN_GETCONN: server() | REFUSED,
        names.SPAN_CONNECT: server() | {names.NETWORK_TRANSPORT: "tcp", names.ERROR_TYPE: "connection_refused"},
    },
    "/no-such-name": {
        names.SPAN_GETCONN: server("nowhere.test") | REFUSED,
        names.SPAN_DNS: {names.DNS_QUESTION_NAME: "nowhere.test", names.ERROR_TYPE: "host_not_found"},
    },
    "/untrusted": {
        names.SPAN_GETCONN: server() | REFUSED,
        names.SPAN_CONNECT: dialled(),
        names.SPAN_TLS: {names.SERVER_ADDRESS: "127.0.0.1", names.ERROR_TYPE: "SSLCertVerificationError"},
    },
    "/h2-first": {
        names.SPAN_GETCONN: got(because="first_connection"),
        names.SPAN_CONNECT: dialled(),
        names.SPAN_TLS: handshake() | {names.TLS_NEXT_PROTOCOL: "h2"},
        **received("complete"),
    },
    "/unix": {
        names.SPAN_GETCONN: got("localhost", "first_connection"),
        names.SPAN_CONNECT: {
            names.NETWORK_PEER_ADDRESS: Like(r"/.*/socket"),
            names.NETWORK_TRANSPORT: "unix",
            names.SERVER_ADDRESS: Like(r"/.*/socket"),
        },
        **received("complete"),
    },
    "/proxied": {
        names.SPAN_GETCONN: got(because="first_connection"),
        names.SPAN_CONNECT: dialled() | {names.PROXY_SET_BY: "program"},
        names.SPAN_PROXY: server(),
        names.SPAN_TLS: handshake(),
        **received("complete"),
    },
    "/refused-by-proxy": {
        names.SPAN_GETCONN: server() | {names.ERROR_TYPE: "ProxyError"},
        names.SPAN_CONNECT: dialled() | {names.PROXY_SET_BY: "program"},
        names.SPAN_PROXY: server() | {names.ERROR_TYPE: "ProxyError"},
    },
}

#: From a request to another, and what is on the link.
LINKS: dict[tuple[str, str], dict[str, Any]] = {
    **{
        pair: {names.LINK: names.LINK_CONNECTION_OPENED_BY}
        for pair in (
            ("/second", "/first"),
            ("/trickle", "/first"),
            ("/upload", "/first"),
            ("/left", "/first"),
            ("/sdk", "/after-left"),
            ("/timed-out", "/gap"),
            ("/in-another-loop", "/in-its-loop"),
            ("/h2-held", "/h2-limited"),
            ("/h2-waited", "/h2-limited"),
            ("/h2-reset", "/h2-limited"),
            ("/h2-second", "/h2-first"),
            ("/kept", "/after-forgotten"),
        )
    },
    ("/too-late", "/holding"): {names.LINK: names.LINK_POOL_HELD_BY},
    ("/after-left", "/left"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "body_not_read",
        names.BODY_CLOSED_AT: LEFT,
    },
    ("/forgotten", "/sdk"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "body_not_read",
        names.BODY_CLOSED_AT: SDK_LEFT,
    },
    ("/no-answer", "/half"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "request_failed",
    },
    ("/gap", "/no-answer"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "request_failed",
    },
    ("/undecodable", "/timed-out"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "request_failed",
    },
    ("/after-forgotten", "/forgotten"): {
        names.LINK: names.LINK_CONNECTION_LOST_BY,
        names.CONN_CLOSE_REASON: "response_leaked",
        names.BODY_CLOSED_AT: FORGOTTEN,
    },
}

#: Of the request whose body failed. Those before are of the instrumentation that we build upon.
EVENTS: dict[str, list[dict[str, Any]]] = {
    "/half": [
        {"event": names.EVENT_EXCEPTION, names.EXCEPTION_TYPE: Like(r"httpcore2?\.RemoteProtocolError")},
        {
            "event": names.EVENT_DIAGNOSIS,
            names.MESSAGE: Like(
                r"The body broke off after 5 bytes of 10 bytes, .+ after the headers: RemoteProtocolError;"
                r" connection \d+ was lost with it\."
            ),
        },
    ],
    "/after-left": [
        {
            "event": names.EVENT_DIAGNOSIS,
            names.MESSAGE: Like(rf"Opened a new connection because of {re.escape(LEFT)}, which took .+"),
        }
    ],
}


# The programs, and what they talk to.


def trickle(peer: Peer, request: Request) -> None:
    """Half of a body, and the other half later."""
    peer.send(head("Content-Length: 10") + b"first")
    time.sleep(0.2)
    peer.send(b"other")


def half(peer: Peer, request: Request) -> None:
    """Half of a body."""
    peer.send(head("Content-Length: 10") + b"first")
    time.sleep(0.02)
    peer.close()


def no_answer(peer: Peer, request: Request) -> None:
    """Nothing."""
    peer.close()


def until_left(peer: Peer, request: Request) -> None:
    """Half of a body, and the other half never."""
    peer.send(head("Content-Length: 10") + b"first")
    peer.until_closed()


def silence(peer: Peer, request: Request) -> None:
    """No answer, and the connection stays."""
    peer.until_closed()


def with_a_gap(peer: Peer, request: Request) -> None:
    """A body with a gap in it."""
    peer.send(head("Content-Length: 10") + b"first")
    time.sleep(1.1)
    peer.send(b"other")


class LimitedServer(H2Server):
    """One stream at a time; what is to be asked for again meets GOAWAY first."""

    def asked(self, stream: Stream) -> None:
        """See `H2Server`."""
        if stream.target == "/h2-held":
            threading.Timer(0.3, stream.answer).start()
        elif stream.target == "/h2-again" and len(self.peers) == 1:
            stream.peer.goaway(last=stream.number - 2)
        elif stream.target == "/h2-reset":
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        else:
            stream.answer()


LARGE = answer(b"x" * 300_000)
ROUTES: dict[str, Any] = {
    **dict.fromkeys(REQUESTS, answer()),
    **dict.fromkeys(("/left", "/sdk", "/holding", "/forgotten", "/kept"), LARGE),
    "/trickle": trickle,
    "/half": half,
    "/no-answer": no_answer,
    "/cancelled": until_left,
    **dict.fromkeys(("/timed-out", "/stood-still", "/closed-in-use"), silence),
    "/undecodable": answer(b"this is no gzip", "Content-Encoding: gzip"),
    "/gap": with_a_gap,
}


@dataclass
class Sent:
    """What a program has sent, and what its servers know."""

    service: str
    jaeger: Jaeger
    prometheus: Prometheus
    http: Server
    https: Server
    h2: H2Server
    #: Metrics while the program was waiting.
    waiting: dict[str, list[dict[str, Any]]]
    #: Spans as the collector exported them.
    exported: list[Span]

    def traces(self) -> dict[str, dict[str, Any]]:
        """Jaeger's traces, by the path of the request."""
        found = {}
        for trace in self.jaeger.traces(self.service):
            (request,) = [span for span in trace["spans"] if tags(span)["span.kind"] == "client"]
            found[path(request)] = trace
        return found

    def requests(self) -> dict[str, dict[str, Any]]:
        """Their request spans."""
        return {
            name: next(span for span in trace["spans"] if tags(span)["span.kind"] == "client")
            for name, trace in self.traces().items()
        }

    def series(self, metric: str) -> list[tuple[dict[str, str], float]]:
        """A metric's series: their labels, and their values."""
        # The last that was scraped: where a scrape takes too long, all series are gone until the next.
        last = f'last_over_time({metric}{{job="{self.service}"}}[1h])'
        found = self.waiting.get(metric) or self.prometheus.query(last)
        return [(one["metric"], float(one["value"][1])) for one in found]

    def total(self, metric: str, **labels: str) -> float:
        """The sum of those of its series that have these labels."""
        return sum(value for found, value in self.series(metric) if labels.items() <= found.items())


#: Jaeger's types for those of OpenTelemetry. It has no lists: they are JSON.
TYPES = {"boolean": "bool", "int": "int64", "double": "float64", "string": "string", "string[]": "string"}
ATTRIBUTES = {one.name: one for one in (*described.OTHERS, *described.REQUEST)}


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """All that is on a span in Jaeger, without its types."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def ours(span: dict[str, Any]) -> dict[str, Any]:
    """What the contract names of it. The types are as they should be."""
    found = {}
    for tag in span["tags"]:
        attribute = ATTRIBUTES.get(tag["key"])
        if attribute is not None:
            kind = attribute.type.partition(",")[0]
            assert tag["type"] == TYPES[kind], tag
            # JSON has one kind of number.
            value = json.loads(tag["value"]) if kind == "string[]" else tag["value"]
            found[tag["key"]] = float(value) if kind == "double" else value
    return found


def path(span: dict[str, Any]) -> str:
    """The path of a request."""
    return str(urlsplit(tags(span)["http.url"]).path)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sent]]:
    """The program has run in all four ways, through one collector."""
    folder = tmp_path_factory.mktemp("contract")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    copied: list[Any] = []
    jaeger = Jaeger()
    with ExitStack() as stack:
        copies = stack.enter_context(Receiver(copied.append))
        changes = {
            "exporters::otlp_http/copy::endpoint": copies.endpoint,
            "service::pipelines::traces::exporters": ["otlp_grpc/traces", "spanmetrics", "otlp_http/copy"],
        }
        collector = Collector("local.yaml", changes, TRACES_ENDPOINT=jaeger.grpc_address, SPANMETRICS_INTERVAL="1s")
        prometheus = Prometheus(
            SCRAPED.format(addresses=collector.metrics_address), tmp_path_factory.mktemp("prometheus")
        )
        stack.enter_context(backends(jaeger, collector, prometheus))
        all_sent, processes = {}, []
        for service, (library, protocol) in RUNS.items():
            where = folder / service
            (where / "site-packages").mkdir(parents=True)
            shutil.copy(ROOT / "tests/stories/resolver.py", where)
            for name, text in (("contract.py", PROGRAM), ("site-packages/some_sdk.py", SDK)):
                (where / name).write_text(text.replace("import httpx\n", f"import {library} as httpx\n"))
            (http, https, h2), servers = _servers(stack, authority, where)
            all_sent[service] = Sent(service, jaeger, prometheus, http, https, h2, {}, [])
            endpoint = collector.grpc if protocol == "grpc" else collector.otlp
            processes.append(stack.enter_context(_program(service, where, servers, protocol, endpoint)))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n", process.communicate()[1]
        for one in all_sent.values():
            until(f"{one.service} has told what is open", partial(_is_open, one))
        for process in processes:
            assert (*process.communicate(timeout=50), process.returncode) == ("", "", 0)
        number = collector.own()["otelcol_receiver_accepted_spans_total"]

        def arrived() -> bool:
            here = sum(len(trace["spans"]) for service in RUNS for trace in jaeger.traces(service))
            counted = prometheus.value("sum(last_over_time(httptrace_requests_total[1h]))")
            return here == number and counted == len(REQUESTS) * len(RUNS)

        until("all has arrived", arrived)
        for request in copied:
            for span in otlp.from_protobuf(request):
                all_sent[span.source.service].exported.append(span)
        yield all_sent


def _servers(stack: ExitStack, authority: trustme.CA, where: Path) -> tuple[tuple[Any, ...], dict[str, str]]:
    """Servers of all kinds; of three we ask what they know."""

    def tls() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return context

    http = stack.enter_context(Server(ROUTES))
    https = stack.enter_context(Server(ROUTES, tls=tls()))
    h2 = stack.enter_context(H2Server(tls()))
    limited = LimitedServer(tls())
    limited.limit = 1
    stack.enter_context(limited)
    stack.enter_context(Server(ROUTES, uds=str(where / "socket")))
    proxy = stack.enter_context(Proxy())
    refusing = stack.enter_context(Proxy(refuse=answer(b"", status="403 Forbidden")))
    return (http, https, h2), {
        "name": http.url("", host="shop.test"),
        "http": http.url(""),
        "https": https.url(""),
        "h2": h2.url(""),
        "limited": limited.url(""),
        "dead": f"http://127.0.0.1:{free_port()}",
        "nowhere": f"http://nowhere.test:{http.port}",
        "socket": str(where / "socket"),
        "proxy": proxy.url(""),
        "refusing": refusing.url(""),
        "ca": str(where.parent / "ca.pem"),
    }


def _program(service: str, where: Path, servers: dict[str, str], protocol: str, endpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *INSTRUMENTED,
            str(where / "resolver.py"),
            str(where / "contract.py"),
        ],
        env=exporting(
            service,
            endpoint,
            protocol,
            PYTHONPATH=str(where / "site-packages"),
            OTEL_METRIC_EXPORT_INTERVAL="200",
            OTEL_PYTHON_HTTPTRACE_SPANS="all",
            SERVERS=json.dumps(servers),
            RESOLVER=json.dumps({"shop.test": [0.01, ["127.0.0.1"]], "nowhere.test": [0, -2]}),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


#: What there is only as long as something is open.
OPEN = ("httptrace_responses_open", "httptrace_responses_open_max_age_seconds", "http_client_open_connections")


def _is_open(one: Sent) -> bool:
    one.waiting = {metric: one.prometheus.query(f'{metric}{{job="{one.service}"}}') for metric in OPEN}
    # Of the response that is kept, and not of one that was open for a moment, when somebody looked.
    age = one.total("httptrace_responses_open_max_age_seconds", server_address="shop.test")
    at_server = sum(peer.closed_by is None for peer in one.http.peers)
    return age > 2 and one.total("http_client_open_connections", **HELD) == at_server == 2


#: The connections that are in use while the program waits: one of a response that is kept, one of another that leaked.
HELD = {"server_address": "shop.test", "http_connection_state": "active", "network_protocol_version": "1.1"}


@pytest.fixture(params=RUNS)
def one(request: pytest.FixtureRequest, sent: dict[str, Sent]) -> Sent:
    """One of the ways."""
    return sent[request.param]


def test_requests_arrive_in_jaeger_with_exactly_their_attributes(one: Sent) -> None:
    """Each request is a span in Jaeger with exactly its attributes, of the right types, and a status if it failed."""
    found = {name: ours(span) for name, span in one.requests().items()}
    for name, said in found.items():
        for chance in BY_CHANCE - set(REQUESTS[name]):
            said.pop(chance, None)

    assert found == REQUESTS
    for name, span in one.requests().items():
        status = {name: value for name, value in tags(span).items() if name in ("error", "otel.status_code")}
        expected = {"error": True, "otel.status_code": "ERROR"} if names.ERROR_TYPE in REQUESTS[name] else {}
        assert status == expected, name


def test_child_spans_arrive_in_jaeger_under_their_parents(one: Sent) -> None:
    """The steps of a request are spans in Jaeger, each under its parent, with exactly their attributes."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, trace in one.traces().items():
        kinds = {span["spanID"]: span["operationName"] for span in trace["spans"]}
        for span in trace["spans"]:
            if tags(span)["span.kind"] == "client":
                continue
            (parent,) = [kinds[to["spanID"]] for to in span["references"] if to["refType"] == "CHILD_OF"]
            within = span["operationName"] in (names.SPAN_DNS, names.SPAN_CONNECT, names.SPAN_PROXY, names.SPAN_TLS)
            assert (parent == names.SPAN_GETCONN) is within
            assert tags(span)["span.kind"] == "internal"
            assert ("error" in tags(span)) is (names.ERROR_TYPE in ours(span))
            found.setdefault(name, {})[span["operationName"]] = ours(span)

    assert {name: found[name] for name in STEPS} == STEPS


def test_links_arrive_in_jaeger_at_the_right_requests(one: Sent) -> None:
    """Links are references in Jaeger, to the right requests; their attributes have passed the collector."""
    requests = one.requests()
    by_id = {span["spanID"]: name for name, span in requests.items()}
    references = {
        (name, by_id[to["spanID"]])
        for name, span in requests.items()
        for to in span["references"]
        if to["refType"] == "FOLLOWS_FROM"
    }
    attributes = {
        (by_id[span.span_id], by_id[link.span_id]): dict(link.attributes)
        for span in one.exported
        for link in span.links
    }

    assert references == set(LINKS)
    assert attributes == LINKS


def test_the_error_of_a_failed_body_is_a_log_in_jaeger(one: Sent) -> None:
    """The error of a body that failed is a log of its span in Jaeger."""
    requests = one.requests()
    for name, expected in EVENTS.items():
        logs = sorted(requests[name]["logs"], key=lambda log: log["timestamp"])
        assert [{field["key"]: field["value"] for field in log["fields"]} for log in logs] == expected


def metric_name(one: described.Described) -> str:
    """What Prometheus calls it."""
    kind, _, unit = one.kind.partition(", ")
    end = {"histogram": "_count", "counter": "_total"}.get(kind, "")
    return one.name.replace(".", "_") + ("_seconds" if unit == "s" else "") + end


@pytest.mark.parametrize("metric", described.METRICS, ids=lambda metric: metric.name)
def test_metrics_arrive_in_prometheus_with_exactly_their_labels(metric: described.Described, one: Sent) -> None:
    """Each metric is in Prometheus, of its kind, with all of its attributes as labels and no others."""
    name = metric_name(metric)
    url = f"{one.prometheus.url}/api/v1/metadata"
    base = re.sub(r"_(count|total)$", "", name)
    known = one.prometheus.http.get(url).json()["data"]
    kind = metric.kind.partition(",")[0]

    assert {found["type"] for key in (base, name) for found in known.get(key, ())} == {
        {"up-down counter": "gauge"}.get(kind, kind)
    }
    labels = {label for found, _ in one.series(name) for label in found if not label.startswith(("otel_scope_", "__"))}
    assert labels - {"job", "instance"} == {attribute.replace(".", "_") for attribute in metric.attributes}


def test_metrics_have_the_values_that_the_servers_counted(one: Sent) -> None:
    """The metrics' values are what the servers counted, and what the program did."""
    to_http = {"server_port": str(one.http.port)}
    reused = [name for name, attributes in REQUESTS.items() if attributes.get(names.CONN_REUSED) is True]
    without = sum(names.CONN_REUSED not in attributes for attributes in REQUESTS.values())

    assert one.total("httptrace_requests_total", http_conn_reused="true") == len(reused)
    over_http2 = sum(name.startswith("/h2-") for name in reused)
    assert one.total("httptrace_requests_total", **to_http, http_conn_reused="true") == len(reused) - over_http2
    assert one.total("httptrace_requests_total", **to_http, http_conn_reused="false") == one.http.accepted
    assert (
        sum(value for labels, value in one.series("httptrace_requests_total") if "httptrace_failed_phase" in labels)
        == without
    )
    causes = Counter(
        attributes[names.FAILED_CAUSE] for attributes in REQUESTS.values() if names.FAILED_CAUSE in attributes
    )
    for cause in causes:
        assert one.total("httptrace_requests_failed_total", httptrace_failed_cause=cause) == causes[cause], cause
    assert one.total("httptrace_connections_opened_total", **to_http) == one.http.accepted
    assert one.total("httptrace_connections_opened_total", server_port=str(one.h2.port)) == one.h2.accepted == 1
    for reason in ("body_not_read", "first_connection", "new_client", "request_failed", "response_leaked"):
        assert one.total("httptrace_connections_opened_total", httptrace_conn_open_reason=reason) == sum(
            attributes.get(names.CONN_OPEN_REASON) == reason for attributes in REQUESTS.values()
        ), reason
    for outcome in ("complete", "closed_early", "never_closed", "failed", "cancelled"):
        assert one.total("httptrace_bodies_total", httptrace_body_outcome=outcome) == sum(
            attributes.get(names.BODY_OUTCOME) == outcome for attributes in REQUESTS.values()
        ), outcome
    lookups = sum(names.TIME_DNS in attributes for attributes in REQUESTS.values())
    assert one.total("dns_lookup_duration_seconds_count") == lookups
    assert one.total("dns_lookup_duration_seconds_count", error_type="host_not_found") == 1
    assert one.total("dns_lookup_duration_seconds_sum", dns_question_name="shop.test") >= 0.01 * (lookups - 1)
    # One, or more on a machine that has other things to do.
    waits = [ours(span)[names.TIME_POOL] for span in one.requests().values() if names.TIME_POOL in ours(span)]
    assert one.total("http_client_request_time_in_queue_seconds_count") == len(waits) >= 1
    # Attributes are told in steps of a microsecond, metrics are not.
    assert one.total("http_client_request_time_in_queue_seconds_sum") == pytest.approx(
        sum(waits), abs=1e-6 * len(waits)
    )
    closed = one.total("httptrace_connections_closed_total")
    assert closed == one.total("http_client_connection_duration_seconds_count")
    for reason in ("body_not_read", "request_failed", "request_cancelled"):
        assert one.total("httptrace_connections_closed_total", httptrace_conn_close_reason=reason) == sum(
            attributes.get(names.CONN_CLOSE_REASON) == reason for attributes in REQUESTS.values()
        ), reason
    assert one.total("http_client_open_connections", **HELD, **to_http) == 2
    assert one.total("httptrace_responses_open", server_address="shop.test", **to_http) == 1
    assert one.total("httptrace_responses_open_max_age_seconds", server_address="shop.test", **to_http) > 2


def test_every_name_is_checked() -> None:
    """There is no name in the one module of names that is not looked for here."""
    every = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and name != "UPSTREAM_SCOPE"
    }
    checked = {name for attributes in REQUESTS.values() for name in attributes}
    for steps in STEPS.values():
        checked.update(steps, *steps.values())
    for attributes in LINKS.values():
        checked.update(attributes, [attributes[names.LINK]])
    for attributes in (one for events in EVENTS.values() for one in events):
        checked.update({*attributes} - {"event"}, [attributes["event"]])
    for metric in described.METRICS:
        checked.update([metric.name], metric.attributes)

    assert checked == every - NOT_HERE - ELSEWHERE
    # Each of them also where it is documented to be.
    for span in (one for one in described.SPANS if one.name not in ELSEWHERE):
        told = set().union(*(steps.get(span.name, {}) for steps in STEPS.values()))
        assert told == set(span.attributes) - ELSEWHERE, span.name
    assert {name for attributes in REQUESTS.values() for name in attributes} == {
        one.name for one in described.REQUEST
    } - NOT_HERE - ELSEWHERE
