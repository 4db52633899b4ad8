"""A second adapter, for a client that only the tests have: what an adapter has to do, and that it is enough."""

from __future__ import annotations

import gc
import inspect
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from kit import scripted
from kit.scripted import Gone, Pool, PoolTimeout, Request
from kit.telemetry import UPSTREAM, Telemetry
from opentelemetry.trace import SpanKind

from otel_httptrace import instrumentor
from otel_httptrace.adapters import loading
from otel_httptrace.clients import CLIENTS, Client
from otel_httptrace.core.ledger import Connection, Ledger, Limits, Missed
from otel_httptrace.core.timeline import Address, Attempt, Dial, Exchange, Origin
from otel_httptrace.observe import bodies, evidence, observer, probe
from otel_httptrace.observe.current import CURRENT
from otel_httptrace.observe.lifetime import Lifetime
from otel_httptrace.observe.lookalike import preceded
from otel_httptrace.observe.marks import attach, attached

_now = time.monotonic_ns


def as_ours(hook: Callable[..., Any]) -> Callable[..., Any]:
    """*hook*, as if it were in a file of the package: the search for the application's line passes it by."""
    hook.__code__ = hook.__code__.replace(co_filename=inspect.getfile(observer))
    return hook


class _Probe(probe.Probe):
    __slots__ = ("_line",)

    def __init__(self, line: scripted.Line) -> None:
        self._line = weakref.ref(line)

    def readable(self) -> bool | None:
        """Whether the other side has closed it."""
        line = self._line()
        return line.wire.ended if line is not None else None


class Adapter(observer.Observer):
    """Tells what happens in `kit.scripted`."""

    def __init__(self, lifetime: Lifetime) -> None:
        super().__init__(lifetime)
        self._patches = lifetime.patches

    def install(self, module: ModuleType) -> None:
        """Put the hooks on *module*."""
        self.lifetime.resolver.install()
        contain = partial(self.guard.contain, "hook")
        replace = self._patches.replace_method
        replace(module.Pool, "send", self._send)
        replace(module.Pool, "dial", self._dial)
        replace(module.Pool, "close", lambda original: preceded(original, self.pool_closing, contain, whatever=True))
        replace(module.Line, "carry", self._carry)
        replace(module.Wire, "close", lambda original: preceded(original, self.stream_closing, contain, whatever=True))

    def watch_body(self, cls: type) -> None:
        """Watch a response's body."""
        failed = partial(self.guard, self._read_failed)
        self._patches.replace_method(
            cls, "__iter__", lambda original: bodies.iteration(original, _iterated, failed, self.guard.contain)
        )
        self._patches.replace_method(cls, "close", self._body_close)

    def _read_failed(self, exchange: Exchange, error: BaseException, stream: object) -> None:
        self.read_failed(exchange, error, evidence.Timeout())

    def _send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(pool: Any, request: Any) -> Any:
            outer = CURRENT.get()
            exchange = self.begin(pool, request, lambda pool: Limits(connections=pool.most))
            assert exchange is not None
            try:
                response = original(pool, request)
            except BaseException as error:
                timeout = evidence.Timeout(evidence.POOL_TIMEOUT if isinstance(error, PoolTimeout) else "")
                origin = Origin("http", request.host, 80)
                self.request_failed(exchange, error, _now(), lambda: origin, timeout)
                raise
            finally:
                CURRENT.set(outer)
            now = exchange.headers_at = _now()
            exchange.request = None
            exchange.method, exchange.status = b"GET", response.status
            exchange.request_headers, exchange.response_headers = request.headers, response.headers
            conn = exchange.conn
            assert conn is not None
            if not conn.carried:
                self.took_first(exchange, conn, now)
            conn.ledger.carries(conn, exchange)
            self.awaits_body(exchange, response.body, now)
            return response

        return as_ours(send)

    def _dial(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def dial(pool: Any, host: str) -> Any:
            exchange, ledger = CURRENT.get(), attached(pool)
            assert isinstance(ledger, Ledger)
            assert exchange is not None
            origin = Origin("http", host, 80)
            self._look_for_missing(ledger, pool)
            exchange.acquired_at = started = _now()
            conn = ledger.created(origin, started)
            conn.dialler, exchange.dial = exchange, Dial()
            attempt = Attempt(host, 80, "tcp", started)
            exchange.dial.attempt_started(attempt)
            line = original(pool, host)
            now = _now()
            attempt.over(now)
            attempt.peer = conn.peer = Address("192.0.2.1", 80)
            exchange.dial.over(now)
            conn.probe = _Probe(line)
            attach(line, conn)
            attach(line.wire, conn)
            self.opened(exchange, conn, now)
            return line

        return as_ours(dial)

    def _look_for_missing(self, ledger: Ledger, pool: Any) -> None:
        gone = ledger.missing({attached(line) for line in pool.lines})
        ledger.missed([Missed(conn, conn.probe.readable()) for conn in gone], _now())

    def _carry(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def carry(line: Any, request: Any) -> Any:
            exchange, conn = CURRENT.get(), attached(line)
            assert isinstance(conn, Connection)
            assert exchange is not None
            exchange.ledger.waiting.pop(exchange, None)
            exchange.ledger.acquired(conn, exchange, _now())
            exchange.sending(_now())
            result = original(line, request)
            exchange.wait_at = _now()
            return result

        return as_ours(carry)

    def _body_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def close(body: Any) -> Any:
            exchange = attached(body)
            assert isinstance(exchange, Exchange)
            if exchange.finished:
                return original(body)
            self.body_closing(exchange)
            try:
                return original(body)
            finally:
                self.lifetime.finish(exchange, None)

        return as_ours(close)


def _iterated(body: Any) -> tuple[Exchange | None, bool]:
    exchange = attached(body)
    assert isinstance(exchange, Exchange)
    again, exchange.iterated = exchange.iterated, True
    return exchange, again


@pytest.fixture
def scripted_telemetry(bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """With the scripted client for the only one there is."""
    client = Client(
        name="scripted",
        library="scripted",
        module="scripted",
        core="scripted",
        adapter="scripted",
        whole="Pool",
        supported=">=1",
        classes=(),
        plumbing=(),
        timeouts=CLIENTS[0].timeouts,
        upstream=CLIENTS[0].upstream,
    )
    monkeypatch.setitem(sys.modules, "scripted", scripted)
    monkeypatch.setattr(instrumentor, "CLIENTS", (client,))
    monkeypatch.setattr(loading, "version", lambda name: "1.0")
    monkeypatch.setattr(loading, "load", lambda client, lifetime: Adapter(lifetime))
    # As `opentelemetry-instrument` says that it turns on upstream by itself.
    bare_telemetry.instrument(skip_dep_check=True, spans="connection")
    yield bare_telemetry
    bare_telemetry.uninstrument()


def sent(telemetry: Telemetry, pool: Pool, request: Request) -> scripted.Response:
    """A response within a request span, as upstream makes one: it ends when the headers are in."""
    tracer = telemetry.tracer_provider.get_tracer(UPSTREAM)
    with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, record_exception=False):
        return pool.send(request)


def read(telemetry: Telemetry, pool: Pool, request: Request) -> None:
    """A response, read to its end and closed."""
    response = sent(telemetry, pool, request)
    for _ in response.body:
        pass
    response.body.close()


def test_a_reused_connection_has_the_ten_attributes(scripted_telemetry: Telemetry) -> None:
    """The second request on a connection has the ten attributes of a plain one, and no child span."""
    pool = Pool()
    read(scripted_telemetry, pool, Request("localhost"))
    read(scripted_telemetry, pool, Request("localhost"))

    first, second = scripted_telemetry.requests()
    told = scripted_telemetry.told(second)
    times = {name: told.pop(name) for name in list(told) if "time" in name or name == "httptrace.conn.idle"}
    assert set(times) == {"httptrace.time.wait", "httptrace.time.receive", "httptrace.conn.idle"}
    assert told == {
        "http.conn.reused": True,
        "httptrace.conn.id": 1,
        "httptrace.conn.requests": 1,
        "network.peer.address": "192.0.2.1",
        "network.peer.port": 80,
        "httptrace.body.outcome": "complete",
        "http.response.body.size": 4,
    }
    assert scripted_telemetry.tree(second) == []
    assert scripted_telemetry.tree(first) == [("http.getconn", ["http.dns", "http.connect"])]
    assert scripted_telemetry.counted("httptrace.connections.opened", "httptrace.conn.open_reason") == {
        "first_connection": 1
    }


def test_a_body_not_read_is_linked(scripted_telemetry: Telemetry) -> None:
    """The connection that has to be opened for it names the request that lost the one before, and its line."""
    pool = Pool()
    response = sent(scripted_telemetry, pool, Request("localhost"))
    response.body.close()
    read(scripted_telemetry, pool, Request("localhost"))

    culprit, victim = scripted_telemetry.requests()
    (closed_at,) = [place for place in scripted_telemetry.column("httptrace.body.closed_at") if place]
    assert "test_adapter.py" in closed_at
    assert "test_a_body_not_read_is_linked" in closed_at
    assert scripted_telemetry.column("httptrace.conn.open_reason") == ["first_connection", "body_not_read"]
    (link,) = victim.links
    assert culprit.context is not None
    assert link.context.span_id == culprit.context.span_id
    assert dict(link.attributes or {}) == {
        "httptrace.link": "connection_lost_by",
        "httptrace.conn.close_reason": "body_not_read",
        "httptrace.body.closed_at": closed_at,
    }


def _busy(telemetry: Telemetry, pool: Pool) -> None:
    open_response = sent(telemetry, pool, Request("localhost"))
    read(telemetry, pool, Request("localhost"))
    list(open_response.body)
    open_response.body.close()


def _server_closed(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost"))
    pool.lines[0].wire.ended = True
    read(telemetry, pool, Request("localhost"))


def _connection_close(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost", headers=((b"connection", b"close"),)))
    read(telemetry, pool, Request("localhost"))


def _failed(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost"))
    with pytest.raises(Gone):
        sent(telemetry, pool, Request("localhost", Gone()))
    read(telemetry, pool, Request("localhost"))


def _failed_in_the_body(telemetry: Telemetry, pool: Pool) -> None:
    with pytest.raises(Gone):
        read(telemetry, pool, Request("localhost", (b"some", Gone())))
    pool.lines[0].busy = False
    pool.drop(pool.lines[0])
    read(telemetry, pool, Request("localhost"))


def _cancelled(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost"))
    with pytest.raises(KeyboardInterrupt):
        sent(telemetry, pool, Request("localhost", KeyboardInterrupt()))
    read(telemetry, pool, Request("localhost"))


def _new_client(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost"))
    read(telemetry, Pool(), Request("localhost"))


def _client_closed(telemetry: Telemetry, pool: Pool) -> None:
    read(telemetry, pool, Request("localhost"))
    pool.close()
    read(telemetry, pool, Request("localhost"))


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (_busy, "all_busy"),
        (_server_closed, "server_closed"),
        (_connection_close, "connection_close"),
        (_failed, "request_failed"),
        (_failed_in_the_body, "request_failed"),
        (_cancelled, "request_cancelled"),
        (_new_client, "new_client"),
        (_client_closed, "client_closed"),
    ],
)
def test_every_reason_is_decided_for_an_unknown_client(
    scripted_telemetry: Telemetry, play: Callable[[Telemetry, Pool], None], reason: str
) -> None:
    """Each reason that a neutral fact can have is decided for a client that the core has never heard of."""
    play(scripted_telemetry, Pool())

    reasons = [said for said in scripted_telemetry.column("httptrace.conn.open_reason") if said]
    assert reasons == ["first_connection", reason]


def test_a_leak_is_told_with_the_line_that_made_the_request(scripted_telemetry: Telemetry) -> None:
    """A response that nobody closes and nobody can any more ends, and its slot is lost to the pool."""
    pool = Pool(most=1)
    sent(scripted_telemetry, pool, Request("localhost"))
    gc.collect()
    with pytest.raises(PoolTimeout):
        sent(scripted_telemetry, pool, Request("localhost"))

    leak, victim = scripted_telemetry.requests()
    assert (leak.attributes or {})["httptrace.body.outcome"] == "never_closed"
    assert "in sent" in str((leak.attributes or {})["httptrace.body.closed_at"])
    assert (victim.attributes or {})["httptrace.failed_phase"] == "pool"
    (link,) = victim.links
    assert dict(link.attributes or {}) == {"httptrace.link": "pool_held_by"}
    assert leak.context is not None
    assert link.context.span_id == leak.context.span_id


def test_all_is_put_back(bare_telemetry: Telemetry, scripted_telemetry: Telemetry) -> None:
    """Turned off, the client's own methods are in their places."""
    read(scripted_telemetry, Pool(), Request("localhost"))
    bare_telemetry.uninstrument()

    for method in (Pool.send, Pool.dial, Pool.close, scripted.Line.carry, scripted.Wire.close, scripted.Body.close):
        assert not hasattr(method, "__wrapped__")


def test_a_connection_whose_body_broke_is_lost_by_that_only_if_it_goes_unused(scripted_telemetry: Telemetry) -> None:
    """Closed next, it was lost by the request that failed, which the new one links to; used again, it was not."""
    pool = Pool()
    with pytest.raises(Gone):
        read(scripted_telemetry, pool, Request("localhost", (b"some", Gone())))
    pool.lines[0].busy = False
    read(scripted_telemetry, pool, Request("localhost"))
    with pytest.raises(Gone):
        read(scripted_telemetry, pool, Request("localhost", (b"some", Gone())))
    pool.drop(pool.lines[0])
    read(scripted_telemetry, pool, Request("localhost"))

    assert scripted_telemetry.column("http.conn.reused") == [False, True, True, False]
    assert scripted_telemetry.column("httptrace.conn.idle")[1] is not None
    *_, culprit, victim = scripted_telemetry.requests()
    (link,) = victim.links
    assert culprit.context is not None
    assert link.context.span_id == culprit.context.span_id
    assert scripted_telemetry.column("httptrace.conn.open_reason") == ["first_connection", None, None, "request_failed"]
