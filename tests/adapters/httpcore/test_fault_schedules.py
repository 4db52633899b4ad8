# As tests/adapters/httpcore/test_schedules.py, but of what goes wrong: servers that reset, stall, answer
# nonsense or not at all, a process that has no files left, forks or stands still, and
# programs that do the wrong thing. Each act says which verdicts it may be told as, and
# what else is found contradicts the script. What is judged by a time is left out where
# this machine itself was so slow that it may be true.
#
# HTTPTRACE_SCHEDULES=10000 plays as many; a failure names its seed.

"""No finding that the script contradicts, in any schedule of faults, and none that fails untold."""

from __future__ import annotations

import gc
import os
import random
import resource
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest
from kit.clients import Flavour
from kit.server import Peer, Request, Server, answer, chunk, free_port, head
from kit.telemetry import Telemetry
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_httptrace.report.analysis import analyze
from otel_httptrace.report.findings import Finding, Sure, Thresholds
from otel_httptrace.report.otlp import from_protobuf
from otel_httptrace.report.rows import rows

SCHEDULES = int(os.environ.get("HTTPTRACE_SCHEDULES", "90"))
SEED = int(os.environ.get("HTTPTRACE_SEED", "0")) or random.SystemRandom().randrange(10**6)

#: Seconds that a scripted delay takes, from where on it is told, and how much slower this machine may be for that.
DELAY: Final = 1.3
SLOW: Final = 1.0
NOISE: Final = 0.2
LIMITS: Final = Thresholds(
    lost_connections=1,
    statuses=1,
    cancelled=1,
    reopened=1,
    server_closed=1,
    wait=SLOW,
    receive=SLOW,
    gap=SLOW,
    stall=SLOW,
)
#: What is judged by how long something took.
TIMED: Final = frozenset(
    {
        "server_slow", "process_stalled", "body_slow_server", "body_slow_consumer", "dns_slow", "tls_slow", "upload_slow",
        "upload_stalled", "connection_dead", "address_fallback", "pool_saturated",
    }
)  # fmt: skip


def _slow(peer: Peer, request: Request) -> None:
    time.sleep(DELAY)
    peer.send(answer())


def _more(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    peer.until_closed()


def _trickle(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    time.sleep(DELAY)
    peer.send(b"other")


def _broken_off(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    peer.close()


def _reset(peer: Peer, request: Request) -> None:
    peer.send(head("Content-Length: 10") + b"first")
    # Read before it is reset: or what was sent is thrown away, too.
    peer.server.go.wait(5)
    peer.reset()


ROUTES: Final[dict[str, Any]] = {
    "/more": _more,
    "/silent": lambda peer, request: peer.until_closed(),
    "/slow": _slow,
    "/trickle": _trickle,
    "/broken-off": _broken_off,
    "/reset": _reset,
    "/malformed": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "/nonsense": b"220 mail.test ESMTP\r\n\r\n",
    "/bad-chunk": head("Transfer-Encoding: chunked") + chunk(b"one") + b"zz\r\n",
    "/odd": answer(b"this is no gzip", "Content-Encoding: gzip"),
    "/busy": answer(b"later", status="503 Service Unavailable"),
}


class Told(Exception):
    """The application's own."""


class Script:
    """One schedule: what was done, and which verdicts may be told of it.

    Args:
        flavour: the client.
        servers: which origins there are.
        telemetry: what comes out.
        chance: decides everything.
    """

    def __init__(self, flavour: Flavour, servers: list[Server], telemetry: Telemetry, chance: random.Random) -> None:
        self.flavour, self.servers, self.telemetry, self.chance = flavour, servers, telemetry, chance
        self.client = flavour.client()
        #: By origin: verdicts that what was done there may be told as.
        self.allowed: dict[str, set[str]] = {}
        #: By origin, each failure: one of these must be told.
        self.owed: list[tuple[str, set[str]]] = []
        self.done: list[str] = []
        self.noisy = False
        #: From other processes.
        self.exported: list[bytes] = []
        self._number = 0

    async def play(self) -> None:
        """Some acts, one after the other."""
        acts: list[Callable[[Server], Any]] = [
            *[self.read] * 6, *[self.early] * 2, self.leak, self.dropped, self.closes, self.broken_off, self.reset,
            self.no_answer, self.malformed, self.busy, self.timeout, self.refused, self.undecodable, self.raises,
            self.no_shared_client, self.no_files, self.reopened,
        ]  # fmt: skip
        # What takes its time comes seldom.
        if self.chance.random() < 0.1:
            acts += [self.slow, self.trickle] * 3
        if self.flavour.mode == "sync":
            acts += [self.forked] * (self.chance.random() < 0.2)
        else:
            acts += [self.cancelled, *[self.stalled] * (self.chance.random() < 0.1)]
        for _ in range(self.chance.randrange(3, 9)):
            act = self.chance.choice(acts)
            self.done.append(act.__name__)
            since = time.monotonic()
            scripted = await act(self.chance.choice(self.servers)) or 0.0
            if time.monotonic() - since - scripted > NOISE:
                self.noisy = True
        await self.client.close()

    def _may(self, server: Server, *verdicts: str, failed: bool = False) -> None:
        self._may_at(server.url(""), *verdicts, failed=failed)

    def _may_at(self, origin: str, *verdicts: str, failed: bool = False) -> None:
        self.allowed.setdefault(origin, set()).update(verdicts)
        if failed:
            # Asked for again, it is a call that is repeated.
            self.allowed[origin].add("call_repeated")
            self.owed.append((origin, set(verdicts)))

    async def _fails(self, server: Server, target: str, error: str) -> None:
        with pytest.raises(getattr(self.flavour.httpx, error)):
            await self.client.get(server.url(target))

    async def read(self, server: Server) -> None:
        """Nothing is wrong."""
        await self.client.get(server.url("/"))

    async def early(self, server: Server) -> None:
        """The response is closed unread."""
        async with self.client.stream("GET", server.url(self.chance.choice(("/", "/more")))):
            pass
        self._may(server, "body_not_read")

    async def leak(self, server: Server) -> None:
        """Nobody closes the response."""
        response = await self.client.open("GET", server.url("/"))
        del response
        gc.collect()
        self.telemetry.metrics()
        self._may(server, "responses_never_closed", "connections_leaked")

    async def dropped(self, server: Server) -> None:
        """The server closes what is idle."""
        for peer in server.peers:
            if peer.closed_by is None and peer.requests:
                peer.drop()
        self._may(server, "server_closes_idle")

    async def closes(self, server: Server) -> None:
        """The server wants it closed."""
        await self.client.get(server.url("/close"))
        self._may(server, "connection_close")

    async def broken_off(self, server: Server) -> None:
        """The server closes in the middle of the body."""
        await self._fails(server, "/broken-off", "RemoteProtocolError")
        self._may(server, "body_failed", failed=True)
        self._may(server, "connections_failed")

    async def reset(self, server: Server) -> None:
        """The connection is reset in the middle of the body."""
        server.go.clear()
        with pytest.raises(self.flavour.httpx.TransportError):
            async with self.client.stream("GET", server.url("/reset")) as response:
                server.go.set()
                await response.read()
        self._may(server, "body_failed", failed=True)
        self._may(server, "connections_failed")

    async def no_answer(self, server: Server) -> None:
        """The server closes instead of answering."""
        with pytest.raises(self.flavour.httpx.TransportError):
            await self.client.get(server.url("/no-answer"))
        # On one that had been idle for long it may have been the keep-alive timeout, as far as a client can tell.
        self._may(server, "closed_without_answer", "stale_keepalive", failed=True)
        self._may(server, "connections_failed")

    async def malformed(self, server: Server) -> None:
        """The server's answer is no HTTP."""
        await self._fails(server, self.chance.choice(("/malformed", "/nonsense", "/bad-chunk")), "RemoteProtocolError")
        self._may(server, "malformed_response", "body_failed", failed=True)
        self._may(server, "connections_failed")

    async def busy(self, server: Server) -> None:
        """The server has no time."""
        await self.client.get(server.url("/busy"))
        self._may(server, "error_statuses", "call_repeated", failed=True)

    async def timeout(self, server: Server) -> None:
        """The server does not answer in time."""
        with pytest.raises(self.flavour.httpx.ReadTimeout):
            await self.client.get(server.url("/silent"), timeout=self.flavour.httpx.Timeout(5, read=0.02))
        self._may(server, "server_slow", "failed", failed=True)
        self._may(server, "connections_failed")

    async def refused(self, server: Server) -> None:
        """Nobody listens."""
        origin = f"http://127.0.0.1:{free_port()}"
        with pytest.raises(self.flavour.httpx.ConnectError):
            await self.client.get(origin + "/")
        self._may_at(origin, "failed", failed=True)

    async def undecodable(self, server: Server) -> None:
        """The body came, and the client can't decode it."""
        await self._fails(server, "/odd", "DecodingError")
        self._may(server, "application_failed", "failed", failed=True)
        self._may(server, "body_not_read", "connections_failed")

    async def raises(self, server: Server) -> None:
        """The program fails with a response in its hands."""
        with pytest.raises(Told):
            async with self.client.stream("GET", server.url("/more")):
                raise Told
        self._may(server, "application_failed", failed=True)

    async def no_shared_client(self, server: Server) -> None:
        """A client for each request."""
        for _ in range(3):
            async with self.flavour.client() as client:
                await client.get(server.url("/"))
        self._may(server, "client_per_request")

    async def no_files(self, server: Server) -> None:
        """The process may open no further file."""
        fresh = self.flavour.client()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # No number below the limit is free, whatever the servers' threads close meanwhile.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(self.flavour.httpx.ConnectError):
                await fresh.get(server.url("/"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await fresh.close()
        self._may(server, "too_many_open_files", failed=True)

    async def reopened(self, server: Server) -> None:
        """The pool is closed, and used again."""
        pool = self.client.pool
        if self.flavour.mode == "sync":
            pool.close()
        else:
            await pool.aclose()
        for other in self.servers:
            self._may(other, "client_used_after_close")

    async def slow(self, server: Server) -> float:
        """The server takes its time for the answer."""
        await self.client.get(server.url("/slow"))
        self._may(server, "server_slow", failed=True)
        return DELAY

    async def trickle(self, server: Server) -> float:
        """The server takes its time for the body."""
        await self.client.get(server.url("/trickle"))
        self._may(server, "body_slow_server", failed=True)
        return DELAY

    async def cancelled(self, server: Server) -> None:
        """The caller gives up."""
        before = len(server.requests)
        await self.flavour.cancelled(self.client.get, server.url("/silent"), when=lambda: len(server.requests) > before)
        self._may(server, "cancelled_in", "connections_cancelled")

    async def stalled(self, server: Server) -> float:
        """The event loop stands still, and the answer is there."""
        async with self.flavour.together() as start:
            start(self.client.get, server.url("/"))
            before = len(server.requests)
            await self.flavour.until(lambda: len(server.requests) > before)
            time.sleep(DELAY)
        self._may(server, "process_stalled")
        return DELAY

    async def forked(self, server: Server) -> None:
        """A child process uses the parent's connections."""
        await self.client.get(server.url("/"))
        reading, writing = os.pipe()
        before = len(self.telemetry.exporter.get_finished_spans())
        with warnings.catch_warnings():
            # Python 3.12 warns of threads: the child only makes a request, and is gone.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                await self.client.get(server.url("/"))
                spans = self.telemetry.exporter.get_finished_spans()[before:]
                os.write(writing, encode_spans(spans).SerializeToString())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            self.exported.append(pipe.read())
        assert os.waitpid(pid, 0)[1] == 0
        self._may(server, "connection_inherited")

    def check(self) -> None:
        """What the report finds is what the script may be told as, and each failure is told."""
        spans = self.telemetry.spans()
        requests = [ExportTraceServiceRequest.FromString(encode_spans(spans).SerializeToString())]
        requests += [ExportTraceServiceRequest.FromString(data) for data in self.exported if data]
        report = analyze(rows(span for request in requests for span in from_protobuf(request)), LIMITS)
        for finding in report.findings:
            if finding.verdict in TIMED and self.noisy:
                continue
            for origin in origins(finding):
                assert finding.verdict in self.allowed.get(origin, ()), (finding.sentence, finding.sure)
            if finding.verdict == "stale_keepalive":
                assert finding.sure is not Sure.CERTAIN, finding.sentence
        told = {(finding.verdict, origin) for finding in report.findings for origin in origins(finding)}
        for origin, verdicts in self.owed:
            assert any((verdict, origin) in told for verdict in verdicts), (origin, verdicts, told)


def origins(finding: Finding) -> set[str]:
    """The servers that a finding is about."""
    return {share.origin for share in finding.origins} or {finding.origin}


@pytest.mark.modes("sync", "asyncio", "trio")
@pytest.mark.settings(spans="connection")
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
async def test_faults_are_told_as_what_they_were(
    flavour: Flavour, serve: Callable[..., Server], telemetry: Telemetry
) -> None:
    """In every random schedule of faults each finding is one that the script allows, and each failure has one."""
    servers = [serve(ROUTES) for _ in range(3)]
    noisy = 0
    schedules = SCHEDULES // 6
    for number in range(schedules):
        seed = f"{SEED}-{number}-{flavour}"
        telemetry.exporter.clear()
        script = Script(flavour, servers, telemetry, random.Random(seed))
        try:
            await script.play()
            script.check()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {script.done}") from error
        noisy += script.noisy
        for server in servers:
            server.peers[:] = [peer for peer in server.peers if not peer.over.is_set()]
            server._threads[:] = [thread for thread in server._threads if thread.is_alive()]
    print(f"{flavour}: {schedules} schedules, {noisy} of them not judged by times, seed {SEED}")
    assert noisy <= schedules / 2
    assert threading.active_count() < 100
