"""Settings: one frozen object, from keywords and the environment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import environment_variables as env
from .clients import libraries

_logger = logging.getLogger(__name__)

Spans = Literal["none", "connection", "all"]
SpanEnd = Literal["body", "headers"]

# What OpenTelemetry's specification calls a boolean value: only "true", in any
# case, is true. We also take the spellings people type, and warn for the rest:
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#boolean-value
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True)
class Config:
    """What a user can set; see the README for who wants which.

    Args:
        spans: child spans: ``none``, ``connection`` (DNS, connect, proxy and TLS, when they
            happened) or ``all`` (also what every request does: several spans each).
        span_end: whether the request span's end timestamp is that of the ``body`` or the ``headers``.
        code_location: record the application's line for bodies closed early or never closed.
        max_origins: how many origins metrics tell apart; the rest count as ``_other``.
        app_packages: import names of installed packages that are the application itself.
        libraries: the client libraries that are observed; none named: all that are installed.
    """

    spans: Spans = "connection"
    span_end: SpanEnd = "body"
    code_location: bool = True
    max_origins: int = 1000
    app_packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str], keywords: Mapping[str, Any]) -> Config:
        """Settings from keywords, then from the environment, then the defaults.

        Args:
            environ: usually ``os.environ``. An unknown value in it is logged as one warning and
                the default is used: a deployment's typo must not stop the application.
            keywords: what was passed in code; ``None`` counts as not passed.

        Raises:
            ValueError: a keyword's value is not allowed. The message names it and what is.
        """
        settings: dict[str, Any] = {}
        for name, variable, parse in _SETTINGS:
            keyword = keywords.get(name)
            if keyword is not None:
                settings[name] = parse(name, keyword)
                continue
            text = environ.get(variable, "").strip()
            if text:
                try:
                    settings[name] = parse(variable, text)
                except ValueError as error:
                    _logger.warning("%s; using the default", error)
        return cls(**settings)


def _choice(*allowed: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        text = value.strip().lower() if isinstance(value, str) else value
        if text not in allowed:
            raise ValueError(f"{name}={value!r} is not one of: {', '.join(allowed)}")
        return str(text)

    return parse


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{name}={value!r} is not one of: true, false")


def _positive(name: str, value: object) -> int:
    try:
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}={value!r} is not a positive integer")
    return number


def _packages(name: str, value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple, set, frozenset)) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{name}={value!r} is not a list of package names")
    return tuple(part.strip() for part in parts if part.strip())


def _libraries(name: str, value: object) -> tuple[str, ...]:
    allowed = libraries()
    chosen = tuple(part.lower() for part in _packages(name, value))
    unknown = [part for part in chosen if part not in allowed]
    if unknown:
        raise ValueError(f"{name}={value!r}: {', '.join(unknown)} is not one of: {', '.join(allowed)}")
    return chosen


_SETTINGS: tuple[tuple[str, str, Callable[[str, object], object]], ...] = (
    ("spans", env.OTEL_PYTHON_HTTPTRACE_SPANS, _choice("none", "connection", "all")),
    ("span_end", env.OTEL_PYTHON_HTTPTRACE_SPAN_END, _choice("body", "headers")),
    ("code_location", env.OTEL_PYTHON_HTTPTRACE_CODE_LOCATION, _boolean),
    ("max_origins", env.OTEL_PYTHON_HTTPTRACE_MAX_ORIGINS, _positive),
    ("app_packages", env.OTEL_PYTHON_HTTPTRACE_APP_PACKAGES, _packages),
    ("libraries", env.OTEL_PYTHON_HTTPTRACE_LIBRARIES, _libraries),
)
