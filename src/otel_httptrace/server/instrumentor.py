"""Puts the server's half in, and takes every piece of it out again. No logic."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any, ClassVar, Final, Protocol

from opentelemetry import metrics
from opentelemetry.instrumentation.dependencies import DependencyConflict
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from wrapt import register_post_import_hook

from ..environment_variables import OTEL_PYTHON_HTTPTRACE_SPANS
from ..guard import Guard, interrupted
from ..observe.patches import Patches
from ..version import __version__
from .adapters.gunicorn import Gunicorn
from .adapters.gunicorn_asgi import GunicornAsgi
from .adapters.hooked import UnknownServerError
from .adapters.hypercorn import Hypercorn
from .adapters.uvicorn import Uvicorn
from .ledger import Ledger
from .telemetry import Metrics
from .upstream import Upstream
from .watch import Watch

_logger = logging.getLogger("otel_httptrace")

_SCOPE: Final = "otel_httptrace"

_ADAPTERS: Final = (Uvicorn, Hypercorn, Gunicorn, GunicornAsgi, Upstream)


class _Adapter(Protocol):
    modules: ClassVar[tuple[str, ...]]

    def install(self, module: ModuleType) -> None: ...


class HTTPTraceServerInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Adds to the request spans of a server what it knows of the connection: reused, idle, why it was closed.

    ``HTTPTraceServerInstrumentor().instrument()`` is enough, before or after the server is imported. The spans
    are those of the ASGI, FastAPI, Starlette, WSGI, Flask or Django instrumentation; without one there are only
    metrics. Under ``opentelemetry-instrument`` nothing needs to be called.
    """

    _patches: Patches | None = None
    _watch: Watch | None = None
    _metrics: Metrics | None = None
    _adapters: dict[str, _Adapter]

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: which server there is shows when it is imported."""
        return ()

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        return None

    def _instrument(self, **kwargs: Any) -> None:
        meter = metrics.get_meter(_SCOPE, __version__, kwargs.get("meter_provider"))
        ledger = Ledger()
        self._patches = patches = Patches()
        self._metrics = Metrics(meter, ledger, former=self._metrics)
        sentences = os.environ.get(OTEL_PYTHON_HTTPTRACE_SPANS, "").strip().lower() != "none"
        self._watch = watch = Watch(Guard(), ledger, self._metrics, sentences=sentences)
        self._adapters = {}
        for make in _ADAPTERS:
            adapter: _Adapter = make(patches, watch)
            self._adapters.update(dict.fromkeys(adapter.modules, adapter))
        for name in self._adapters:
            _when_imported(self, name)
            if name in sys.modules:
                self._imported(name)

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._watch is not None and self._patches is not None:
            self._watch.active = False
            self._patches.restore()
        self._watch = self._patches = None
        self._adapters = {}

    def _imported(self, name: str) -> None:
        # Within an import of the program's, which a fault of ours must not fail.
        adapter, module = self._adapters.get(name), sys.modules.get(name)
        if adapter is None or module is None:
            return
        try:
            adapter.install(module)
            if self._watch is not None and name not in Upstream.modules:
                self._watch.knows_server = True
        except UnknownServerError as error:
            _logger.warning(
                "otel-httptrace: %s is of a version that is not known, and not observed: no %s", name, error
            )
        except Exception as error:
            if interrupted(error):
                raise
            _logger.exception("otel-httptrace: %s could not be observed. Your requests are unharmed.", name)


#: Modules whose import is waited for.
_awaited: Final[set[str]] = set()


def _when_imported(instrumentor: HTTPTraceServerInstrumentor, name: str) -> None:
    if name in sys.modules or name in _awaited:
        return
    _awaited.add(name)

    def imported(module: object) -> None:
        _awaited.discard(name)
        instrumentor._imported(name)

    register_post_import_hook(imported, name)
