# One scenario, written once, for every client there is. The scenario is a
# coroutine in all flavours. In the synchronous ones it is stepped through once,
# without an event loop: nothing in it ever waits for anything but a blocking
# call of the synchronous client, so the first step is the last.

"""One client for all flavours: {httpx, httpx2} x {sync, asyncio, uvloop, trio}."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import signal
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

from packaging.version import Version

T = TypeVar("T")
Scenario = Callable[..., Coroutine[Any, Any, T]]

LIBRARIES = ("httpx", "httpx2")
MODES = ("sync", "asyncio", "uvloop", "trio")


class Interrupt(BaseException):
    """What a signal's handler raises where there is no cancellation, like Ctrl-C."""


@functools.cache
def _any_context() -> ssl.SSLContext:
    # Made once: reading the system's certificates for each client would be most of the suite.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Flavour:
    """A library and a way to run it.

    Args:
        library: ``httpx`` or ``httpx2``.
        mode: ``sync``, ``asyncio``, ``uvloop`` or ``trio``.
    """

    def __init__(self, library: str, mode: str) -> None:
        self.library = library
        self.mode = mode
        self.sync = mode == "sync"
        self.httpx = importlib.import_module(library)
        self.httpcore = importlib.import_module(library.replace("httpx", "httpcore"))

    def __repr__(self) -> str:
        return f"{self.library}-{self.mode}"

    def before(self, name: str, release: str) -> bool:
        """Whether *name*, ``httpx`` or ``httpcore``, is what it runs on, in a version before *release*."""
        return self.httpx.__name__ == "httpx" and Version(version(name)) < Version(release)

    # Running.

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end."""
        if self.mode == "sync":
            return step(coroutine)
        if self.mode == "trio":
            trio = importlib.import_module("trio")

            async def main() -> T:
                return await coroutine

            return trio.run(main)  # type: ignore[no-any-return]
        # Not asyncio.Runner, which Python 3.10 does not have.
        anyio = importlib.import_module("anyio")

        async def awaited() -> T:
            return await coroutine

        return anyio.run(awaited, backend_options={"use_uvloop": self.mode == "uvloop"})  # type: ignore[no-any-return]

    async def sleep(self, seconds: float) -> None:
        """Let others run for *seconds*."""
        if self.mode == "sync":
            time.sleep(seconds)
        elif self.mode == "trio":
            await importlib.import_module("trio").sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], object], patience: float = 10) -> None:
        """Wait for what another thread will have done."""
        waited_until = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < waited_until, "waited in vain"
            await self.sleep(0.001)

    @asynccontextmanager
    async def together(self) -> Any:
        """Run several coroutines at once: ``async with flavour.together() as start: task = start(function, ...)``.

        Leaving the block waits for all of them, and raises what the first of them raised, unless
        somebody asked for its `Task.error`.
        """
        tasks: list[Task] = []
        if self.mode == "sync":
            threads = []

            def start(function: Scenario[Any], *args: Any) -> Task:
                task = Task()
                thread = threading.Thread(target=lambda: step(task.run(function, *args)), daemon=True)
                tasks.append(task)
                threads.append(thread)
                thread.start()
                return task

            yield start
            for thread in threads:
                thread.join()
        elif self.mode == "trio":
            async with importlib.import_module("trio").open_nursery() as nursery:

                def start(function: Scenario[Any], *args: Any) -> Task:
                    task = Task()
                    tasks.append(task)
                    nursery.start_soon(task.run, function, *args)
                    return task

                yield start
        else:
            running = []

            def start(function: Scenario[Any], *args: Any) -> Task:
                task = Task()
                tasks.append(task)
                running.append(asyncio.ensure_future(task.run(function, *args)))
                return task

            yield start
            await asyncio.gather(*running)
        for task in tasks:
            task.check()

    async def cancelled(self, function: Scenario[Any], *args: Any, when: Callable[[], object]) -> None:
        """Run *function* and cancel it once *when* holds and nothing moves any more."""
        if self.mode == "sync":
            await self._interrupted(function, *args, when=when)
        elif self.mode == "trio":
            await self._cancelled_on_trio(function, *args, when=when)
        else:
            anyio = importlib.import_module("anyio")
            task = asyncio.ensure_future(function(*args))
            await self.until(lambda: when() or task.done())
            await anyio.wait_all_tasks_blocked()
            assert task.cancel(), "it was over before it could be cancelled"
            try:
                await task
            except asyncio.CancelledError:
                return
            raise AssertionError("it went on in spite of its cancellation")

    async def _cancelled_on_trio(self, function: Scenario[Any], *args: Any, when: Callable[[], object]) -> None:
        trio = importlib.import_module("trio")
        over = False

        async def run() -> None:
            nonlocal over
            with scope:
                await function(*args)
            over = True

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await self.until(lambda: when() or over)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert scope.cancelled_caught, "it was over before it could be cancelled"

    async def _interrupted(self, function: Scenario[Any], *args: Any, when: Callable[[], object]) -> None:
        main = threading.get_ident()
        over = threading.Event()

        def interrupt(number: int, frame: object) -> None:
            raise Interrupt

        def send() -> None:
            while not when() or not _blocked(main):
                if over.wait(0.001):
                    return
            signal.pthread_kill(main, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, interrupt)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            await function(*args)
        except Interrupt:
            return
        finally:
            over.set()
            sender.join()
            signal.signal(signal.SIGUSR1, before)
        raise AssertionError("it was over before it could be interrupted")

    # Clients.

    def client(self, **options: Any) -> Client:
        """A client; besides its own options, ``uds=`` and ``retries=`` of its transport."""
        return Client(self, options)


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("a synchronous scenario awaited something")


def _blocked(thread: int) -> bool:
    # It stands at the same instruction for 20 ms: in a call that does not return.
    seen = set()
    for _ in range(10):
        frame = sys._current_frames()[thread]
        seen.add((id(frame), frame.f_lasti))
        del frame
        time.sleep(0.002)
    return len(seen) == 1


class Task:
    """A coroutine on its way."""

    def __init__(self) -> None:
        self.done = False
        self._value: Any = None
        self._error: BaseException | None = None

    async def run(self, function: Scenario[Any], *args: Any) -> None:
        """What runs: keeps what comes out."""
        try:
            self._value = await function(*args)
        except Exception as error:
            self._error = error
        self.done = True

    @property
    def value(self) -> Any:
        """What it returned."""
        self.check()
        return self._value

    @property
    def error(self) -> BaseException | None:
        """What it raised, which from here on is the caller's to deal with."""
        error, self._error = self._error, None
        return error

    def check(self) -> None:
        """Raise what it raised."""
        if self._error is not None:
            raise self._error


class Client:
    """A client with asynchronous methods, whatever is underneath."""

    def __init__(self, flavour: Flavour, options: dict[str, Any]) -> None:
        httpx = flavour.httpx
        self.flavour = flavour
        options = {"verify": _any_context(), "timeout": 10, "trust_env": False, **options}
        own: dict[str, Any] = {
            name: options.pop(name) for name in ("uds", "retries", "local_address") if name in options
        }
        if "proxy" in options and "proxy" not in inspect.signature(httpx.Client).parameters:
            # httpx 0.25: only transports know it.
            proxy = options.pop("proxy")
            if proxy is not None:
                own["proxy"] = httpx.Proxy(proxy) if isinstance(proxy, str) else proxy
        if own:
            for name in ("verify", "limits", "http2", "http1"):
                if name in options:
                    own[name] = options.pop(name)
            transport = httpx.HTTPTransport if flavour.sync else httpx.AsyncHTTPTransport
            options["transport"] = transport(**own)
        self.raw: Any = (httpx.Client if flavour.sync else httpx.AsyncClient)(**options)

    @property
    def pool(self) -> Any:
        """The pool that requests go to."""
        return self.raw._transport_for_url(self.flavour.httpx.URL("http://any.test/"))._pool

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it, with every connection."""
        await _maybe(self.raw.close() if self.flavour.sync else self.raw.aclose())

    async def get(self, url: str, **options: Any) -> Any:
        """GET, and read the body."""
        return await self.request("GET", url, **options)

    async def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request, and read the body."""
        return await _maybe(self.raw.request(method, url, **options))

    async def open(self, method: str, url: str, **options: Any) -> Response:
        """Send a request; the response's body is yet to be read."""
        request = self.raw.build_request(method, url, **options)
        return Response(self.flavour, await _maybe(self.raw.send(request, stream=True)))

    def stream(self, method: str, url: str, **options: Any) -> _Stream:
        """As the client's own ``stream``: a block that closes the response."""
        return _Stream(self.flavour, self.raw.stream(method, url, **options))


class _Stream:
    def __init__(self, flavour: Flavour, manager: Any) -> None:
        self._flavour = flavour
        self._manager = manager

    async def __aenter__(self) -> Response:
        manager = self._manager
        return Response(self._flavour, manager.__enter__() if self._flavour.sync else await manager.__aenter__())

    async def __aexit__(self, *exc_info: Any) -> Any:
        manager = self._manager
        return manager.__exit__(*exc_info) if self._flavour.sync else await manager.__aexit__(*exc_info)


class Response:
    """A response whose body is read on demand."""

    def __init__(self, flavour: Flavour, raw: Any) -> None:
        self.flavour = flavour
        self.raw = raw

    async def read(self) -> bytes:
        """The rest of the body."""
        return await _maybe(self.raw.read() if self.flavour.sync else self.raw.aread())  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close it."""
        await _maybe(self.raw.close() if self.flavour.sync else self.raw.aclose())

    def parts(self) -> Parts:
        """The body's parts as they come, to be iterated once."""
        return Parts(self.raw.iter_raw() if self.flavour.sync else self.raw.aiter_raw())


class Parts:
    """The parts of a body. No generator: what breaks off the iteration is the client's own alone."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        if isinstance(self._parts, Iterator):
            try:
                return next(self._parts)  # type: ignore[no-any-return]
            except StopIteration:
                raise StopAsyncIteration from None
        return await self._parts.__anext__()  # type: ignore[no-any-return]


async def _maybe(result: Any) -> Any:
    return await result if isinstance(result, Awaitable) else result
