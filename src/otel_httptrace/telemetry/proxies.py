"""Where the setting of a proxy came from, as far as the environment tells."""

from __future__ import annotations

import os
import sys
from typing import Final
from urllib.parse import urlsplit

from ..core.timeline import PORTS, Origin, dials

#: As httpx and requests read them, by way of `urllib.request.getproxies`.
_VARIABLES: Final = ("{scheme}_proxy", "{SCHEME}_PROXY", "all_proxy", "ALL_PROXY")
#: There the system's settings may name one, too.
_SYSTEMS: Final = frozenset({"darwin", "win32"})
_PORTS: Final = {**PORTS, "socks5": 1080, "socks5h": 1080}

#: What set it where no variable names it.
PROGRAM: Final = "program"


def set_by(target: Origin | None, host: str, port: int | None) -> str | None:
    """What names the proxy that was dialled for *target*: a variable of the environment, or the program.

    Returns:
        None if it was the target itself that was dialled, or if that cannot be told.
    """
    if target is None or port is None or dials(target, host, port):
        return None
    for pattern in _VARIABLES:
        name = pattern.format(scheme=target.scheme, SCHEME=target.scheme.upper())
        value = os.environ.get(name)
        if value and _names(value, host, port):
            return name
    return None if sys.platform in _SYSTEMS else PROGRAM


def _names(value: str, host: str, port: int) -> bool:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        return dials(Origin(url.scheme, url.hostname or "", url.port or _PORTS.get(url.scheme)), host, port)
    except ValueError:
        return False
