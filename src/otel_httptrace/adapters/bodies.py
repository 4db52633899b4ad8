# What stands before the iterator of a response body. It is entered for every
# part, so it notes when it was, adds integers, and nothing else.
#
# The first iteration tells all: parts, the end, and what a read raises. Another
# one reads on where the last was left: so the openai SDK drains a stream. If it
# reaches the end, the body is complete; if it raises, that tells nothing, for the
# connection may have been closed with the iterator before.

"""Iterators of response bodies, observed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

from ..core.timeline import Exchange

_now = time.monotonic_ns

#: Told what the body's own read raised, and of which stream.
Failed = Callable[[Exchange, BaseException, Any], None]


#: The exchange whose body a stream is, and whether it was iterated before; None where nothing is to be told.
Iterated = Callable[[Any], tuple[Exchange | None, bool]]


def iteration(original: Callable[[Any], Iterator[bytes]], iterated: Iterated, failed: Failed) -> Callable[..., Any]:
    """A stream's ``__iter__``: a generator function, as the libraries' own are."""

    def __iter__(self: Any) -> Generator[bytes, None, None]:
        exchange, again = iterated(self)
        parts = original(self)
        if exchange is None or again:
            yield from _drained(exchange, parts) if exchange is not None else parts
            return
        exchange.reading_since = _now()
        try:
            for part in parts:
                exchange.body_read(_now(), len(part))
                yield part
                exchange.reading_since = _now()
        except BaseException as error:
            # While nobody reads it is the consumer's, or the iterator is being closed.
            if exchange.reading_since:
                failed(exchange, error, self)
            raise
        exchange.body_ended(_now())

    return __iter__


def _drained(exchange: Exchange, parts: Iterator[bytes]) -> Generator[bytes, None, None]:
    since = _now()
    for part in parts:
        exchange.reading_since = since
        exchange.body_read(_now(), len(part))
        yield part
        since = _now()
    exchange.reading_since = since
    exchange.body_ended(_now())


def async_iteration(
    original: Callable[[Any], AsyncGenerator[bytes, None]], iterated: Iterated, failed: Failed
) -> Callable[..., Any]:
    """A stream's ``__aiter__``: an asynchronous generator function, as the libraries' own are.

    Left half-way, it closes the library's generator behind it in the same step, as nobody else would before
    the garbage collector does.
    """

    async def __aiter__(self: Any) -> AsyncGenerator[bytes, None]:
        exchange, again = iterated(self)
        parts = original(self)
        first = exchange if not again else None
        since = _now()
        if first is not None:
            first.reading_since = since
        try:
            async for part in parts:
                if exchange is not None:
                    exchange.reading_since = since
                    exchange.body_read(_now(), len(part))
                yield part
                since = _now()
                if first is not None:
                    first.reading_since = since
        except BaseException as error:
            if first is not None and first.reading_since:
                failed(first, error, self)
            # The loop may be closing all generators at its end, this one among them.
            if not getattr(parts, "ag_running", False):
                await parts.aclose()
            raise
        if exchange is not None:
            exchange.reading_since = since
            exchange.body_ended(_now())

    return __aiter__


class Observed:
    """The first iteration of an iterator that is no generator."""

    def __init__(self, exchange: Exchange, parts: AsyncIterator[bytes], failed: Failed, stream: object = None) -> None:
        self._exchange = exchange
        self._stream = stream
        self._parts = parts
        self._next = parts.__anext__
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        # What else it can.
        return getattr(self._parts, name)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        exchange.reading_since = _now()
        try:
            part = await self._next()
        except StopAsyncIteration:
            exchange.body_ended(_now())
            raise
        except BaseException as error:
            self._failed(exchange, error, self._stream)
            raise
        exchange.body_read(_now(), len(part))
        return part


class Drained(Observed):
    """Another iteration of one that is no generator."""

    async def __anext__(self) -> bytes:
        exchange, since = self._exchange, _now()
        try:
            part = await self._next()
        except StopAsyncIteration:
            exchange.reading_since = since
            exchange.body_ended(_now())
            raise
        exchange.reading_since = since
        exchange.body_read(_now(), len(part))
        return part
