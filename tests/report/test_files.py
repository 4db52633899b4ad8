"""Files of OTLP JSON lines, whole, cut off and mixed up."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from kit.otlp import story

from otel_httptrace.report.otlp import from_json, from_protobuf, to_json
from otel_httptrace.report.rows import rows
from otel_httptrace.report.sources import SourceError
from otel_httptrace.report.sources.files import FileSource
from otel_httptrace.telemetry.described import OTHERS, REQUEST
from otel_httptrace.telemetry.described import SPANS as SPANS_DESCRIBED

LINES = [to_json(request) + b"\n" for request in story()]
SPANS = [span for request in story() for span in from_protobuf(request)]


def written(tmp_path: Path, *parts: bytes) -> Path:
    """A file of these."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"".join(LINES),
        b"".join(LINES).rstrip(b"\n"),
        b"\r\n\r\n".join(line.strip() for line in LINES),
        b"\xef\xbb\xbf" + b"".join(LINES),
        gzip.compress(b"".join(LINES), mtime=0),
        gzip.compress(LINES[0], mtime=0) + gzip.compress(LINES[1], mtime=0),
        b"{}\n" + b"".join(LINES),
    ],
    ids=["lines", "no end of line", "CRLF and empty lines", "BOM", "gzip", "gzip appended", "an empty request"],
)
def test_every_way_to_write_lines_is_read(tmp_path: Path, content: bytes) -> None:
    """Every way to write lines is read, to the last byte, without a problem."""
    source = FileSource(written(tmp_path, content))

    assert list(source) == SPANS
    assert list(source.problems) == []
    assert source.position == source.size == len(content)


def test_an_empty_file_is_no_problem(tmp_path: Path) -> None:
    """An empty file has no spans, and that is no problem."""
    source = FileSource(written(tmp_path))

    assert (list(source), list(source.problems)) == ([], [])


def test_lines_of_other_signals_are_counted(tmp_path: Path) -> None:
    """Lines of metrics, logs and profiles are passed over and counted, whatever their first field is."""
    others = [
        b'{"resourceMetrics":[]}\n',
        b'{"resource_metrics":[]}\n',
        b'{ "resourceLogs": [{}]}\n',
        b'{"x":1,"resourceProfiles":[]}\n',
    ]
    source = FileSource(written(tmp_path, LINES[0], *others, LINES[1]))

    assert list(source) == SPANS
    assert source.skipped == {"metrics": 2, "logs": 1, "profiles": 1}
    assert list(source.problems) == []


def test_an_unreadable_line_is_reported_by_its_number(tmp_path: Path) -> None:
    """A line that cannot be read is told with its number, and the next is read."""
    garbage = [b"\xff\xfe\n", b"plain text\n", b'{"other": 1}\n', b"[1]\n", b'{"resourceSpans": 1}\n']
    source = FileSource(written(tmp_path, LINES[0], *garbage, LINES[1], LINES[0][:-20]))

    assert list(source) == SPANS
    told = list(source.problems)
    assert [problem.partition(":")[0] for problem in told[:5]] == [
        "line 2 is not JSON",
        "line 3 is not JSON",
        "line 4 is not OTLP",
        "line 5 is not OTLP",
        "line 6 is not OTLP",
    ]
    assert told[2:] == [
        "line 4 is not OTLP: it has no resourceSpans",
        "line 5 is not OTLP: the whole: an object was expected, not a list",
        "line 6 is not OTLP: resourceSpans: a list was expected, not a number",
        "and 1 more like these",
    ]
    assert len(source.problems) == 6


def test_a_last_line_that_is_cut_off_is_reported(tmp_path: Path) -> None:
    """The last line of a file that is being written is told to be cut off."""
    source = FileSource(written(tmp_path, *LINES, LINES[0][:-20]))

    assert list(source) == SPANS
    assert list(source.problems) == ["line 3 is cut off"]


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_gzip_is_read_as_far_as_possible(tmp_path: Path, damage: str) -> None:
    """What could be unpacked of a damaged file is read, and the damage is told."""
    many = LINES * 500
    packed = gzip.compress(b"".join(many), 0)
    half = len(packed) // 2
    source = FileSource(written(tmp_path, packed[:half] if damage == "cut off" else packed[:half] + bytes(2000)))

    assert 0 < len(list(source)) < len(many) * len(SPANS)
    assert list(source.problems)[-1].startswith("the compressed data ends or is damaged after line ")


def test_a_line_without_end(tmp_path: Path) -> None:
    """A line that is too long is passed over without being kept."""
    longest = max(map(len, LINES))
    source = FileSource(written(tmp_path, b"x" * (3 * longest) + b"\n", *LINES, b"y" * (longest + 1)), max_line=longest)

    assert list(source) == SPANS
    assert list(source.problems) == [
        f"line 1 is longer than {longest:,} bytes",
        f"line {len(LINES) + 2} is longer than {longest:,} bytes",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (len(LINES[0]).to_bytes(4, "big") + story()[0].SerializeToString(), "is in the collector's binary format: "),
        ((99).to_bytes(4, "big") + b"\x28\xb5\x2f\xfd" + bytes(90), "is in the collector's binary format: "),
        (b"\x28\xb5\x2f\xfd" + bytes(90), "is compressed with zstd: "),
        (gzip.compress((99).to_bytes(4, "big") + b"\n" + bytes(90), mtime=0), "is in the collector's binary format: "),
    ],
)
def test_other_formats_are_recognised(tmp_path: Path, content: bytes, told: str) -> None:
    """A file in another format is recognised, and what to do about it is said."""
    path = written(tmp_path, content)
    with pytest.raises(SourceError) as refused:
        list(FileSource(path))

    assert str(refused.value).startswith(f"{path} {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html>\n<html>\n<p>Log in\n</html>\n", "it is HTML"),
        (b'{\n  "findings": [\n  ]\n}\n', "it is JSON over several lines; try jq -c . FILE | httptrace report -"),
        (b"\x7fELF\0\0\n\0\0\n\0", "it is binary"),
        (gzip.compress(gzip.compress(b"".join(LINES), mtime=0), mtime=0), "it is binary"),
        (b'{"data": []}\n' * 20, "line 1 is not OTLP: it has no resourceSpans"),
        (b"\nplain text\n" * 20, "line 2 is not JSON: "),
        (b"plain text without an end", "line 1 is not JSON: "),
    ],
    ids=["HTML", "several lines", "binary", "gzip twice", "other JSON", "text", "a word"],
)
def test_no_line_of_it(tmp_path: Path, content: bytes, told: str) -> None:
    """A file of which nothing is OTLP JSON is told once, and not line by line."""
    path = written(tmp_path, content)
    with pytest.raises(SourceError) as refused:
        list(FileSource(path))

    assert str(refused.value).startswith(f"{path} is no file of OTLP JSON lines: {told}")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """A file that is not there, and one that is a folder, are one line each."""
    with pytest.raises(SourceError, match=r"none\.jsonl cannot be opened: No such file or directory$"):
        list(FileSource(tmp_path / "none.jsonl"))
    with pytest.raises(SourceError, match=r"cannot be opened: Is a directory$"):
        list(FileSource(tmp_path))


def test_standard_input_is_read_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is the standard input, which may be compressed, has no size, and is left open."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, io.TextIOWrapper(pipe) as text:
        monkeypatch.setattr(sys, "stdin", text)

        def send() -> None:
            with os.fdopen(write, "wb") as pipe:
                pipe.write(gzip.compress(b"".join(LINES)))

        sender = threading.Thread(target=send)
        sender.start()
        source = FileSource("-")

        assert list(source) == SPANS
        assert source.size is None
        assert not pipe.closed
        sender.join()


def test_as_it_is_written(tmp_path: Path) -> None:
    """Spans come line by line: the first are there before the last are read, and the position says how far it is."""
    source = FileSource(written(tmp_path, *LINES * 5_000))
    spans = iter(source)
    before = gc.get_threshold()
    next(spans)

    assert source.size is not None
    assert 0 < source.position < source.size / 2
    assert gc.get_threshold()[0] > before[0]
    spans.close()  # type: ignore[attr-defined]
    assert gc.get_threshold() == before


def test_the_generated_file() -> None:
    """The file that speed is measured with is made of what is documented to be emitted, span by span, type by type."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from spans import lines

    kinds = {"boolean": bool, "int": int, "double": float, "string": str, "string[]": list}
    types = {attribute.name: kinds[attribute.type.partition(",")[0]] for attribute in (*REQUEST, *OTHERS)}
    types |= {"http.method": str, "http.url": str, "http.status_code": int}
    allowed = {span.name: set(span.attributes) for span in SPANS_DESCRIBED}
    allowed["GET"] = {attribute.name for attribute in REQUEST} | {"http.method", "http.url", "http.status_code"}
    spans = [span for line in lines(5_000) for span in from_json(json.loads(line))]

    for span in spans:
        assert span.attributes.keys() <= allowed[span.name]
        assert {name: type(value) for name, value in span.attributes.items()} == {
            name: types[name] for name in span.attributes
        }
    found = list(rows(spans))
    assert all(row.observed for row in found)
    assert 0.05 < sum(bool(row.steps) for row in found) / len(found) < 0.1
    assert {len(row.steps) for row in found} == {0, 4}
    assert any(row.lost_by is not None for row in found)
