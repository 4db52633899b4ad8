# Which line of the application was it? Not the innermost frame: between the
# pool and the application lie httpcore, httpx, upstream's instrumentation, the
# standard library's contextlib, perhaps an SDK built on httpx. We walk outwards
# and ask of each frame's file whose it is, once per file.
#
# Walking costs about 0.2 µs a frame, so what is taken is only the code object
# and the line number; they are made into text when somebody needs them. A frame
# itself is never kept: it would keep its locals alive.

"""The application's line, and the library's in between."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FrameType
from typing import Final, NamedTuple

from .clients import plumbing

_SKIP: Final = 0
_LIBRARY: Final = 1
_APPLICATION: Final = 2
_LOOP: Final = 3

#: Between the application and the wire, and never the place to look.
_PLUMBING: Final = frozenset(
    {
        *plumbing(),
        "otel_httptrace",
        "opentelemetry",
        "wrapt",
        "anyio",
        "trio",
        "h11",
        "h2",
    }
)

#: Where an event loop runs its tasks. Whoever started the loop, further out, has not called them: a generator
#: that the loop finalises, or a library's own task, has no line of the application.
_LOOPS: Final = ("asyncio/base_events.py", "asyncio/events.py", "asyncio/runners.py", "trio/_core/_run.py")


class Mark(NamedTuple):
    """A place in the code, not yet made into text: the table of a function's lines is read from its start each time."""

    code: CodeType
    #: Which instruction, as a frame has it in ``f_lasti``.
    at: int

    @property
    def line(self) -> int:
        """Its line."""
        found = (line for start, end, line in self.code.co_lines() if start <= self.at < end)
        return next(found, None) or self.code.co_firstlineno


class Place(NamedTuple):
    """The application's line and, where a library lies in between, the library's."""

    application: Mark | None
    library: Mark | None


class _Last(NamedTuple):
    """A place that was found: how many frames away, which function was called there, by which, and where in that."""

    depth: int
    called: CodeType
    caller: CodeType
    at: int
    place: Place


def _last(frame: FrameType, caller: CodeType, place: Place) -> _Last | None:
    # As seen from a function that *frame* has called. None where some function is there twice: a client that sends
    # again, or follows a redirect, is as far below the application as one that the application has put something into.
    seen: set[CodeType] = set()
    while frame.f_code not in seen and frame.f_back is not None:
        seen.add(frame.f_code)
        outer = frame.f_back
        if outer.f_code is caller:
            return _Last(len(seen), frame.f_code, caller, outer.f_lasti, place)
        frame = outer
    return None


class CallSite:
    """Finds the application's line on the stack.

    Args:
        app_packages: import names of installed packages that count as the application.
    """

    def __init__(self, app_packages: tuple[str, ...] = ()) -> None:
        self._app_packages = frozenset(app_packages)
        self._kinds: dict[str, int] = {}
        paths = sysconfig.get_paths()
        self._installed = tuple({_folder(paths[name]) for name in ("purelib", "platlib")})
        self._stdlib = tuple({_folder(paths[name]) for name in ("stdlib", "platstdlib")} | {_folder(os.__file__, 1)})
        self._own = _folder(__file__, 1)
        self._sends: dict[int, CodeType] = {}
        self._requests: dict[int, CodeType] = {}
        self._sender = 0
        self._last: _Last | None = None

    def find(self, frame: FrameType | None) -> Place | None:
        """The place that *frame* was called from; None if there is nothing but plumbing."""
        kinds = self._kinds
        library: Mark | None = None
        while frame is not None:
            code = frame.f_code
            kind = kinds.get(code.co_filename)
            if kind is None:
                kind = self._classify(code.co_filename)
            if kind == _APPLICATION:
                return Place(Mark(code, frame.f_lasti), library)
            if kind != _SKIP:
                if kind == _LOOP:
                    break
                if library is None:
                    library = Mark(code, frame.f_lasti)
            frame = frame.f_back
        return Place(library, None) if library is not None else None

    def find_again(self) -> Place | None:
        """As `find` from the caller's frame: for what every request asks, mostly from as far below the application."""
        last = self._last
        if last is not None:
            # As many frames away, by way of the same function. What is between is not looked at, for that makes an
            # object of each frame; it has been, and no detour is kept (see `_last`).
            depth, called, caller, at, known = last
            try:
                frame = sys._getframe(depth)
            except ValueError:
                pass
            else:
                outer = frame.f_back
                if frame.f_code is called and outer is not None:
                    code, instruction = outer.f_code, outer.f_lasti
                    if code is caller and instruction == at:
                        return known
                    if self._kinds.get(code.co_filename) == _APPLICATION:
                        return Place(Mark(code, instruction), None)
        frame = sys._getframe(1)
        place = self.find(frame)
        if place is not None and place.application is not None and place.library is None:
            self._last = _last(frame, place.application.code, place)
        return place

    def find_maker(self) -> Place | None:
        """The place that made the request under way.

        None also where the client's own ``request()`` made it, which reads the response before it
        returns, so that nobody can leave that open: most requests are spared the walk.
        """
        if self._sender:
            # As many frames away as it was the last time, or it is worth the walk.
            # sys._getframe(n) is quick: it makes no objects of the frames it passes.
            try:
                frame = sys._getframe(self._sender)
            except ValueError:
                pass
            else:
                if id(frame.f_code) in self._sends and frame.f_back and id(frame.f_back.f_code) in self._requests:
                    return None
        frame = sys._getframe(1)
        self._sender = self._depth_of_sender(frame)
        return self.find(frame)

    def _depth_of_sender(self, frame: FrameType | None) -> int:
        depth = 1
        while frame is not None and depth < 64:
            if id(frame.f_code) in self._sends:
                return depth
            frame, depth = frame.f_back, depth + 1
        return 0

    def knows_client(self, client: type) -> None:
        """*client* is a class like httpx's: ``request()`` calls ``send()``, and that reads unless it is to stream."""
        for name, known in (("send", self._sends), ("request", self._requests)):
            code = getattr(getattr(client, name, None), "__code__", None)
            if code is not None:
                # The code object is kept: so nobody else gets its id.
                known[id(code)] = code

    def _classify(self, filename: str) -> int:
        kind = self._kind(filename)
        # Code made at run time has endless names; nothing is gained by keeping all.
        if len(self._kinds) < 10_000:
            self._kinds[filename] = kind
        return kind

    def _kind(self, filename: str) -> int:
        if filename.startswith(("<frozen ", self._own)):
            return _SKIP
        path = filename.replace("\\", "/")
        if path.endswith(_LOOPS):
            return _LOOP
        parts = path.split("/")
        for folder in ("site-packages", "dist-packages"):
            if folder in parts:
                return self._package(parts[len(parts) - parts[::-1].index(folder) :])
        for root in self._installed:
            if filename.startswith(root):
                return self._package(filename[len(root) :].replace("\\", "/").split("/"))
        if filename.startswith(self._stdlib):
            return _SKIP
        return _APPLICATION

    def _package(self, parts: list[str]) -> int:
        name = parts[0].removesuffix(".py") if parts else ""
        if name in self._app_packages:
            return _APPLICATION
        return _SKIP if name in _PLUMBING else _LIBRARY


def text(mark: Mark | None) -> str | None:
    """``path:line in function``, the path from the nearest entry of `sys.path`."""
    if mark is None:
        return None
    code = mark.code
    # co_qualname is new in Python 3.11.
    return f"{_shortened(code.co_filename)}:{mark.line} in {getattr(code, 'co_qualname', code.co_name)}"


def _shortened(filename: str) -> str:
    best = ""
    for entry in sys.path:
        folder = _folder(entry or _here())
        if len(folder) > len(best) and filename.startswith(folder):
            best = folder
    # What is no text in a name cannot be exported either, nor what is in its batch.
    return filename[len(best) :].replace("\\", "/").encode(errors="replace").decode()


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        # The directory is gone, and so is what was imported from it.
        return os.sep


def _folder(path: str, levels: int = 0) -> str:
    for _ in range(levels):
        path = os.path.dirname(path)
    return os.path.join(path, "")
