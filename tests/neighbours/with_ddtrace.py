"""ddtrace, which patches httpx, httpcore's neighbours and asyncio."""

import ddtrace.auto  # noqa: F401 - patches
from exchange import play

play()
