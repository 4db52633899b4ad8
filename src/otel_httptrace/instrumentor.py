"""Puts everything in, and takes every piece of it out again. No logic."""

from __future__ import annotations

import atexit
import os
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
    from .adapters.observer import Observer

_SCOPE = "otel_httptrace"
_INSTRUMENTS_ANY = ("httpcore >= 1.0, < 2", "httpcore2 >= 2")


class HTTPTraceInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Adds DNS, connection and response body to the request spans of httpx and httpx2.

    ``HTTPTraceInstrumentor().instrument()`` is enough: it also turns on
    `opentelemetry-instrumentation-httpx`, whose spans it describes, where that
    is not on yet. Under ``opentelemetry-instrument`` nothing needs to be called.
    """

    _observer: Observer | None = None
    _upstream: tuple[BaseInstrumentor, ...] = ()

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
        tracer_provider, meter_provider = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)

        guard, patches = Guard(), Patches()
        counts = Metrics(
            meter,
            config.max_origins,
            exchanges=lambda: observer.exchanges,
            ledgers=lambda: observer.ledgers,
            collect=lambda: guard(observer.collect),
        )
        reporter = Reporter(Spans(tracer, config), counts)
        call_sites = CallSite(config.app_packages) if config.code_location else None
        if call_sites is not None:
            for client in (client for library, _ in libraries for client in library.clients()):
                call_sites.knows_client(client)
        observer = Observer(guard, reporter, call_sites, idle=patches.restore)
        Hooks(patches, guard, observer).install(libraries)
        self._observer = observer
        _watch_process(observer, counts)

        if not kwargs.get("automatic"):
            self._instrument_upstream(tracer_provider=tracer_provider, meter_provider=meter_provider)

    def _instrument_upstream(self, **providers: Any) -> None:
        from opentelemetry.instrumentation import httpx  # noqa: PLC0415

        turned_on = []
        for name, module in (("HTTPXClientInstrumentor", "httpx"), ("HTTPX2ClientInstrumentor", "httpx2")):
            upstream = getattr(httpx, name, None)
            if upstream is None or not _importable(module):
                continue
            instrumentor = upstream()
            if not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument(**{key: value for key, value in providers.items() if value is not None})
                turned_on.append(instrumentor)
        self._upstream = tuple(turned_on)

    def _uninstrument(self, **kwargs: Any) -> None:
        for upstream in self._upstream:
            if upstream.is_instrumented_by_opentelemetry:
                upstream.uninstrument()
        self._upstream = ()
        if self._observer is not None:
            self._observer.retire()
            self._observer = None


def _importable(module: str) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec(module) is not None


def _watch_process(observer: Observer, counts: Metrics) -> None:
    def forked() -> None:
        observer.forked()
        counts.clear()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)
    observer.first_exchange = lambda: atexit.register(observer.exiting)
