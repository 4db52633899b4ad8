"""Puts everything in, and takes every piece of it out again. No logic."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import sys
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.dependencies import DependencyConflict, get_dependency_conflicts
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from wrapt import register_post_import_hook

from .callsite import CallSite
from .clients import CLIENTS
from .config import Config
from .guard import Guard, interrupted
from .telemetry.metrics import Metrics
from .telemetry.reporter import Reporter
from .telemetry.spans import Spans
from .version import __version__

if TYPE_CHECKING:
    from .adapters.hooks import Hooks
    from .adapters.libraries import Library
    from .adapters.observer import Observer
    from .adapters.seams import Patches

_logger = logging.getLogger("otel_httptrace")

_SCOPE = "otel_httptrace"


class HTTPTraceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Adds DNS, connection and response body to the request spans of httpx and httpx2.

    ``HTTPTraceInstrumentor().instrument()`` is enough: it also turns on
    `opentelemetry-instrumentation-httpx`, whose spans it describes, where that
    is not on yet. Under ``opentelemetry-instrument`` nothing needs to be called.
    """

    _observer: Observer | None = None
    _guard: Guard
    _patches: Patches
    _hooks: Hooks
    _upstream: tuple[BaseInstrumentor, ...] = ()
    _counts: Metrics | None = None
    #: What was asked for, as long as it is turned on.
    _settings: _Settings | None = None
    #: Libraries whose pools the observer watches.
    _installed: frozenset[str] = frozenset()
    _call_sites: CallSite | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Of which any one must be installed."""
        return tuple(client.requirement for client in CLIENTS)

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        return get_dependency_conflicts((), self.instrumentation_dependencies())

    def instrument(self, **kwargs: Any) -> None:
        """Turn it on.

        Args:
            **kwargs: ``spans``, ``span_end``, ``code_location``, ``max_origins`` and ``app_packages``
                (see `Config`), ``tracer_provider`` and ``meter_provider`` (default: the global ones).

        Raises:
            ValueError: a setting has a value that is not allowed; nothing is turned on.
        """
        # opentelemetry-instrument, which turns on upstream by itself, says so by this.
        super().instrument(**kwargs, automatic=kwargs.get("skip_dep_check", False))

    def _instrument(self, **kwargs: Any) -> None:
        config = Config.load(os.environ, kwargs)

        # Here and not above, and without httpcore: importing this package must import
        # nothing that the program may be about to patch, as gevent does socket and ssl.
        from .adapters.libraries import LIBRARIES  # noqa: PLC0415

        tracer_provider, meter_provider = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        # Asked once: it reads metadata, and logs a version that we do not know.
        libraries = tuple(library for library in LIBRARIES if library.installed())
        self._settings = settings = _Settings(config, tracer_provider, meter_provider, libraries)
        try:
            for library in libraries:
                _when_imported(self, library.name)
                _when_imported(self, library.client)
            self._meet(settings)
            if not kwargs.get("automatic"):
                self._instrument_upstream(tracer_provider=tracer_provider, meter_provider=meter_provider)
        except Exception:
            self._uninstrument()
            raise

    def _imported(self) -> None:
        # Within an import of the program's, which a fault of ours must not fail.
        if self._settings is not None:
            try:
                self._meet(self._settings)
            except Exception as error:
                if interrupted(error):
                    raise
                _logger.exception("otel-httptrace: could not be turned on. Your requests are unharmed.")

    def _meet(self, settings: _Settings) -> None:
        """Watch the libraries that have been imported by now."""
        found = [
            (library, module)
            for library in settings.libraries
            if (module := sys.modules.get(library.name)) is not None
            # Else its import is still under way, and will tell when it is over.
            and hasattr(module, "ConnectionPool")
        ]
        if not found:
            return
        from .adapters import observer as observing  # noqa: PLC0415

        with observing.transition:
            if self._observer is None or not self._observer.active:
                self._start(settings)
            for library, module in found:
                if library.name not in self._installed:
                    self._installed |= {library.name}
                    self._hooks.install(library, module)
        if self._call_sites is not None:
            for library, _ in found:
                for client in library.clients():
                    self._call_sites.knows_client(client)

    def _start(self, settings: _Settings) -> None:
        from .adapters.hooks import Hooks  # noqa: PLC0415
        from .adapters.observer import Observer  # noqa: PLC0415
        from .adapters.seams import Patches  # noqa: PLC0415

        config, tracer_provider, meter_provider, _ = settings
        observer = self._observer
        fresh = observer is None or observer.at_rest
        if observer is None or fresh:
            # Else a response of an earlier start is still open, and every hook still there.
            self._patches, self._guard = Patches(), Guard()
            self._observer = observer = Observer(self._guard, idle=self._patches.restore)
            self._hooks = Hooks(self._patches, self._guard, observer)
            self._installed = frozenset()
        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        collect = functools.partial(self._guard, observer.collect)
        self._counts = counts = Metrics(meter, config.max_origins, collect, former=self._counts)
        self._call_sites = CallSite(config.app_packages) if config.code_location else None
        observer.start(Reporter(Spans(tracer, config, self._guard), counts), self._call_sites)
        _watch_process(observer, fresh=fresh)

    def _instrument_upstream(self, **providers: Any) -> None:
        for client in CLIENTS:
            upstream = getattr(importlib.import_module(client.upstream.module), client.upstream.instrumentor, None)
            if upstream is None or not _importable(client.name):
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
        if self._observer is not None and self._observer.active:
            self._observer.retire()


class _Settings(NamedTuple):
    config: Config
    tracer_provider: Any
    meter_provider: Any
    #: Those that are installed, in versions we know.
    libraries: tuple[Library, ...]


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


def _watch_process(observer: Observer, *, fresh: bool) -> None:
    # What is registered stays, so it must not keep what it tells.
    watched = weakref.ref(observer)

    def forked() -> None:
        observer = watched()
        if observer is not None:
            observer.forked()

    def exiting() -> None:
        observer = watched()
        if observer is not None:
            observer.exiting()

    if fresh and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)
    # Last in, first out: providers made meanwhile are still at work when it runs.
    observer.first_exchange = lambda: atexit.register(exiting)
