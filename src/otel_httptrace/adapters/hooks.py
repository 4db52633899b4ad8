# Where the hooks go. All are plain functions put on the libraries' classes, the
# concrete types found as they are first seen, so that no object of the
# application's ever changes its type, is wrapped, or is missed because it was
# made before us. A hook calls the original with what it was given, and tells
# the observer before and after; it holds no state and decides nothing.
#
# Synchronous and asynchronous hooks stand in pairs. Each has the parameters and
# the kind (coroutine, generator) of its original: see lookalike.py.
#
# Between any two bytecodes of ours a signal handler of the application's may
# raise. Hence the shape of them all: what ours raises is contained, what the
# application raises passes, and either way nothing is left open.

"""Hooks on pools, connections, network streams and response streams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from inspect import isasyncgenfunction
from types import ModuleType
from typing import Any

from ..core.timeline import Exchange
from ..guard import Guard
from . import bodies
from . import observer as observing
from .current import CURRENT, leave
from .libraries import Library
from .lookalike import preceded
from .observer import Handle, Observer
from .resolver import Resolver
from .seams import Patches, attached
from .trace_events import TraceEvents

_now = time.monotonic_ns

Hook = Callable[..., Any]


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
        self._resolver = Resolver(patches, guard, observer.looked_up)
        events = TraceEvents(
            guard, self._resolver, observer.watch, observer.opened, observer.looked_up, observer.suppressed
        )
        observer.listen, observer.unlisten = events.listen, events.unlisten
        observer.watch_connection = self._watch_connection
        observer.watch_stream = self._watch_stream
        observer.watch_body = self._watch_body
        patches.on_lost = lambda: guard(observer.later, self._mend)

    def install(self, library: Library, module: ModuleType) -> None:
        """Watch the pools of *library*, which is *module*, and name resolution."""
        self._resolver.install()
        self._refusals += (module.ConnectionNotAvailable,)
        for name in ("ConnectionPool", "HTTPProxy", "SOCKSProxy"):
            self._watch_pool(getattr(module, name, None), library, "handle_request", self._sync_request, "close")
            self._watch_pool(
                getattr(module, "Async" + name, None), library, "handle_async_request", self._async_request, "aclose"
            )

    def _mend(self) -> None:
        # The pool may hold its lock, or the SDK one of its own: so this waits for nobody. The next dial tries again.
        if observing.transition.acquire(blocking=False):
            try:
                if self._observer.active:
                    self._patches.mend()
            finally:
                observing.transition.release()

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
        contain, abandon = self._guard.contain, partial(self._guard, self._observer.abandon)
        begin: Hook = self._observer.begin
        answered: Hook = self._observer.answered
        failed: Hook = self._observer.failed

        def handle_request(self: Any, request: Any) -> Any:
            nonlocal begin, answered, failed
            outer, exchange = CURRENT.get(), None
            try:
                try:
                    # It sets CURRENT before it notes the exchange anywhere: so none is lost sight of.
                    exchange = begin(self, request, counts_only_idle)
                except BaseException:
                    begin = contain("begin", begin)
                    abandon(outer, None)
                if exchange is None:
                    leave(outer)
                    return original(self, request)
                try:
                    response = original(self, request)
                except BaseException as error:
                    try:
                        failed(exchange, error)
                    except BaseException:
                        failed = contain("failed", failed)
                    raise
                try:
                    answered(exchange, response)
                except BaseException:
                    answered = contain("answered", answered)
                    abandon(outer, exchange)
                if not exchange.headers_at:
                    abandon(outer, exchange)
                return response
            except BaseException:
                # The application does not get a response: `failed` has ended it, or could not, or something
                # of the application's has interrupted us.
                abandon(outer, exchange)
                raise
            finally:
                leave(outer)

        return handle_request

    def _async_request(self, original: Hook, counts_only_idle: bool) -> Hook:
        contain, abandon = self._guard.contain, partial(self._guard, self._observer.abandon)
        begin: Hook = self._observer.begin
        answered: Hook = self._observer.answered
        failed: Hook = self._observer.failed

        async def handle_async_request(self: Any, request: Any) -> Any:
            nonlocal begin, answered, failed
            outer, exchange = CURRENT.get(), None
            try:
                try:
                    exchange = begin(self, request, counts_only_idle)
                except BaseException:
                    begin = contain("begin", begin)
                    abandon(outer, None)
                if exchange is None:
                    leave(outer)
                    return await original(self, request)
                try:
                    response = await original(self, request)
                except BaseException as error:
                    try:
                        failed(exchange, error)
                    except BaseException:
                        failed = contain("failed", failed)
                    raise
                try:
                    answered(exchange, response)
                except BaseException:
                    answered = contain("answered", answered)
                    abandon(outer, exchange)
                if not exchange.headers_at:
                    abandon(outer, exchange)
                return response
            except BaseException:
                abandon(outer, exchange)
                raise
            finally:
                leave(outer)

        return handle_async_request

    def _create_connection(self, original: Hook) -> Hook:
        guard, created, patches, mend = self._guard, self._observer.created, self._patches, self._mend

        def create_connection(self: Any, origin: Any) -> Any:
            connection = original(self, origin)
            if patches.lost:
                guard(mend)
            guard(created, self, origin, connection)
            return connection

        return create_connection

    def _pool_close(self, original: Hook) -> Hook:
        return self._closing(original, self._observer.pool_closing)

    def _closing(self, original: Hook, closing: Hook) -> Hook:
        return preceded(original, partial(self._guard, closing), whatever=True)

    # A connection of the pool.

    def _watch_connection(self, cls: type) -> None:
        if hasattr(cls, "handle_async_request"):
            self._patches.replace_method(cls, "handle_async_request", self._async_assignment)
        else:
            self._patches.replace_method(cls, "handle_request", self._sync_assignment)

    def _sync_assignment(self, original: Hook) -> Hook:
        guard, refusals, refused = self._guard, self._refusals, self._observer.refused
        assigned: Hook = self._observer.assigned

        def handle_request(self: Any, request: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), attached(self)
            if exchange is None or conn is None:
                return original(self, request)
            try:
                assigned(exchange, conn, False)
            except BaseException:
                assigned = guard.contain("assigned", assigned)
            try:
                return original(self, request)
            except refusals:
                guard(refused, exchange, conn)
                raise

        return handle_request

    def _async_assignment(self, original: Hook) -> Hook:
        guard, refusals, refused = self._guard, self._refusals, self._observer.refused
        assigned: Hook = self._observer.assigned

        async def handle_async_request(self: Any, request: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), attached(self)
            if exchange is None or conn is None:
                return await original(self, request)
            try:
                assigned(exchange, conn, True)
            except BaseException:
                assigned = guard.contain("assigned", assigned)
            try:
                return await original(self, request)
            except refusals:
                guard(refused, exchange, conn)
                raise

        return handle_async_request

    # A network stream.

    def _watch_stream(self, cls: type) -> None:
        self._patches.replace_method(cls, "read", self._read)
        self._patches.replace_method(cls, "aclose" if hasattr(cls, "aclose") else "close", self._stream_close)

    def _read(self, original: Hook) -> Hook:
        return preceded(original, _reads)

    def _stream_close(self, original: Hook) -> Hook:
        return self._closing(original, self._observer.stream_closing)

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
        return bodies.iteration(original, _iterated, self._body_failed)

    def _async_iteration(self, original: Hook) -> Hook:
        failed = self._body_failed
        if isasyncgenfunction(original):
            return bodies.async_iteration(original, _iterated, failed)

        def __aiter__(self: Any) -> AsyncIterator[bytes]:
            parts: AsyncIterator[bytes] = original(self)
            exchange, again = _iterated(self)
            if exchange is None:
                return parts
            return bodies.Drained(exchange, parts, failed) if again else bodies.Observed(exchange, parts, failed)

        return __aiter__

    def _body_failed(self, exchange: Exchange, error: BaseException) -> None:
        guard, observer = self._guard, self._observer
        guard(observer.body_raised, exchange, error)
        if not exchange.finished or exchange.span is not None:
            guard(observer.let_go, exchange)

    def _sync_close(self, original: Hook) -> Hook:
        contain = self._guard.contain
        closing: Hook = self._observer.body_closing
        closed = self._body_closed()

        def close(self: Any) -> Any:
            nonlocal closing
            handle = attached(self)
            if handle is None or handle.exchange.finished:
                return original(self)
            exchange = handle.exchange
            try:
                try:
                    closing(exchange)
                except BaseException:
                    closing = contain("body_closing", closing)
            finally:
                try:
                    result = original(self)
                finally:
                    if not exchange.reading_since or exchange.over_at:
                        closed(exchange)
            return result

        return close

    def _async_close(self, original: Hook) -> Hook:
        contain = self._guard.contain
        closing: Hook = self._observer.body_closing
        closed = self._body_closed()

        async def aclose(self: Any) -> Any:
            nonlocal closing
            handle = attached(self)
            if handle is None or handle.exchange.finished:
                return await original(self)
            exchange = handle.exchange
            try:
                try:
                    closing(exchange)
                except BaseException:
                    closing = contain("body_closing", closing)
            finally:
                try:
                    result = await original(self)
                finally:
                    if not exchange.reading_since or exchange.over_at:
                        closed(exchange)
            return result

        return aclose

    def _body_closed(self) -> Callable[[Exchange], None]:
        guard, let_go = self._guard, self._observer.let_go
        finish: Hook = self._observer.finish

        def closed(exchange: Exchange) -> None:
            nonlocal finish
            try:
                finish(exchange, None)
            except BaseException:
                let_go(exchange)
                finish = guard.contain("finish", finish)
            if not exchange.finished:
                let_go(exchange)

        return closed


def _reads(stream: object) -> None:
    # Nothing is read before the request has been written, on HTTP/1.1.
    # This is so little that it needs no guard: `attached` cannot raise.
    exchange = CURRENT.get()
    if exchange is not None and exchange.send_at and not exchange.wait_at:
        conn = exchange.conn
        if conn is not None and not conn.multiplexed and attached(stream) is conn:
            exchange.wait_at = _now()


def _iterated(stream: object) -> tuple[Exchange | None, bool]:
    # The exchange whose body is iterated, and whether it had been before: see bodies.py.
    handle: Handle | None = attached(stream)
    if handle is None or handle.exchange.finished or (handle.iterated and handle.exchange.over_at):
        return None, False
    again, handle.iterated = handle.iterated, True
    return handle.exchange, again
