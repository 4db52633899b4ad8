"""For how long a server keeps an idle connection."""

from __future__ import annotations

import asyncio
from typing import Final

from ...report.units import seconds
from ...telemetry import names
from .plan import Answers, Plan
from .recorder import Recorder
from .requests import ask, client_for

#: Seconds of the first wait; each later one is twice as long.
_FIRST: Final = 0.1


async def idle(plan: Plan, recorder: Recorder) -> str:
    """For how long the server keeps an idle connection, by trying."""
    longest = plan.idle or _FIRST
    kept, wait = 0.0, min(_FIRST, longest)
    answers = Answers()
    async with client_for(plan, keepalive=2 * longest + 10) as client:
        await ask(client, plan, answers)
        recorder.take()
        while True:
            await asyncio.sleep(wait)
            failure = await ask(client, plan, answers)
            rows = recorder.take()
            if failure is not None or not rows:
                return (
                    f"idle: a request after {seconds(wait)} failed ({type(failure).__name__}): the server, or what is "
                    "in between, drops connections without closing them"
                )
            if not rows[-1].attributes.get(names.CONN_REUSED):
                why = rows[-1].attributes.get(names.CONN_OPEN_REASON, "unknown")
                at_least = f"after more than {seconds(kept)} and " if kept else ""
                return f"idle: closed {at_least}within {seconds(wait)} ({why}); keep keepalive_expiry well below that"
            kept = wait
            if wait >= longest:
                return f"idle: kept for {seconds(kept)}, the longest that was tried (--max-idle)"
            wait = min(2 * wait, longest)
