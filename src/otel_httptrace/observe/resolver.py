# How long did the lookup take, and what did it answer? No trace event says so:
# connecting looks up and connects in one call.
#
# The naive way is to resolve the name again and to time that. It doubles the
# load on a resolver that may be the problem, and measures another lookup.
# We watch the one that happens instead, at the two doors through which every
# backend goes:
#
# - `socket.getaddrinfo`: `socket.create_connection` calls it (sync), and trio
#   does in a worker thread, which inherits our context variable.
# - the running event loop's `getaddrinfo`: anyio calls it on asyncio. The
#   default loop then calls `socket.getaddrinfo` in an executor thread without
#   the context, so it is not seen twice, but tells when the wait for a thread
#   was over; uvloop never calls it.
#
# Other code's lookups pass both doors too. They pay one context variable read.

"""DNS, observed and never repeated."""

from __future__ import annotations

import socket
import sys
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from ..core.timeline import Attempt, Exchange, Lookup
from ..guard import Guard
from . import errors
from .current import CURRENT
from .patches import Patches

_now = time.monotonic_ns


class Resolver:
    """Watches name resolution while a connection is dialled."""

    def __init__(self, patches: Patches, guard: Guard, looked_up: Callable[[Exchange, Lookup], None]) -> None:
        self._patches = patches
        self._guard = guard
        self._looked_up = looked_up
        #: Lookups that wait for a thread of their event loop's executor, by what that will ask for, first come first.
        self._queue: list[tuple[Any, Lookup]] = []
        #: Our hook of `socket.getaddrinfo`, not kept: see Patches.
        self._asks: Callable[[], Any] = lambda: None

    def install(self) -> None:
        """Watch `socket.getaddrinfo`."""
        self._patches.replace(socket, "getaddrinfo", self._watch_socket)

    def watch_loop(self) -> None:
        """Watch the running asyncio event loop's ``getaddrinfo``, if there is one."""
        asyncio = sys.modules.get("asyncio")
        loop = asyncio._get_running_loop() if asyncio is not None else None
        if loop is not None:
            self._patches.replace_method(type(loop), "getaddrinfo", self._watch_loop)

    def _watch_socket(self, original: Callable[..., Any]) -> Callable[..., Any]:
        guard, begin, done, failed = self._guard, self._begin, self._done, self._failed
        queue, taken = self._queue, self._taken

        def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            exchange = CURRENT.get()
            if exchange is None:
                if queue:
                    guard(taken, args)
                return original(*args, **kwargs)
            lookup = guard(begin, exchange, args, kwargs)
            if lookup is None:
                return original(*args, **kwargs)
            try:
                answers = original(*args, **kwargs)
            except BaseException as error:
                guard(failed, exchange, lookup, error)
                raise
            guard(done, exchange, lookup, answers)
            return answers

        self._asks = weakref.ref(getaddrinfo)
        return getaddrinfo

    def _watch_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        guard, begin, done, failed = self._guard, self._begin, self._done, self._failed
        queues, left_queue = self._queues, self._left_queue

        async def observed(
            exchange: Exchange, lookup: Lookup, coroutine: Coroutine[Any, Any, Any], loop: Any, args: tuple[Any, ...]
        ) -> Any:
            try:
                queued = guard(queues, loop, lookup, args)
            except BaseException:
                # A signal handler of the application's has raised: this is awaited by nobody any more.
                coroutine.close()
                raise
            try:
                answers = await coroutine
            except Exception as error:
                guard(failed, exchange, lookup, error)
                raise
            finally:
                if queued is not None:
                    guard(left_queue, queued)
            # A cancellation is left to the dial: it knows whether that was the
            # connect timeout or the caller.
            guard(done, exchange, lookup, answers)
            return answers

        def getaddrinfo(self: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = CURRENT.get()
            if exchange is not None:
                lookup = guard(begin, exchange, args, kwargs)
                if lookup is not None:
                    return observed(exchange, lookup, original(self, *args, **kwargs), self, args)
            return original(self, *args, **kwargs)

        return getaddrinfo

    # asyncio's own loops ask in a thread of their default executor, which others fill, too (python/cpython#112169):
    # what that calls is `socket.getaddrinfo`, without our context. So it is known by what it asks for.

    def _queues(self, loop: Any, lookup: Lookup, args: tuple[Any, ...]) -> tuple[Any, Lookup] | None:
        asyncio = sys.modules["asyncio"]
        original = getattr(type(loop).getaddrinfo, "__wrapped__", None)
        own = getattr(original, "__module__", None) == asyncio.BaseEventLoop.__module__
        # Somebody else's `socket.getaddrinfo` in front of ours may not call it.
        if not own or socket.getaddrinfo is not self._asks() or len(args) < 2 or lookup.ended:
            return None
        queued = (args[:2], lookup)
        self._queue.append(queued)
        return queued

    def _taken(self, args: tuple[Any, ...]) -> None:
        for queued in list(self._queue):
            if queued[0] == args[:2] and self._left_queue(queued):
                return

    def _left_queue(self, queued: tuple[Any, Lookup]) -> bool:
        # A thread has taken it, or nobody waits for it any more: whoever removes it, says so.
        try:
            self._queue.remove(queued)
        except ValueError:
            return False
        queued[1].queued = _now() - queued[1].started
        return True

    def _begin(self, exchange: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lookup | None:
        dial = exchange.dial
        attempt = dial.last if dial is not None and not exchange.send_at else None
        if not isinstance(attempt, Attempt) or attempt.ended:
            return None
        host = args[0] if args else kwargs.get("host")
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if not isinstance(name, str) or name.lower() != attempt.host.lower() or is_numeric(name):
            return None
        # socket.getaddrinfo(host, port, family, type, proto, flags)
        flags = kwargs.get("flags", args[5] if len(args) > 5 else 0)
        if isinstance(flags, int) and flags & socket.AI_NUMERICHOST:
            return None
        # One lookup per name and dial: a second call continues the first.
        if attempt.lookups and not attempt.lookups[-1].failed:
            return attempt.lookups[-1]
        lookup = Lookup(name, _now())
        attempt.lookups.append(lookup)
        return lookup

    def _done(self, exchange: Exchange, lookup: Lookup, answers: Any) -> None:
        if lookup.abandoned:
            return
        first = not lookup.ended
        lookup.ended = _now()
        # Each answer is (family, type, proto, canonname, sockaddr): one address
        # comes once per socket type, and the order is the resolver's.
        lookup.answers = tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if first:
            self._looked_up(exchange, lookup)

    def _failed(self, exchange: Exchange, lookup: Lookup, error: BaseException) -> None:
        if not lookup.ended:
            lookup.ended, lookup.failed = _now(), True
            lookup.error = None if errors.cancelled(error) else errors.of_lookup(error)
            self._looked_up(exchange, lookup)


def is_numeric(host: str) -> bool:
    """Whether *host* is an address already, in any spelling that the resolver takes without asking."""
    if ":" in host:
        return True
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        return False
    return True
