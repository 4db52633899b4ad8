"""What has changed from one report to the next."""

from __future__ import annotations

from .findings import Finding
from .summary import Report
from .units import count, seconds


def changes(before: Report, now: Report, ago: float) -> str:
    """What *now* has that *before*, a report of the same run, had not: a sentence.

    Args:
        before: the report that was shown last.
        now: the one that is to be shown.
        ago: seconds between the two.
    """
    more = [count(now.requests - before.requests, "request")]
    for many, what in (
        (_sum(now, "failed") - _sum(before, "failed"), "failed"),
        (_sum(now, "cancelled") - _sum(before, "cancelled"), "cancelled"),
    ):
        if many > 0:
            more.append(f"{many:,} {what}")
    opened = _sum(now, "opened") - _sum(before, "opened")
    more.append(f"{count(opened, 'connection')} opened")
    told = [f"since the report {seconds(ago)} ago: {', '.join(more)}"]
    known = {_key(finding): finding.requests for finding in before.findings}
    new = [finding for finding in now.findings if _key(finding) not in known]
    grown = [(finding, finding.requests - known.get(_key(finding), finding.requests)) for finding in now.findings]
    grown = [(finding, many) for finding, many in grown if many > 0]
    if new:
        told.append("new: " + ", ".join(f"{finding.verdict} ({count(finding.requests, 'request')})" for finding in new))
    if grown:
        told.append("more of: " + ", ".join(f"{finding.verdict} ({many:,} more)" for finding, many in grown))
    if now.findings and not new and not grown:
        told.append("no more of what was found")
    return "; ".join(told)


def _sum(report: Report, name: str) -> int:
    return sum(getattr(origin, name) for origin in report.origins)


def _key(finding: Finding) -> tuple[str, str | None, str]:
    return finding.verdict, finding.line, finding.origin


__all__ = ["changes"]
