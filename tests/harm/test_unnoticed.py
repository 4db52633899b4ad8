"""What an application could notice of us: signatures, imports, its own exceptions, what is left after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import logging
import os
import pickle
import signal
import socket
import ssl
import subprocess
import sys
import threading
import traceback
import types
import unittest.mock
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pytest
from kit.clients import Flavour
from kit.http2 import H2Server
from kit.server import Server
from kit.telemetry import Telemetry, patchable
from opentelemetry.sdk.trace import SpanProcessor
from torture.injection import Injection, Place

from otel_httptrace import HTTPTraceInstrumentor
from otel_httptrace.adapters.httpcore.observer import Observer
from otel_httptrace.adapters.httpcore.trace_events import TraceEvents
from otel_httptrace.guard import Guard, interrupted
from otel_httptrace.observe.lifetime import Lifetime
from otel_httptrace.observe.lookalike import lookalike
from otel_httptrace.observe.patches import Patches
from otel_httptrace.observe.resolver import Resolver


class Struck(Exception):
    """The application's own, raised by its signal handler."""


def _introspected(function: Any) -> dict[str, Any]:
    # `inspect.signature` follows `__wrapped__`; the others look at the function itself.
    code = getattr(function, "__code__", None)
    return {
        "signature": inspect.signature(function),
        "own signature": inspect.signature(function, follow_wrapped=False),
        "argspec": inspect.getfullargspec(function),
        "kinds": [
            ask(function)
            for ask in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
        ],
        "asyncio": asyncio.iscoroutinefunction(function) if sys.version_info < (3, 14) else None,
        "names": (function.__name__, function.__qualname__, function.__module__, function.__doc__),
        "defaults": (function.__defaults__, function.__kwdefaults__, function.__annotations__),
        "parameters": code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code is not None else None,
    }


async def test_everything_introspection_sees_of_a_replaced_callable_equals_the_originals(
    flavour: Flavour, server: Server, bare_telemetry: Telemetry
) -> None:
    """Signature, parameters, defaults, kind, names and docstring of whatever is replaced are the original's."""
    before = patchable()
    bare_telemetry.instrument()
    async with flavour.client() as client:
        await client.get(server.url(host="localhost"))
    owners = {
        (owner, name): value
        for (owner, name), value in before.changes().items()
        if "opentelemetry" not in str(getattr(value, "_self_wrapper", ""))
    }
    ours = {key: value for key, value in owners.items() if isinstance(value, types.FunctionType)}
    assert len(ours) >= 10
    for key, value in ours.items():
        owner, name = key
        original = before[owner].get(name)
        if isinstance(original, types.FunctionType):
            assert _introspected(value) == _introspected(original), key


def _positional_only(one: int, two: str = "2", /, three: float = 3.0, *rest: int, four: int = 4, **more: int) -> Any:
    """Everything a signature can have."""
    return one, two, three, rest, four, more


async def _coroutine(one: int, *, two: int = 2) -> Any:
    return one, two


async def _asynchronous_generator(one: int) -> Any:
    yield one


def _generator(one: int) -> Any:
    yield one
    return 5


@pytest.mark.parametrize("original", [_positional_only, _coroutine, _asynchronous_generator, _generator])
def test_a_hook_takes_on_any_signature_there_is(original: Any) -> None:
    """A generic hook looks like whatever function it stands in for, and passes on what it is given."""
    hook = lookalike(lambda *args, **kwargs: original(*args, **kwargs), original)  # noqa: PLW0108 - a generic one
    assert _introspected(hook) == _introspected(original)
    if original is _positional_only:
        assert hook(1, "b", 3.5, 9, four=7, five=5) == (1, "b", 3.5, (9,), 7, {"five": 5})
    if original is _coroutine:
        assert asyncio.run(hook(1, two=3)) == (1, 3)


def test_a_traceback_through_a_hook_quotes_no_other_code() -> None:
    """A function made for a hook's signature is in tracebacks as ours, without a line of source: it has none."""

    def fails(*args: Any, **options: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        lookalike(fails, _positional_only)(1, "b", five=5)
    (made,) = [one for one in traceback.extract_tb(caught.tb) if one.filename.endswith("<made>")]
    assert (made.name, made.line) == ("standing_in", "")


async def test_the_iterator_of_a_body_is_of_the_type_it_was(
    flavour: Flavour, server: Server, telemetry: Telemetry
) -> None:
    """The pool's body iterator is a generator, asynchronous where it was, with `aclose`, `asend` and `ag_running`."""
    core = flavour.httpcore
    if flavour.sync:
        with core.ConnectionPool() as pool, pool.stream("GET", server.url()) as response:
            parts = iter(response.stream)
            assert type(parts) is types.GeneratorType
            assert b"".join(parts)
    else:
        async with core.AsyncConnectionPool() as pool, pool.stream("GET", server.url()) as response:
            parts = response.stream.__aiter__()
            assert type(parts) is types.AsyncGeneratorType
            assert not parts.ag_running
            assert b"".join([part async for part in parts])
            await parts.aclose()


async def test_a_loop_knows_the_generators_that_it_knows_without_us(
    flavour: Flavour, server: Server, bare_telemetry: Telemetry
) -> None:
    """A body that is read makes as many asynchronous generators known to the event loop as without us."""
    met: list[Any] = []

    async def read() -> list[str]:
        former = sys.get_asyncgen_hooks()
        async with flavour.client() as client:
            response = await client.open("GET", server.url())
            met.clear()
            sys.set_asyncgen_hooks(firstiter=met.append)
            try:
                assert b"".join([part async for part in response.parts()]) == b"hello"
            finally:
                sys.set_asyncgen_hooks(*former)
            await response.close()
        return [one.__qualname__ for one in met]

    bare = await read()
    bare_telemetry.instrument()
    assert await read() == bare
    assert ("PoolByteStream.__aiter__" in bare) is not flavour.sync


def test_a_loop_that_ends_closes_bodies_left_half_read(server: Server, bare_telemetry: Telemetry) -> None:
    """Twenty bodies are left in their midst as the loop ends: nothing is told to its exception handler."""
    # Not of httpx2: its own generators close one another, so that the loop complains of them without us.
    said, kept = list[Any](), list[Any]()
    bare_telemetry.instrument()

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["message"]))
        client = httpx.AsyncClient()
        kept.append(client)
        for _ in range(20):
            response = await client.send(client.build_request("GET", server.url("/half")), stream=True)
            parts = response.aiter_bytes()
            assert await parts.__anext__()
            kept.append(parts)

    try:
        asyncio.run(leave())
    finally:
        server.go.set()
    assert said == []
    kept.clear()
    gc.collect()
    assert len(bare_telemetry.requests()) == 20


@pytest.mark.parametrize("core", [httpcore, httpcore2], ids=lambda core: core.__name__)
def test_copies_and_pickles_of_a_pool_are_as_without_us(core: Any, server: Server, telemetry: Telemetry) -> None:
    """A pool that was used and closed is copied and pickled as it would be, and the pickle needs nothing of ours."""

    async def use() -> Any:
        pool = core.AsyncConnectionPool()
        await pool.request("GET", server.url())
        await pool.aclose()
        return pool

    used = asyncio.run(use())
    handle = vars(used)["_otel_httptrace"]
    assert set(vars(copy.deepcopy(used))) == set(vars(used))
    assert set(vars(copy.copy(used))) == set(vars(used))
    assert copy.deepcopy(handle) is None
    assert b"otel" not in pickle.dumps(handle)


def _passing_on(original: Callable[..., Any]) -> Callable[..., Any]:
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        return await original(*args, **kwargs)

    def mock(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return functools.wraps(original)(asynchronous if inspect.iscoroutinefunction(original) else mock)


@pytest.mark.parametrize("instrumented", ["before", "within"])
async def test_a_hook_that_goes_with_a_mock_of_the_applications_is_put_there_anew(
    flavour: Flavour, server: Server, bare_telemetry: Telemetry, instrumented: str
) -> None:
    """A mock that stood there first, as respx's and vcrpy's do, takes our hook along as it ends: requests are told in full again."""
    prefix, handle = ("", "handle_request") if flavour.sync else ("Async", "handle_async_request")
    url = server.url(host="localhost")
    before = patchable()
    if instrumented == "before":
        bare_telemetry.instrument()
    with contextlib.ExitStack() as mocks:
        for owner, name in (
            (getattr(flavour.httpcore, f"{prefix}HTTPConnection"), handle),
            (getattr(flavour.httpcore, f"{prefix}ConnectionPool"), handle),
            (socket, "getaddrinfo"),
        ):
            mocks.enter_context(unittest.mock.patch.object(owner, name, _passing_on(getattr(owner, name))))
        if instrumented == "within":
            bare_telemetry.instrument()
        async with flavour.client() as client:
            await client.get(url)
    for _ in range(3):
        async with flavour.client() as client:
            await client.get(url)
    # Where the hook of pools went, it is the dial of the first request after it that tells.
    for told in bare_telemetry.requests()[-3 if instrumented == "before" else -2 :]:
        assert {"httptrace.conn.id", "httptrace.time.dns", "httptrace.body.outcome"} <= set(told.attributes or {})
    bare_telemetry.uninstrument()
    assert before.changes() == {}


_MODULES = """
import sys
print(*sorted(name for name in sys.modules if not name.startswith("otel_httptrace")))
"""


def _instrumented(
    program: Path, *, without_us: bool, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    # FastAPI's instrumentation imports anyio by itself.
    others = "fastapi,asgi"
    environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = f"{others},httptrace" if without_us else others
    command = [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, *arguments, str(program)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50, cwd=program.parent)


def test_nothing_is_imported_that_the_program_did_not_import(tmp_path: Path) -> None:
    """At the program's first line `sys.modules` has what it has with upstream's instrumentation alone."""
    program = tmp_path / "program.py"
    program.write_text(_MODULES)
    alone, ours = (_instrumented(program, without_us=without) for without in (True, False))
    assert (alone.returncode, ours.returncode) == (0, 0), ours.stderr
    # With us turned off opentelemetry-instrument loads our module as far as it takes to see that.
    more = set(ours.stdout.split()) - set(alone.stdout.split())
    # The standard library's own table of its paths, which most clients have it read anyway.
    assert {name for name in more if not name.startswith("_sysconfigdata")} == set()


def test_pytest_with_warnings_as_errors_starts(tmp_path: Path) -> None:
    """`opentelemetry-instrument python -m pytest -W error` starts: nothing is imported before pytest rewrites it."""
    tests = tmp_path / "test_it.py"
    tests.write_text("import anyio, httpx\ndef test_it():\n    assert httpx.Client().is_closed is False or anyio\n")
    arguments = ("-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", "-q")
    done = _instrumented(tests, without_us=False, arguments=arguments)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def struck() -> Iterator[None]:
    """A signal handler of the application's that raises its own exception."""

    def handler(number: int, frame: Any) -> None:
        raise Struck

    former = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, former)


@pytest.mark.parametrize("name", ["begin", "assigned", "answered", "finish", "body_closing", "stream_closing"])
@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_what_a_signal_handler_raises_inside_a_hook_is_the_applications(
    library: Any, name: str, server: Server, struck: None, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives as itself; nothing is left under way, and the next request is told in full."""
    owner = Lifetime if name == "finish" else next(cls for cls in Observer.__mro__ if name in vars(cls))
    original, strikes = vars(owner)[name], [1]

    def interrupted_hook(*args: Any) -> Any:
        result = original(*args)
        if strikes:
            strikes.pop()
            signal.raise_signal(signal.SIGUSR1)
        return result

    # As if it were in a file of ours: the frame that the signal interrupts.
    interrupted_hook.__code__ = interrupted_hook.__code__.replace(co_filename=original.__code__.co_filename)
    interrupted_hook.__name__ = name
    monkeypatch.setattr(owner, name, interrupted_hook)
    bare_telemetry.instrument()
    with library.Client() as client:
        with pytest.raises(Struck), client.stream("GET", server.url()):
            pass
        client.get(server.url())
        client.get(server.url())
    assert not strikes
    lifetime = HTTPTraceInstrumentor()._lifetime
    assert lifetime is not None
    assert list(lifetime.process.exchanges) == []
    assert bare_telemetry.column("httptrace.body.outcome")[-2:] == ["complete", "complete"]
    assert bare_telemetry.column("http.conn.reused")[-1] is True


def test_an_exception_set_from_another_thread_is_the_applications() -> None:
    """It has no frame of its own: what our code could not have raised is not taken for ours."""
    own = compile("def hook(error):\n    raise error\n", inspect.getfile(Observer), "exec")
    namespace: dict[str, Any] = {}
    exec(own, namespace)
    for error, expected in ((Struck(), True), (KeyError(), False), (OSError(), False)):
        with pytest.raises(type(error)) as raised:
            namespace["hook"](error)
        entry = raised.value.__traceback__
        raised.value.__traceback__ = entry.tb_next if entry is not None else None
        assert interrupted(raised.value) is expected


@pytest.mark.contained
def test_after_a_fault_of_ours_telemetry_is_whole_again(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook of ours that fails once is logged once, and the next request is told in full."""
    original, faults = Observer.answered, [1]

    def answered(*args: Any) -> Any:
        if faults:
            faults.pop()
            raise ZeroDivisionError
        return original(*args)

    monkeypatch.setattr(Observer, "answered", answered)
    bare_telemetry.instrument()
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(server.url()).status_code == 200
    assert bare_telemetry.column("httptrace.body.outcome") == [None, "complete", "complete"]
    assert [record.levelno for record in caplog.records if record.name == "otel_httptrace"] == [logging.ERROR]


@pytest.mark.contained
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(Observer, "created", id="the pool's"),
        pytest.param(Resolver, "_begin", id="the connection's"),
        pytest.param(TraceEvents, "_note", id="http2's"),
    ],
)
def test_a_log_handler_that_makes_requests_waits_for_no_lock_of_the_clients(
    owner: type,
    name: str,
    h2_server: Callable[..., H2Server],
    client_tls: ssl.SSLContext,
    bare_telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault within the pool's or a connection's lock is logged, and the handler may use the same client for it."""
    original, faults, answers = vars(owner)[name], [1], list[int]()
    server = h2_server()

    def fails(*args: Any) -> Any:
        if faults:
            faults.pop()
            raise ZeroDivisionError
        return original(*args)

    fails.__name__ = name
    monkeypatch.setattr(owner, name, fails)
    bare_telemetry.instrument()

    class Sends(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "otel_httptrace":
                answers.append(client.get(server.url(host="localhost")).status_code)

    def use() -> None:
        for _ in range(2):
            assert client.get(server.url(host="localhost")).status_code == 200

    logger, handler = logging.getLogger("otel_httptrace"), Sends()
    logger.addHandler(handler)
    client = httpx.Client(http2=True, verify=client_tls)
    try:
        # Not this thread: it would wait for ever, and so would a close of the client.
        user = threading.Thread(target=use, daemon=True)
        user.start()
        user.join(10)
        assert not user.is_alive()
    finally:
        logger.removeHandler(handler)
    client.close()
    assert (faults, answers) == ([], [200])


@pytest.mark.contained
def test_what_a_span_processor_raises_pauses_nothing_of_ours(server: Server, bare_telemetry: Telemetry) -> None:
    """A processor that fails in `on_end` costs nobody an attribute, however often it does."""

    class Failing(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            pass

        def _on_ending(self, span: Any) -> None:
            pass

        def on_end(self, span: Any) -> None:
            raise RuntimeError("a processor's own")

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    bare_telemetry.tracer_provider.add_span_processor(Failing())
    bare_telemetry.instrument()
    with httpx.Client() as client:
        for _ in range(20):
            assert client.get(server.url()).status_code == 200
    assert bare_telemetry.column("httptrace.body.outcome") == ["complete"] * 20


@pytest.mark.parametrize("faults", [1, 2, 9, 10])
def test_a_hook_that_fails_pauses_and_is_off_for_good_only_after_ten_in_a_row(
    faults: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault pauses nothing, the second pauses it for one call, each further one for twice as many, and the tenth ends it."""
    monkeypatch.setattr(Guard, "loud", False)
    guard, called = Guard(), list[int]()
    own = compile(
        "def hook(called, faults):\n    called.append(1)\n    if len(called) <= faults:\n        raise KeyError\n    return 'well'\n",
        inspect.getfile(Guard),
        "exec",
    )
    namespace: dict[str, Any] = {}
    exec(own, namespace)
    answers = [guard(namespace["hook"], called, faults) for _ in range(600)]
    assert ("well" in answers) is (faults < 10)
    if faults < 10:
        assert answers.index("well") == faults + sum([1, 2, 4, 8, 16, 32, 50, 50][: faults - 1])
        assert set(answers[answers.index("well") :]) == {"well"}
    assert len(caplog.records) == (1 if faults < 10 else 2)


@pytest.mark.contained
def test_a_signal_handler_that_makes_a_request_does_not_wait_for_a_lock_of_ours(
    server: Server, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a count is added, a signal handler of the application's makes a whole request, and both are counted."""
    from otel_httptrace.telemetry.metrics import Metrics

    original, once = vars(Metrics)["_use"], [1]
    with httpx.Client() as outer, httpx.Client() as inner:

        def handler(number: int, frame: object) -> None:
            inner.get(server.url(host="localhost"))

        former = signal.signal(signal.SIGUSR1, handler)

        def use(*args: Any) -> Any:
            if once:
                once.pop()
                signal.raise_signal(signal.SIGUSR1)
            return original(*args)

        monkeypatch.setattr(Metrics, "_use", use)
        try:
            outer.get(server.url())
        finally:
            signal.signal(signal.SIGUSR1, former)
    assert not once
    assert telemetry.counted("httptrace.requests", "http.conn.reused") == {False: 2}


def test_a_directory_that_is_gone(
    server: Server, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `''` in `sys.path` and the working directory deleted, a body closed early is told with its line."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(gone)
    gone.rmdir()
    with httpx.Client() as client, client.stream("GET", server.url()):
        pass
    monkeypatch.undo()
    (closed_at,) = telemetry.column("httptrace.body.closed_at")
    assert "test_unnoticed.py" in closed_at


def test_a_request_that_begins_as_instrumentation_ends_is_not_under_way_for_ever(
    server: Server, bare_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`uninstrument()` between a request's first look at the observer and its note leaves nothing behind."""
    original: Callable[..., Any] = Observer._adopt
    before = patchable()

    def adopt(*args: Any) -> Any:
        ledger = original(*args)
        bare_telemetry.uninstrument()
        return ledger

    bare_telemetry.instrument()
    monkeypatch.setattr(Observer, "_adopt", adopt)
    lifetime = HTTPTraceInstrumentor()._lifetime
    with httpx.Client() as client:
        assert client.get(server.url()).status_code == 200
    assert lifetime is not None
    assert lifetime.at_rest
    assert before.changes() == {}


def test_classes_made_at_run_time_are_not_kept(server: Server, telemetry: Telemetry) -> None:
    """A class of connections or streams that the program makes and drops is collected, though we hooked it."""

    def used() -> list[weakref.ref[type]]:
        class Stream(httpcore._sync.connection_pool.PoolByteStream):
            def __iter__(self) -> Iterator[bytes]:
                yield from super().__iter__()

        class Connection(httpcore.HTTPConnection):
            def handle_request(self, request: httpcore.Request) -> httpcore.Response:
                # What the pool wraps once more.
                return super().handle_request(request)

        class Pool(httpcore.ConnectionPool):
            def create_connection(self, origin: httpcore.Origin) -> Any:
                return Connection(origin=origin)

            def handle_request(self, request: httpcore.Request) -> httpcore.Response:
                return super().handle_request(request)

        adapter: Any = HTTPTraceInstrumentor()._adapters["httpcore"]
        adapter._know_body(Stream)
        with Pool() as pool:
            pool.request("GET", server.url())
        return [weakref.ref(cls) for cls in (Stream, Connection, Pool)]

    references = [reference for _ in range(20) for reference in used()]
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


class _Interruption(BaseException):
    """What a signal handler of the application's raises."""


def test_a_patch_that_is_interrupted_is_undone_all_the_same() -> None:
    """Whatever comes in between in a replacement, a second one takes place, and all is as before in the end."""

    class Owner:
        def method(self) -> str:
            return "original"

    def interrupt(place: Place) -> None:
        raise _Interruption

    def make(original: Callable[..., str]) -> Callable[..., str]:
        return lambda self: "replaced"

    original, made = vars(Owner)["method"], 0
    for number in range(1, 5000):
        patches = Patches()
        injection = Injection(interrupt, number)
        try:
            with injection:
                patches.replace(Owner, "method", make)
        except _Interruption:
            made += 1
        else:
            break
        patches.replace(Owner, "method", make)
        assert Owner().method() == "replaced"
        patches.restore()
        assert vars(Owner)["method"] is original
    assert made == injection.count > 20, made
