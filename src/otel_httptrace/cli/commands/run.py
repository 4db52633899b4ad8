"""``httptrace run``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import click

from ...report.look import Look
from ...report.terminal import Unread
from ..errors import Problem, describe, say
from ..files import check_writable, open_private
from ..intake import Intake
from ..live import Live
from ..options import duration, options
from ..output import Output
from ..programs import inject, plugins, process
from ..programs.environ import prepare
from ..programs.pythons import find

if TYPE_CHECKING:
    from ...report.forward import Forwarder
    from ...report.receiver import Receiver


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    short_help="Run a program and report what its requests did.",
    epilog="The report goes to stderr when the program has ended, so that stdout has only what the program prints. "
    "The exit status is the program's; if that is 0, --fail-on may make it 1 or 2. Signals are passed on.",
)
@click.option("--otlp", metavar="FILE", help="Keep the spans received: OTLP JSON lines, for httptrace report.")
@click.option("--forward", metavar="ENDPOINT", help="Send traces, metrics and logs on to this OTLP/HTTP endpoint, too.")
@click.option(
    "--every", type=duration, metavar="TIME", help="Print the report every 30s, 5m, ...: for a program that serves."
)
@click.option("--verbose", "-v", is_flag=True, help="Say which OTEL_* settings are overridden for this run.")
@options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGS]...")
def command(
    *,
    output: Output,
    otlp: str | None,
    forward: str | None,
    every: float | None,
    verbose: bool,
    program: tuple[str, ...],
) -> int:
    """Run PROGRAM, and print what its requests did.

    The program needs no change, and nothing has to be installed for it:
    packages that its Python lacks are added for this run only.

    \b
      httptrace run -- python app.py
      httptrace run -- /srv/shop/.venv/bin/python app.py
      httptrace run --html page.html -- gunicorn -w 4 shop:app
      httptrace run --every 30s -- uvicorn shop:app
      httptrace run --quiet --fail-on body_not_read,client_per_request -- pytest
      httptrace run --fail-on failed,waste --baseline before.json -- pytest
    """
    if every is not None and output.quiet and not (output.text or output.html or output.json):
        raise click.UsageError("--every has no effect with --quiet and without a file.")
    path = find(program[0])
    output = replace(
        output,
        look=Look(
            f"httptrace report {shlex.quote(otlp)} --trace ID"
            if otlp is not None
            else "keep the spans with --otlp FILE, then httptrace report FILE --trace ID"
            # Who sends them on has a backend to look into.
            if forward is None
            else ""
        ),
    )
    if otlp is not None:
        output.check_others(otlp=otlp)
        check_writable(otlp)
    with contextlib.ExitStack() as stack:
        lent = stack.enter_context(inject.Lent())
        facts = inject.equip(path, lent)
        process.hold_signals()
        intake, receiver = _listen(stack, output, otlp, forward)
        environ, notes, warnings = prepare(
            os.environ,
            receiver.endpoint,
            program,
            token=receiver.token,
            forward=forward is not None,
            propagators=_propagators(facts),
        )
        environ = lent.environ(environ)
        for note in (*(notes if verbose else ()), *warnings):
            say(note)
        live = Live(intake, output, every)
        try:
            with live:
                status = process.run([path, *program[1:]], environ)
        except OSError as error:
            # What a shell says of a file that is there and does not run.
            raise Problem(f"{path}: {error.strerror}", 126) from error
        process.release_signals()
        intake.unsent, others = lent.unsent(), lent.imported()
    report = intake.report()
    if not report.requests and not report.served and not (output.quiet and output.text is None):
        from ..checks.unseen import why_nothing  # noqa: PLC0415 - this is rare

        say(why_nothing(report, status, path, environ, others))
    try:
        shown = replace(output, quiet=True) if not (report.spans or report.problems or report.unsent) else output
        shown.write(report, sys.stderr)
    except Unread:
        # Whoever reads the report went away; that is not the program's doing.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    except Exception as error:
        # The program's own status, if it says anything, is more to whoever asks.
        say(describe(error))
        status = status or 2
    if status == 0:
        failed = output.fails(report)
        if failed:
            return failed
    return process.die_like(status)


def _propagators(facts: Any) -> Sequence[str] | None:
    group = plugins.GROUPS[plugins.PROPAGATORS]
    # What is not Python has a Python of its own, if any: most likely like ours.
    found: Sequence[str] = facts["offered"][group] if facts is not None else plugins.offered()[group]
    # None there: then it is lent ours.
    return found or plugins.offered()[group]


def _listen(
    stack: contextlib.ExitStack, output: Output, otlp: str | None, forward: str | None
) -> tuple[Intake, Receiver]:
    # Left in the opposite order: no more is taken, what was taken is folded, what it was written to is closed.
    from ...report.receiver import Receiver, new_token  # noqa: PLC0415

    file = _opened(stack, otlp) if otlp is not None else None
    onwards = _forwarder(forward) if forward is not None else None

    def delivered() -> None:
        undelivered = onwards.close() if onwards is not None else None
        if undelivered is not None:
            say(undelivered)

    stack.callback(delivered)
    intake = Intake(output.thresholds, file)
    stack.callback(intake.close)
    onward = onwards.send if onwards is not None else None
    receiver = stack.enter_context(Receiver(intake.keep, forward=onward, token=new_token()))
    # By its name, too: where there is a proxy it is told that.
    intake.own = frozenset({receiver.endpoint, receiver.endpoint.replace("127.0.0.1", "localhost")})
    return intake, receiver


def _forwarder(endpoint: str) -> Forwarder:
    from ...report.forward import Forwarder  # noqa: PLC0415

    try:
        return Forwarder(endpoint)
    except ValueError as error:
        raise Problem(f"--forward: {error}") from error


def _opened(stack: contextlib.ExitStack, path: str) -> IO[bytes]:
    file = open_private(path)

    def close() -> None:
        try:
            file.close()
        except OSError as error:
            say(f"{path}: {error.strerror}")

    stack.callback(close)
    return file
