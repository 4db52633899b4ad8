# A span of a newer version may have them, and what is known is used: they are typed as the rest.

"""Names of attributes that are read, and not yet sent, with their types."""

from __future__ import annotations

from typing import Final

CONN_LOST_AT: Final = "httptrace.conn.lost_at"
POOL_HELD_AT: Final = "httptrace.pool.held_at"
POOL_HELD_FOR: Final = "httptrace.pool.held_for"
CLIENT_MADE_AT: Final = "httptrace.client.made_at"

#: Their types: a value of another is left out.
TYPES: Final[dict[str, type]] = {CONN_LOST_AT: str, POOL_HELD_AT: str, POOL_HELD_FOR: float, CLIENT_MADE_AT: str}
