# Everything outside `adapters/` that has to know a client library by name reads it here: the
# instrumentor, the command line, the search for the line of user code. To add a client is to add
# an entry here and a folder in `adapters/`; tests/project/test_architecture.py holds that.
#
# Only the standard library is imported, and no client: this is read while a program starts.

"""The HTTP client libraries that are observed, as data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
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
        several: one of its spans may be of several requests sent (retries, redirects), as it suppresses
            instrumentation below it.
        bundled: it is installed with this package, and is turned on also where the client's version is unknown to us.
    """

    distribution: str
    minimum: str
    scope: str
    module: str
    instrumentor: str
    entry_point: str
    excluded_urls: str
    several: bool = False
    bundled: bool = False


@dataclass(frozen=True)
class Client:
    """One client library.

    Args:
        name: of its distribution and of its module.
        library: what it is called in the setting `libraries`: those that share a core are one.
        module: the one whose import tells that the program uses it.
        core: the distribution, and module, that has its connection pool.
        adapter: its folder in `adapters/`.
        whole: a name that ``core`` has once its import is over.
        supported: the versions of ``core`` whose structure was read and is tested.
        classes: the client classes that applications use.
        plumbing: modules that lie between the pool and the application, on the stack.
        timeouts: what its timeouts are called.
        upstream: what makes its request spans.
    """

    name: str
    library: str
    module: str
    core: str
    adapter: str
    whole: str
    supported: str
    classes: tuple[str, ...]
    plumbing: tuple[str, ...]
    timeouts: Timeouts
    upstream: Upstream

    @property
    def distributions(self) -> tuple[str, ...]:
        """Everything that has to be installed for it to be observed, but for our own package."""
        return tuple(dict.fromkeys((self.name, self.core, self.upstream.distribution)))

    def imported(self) -> ModuleType | None:
        """Its core, once the program has imported that."""
        module = sys.modules.get(self.core)
        # Else its import is still under way.
        return module if hasattr(module, self.whole) else None

    def imported_classes(self) -> list[type]:
        """Those of its client classes that the program has imported."""
        module = sys.modules.get(self.module)
        return [cls for name in self.classes if isinstance(cls := getattr(module, name, None), type)]

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
    bundled=True,
)

#: Of 1.26, which is another library, nothing was read.
_URLLIB3: Final = ">=2.0.2,<3"
_URLLIB3_TIMEOUTS: Final = Timeouts(
    pool="EmptyPoolError", connect="ConnectTimeoutError", read="ReadTimeoutError", write="TimeoutError"
)


def _upstream(name: str, instrumentor: str, excluded_urls: str) -> Upstream:
    return Upstream(
        distribution=f"opentelemetry-instrumentation-{name}",
        minimum=">=0.65b0",
        scope=f"opentelemetry.instrumentation.{name}",
        module=f"opentelemetry.instrumentation.{name}",
        instrumentor=instrumentor,
        entry_point=name,
        excluded_urls=excluded_urls,
        several=True,
    )


CLIENTS: Final[tuple[Client, ...]] = (
    Client(
        name="httpx",
        library="httpx",
        module="httpx",
        core="httpcore",
        adapter="httpcore",
        whole="ConnectionPool",
        supported=">=1.0.3,<2",
        classes=("Client", "AsyncClient"),
        plumbing=("httpx", "httpcore"),
        timeouts=_TIMEOUTS,
        upstream=_HTTPX,
    ),
    Client(
        name="httpx2",
        library="httpx2",
        module="httpx2",
        core="httpcore2",
        adapter="httpcore",
        whole="ConnectionPool",
        supported=">=2",
        classes=("Client", "AsyncClient"),
        plumbing=("httpx2", "httpcore2"),
        timeouts=_TIMEOUTS,
        # One instrumentation and one scope for both; 0.65b0 is the first that has this class.
        upstream=_HTTPX._replace(instrumentor="HTTPX2ClientInstrumentor", entry_point="httpx2"),
    ),
    Client(
        name="requests",
        library="urllib3",
        module="requests",
        core="urllib3",
        adapter="urllib3",
        whole="PoolManager",
        supported=_URLLIB3,
        classes=("Session",),
        plumbing=("requests", "urllib3"),
        timeouts=_URLLIB3_TIMEOUTS,
        upstream=_upstream("requests", "RequestsInstrumentor", "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS"),
    ),
    Client(
        name="botocore",
        library="urllib3",
        module="botocore.client",
        core="urllib3",
        adapter="urllib3",
        whole="PoolManager",
        supported=_URLLIB3,
        classes=("BaseClient",),
        plumbing=("botocore", "urllib3"),
        timeouts=_URLLIB3_TIMEOUTS,
        upstream=_upstream("botocore", "BotocoreInstrumentor", ""),
    ),
    Client(
        name="urllib3",
        library="urllib3",
        module="urllib3",
        core="urllib3",
        adapter="urllib3",
        whole="PoolManager",
        supported=_URLLIB3,
        classes=("PoolManager",),
        plumbing=("urllib3",),
        timeouts=_URLLIB3_TIMEOUTS,
        upstream=_upstream("urllib3", "URLLib3Instrumentor", "OTEL_PYTHON_URLLIB3_EXCLUDED_URLS"),
    ),
)


def named(conjunction: str) -> str:
    """The names of all clients, for a sentence.

    Args:
        conjunction: what stands before the last one: ``and`` or ``or``.
    """
    *first, last = (client.name for client in CLIENTS)
    return f"{', '.join(first)} {conjunction} {last}"


def scopes(*, several: bool | None = None) -> tuple[str, ...]:
    """The scopes of all request spans.

    Args:
        several: only those that may be of several requests sent, or only the others.
    """
    found = (client.upstream for client in CLIENTS if several in (None, client.upstream.several))
    return tuple(dict.fromkeys(upstream.scope for upstream in found))


def libraries() -> tuple[str, ...]:
    """What may be named in the setting `libraries`."""
    return tuple(dict.fromkeys(client.library for client in CLIENTS))


def pool_timeouts() -> frozenset[str]:
    """What the exceptions are called that tell that the pool had no connection to give in time."""
    return frozenset(client.timeouts.pool for client in CLIENTS)


def counting_slots() -> frozenset[str]:
    """Those whose pool, where it has a limit, counts what was not given back to it, whether or not that is open."""
    return frozenset(client.name for client in CLIENTS if client.adapter == "urllib3")


def plumbing() -> Iterator[str]:
    """The modules of all clients that lie between a pool and the application."""
    for client in CLIENTS:
        yield from client.plumbing


#: Other modules that make HTTP requests, each with the instrumentation of OpenTelemetry that makes a span for a request
#: of it; empty where there is none.
OTHERS: Final[dict[str, str]] = {
    "aiohttp": "opentelemetry-instrumentation-aiohttp-client",
    "urllib.request": "opentelemetry-instrumentation-urllib",
    "tornado.httpclient": "opentelemetry-instrumentation-tornado",
    "grpc": "opentelemetry-instrumentation-grpc",
    "http.client": "",
    "pycurl": "",
    "curl_cffi": "",
    "niquests": "",
    "httplib2": "",
    "twisted.web.client": "",
}
