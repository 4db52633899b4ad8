"""Which of a server's addresses requests went to: one of several that answer to its name may be the one at fault."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from ...telemetry import names
from ..rows import Row
from .definitions import CHANCE
from .tally import MAX_KEYS, Tally

#: Of a server with more of them, the others count as one.
_MOST: Final = 50
_REST: Final = "others"


class Apart(NamedTuple):
    """An address that has all of what was found, which the others have not.

    Args:
        address: which.
        among: how many addresses requests went to.
        elsewhere: how many requests went to the others.
    """

    address: str
    among: int
    elsewhere: int


class Addresses:
    """Requests of each server by the address that they went to."""

    def __init__(self) -> None:
        self._requests: dict[str, Counter[str]] = {}

    def saw(self, row: Row) -> None:
        """Any request."""
        address = row.attributes.get(names.NETWORK_PEER_ADDRESS)
        if address is None:
            return
        known = self._requests.get(row.origin)
        if known is None:
            if len(self._requests) >= MAX_KEYS:
                return
            known = self._requests[row.origin] = Counter()
        known[address if address in known or len(known) < _MOST else _REST] += 1

    def apart(self, tally: Tally) -> Apart | None:
        """The address of all that *tally* counts, where there are others, and by chance it would hardly be just that."""
        found = tally.noted("addresses")
        if len(tally.origins) != 1 or len(found) != 1 or found.total() != tally.count:
            return None
        (address,) = found
        (origin,) = tally.origins
        known = self._requests.get(origin, Counter())
        total = known.total()
        if address not in known or known[address] == total or (known[address] / total) ** tally.count * CHANCE > 1:
            return None
        return Apart(address, len(known), total - known[address])
