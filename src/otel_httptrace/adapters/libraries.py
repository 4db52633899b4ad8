"""httpcore and httpcore2: which is there, and how they differ, as data."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

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
    """

    name: str
    client: str
    supported: str
    counts_only_idle: bool

    def installed(self) -> bool:
        """Whether it is installed, in a version we know; one that we do not know is logged."""
        try:
            found = version(self.name)
        except PackageNotFoundError:
            return False
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
            return False
        return True

    def clients(self) -> list[type]:
        """The client classes built on it, as far as they have been imported."""
        module = sys.modules.get(self.client)
        return [cls for name in ("Client", "AsyncClient") if isinstance(cls := getattr(module, name, None), type)]


LIBRARIES = (
    Library("httpcore", "httpx", ">=1.0.3,<2", counts_only_idle=False),
    Library("httpcore2", "httpx2", ">=2", counts_only_idle=True),
)
