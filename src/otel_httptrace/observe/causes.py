# httpcore tells a `ConnectError`, and why is further down: an errno, the `ssl`
# module's reason, the resolver's code, HTTP/2's error code. A message never
# leaves this process: h11 and h2 quote the bytes that they cannot parse.
#
# What a chain of exceptions ends in need not belong to the request: one that is
# sent while the application handles an exception of its own has that as its last
# `__context__`. Such a one was caught by a frame that is outside of ours and
# still on the stack, and that is where the first entry of its traceback points.

"""The most specific name of what went wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from enum import IntEnum
from types import FrameType
from typing import Any, Final

#: How many exceptions of a chain are looked at: it may be as long as an application likes.
_MOST: Final = 32

# The resolver's codes, as getaddrinfo(3) spells them. Some share a number.
_RESOLVER: Final = {
    getattr(socket, name): name
    for name in (
        "EAI_ADDRFAMILY", "EAI_AGAIN", "EAI_BADFLAGS", "EAI_FAIL", "EAI_FAMILY", "EAI_MEMORY", "EAI_NODATA",
        "EAI_OVERFLOW", "EAI_SERVICE", "EAI_SOCKTYPE", "EAI_SYSTEM", "EAI_NONAME",
    )
    if hasattr(socket, name)
}  # fmt: skip

#: How asynchronous libraries say that time is up. The exception of the HTTP library says which time.
_TIME_IS_UP: Final = frozenset({"TimeoutError", "TooSlowError", "timeout"})


def causes(error: BaseException) -> Iterator[BaseException]:
    """*error*, which is being handled, and what it came of, nearest first."""
    return (found for found, _ in _chain(error))


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    # Each with whether it was hidden: the code that caught it raised another "from None".
    # httpcore raises "from None", so that `__cause__` is gone and only `__context__` is left. anyio and trio put
    # the errors of all addresses into a group.
    outside = _outside(error)
    queue, seen = [(error, False)], set[int]()
    while queue and len(seen) < _MOST:
        current, hidden = queue.pop(0)
        if id(current) in seen or (current is not error and _caught_by(current) in outside):
            continue
        seen.add(id(current))
        yield current, hidden
        grouped = getattr(current, "exceptions", ())
        queue.extend((inner, hidden) for inner in grouped if isinstance(inner, BaseException))
        if current.__cause__ is not None:
            queue.append((current.__cause__, hidden))
        if current.__context__ is not None:
            queue.append((current.__context__, current.__suppress_context__))


def _outside(error: BaseException) -> set[FrameType]:
    # Frames outside of the one that handles it: what these are handling has nothing to do with it.
    found, handler = set(), _caught_by(error)
    frame = handler.f_back if handler is not None else None
    while frame is not None:
        found.add(frame)
        frame = frame.f_back
    return found


def _caught_by(error: BaseException) -> FrameType | None:
    return error.__traceback__.tb_frame if error.__traceback__ is not None else None


def of_ssl(error: BaseException) -> bool:
    """Whether it is one of ``ssl``'s own."""
    # By name: this must not import ssl.
    return any(base.__module__ == "ssl" and base.__name__ == "SSLError" for base in type(error).__mro__)


def cause(error: BaseException) -> str:
    """The most specific name in *error*'s chain of causes.

    Returns:
        An errno's symbol (``ECONNREFUSED``), the reason of ``ssl`` (``CERTIFICATE_VERIFY_FAILED``), a resolver's
        code (``EAI_AGAIN``), an HTTP/2 error code (``INTERNAL_ERROR``), or else a class.
    """
    name = type(error).__qualname__
    for current, hidden in _chain(error):
        symbol = _symbol(current)
        if symbol is not None:
            return symbol
        # What is built in, not the system's, and was hidden is how a library works: anyio finds out by an IndexError
        # that it has no data, others by `queue.Empty` that nobody has given anything back.
        if hidden and type(current).__module__ in ("builtins", "_queue") and not isinstance(current, OSError):
            continue
        if isinstance(current, Exception) and type(current).__name__ not in _TIME_IS_UP:
            name = type(current).__qualname__
    return name


def connection_gone(error: BaseException) -> bool:
    """Whether it says that an HTTP/2 connection ended, and not just one stream of it, or the time to wait for that."""
    if type(error).__name__ not in ("RemoteProtocolError", "ReadError", "WriteError"):
        return False
    # httpcore raises RemoteProtocolError(event): h2's StreamReset, or ConnectionTerminated for all streams.
    return not any(type(told).__name__ == "StreamReset" for told in error.args[:1])


def _symbol(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return _symbol_of_system(error)
    # httpcore raises RemoteProtocolError(event) where h2 told of a reset or of GOAWAY. h2's own errors have it, too.
    for told in (error, *error.args[:1]):
        code = getattr(told, "error_code", None)
        if isinstance(code, IntEnum):
            return code.name
    return None


def _symbol_of_system(error: OSError) -> str | None:
    if isinstance(error, socket.gaierror):
        return _RESOLVER.get(error.errno)
    # Its errno is OpenSSL's, not the system's.
    if of_ssl(error):
        reason: Any = getattr(error, "reason", None)
        return reason if isinstance(reason, str) and reason else None
    return errno.errorcode.get(error.errno) if isinstance(error.errno, int) else None
