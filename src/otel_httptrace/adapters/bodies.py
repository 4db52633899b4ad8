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

#: Told what the body's own read raised.
Failed = Callable[[Exchange, BaseException], None]


def observed(exchange: Exchange, parts: Iterator[bytes], failed: Failed) -> Generator[bytes, None, None]:
    """The first iteration."""
    exchange.reading_since = _now()
    try:
        for part in parts:
            exchange.body_read(_now(), len(part))
            yield part
            exchange.reading_since = _now()
    except BaseException as error:
        # While nobody reads it is the consumer's, or the iterator is being closed.
        if exchange.reading_since:
            failed(exchange, error)
        raise
    exchange.body_ended(_now())


def drained(exchange: Exchange, parts: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Another iteration."""
    since = _now()
    for part in parts:
        exchange.reading_since = since
        exchange.body_read(_now(), len(part))
        yield part
        since = _now()
    exchange.reading_since = since
    exchange.body_ended(_now())


async def async_observed(
    exchange: Exchange, parts: AsyncGenerator[bytes, None], failed: Failed
) -> AsyncGenerator[bytes, None]:
    """The first iteration by httpcore2 and httpx2, which close what they iterate if it is a generator."""
    exchange.reading_since = _now()
    try:
        async for part in parts:
            exchange.body_read(_now(), len(part))
            yield part
            exchange.reading_since = _now()
    except BaseException as error:
        if exchange.reading_since:
            failed(exchange, error)
        raise
    finally:
        await parts.aclose()
    exchange.body_ended(_now())


async def async_drained(exchange: Exchange, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Another iteration by these."""
    since = _now()
    try:
        async for part in parts:
            exchange.reading_since = since
            exchange.body_read(_now(), len(part))
            yield part
            since = _now()
    finally:
        await parts.aclose()
    exchange.reading_since = since
    exchange.body_ended(_now())


class Observed:
    """The first iteration by anybody else.

    Not a generator: dropped half-way, that would be closed by the event loop, later, and with it the
    library's own one behind it.
    """

    def __init__(self, exchange: Exchange, parts: AsyncIterator[bytes], failed: Failed) -> None:
        self._exchange = exchange
        self._parts = parts
        self._next = parts.__anext__
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        # What else a generator can, `aclose` above all.
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
            self._failed(exchange, error)
            raise
        exchange.body_read(_now(), len(part))
        return part


class Drained(Observed):
    """Another iteration by anybody else."""

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
