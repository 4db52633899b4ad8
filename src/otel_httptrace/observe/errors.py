"""What went wrong, in the few words that telemetry has for it."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from typing import Final

from .causes import causes, of_ssl

#: The exception that is being handled, as every request asks. By `sys.exception` where there is one, since Python 3.11:
#: `sys.exc_info` makes a tuple of it.
handled: Final[Callable[[], BaseException | None]] = getattr(sys, "exception", lambda: sys.exc_info()[1])

# The resolver's errors, in the words of getaddrinfo(3).
_RESOLVER = {
    getattr(socket, name): word
    for name, word in (
        ("EAI_NONAME", "host_not_found"),
        ("EAI_NODATA", "host_not_found"),
        ("EAI_ADDRFAMILY", "host_not_found"),
        ("EAI_AGAIN", "try_again"),
        ("EAI_FAIL", "no_recovery"),
    )
    if hasattr(socket, name)
}

# .NET's words for http.client connection errors, so that fleets agree.
_CONNECT = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.ETIMEDOUT: "timed_out",
    errno.EHOSTUNREACH: "host_unreachable",
    errno.ENETUNREACH: "network_unreachable",
    errno.EADDRNOTAVAIL: "address_not_available",
    errno.EACCES: "access_denied",
    errno.EPERM: "access_denied",
    # .NET has no word for these: that a process is out of descriptors is not the other end's doing.
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}

_FILES = frozenset({errno.EMFILE, errno.ENFILE})


def cancelled(error: BaseException) -> bool:
    """Whether it is the caller giving up rather than a failure: not an `Exception`."""
    return not isinstance(error, Exception)


def name_of(error: BaseException) -> str:
    """The exception's class name, as upstream writes ``error.type``."""
    return type(error).__qualname__


def of_lookup(error: BaseException) -> str:
    """A word for a failed lookup: ``host_not_found``, ``try_again``, ``no_recovery``, ``timed_out``, ..."""
    for cause in causes(error):
        if isinstance(cause, socket.gaierror) and cause.errno in _RESOLVER:
            return _RESOLVER[cause.errno]
        if isinstance(cause, OSError) and cause.errno in _FILES:
            return _CONNECT[cause.errno]
        if _timed_out(cause):
            return "timed_out"
    return name_of(error)


def of_connect(error: BaseException) -> str:
    """A word for a failed connect: ``connection_refused``, ``timed_out`` and so on."""
    if _timed_out(error):
        return "timed_out"
    for cause in causes(error):
        if isinstance(cause, socket.gaierror):
            return of_lookup(cause)
        if isinstance(cause, OSError) and cause.errno in _CONNECT:
            return _CONNECT[cause.errno]
        if _timed_out(cause):
            return "timed_out"
    return name_of(error)


def of_tls(error: BaseException) -> str:
    """The class name of the ``ssl`` error, else of the exception."""
    for cause in causes(error):
        if of_ssl(cause):
            return name_of(cause)
    return name_of(error)


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__ == "ConnectTimeout"
