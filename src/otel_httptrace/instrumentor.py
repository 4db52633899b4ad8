"""Puts everything in, and takes every piece of it out again. No logic."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import sys
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.dependencies import DependencyConflict, get_dependency_conflicts
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from wrapt import register_post_import_hook

from .callsite import CallSite
from .clients import CLIENTS, Client
from .config import Config
from .guard import Guard, interrupted
from .telemetry.metrics import Metrics
from .telemetry.reporter import Reporter
from .telemetry.spans import Spans
from .version import __version__

if TYPE_CHECKING:
    from .adapters.loading import Adapter
    from .observe.lifetime import Lifetime

_logger = logging.getLogger("otel_httptrace")

_SCOPE = "otel_httptrace"


class HTTPTraceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Adds DNS, connection and response body to the request spans of httpx and httpx2.

    ``HTTPTraceInstrumentor().instrument()`` is enough: it also turns on
    `opentelemetry-instrumentation-httpx`, whose spans it describes, where that
    is not on yet. Under ``opentelemetry-instrument`` nothing needs to be called.
    """

    _lifetime: Lifetime | None = None
    #: By name.
    _adapters: dict[str, Adapter]
    _upstream: tuple[BaseInstrumentor, ...] = ()
    _counts: Metrics | None = None
    #: What was asked for, as long as it is turned on.
    _settings: _Settings | None = None
    #: Cores that the adapters watch.
    _installed: frozenset[str] = frozenset()
    _call_sites: CallSite | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Of which any one must be installed."""
        return tuple(dict.fromkeys(client.requirement for client in CLIENTS))

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        return get_dependency_conflicts((), self.instrumentation_dependencies())

    def instrument(self, **kwargs: Any) -> None:
        """Turn it on.

        Args:
            **kwargs: ``spans``, ``span_end``, ``code_location``, ``max_origins``, ``app_packages`` and ``libraries``
                (see `Config`), ``tracer_provider`` and ``meter_provider`` (default: the global ones).

        Raises:
            ValueError: a setting has a value that is not allowed; nothing is turned on.
        """
        # opentelemetry-instrument, which turns on upstream by itself, says so by this.
        super().instrument(**kwargs, automatic=kwargs.get("skip_dep_check", False))

    def _instrument(self, **kwargs: Any) -> None:
        config = Config.load(os.environ, kwargs)

        from .adapters.loading import supported  # noqa: PLC0415 - of no use before

        tracer_provider, meter_provider = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        wanted = tuple(client for client in CLIENTS if not config.libraries or client.library in config.libraries)
        # Asked once: it reads metadata, and logs a version that we do not know.
        cores = {client.core: client for client in reversed(wanted)}
        known = {core for core, client in cores.items() if supported(client)}
        clients = tuple(client for client in wanted if client.core in known)
        with_spans = tuple(client for client in wanted if client in clients or client.upstream.bundled)
        self._settings = settings = _Settings(
            config, tracer_provider, meter_provider, clients, with_spans, automatic=bool(kwargs.get("automatic"))
        )
        try:
            for client in with_spans:
                _when_imported(self, client.core)
                _when_imported(self, client.module)
            self._met(settings)
        except Exception:
            self._uninstrument()
            raise

    def _imported(self) -> None:
        # Within an import of the program's, which a fault of ours must not fail.
        if self._settings is not None:
            try:
                self._met(self._settings)
            except Exception as error:
                if interrupted(error):
                    raise
                _logger.exception("otel-httptrace: could not be turned on. Your requests are unharmed.")

    def _met(self, settings: _Settings) -> None:
        """Watch the clients that have been imported by now, and have their requests told by spans."""
        self._meet(settings)
        if not settings.automatic:
            self._instrument_upstream(settings)

    def _meet(self, settings: _Settings) -> None:
        """Watch the clients that have been imported by now."""
        found = [(client, module) for client in settings.clients if (module := client.imported()) is not None]
        if not found:
            return
        # Here and not above: importing this package must import nothing that the program may be about to
        # patch, as gevent does socket and ssl.
        from .adapters.loading import load  # noqa: PLC0415
        from .observe import lifetime as lifetimes  # noqa: PLC0415

        with lifetimes.transition:
            if self._lifetime is None or not self._lifetime.active:
                self._lifetime = self._started(settings)
            for client, module in found:
                if client.core not in self._installed:
                    self._installed |= {client.core}
                    if client.adapter not in self._adapters:
                        self._adapters[client.adapter] = load(client, self._lifetime)
                    self._adapters[client.adapter].install(module)
        if self._call_sites is not None:
            for client, _ in found:
                for cls in client.imported_classes():
                    self._call_sites.knows_client(cls)

    def _started(self, settings: _Settings) -> Lifetime:
        from .observe.lifetime import Lifetime  # noqa: PLC0415
        from .observe.patches import Patches  # noqa: PLC0415

        config, tracer_provider, meter_provider = settings[:3]
        lifetime = self._lifetime
        fresh = lifetime is None or lifetime.at_rest
        if lifetime is None or fresh:
            # Else a response of an earlier start is still open, and every hook still there.
            lifetime = Lifetime(Guard(), Patches())
            self._adapters, self._installed = {}, frozenset()
        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        collect = functools.partial(lifetime.guard, lifetime.collect)
        self._counts = counts = Metrics(meter, config.max_origins, collect, former=self._counts)
        self._call_sites = CallSite(config.app_packages) if config.code_location else None
        at_first = _watch_process(lifetime, fresh=fresh)
        lifetime.start(Reporter(Spans(tracer, config, lifetime.guard), counts), self._call_sites, at_first)
        return lifetime

    def _instrument_upstream(self, settings: _Settings) -> None:
        # Of clients that the program uses, as this imports them.
        providers = {"tracer_provider": settings.tracer_provider, "meter_provider": settings.meter_provider}
        for client in settings.with_spans:
            if not client.imported_classes() or not _importable(client.upstream.module):
                continue
            upstream = getattr(importlib.import_module(client.upstream.module), client.upstream.instrumentor, None)
            if upstream is None:
                continue
            instrumentor = upstream()
            if not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument(**{key: value for key, value in providers.items() if value is not None})
                self._upstream += (instrumentor,)

    def _uninstrument(self, **kwargs: Any) -> None:
        for upstream in self._upstream:
            if upstream.is_instrumented_by_opentelemetry:
                upstream.uninstrument()
        self._upstream = ()
        self._settings = None
        if self._lifetime is not None and self._lifetime.active:
            self._lifetime.retire()


class _Settings(NamedTuple):
    config: Config
    tracer_provider: Any
    meter_provider: Any
    #: Those whose cores are installed, in versions we know.
    clients: tuple[Client, ...]
    #: These, and those whose request spans come with us, in any version.
    with_spans: tuple[Client, ...]
    #: Upstream is turned on by somebody else.
    automatic: bool


#: Modules whose import is waited for. One that has been imported is asked for again by `_instrument`.
_awaited: Final[set[str]] = set()


def _when_imported(instrumentor: HTTPTraceInstrumentor, name: str) -> None:
    if name in sys.modules or name in _awaited:
        return
    _awaited.add(name)

    def imported(module: object) -> None:
        _awaited.discard(name)
        instrumentor._imported()

    register_post_import_hook(imported, name)


def _importable(module: str) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec(module) is not None


def _watch_process(lifetime: Lifetime, *, fresh: bool) -> Callable[[], object]:
    # Answers what is to be called as the first pool is met.
    # What is registered stays, so it must not keep what it tells.
    watched = weakref.ref(lifetime)

    def forked() -> None:
        lifetime = watched()
        if lifetime is not None:
            lifetime.forked()

    def exiting() -> None:
        lifetime = watched()
        if lifetime is not None:
            lifetime.exiting()

    if fresh and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)
    # Last in, first out: providers made meanwhile are still at work when it runs.
    return lambda: atexit.register(exiting)
