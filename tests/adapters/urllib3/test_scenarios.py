# What does it cost, and who is told? Each scenario is told in one sentence and runs
# against a server that knows the truth: how many connections it accepted. It says, by
# attempt on the wire, in order, why it opened a connection (None: it reused one), how
# it ended (its outcome, or the phase in which it failed), why it closed its connection,
# at which marked line it was left, and which request it names as the one that lost
# the connection before.

"""What urllib3 and requests do with connections, and what is told of it."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import re
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests
import urllib3
from kit.proxies import Proxy, Socks
from kit.server import Server, answer, chunk, free_port, head
from kit.telemetry import Telemetry, collect
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.contrib.socks import SOCKSProxyManager
from urllib3.util.retry import Retry


class Row(NamedTuple):
    """One attempt on the wire."""

    opened: str | None = None
    ended: str = "complete"
    closed: str | None = None
    #: The mark of the line that left it: `# <- here`.
    at: str | None = None
    #: Which row's request lost the connection before.
    lost: int | None = None


class World:
    """Servers, clients that are closed at the end, and what was told."""

    def __init__(self, telemetry: Telemetry, serve: Callable[..., Server], run: Any, fixtures: Any) -> None:
        self.telemetry, self.serve, self.run, self.fixtures = telemetry, serve, run, fixtures
        self.server = serve(ROUTES)
        self.cleanup = contextlib.ExitStack()
        self.keep: list[Any] = []

    def manager(self, **options: Any) -> urllib3.PoolManager:
        """A pool manager."""
        manager = urllib3.PoolManager(**options)
        self.cleanup.callback(manager.clear)
        return manager

    def session(self, **options: Any) -> requests.Session:
        """A session, whose adapter has *options*."""
        session = requests.Session()
        # Whatever the machine is set to.
        session.trust_env = False
        if options:
            session.mount("http://", HTTPAdapter(**options))
        self.cleanup.callback(session.close)
        return session

    def stream(self, manager: Any, target: str, method: str = "GET", **options: Any) -> Any:
        """A response whose body is yet to be read."""
        return manager.request(method, self.server.url(target), preload_content=False, **options)

    def aside(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> threading.Thread:
        """Call *function* in another thread, which has sent its request when this returns."""
        before = len(self.server.requests)
        thread = threading.Thread(target=function, args=arguments, kwargs=options)
        thread.start()
        self.cleanup.callback(thread.join)
        self.until(lambda: len(self.server.requests) > before)
        return thread

    @staticmethod
    def until(happened: Callable[[], object]) -> None:
        """Wait until something has happened."""
        for _ in range(2000):
            if happened():
                return
            threading.Event().wait(0.005)
        raise AssertionError("it did not happen")

    def rows(self, source: str, first: int) -> list[Row]:
        """What was told, by attempt."""
        marks = {
            str(first + number): mark.group(1)
            for number, line in enumerate(source.splitlines())
            if (mark := re.search(r"# <- (\w+)", line))
        }
        spans, owners = [], []
        for request in self.telemetry.requests():
            found = [child for child in self.telemetry.children(request) if child.name == "http.exchange"]
            spans += [*found, request]
            owners += [request] * (len(found) + 1)
        # Who opened no connection and got no answer was sent on none.
        last = {owner.context.span_id: number for number, owner in enumerate(owners) if owner.context}
        rows = []
        for span in spans:
            told: dict[str, Any] = dict(span.attributes or {})
            ended = told.get("httptrace.failed_phase") or told.get("httptrace.body.outcome")
            at = told.get("httptrace.body.closed_at")
            links = [
                link for link in span.links if (link.attributes or {}).get("httptrace.link") == "connection_lost_by"
            ]
            for link in links:
                # The link has the line of the culprit.
                culprit = dict(spans[last[link.context.span_id]].attributes or {})
                assert dict(link.attributes or {}).get("httptrace.body.closed_at") == culprit.get(
                    "httptrace.body.closed_at"
                )
            rows.append(
                Row(
                    told.get("httptrace.conn.open_reason"),
                    ended or "nothing",
                    told.get("httptrace.conn.close_reason"),
                    marks.get(at.split(":")[1].split(" ")[0], at) if isinstance(at, str) else None,
                    last[links[0].context.span_id] if links else None,
                )
            )
        return rows


def _late(peer: Any, request: Any) -> None:
    # Headers, and the body when it is asked for.
    peer.send(head("Content-Length: 5"))
    peer.server.go.wait(10)
    peer.send(b"hello")


def _idle_close(peer: Any, request: Any) -> None:
    peer.send(answer())
    peer.close()


def _flaky(peer: Any, request: Any) -> None:
    first = not getattr(peer.server, "asked", False)
    peer.server.asked = True
    peer.send(answer(b"wait", status="503 Service Unavailable") if first else answer())


def _drops_first(peer: Any, request: Any) -> None:
    first = not getattr(peer.server, "dropped", False)
    peer.server.dropped = True
    if first:
        peer.close()
    else:
        peer.send(answer())


def _digest(peer: Any, request: Any) -> None:
    if "authorization" in request.headers:
        peer.send(answer())
    else:
        challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
        peer.send(answer(b"who?", f"WWW-Authenticate: {challenge}", status="401 Unauthorized"))


def _expect(peer: Any, request: Any) -> None:
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + answer())


ROUTES: dict[str, Any] = {
    "/late": _late,
    "/idle-close": _idle_close,
    "/flaky": _flaky,
    "/drops-first": _drops_first,
    "/digest": _digest,
    "/continue": _expect,
    "/big-chunked": head("Transfer-Encoding: chunked") + chunk(b"x" * 200_000) * 3 + chunk(b""),
    "/lines": answer(b"one\ntwo\nthree\n"),
}

Scenario = Callable[[World], object]
SCENARIOS: dict[str, tuple[Scenario, int, list[Row]]] = {}

FIRST = "first_connection"
READ = [Row(FIRST), Row()]


def scenario(accepted: int, *rows: Row) -> Callable[[Scenario], Scenario]:
    """A scenario, how many connections the server accepts, and what is told of each attempt."""

    def note(play: Scenario) -> Scenario:
        SCENARIOS[play.__name__] = play, accepted, list(rows)
        return play

    return note


UNREAD = [Row(FIRST, "closed_early", "body_not_read", "here"), Row("body_not_read", lost=0)]


# Bodies that are read.


@scenario(1, *READ)
def preloaded(w: World) -> None:
    """urllib3 reads a body before it returns the response, unless it is told not to."""
    manager = w.manager()
    for _ in range(2):
        manager.request("GET", w.server.url())


@scenario(1, *READ)
def read(w: World) -> None:
    """A body that is read to its end gives the connection back by itself."""
    manager = w.manager()
    for _ in range(2):
        assert w.stream(manager, "/").read() == b"hello"


@scenario(1, *READ)
def read_by_parts(w: World) -> None:
    """Read by parts until there is none, too."""
    manager = w.manager()
    for _ in range(2):
        response = w.stream(manager, "/big")
        while response.read(50_000):
            pass


@scenario(1, *READ)
def streamed(w: World) -> None:
    """`stream()` to its end."""
    manager = w.manager()
    for _ in range(2):
        assert b"".join(w.stream(manager, "/big").stream(70_000)) == b"x" * 300_000


@scenario(1, *READ)
def read_once_more(w: World) -> None:
    """`read1` to the end."""
    manager = w.manager()
    for _ in range(2):
        response = w.stream(manager, "/")
        # New in urllib3 2.1.
        while getattr(response, "read1", response.read)():
            pass


@scenario(1, *READ)
def data(w: World) -> None:
    """`data` reads what has not been read."""
    manager = w.manager()
    for _ in range(2):
        assert w.stream(manager, "/").data == b"hello"


@scenario(1, *READ)
def chunked(w: World) -> None:
    """A chunked body, preloaded."""
    manager = w.manager()
    for _ in range(2):
        assert manager.request("GET", w.server.url("/chunked")).data == b"onethree"


@scenario(1, *READ)
def chunked_by_parts(w: World) -> None:
    """A chunked body by its chunks."""
    manager = w.manager()
    for _ in range(2):
        assert list(w.stream(manager, "/chunked").stream()) == [b"one", b"three"]


@scenario(1, Row(FIRST), Row(), Row())
def without_body(w: World) -> None:
    """204, 304 and HEAD have none, and keep the connection."""
    manager = w.manager()
    manager.request("GET", w.server.url("/no-content"))
    manager.request("GET", w.server.url("/not-modified"))
    manager.request("HEAD", w.server.url())


@scenario(1, *READ)
def continued(w: World) -> None:
    """An answer of 100 comes before the real one."""
    manager = w.manager()
    for _ in range(2):
        manager.request("POST", w.server.url("/continue"), body=b"x")


@scenario(1, *READ)
def drained(w: World) -> None:
    """`drain_conn()` reads the rest."""
    manager = w.manager()
    for _ in range(2):
        response = w.stream(manager, "/big")
        response.read(10)
        response.drain_conn()
        response.release_conn()


@scenario(1, *READ)
def lines(w: World) -> None:
    """A response that is not to close itself, read by `io.TextIOWrapper`."""
    manager = w.manager()
    for _ in range(2):
        response = w.stream(manager, "/lines")
        response.auto_close = False
        assert list(io.TextIOWrapper(response)) == ["one\n", "two\n", "three\n"]


@scenario(1, *READ)
def released_at_once(w: World) -> None:
    """`release_conn=True` gives the connection back before the body is read; read in time, nothing is lost."""
    manager = w.manager()
    for _ in range(2):
        assert w.stream(manager, "/", release_conn=True).read() == b"hello"


@scenario(1, *READ)
def session_reads(w: World) -> None:
    """Requests reads the body unless it is to stream."""
    session = w.session()
    for _ in range(2):
        assert session.get(w.server.url()).text == "hello"


@scenario(1, *READ)
def session_streams(w: World) -> None:
    """`iter_content` to its end."""
    session = w.session()
    for _ in range(2):
        assert b"".join(session.get(w.server.url("/big"), stream=True).iter_content(70_000)) == b"x" * 300_000


@scenario(1, *READ)
def session_streams_lines(w: World) -> None:
    """`iter_lines` to its end, of a chunked body."""
    session = w.session()
    for _ in range(2):
        assert list(session.get(w.server.url("/chunked"), stream=True).iter_lines()) == [b"onethree"]


@scenario(1, *READ)
def session_raw(w: World) -> None:
    """`raw.read()` to the end."""
    session = w.session()
    for _ in range(2):
        assert session.get(w.server.url(), stream=True).raw.read() == b"hello"


@scenario(1, *READ)
def session_read_then_closed(w: World) -> None:
    """Read within a `with`."""
    session = w.session()
    for _ in range(2):
        with session.get(w.server.url(), stream=True) as response:
            assert response.content == b"hello"


@scenario(1, *READ)
def session_head(w: World) -> None:
    """HEAD, not streamed."""
    session = w.session()
    for _ in range(2):
        session.head(w.server.url())


# Bodies that are not.


@scenario(2, *UNREAD)
def closed(w: World) -> None:
    """A response that is closed unread closes its connection."""
    manager = w.manager()
    w.stream(manager, "/").close()  # <- here
    manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def closed_in_part(w: World) -> None:
    """A part of it read is not enough."""
    manager = w.manager()
    response = w.stream(manager, "/big")
    response.read(1000)
    response.close()  # <- here
    manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def left_by_with(w: World) -> None:
    """A `with` closes it."""
    manager = w.manager()
    with w.stream(manager, "/big"):  # <- here
        pass
    manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def loop_broken_off(w: World) -> None:
    """A loop over a chunked body that is broken off closes the connection with its generator."""
    manager = w.manager()
    for _ in w.stream(manager, "/big-chunked").stream(1000):
        break  # <- here
    manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def session_with(w: World) -> None:
    """`with session.get(stream=True)`, unread."""
    session = w.session()
    with session.get(w.server.url(), stream=True):  # <- here
        pass
    session.get(w.server.url())


@scenario(2, *UNREAD)
def session_closed(w: World) -> None:
    """`close()`, unread."""
    session = w.session()
    session.get(w.server.url(), stream=True).close()  # <- here
    session.get(w.server.url())


@scenario(2, *UNREAD)
def session_status(w: World) -> None:
    """`raise_for_status()` within the `with`."""
    session = w.session()
    with contextlib.suppress(requests.HTTPError):
        with session.get(w.server.url("/missing"), stream=True) as response:  # <- here
            response.raise_for_status()
    session.get(w.server.url())


@scenario(2, *UNREAD)
def session_head_with(w: World) -> None:
    """HEAD with `stream=True`: even an empty body costs the connection, unread."""
    session = w.session()
    with session.head(w.server.url(), stream=True):  # <- here
        pass
    session.get(w.server.url())


@scenario(2, *UNREAD)
def session_loop_broken_off(w: World) -> None:
    """`iter_content` broken off, and the response closed."""
    session = w.session()
    response = session.get(w.server.url("/big"), stream=True)
    for _ in response.iter_content(1000):
        break
    response.close()  # <- here
    session.get(w.server.url())


@scenario(2, *UNREAD)
def session_chunks_broken_off(w: World) -> None:
    """`iter_content` broken off, of a chunked body."""
    session = w.session()
    for _ in session.get(w.server.url("/big-chunked"), stream=True).iter_content(1000):
        break  # <- here
    session.get(w.server.url())


# Given back unread: it is the next request that pays.


@scenario(
    2,
    Row(FIRST, "closed_early", None, "here"),
    Row(None, "wait", "body_not_read", lost=0),
    Row("body_not_read", lost=0),
)
def given_back_small(w: World) -> None:
    """The body has come with the headers: the next request is written, cannot be answered, and is sent again."""
    manager = w.manager()
    response = w.stream(manager, "/")
    response.release_conn()  # <- here
    manager.request("GET", w.server.url())


@scenario(
    2,
    Row(FIRST, "closed_early", None, "here"),
    Row(None, "wait", "body_not_read", lost=0),
    Row("body_not_read", lost=0),
)
def given_back_empty(w: World) -> None:
    """Not even an empty one is read by itself."""
    manager = w.manager()
    response = w.stream(manager, "/empty")
    response.release_conn()  # <- here
    manager.request("GET", w.server.url())


@scenario(
    2,
    Row(FIRST, "closed_early", None, "here"),
    Row(None, "wait", "body_not_read", lost=0),
    Row("body_not_read", lost=0),
)
def given_back_head(w: World) -> None:
    """Nor that of HEAD."""
    manager = w.manager()
    response = w.stream(manager, "/", "HEAD")
    response.release_conn()  # <- here
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "closed_early", None, "here"), Row("body_not_read", lost=0))
def given_back_big(w: World) -> None:
    """The body is still coming: the pool takes the connection for dropped, as if the server had closed it."""
    manager = w.manager()
    response = w.stream(manager, "/big")
    response.release_conn()  # <- here
    _once_closed(w, manager)
    manager.request("GET", w.server.url())


@scenario(1, Row(FIRST, "closed_early", None, "here"), Row(None, "wait", "body_not_read", lost=0))
def given_back_fails(w: World) -> None:
    """Without retries the next request fails, for what another has done."""
    manager = w.manager()
    response = w.stream(manager, "/")
    response.release_conn()  # <- here
    with pytest.raises(urllib3.exceptions.ProtocolError):
        manager.request("GET", w.server.url(), retries=False)


@scenario(
    2,
    Row(FIRST, "closed_early", None, "here"),
    Row(None, "wait", "body_not_read", lost=0),
    Row("body_not_read", lost=0),
)
def session_given_back(w: World) -> None:
    """Requests has no retries."""
    session = w.session()
    response = session.get(w.server.url(), stream=True)
    response.raw.release_conn()  # <- here
    with pytest.raises(requests.ConnectionError):
        session.get(w.server.url())
    session.get(w.server.url())


@scenario(1, Row(FIRST, "closed_early", None, "here"), Row())
def given_back_and_read(w: World) -> None:
    """Read after it was given back, and before anybody took the connection: nothing is lost."""
    manager = w.manager()
    response = w.stream(manager, "/")
    response.release_conn()  # <- here
    response.read()
    manager.request("GET", w.server.url())


# Leaked.


@scenario(2, Row(FIRST, "never_closed", "response_leaked", "here"), Row("response_leaked", lost=0))
def leaked(w: World) -> None:
    """The finaliser of a response that nobody has closed closes it."""
    manager = w.manager()
    response = manager.request("GET", w.server.url("/big"), preload_content=False)  # <- here
    del response
    gc.collect()
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "never_closed", "response_leaked", "here"), Row("response_leaked", lost=0))
def session_leaked(w: World) -> None:
    """With requests."""
    session = w.session()
    response = session.get(w.server.url("/big"), stream=True)  # <- here
    del response
    gc.collect()
    session.get(w.server.url())


# Clients.


@scenario(3, Row(FIRST), Row("new_client"), Row("new_client"))
def client_per_request(w: World) -> None:
    """`requests.get` is a client for one request."""
    for _ in range(3):
        requests.get(w.server.url())


@scenario(2, Row(FIRST), Row("new_client"))
def manager_per_request(w: World) -> None:
    """A pool manager for each, too."""
    for _ in range(2):
        w.manager().request("GET", w.server.url())


@scenario(2, Row(FIRST), Row("client_closed"))
def cleared(w: World) -> None:
    """A pool manager that was cleared, and is used again."""
    manager = w.manager()
    manager.request("GET", w.server.url())
    manager.clear()
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST), Row("client_closed"))
def session_closed_and_used(w: World) -> None:
    """A session that was closed, and is used again."""
    session = w.session()
    session.get(w.server.url())
    session.close()
    session.get(w.server.url())


@scenario(1, Row(FIRST), Row(None, "pool"))
def pool_closed(w: World) -> None:
    """A pool that was closed has no connections to give."""
    pool = HTTPConnectionPool(w.server.host, w.server.port)
    pool.request("GET", "/")
    pool.close()
    with pytest.raises(urllib3.exceptions.ClosedPoolError):
        pool.request("GET", "/")


@scenario(3, Row(FIRST), Row(FIRST), Row("pool_full"), Row("pool_full"), Row("pool_full"))
def evicted(w: World) -> None:
    """A manager of one pool drops it for another origin, and with it its connections."""
    other = w.serve()
    manager = w.manager(num_pools=1)
    for number in range(5):
        manager.request("GET", (other if number % 2 else w.server).url())


@scenario(3, Row(FIRST), Row(FIRST), Row("pool_full"), Row("pool_full"), Row("pool_full"))
def session_evicted(w: World) -> None:
    """Requests calls it `pool_connections`."""
    other = w.serve()
    session = w.session(pool_connections=1)
    for number in range(5):
        session.get((other if number % 2 else w.server).url())


# Busy.


@scenario(2, Row(FIRST), Row("all_busy"), Row())
def busy(w: World) -> None:
    """While one is under way the next opens a connection; both are kept."""
    manager = w.manager(maxsize=2)
    thread = w.aside(manager.request, "GET", w.server.url("/held"))
    manager.request("GET", w.server.url())
    w.server.go.set()
    thread.join()
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST), Row("all_busy"), Row())
def shared_session(w: World) -> None:
    """Threads that share a session."""
    session = w.session()
    thread = w.aside(session.get, w.server.url("/held"))
    session.get(w.server.url())
    w.server.go.set()
    thread.join()
    session.get(w.server.url())


@scenario(1, Row(FIRST), Row())
def waits_its_turn(w: World) -> None:
    """Threads that share a pool that blocks: the second waits for the connection of the first."""
    pool = w.manager(maxsize=1, block=True).connection_from_url(w.server.url())
    first = w.aside(pool.request, "GET", "/held")
    second = threading.Thread(target=pool.request, args=("GET", "/"))
    second.start()
    queue: Any = pool.pool
    w.until(lambda: queue.not_empty._waiters)
    w.server.go.set()
    first.join()
    second.join()


@scenario(
    3,
    Row(FIRST),
    Row("all_busy", closed="keepalive_limit"),
    Row(),
    Row("keepalive_limit", closed="keepalive_limit"),
)
def too_many(w: World) -> None:
    """The pool is full, as its log says: what is given back first is kept, the others are closed."""
    manager = w.manager(maxsize=1)
    responses = [w.stream(manager, "/") for _ in range(2)]
    for response in responses:
        response.read()
    responses = [w.stream(manager, "/") for _ in range(2)]
    for response in responses:
        response.read()


@scenario(1, Row(FIRST), Row(None, "pool"))
def blocked(w: World) -> None:
    """A pool that blocks, and in time has no connection to give."""
    pool = HTTPConnectionPool(w.server.host, w.server.port, maxsize=1, block=True)
    thread = w.aside(pool.request, "GET", "/held")
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        pool.request("GET", "/", pool_timeout=0.05)
    w.server.go.set()
    thread.join()


@scenario(1, Row(FIRST, "closed_early", "body_not_read", "here"), Row(None, "pool"))
def slot_kept(w: World) -> None:
    """A response that is closed and not given back keeps its slot of a pool that blocks, for good."""
    pool = HTTPConnectionPool(w.server.host, w.server.port, maxsize=1, block=True)
    response = pool.request("GET", "/", preload_content=False)
    response.close()  # <- here
    w.keep.append(response)
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        pool.request("GET", "/", pool_timeout=0.05)


# The server closes.


def _once_closed(w: World, manager: Any) -> None:
    (pool,) = manager.pools._container.values()
    w.until(lambda: not pool.pool.queue[-1].is_connected)


@scenario(2, Row(FIRST), Row("server_closed"))
def server_closed(w: World) -> None:
    """The server closes an idle connection, and the pool notices."""
    manager = w.manager()
    manager.request("GET", w.server.url("/idle-close"))
    _once_closed(w, manager)
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST), Row("server_closed"))
def session_server_closed(w: World) -> None:
    """With requests."""
    session = w.session()
    session.get(w.server.url("/idle-close"))
    adapter: Any = session.get_adapter("http://")
    _once_closed(w, adapter.poolmanager)
    session.get(w.server.url())


@scenario(2, Row(FIRST, closed="connection_close"), Row("connection_close"))
def connection_close(w: World) -> None:
    """`Connection: close`."""
    manager = w.manager()
    manager.request("GET", w.server.url("/close"))
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "closed_early", "connection_close", "here"), Row("connection_close"))
def connection_close_unread(w: World) -> None:
    """Reading it would not have saved it."""
    manager = w.manager()
    w.stream(manager, "/close").close()  # <- here
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, closed="connection_close"), Row("connection_close"))
def session_connection_close(w: World) -> None:
    """With requests, streamed."""
    session = w.session()
    assert session.get(w.server.url("/close"), stream=True).content == b"hello"
    session.get(w.server.url())


@scenario(2, Row(FIRST, closed="connection_close"), Row("connection_close"))
def http10(w: World) -> None:
    """HTTP/1.0."""
    manager = w.manager()
    manager.request("GET", w.server.url("/http10"))
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, closed="connection_close"), Row("connection_close"))
def until_close(w: World) -> None:
    """A body that ends with the connection."""
    manager = w.manager()
    manager.request("GET", w.server.url("/until-close"))
    manager.request("GET", w.server.url())


# What fails.


@scenario(2, Row(FIRST, "wait", "request_failed"), Row("request_failed", lost=0))
def no_answer(w: World) -> None:
    """The server closes instead of answering."""
    manager = w.manager()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        manager.request("GET", w.server.url("/no-answer"), retries=False)
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "wait", "request_failed"), Row("request_failed", lost=0))
def session_no_answer(w: World) -> None:
    """With requests."""
    session = w.session()
    with pytest.raises(requests.ConnectionError):
        session.get(w.server.url("/no-answer"))
    session.get(w.server.url())


@scenario(2, Row(FIRST, "wait", "request_failed"), Row("request_failed", lost=1))
def sent_again(w: World) -> None:
    """urllib3 sends again what was not answered: two attempts, one request span."""
    w.manager().request("GET", w.server.url("/drops-first"))


@scenario(2, Row(FIRST, "failed", "request_failed"), Row("request_failed", lost=0))
def half_a_body(w: World) -> None:
    """The connection ends in the middle of a body, while it is preloaded."""
    w.server.go.set()
    manager = w.manager()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        manager.request("GET", w.server.url("/half-closed"), retries=False)
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "failed", "request_failed"), Row("request_failed", lost=0))
def session_half_a_body(w: World) -> None:
    """While the application reads it."""
    w.server.go.set()
    session = w.session()
    response = session.get(w.server.url("/half-closed"), stream=True)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = response.content
    session.get(w.server.url())


@scenario(2, Row(FIRST, "failed", "request_failed"), Row("request_failed", lost=0))
def body_times_out(w: World) -> None:
    """A body that does not come in time."""
    session = w.session()
    response = session.get(w.server.url("/half"), stream=True, timeout=0.1)
    with pytest.raises(requests.ConnectionError):
        _ = response.content
    session.get(w.server.url())


@scenario(2, Row(FIRST, "wait", "request_failed"), Row("request_failed", lost=0))
def answer_times_out(w: World) -> None:
    """An answer that does not come in time."""
    session = w.session()
    with pytest.raises(requests.ReadTimeout):
        session.get(w.server.url("/held"), timeout=0.1)
    session.get(w.server.url())


@scenario(0, Row(None, "connect"))
def refused(w: World) -> None:
    """Nobody listens."""
    with pytest.raises(requests.ConnectionError):
        w.session().get(f"http://127.0.0.1:{free_port()}/")


@scenario(0, Row(None, "connect"), Row(None, "connect"))
def refused_twice(w: World) -> None:
    """One retry, one request span."""
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        w.manager().request("GET", f"http://127.0.0.1:{free_port()}/", retries=1)


@scenario(0, Row(None, "dns"))
def no_such_host(w: World) -> None:
    """A name that does not resolve."""
    with pytest.raises(requests.ConnectionError):
        w.session().get("http://nowhere.invalid/")


@scenario(2, Row(FIRST, "send", "request_failed"), Row("request_failed", lost=0))
def body_raises(w: World) -> None:
    """The application's own iterator of the request's body raises."""

    def parts() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("none")

    manager = w.manager()
    with pytest.raises(ValueError, match="none"):
        manager.request("POST", w.server.url(), body=parts())
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "send", "request_cancelled"), Row("request_cancelled", lost=0))
def interrupted(w: World) -> None:
    """Ctrl-C, while the request is written."""

    def parts() -> Iterator[bytes]:
        yield b"one"
        raise KeyboardInterrupt

    manager = w.manager()
    with pytest.raises(KeyboardInterrupt):
        manager.request("POST", w.server.url(), body=parts())
    manager.request("GET", w.server.url())


@scenario(2, Row(FIRST, "closed_early", "body_not_read", "here"), Row("body_not_read", lost=0))
def connection_taken_away(w: World) -> None:
    """The application closes the connection under its response."""
    manager = w.manager()
    response = w.stream(manager, "/big")
    response.connection.close()  # <- here
    manager.request("GET", w.server.url())


# Several attempts in one request span.


@scenario(1, Row(FIRST), Row())
def retried_by_status(w: World) -> None:
    """503, and sent again on the same connection."""
    session = w.session(max_retries=Retry(1, status_forcelist=[503]))
    assert session.get(w.server.url("/flaky")).text == "hello"


@scenario(1, Row(FIRST), Row())
def session_redirected(w: World) -> None:
    """Requests follows a redirect within its span."""
    w.session().get(w.server.url("/redirect"))


@scenario(2, Row(FIRST), Row(FIRST))
def session_redirected_away(w: World) -> None:
    """A redirect to another origin."""
    w.server.routes["/away"] = answer(b"", f"Location: {w.server.url(host='localhost')}", status="302 Found")
    w.session().get(w.server.url("/away"))


@scenario(1, Row(FIRST), Row())
def redirected(w: World) -> None:
    """A pool manager calls its pool once for each: two request spans."""
    w.manager().request("GET", w.server.url("/redirect"))


@scenario(1, Row(FIRST), Row())
def pool_redirected(w: World) -> None:
    """A pool follows it by itself: one request span."""
    HTTPConnectionPool(w.server.host, w.server.port).request("GET", "/redirect")


@scenario(1, Row(FIRST), Row())
def authenticated(w: World) -> None:
    """An auth round."""
    assert w.session().get(w.server.url("/digest"), auth=HTTPDigestAuth("u", "p")).text == "hello"


# Upgrades.


@scenario(2, Row(FIRST, "nothing"), Row("upgraded"))
def upgraded(w: World) -> None:
    """101: the connection is the application's."""
    manager = w.manager()
    response = w.stream(manager, "/upgrade", headers={"Connection": "upgrade", "Upgrade": "echo"})
    w.keep.append(response)
    manager.request("GET", w.server.url())


# Proxies, TLS, sockets of other kinds.


@scenario(1, *READ)
def tls(w: World) -> None:
    """HTTPS."""
    w.server = w.serve(ROUTES, tls=w.fixtures("server_tls"))
    manager = w.manager(ssl_context=w.fixtures("client_tls"))
    for _ in range(2):
        manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def tls_unread(w: World) -> None:
    """HTTPS, closed unread."""
    w.server = w.serve(ROUTES, tls=w.fixtures("server_tls"))
    manager = w.manager(ssl_context=w.fixtures("client_tls"))
    w.stream(manager, "/").close()  # <- here
    manager.request("GET", w.server.url())


@scenario(1, Row(None, "tls"))
def tls_fails(w: World) -> None:
    """A certificate that nobody trusts."""
    w.server = w.serve(ROUTES, tls=w.fixtures("server_tls"))
    with pytest.raises(requests.exceptions.SSLError):
        w.session().get(w.server.url())


@scenario(1, Row(FIRST), Row())
def forwarded(w: World) -> None:
    """A forward proxy serves every origin on one connection."""
    other, proxy = w.serve(), w.run(Proxy())
    manager = urllib3.ProxyManager(proxy.url())
    w.cleanup.callback(manager.clear)
    manager.request("GET", w.server.url())
    manager.request("GET", other.url())
    w.server = proxy


@scenario(1, *READ)
def tunnelled(w: World) -> None:
    """HTTPS by CONNECT."""
    w.server = w.serve(ROUTES, tls=w.fixtures("server_tls"))
    proxy = w.run(Proxy())
    manager = urllib3.ProxyManager(proxy.url(), ssl_context=w.fixtures("client_tls"))
    w.cleanup.callback(manager.clear)
    for _ in range(2):
        manager.request("GET", w.server.url())


@scenario(0, Row(None, "proxy"))
def tunnel_refused(w: World) -> None:
    """The proxy refuses."""
    proxy = w.run(Proxy(refuse=answer(b"", status="403 Forbidden")))
    session = w.session()
    session.proxies = {"https": proxy.url()}
    with pytest.raises(requests.exceptions.ProxyError):
        session.get("https://origin.test/")


@scenario(1, *READ)
def socks(w: World) -> None:
    """SOCKS5."""
    proxy = w.run(Socks())
    manager = SOCKSProxyManager(f"socks5h://127.0.0.1:{proxy.port}")
    w.cleanup.callback(manager.clear)
    for _ in range(2):
        manager.request("GET", w.server.url())


class _OverUnixSocket(HTTPConnection):
    """As requests-unixsocket has it."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


@scenario(1, *READ)
def unix_socket(w: World) -> None:
    """A connection that connects in a way of its own."""
    path = str(w.fixtures("tmp_path") / "socket")
    w.server = w.serve(ROUTES, uds=path)
    pool = HTTPConnectionPool("localhost", 80)
    pool.ConnectionCls = type("_Connection", (_OverUnixSocket,), {"path": path})
    for _ in range(2):
        pool.request("GET", "/")


@scenario(2, *UNREAD)
def in_another_thread(w: World) -> None:
    """A response that is closed by another thread than asked for it."""
    manager = w.manager()
    response = w.stream(manager, "/big")

    def leave() -> None:
        response.close()  # <- here

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    manager.request("GET", w.server.url())


@scenario(2, *UNREAD)
def gzip_unread(w: World) -> None:
    """A part of a compressed body read, and the rest not."""
    w.server.routes["/gzip"] = answer(b"\x1f\x8b" + b"x" * 100_000, "Content-Encoding: gzip")
    manager = w.manager()
    response = w.stream(manager, "/gzip")
    with pytest.raises(urllib3.exceptions.DecodeError):
        response.read(1000)
    response.close()  # <- here
    manager.request("GET", w.server.url())


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(
    name: str,
    telemetry: Telemetry,
    serve: Callable[..., Server],
    running: Any,
    request: pytest.FixtureRequest,
) -> None:
    """Connections are counted as the server accepts them, and each attempt is told with reason, end, line and culprit."""
    play, accepted, expected = SCENARIOS[name]
    w = World(telemetry, serve, running, request.getfixturevalue)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with w.cleanup:
            play(w)
            gc.collect()
            telemetry.metrics()
            found = w.rows(*inspect_source(play))
        collect()
    assert found == expected
    assert w.server.accepted == accepted


def inspect_source(play: Scenario) -> tuple[str, int]:
    """The text of a scenario, and the number of its first line."""
    lines, first = inspect.getsourcelines(play)
    return "".join(lines), first


def test_there_are_enough() -> None:
    """At least sixty."""
    assert len(SCENARIOS) >= 60
