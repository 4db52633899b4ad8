"""What verdicts on redirects, repeated attempts and slow dials ask for: as definitions.py."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from ...telemetry import names
from ..facts import PERMANENT, VAIN, answered_badly, fallback, redirected_in_vain
from ..findings import Severity
from ..rows import REDIRECTS, Row, Step
from ..units import seconds
from .conditions import Condition, answered, is_, no, that, took
from .definitions import RAN, STALL, Definition, Rival, Together

#: Hops of one call that make a loop: httpx gives up after 20, requests after 30, unless told otherwise; and how many do
#: if they come back to the same URL so often.
MOST: Final = 20
FEW: Final = 5
AGAIN: Final = 3
#: Seconds from a redirect to the request that follows it.
AT_ONCE: Final = 0.05

#: Statuses that say of a request that it will not do as it is. What is not there (404, 410) or in the way (409, 412) is often asked for.
REFUSALS: Final = frozenset({400, 401, 402, 403, 405, 406, 411, 413, 414, 415, 421, 422, 426, 431, 451})

_GAVE_UP: Final = that(
    f"{names.ERROR_TYPE} is TooManyRedirects, or the span failed with such a status, and {VAIN} or more requests within it had got one before",
    redirected_in_vain,
)


def same_but_for_slash(first: str, second: str) -> bool:
    """Whether two URLs are another one, and the same but for the scheme or a slash at the end."""
    return first != second and len({url.partition("://")[2].rstrip("/") for url in (first, second)}) == 1


class Pauses(NamedTuple):
    """Pauses between the attempts of one request.

    Args:
        seconds: all of them.
        failed: attempts before the last, by what they failed by.
        connects_only: whether it was only a connect that was repeated.
    """

    seconds: float
    failed: Counter[str]
    connects_only: bool


def pauses(row: Row) -> Pauses:
    """The pauses after attempts of *row* that failed, as far as its span tells."""
    failed: Counter[str] = Counter()
    connects = [step for step in row.steps if step.name == names.SPAN_CONNECT]
    between = 0.0
    if len(connects) > 1:
        # The phase has the pauses, the steps have not.
        between = max(0.0, row.phases.get("connect", 0.0) - sum(step.duration for step in connects))
        failed.update(
            str(step.attributes[names.ERROR_TYPE])
            for step in row.steps
            if step.name in (names.SPAN_CONNECT, names.SPAN_TLS) and names.ERROR_TYPE in step.attributes
        )
    repeated = False
    ends = [sent.start for sent in row.before[1:]]
    # The phases are those of the last attempt.
    ends.append(max(0.0, row.duration - sum(row.phases.values())))
    for sent, following in zip(row.before, ends, strict=False):
        error = sent.attributes.get(names.ERROR_TYPE)
        badly = answered_badly(sent)
        if badly or (error is not None and names.FAILED_PHASE in sent.attributes):
            repeated = True
            failed[str(sent.status) if badly else str(error)] += 1
            between += max(0.0, following - sent.start - sent.duration)
    return Pauses(between, failed, not repeated)


_NONE: Final = Step("", 0.0, 0.0, {}, 0)


def connect_of(row: Row) -> Step:
    """The slowest connect that succeeded; one of no time if there is none."""
    done = [step for step in row.steps if step.name == names.SPAN_CONNECT and names.ERROR_TYPE not in step.attributes]
    return max(done, key=lambda step: step.duration, default=_NONE)


_RESENT: Final = that(
    f"{names.CONNECT_RESENT} > 0 on http.connect",
    lambda row: int(connect_of(row).attributes.get(names.CONNECT_RESENT, 0)) > 0,
)

MORE: Final = (
    Definition(
        "redirect_loop", (26,), Severity.FAILED,
        (
            that("its status is 301, 302, 303, 307 or 308, or error.type is TooManyRedirects",
                 lambda row: row.status in REDIRECTS or redirected_in_vain(row)),
        ),
        "the client gave up with TooManyRedirects",
        (Rival("a program that does not follow redirects, and asks again and again", _GAVE_UP),),
        together=Together(
            lambda limits: f"and the client gave up within one span; or more than {MOST} such answers in a row, or more than {FEW} of which "
            f"{AGAIN} came from the same URL, each to a request that began within {AT_ONCE} s of the answer before, in the same span or in "
            "none, and nothing followed the last",
            lambda hops, most: hops > MOST or (hops > FEW and most >= AGAIN),
        ),
    ),
    Definition(
        "requests_refused", (26,), Severity.FAILED,
        (answered(REFUSALS),),
        "the server answered so",
        (
            Rival(
                "a program that expects to be refused: a check of rights, a probe, a first request without credentials",
                that("nothing that is recorded", lambda row: False),
            ),
        ),
        number="statuses",
        together=Together(
            lambda limits: "and these are more than half of its answers",
            lambda refused, answers: refused * 2 > answers,
        ),
    ),
    Definition(
        "redirected", (26,), Severity.WASTE,
        (
            Condition(
                lambda limits: "its status is 301 or 308, or another redirect's to the same URL but for the scheme or a slash at its end; another "
                f"request followed within {AT_ONCE} s",
                lambda row, limits: row.status in REDIRECTS,
            ),
        ),
        "the server answered so, and said that it always will",
        (
            Rival(
                "another request that began just then, and has nothing to do with it",
                that("the status is 301 or 308", lambda row: row.status in PERMANENT),
            ),
        ),
        number="redirects",
    ),
    Definition(
        "waited_to_retry", (29,), Severity.SLOW,
        (
            Condition(
                lambda limits: f"the pauses after attempts within its span that failed (a connect; or a request, by an error, 429 or 5xx) are >= "
                f"{seconds(limits.backoff)} (backoff) together",
                lambda row, limits: pauses(row).seconds >= limits.backoff,
            ),
        ),
        "the client library itself pauses before it connects again",
        (
            Rival(
                "what else the program does between attempts (hooks, credentials)",
                that("it was only a connect that was repeated", lambda row: pauses(row).connects_only),
            ),
        ),
    ),
    Definition(
        "connect_slow", (8,), Severity.SLOW,
        (
            Condition(
                lambda limits: f"an http.connect that succeeded took {seconds(limits.connect)} (connect) or longer",
                lambda row, limits: connect_of(row).duration >= limits.connect,
            ),
        ),
        "the kernel had to send its SYN again, for nobody had answered",
        (
            Rival(STALL.cause, _RESENT, STALL.shown),
            Rival("another address was tried first, in vain", _RESENT,
                  Condition(
                      lambda limits: f"an http.connect of {limits.fallback} s (fallback) or longer ended at an address of another family than the "
                      "first of dns.answers",
                      lambda row, limits: fallback(row, limits.fallback) is not None)),
            Rival("the way there takes that long", _RESENT),
        ),
    ),
    Definition(
        "proxy_slow", (31,), Severity.SLOW,
        (took("proxy", "proxy"), no(is_(names.FAILED_PHASE, "proxy"))),
        "what was asked of the proxy was timed, and this process ran then",
        (Rival(STALL.cause, RAN, STALL.shown),),
    ),
)  # fmt: skip
"""Definitions of verdicts, beside those in definitions.py."""
