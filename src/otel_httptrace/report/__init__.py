"""From received spans to what an engineer wants to know: receive, rows, summary, text.

Nothing here is imported by the instrumentation.
"""

from typing import Final

#: The header that a receiver's token is sent in: `report.receiver.Receiver`.
TOKEN_HEADER: Final = "x-httptrace-token"  # noqa: S105 - its name
