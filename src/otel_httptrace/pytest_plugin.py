# Loaded by every pytest that runs where this package is installed: so it imports nothing
# until it is asked to do something.

"""``pytest --httptrace``: what the HTTP requests of the tests did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("httptrace", "what HTTP requests did (otel-httptrace)")
    group.addoption(
        "--httptrace",
        action="store_true",
        help="observe the HTTP requests of the tests, and summarize what is wrong with them",
    )
    group.addoption(
        "--httptrace-fail-on",
        action="append",
        default=[],
        metavar="VERDICT,...",
        help="fail if one of these is found: any, failed, slow, waste, or verdicts; turns --httptrace on",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin, if that is asked for."""
    if config.getoption("--httptrace") or config.getoption("--httptrace-fail-on"):
        import pytest  # noqa: PLC0415

        try:
            from .cli.testing import Observation  # noqa: PLC0415
        except ImportError as error:
            raise pytest.UsageError(f"--httptrace needs {error.name}: pip install 'otel-httptrace[cli]'") from error
        config.pluginmanager.register(Observation(config), "httptrace-observation")
