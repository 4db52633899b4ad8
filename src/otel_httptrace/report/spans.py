"""A received span, whatever it came in: OTLP, Jaeger's JSON or Tempo's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Link(NamedTuple):
    """A link to another span: hexadecimal ids, and attributes (Jaeger drops these)."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class Source(NamedTuple):
    """Who sent it: of the resource, what tells one process from another."""

    service: str
    #: ``service.instance.id``, else what else is unique to the process; empty if nothing is.
    instance: str


@dataclass(slots=True)
class Span:
    """One span.

    Args:
        trace_id: hexadecimal, as are ``span_id`` and ``parent_id``, which is empty for a root.
        start: nanoseconds since the epoch, as is ``end``.
        client: whether its kind is CLIENT; ``server``, whether it is SERVER.
        half: whether it is of another service than was asked for, and only taken as the other end of a request.
        failed: whether its status is ERROR.
        scope: the name of the instrumentation that made it; empty where the source does not say.
        sentences: of its events ``httptrace.diagnosis``, each with the nanoseconds since the epoch when it happened.
        raised: the class that its last event ``exception`` names, without its module; empty if it has none.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    client: bool
    failed: bool
    scope: str
    source: Source
    attributes: dict[str, Any]
    links: tuple[Link, ...]
    sentences: tuple[tuple[int, str], ...] = ()
    raised: str = ""
    server: bool = False
    half: bool = False
