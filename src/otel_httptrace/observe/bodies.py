# What stands before the iterator of a response body. It is entered for every
# part, so it notes when it was, adds integers, and nothing else.
#
# The first iteration tells all: parts, the end, and what a read raises. Another
# one reads on where the last was left: so the openai SDK drains a stream. If it
# reaches the end, the body is complete; if it raises, that tells nothing, for the
# connection may have been closed with the iterator before.
#
# What is noted is noted in a `try` of its own, which costs nothing: should it fail,
# the reader gets the part all the same.

"""Iterators of response bodies, observed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from typing import Any

from ..core.timeline import Exchange

_now = time.monotonic_ns

#: Told what the body's own read raised, and of which stream.
Failed = Callable[[Exchange, BaseException, Any], None]

#: The exchange whose body a stream is, and whether it was iterated before; None where nothing is to be told.
Iterated = Callable[[Any], tuple[Exchange | None, bool]]

#: Notes the exception being handled as a fault of the hook named, or raises it: see guard.py.
Contain = Callable[[str], object]


def iteration(
    original: Callable[[Any], Iterator[bytes]], iterated: Iterated, failed: Failed, contain: Contain
) -> Callable[..., Any]:
    """A stream's ``__iter__``: a generator function, as the libraries' own are."""

    def __iter__(self: Any) -> Generator[bytes, None, None]:
        exchange, again = None, False
        try:
            exchange, again = iterated(self)
        except BaseException:
            contain("iterated")
        parts = original(self)
        if exchange is None or again:
            yield from _drained(exchange, parts, contain) if exchange is not None else parts
            return
        try:
            try:
                exchange.reading_since = _now()
            except BaseException:
                contain("reading")
            for part in parts:
                try:
                    exchange.body_read(_now(), len(part))
                except BaseException:
                    _unread(exchange, contain)
                yield part
                try:
                    exchange.reading_since = _now()
                except BaseException:
                    contain("reading")
            try:
                exchange.body_ended(_now())
            except BaseException:
                _unread(exchange, contain)
        except BaseException as error:
            # While nobody reads it is the consumer's, or the iterator is being closed.
            if exchange.reading_since:
                failed(exchange, error, self)
            raise

    return __iter__


def _unread(exchange: Exchange, contain: Contain) -> None:
    # Whatever comes next is not of this read. What something of the application's has interrupted is one that failed.
    contain("body_read")
    exchange.reading_since = 0


def _drained(exchange: Exchange, parts: Iterator[bytes], contain: Contain) -> Generator[bytes, None, None]:
    read = _Reads(exchange, contain)
    for part in parts:
        read(part)
        yield part
        read.begins()
    read.ended()


class _Reads:
    """Counts what a further iteration reads; such a one is rare."""

    def __init__(self, exchange: Exchange, contain: Contain) -> None:
        self._exchange, self._contain, self._since = exchange, contain, 0
        self.begins()

    def begins(self) -> None:
        try:
            self._since = _now()
        except BaseException:
            self._contain("reading")

    def __call__(self, part: bytes) -> None:
        try:
            self._exchange.reading_since = self._since
            self._exchange.body_read(_now(), len(part))
        except BaseException:
            _unread(self._exchange, self._contain)

    def ended(self) -> None:
        try:
            self._exchange.reading_since = self._since
            self._exchange.body_ended(_now())
        except BaseException:
            _unread(self._exchange, self._contain)


def async_iteration(
    original: Callable[[Any], AsyncGenerator[bytes, None]], iterated: Iterated, failed: Failed, contain: Contain
) -> Callable[..., Any]:
    """A stream's ``__aiter__``: an asynchronous generator function, as the libraries' own are.

    Left half-way, it closes the library's generator behind it in the same step, as nobody else does: see `_hidden`.
    """

    async def __aiter__(self: Any) -> AsyncGenerator[bytes, None]:
        exchange, again, further = None, False, None
        try:
            exchange, again = iterated(self)
            if again and exchange is not None:
                further = _Reads(exchange, contain)
        except BaseException:
            contain("iterated")
        parts = original(self)
        first = exchange if not again else None
        try:
            if first is not None:
                try:
                    first.reading_since = _now()
                except BaseException:
                    contain("reading")
            step, following = _hidden(parts, contain), parts.__anext__
            while True:
                try:
                    part = await step
                except StopAsyncIteration:
                    break
                if first is not None:
                    try:
                        first.body_read(_now(), len(part))
                    except BaseException:
                        _unread(first, contain)
                elif further is not None:
                    further(part)
                yield part
                if first is not None:
                    try:
                        first.reading_since = _now()
                    except BaseException:
                        contain("reading")
                elif further is not None:
                    further.begins()
                step = following()
            if first is not None:
                try:
                    first.body_ended(_now())
                except BaseException:
                    _unread(first, contain)
            elif further is not None:
                further.ended()
        except BaseException as error:
            if first is not None and first.reading_since:
                failed(first, error, self)
            await parts.aclose()
            raise

    return __aiter__


def _hidden(parts: AsyncGenerator[bytes, None], contain: Contain) -> Awaitable[bytes]:
    # The first step of *parts*, at which the event loop would get to know it. The loop knows the generator that stands
    # before it, as it would know *parts* without us, and no other: at its end it closes all it knows at once
    # (`loop.shutdown_asyncgens`), and of two that close one another the second is told to be running already.
    # Dropped half-way, because something of the application's came in between, it still is the loop's to finalise.
    met, hidden = None, False
    try:
        try:
            met = get_asyncgen_hooks().firstiter
            hidden = True
            set_asyncgen_hooks(firstiter=None)
        except BaseException:
            contain("hidden")
        return parts.__anext__()
    finally:
        if hidden:
            try:
                set_asyncgen_hooks(firstiter=met)
            except BaseException:
                contain("hidden")


class Observed:
    """The first iteration of an iterator that is no generator."""

    def __init__(
        self, exchange: Exchange, parts: AsyncIterator[bytes], failed: Failed, contain: Contain, stream: object
    ) -> None:
        self._exchange = exchange
        self._stream = stream
        self._parts = parts
        self._next = parts.__anext__
        self._failed = failed
        self._contain = contain

    def __getattr__(self, name: str) -> Any:
        # What else it can.
        return getattr(self._parts, name)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        exchange, contain = self._exchange, self._contain
        try:
            exchange.reading_since = _now()
        except BaseException:
            contain("reading")
        try:
            part = await self._next()
        except StopAsyncIteration:
            try:
                exchange.body_ended(_now())
            except BaseException:
                _unread(exchange, contain)
            raise
        except BaseException as error:
            self._failed(exchange, error, self._stream)
            raise
        try:
            exchange.body_read(_now(), len(part))
        except BaseException:
            _unread(exchange, contain)
        return part


class Drained(Observed):
    """Another iteration of one that is no generator."""

    async def __anext__(self) -> bytes:
        read = _Reads(self._exchange, self._contain)
        try:
            part = await self._next()
        except StopAsyncIteration:
            read.ended()
            raise
        read(part)
        return part
