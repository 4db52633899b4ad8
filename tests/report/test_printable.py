"""One place decides what of other people's text can be shown."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_httptrace
from otel_httptrace.report.printable import one_line, printable

SOURCES = Path(otel_httptrace.__file__).parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï ✓", "plain ünï ✓"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\r\n\tb", "a   b"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\u2028\u200b", " \\u200b"),
        ("\ud800", "\\ud800"),
        (b"\x1b", "b'\\x1b'"),
    ],
)
def test_unprintable_characters_are_spelled_out(text: object, shown: str) -> None:
    """White space is a blank, and what a terminal obeys or a reader does not see is spelled out."""
    assert printable(text) == shown


@given(st.text(st.characters(codec=None), max_size=500))
def test_nothing_else_gets_through(text: str) -> None:
    """Of any text, nothing is left that is a control, a format, a surrogate or a line's end; a line has its length."""
    for shown in (printable(text), one_line(text, 40), printable(text, 40)):
        assert not [char for char in shown if unicodedata.category(char)[0] == "C" or (char.isspace() and char != " ")]
    assert len(one_line(text, 40)) <= 40


def test_no_other_module_judges_characters() -> None:
    """No other module looks at characters to decide what can be shown."""
    own = re.compile(r"isprintable|unicode_escape|unicodedata")
    # They ask whether a header can be sent, and refuse it if not.
    allowed = {"report/printable.py", "report/forward.py", "report/sources/api.py", "cli/commands/probe.py"}
    found = {
        str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if own.search(path.read_text(encoding="utf-8"))
    }
    assert found == allowed
