# What the most trusted systems do (SQLite's loops over every allocation and every
# read and write): run a thing once and count the points at which something may
# go wrong; then run it again for each of them, and let it go wrong there.
#
# Here the points are the bytecodes of our own code. A trace function sees each
# of them before it runs. What it does there is the test's: raise what the
# application's signal handler would, raise what a fault of ours would, or run
# anything that may come in between, as a handler or a finaliser does.
#
# Of all bytecodes those count at which it can happen. CPython runs signal handlers
# after a call, and where a function or a loop begins: nowhere else, so that a
# `with` or a `finally` can be relied on. Faults come of instructions that can fail,
# in what hooks call: the hook itself, which the library calls, has to call the
# original, and what that raises is no fault.

"""Lets something happen at any bytecode of our own code."""

from __future__ import annotations

import dis
import functools
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import otel_httptrace

#: Where our code is.
PACKAGE = os.path.dirname(otel_httptrace.__file__) + os.sep
#: How a signal comes: one that nothing else here uses.
SIGNAL = signal.SIGUSR2


class Alarm(Exception):
    """What the application's signal handler raises: an ordinary exception, as a timeout is."""


class Stop(BaseException):
    """What the application's signal handler raises, like Ctrl-C."""


class Fault(Exception):
    """What our own code raises, where it is at fault."""

    # As what the interpreter raises, where we call something wrongly.
    __module__ = "builtins"


#: What came before the first bytecode of a frame, and before the first one after an exception.
_BEGINNING, _RAISED = -1, -2


class Place(NamedTuple):
    """A bytecode of a piece of code."""

    code: types.CodeType
    offset: int

    def __repr__(self) -> str:
        lines = [line for start, end, line in _lines(self.code) if start <= self.offset < end]
        name = f"{self.code.co_filename.removeprefix(PACKAGE)}:{lines[0] if lines else '?'} {self.code.co_name}"
        return f"{name} [{self.offset} {_opname(self.code, self.offset)}]"


@functools.lru_cache(None)
def _interrupting(code: types.CodeType) -> frozenset[int]:
    """After which bytecodes of *code* CPython runs signal handlers."""
    # Before 3.11 at the very beginning of a frame, from then on by an instruction for it.
    found = {_BEGINNING} if sys.version_info < (3, 11) else set()
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        # Of a function's beginning and after a yield, but not after an await.
        resumed = name == "RESUME" and (instruction.arg or 0) & 3 < 2
        jumped = name == "JUMP_ABSOLUTE" or ("BACKWARD" in name and "NO_INTERRUPT" not in name)
        if resumed or jumped or name.startswith("CALL"):
            found.add(instruction.offset)
    return frozenset(found)


@functools.lru_cache(None)
def _fallible(code: types.CodeType) -> frozenset[int]:
    """Which bytecodes of *code* can fail."""
    return frozenset(
        instruction.offset
        for instruction in dis.get_instructions(code)
        if "JUMP" not in instruction.opname and not instruction.opname.startswith(_INFALLIBLE)
    )


#: Instructions that move what is there, or only say something to the interpreter.
_INFALLIBLE = tuple(
    (  # noqa: SIM905 - a list of words
        "LOAD_FAST STORE_FAST LOAD_CONST LOAD_CLOSURE LOAD_GLOBAL LOAD_DEREF STORE_DEREF POP PUSH COPY SWAP DUP ROT NOP "
        "CACHE RESUME RETURN YIELD RERAISE RAISE PRECALL KW_NAMES IS_OP EXTENDED_ARG GEN_START SETUP END BEFORE_WITH "
        "CHECK_EXC_MATCH WITH_EXCEPT MAKE_CELL MAKE_FUNCTION SEND GET_AWAITABLE BUILD LIST DICT UNARY_NOT TO_BOOL "
        "CLEANUP INTERPRETER_EXIT ENTER_EXECUTOR INSTRUMENTED NOT_TAKEN ASYNC_GEN_WRAP"
    ).split()
)


@functools.lru_cache(None)
def _lines(code: types.CodeType) -> list[tuple[int, int, int | None]]:
    return list(code.co_lines())


@functools.lru_cache(None)
def _opname(code: types.CodeType, offset: int) -> str:
    return dis.opname[code.co_code[offset]] if 0 <= offset < len(code.co_code) else "start"


@functools.lru_cache(None)
def is_ours(code: types.CodeType) -> bool:
    """Whether it is code of our package."""
    return code.co_filename.startswith(PACKAGE) and not code.co_filename.endswith(_POSED)


def called_by_ours(frame: types.FrameType) -> bool:
    """Whether code of our package called it. What stands between a library and a hook for its signature's sake is none."""
    above = frame.f_back
    while above is not None and above.f_code.co_filename.endswith("<made>"):
        above = above.f_back
    return above is not None and is_ours(above.f_code)


_POSED = "posed_by_a_test.py"


def posing(function: Callable[..., Any], filename: str = PACKAGE + _POSED) -> Callable[..., Any]:
    """*function*, which to a reader of tracebacks is code of our package, or of another file."""
    code = function.__code__.replace(co_filename=filename)
    return types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )


class Injection:
    """While it is entered, the bytecodes of our code that this thread runs are counted, and *act* is called before one.

    What runs within *act* does not count.

    Args:
        act: called with the place; what it raises is raised there.
        at: before which bytecode, counted from 1; 0 for none.
        again: also whenever the same place is reached after that.
        every: before every so many from there on.
        ours: what *act* raises comes from our code, as far as a traceback tells.
    """

    def __init__(
        self,
        act: Callable[[Place], object] | None = None,
        at: int = 0,
        *,
        again: bool = False,
        every: int = 0,
        ours: bool = False,
    ) -> None:
        #: How many bytecodes there were.
        self.count = 0
        #: Where it happened.
        self.place: Place | None = None
        #: The places passed, if there was nothing to do.
        self.places: list[Place] = []
        self.act, self.again, self.ours = act, again, ours
        self._at, self._every = at, every
        self._watch: _Tracing | _Monitoring = _Monitoring(self) if sys.version_info >= (3, 12) else _Tracing(self)

    def counts(self, code: types.CodeType, inner: bool) -> tuple[frozenset[int], frozenset[int]]:
        """After which bytecodes of *code* the next one counts, and which count; *inner*: code of ours has called it."""
        if not self.ours:
            return _interrupting(code), frozenset()
        return frozenset(), _fallible(code) if inner else frozenset()

    def due(self, code: types.CodeType, offset: int) -> Place | None:
        """Where it is to happen, if that is before this bytecode, which counts."""
        self.count += 1
        if self.act is None:
            self.places.append(Place(code, offset))
            return None
        if self.count == self._at or (
            self._every and self.count > self._at and not (self.count - self._at) % self._every
        ):
            self.place = Place(code, offset)
            return self.place
        return self.place if self.again and self.place == (code, offset) else None

    def __enter__(self) -> Injection:
        self._watch.begin()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watch.end()


class _Tracing:
    """Before CPython 3.12: by a trace function."""

    def __init__(self, injection: Injection) -> None:
        self._injection = injection
        # CPython calls trace functions by references that it does not own.
        self._kept: list[Any] = [self._global, self._rearm]

    def begin(self) -> None:
        self._former = sys.gettrace()
        sys.settrace(self._kept[0])

    def end(self) -> None:
        sys.setprofile(None)
        sys.settrace(self._former)
        del self._kept[2:]

    def _global(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if not is_ours(frame.f_code):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._tracer(frame, _BEGINNING)

    def _tracer(self, frame: types.FrameType, before: int) -> Any:
        code, injection, rearm = frame.f_code, self._injection, self._kept[1]
        after, these = injection.counts(code, called_by_ours(frame))

        def local(frame: types.FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "opcode":
                offset = frame.f_lasti
                if (before in after or offset in these) and (place := injection.due(code, offset)):
                    # When a trace function raises, CPython takes it away.
                    if injection.again:
                        sys.setprofile(rearm)
                    # A signal handler is called by nobody who holds the frame.
                    del frame
                    injection.act(place)  # type: ignore[misc]
                    sys.setprofile(None)
                before = offset
            elif event == "exception":
                # To whatever handles it the way is a short one.
                before = _RAISED
            return traced

        traced = posing(local) if injection.ours else local
        self._kept.append(traced)
        return traced

    def _rearm(self, frame: types.FrameType, event: str, arg: object) -> None:
        sys.setprofile(None)
        sys.settrace(self._kept[0])
        above: types.FrameType | None = frame
        while above is not None:
            if is_ours(above.f_code):
                above.f_trace, above.f_trace_lines, above.f_trace_opcodes = self._tracer(above, _RAISED), False, True
            above = above.f_back


class _Monitoring:
    """From CPython 3.12 on: by `sys.monitoring`."""

    #: None of those that have a name.
    _TOOL = 4

    def __init__(self, injection: Injection) -> None:
        self._injection = injection
        self._codes: set[types.CodeType] = set()

    def begin(self) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
        self._monitoring, self._events = monitoring, monitoring.events
        monitoring.use_tool_id(self._TOOL, "torture")
        monitoring.register_callback(self._TOOL, self._events.PY_START, self._started)
        monitoring.register_callback(self._TOOL, self._events.INSTRUCTION, self._instruction())
        monitoring.set_events(self._TOOL, self._events.PY_START)
        monitoring.restart_events()

    def end(self) -> None:
        self._monitoring.set_events(self._TOOL, 0)
        for code in self._codes:
            self._monitoring.set_local_events(self._TOOL, code, 0)
        self._codes.clear()
        for event in (self._events.PY_START, self._events.INSTRUCTION):
            self._monitoring.register_callback(self._TOOL, event, None)
        self._monitoring.free_tool_id(self._TOOL)

    def _started(self, code: types.CodeType, offset: int) -> Any:
        if is_ours(code) and code not in self._codes:
            self._codes.add(code)
            self._monitoring.set_local_events(self._TOOL, code, self._events.INSTRUCTION)
        return self._monitoring.DISABLE

    def _instruction(self) -> Any:
        injection, thread, befores, busy = self._injection, threading.get_ident(), dict[int, int](), False

        def instruction(code: types.CodeType, offset: int) -> None:
            nonlocal busy
            if busy or threading.get_ident() != thread:
                return
            frame = sys._getframe(1)
            before = _BEGINNING if offset == 0 else befores.get(id(frame), _BEGINNING)
            befores[id(frame)] = offset
            if offset in _handlers(code):
                before = _RAISED
            after, these = injection.counts(code, called_by_ours(frame))
            if (before in after or offset in these) and (place := injection.due(code, offset)):
                # A signal handler is called by nobody who holds the frame.
                del frame
                busy = True
                try:
                    injection.act(place)  # type: ignore[misc]
                finally:
                    busy = False

        return posing(instruction) if injection.ours else instruction


@functools.lru_cache(None)
def _handlers(code: types.CodeType) -> frozenset[int]:
    """Where *code* goes on after an exception."""
    return frozenset(entry.target for entry in dis._parse_exception_table(code))  # type: ignore[attr-defined]


class Handler:
    """The application's signal handler, for as long as it is entered.

    Args:
        does: called by it, with the frame that was interrupted.
    """

    def __init__(self, does: Callable[[types.FrameType | None], object]) -> None:
        self._does = does

    def __enter__(self) -> Handler:
        self._former = signal.signal(SIGNAL, lambda number, frame: self._does(frame))
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.signal(SIGNAL, self._former)

    @staticmethod
    def arrive(place: Place) -> None:
        """The signal comes, here and now."""
        signal.raise_signal(SIGNAL)


class Raising(Handler):
    """A handler that raises a new exception each time, and keeps them."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.raised: list[BaseException] = []

        def handler(frame: types.FrameType | None) -> None:
            self.raised.append(kind("of the application"))
            raise self.raised[-1]

        super().__init__(handler)


class Deadlock(BaseException):
    """What ends a wait that has no end."""


class Watchdog:
    """Ends what it is entered for, if that takes longer than anything here does: the main thread waits for itself.

    Again and again, for in a finaliser an exception ends nothing but that.
    """

    def __init__(self, patience: float = 10) -> None:
        self._patience, self._thread = patience, threading.get_ident()
        self._over, self._bitten = threading.Event(), False
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.2 if self._bitten else self._patience):
            self._bitten = True
            signal.pthread_kill(self._thread, signal.SIGUSR1)

    def __enter__(self) -> Watchdog:
        self._former = signal.signal(signal.SIGUSR1, self._end)
        self._watching.start()
        return self

    @staticmethod
    def _end(number: int, frame: object) -> None:
        raise Deadlock

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._watching.join()
        signal.signal(signal.SIGUSR1, self._former)
        if self._bitten:
            raise Deadlock
