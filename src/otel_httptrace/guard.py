# The code that calls us is somebody's production client. Whatever goes wrong in
# our bookkeeping, the request must go on as if we were not there.
#
# But not every exception that comes up in our code is ours. A signal handler of
# the application runs between any two of our bytecodes, and what it raises (a
# timeout class, Celery's SoftTimeLimitExceeded) is the application's: it must
# arrive, as it would have arrived without us. The traceback tells the two apart:
# see `interrupted`.
#
# And not every fault is ours to answer for. What a span processor, an exporter
# or a custom network backend raises when we call it is contained, and logged
# once; it says nothing of our own code, so nothing of ours is paused for it.

"""A fault of ours is logged and contained; the hook concerned pauses, and is tried again."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

_logger = logging.getLogger("otel_httptrace")

T = TypeVar("T")

#: A hook that failed twice in a row is left out for one call, and after each further fault for twice as many as before,
#: up to so many, or for so many seconds, whichever ends first. One that is called once per connection has as many
#: requests go by unobserved in a single call as others have in fifty.
_PAUSE_CALLS: Final = 50
_PAUSE_SECONDS: Final = 30.0
#: A hook that failed so often with no success in between is left out for good.
_MOST_FAULTS: Final = 10

_OWN: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


class Guard:
    """Calls our own functions so that their faults never reach the application.

    What is called for every request has no call to spare: it is called in a
    ``try`` of its own, which costs nothing, and hands its fault to `contain`.
    """

    #: Raise faults instead of containing them. For tests only.
    loud = False

    def __init__(self) -> None:
        #: By kind, what has ever failed. Empty, as it nearly always is, there is nothing to ask of it.
        self.failing: dict[str, _Breaker] = {}
        #: Kinds of which a fault has been logged.
        self._logged: set[str] = set()

    def __call__(self, function: Callable[..., T], *args: Any) -> T | None:
        """Call *function*; ``None`` if it fails, or is paused because it failed before.

        Raises:
            BaseException: what is no fault of ours: see `contain`.
        """
        breaker = None
        try:
            if self.failing:
                breaker = self.failing.get(function.__name__)
                if breaker is not None and not breaker.due():
                    return None
            result = function(*args)
            if breaker is not None:
                breaker.succeeded()
        except BaseException:
            self.contain(function.__name__)
            return None
        return result

    def trusts(self, kind: str) -> bool:
        """Whether the hook *kind* is not paused because it failed; asked once for each time it would be called."""
        breaker = self.failing.get(kind)
        return breaker is None or breaker.due()

    def contain(
        self, kind: str, function: Callable[..., Any] | None = None, *, critical: bool = False
    ) -> Callable[..., Any]:
        """Note the exception being handled as a fault of the hook *kind*.

        Args:
            kind: the name of the hook.
            function: what failed, where the caller wants to call it again.
            critical: pause it after the first fault already, ours or another's.

        Returns:
            What to call in place of *function* from now on. It leaves *function* out while that is paused,
            and answers ``None`` instead.

        Raises:
            BaseException: the one being handled, where it is the application's: no `Exception` (a cancellation,
                Ctrl-C), or raised by code of the application's that interrupted ours.
        """
        fault = sys.exc_info()[1]
        if not isinstance(fault, Exception) or interrupted(fault) or self.loud:
            raise  # noqa: PLE0704 - what the caller is handling
        if isinstance(function, _Paused):
            function = function.function
        breaker = self.failing.get(kind)
        if breaker is None:
            breaker = self.failing.setdefault(kind, _Breaker())
        try:
            if critical or _innermost_is_ours(fault):
                breaker.failed(at_once=critical)
            self._log(kind, fault, breaker.for_good)
        except RecursionError:
            # No room even for this: then the next fault is logged.
            pass
        return _Paused(breaker, function)

    def in_locks(self, later: Callable[[tuple[Any, ...]], object]) -> Guard:
        """The same guard for hooks that are called while the client may hold a lock of its own, which none re-enters.

        A log handler may make requests with the very same client, and would wait for that lock for ever.

        Args:
            later: given a function that logs a fault, and its arguments, to be called where no lock is held.
        """
        return _InLocks(self, later)

    def _log(self, kind: str, fault: Exception, for_good: bool) -> None:
        name = f"{kind} for good" if for_good else kind
        if name in self._logged:
            return
        # Not the application's own exception that it came up with: that may quote a body.
        fault.__suppress_context__ = True
        try:
            _logger.error(
                "otel-httptrace: a fault in %r was contained%s. "
                "Your requests are unharmed; telemetry may lack details.",
                kind,
                f", the {_MOST_FAULTS}th in a row, and this hook is now off" if for_good else "",
                exc_info=fault,
            )
        except Exception as error:
            # A log handler's fault is not ours, and no reason to fail a request.
            if interrupted(error):
                raise
        else:
            self._logged.add(name)


class _InLocks(Guard):
    def __init__(self, guard: Guard, later: Callable[[tuple[Any, ...]], object]) -> None:
        self.failing = guard.failing
        self._later = later
        self._logs = guard._log

    def _log(self, kind: str, fault: Exception, for_good: bool) -> None:
        self._later((self._logs, kind, fault, for_good))


class _Breaker:
    """How often a hook failed in a row, and whether it is paused for that."""

    __slots__ = ("_calls", "_faults", "_until", "for_good")

    def __init__(self) -> None:
        self._faults = 0
        self._calls = 0
        self._until = 0.0
        self.for_good = False

    def failed(self, *, at_once: bool) -> None:
        self._faults += 1
        if self._faults >= _MOST_FAULTS:
            self.for_good = True
        elif self._faults > 1 or at_once:
            # One alone may be anything, and is no reason to be blind.
            self._calls = min(_PAUSE_CALLS, 2 ** (self._faults - (1 if at_once else 2)))
            self._until = time.monotonic() + _PAUSE_SECONDS

    def succeeded(self) -> None:
        self._faults = 0

    def due(self) -> bool:
        """Whether the hook is to be called now; asked once for each call."""
        if self.for_good:
            return False
        if self._calls > 0 and time.monotonic() < self._until:
            self._calls -= 1
            return False
        return True


class _Paused:
    """Stands in for a hook that has failed."""

    __slots__ = ("_breaker", "function")

    def __init__(self, breaker: _Breaker, function: Callable[..., Any] | None) -> None:
        self._breaker = breaker
        self.function = function

    def __call__(self, *args: Any) -> Any:
        if self.function is None or not self._breaker.due():
            return None
        # Its next fault is raised here and contained by the caller.
        result = self.function(*args)
        self._breaker.succeeded()
        return result


def interrupted(error: BaseException) -> bool:
    """Whether *error* was raised by code of the application's that interrupted ours, rather than by ours.

    That is so if the traceback leads through a signal handler: a function that `signal` knows, or one
    that was given the frame it interrupted, as signal handlers and trace functions are. It is also so if
    the innermost frame is ours, and the class is none that our code or the standard library could have
    raised there: an exception set from another thread (``PyThreadState_SetAsyncExc``) has no frame.
    """
    handlers = _signal_handlers()
    entry = error.__traceback__
    previous: FrameType | None = None
    while entry is not None:
        frame = entry.tb_frame
        code = frame.f_code
        if code in handlers:
            return True
        if previous is not None and not _ours(code) and any(value is previous for value in frame.f_locals.values()):
            return True
        previous, entry = frame, entry.tb_next
    if previous is None or not _ours(previous.f_code):
        return False
    module = getattr(type(error), "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] not in _may_raise


#: Whose exceptions may come up with an innermost frame of ours: of functions without a frame, which are written in C.
_may_raise: Final = frozenset({*sys.stdlib_module_names, "otel_httptrace", "opentelemetry", "wrapt", "uvloop"})


def _ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_OWN)


def _innermost_is_ours(error: BaseException) -> bool:
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry is None or _ours(entry.tb_frame.f_code)


def _signal_handlers() -> set[CodeType]:
    signal = sys.modules.get("signal")
    if signal is None:
        return set()
    codes = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        # Through partials and bound methods to the function; an object is called by its class's.
        for _ in range(8):
            inner = getattr(handler, "func", None) or getattr(handler, "__func__", None)
            if inner is None:
                break
            handler = inner
        code = getattr(handler, "__code__", None) or getattr(vars(type(handler)).get("__call__"), "__code__", None)
        if isinstance(code, CodeType):
            codes.add(code)
    return codes
