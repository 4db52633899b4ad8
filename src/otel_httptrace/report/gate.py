# CI asks one question: is it worse than before? So a finding is known again by what does
# not change from run to run: its verdict, and the function at fault without the line's
# number, or else the server without its port if that is on this machine, where tests take
# whichever is free. What failed and has no verdict of its own is known by how it failed, too.

"""Which findings are a failure, of those that a report has."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .findings import Finding, Severity
from .quote import located
from .schema import VERSION
from .summary import Report
from .units import count
from .verdicts import VERDICTS

#: What may be asked for besides verdicts: each stands for all findings that are as bad, `any` for all there are.
SEVERITIES: Final[dict[str, frozenset[Severity]]] = {
    "any": frozenset(Severity),
    "failed": frozenset({Severity.FAILED}),
    "slow": frozenset({Severity.SLOW}),
    "waste": frozenset({Severity.WASTE}),
}


def parse(values: Iterable[str]) -> frozenset[str]:
    """The names in *values*, each of which has some, with commas between.

    Raises:
        ValueError: one is neither a verdict nor one of `SEVERITIES`. The message says which, and what there is.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in VERDICTS and name not in SEVERITIES:
            near = difflib.get_close_matches(name, (*VERDICTS, *SEVERITIES), 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            known = f"{', '.join(sorted(VERDICTS))}, and {', '.join(SEVERITIES)}"
            raise ValueError(f"no verdict is called {name!r}{meant}; there are {known}")
    return frozenset(names)


@dataclass(frozen=True)
class Gate:
    """What is a failure.

    Args:
        names: verdicts, and what stands for several: see `SEVERITIES`. Nothing is a failure if there are none.
        before: what was found before, as `baseline` has it, and is no failure; None if nothing is known of that.
    """

    names: frozenset[str] = frozenset()
    before: frozenset[tuple[str, str]] | None = None

    @classmethod
    def of(cls, names: frozenset[str], path: str | None) -> Gate:
        """What is asked for by *names*, or anything if there are none, and is not in the baseline at *path*.

        Raises:
            ValueError: see `baseline`.
        """
        if path is None:
            return cls(names)
        return cls(names or frozenset({"any"}), baseline(path))

    def __bool__(self) -> bool:
        return bool(self.names)

    def failing(self, report: Report) -> list[Finding]:
        """The findings of *report* that are a failure, in its order."""
        return [finding for finding in self.asked(report) if not self._known(finding)]

    def asked(self, report: Report) -> list[Finding]:
        """The findings of *report* that would be a failure if nothing had been found before."""
        severities = frozenset().union(*(SEVERITIES[name] for name in self.names if name in SEVERITIES))
        return [
            finding for finding in report.findings if finding.verdict in self.names or finding.severity in severities
        ]

    def judge(self, report: Report) -> tuple[int, str, list[str]]:
        """What is to be made of *report*.

        Returns:
            The exit status (0 if nothing is a failure, 1 if something is, 2 if nothing was seen that could tell), what
            to say of it, and what to tell GitHub Actions.
        """
        if not self:
            return 0, "", []
        if report.requests == report.unobserved:
            return 2, "no request was seen by otel-httptrace", []
        failing = self.failing(report)
        before = len(self.asked(report)) - len(failing)
        as_before = f"{count(before, 'finding')} as before" if before else ""
        if not failing:
            return 0, f"nothing new: {as_before}" if before else "", []
        verdicts = ", ".join(sorted({finding.verdict for finding in failing}))
        return 1, f"found {verdicts}" + (f"; {as_before}" if before else ""), list(github(failing))

    def _known(self, finding: Finding) -> bool:
        return (
            self.before is not None
            and _key(finding.verdict, finding.line, finding.origin, finding.numbers) in self.before
        )


def baseline(path: str) -> frozenset[tuple[str, str]]:
    """What the report in a file that ``--json`` wrote has found.

    Raises:
        ValueError: it cannot be read, or is something else. The message says so.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no report of --json: it is not JSON") from error
    findings = document.get("findings") if isinstance(document, dict) else None
    if not isinstance(findings, list) or not all(isinstance(finding, dict) for finding in findings):
        raise ValueError(f"{path} is no report of --json: it has no findings")
    if document.get("version") != VERSION:
        raise ValueError(f"{path} is a report of another version of httptrace: make it again")
    return frozenset(
        _key(*(finding.get(name) for name in ("verdict", "line", "origin", "numbers"))) for finding in findings
    )


_NUMBER: Final = re.compile(r":\d+ in ")
_LOCAL: Final = re.compile(r"(//(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])):\d+$")


def _key(verdict: Any, line: Any, origin: Any, numbers: Any) -> tuple[str, str]:
    name = str(verdict)
    if name == "failed" and isinstance(numbers, dict):
        name = f"{name} {numbers.get('phase')} {numbers.get('error')} {numbers.get('cause')}"
    if isinstance(line, str) and line:
        return name, _NUMBER.sub(" in ", line, count=1)
    return name, _LOCAL.sub(r"\1", origin) if isinstance(origin, str) else ""


# https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
# Escaped as in https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts


def github(findings: Iterable[Finding], environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """For GitHub Actions, a line each that shows a finding beside the code at fault; none anywhere else.

    Args:
        findings: those that are a failure.
        environ: ``GITHUB_ACTIONS`` says where it runs, ``GITHUB_WORKSPACE`` what paths are relative to.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    for finding in findings:
        properties = {"title": f"httptrace: {finding.verdict}"}
        place = located(finding.line)
        if place is not None:
            path, number = place
            root = Path(environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
            properties = {
                "file": (path.relative_to(root) if path.is_relative_to(root) else path).as_posix(),
                "line": str(number),
                **properties,
            }
        told = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        yield f"::error {told}::{_data(f'{finding.sentence} => {finding.advice}')}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


__all__ = ["SEVERITIES", "Gate", "baseline", "github", "parse"]
