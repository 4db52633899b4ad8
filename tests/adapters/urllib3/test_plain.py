"""What is read without `marks.stored`: the attributes of urllib3's own objects."""

from __future__ import annotations

from typing import Any

import pytest

from otel_httptrace.adapters.urllib3.hooks import _reads_plainly


class _Asks:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class _AsksAlways:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)


class _Notes:
    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError(name)


class _Plain:
    pass


@pytest.mark.parametrize(("cls", "plainly"), [(_Plain, True), (_Asks, False), (_AsksAlways, False), (_Notes, False)])
def test_only_a_class_that_runs_no_code_of_its_own_is_read_plainly(cls: type, plainly: bool) -> None:
    """No code of a class is ever called for our attribute."""
    assert _reads_plainly(cls) is plainly
