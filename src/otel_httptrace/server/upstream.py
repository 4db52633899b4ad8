# The span of a request is upstream's: the ASGI, WSGI, Flask, Django, Falcon,
# Pyramid and Tornado instrumentations all start it by one function, which each
# of them has imported by name. FastAPI and Starlette use the one for ASGI. It
# runs in the request's task or thread, so the request is known there; and it is
# given what the server handed over, a scope or an environment, which is all that
# a server we know nothing of tells.

"""The hook where upstream's instrumentations start the span of a request."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from ..observe.patches import Patches
from .adapters import seams
from .watch import Watch


class Upstream:
    """Hooks on the instrumentations whose spans we describe.

    Args:
        patches: what is replaced, to be restored.
        watch: is told of each span that they start.
    """

    modules: ClassVar[tuple[str, ...]] = seams.SPAN_STARTERS

    def __init__(self, patches: Patches, watch: Watch) -> None:
        self._patches = patches
        self._watch = watch

    def install(self, module: ModuleType) -> None:
        """Watch where *module* starts spans."""
        if hasattr(module, seams.SPAN_STARTER):
            self._patches.replace(module, seams.SPAN_STARTER, self._starts)

    def _starts(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch, contain = self._watch, self._watch.guard.contain

        def starts(
            tracer: Any,
            span_name: Any,
            start_time: Any,
            context_carrier: Any,
            context_getter: Any,
            attributes: Any = None,
        ) -> Any:
            started = original(tracer, span_name, start_time, context_carrier, context_getter, attributes)
            try:
                watch.span_started(started[0], context_carrier)
            except BaseException:
                contain("span_started")
            return started

        return starts
