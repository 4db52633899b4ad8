# What a verdict asks of a request is one value that can be tested and can be said:
# the criterion that is printed cannot be another than the one that was tested.

"""Conditions: what is asked of a request, in one place for the test and for the words."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..findings import Thresholds
from ..rows import PHASES, Row
from ..units import seconds


class Condition(NamedTuple):
    """Something that is so of a request, or is not.

    Args:
        said: the words for it, with the thresholds in force.
        holds: whether it is so.
    """

    said: Callable[[Thresholds], str]
    holds: Callable[[Row, Thresholds], bool]


def that(words: str, holds: Callable[[Row], bool]) -> Condition:
    """What a function tells."""
    return Condition(lambda limits: words, lambda row, limits: holds(row))


def is_(name: str, *values: Any) -> Condition:
    """An attribute has one of these *values*."""
    words = f"{name} is {_listed(str(value) for value in values)}"
    return Condition(lambda limits: words, lambda row, limits: row.attributes.get(name) in values)


def answered(statuses: Collection[int]) -> Condition:
    """The response has one of these *statuses*."""
    words = f"its status is {_listed(str(status) for status in sorted(statuses))}"
    return Condition(lambda limits: words, lambda row, limits: row.status in statuses)


def true(name: str) -> Condition:
    """An attribute is true."""
    return Condition(lambda limits: name, lambda row, limits: row.attributes.get(name) is True)


def present(name: str) -> Condition:
    """An attribute is there."""
    return Condition(lambda limits: f"{name} is there", lambda row, limits: name in row.attributes)


def absent(name: str) -> Condition:
    """An attribute is not there."""
    return Condition(lambda limits: f"no {name}", lambda row, limits: name not in row.attributes)


def above(name: str, number: float) -> Condition:
    """An attribute is greater than *number*."""
    return Condition(lambda limits: f"{name} > {number}", lambda row, limits: row.attributes.get(name, number) > number)


def at_least(name: str, limit: str) -> Condition:
    """An attribute has reached the threshold called *limit*."""
    return Condition(
        lambda limits: f"{name} >= {_threshold(limits, limit)}",
        lambda row, limits: row.attributes.get(name, -1.0) >= getattr(limits, limit),
    )


def below(name: str, limit: str) -> Condition:
    """An attribute is there, and has not reached the threshold called *limit*."""
    return Condition(
        lambda limits: f"{name} < {_threshold(limits, limit)}",
        lambda row, limits: 0 <= row.attributes.get(name, -1.0) < getattr(limits, limit),
    )


def took(phase: str, limit: str) -> Condition:
    """A phase took as long as the threshold called *limit*, or longer."""
    return Condition(
        lambda limits: f"{PHASES[phase]} >= {_threshold(limits, limit)}",
        lambda row, limits: row.phases.get(phase, -1.0) >= getattr(limits, limit),
    )


def either(*conditions: Condition) -> Condition:
    """At least one of them holds."""
    return Condition(
        lambda limits: " or ".join(one.said(limits) for one in conditions),
        lambda row, limits: any(one.holds(row, limits) for one in conditions),
    )


def both(*conditions: Condition) -> Condition:
    """All of them hold."""
    return Condition(
        lambda limits: " and ".join(one.said(limits) for one in conditions),
        lambda row, limits: all(one.holds(row, limits) for one in conditions),
    )


def no(condition: Condition) -> Condition:
    """It does not hold."""
    return Condition(
        lambda limits: f"not ({condition.said(limits)})", lambda row, limits: not condition.holds(row, limits)
    )


def _threshold(limits: Thresholds, name: str) -> str:
    value = getattr(limits, name)
    return f"{seconds(value) if isinstance(value, float) else value} ({name})"


def _listed(words: Any) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else str(last)
