"""A fault of ours is logged once and contained.

The code that calls us is somebody's production client. Whatever goes wrong in
our bookkeeping, the request must go on as if we were not there: the fault is
logged once for its kind, the hook concerned is switched off, all others stay.
Under test a fault must be loud instead: set `Guard.loud`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

_logger = logging.getLogger("otel_httptrace")

T = TypeVar("T")


class Guard:
    """Calls our own functions so that their faults never reach the application.

    What is called for every request has no call to spare: it is called in a
    ``try`` of its own, which costs nothing, and hands its fault to `contain`.
    """

    #: Raise faults instead of containing them. For tests only.
    loud = False

    def __init__(self) -> None:
        self._off: set[str] = set()

    def __call__(self, function: Callable[..., T], *args: Any) -> T | None:
        """Call *function*; ``None`` if it fails, or has failed before.

        A `BaseException` that is no `Exception` (a cancellation, Ctrl-C) is the
        application's and passes through.
        """
        if self._off and function.__name__ in self._off:
            return None
        try:
            return function(*args)
        except Exception:
            self.contain(function.__name__)
            return None

    def contain(self, kind: str) -> Callable[..., None]:
        """Note the exception being handled as a fault of the hook *kind*.

        Returns:
            What stands in for the hook from now on: it does nothing.

        Raises:
            BaseException: the one being handled, where it is no `Exception`, and so no fault of ours.
        """
        fault = sys.exc_info()[1]
        if self.loud or not isinstance(fault, Exception):
            raise  # noqa: PLE0704 - what the caller is handling
        if kind not in self._off:
            self._off.add(kind)
            # Not the application's own exception that it came up with: that may quote a body.
            fault.__suppress_context__ = True
            _logger.exception(
                "otel-httptrace: a fault in %r was contained and this hook is now off. "
                "Your requests are unharmed; telemetry may lack details.",
                kind,
            )
        return _nothing


def _nothing(*args: Any) -> None:
    return None
