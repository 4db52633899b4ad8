"""Puts everything in, and takes every piece of it out again. No logic."""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.dependencies import DependencyConflict, get_dependency_conflicts
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from .callsite import CallSite
from .config import Config
from .guard import Guard
from .telemetry.metrics import Metrics
from .telemetry.reporter import Reporter
from .telemetry.spans import Spans
from .version import __version__

if TYPE_CHECKING:
    from .adapters.hooks import Hooks
    from .adapters.observer import Observer
    from .adapters.seams import Patches

_SCOPE = "otel_httptrace"
_INSTRUMENTS_ANY = ("httpcore >= 1.0, < 2", "httpcore2 >= 2")


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

    def instrumentation_dependencies(self) -> Collection[str]:
        """Of which any one must be installed."""
        return _INSTRUMENTS_ANY

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

        # Here and not above: importing this package must import neither httpcore
        # nor socket, for gevent may be about to patch that.
        from .adapters.hooks import Hooks  # noqa: PLC0415
        from .adapters.libraries import LIBRARIES  # noqa: PLC0415
        from .adapters.observer import Observer  # noqa: PLC0415
        from .adapters.seams import Patches  # noqa: PLC0415

        libraries = [(library, module) for library in LIBRARIES if (module := library.load()) is not None]
        observer = self._observer
        fresh = observer is None or observer.at_rest
        if observer is None or fresh:
            # Else a response of an earlier start is still open, and every hook still there.
            self._patches, self._guard = Patches(), Guard()
            self._observer = observer = Observer(self._guard, idle=self._patches.restore)
            self._hooks = Hooks(self._patches, self._guard, observer)

        tracer_provider, meter_provider = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        collect = functools.partial(self._guard, observer.collect)
        self._counts = counts = Metrics(meter, config.max_origins, collect, former=self._counts)
        call_sites = CallSite(config.app_packages) if config.code_location else None
        if call_sites is not None:
            for client in (client for library, _ in libraries for client in library.clients()):
                call_sites.knows_client(client)
        observer.start(Reporter(Spans(tracer, config, self._guard), counts), call_sites)
        if fresh:
            try:
                self._hooks.install(libraries)
            except Exception:
                # Puts back what was replaced until then.
                observer.retire()
                raise
        _watch_process(observer, fresh=fresh)

        if not kwargs.get("automatic"):
            try:
                self._instrument_upstream(tracer_provider=tracer_provider, meter_provider=meter_provider)
            except Exception:
                self._uninstrument()
                raise

    def _instrument_upstream(self, **providers: Any) -> None:
        from opentelemetry.instrumentation import httpx  # noqa: PLC0415

        for name, module in (("HTTPXClientInstrumentor", "httpx"), ("HTTPX2ClientInstrumentor", "httpx2")):
            upstream = getattr(httpx, name, None)
            if upstream is None or not _importable(module):
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
        if self._observer is not None:
            self._observer.retire()


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
