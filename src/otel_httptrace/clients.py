# Everything outside `adapters/` that has to know a client library by name reads it here: the
# instrumentor, the command line, the search for the line of user code. To add a client is to add
# an entry here and a folder in `adapters/`; tests/test_architecture.py holds that.
#
# Only the standard library is imported, and no client: this is read while a program starts.

"""The HTTP client libraries that are observed, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple


class Timeouts(NamedTuple):
    """The names of a client's timeout exceptions, by the phase that took too long; empty where it has none."""

    pool: str
    connect: str
    read: str
    write: str


class Upstream(NamedTuple):
    """The OpenTelemetry instrumentation that makes the request spans.

    Args:
        distribution: what to install.
        minimum: the first version that instruments this client, as a version specifier.
        scope: the name of its tracer, which its spans carry.
        module: where its instrumentor class is.
        instrumentor: the name of that class.
        entry_point: its name for `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`.
        excluded_urls: its variable for URLs that get no span.
    """

    distribution: str
    minimum: str
    scope: str
    module: str
    instrumentor: str
    entry_point: str
    excluded_urls: str


@dataclass(frozen=True)
class Client:
    """One client library.

    Args:
        name: of its distribution and of its module.
        core: the distribution, and module, that has its connection pool.
        supported: the versions of ``core`` whose structure was read and is tested.
        classes: the client classes that applications use.
        plumbing: modules that lie between the pool and the application, on the stack.
        timeouts: what its timeouts are called.
        upstream: what makes its request spans.
    """

    name: str
    core: str
    supported: str
    classes: tuple[str, ...]
    plumbing: tuple[str, ...]
    timeouts: Timeouts
    upstream: Upstream

    @property
    def distributions(self) -> tuple[str, ...]:
        """Everything that has to be installed for it to be observed, but for our own package."""
        return tuple(dict.fromkeys((self.name, self.core, self.upstream.distribution)))

    @property
    def requirement(self) -> str:
        """``core`` in the versions supported, as opentelemetry-instrument compares it with what is installed."""
        return f"{self.core} {self.supported.replace('>=', '>= ').replace(',<', ', < ')}"


_TIMEOUTS: Final = Timeouts(pool="PoolTimeout", connect="ConnectTimeout", read="ReadTimeout", write="WriteTimeout")
_HTTPX: Final = Upstream(
    distribution="opentelemetry-instrumentation-httpx",
    minimum=">=0.65b0",
    scope="opentelemetry.instrumentation.httpx",
    module="opentelemetry.instrumentation.httpx",
    instrumentor="HTTPXClientInstrumentor",
    entry_point="httpx",
    excluded_urls="OTEL_PYTHON_HTTPX_EXCLUDED_URLS",
)

CLIENTS: Final[tuple[Client, ...]] = (
    Client(
        name="httpx",
        core="httpcore",
        supported=">=1.0.3,<2",
        classes=("Client", "AsyncClient"),
        plumbing=("httpx", "httpcore"),
        timeouts=_TIMEOUTS,
        upstream=_HTTPX,
    ),
    Client(
        name="httpx2",
        core="httpcore2",
        supported=">=2",
        classes=("Client", "AsyncClient"),
        plumbing=("httpx2", "httpcore2"),
        timeouts=_TIMEOUTS,
        # One instrumentation and one scope for both; 0.65b0 is the first that has this class.
        upstream=_HTTPX._replace(instrumentor="HTTPX2ClientInstrumentor", entry_point="httpx2"),
    ),
)


def named(conjunction: str) -> str:
    """The names of all clients, for a sentence.

    Args:
        conjunction: what stands before the last one: ``and`` or ``or``.
    """
    *first, last = (client.name for client in CLIENTS)
    return f"{', '.join(first)} {conjunction} {last}"


def scopes() -> tuple[str, ...]:
    """The scopes of all request spans."""
    return tuple(dict.fromkeys(client.upstream.scope for client in CLIENTS))


def plumbing() -> Iterator[str]:
    """The modules of all clients that lie between a pool and the application."""
    for client in CLIENTS:
        yield from client.plumbing
