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
# raise. So they all have one shape: what ours raises is contained, what the
# application raises passes, and either way nothing is left open.

"""Hooks on pools, connections, network streams and response streams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from inspect import isasyncgenfunction
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...core.evidence import SLOW
from ...core.ledger import Limits
from ...core.timeline import Exchange
from ...observe import bodies, evidence
from ...observe.current import CURRENT
from ...observe.lookalike import counting, preceded
from ...observe.marks import KEY, stored
from . import seams

if TYPE_CHECKING:
    from .observer import Observer

_now = time.monotonic_ns

Hook = Callable[..., Any]
#: What a pool was set to.
Limited = Callable[[Any], Limits]


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
        self._refusals: tuple[type[BaseException], ...] = ()

    def install(self, module: ModuleType) -> None:
        """Watch the pools of *module*, httpcore or httpcore2, and name resolution."""
        self._lifetime.resolver.install()
        self._refusals += (module.ConnectionNotAvailable,)
        limits = partial(seams.limits, counts_only_idle=module.__name__ in seams.COUNT_ONLY_IDLE)
        for name in ("ConnectionPool", "HTTPProxy", "SOCKSProxy"):
            self._watch_pool(getattr(module, name, None), limits, "handle_request", self._sync_request, "close")
            self._watch_pool(
                getattr(module, "Async" + name, None), limits, "handle_async_request", self._async_request, "aclose"
            )

    # The pool.

    def _watch_pool(
        self, cls: type | None, limits: Limited, handle: str, make: Callable[..., Hook], close: str
    ) -> None:
        if cls is None:
            return
        replace = self._patches.replace_method
        replace(cls, handle, lambda original: make(original, limits))
        replace(cls, close, self._pool_close)
        replace(cls, "__init__", self._pool_made)
        replace(cls, "create_connection", self._create_connection)

    def _sync_request(self, original: Hook, limits: Limited) -> Hook:
        observer, lifetime = self._observer, self._lifetime
        contain, abandon = self._guard.contain, partial(self._guard, lifetime.abandon)
        give_up, later = lifetime.give_up, lifetime.later.append
        begin: Hook = observer.begin
        answered: Hook = observer.answered
        failed: Hook = observer.failed

        def handle_request(self: Any, request: Any) -> Any:
            nonlocal begin, answered, failed
            outer, exchange = CURRENT.get(), None
            try:
                try:
                    # It sets CURRENT before it notes the exchange anywhere: so none is lost sight of.
                    exchange = begin(self, request, limits)
                except BaseException:
                    begin = contain("begin", begin)
                    abandon(outer, None)
                if exchange is None:
                    CURRENT.set(outer)
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
                # of the application's has interrupted us, and may do so again: then it is for later.
                if exchange is None or not exchange.finished or exchange.span is not None:
                    later((give_up, outer, exchange, CURRENT.get()))
                    abandon(outer, exchange)
                raise
            finally:
                # One step, which nothing can interrupt.
                CURRENT.set(outer)

        return handle_request

    def _async_request(self, original: Hook, limits: Limited) -> Hook:
        observer, lifetime = self._observer, self._lifetime
        contain, abandon = self._guard.contain, partial(self._guard, lifetime.abandon)
        give_up, later = lifetime.give_up, lifetime.later.append
        begin: Hook = observer.begin
        answered: Hook = observer.answered
        failed: Hook = observer.failed

        async def handle_async_request(self: Any, request: Any) -> Any:
            nonlocal begin, answered, failed
            outer, exchange = CURRENT.get(), None
            try:
                try:
                    exchange = begin(self, request, limits)
                except BaseException:
                    begin = contain("begin", begin)
                    abandon(outer, None)
                if exchange is None:
                    CURRENT.set(outer)
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
                if exchange is None or not exchange.finished or exchange.span is not None:
                    later((give_up, outer, exchange, CURRENT.get()))
                    abandon(outer, exchange)
                raise
            finally:
                # A coroutine closed from another context finds nothing of its own there, and leaves that as it is.
                if CURRENT.get() is not outer:
                    CURRENT.set(outer)

        return handle_async_request

    def _create_connection(self, original: Hook) -> Hook:
        lifetime, created = self._lifetime, self._observer.created
        guard, later, mend = lifetime.guard_in_locks, lifetime.later, lifetime.mend

        def create_connection(self: Any, origin: Any) -> Any:
            connection = original(self, origin)
            # Among what is to be dealt with there may be hooks that this connection is to have.
            if later:
                guard(mend)
            guard(created, self, origin, connection)
            return connection

        return create_connection

    def _pool_made(self, original: Hook) -> Hook:
        return preceded(original, self._observer.pool_made, partial(self._guard.contain, "pool_made"))

    def _pool_close(self, original: Hook) -> Hook:
        contain = partial(self._guard.contain, "pool_closing")
        return preceded(original, self._observer.pool_closing, contain, whatever=True)

    # A connection of the pool.

    def watch_connection(self, cls: type) -> None:
        """Patch *cls*, a type of connection."""
        if hasattr(cls, "handle_async_request"):
            self._patches.replace_method(cls, "handle_async_request", self._async_assignment)
        else:
            self._patches.replace_method(cls, "handle_request", self._sync_assignment)

    def _sync_assignment(self, original: Hook) -> Hook:
        guard, refusals, refused = self._guard, self._refusals, self._observer.refused
        assigned: Hook = self._observer.assigned
        met = self._observer.met

        def handle_request(self: Any, request: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), None
            try:
                conn = stored(self, KEY)
            except AttributeError:
                pass
            if exchange is None:
                return original(self, request)
            if conn is None or conn.ledger is not exchange.ledger:
                # Within one of the pool's, or a fault of ours has kept it from us.
                conn = guard(met, exchange, self) if not exchange.holds else None
                if conn is None:
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
        met = self._observer.met

        async def handle_async_request(self: Any, request: Any) -> Any:
            nonlocal assigned
            exchange, conn = CURRENT.get(), None
            try:
                conn = stored(self, KEY)
            except AttributeError:
                pass
            if exchange is None:
                return await original(self, request)
            if conn is None or conn.ledger is not exchange.ledger:
                conn = guard(met, exchange, self) if not exchange.holds else None
                if conn is None:
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

    def watch_stream(self, cls: type) -> None:
        """Patch *cls*, a type of network stream."""
        self._patches.replace_method(cls, "read", self._read)
        self._patches.replace_method(cls, "aclose" if hasattr(cls, "aclose") else "close", self._stream_close)

    def _read(self, original: Hook) -> Hook:
        return counting(original, _reads, partial(self._lifetime.guard_in_locks.contain, "reads"))

    def _stream_close(self, original: Hook) -> Hook:
        observer = self._observer
        contain = partial(self._lifetime.guard_in_locks.contain, "stream_closing")
        return preceded(original, observer.stream_closing, contain, whatever=True, missed=self._lifetime.later.append)

    # A response, and its stream.

    def watch_response(self, cls: type) -> None:
        """Patch *cls*, a type of response."""
        for name in ("close", "aclose"):
            self._patches.replace_method(cls, name, self._response_close)

    def _response_close(self, original: Hook) -> Hook:
        contain = partial(self._guard.contain, "response_closing")
        return preceded(original, self._observer.response_closing, contain, whatever=True)

    def watch_body(self, cls: type) -> None:
        """Patch *cls*, a type of response stream."""
        replace = self._patches.replace_method
        # What a stand-in for a pool returns may be both, as httpx's `ByteStream` is.
        if hasattr(cls, "__aiter__"):
            replace(cls, "__aiter__", self._async_iteration)
            replace(cls, "aclose", self._async_close)
        if hasattr(cls, "__iter__"):
            replace(cls, "__iter__", self._sync_iteration)
            replace(cls, "close", self._sync_close)

    def _sync_iteration(self, original: Hook) -> Hook:
        return bodies.iteration(original, _iterated, self._body_failed, self._guard.contain)

    def _async_iteration(self, original: Hook) -> Hook:
        failed, contain = self._body_failed, self._guard.contain
        if isasyncgenfunction(original):
            return bodies.async_iteration(original, _iterated, failed, contain)

        def __aiter__(self: Any) -> AsyncIterator[bytes]:
            parts: AsyncIterator[bytes] = original(self)
            exchange, again = None, False
            try:
                exchange, again = _iterated(self)
            except BaseException:
                contain("iterated")
            if exchange is None:
                return parts
            observed = bodies.Drained if again else bodies.Observed
            return observed(exchange, parts, failed, contain, self)

        return __aiter__

    def _body_failed(self, exchange: Exchange, error: BaseException, stream: Any) -> None:
        guard, lifetime = self._guard, self._lifetime
        try:
            guard(self._observer.body_raised, exchange, error, stream)
        finally:
            if not exchange.finished or exchange.span is not None:
                lifetime.later.append((lifetime.let_go, exchange))
                guard(lifetime.let_go, exchange)

    def _sync_close(self, original: Hook) -> Hook:
        contain = self._guard.contain
        closing: Hook = self._observer.body_closing
        closed = self._body_closed()

        def close(self: Any) -> Any:
            nonlocal closing
            exchange = None
            try:
                exchange = stored(self, KEY)
            except AttributeError:
                pass
            if exchange is None or exchange.finished:
                return original(self)
            again = False
            try:
                try:
                    again = closing(exchange)
                except BaseException:
                    closing = contain("body_closing", closing)
            finally:
                try:
                    result = original(self)
                finally:
                    if not again and (not exchange.reading_since or exchange.over_at):
                        closed(exchange)
            return result

        return close

    def _async_close(self, original: Hook) -> Hook:
        contain = self._guard.contain
        closing: Hook = self._observer.body_closing
        closed = self._body_closed()

        async def aclose(self: Any) -> Any:
            nonlocal closing
            exchange = None
            try:
                exchange = stored(self, KEY)
            except AttributeError:
                pass
            if exchange is None or exchange.finished:
                return await original(self)
            again = False
            try:
                try:
                    again = closing(exchange)
                except BaseException:
                    closing = contain("body_closing", closing)
            finally:
                try:
                    result = await original(self)
                finally:
                    if not again and (not exchange.reading_since or exchange.over_at):
                        closed(exchange)
            return result

        return aclose

    def _body_closed(self) -> Callable[[Exchange], None]:
        lifetime = self._lifetime
        guard, let_go, later = self._guard, lifetime.let_go, lifetime.later.append
        finish: Hook = lifetime.finish

        def closed(exchange: Exchange) -> None:
            nonlocal finish
            try:
                finish(exchange, None)
            except BaseException:
                later((let_go, exchange))
                let_go(exchange)
                finish = guard.contain("finish", finish)
            if not exchange.finished:
                let_go(exchange)

        return closed


def _reads(stream: object) -> Exchange | None:
    # Nothing is read before the request has been written, on HTTP/1.1. Whose answer it is that is read.
    exchange = CURRENT.get()
    if exchange is None or not exchange.send_at:
        return None
    conn = exchange.conn
    if conn is None or conn.multiplexed:
        return None
    try:
        if stored(stream, KEY) is not conn:
            return None
    except AttributeError:
        return None
    if not exchange.wait_at:
        exchange.wait_at = now = _now()
        if now - exchange.send_at >= SLOW:
            evidence.written_slowly(exchange, stream, at_once=seams.bodiless(exchange.request))
    return exchange


def _iterated(stream: object) -> tuple[Exchange | None, bool]:
    # The exchange whose body is iterated, and whether it had been before: see bodies.py.
    exchange: Exchange | None = None
    try:
        exchange = stored(stream, KEY)
    except AttributeError:
        pass
    if exchange is None or exchange.finished or (exchange.iterated and exchange.over_at):
        return None, False
    again, exchange.iterated = exchange.iterated, True
    return exchange, again
