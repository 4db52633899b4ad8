"""One instrumentor, and one server of each kind, for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from kit.servers import Running, Seen, running, sharing


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Instrumented, for the module."""
    seen = Seen()
    seen.instrument()
    yield seen
    seen.shutdown()


@pytest.fixture(autouse=True)
def _uncomplaining(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An event loop tells its log of what callbacks raise: none of ours does."""
    yield
    told = [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"]
    assert [text for text in told if "otel_httptrace" in text] == []


@pytest.fixture(scope="module")
def shared(seen: Seen) -> Iterator[Callable[..., Running]]:
    """A server of a kind and with these options: the same one for all tests of the module."""
    with sharing(seen) as server:
        yield server


@pytest.fixture
def fresh(seen: Seen) -> Iterator[Callable[..., Running]]:
    """A server of a kind and with these options, for one test."""
    with ExitStack() as stack:
        yield lambda kind, **options: stack.enter_context(running(seen, kind, **options))
