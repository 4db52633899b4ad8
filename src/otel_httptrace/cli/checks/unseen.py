"""Why no request of a program was seen, as far as that can be told without running it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ... import clients
from ...report.summary import Report
from ..programs.pythons import facts_of, python_of
from . import installed, settings
from .result import State, Subject
from .variables import EXCLUDING


def why_nothing(
    report: Report, status: int, program: str, environ: Mapping[str, str], imported: Collection[str] = ()
) -> str:
    """Why *program*, run with *environ*, had no request in its *report*.

    Args:
        report: what came of it.
        status: its exit status; ``-n`` if it died of signal *n*.
        program: its path.
        environ: the environment that it ran in.
        imported: modules that make HTTP requests, and that it was seen to use.
    """
    if not report.spans and status < 0:
        return (
            f"no span came: the program was killed by signal {-status}; it may have had no time to send any, or "
            f"have made no request with {clients.named('or')}."
        )
    why = _why(program, environ)
    names = clients.named("or")
    if report.spans:
        return f"{report.spans} spans came, none of them from a request made with {names}" + (
            f": {why}" if why else f". To see whether these are instrumented: httptrace doctor -- {program}"
        )
    if why:
        return f"no span came: {why}"
    others = sorted(set(imported) - {client.name for client in clients.CLIENTS})
    if others:
        known = [told for told in map(clients.OTHERS.get, others) if told]
        return (
            f"no span came: the program made no request with {names}, but it uses {', '.join(others)}, which "
            "otel-httptrace does not observe"
            + (f". For one span a request, without what happens inside: {', '.join(known)}" if known else "")
        )
    if status > 0:
        return (
            f"no span came, and the program ended with status {status}: see what it says itself. To check its "
            f"installation: httptrace doctor -- {program}"
        )
    return (
        f"no span came: either it made no request with {names}, or it ended in a way that sends "
        "nothing (os._exit, or a signal right after its last request). To check its installation: "
        f"httptrace doctor -- {program}"
    )


def _why(program: str, environ: Mapping[str, str]) -> str | None:
    python = python_of(program)
    facts = facts_of(python) if python is not None else None
    subject = Subject(environ, program, python, facts)
    why = installed.no_client(subject)
    if why is not None:
        return why
    checks = (settings.variables, settings.our_own, settings.exporter)
    results = [result for check in checks for result in check(subject)]
    # What surely keeps spans from being made comes before what may.
    for result in results:
        if result.state is State.PROBLEM:
            return f"{result.what} is {result.seen}; {result.advice}"
    for result in results:
        if result.what in EXCLUDING:
            return f"{result.what} is {result.seen}, and {result.advice}"
    return None
