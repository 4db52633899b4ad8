# What is shown is what our own instrumentation says of real requests, made with
# httpx or requests in this process, as everywhere else. Only what neither does is
# asked over a socket of our own (`sockets`).

"""What `httptrace probe` asks a server, and what it makes of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ...telemetry import names
from ..errors import Problem
from . import text
from .idle import idle
from .plan import Answers, Plan
from .recorder import Recorder
from .requests import ask, client_for, many, proxy_of

if TYPE_CHECKING:
    from rich.console import Console


async def probe(plan: Plan, console: Console) -> int:
    """Ask, and print what came of it.

    Returns:
        The exit status.

    Raises:
        Problem: the server cannot be reached.
    """
    recorder, answers = Recorder(), Answers()
    # Loads what would be loaded, and timed, within the first request.
    await anyio.sleep(0)
    async with client_for(plan) as client:
        failure = await ask(client, plan, answers)
        first = recorder.take()
        if failure is not None:
            raise Problem(text.unreachable(plan, first, failure, proxy_of(client, plan.url)), 1)
        await many(client, plan, plan.requests - 1, answers)
        others = recorder.take()
    text.print_head(console, plan, first[0], answers)
    for title, drawn in (
        ("the first request", first[:1]),
        (
            "requests on a connection that was open already",
            [row for row in others if row.attributes.get(names.CONN_REUSED)],
        ),
    ):
        if drawn:
            console.print(f"\n{title}", style="bold")
            for drawing in text.phases(drawn, console.width):
                console.print(drawing, no_wrap=True)
    console.print("\nconnections", style="bold")
    for line in (*text.connections(plan, [*first, *others], answers), *text.tls(plan, first[0])):
        text.print_line(console, line)
    if plan.early_close:
        async with client_for(plan) as client:
            await many(client, plan, plan.requests, answers, read=False)
        text.print_line(console, text.early_close(recorder.take(), [*first, *others]))
    if plan.idle is not None:
        text.print_line(console, await idle(plan, recorder))
    return 0
