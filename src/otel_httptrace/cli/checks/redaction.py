"""What may be shown of a variable's value: nothing that may be a secret."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_SECRET: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH")
#: Lists of pairs, whose values may be anything.
_PAIRS: Final = re.compile(r"HEADERS|RESOURCE_ATTRIBUTES")
#: Of a resource, what says who and where a process is: these are shown, for one looks for them.
_PUBLIC: Final = frozenset(
    {
        "service.name",
        "service.namespace",
        "service.version",
        "service.instance.id",
        "deployment.environment",
        "deployment.environment.name",
    }
)


def redacted(name: str, value: str, known: Collection[str] = ()) -> str:
    """What may be shown of a variable: of headers and attributes the names, of URLs neither password nor query.

    Args:
        name: of the variable.
        value: of it.
        known: names that something reads; of any other, nothing is known of the value, and it is not shown.
    """
    if _PAIRS.search(name):
        return ",".join(_pair(part, "HEADERS" not in name) for part in value.split(",") if part.strip()) or "***"
    # Names of this form are made up by upstream, for each library.
    read = name in known or name.endswith("_EXCLUDED_URLS")
    if _SECRET.search(name) or (known and not read):
        return "***"
    # Userinfo may hold any sign: it ends at the last @ of the authority, or of what a careless one left unquoted.
    value = re.sub(r"(?<=//)[^\s]*@", "***@", value)
    if "//" not in value:
        value = re.sub(r"^[^/\s]*:[^/\s]*@", "***@", value)
    return re.sub(r"[?#].*", "?***", value) if "//" in value or "***@" in value else value


def _pair(text: str, attributes: bool) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        # The rest of a value that has a comma in it.
        return "***"
    shown = attributes and key.strip() in _PUBLIC and not re.search(r"//|@", value)
    return f"{key.strip()}={value.strip() if shown else '***'}"
