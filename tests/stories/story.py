# A story is told by a program that knows nothing of us and a server that does
# what servers do. Beside what must be found there is a control: the same, but for
# one thing, and nothing is found. tools/make_docs.py prints docs/stories.md and the
# guide for those on call, docs/incidents.md, from this: what is documented was played,
# and tests/backends/test_incidents.py has asked every query of the real backends.

"""What an incident story consists of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from string import Template
from typing import Any

from otel_httptrace.report.findings import Sure, Thresholds

from .worlds import World

Worlds = Callable[[], AbstractContextManager[World]]


@dataclass(frozen=True)
class AtLeast:  # noqa: PLW1641 - a dataclass that is frozen has a hash
    """Equal to what is not less: no machine is so slow that this could fail."""

    least: float

    def __eq__(self, other: object) -> bool:
        """Whether *other* is at least so much."""
        return isinstance(other, int | float) and other >= self.least


@dataclass(frozen=True)
class Found:
    """What the report must say first.

    Args:
        verdict: its name.
        requests: how many it concerns; None where that depends on who was quicker.
        line: the comment that marks the line of the program; None if the finding names none.
        numbers: some of its numbers.
        sure: how sure it is.
    """

    verdict: str
    requests: int | None
    line: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    sure: Sure = Sure.CERTAIN


@dataclass(frozen=True)
class Search:
    """What is filled into Jaeger's search, beside the service. All of it is about one span.

    Args:
        tags: as there, in logfmt: ``a=b c=d``. They are compared as text, and must be equal.
        operation: the span's name.
        longer: the threshold that its duration is compared with, by name.
    """

    tags: str = ""
    operation: str = ""
    longer: str = ""

    def duration(self, thresholds: Thresholds) -> str:
        """Its "Min Duration"; empty if there is none."""
        if not self.longer:
            return ""
        seconds = getattr(thresholds, self.longer)
        return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


@dataclass(frozen=True)
class Guide:
    """What who is on call needs to know, beside the query in TraceQL.

    Args:
        symptoms: what it looks like from outside; each begins with a word of `KINDS`.
        search: what finds it in Jaeger.
        promql: what tells that it happens, and more that say where; ``$service`` and ``$name``, a threshold, are to
            be filled in. None where no metric tells.
        sees: what is on that which was found.
        cause: why it happens.
        fix: more of what to do than the story's advice.
        but: what else is found, where a language cannot tell it apart.
        fired: more in PromQL for whom an alert has led here: it has data while it goes on, of other stories too.
        rows: more to search for in Jaeger, that no program here can bring about.
        kept: whether gateway.yaml keeps all that is found. Of the rest it keeps a share.
    """

    symptoms: tuple[str, ...]
    search: Search
    promql: tuple[str, ...]
    sees: str
    cause: str
    fix: str = ""
    but: str = ""
    fired: tuple[str, ...] = ()
    rows: tuple[Search, ...] = ()
    kept: bool = False

    def asked(self, thresholds: Thresholds, service: str, *, fired: bool = False) -> tuple[str, ...]:
        """The queries in PromQL, about *service*: `promql`, or those for whom an alert has *fired*."""
        values = {"service": service, **{name: f"{value:g}" for name, value in vars(thresholds).items()}}
        return tuple(Template(query).substitute(values) for query in (self.fired if fired else self.promql))


#: What an incident looks like from outside.
KINDS = ("slow", "fails", "load")


@dataclass(frozen=True)
class Case:
    """A program against a server.

    Args:
        what: happens, in a sentence.
        program: of tests/stories/programs: ``NAME.py`` is sync, ``NAME_async.py`` runs on asyncio and trio.
        world: what it talks to.
        prints: all that the program prints.
        found: what the report must say first; None: it finds nothing.
        also: verdicts that come with it, in their order: what else is true of the same requests.
        arguments: the program's, after the URL.
        runs: what it is run with: the library and how, ``httpx2 trio``.
        thresholds: lowered where the story would take long in real time.
        query: what finds it, where that is not the story's.
        search: the same in Jaeger.
        finds: how many requests the query finds; None where that depends on who was quicker. More than none where
            a verdict knows better that it is a control: it counts.
        also_searched: and how many more Jaeger's search finds, which cannot tell them apart.
        also_counted: and how many more PromQL counts.
        unseen: connections to the server of which no span can tell.
        environ: variables that the program is run with.
        says: a pattern for what a sentence says on a request that the query finds. None where a request was answered
            with an error and nothing else: its status is no news.
        stalls: its process stands still, as is told. Of all others that is not looked at: a busy machine holds them up.
    """

    what: str
    program: str
    world: Worlds
    prints: str
    found: Found | None = None
    also: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    runs: tuple[str, ...] = ("httpx sync",)
    thresholds: Thresholds = Thresholds()  # noqa: RUF009 - it is frozen
    query: str | None = None
    search: Search | None = None
    finds: int | None = 0
    also_searched: int = 0
    also_counted: int = 0
    unseen: int = 0
    environ: tuple[tuple[str, str], ...] = ()
    says: str | None = None
    stalls: bool = False

    def file(self, how: str) -> str:
        """The program's file, for one of `runs`."""
        return f"{self.program}.py" if how.endswith(" sync") else f"{self.program}_async.py"


@dataclass(frozen=True)
class Story:
    """An incident.

    Args:
        number: as in the issue that it came from.
        title: what people see.
        query: what finds it in a backend, in TraceQL; ``$name`` is a threshold.
        look: where to look on what was found.
        advice: what to do.
        cases: in which it must be found.
        controls: in which it must not.
        guide: for those on call.
    """

    number: int
    title: str
    query: str
    look: str
    advice: str
    cases: tuple[Case, ...]
    controls: tuple[Case, ...]
    guide: Guide

    def queries(self, thresholds: Thresholds, case: Case | None = None) -> tuple[str, ...]:
        """The query with its *thresholds*: that of *case*, or all that there are."""
        values = {name: f"{value:g}" for name, value in vars(thresholds).items()}
        asked = [one.query or self.query for one in (self.cases if case is None else (case,))]
        return tuple(dict.fromkeys(Template(query).substitute(values) for query in asked))


def opened(reason: str) -> str:
    """Connections opened for this reason, each second."""
    return f'sum by (server_address) (rate(httptrace_connections_opened_total{{job="$service", httptrace_conn_open_reason="{reason}"}}[5m]))'


def lines(selected: str) -> str:
    """The lines of code that most of these spans name."""
    return f'topk(10, sum by (httptrace_body_closed_at) (increase(traces_span_metrics_calls_total{{job="$service", {selected}}}[1h])))'


def slowest(metric: str, by: str, threshold: str, selected: str = "") -> str:
    """Where the slowest of a hundred take longer than a threshold, or as long as the last bucket tells."""
    labels = 'job="$service"' + (f", {selected}" if selected else "")
    return f"histogram_quantile(0.99, sum by ({by}) (rate({metric}_bucket{{{labels}}}[5m]))) >= {threshold}"


def scaled(**settings: Any) -> Thresholds:
    """Thresholds lowered, so that nothing takes more than a second or two."""
    return replace(Thresholds(), **settings)


#: Both libraries, in every way to run them: where what they do differs, or how it is seen.
ALL = ("httpx sync", "httpx2 sync", "httpx asyncio", "httpx2 trio")
ASYNC = ("httpx asyncio", "httpx2 asyncio", "httpx trio", "httpx2 trio")
#: A run takes a second of a processor.
SOME = ("httpx sync", "httpx2 asyncio")
