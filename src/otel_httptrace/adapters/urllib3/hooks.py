# Where the hooks go. All are plain functions put on urllib3's classes, so that no
# object of the application's ever changes its type, is wrapped, or is missed because
# it was made before us. A hook calls the original with what it was given, and tells
# the observer before and after; it holds no state and decides nothing.
#
# Five of them are for every request: a connection is asked for, the request is made
# on it, its answer is awaited, its body is read, the connection is given back. The
# others are for what is rare.
#
# Between any two bytecodes of ours a signal handler of the application's may raise.
# So they all have one shape: what ours raises is contained, what the application
# raises passes, and either way nothing is left open.

"""Hooks on pools, connections and responses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...core.evidence import SLOW
from ...core.timeline import Exchange
from ...observe.current import CURRENT
from ...observe.lookalike import followed, preceded
from ...observe.marks import KEY, attached, stored
from . import seams

if TYPE_CHECKING:
    from .observer import Observer

_now = time.monotonic_ns

Hook = Callable[..., Any]


class Hooks:
    """Puts the hooks in.

    Args:
        observer: is told what happens.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._lifetime = observer.lifetime
        self._patches = observer.lifetime.patches
        self._guard = observer.guard
        self._connections: tuple[type, ...] = ()
        #: Classes of urllib3's own that have no code for reading and setting attributes: see `_reads_plainly`.
        self.plain = observer.plain

    def install(self, module: ModuleType) -> None:
        """Watch the pools of *module*, urllib3, and name resolution."""
        self._lifetime.resolver.install()
        replace = self._patches.replace_method
        pool, manager = module.connectionpool, module.poolmanager.PoolManager
        self._connections = (module.connection.HTTPConnection,)
        own = (pool.HTTPConnectionPool, pool.HTTPSConnectionPool, module.response.HTTPResponse)
        self.plain.update(filter(_reads_plainly, (*own, *map(_connections_of, own[:2]))))
        replace(pool.HTTPConnectionPool, seams.GET_CONN, self._get_conn)
        replace(pool.HTTPConnectionPool, seams.MAKE_REQUEST, self._attempt)
        replace(pool.HTTPConnectionPool, seams.PUT_CONN, self._put_conn)
        replace(pool.HTTPSConnectionPool, seams.PREPARE_PROXY, self._attempt)
        replace(pool.HTTPConnectionPool, "close", self._before(self._observer.closing_pool))
        replace(pool.HTTPConnectionPool, "__init__", self._before(self._observer.pool_made))
        replace(manager, "__init__", self._before(self._observer.manager_made))
        replace(manager, seams.NEW_POOL, self._new_pool)
        replace(manager, "clear", self._before(self._observer.clearing))
        for cls in (module.connection.HTTPConnection, module.connection.HTTPSConnection):
            self.watch_connection(cls)
        # In urllib3's class, and not in its base, which may be the standard library's.
        self._patches.replace(module.connection.HTTPConnection, seams.TUNNEL, self._tunnel)
        replace(module.connection.HTTPSConnection, seams.TLS_TO_PROXY, self._tunnel)
        self._patches.replace(module.connection, seams.TLS, self._tls)
        self.watch_body(module.response.HTTPResponse)

    def knows(self, connection: object) -> bool:
        """Whether *connection* is one that our hooks see."""
        return isinstance(connection, self._connections)

    def _before(self, tell: Callable[[Any], object]) -> Callable[[Hook], Hook]:
        contain = partial(self._guard.contain, tell.__name__)
        return lambda original: preceded(original, tell, contain, whatever=True)

    # The pool.

    def _get_conn(self, original: Hook) -> Hook:
        observer, guard, lifetime = self._observer, self._guard, self._lifetime
        contain, let_go, later = guard.contain, lifetime.let_go, lifetime.later.append
        begin: Hook = observer.begin_at
        got: Hook = observer.got
        refused = observer.refused_by

        def _get_conn(self: Any, timeout: Any = None) -> Any:
            nonlocal begin, got
            exchange = None
            try:
                exchange = begin(self)
            except BaseException:
                begin = contain("begin_at", begin)
            if exchange is None:
                return original(self, timeout)
            try:
                try:
                    connection = original(self, timeout)
                except BaseException as error:
                    guard(refused, exchange, self, error, timeout)
                    raise
                try:
                    got(exchange, self, connection)
                except BaseException:
                    got = contain("got", got)
                    guard(let_go, exchange)
            except BaseException:
                # The application does not get a connection, or something of its own has interrupted us.
                if not exchange.finished or exchange.span is not None:
                    later((let_go, exchange))
                    let_go(exchange)
                raise
            return connection

        return _get_conn

    def _attempt(self, original: Hook) -> Hook:
        guard, failed = self._guard, self._observer.failed

        def raised(pool: Any, connection: Any, error: BaseException) -> None:
            guard(failed, connection, error)
            conn = attached(connection)
            exchange = conn.user if conn is not None else None
            if exchange is not None and not exchange.finished:
                guard(self._lifetime.let_go, exchange)

        return followed(original, raised)

    def _put_conn(self, original: Hook) -> Hook:
        contain, let_go, later = self._guard.contain, self._lifetime.let_go, self._lifetime.later.append
        given_back: Hook = self._observer.giving_back
        plain = self.plain
        finish: Hook = self._lifetime.finish

        def _put_conn(self: Any, conn: Any) -> Any:
            nonlocal given_back, finish
            exchange, over = None, False
            try:
                known = conn._otel_httptrace if type(conn) in plain else stored(conn, KEY)
                exchange = known.user
            except AttributeError:
                pass
            if exchange is None or exchange.finished:
                if exchange is None and conn is not None:
                    _back(conn)
                return original(self, conn)
            try:
                over = given_back(exchange, known)
            except BaseException:
                given_back, over = contain("giving_back", given_back), True
            try:
                return original(self, conn)
            finally:
                if over:
                    try:
                        finish(exchange, None)
                    except BaseException:
                        later((let_go, exchange))
                        let_go(exchange)
                        finish = contain("finish", finish)

        return _put_conn

    def _new_pool(self, original: Hook) -> Hook:
        guard, made = self._guard, self._observer.new_pool

        def _new_pool(self: Any, scheme: str, host: str, port: int, request_context: Any = None) -> Any:
            pool = original(self, scheme, host, port, request_context)
            guard(made, self, pool)
            return pool

        return _new_pool

    # A connection of the pool.

    def watch_connection(self, cls: type) -> None:
        """Watch *cls*, a type of connection."""
        replace = self._patches.replace_method
        replace(cls, "connect", self._connect)
        replace(cls, seams.NEW_CONN, self._new_conn)
        replace(cls, "getresponse", self._getresponse)
        replace(cls, "close", self._before(self._observer.closing))

    def _connect(self, original: Hook) -> Hook:
        guard, observer = self._guard, self._observer

        def connect(self: Any) -> Any:
            exchange = guard(observer.dialling, self)
            if exchange is None:
                return original(self)
            try:
                result = _within(exchange, original, self)
            except BaseException as error:
                guard(observer.dial_failed, exchange, self, error)
                raise
            guard(observer.dialled, exchange, self)
            return result

        return connect

    def _new_conn(self, original: Hook) -> Hook:
        guard, observer = self._guard, self._observer

        def _new_conn(self: Any) -> Any:
            exchange = guard(observer.connecting, self)
            if exchange is None:
                return original(self)
            try:
                sock = original(self)
            except BaseException as error:
                guard(observer.attempt_failed, exchange, error)
                raise
            guard(observer.connected, exchange, sock)
            return sock

        return _new_conn

    def _tunnel(self, original: Hook) -> Hook:
        guard, observer = self._guard, self._observer

        def asking(connection: Any, *arguments: Any, **more: Any) -> Any:
            exchange = guard(observer.asking_proxy, connection)
            if exchange is None:
                return original(connection, *arguments, **more)
            try:
                result = original(connection, *arguments, **more)
            except BaseException as error:
                guard(observer.step_over, exchange, error)
                raise
            guard(observer.step_over, exchange, None)
            return result

        return asking

    def _tls(self, original: Hook) -> Hook:
        guard, observer = self._guard, self._observer

        def shaking_hands(*arguments: Any, **more: Any) -> Any:
            exchange = guard(observer.shaking_hands, more.get("server_hostname"))
            if exchange is None:
                return original(*arguments, **more)
            try:
                result = original(*arguments, **more)
            except BaseException as error:
                guard(observer.step_over, exchange, error)
                raise
            guard(observer.shaken_hands, exchange, getattr(result, "socket", None))
            return result

        return shaking_hands

    def watch_socks(self) -> None:
        """Watch the sockets of PySocks, which connect to a proxy and ask it for a tunnel in one call."""
        base = getattr(sys.modules.get(seams.PYSOCKS), seams.SOCKS_BASE, None)
        if isinstance(base, type):
            self._patches.replace(base, "connect", self._socks_connect)

    def _socks_connect(self, original: Hook) -> Hook:
        guard, observer = self._guard, self._observer

        def connect(self: Any, *arguments: Any, **more: Any) -> Any:
            result = original(self, *arguments, **more)
            guard(observer.asking_socks, self)
            return result

        return connect

    def _getresponse(self, original: Hook) -> Hook:
        guard = self._guard
        contain, let_go = guard.contain, self._lifetime.let_go
        written = self._observer.written
        answered: Hook = self._observer.answered
        plain, preloads = self.plain, seams.PRELOADS

        def getresponse(self: Any) -> Any:
            nonlocal answered
            exchange, at_once = None, True
            try:
                plainly = type(self) in plain
                conn = self._otel_httptrace if plainly else stored(self, KEY)
                exchange = conn.user
                if exchange.wait_at or exchange.finished or not exchange.send_at:
                    exchange = None
                else:
                    exchange.wait_at = now = _now()
                    if now - exchange.send_at >= SLOW or conn.reach is not conn.origin:
                        guard(written, exchange, conn, self)
                    at_once = not plainly or preloads(self)
            except AttributeError:
                pass
            if exchange is None:
                return original(self)
            # To set it costs as much as an attribute of a span.
            response = _within(exchange, original, self) if at_once else original(self)
            try:
                answered(exchange, self, response)
            except BaseException:
                answered = contain("answered", answered)
                guard(let_go, exchange)
            return response

        return getresponse

    # A response.

    def watch_body(self, cls: type) -> None:
        """Watch *cls*, a type of response."""
        replace = self._patches.replace_method
        replace(cls, seams.RAW_READ, self._raw_read)
        replace(cls, seams.HANDLE_CHUNK, self._handle_chunk)
        replace(cls, "read_chunked", self._read_chunked)
        replace(cls, "close", self._response_close)

    def _raw_read(self, original: Hook) -> Hook:
        contain, arrives = self._guard.contain, self._observer.arrives
        failed = self._read_failed
        read: Hook = self._observer.read
        plain = self.plain

        def _raw_read(self: Any, amt: Any = None, *, read1: bool = False) -> Any:
            nonlocal read
            exchange = None
            try:
                exchange = self._otel_httptrace if type(self) in plain else stored(self, KEY)
            except AttributeError:
                try:
                    exchange = arrives(self)
                except BaseException:
                    contain("arrives")
            if exchange is None or exchange.over_at:
                return original(self, amt, read1=read1) if read1 else original(self, amt)
            exchange.reading_since = _now()
            try:
                data = original(self, amt, read1=read1) if read1 else original(self, amt)
            except BaseException as error:
                failed(exchange, error)
                raise
            try:
                read(exchange, self, data)
            except BaseException:
                read = contain("read", read)
                exchange.reading_since = 0
            return data

        return _raw_read

    def _read_failed(self, exchange: Exchange, error: BaseException) -> None:
        try:
            self._guard(self._observer.read_raised, exchange, error)
        finally:
            exchange.reading_since = 0
            if exchange.iterated and (not exchange.finished or exchange.span is not None):
                self._lifetime.later.append((self._lifetime.let_go, exchange))
                self._guard(self._lifetime.let_go, exchange)

    def _handle_chunk(self, original: Hook) -> Hook:
        def _handle_chunk(self: Any, amt: Any) -> Any:
            chunk = original(self, amt)
            exchange = attached(self)
            if exchange is not None and chunk:
                exchange.bytes_read += len(chunk)
            return chunk

        return _handle_chunk

    def _read_chunked(self, original: Hook) -> Hook:
        guard, observer, failed = self._guard, self._observer, self._read_failed
        lifetime = self._lifetime

        def read_chunked(self: Any, amt: Any = None, decode_content: Any = None) -> Generator[bytes, None, None]:
            exchange = attached(self)
            if exchange is None or exchange.over_at:
                yield from original(self, amt, decode_content)
                return
            parts = original(self, amt, decode_content)
            try:
                exchange.reading_since = _now()
                for part in parts:
                    exchange.body_read(_now(), 0)
                    yield part
                    exchange.reading_since = _now()
            except BaseException as error:
                if exchange.reading_since:
                    failed(exchange, error)
                else:
                    # The consumer leaves it half-way, and with that urllib3 closes the connection.
                    if not exchange.over_at:
                        guard(observer.left, exchange, _now())
                    parts.close()
                    guard(lifetime.finish, exchange, None)
                raise
            if not exchange.over_at:
                if seams.is_over(seams.ORIGINAL(self)):
                    guard(observer.read_to_end, exchange, _now())
                else:
                    # Nothing was asked for.
                    exchange.reading_since = 0

        return read_chunked

    def _response_close(self, original: Hook) -> Hook:
        guard, observer, let_go = self._guard, self._observer, self._lifetime.let_go

        def close(self: Any) -> Any:
            exchange = attached(self)
            if exchange is None or exchange.finished:
                return original(self)
            try:
                guard(observer.closing_response, exchange, self)
            finally:
                try:
                    result = original(self)
                finally:
                    guard(observer.closed_response, exchange, self)
                    if not exchange.over_at and not exchange.reading_since:
                        guard(let_go, exchange)
            return result

        return close


def _within(exchange: Exchange, original: Hook, connection: Any) -> Any:
    outer = CURRENT.get()
    CURRENT.set(exchange)
    try:
        return original(connection)
    finally:
        CURRENT.set(outer)


def _reads_plainly(cls: type) -> bool:
    # `stored` and `store` read and set our attribute, `KEY`, and call no code of the object's class. Where that has no
    # such code, plain access does the same at a tenth of the price.
    reads: object = cls.__getattribute__
    sets: object = cls.__setattr__
    plainly = reads is object.__getattribute__ and sets is object.__setattr__
    return plainly and not hasattr(cls, "__getattr__")


def _connections_of(pool: Any) -> type:
    found: type = pool.ConnectionCls
    return found


def _back(connection: object) -> None:
    # One that was closed with its response: its slot comes back all the same.
    conn = attached(connection)
    if conn is not None and conn.ledger.kept:
        conn.ledger.kept.pop(conn, None)
