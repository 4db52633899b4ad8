"""The application's line, and the library's in between. Native clients: a facade of ours would be the application."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import requests
from kit.matchers import Like
from kit.server import Server
from kit.telemetry import Telemetry, attributes
from opentelemetry.sdk.trace import ReadableSpan

from otel_httptrace.callsite import CallSite, text

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])

SDK = """
def fetch(client, url):
    with client.stream("GET", url) as response:
        return response.status_code


def leak(client, url):
    return client.send(client.build_request("GET", url), stream=True)
"""


def line(offset: int = 0) -> int:
    """The caller's line."""
    return sys._getframe(1).f_lineno + offset


def closed(span: ReadableSpan) -> tuple[Any, Any]:
    """Where it was closed, and via what."""
    said = attributes(span)
    return said.get("httptrace.body.closed_at"), said.get("httptrace.body.closed_via")


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An installed package that is built on httpx."""
    package = tmp_path / "site-packages" / "some_sdk"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SDK)
    monkeypatch.syspath_prepend(str(package.parent))
    yield importlib.import_module("some_sdk")
    del sys.modules["some_sdk"]


@LIBRARIES
def test_closed_at_is_the_line_that_closed_the_response(library: Any, server: Server, telemetry: Telemetry) -> None:
    """`closed_at` is the line that closed the response, its path from the nearest entry of `sys.path`."""
    with library.Client() as client:
        response = client.send(client.build_request("GET", server.url()), stream=True)
        response.close()
        where = line(-1)

    assert closed(telemetry.request()) == (
        f"test_callsite.py:{where} in test_closed_at_is_the_line_that_closed_the_response",
        None,
    )


@LIBRARIES
def test_leaving_a_with_block(library: Any, server: Server, telemetry: Telemetry) -> None:
    """On leaving a `with` block it is the line of that block."""
    with library.Client() as client:
        where = line(1)
        with client.stream("GET", server.url()) as response:
            assert response.status_code == 200

    assert closed(telemetry.request())[0] in (
        f"test_callsite.py:{where} in test_leaving_a_with_block",
        f"test_callsite.py:{where + 1} in test_leaving_a_with_block",
    )


@LIBRARIES
def test_closed_at_names_the_coroutine_that_closed_it(library: Any, server: Server, telemetry: Telemetry) -> None:
    """Asynchronously, too: the coroutine that closed it, with its qualified name."""
    wheres = []

    class Service:
        async def call(self) -> None:
            async with library.AsyncClient() as client:
                response = await client.send(client.build_request("GET", server.url()), stream=True)
                await response.aclose()
                wheres.append(line(-1))

    asyncio.run(Service().call())

    name = (
        "test_closed_at_names_the_coroutine_that_closed_it.<locals>.Service.call"
        if sys.version_info >= (3, 11)
        else "call"
    )
    assert closed(telemetry.request()) == (f"test_callsite.py:{wheres[0]} in {name}", None)


@LIBRARIES
def test_breaking_off_an_iteration(library: Any, server: Server, telemetry: Telemetry) -> None:
    """A `break` within a `with` block: closed where the block is left."""
    with library.Client() as client:
        first = line(1)
        with client.stream("GET", server.url("/half")) as response:
            for _ in response.iter_raw():
                break
        last = line(-1)

    where = closed(telemetry.request())[0]
    assert where in {
        f"test_callsite.py:{number} in test_breaking_off_an_iteration" for number in range(first, last + 1)
    }


@LIBRARIES
def test_a_library_in_between(library: Any, server: Server, telemetry: Telemetry, sdk: ModuleType) -> None:
    """An SDK built on httpx closed it: `closed_at` is who called the SDK, `closed_via` the SDK's own line."""
    with library.Client() as client:
        sdk.fetch(client, server.url())
        where = line(-1)

    assert closed(telemetry.request()) == (
        f"test_callsite.py:{where} in test_a_library_in_between",
        Like(r"some_sdk/__init__\.py:[34] in fetch"),
    )


@LIBRARIES
@pytest.mark.settings(app_packages=("some_sdk",))
def test_an_installed_package_that_is_the_application(
    library: Any, server: Server, telemetry: Telemetry, sdk: ModuleType
) -> None:
    """A package named in `app_packages` is the application."""
    with library.Client() as client:
        sdk.fetch(client, server.url())

    assert closed(telemetry.request()) == (Like(r"some_sdk/__init__\.py:[34] in fetch"), None)


@LIBRARIES
def test_without_an_application_the_first_library_is_named(
    library: Any, server: Server, telemetry: Telemetry, sdk: ModuleType
) -> None:
    """With no application on the stack it is the first library that is no plumbing."""
    with library.Client() as client:
        thread = threading.Thread(target=sdk.fetch, args=(client, server.url()))
        thread.start()
        thread.join()

    assert closed(telemetry.request()) == (Like(r"some_sdk/__init__\.py:[34] in fetch"), None)


@LIBRARIES
def test_closed_at_of_a_leak_is_the_line_of_the_request(
    library: Any, server: Server, telemetry: Telemetry, sdk: ModuleType
) -> None:
    """For `never_closed` it is the line that made the request."""
    with library.Client() as client:
        client.send(client.build_request("GET", server.url("/half")), stream=True)
        where = line(-1)
        gc.collect()
        sdk.leak(client, server.url("/half"))
        other = line(-1)
        gc.collect()
        client.get(server.url())

    first, second, _ = telemetry.requests()
    assert closed(first) == (f"test_callsite.py:{where} in test_closed_at_of_a_leak_is_the_line_of_the_request", None)
    assert closed(second) == (
        f"test_callsite.py:{other} in test_closed_at_of_a_leak_is_the_line_of_the_request",
        Like(r"some_sdk/__init__\.py:\d+ in leak"),
    )


@pytest.mark.settings(code_location=False)
def test_no_line_is_told_without_code_location(server: Server, telemetry: Telemetry) -> None:
    """`code_location=False`: no line anywhere, not even on links."""
    with httpx.Client() as client:
        client.send(client.build_request("GET", server.url()), stream=True).close()
        client.get(server.url())
        client.send(client.build_request("GET", server.url("/half")), stream=True)
        gc.collect()

    telemetry.metrics()
    said = [*map(attributes, telemetry.spans())]
    said += [dict(link.attributes or {}) for span in telemetry.spans() for link in span.links]
    assert [name for one in said for name in one if "closed_at" in name or "closed_via" in name] == []


def test_no_frame_is_kept(server: Server, telemetry: Telemetry) -> None:
    """Knowing the line of a request does not keep the locals of its caller alive."""

    class Big:
        pass

    with httpx.Client() as client:

        def call() -> tuple[Any, Any]:
            big = Big()
            response = client.send(client.build_request("GET", server.url("/half")), stream=True)
            return response, weakref.ref(big)

        response, big = call()
        gc.collect()
        assert big() is None
        response.close()


# The function itself.


def test_find_takes_any_frame() -> None:
    """`find` is total: no frame at all, and code that came from nowhere."""
    assert CallSite().find(None) is None
    frames: list[Any] = []
    exec(
        compile("def made():\n    keep(get(0))\nmade()", "<string>", "exec"),
        {"keep": frames.append, "get": sys._getframe},
    )
    place = CallSite().find(frames[0])
    assert place is not None
    assert text(place.application) == "<string>:2 in made"
    assert text(None) is None


def test_each_of_many_requests_has_its_own_line(server: Server, telemetry: Telemetry) -> None:
    """Of responses dropped one after the other, by several ways to the same client, each names its own line."""

    def through(session: requests.Session) -> None:
        session.get(server.url(), stream=True)

    class Sending(requests.adapters.HTTPAdapter):
        def send(self, *arguments: Any, **more: Any) -> Any:
            return super().send(*arguments, **more)

    with requests.Session() as session, requests.Session() as adapted:
        session.trust_env = adapted.trust_env = False
        adapted.mount("http://", Sending())
        wanted = []
        for _ in range(2):
            session.get(server.url(), stream=True)
            session.post(server.url(), stream=True)
            wanted += [line(-2), line(-1)]
            for _ in range(2):
                session.get(server.url(), stream=True)
                wanted.append(line(-1))
            through(session)
            session.get(server.url("/redirect"), stream=True)
            adapted.get(server.url(), stream=True)
            wanted += [through.__code__.co_firstlineno + 1, line(-2), Sending.send.__code__.co_firstlineno + 1]
        # What the collector has found is told of with the next request.
        session.get(server.url())
    *spans, _ = telemetry.requests()
    assert [attributes(span)["httptrace.body.closed_at"].split()[0] for span in spans] == [
        f"test_callsite.py:{number}" for number in wanted
    ]


def test_the_standard_library_is_skipped() -> None:
    """Frames of the standard library are neither the application nor a library in between."""
    import contextlib

    places = []

    class Closing:
        def close(self) -> None:
            places.append(CallSite().find(sys._getframe(1)))

    def leave() -> None:
        with contextlib.closing(Closing()):
            pass

    leave()
    (place,) = places
    assert place is not None and place.library is None
    within = r"test_the_standard_library_is_skipped\.<locals>\." if sys.version_info >= (3, 11) else ""
    assert text(place.application) == Like(rf"test_callsite\.py:\d+ in {within}leave")


def test_paths_begin_at_the_nearest_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several entries of `sys.path` that a file is under, the nearest one counts; elsewhere the whole path."""
    inner = tmp_path / "app"
    inner.mkdir()
    (inner / "code.py").touch()
    frames: list[Any] = []
    source = compile("keep(get(0))", str(inner / "code.py"), "exec")
    exec(source, {"keep": frames.append, "get": sys._getframe})
    place = CallSite().find(frames[0])
    assert place is not None

    monkeypatch.setattr(sys, "path", [])
    assert text(place.application) == f"{inner}/code.py:1 in <module>"
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert text(place.application) == "app/code.py:1 in <module>"
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(inner)])
    assert text(place.application) == "code.py:1 in <module>"
    monkeypatch.setattr(sys, "path", [""])
    monkeypatch.chdir(tmp_path)
    assert text(place.application) == "app/code.py:1 in <module>"
