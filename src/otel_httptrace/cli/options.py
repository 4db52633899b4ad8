"""The options that several commands share, and what is read from their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from ..report import gate
from ..report.findings import Thresholds
from .errors import Problem
from .output import Output
from .project import SETTINGS, VARIABLES

_Command = TypeVar("_Command", bound=Callable[..., Any])


def options(function: _Command) -> _Command:
    """Give a command the options of `Output`, which it gets as the argument ``output``."""

    def command(**given: Any) -> Any:
        output = Output(
            text=given.pop("output"),
            html=given.pop("html"),
            json=given.pop("json"),
            width=given.pop("width"),
            quiet=given.pop("quiet"),
            everything=given.pop("everything"),
            gate=_gate(given.pop("fail_on"), given.pop("baseline")),
            thresholds=given.pop("threshold"),
            brief=given.pop("brief"),
            given=_typed("everything", "brief", "width"),
        )
        output.check()
        return function(output=output, **given)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(
        (
            click.option("--html", metavar="FILE", help="Write the report as one self-contained page."),
            click.option("--json", metavar="FILE", help="Write the report as JSON; - is stdout."),
            click.option("--output", "-o", metavar="FILE", help="Write the report as text to a file."),
            click.option("--quiet", "-q", is_flag=True, help="Print no report."),
            click.option("--all", "everything", is_flag=True, help="Show each server in full, however many there are."),
            click.option("--brief", is_flag=True, help="Show the findings only, a line each."),
            click.option("--width", type=click.IntRange(40, 1000), help="Columns of the text."),
            click.option(
                "--fail-on",
                metavar="VERDICT,...",
                multiple=True,
                callback=_verdicts,
                help="Exit with status 1 if one of these is found: any, failed, slow, waste, or verdicts such as "
                "body_not_read,client_per_request; with 2 if nothing was seen. Repeatable.",
            ),
            click.option(
                "--baseline",
                metavar="FILE",
                help="A report that --json wrote before: only what is new fails; --fail-on any, unless it is given.",
            ),
            click.option(
                "--threshold",
                metavar="NAME=VALUE",
                multiple=True,
                callback=_thresholds,
                help="Change when something becomes a finding: dns=0.5, lost_connections=10, ... Repeatable.",
            ),
        )
    ):
        command = option(command)
    for parameter in command.__click_params__:  # type: ignore[attr-defined]
        # As in a project's file, by the same name.
        parameter.envvar = _VARIABLES.get(parameter.name)
    return command  # type: ignore[return-value]


def _typed(*names: str) -> frozenset[str]:
    context = click.get_current_context()
    return frozenset(name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)


_VARIABLES: Final = {option: VARIABLES[name] for name, (option, _) in SETTINGS.items()}


def _verdicts(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> frozenset[str]:
    try:
        return gate.parse(values)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx) from error


def _gate(names: frozenset[str], path: str | None) -> gate.Gate:
    try:
        return gate.Gate.of(names, path)
    except ValueError as error:
        raise Problem(f"--baseline: {error}") from error


def _thresholds(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Thresholds:
    settings = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE.", ctx)
        settings[name.strip()] = text.strip()
    try:
        return Thresholds.parse(settings)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx) from error


_UNITS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Seconds, from ``30s``, ``5m``, ``1h``, ``2d``, ``250ms``, or a number of them.

    Raises:
        click.BadParameter: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)(ms|s|m|h|d|)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < 1e9:
        raise click.BadParameter(f"{text!r} is not a duration like 30s, 5m or 1h.")
    return seconds
