"""``httptrace doctor``: for "I see nothing in Jaeger"."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Final

import click

from ...report.printable import printable
from ...report.terminal import console
from ..checks import SECTIONS, State, Subject
from ..programs.pythons import facts_of, find, python_of

_MARKS: Final = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.PROBLEM: ("✗", "bold red")}


@click.command(
    "doctor",
    context_settings={"allow_interspersed_args": False},
    short_help="Check why there are no spans: the installation and the settings.",
    epilog="Values that may be secret (headers, resource attributes, passwords and queries of URLs) are not shown. "
    "The exit status is 1 if there is a problem.",
)
@click.option("--width", type=click.IntRange(40, 1000), help="Columns of the text.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[PROGRAM [ARGS]...]")
def command(*, width: int | None, program: tuple[str, ...]) -> int:
    """Check what is installed, what the settings say, and that a request yields a span.

    With PROGRAM, the Python of that program is checked. PROGRAM is not run.

    \b
      httptrace doctor
      httptrace doctor -- gunicorn
      httptrace doctor -- .venv/bin/python
    """
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    out = console(sys.stdout, width)
    problems = warnings = 0
    subject = _subject(program)
    for section in SECTIONS:
        if not section.applies(subject):
            continue
        out.print(f"\n{section.title.format(where=subject.where)}", style="bold")
        for result in chain.from_iterable(check(subject) for check in section.checks):
            mark, style = _MARKS[result.state]
            problems += result.state is State.PROBLEM
            warnings += result.state is State.WARNING
            line = Table.grid(padding=(0, 1))
            line.add_row("", Text(mark, style=style), printable(f"{result.what}: {result.seen}"))
            if result.advice:
                advice = Text(printable(result.advice), style="bold" if result.state is State.PROBLEM else "dim")
                line.add_row("", "", Padding(advice, (0, 0, 0, 2)))
            out.print(Padding(line, (0, 0, 0, 1)))
    out.print()
    if problems:
        out.print(f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}", style="bold red")
    else:
        out.print(f"no problem, {_number(warnings, 'warning')}", style="green")
    return 1 if problems else 0


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _subject(program: Sequence[str]) -> Subject:
    python = python_of(find(program[0])) if program else sys.executable
    facts = facts_of(python) if python is not None else None
    return Subject(os.environ, program[0] if program else "", python, facts)
