# This is read as soon as we are turned on, the adapters only when a client of
# theirs is imported: they import `socket`, which a program may be about to patch.

"""Which clients can be observed here, and the adapter of each."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from packaging.specifiers import SpecifierSet

from ..clients import Client

if TYPE_CHECKING:
    from ..observe.lifetime import Lifetime

_logger = logging.getLogger("otel_httptrace")


class Adapter(Protocol):
    """Tells what happens in the clients that share a core."""

    def install(self, module: ModuleType) -> None:
        """Put the hooks on *module*, which is the core of a client."""


def supported(client: Client) -> bool:
    """Whether *client*'s core is installed, in a version we know; one that we do not know is logged."""
    try:
        found = version(client.core)
    except PackageNotFoundError:
        return False
    if not SpecifierSet(client.supported).contains(found, prereleases=True):
        _logger.error(
            "otel-httptrace needs %s%s, found %s, so %s is not traced: pip install -U '%s%s'",
            client.core,
            client.supported,
            found,
            client.name,
            client.core,
            client.supported,
        )
        return False
    return True


def load(client: Client, lifetime: Lifetime) -> Adapter:
    """The adapter of *client*: a folder here, whose ``observer.Observer`` is told of the *lifetime*."""
    module = import_module(f".{client.adapter}.observer", __package__)
    return cast("Adapter", module.Observer(lifetime))
