"""A report as JSON: stable, documented in docs/report.md, made for machines."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, Final

from ..telemetry import names
from .findings import Finding
from .rows import Other, Row, Step
from .summary import Origin, Quantiles, Report, Server

#: Raised when something that is here changes its meaning or goes; what is added does not count.
VERSION: Final = 1

#: What of a request's attributes is handed on: names of ours and of what we fill in. Not upstream's, for a URL can
#: hold a query or a password.
_SHOWN: Final = frozenset(
    value
    for name, value in vars(names).items()
    if name.isupper() and isinstance(value, str) and not name.startswith(("METRIC_", "SPAN_", "LINK", "UPSTREAM"))
)


def dumps(report: Report) -> str:
    """*report* as JSON text in ASCII, so that it can be written anywhere, ending with a newline."""
    return json.dumps(_plain(document(report)), indent=2, allow_nan=False) + "\n"


def _plain(value: Any, depth: int = 0) -> Any:
    # What JSON has, whatever a span's attributes are: bytes as OTLP/JSON writes them, in base64, and null for a number
    # that JSON cannot write.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (dict, list, tuple)) and depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        return {str(name): _plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, depth + 1) for inner in value]
    return value


#: Lists in lists that are written: our own document has six, and attributes may have some of their own.
_DEEPEST: Final = 40


def document(report: Report) -> dict[str, Any]:
    """*report* as what JSON is made of. Times are seconds; those of day count from the epoch, in UTC."""
    return {
        "version": VERSION,
        "spans": report.spans,
        "foreign_spans": report.foreign,
        "requests": report.requests,
        "unobserved_requests": report.unobserved,
        "failures": report.failures,
        "unsent_processes": report.unsent_processes,
        "unsent_spans": report.unsent_spans,
        "unended_requests": report.unended_requests,
        "started": report.started,
        "ended": report.ended,
        "services": list(report.services),
        "problems": list(report.problems),
        "thresholds": report.thresholds.told(servers=report.both_ends),
        "findings": [_finding(finding) for finding in report.findings],
        "origins": [_origin(origin) for origin in report.origins],
        "slowest": [_request(row) for row in report.slowest],
        "typical": _request(report.typical) if report.typical is not None else None,
        # Only where servers have told of anything.
        **({"servers": [_server(server) for server in report.servers]} if report.both_ends else {}),
    }


def _server(server: Server) -> dict[str, Any]:
    return {
        "server": server.name,
        "requests": server.requests,
        "failed": server.failed,
        "inferred": server.inferred,
        "connections_opened": server.opened,
        "requests_on_reused_connections": server.reused,
        "reuse": server.reuse,
        "close_reasons": dict(server.close_reasons),
        "lost_between_requests": dict(server.lost),
        "peers": dict(server.peers),
        "seconds": _quantiles(server.times),
        "idle": _quantiles(server.idle),
    }


def _other(other: Other) -> dict[str, Any]:
    half, lost = other.half, other.lost
    told: dict[str, Any] = {"same_connection": other.same}
    if half is not None:
        told |= {
            "span_id": half.span_id,
            "service": half.source.service,
            "seconds": half.seconds,
            "failed": half.failed,
            "connection": half.connection,
            "requests_before": half.requests,
            "idle": half.idle,
            "close_reason": half.close_reason,
            "inferred": half.inferred,
        }
    if lost is not None:
        told["lost"] = lost._asdict()
    return told


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "severity": finding.severity.name.lower(),
        "origin": finding.origin,
        "sentence": finding.sentence,
        "advice": finding.advice,
        "sure": finding.sure.value,
        "because": finding.because,
        "criterion": finding.criterion,
        "requests": finding.requests,
        "seconds": finding.seconds,
        "line": finding.line,
        "via": finding.via,
        "numbers": finding.numbers or {},
        "rivals": [rival._asdict() for rival in finding.rivals],
        "origins": [share._asdict() for share in finding.origins],
        "evidence": [evidence._asdict() for evidence in finding.evidence],
    }


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "origin": origin.name,
        "requests": origin.requests,
        "failed": origin.failed,
        "cancelled": origin.cancelled,
        "connections_opened": origin.opened,
        "requests_on_reused_connections": origin.reused,
        "reuse": origin.reuse,
        "lookups": origin.lookups,
        "open_reasons": dict(origin.open_reasons),
        "close_reasons": dict(origin.close_reasons),
        "outcomes": dict(origin.outcomes),
        "failed_phases": dict(origin.failed_phases),
        "error_types": dict(origin.error_types),
        "failed_causes": dict(origin.failed_causes),
        "statuses": {str(status): number for status, number in sorted(origin.statuses.items())},
        "phases": {phase: _quantiles(times) for phase, times in origin.phases.items()},
        "paths": [
            {"path": name, "requests": path.requests, "failed": path.failed, "seconds": _quantiles(path.times)}
            for name, path in sorted(origin.paths.items(), key=lambda entry: -entry[1].requests)
        ],
    }


def _quantiles(times: Quantiles) -> dict[str, Any]:
    return {
        "requests": times.count,
        "p50": times.at(0.5),
        "p95": times.at(0.95),
        "p99": times.at(0.99),
        "longest": times.longest,
        "total": times.total,
    }


def _request(row: Row) -> dict[str, Any]:
    return {
        "trace_id": row.trace_id,
        "span_id": row.span_id,
        "name": row.name,
        "service": row.source.service,
        "origin": row.origin,
        "path": row.path,
        "status": row.status,
        "failed": row.failed,
        "started": row.start,
        "seconds": row.duration,
        "phases": dict(row.phases),
        "sentences": list(row.sentences),
        "attributes": _shown(row.attributes),
        "steps": [_step(step) for step in row.steps],
        "before": [
            {
                "origin": sent.origin,
                "started": sent.start,
                "seconds": sent.duration,
                "status": sent.status,
                "failed": sent.failed,
                "attributes": _shown(sent.attributes),
                "steps": [_step(step) for step in sent.steps],
            }
            for sent in row.before
        ],
        "links": [
            {
                "trace_id": link.trace_id,
                "span_id": link.span_id,
                "attributes": {name: value for name, value in link.attributes.items() if name.startswith("httptrace.")},
            }
            for link in row.links
        ],
        **({"server": _other(row.other)} if row.other is not None else {}),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "started": step.start,
        "seconds": step.duration,
        "depth": step.depth,
        "attributes": _shown(step.attributes),
    }


def _shown(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name in _SHOWN}
