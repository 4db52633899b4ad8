"""Each parser takes whatever comes: it reads it, or says in a line why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given

from . import EXAMPLES, fuzzing
from .strategies import INPUTS
from .targets import NAMES, Answers, targets

CORPUS = Path(__file__).with_name("corpus")


@pytest.fixture(scope="module")
def by_name() -> Iterator[dict[str, Callable[[bytes], None]]]:
    """The targets, with a backend that runs."""
    answers = Answers()
    with answers.backend:
        yield targets(answers)


@pytest.mark.timeout(60 + EXAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_comes_raises_only_what_is_promised(by_name: dict[str, Callable[[bytes], None]], name: str) -> None:
    """No input makes a parser, or what is made of what it read, raise what is not promised, or show what is not fit to be."""

    @fuzzing()
    @given(INPUTS[name])
    @example(b"")
    def fuzz(data: bytes) -> None:
        by_name[name](data)

    fuzz()


@pytest.mark.parametrize(
    "path",
    [path for name in NAMES for path in sorted((CORPUS / name).iterdir())],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_the_corpus_is_read(by_name: dict[str, Callable[[bytes], None]], path: Path) -> None:
    """What was once found to break a parser, and what gets far into one, is read."""
    by_name[path.parent.name](path.read_bytes())


def test_the_corpus_has_all() -> None:
    """Every target has kept inputs."""
    assert {path.name for path in CORPUS.iterdir()} == {*NAMES, "http"}


@pytest.mark.parametrize("name", NAMES)
def test_inputs_get_far(name: str) -> None:
    """Among what is sent there is what is read to its end: requests with attributes, of which a report is made."""
    wanted = {
        "otlp_json": b"attributes",
        "otlp_protobuf": b"http",
        "file": b"\x1f\x8b",
        "jaeger": b"tags",
        "tempo": b"traces",
    }
    found = []

    @fuzzing()
    @given(INPUTS[name])
    def look(data: bytes) -> None:
        found.append(wanted[name] in data)

    look()
    assert any(found)
