# Jaeger's UI opens the details of the spans that match `uiFind` when a trace is loaded, scrolls to the first, and
# shows no children of others: jaeger-ui v1.62 and v1.76, TraceTimelineViewer/duck.tsx, calculateFocusedFindRowStates.
# A span's id matches that span: utils/filter-spans.tsx.

"""How to look at a request that a report names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_IDS: Final = re.compile("[0-9a-f]{32} [0-9a-f]{16}")


@dataclass(frozen=True)
class Look:
    """How to look at a request.

    Args:
        trace: how to see a trace, by its id; empty if whoever has the id knows where.
        jaeger: the address of the Jaeger that has the traces, without credentials; empty if none is known to have.
    """

    trace: str = ""
    jaeger: str = ""

    def address(self, trace_id: str, span_id: str) -> str:
        """Where Jaeger shows a span with its details open; empty if there is no such place.

        Args:
            trace_id: hexadecimal, as is ``span_id``.
            span_id: of the request.
        """
        if not self.jaeger or not _IDS.fullmatch(f"{trace_id} {span_id}"):
            return ""
        return f"{self.jaeger}/trace/{trace_id}?uiFind={span_id}"


#: Where no way is known.
NOWHERE: Final = Look()
