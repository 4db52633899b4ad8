# One file that can be mailed, archived with a build and opened in ten years:
# nothing in it is fetched, and a policy in it forbids that anything could be. What is
# text (the findings, the tables) is written here and needs no script; the script
# draws what is to be explored.
#
# Spans come from anywhere, so text from them reaches the page in two ways only:
# through the template, which escapes it, and as JSON, which the script sets as text.

"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from importlib.resources import files
from typing import Final, NamedTuple

import jinja2
from markupsafe import Markup

from ...version import __version__
from ..colours import COLOURS
from ..findings import Finding, Severity, Sure
from ..look import Look
from ..rows import PHASES
from ..summary import Origin, Report, Server
from ..units import count, seconds, share
from .bundle import bundle
from .data import CLOSED, ENDED, OPENED, OUTCOMES, Requests, clean, method, micros, phases, whole

#: Origins that get their tables; the rest get a line each.
_IN_FULL: Final = 12
_PATHS: Final = 15
_PEERS: Final = 15

_SURE: Final = {
    Sure.CERTAIN: "the client saw it happen",
    Sure.LIKELY: "it follows from what was seen",
    Sure.POSSIBLE: "one of several explanations",
}


def render(report: Report, jaeger: str = "") -> str:
    """One HTML page that shows *report*, to be written to a file in UTF-8.

    It needs nothing but a browser: no network, and no other file. Of a URL it shows the origin and what
    `report.paths` leaves of the path, of attributes those that `telemetry.names` lists.

    Args:
        report: what there is to say.
        jaeger: the address of a Jaeger that has the traces, to be linked to; empty if there is none.
    """
    requests = Requests(report, Look(jaeger=jaeger))
    data = requests.embed()
    style, theme, script = _style(), _asset("theme.js"), _script()
    return _template().render(
        report=report,
        version=__version__,
        policy=_policy(style, theme, script),
        style=Markup(style),  # noqa: S704 - files of this package
        theme=Markup(theme),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=Markup(data),  # noqa: S704 - escaped by `embed`
        requests=requests,
        phases=tuple(PHASES),
        findings=[_finding(finding, requests) for finding in report.findings],
        summary=_summary(report),
        origins=[_origin(origin) for origin in report.origins[:_IN_FULL]],
        others=[_origin(origin) for origin in report.origins[_IN_FULL:]],
        servers=[_server(server) for server in report.servers[:_IN_FULL]],
        judged=report.requests or report.served,
        examples=list(_examples(report, requests)),
        thresholds=list(report.thresholds.told(servers=report.both_ends).items()),
        when=_when(report),
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(seconds=seconds, count=_thousands)
    return environment.get_template("page.html.j2")


def _finalize(value: object) -> object:
    # Whatever is shown: markup of ours stays, all else is cleaned, and then escaped.
    return value if isinstance(value, Markup) else clean(value, 4000)


@lru_cache(maxsize=32)
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _style() -> str:
    colours = " ".join(f"--{phase}: light-dark({one.light}, {one.dark});" for phase, one in COLOURS.items())
    return _asset("page.css").replace("/* phases */", colours)


@lru_cache(maxsize=1)
def _script() -> str:
    script = bundle("page", lambda name: _asset(f"script/{name}.js"))
    return f'(() => {{\n"use strict";\n{script}}})();\n'


def _policy(style: str, *scripts: str) -> str:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(digest, scripts))}",
            f"style-src {digest(style)}",
            # The icon, which keeps browsers from asking a server for one.
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _thousands(value: int) -> str:
    return f"{value:,}"


class _Tile(NamedTuple):
    label: str
    value: str
    note: str
    bad: bool = False


def _summary(report: Report) -> list[_Tile]:
    failed = sum(origin.failed for origin in report.origins)
    cancelled = sum(origin.cancelled for origin in report.origins)
    ended = [f"{number:,} {how}" for number, how in ((failed, "failed"), (cancelled, "cancelled")) if number]
    opened = sum(origin.opened for origin in report.origins)
    reused = sum(origin.reused for origin in report.origins)
    lookups = sum(origin.lookups for origin in report.origins)
    got = opened + reused
    named = ", ".join(filter(None, report.services[:3]))
    return [
        _Tile("Requests", _thousands(report.requests), ", ".join(ended) or "none failed", failed > 0),
        _Tile("Connections opened", _thousands(opened), f"to {count(len(report.origins), 'origin')}"),
        _Tile(
            "Reuse",
            share(reused, got) if got else "—",
            f"{reused:,} of {count(got, 'request')}" if got else "no connection seen",
        ),
        _Tile("Lookups", _thousands(lookups), "of names"),
        _Tile(
            "Time span", seconds(max(0.0, report.ended - report.started)) if report.started else "—", "first to last"
        ),
        _Tile("Services", _thousands(len(report.services)), named or "without a name"),
    ]


def _when(report: Report) -> str:
    if not report.started:
        return ""
    try:
        began = datetime.fromtimestamp(report.started, timezone.utc)
        ended = datetime.fromtimestamp(report.ended, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return ""
    if ended.replace(microsecond=0) == began.replace(microsecond=0):
        return f"{began:%Y-%m-%d %H:%M:%S} UTC"
    until = "%H:%M:%S" if began.date() == ended.date() else "%Y-%m-%d %H:%M:%S"
    return f"{began:%Y-%m-%d %H:%M:%S} to {ended.strftime(until)} UTC"


class _Evidence(NamedTuple):
    trace_id: str
    span_id: str
    what: str
    number: int | None
    address: str


class _Shown(NamedTuple):
    finding: Finding
    severity: str
    word: str
    sure: str
    evidence: list[_Evidence]


_WORDS: Final = {Severity.FAILED: "Failed", Severity.SLOW: "Slow", Severity.WASTE: "Waste"}


def _finding(finding: Finding, requests: Requests) -> _Shown:
    return _Shown(
        finding,
        finding.severity.name.lower(),
        _WORDS[finding.severity],
        finding.because or _SURE[finding.sure],
        [
            _Evidence(
                *item,
                requests.find(item.trace_id, item.span_id),
                requests.look.address(item.trace_id, item.span_id),
            )
            for item in finding.evidence
        ],
    )


class _Example(NamedTuple):
    label: str
    number: int
    duration: float
    method: str
    status: int
    origin: str
    note: str
    bars: list[tuple[str, float, float]]


_PLACES: Final = ("Slowest", "Second slowest", "Third slowest")


def _examples(report: Report, requests: Requests) -> Iterator[_Example]:
    seen = set()
    candidates = [(_PLACES[place] if place < len(_PLACES) else "Slow", row) for place, row in enumerate(report.slowest)]
    if report.typical is not None:
        candidates.append(("Typical", report.typical))
    for label, row in candidates:
        found = requests.find(row.trace_id, row.span_id)
        if found is None or found in seen:
            continue
        seen.add(found)
        known = phases(row)
        longest = max(known, key=lambda phase: known[phase], default=None)
        duration = micros(row.duration) / 1e6
        rest = duration - sum(known.values())
        if longest is None:
            note = "no phases seen"
        elif rest > known[longest]:
            note = f"mostly not accounted for, {seconds(rest)}"
        else:
            note = f"mostly {longest}, {seconds(known[longest])}"
        yield _Example(
            label,
            found,
            duration,
            method(row),
            whole(row.status),
            row.origin + row.path,
            note,
            list(_stacked(duration, known)),
        )


def _stacked(duration: float, known: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    # Phase, where its bar starts and how wide it is, in thousandths: those before the request was sent from the
    # left, the others up to the right, and what nobody accounted for in between.
    total = max(duration, sum(known.values()), 1e-9)
    left, right = 0.0, 0.0
    late = ("send", "wait", "receive")
    for phase in (phase for phase in known if phase not in late):
        yield phase, round(left / total * 1000, 1), round(known[phase] / total * 1000, 1)
        left += known[phase]
    for phase in reversed([phase for phase in known if phase in late]):
        right += known[phase]
        yield phase, round((total - right) / total * 1000, 1), round(known[phase] / total * 1000, 1)


class _Phase(NamedTuple):
    name: str
    number: int
    times: list[float]
    bars: list[float]


class _Bar(NamedTuple):
    name: str
    number: int
    share: str
    width: float
    what: str
    bad: bool


class _Path(NamedTuple):
    name: str
    requests: int
    failed: int
    times: list[float]


class _Origin(NamedTuple):
    origin: Origin
    paths: list[_Path]
    more_paths: int
    phases: list[_Phase]
    reuse: str
    counters: list[tuple[str, list[_Bar]]]


_GOOD: Final = frozenset({"complete", "first_connection", "all_busy", "client_closed", "upgraded", "unknown"})
#: Of a server's, which are as they should be.
_AGREED: Final = frozenset({"client_closed", "keepalive_timeout", "max_requests", "shutdown", "upgraded", "unknown"})


def _origin(origin: Origin) -> _Origin:
    known = [(name, origin.phases[name]) for name in (*PHASES, "total") if name in origin.phases]
    found = [(name, times.count, [times.at(part) for part in (0.5, 0.95, 0.99)]) for name, times in known]
    longest = max((times[-1] for _, _, times in found), default=0.0) or 1.0
    got = origin.opened + origin.reused
    paths = origin.slowest_paths if len(origin.paths) > 1 else []
    return _Origin(
        origin,
        [
            _Path(name, path.requests, path.failed, [path.times.at(part) for part in (0.5, 0.95, 0.99)])
            for name, path in paths[:_PATHS]
        ],
        max(0, len(paths) - _PATHS),
        [
            _Phase(name, number, times, [round(value / longest * 1000, 1) for value in times])
            for name, number, times in found
        ],
        share(origin.reused, got) if got else "—",
        [
            (title, _bars(counter, what))
            for title, counter, what in (
                ("Connections were opened because", origin.open_reasons, OPENED),
                ("Connections were closed because", origin.close_reasons, CLOSED),
                ("Response bodies", origin.outcomes, OUTCOMES),
                ("Requests failed or were cancelled in", origin.failed_phases, {}),
            )
            if counter
        ],
    )


class _Server(NamedTuple):
    server: Server
    reuse: str
    times: list[tuple[str, int, list[float]]]
    counters: list[tuple[str, list[_Bar]]]


def _server(server: Server) -> _Server:
    known = server.opened + server.reused
    peers = Counter(dict(server.peers.most_common(_PEERS)))
    return _Server(
        server,
        share(server.reused, known) if known else "—",
        [
            (name, times.count, [times.at(part) for part in (0.5, 0.95, 0.99)])
            for name, times in (("took", server.times), ("idle before", server.idle))
            if times.count
        ],
        [
            (title, _bars(counter, what, good))
            for title, counter, what, good in (
                ("Connections ended with a request because", server.close_reasons, ENDED, _AGREED),
                ("Connections ended between requests because", server.lost, ENDED, _AGREED),
                ("Requests came from", peers, {}, frozenset(peers)),
            )
            if counter
        ],
    )


def _bars(counter: Counter[str], what: dict[str, str], good: frozenset[str] = _GOOD) -> list[_Bar]:
    total = sum(counter.values())
    return [
        _Bar(name, number, share(number, total), round(number / total * 1000, 1), what.get(name, ""), name not in good)
        for name, number in counter.most_common()
    ]


__all__ = ["render"]
