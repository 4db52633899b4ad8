# Where the hooks go. All are plain functions put on the libraries' classes, the
# concrete types found as they are first seen, so that no object of the
# application's ever changes its type, is wrapped, or is missed because it was
# made before us. A hook calls the original with what it was given, and tells
# the observer before and after; it holds no state and decides nothing.
#
# Synchronous and asynchronous hooks stand in pairs. An asynchronous one adds a
# coroutine only where it must do something afterwards.

"""Hooks on pools, connections, network streams and response streams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import AsyncGeneratorType, ModuleType
from typing import Any, TypeVar

from ..core.ledger import Connection
from ..core.timeline import Exchange
from ..guard import Guard
from . import bodies
from .current import CURRENT, leave
from .libraries import Library
from .observer import Handle, Observer
from .resolver import Resolver
from .seams import Patches, attached
from .trace_events import TraceEvents

_now = time.monotonic_ns

Hook = Callable[..., Any]
T = TypeVar("T")


class Hooks:
    """Puts the hooks in.

    Args:
        patches: what is replaced, to be restored.
        guard: contains our faults.
        observer: is told what happens.
    """

    def __init__(self, patches: Patches, guard: Guard, observer: Observer) -> None:
        self._patches = patches
        self._guard = guard
        self._observer = observer
        self._refusals: tuple[type[BaseException], ...] = ()
        #: Modules of libraries that close the iterators they iterate.
        self._closing: frozenset[str] = frozenset()
        self._resolver = Resolver(patches, guard, observer.looked_up)
        events = TraceEvents(
            guard, self._resolver, observer.watch, observer.opened, observer.looked_up, observer.suppressed
        )
        observer.listen, observer.unlisten = events.listen, events.unlisten
        observer.watch_connection = self._watch_connection
        observer.watch_stream = self._watch_stream
        observer.watch_body = self._watch_body

    def install(self, libraries: list[tuple[Library, ModuleType]]) -> None:
        """Watch the pools of *libraries*, and name resolution."""
        self._resolver.install()
        for library, module in libraries:
            self._refusals += (module.ConnectionNotAvailable,)
            if library.closes_iterators:
                self._closing |= {library.name}
            for name in ("ConnectionPool", "HTTPProxy", "SOCKSProxy"):
                self._watch_pool(getattr(module, name, None), library, "handle_request", self._sync_request, "close")
                self._watch_pool(
                    getattr(module, "Async" + name, None),
                    library,
                    "handle_async_request",
                    self._async_request,
                    "aclose",
                )

    # The pool.

    def _watch_pool(
        self, cls: type | None, library: Library, handle: str, make: Callable[..., Hook], close: str
    ) -> None:
        if cls is None:
            return
        replace = self._patches.replace_method
        replace(cls, handle, lambda original: make(original, library.counts_only_idle))
        replace(cls, close, self._pool_close)
        replace(cls, "create_connection", self._create_connection)

    def _sync_request(self, original: Hook, counts_only_idle: bool) -> Hook:
        guard, let_go = self._guard, self._observer.let_go
        begin: Hook = self._observer.begin
        answered: Hook = self._observer.answered
        failed: Hook = self._observer.failed

        def handle_request(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal begin, answered, failed
            try:
                exchange = begin(self, args[0] if args else kwargs.get("request"), counts_only_idle)
            except Exception:
                begin, exchange = guard.contain("begin"), None
            if exchange is None:
                return original(self, *args, **kwargs)
            token = CURRENT.set(exchange)
            try:
                response = original(self, *args, **kwargs)
            except BaseException as error:
                try:
                    failed(exchange, error)
                except BaseException:
                    guard(let_go, exchange)
                    failed = guard.contain("failed")
                if not exchange.finished:
                    guard(let_go, exchange)
                raise
            finally:
                leave(token)
            try:
                answered(exchange, response)
            except BaseException:
                guard(let_go, exchange)
                answered = guard.contain("answered")
            if not exchange.headers_at:
                guard(let_go, exchange)
            return response

        return handle_request

    def _async_request(self, original: Hook, counts_only_idle: bool) -> Hook:
        guard, let_go = self._guard, self._observer.let_go
        begin: Hook = self._observer.begin
        answered: Hook = self._observer.answered
        failed: Hook = self._observer.failed

        async def handle_async_request(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal begin, answered, failed
            try:
                exchange = begin(self, args[0] if args else kwargs.get("request"), counts_only_idle)
            except Exception:
                begin, exchange = guard.contain("begin"), None
            if exchange is None:
                return await original(self, *args, **kwargs)
            token = CURRENT.set(exchange)
            try:
                response = await original(self, *args, **kwargs)
            except BaseException as error:
                try:
                    failed(exchange, error)
                except BaseException:
                    guard(let_go, exchange)
                    failed = guard.contain("failed")
                if not exchange.finished:
                    guard(let_go, exchange)
                raise
            finally:
                leave(token)
            try:
                answered(exchange, response)
            except BaseException:
                guard(let_go, exchange)
                answered = guard.contain("answered")
            if not exchange.headers_at:
                guard(let_go, exchange)
            return response

        return handle_async_request

    def _create_connection(self, original: Hook) -> Hook:
        guard, created = self._guard, self._observer.created

        def create_connection(self: Any, *args: Any, **kwargs: Any) -> Any:
            connection = original(self, *args, **kwargs)
            guard(created, self, args[0] if args else kwargs.get("origin"), connection)
            return connection

        return create_connection

    def _pool_close(self, original: Hook) -> Hook:
        guard, pool_closing = self._guard, self._observer.pool_closing

        def close(self: Any, *args: Any, **kwargs: Any) -> Any:
            guard(pool_closing, self)
            return original(self, *args, **kwargs)

        return close

    # A connection of the pool.

    def _watch_connection(self, cls: type) -> None:
        if hasattr(cls, "handle_async_request"):
            self._patches.replace_method(cls, "handle_async_request", self._async_assignment)
        else:
            self._patches.replace_method(cls, "handle_request", self._sync_assignment)

    def _sync_assignment(self, original: Hook) -> Hook:
        guard, refusals, refused = self._guard, self._refusals, self._observer.refused
        assigned: Hook = self._observer.assigned

        def handle_request(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), attached(self)
            if exchange is None or conn is None:
                return original(self, *args, **kwargs)
            try:
                assigned(exchange, conn, False)
            except Exception:
                assigned = guard.contain("assigned")
            try:
                return original(self, *args, **kwargs)
            except refusals:
                guard(refused, exchange, conn)
                raise

        return handle_request

    def _async_assignment(self, original: Hook) -> Hook:
        guard, refusals, refused = self._guard, self._refusals, self._observer.refused
        assigned: Hook = self._observer.assigned

        async def refusable(exchange: Exchange, conn: Connection, coroutine: Coroutine[Any, Any, T]) -> T:
            try:
                return await coroutine
            except refusals:
                guard(refused, exchange, conn)
                raise

        def handle_async_request(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), attached(self)
            if exchange is None or conn is None:
                return original(self, *args, **kwargs)
            contended = False
            try:
                contended = assigned(exchange, conn, True)
            except Exception:
                assigned = guard.contain("assigned")
            coroutine = original(self, *args, **kwargs)
            return refusable(exchange, conn, coroutine) if contended else coroutine

        return handle_async_request

    # A network stream.

    def _watch_stream(self, cls: type) -> None:
        self._patches.replace_method(cls, "read", self._read)
        self._patches.replace_method(cls, "aclose" if hasattr(cls, "aclose") else "close", self._stream_close)

    def _read(self, original: Hook) -> Hook:
        def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Nothing is read before the request has been written, on HTTP/1.1.
            # This is so little that it needs no guard: `attached` cannot raise.
            exchange = CURRENT.get()
            if exchange is not None and exchange.send_at and not exchange.wait_at:
                conn = exchange.conn
                if conn is not None and not conn.multiplexed and attached(self) is conn:
                    exchange.wait_at = _now()
            return original(self, *args, **kwargs)

        return read

    def _stream_close(self, original: Hook) -> Hook:
        guard, stream_closing = self._guard, self._observer.stream_closing

        def close(self: Any, *args: Any, **kwargs: Any) -> Any:
            guard(stream_closing, self)
            return original(self, *args, **kwargs)

        return close

    # A response's stream.

    def _watch_body(self, cls: type) -> None:
        replace = self._patches.replace_method
        if hasattr(cls, "__aiter__"):
            replace(cls, "__aiter__", self._async_iteration)
            replace(cls, "aclose", self._async_close)
        else:
            replace(cls, "__iter__", self._sync_iteration)
            replace(cls, "close", self._sync_close)

    def _sync_iteration(self, original: Hook) -> Hook:
        failed = self._body_failed

        def __iter__(self: Any) -> Iterator[bytes]:
            parts: Iterator[bytes] = original(self)
            exchange, again = _iteration(self)
            if exchange is None:
                return parts
            return bodies.drained(exchange, parts) if again else bodies.observed(exchange, parts, failed)

        return __iter__

    def _async_iteration(self, original: Hook) -> Hook:
        failed, closing = self._body_failed, self._closing

        def __aiter__(self: Any) -> AsyncIterator[bytes]:
            parts: AsyncIterator[bytes] = original(self)
            exchange, again = _iteration(self)
            if exchange is None:
                return parts
            if isinstance(parts, AsyncGeneratorType) and type(self).__module__.partition(".")[0] in closing:
                if again:
                    return bodies.async_drained(exchange, parts)
                return bodies.async_observed(exchange, parts, failed)
            return bodies.Drained(exchange, parts, failed) if again else bodies.Observed(exchange, parts, failed)

        return __aiter__

    def _body_failed(self, exchange: Exchange, error: BaseException) -> None:
        guard, observer = self._guard, self._observer
        guard(observer.body_raised, exchange, error)
        if not exchange.finished or exchange.span is not None:
            guard(observer.let_go, exchange)

    def _sync_close(self, original: Hook) -> Hook:
        guard, let_go = self._guard, self._observer.let_go
        closing: Hook = self._observer.body_closing
        finish: Hook = self._observer.finish

        def close(self: Any) -> Any:
            nonlocal closing, finish
            handle = attached(self)
            if handle is None or handle.exchange.finished:
                return original(self)
            exchange = handle.exchange
            try:
                closing(exchange)
            except Exception:
                closing = guard.contain("body_closing")
            try:
                return original(self)
            finally:
                if not exchange.reading_since or exchange.over_at:
                    try:
                        finish(exchange, None)
                    except BaseException:
                        guard(let_go, exchange)
                        finish = guard.contain("finish")
                    if not exchange.finished:
                        guard(let_go, exchange)

        return close

    def _async_close(self, original: Hook) -> Hook:
        guard, let_go = self._guard, self._observer.let_go
        closing: Hook = self._observer.body_closing
        finish: Hook = self._observer.finish

        async def aclose(self: Any) -> Any:
            nonlocal closing, finish
            handle = attached(self)
            if handle is None or handle.exchange.finished:
                return await original(self)
            exchange = handle.exchange
            try:
                closing(exchange)
            except Exception:
                closing = guard.contain("body_closing")
            try:
                return await original(self)
            finally:
                if not exchange.reading_since or exchange.over_at:
                    try:
                        finish(exchange, None)
                    except BaseException:
                        guard(let_go, exchange)
                        finish = guard.contain("finish")
                    if not exchange.finished:
                        guard(let_go, exchange)

        return aclose


def _iteration(stream: object) -> tuple[Exchange | None, bool]:
    # The exchange whose body is iterated, and whether it had been before: see bodies.py.
    handle: Handle | None = attached(stream)
    if handle is None or handle.exchange.finished or (handle.iterated and handle.exchange.over_at):
        return None, False
    again, handle.iterated = handle.iterated, True
    return handle.exchange, again
