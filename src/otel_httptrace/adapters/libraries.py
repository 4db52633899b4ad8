"""httpcore and httpcore2: which is there, and how they differ, as data."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from packaging.specifiers import SpecifierSet

_logger = logging.getLogger("otel_httptrace")


@dataclass(frozen=True)
class Library:
    """One HTTP client core.

    Args:
        name: of the distribution and the module.
        client: the package built on it that users install.
        supported: versions whose structure was read and is tested.
        counts_only_idle: compares only idle connections with ``max_keepalive_connections``,
            where httpcore 1.0.9 compares all of them.
        closes_iterators: iterates a body through ``aclosing`` if it is an asynchronous
            generator (``_utils.safe_async_iterate``), so that only one of these will do.
    """

    name: str
    client: str
    supported: str
    counts_only_idle: bool
    closes_iterators: bool

    def load(self) -> ModuleType | None:
        """The module; None if it is not installed, or in a version we do not know."""
        try:
            found = version(self.name)
        except PackageNotFoundError:
            return None
        if not SpecifierSet(self.supported).contains(found, prereleases=True):
            _logger.error(
                "otel-httptrace needs %s%s, found %s, so %s is not traced: pip install -U '%s%s'",
                self.name,
                self.supported,
                found,
                self.client,
                self.name,
                self.supported,
            )
            return None
        try:
            return importlib.import_module(self.name)
        except ImportError:
            return None

    def clients(self) -> list[type]:
        """The client classes built on it, of those that are installed."""
        try:
            module = importlib.import_module(self.client)
        except ImportError:
            return []
        return [cls for name in ("Client", "AsyncClient") if isinstance(cls := getattr(module, name, None), type)]


LIBRARIES = (
    Library("httpcore", "httpx", ">=1.0,<2", counts_only_idle=False, closes_iterators=False),
    Library("httpcore2", "httpx2", ">=2", counts_only_idle=True, closes_iterators=True),
)
