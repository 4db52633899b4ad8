# The collector's file exporter writes a request per line; so do the SDKs'
# file exporters and `httptrace run --otlp`. A file may still be growing, may have
# been cut off, rotated, or mixed up with something else: whatever line can be
# read is read.
#
# https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/

"""OTLP JSON lines from a file."""

from __future__ import annotations

import gc
import gzip
import io
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from ..bounds import TooMuchError, check_json
from ..otlp import FormatError, from_json
from ..printable import one_line
from ..spans import Span
from . import Problems, SourceError

#: The longest line that is read, in bytes: three times what the receiver takes at once, for JSON is longer.
MAX_LINE: Final = 64 * 1024 * 1024

_SIGNALS: Final = {
    "resourceMetrics": "metrics",
    "resource_metrics": "metrics",
    "resourceLogs": "logs",
    "resource_logs": "logs",
    "resourceProfiles": "profiles",
    "resource_profiles": "profiles",
}
# How a line of another signal begins: then it need not be parsed.
_OTHERS: Final = {f'{{"{name}"'.encode(): signal for name, signal in _SIGNALS.items()}

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"
_BUFFER: Final = 1024 * 1024
#: How report/schema.py begins, also where it has been made shorter or longer since.
_REPORT: Final = re.compile(rb'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"spans"\s*:')
_HEAD: Final = 64


class FileSource:
    """Spans of a file of OTLP JSON lines, which may be compressed with gzip.

    Args:
        path: of the file; ``-`` is the standard input.
        max_line: bytes of the longest line that is read.
    """

    def __init__(self, path: str | Path, max_line: int = MAX_LINE) -> None:
        self.problems = Problems()
        #: Lines of other signals, by signal.
        self.skipped: Counter[str] = Counter()
        self._path = str(path)
        self._max_line = max_line
        #: Whether any line was OTLP, even of a signal that is not read.
        self._known = False
        #: Why the first line that was not is none.
        self._first = ""
        self._position = 0
        self._size: int | None = None
        self._raw: BinaryIO | None = None

    @property
    def position(self) -> int:
        """Bytes read so far, of the file as it is."""
        if self._raw is not None and self._size is not None:
            # A buffer has been filled in advance, but no further than that.
            self._position = self._raw.tell()
        return self._position

    @property
    def size(self) -> int | None:
        """Bytes of the file as it was when reading began; None if that is not known: a pipe, or not begun."""
        return self._size

    def __iter__(self) -> Iterator[Span]:
        """Read it.

        Raises:
            SourceError: it cannot be opened, or is in another format.
        """
        name = "the standard input" if self._path == "-" else self._path
        try:
            raw = sys.stdin.buffer if self._path == "-" else open(self._path, "rb", buffering=_BUFFER)  # noqa: SIM115
        except OSError as error:
            raise SourceError(f"{name} cannot be opened: {error.strerror or error}") from error
        try:
            # A directory can be opened for a descriptor only; devices and pipes have no size.
            self._size = (os.fstat(raw.fileno()).st_size or None) if raw.seekable() else None
            self._raw = raw
            with _rarer_collections():
                yield from self._spans(raw, name)
            if self._first and not self._known:
                raise SourceError(f"{name} is no file of OTLP JSON lines: {self._first}")
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror or error}") from error
        finally:
            _ = self.position
            self._raw = None
            if raw is not sys.stdin.buffer:
                raw.close()

    def _spans(self, raw: BinaryIO, name: str) -> Iterator[Span]:
        number = 0
        for number, line in self._lines(raw, name):
            text = line.strip()
            if not text:
                continue
            for start, signal in _OTHERS.items():
                if text.startswith(start):
                    self.skipped[signal] += 1
                    self._known = True
                    break
            else:
                yield from self._read(number, text, line.endswith(b"\n"))

    def _read(self, number: int, text: bytes, whole: bool) -> list[Span]:
        try:
            check_json(text)
            data = orjson.loads(text)
            spans = from_json(data)
        except TooMuchError as error:
            self.problems.add(f"line {number} has {error}")
        except FormatError as error:
            self._other(f"line {number} is not OTLP: {error}", text)
        except ValueError as error:
            if whole or not text.startswith(b"{"):
                self._other(f"line {number} is not JSON: {one_line(str(error))}", text)
            else:
                self.problems.add(f"line {number} is cut off")
        else:
            if not spans and data and not any(key in data for key in ("resourceSpans", "resource_spans")):
                signal = next((signal for key, signal in _SIGNALS.items() if key in data), None)
                if signal is None:
                    self._other(f"line {number} is not OTLP: it has no resourceSpans", text)
                    return []
                self.skipped[signal] += 1
            self._known = True
            return spans
        return []

    def _other(self, problem: str, text: bytes) -> None:
        # If nothing else comes it is the file that is wrong, and not its lines.
        self.problems.add(problem)
        if not self._first:
            start = text[:64].lstrip().lower()
            if start.startswith((b"<!doctype html", b"<html")):
                self._first = "it is HTML"
            elif text in (b"{", b"["):
                self._first = "it is JSON over several lines; try jq -c . FILE | httptrace report -"
            elif b"\0" in text:
                self._first = "it is binary"
            else:
                self._first = problem

    def _lines(self, raw: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
        """Numbered lines, none longer than is allowed."""
        number = 0
        try:
            file = _opened(raw, name)
            while line := file.readline(self._max_line):
                number += 1
                if len(line) == self._max_line and not line.endswith(b"\n"):
                    self.problems.add(f"line {number} is longer than {self._max_line:,} bytes")
                    while len(line) == self._max_line and not line.endswith(b"\n"):
                        line = file.readline(self._max_line)
                    continue
                yield number, line.removeprefix(_BOM) if number == 1 else line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.problems.add(f"the compressed data ends or is damaged after line {number}: {one_line(str(error))}")


class FilesSource:
    """Spans of several such files, one after the other. One that cannot be read is a problem, unless none can.

    Args:
        paths: of the files; ``-`` is the standard input.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.problems = Problems()
        self._files = [(path, FileSource(path)) for path in paths]

    @property
    def position(self) -> int:
        """Bytes read so far, of all files."""
        return sum(file.position for _, file in self._files)

    @property
    def size(self) -> int | None:
        """Bytes of the files; None if that is not known of one."""
        sizes = [_size(path) for path, _ in self._files]
        return None if None in sizes else sum(filter(None, sizes))

    def __iter__(self) -> Iterator[Span]:
        """Read them.

        Raises:
            SourceError: none of them can be read.
        """
        failures: list[SourceError] = []
        for path, file in self._files:
            try:
                yield from file
            except SourceError as error:  # noqa: PERF203 - there are a few files
                failures.append(error)
                self.problems.add(str(error))
            else:
                for problem in file.problems:
                    self.problems.add(f"{path}: {problem}")
        if len(failures) == len(self._files):
            raise failures[0]


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path) if os.path.isfile(path) else None
    except OSError:
        return None


@contextmanager
def _rarer_collections() -> Iterator[None]:
    # A line becomes tens of thousands of objects at once. None of them is in a cycle, but
    # their number would make Python's collector look at them again and again.
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


#: New objects before a collection, and collections before one of older ones: 700, 10 and 10 by default.
_THRESHOLD: Final = (100_000, 20, 100)


def _opened(raw: BinaryIO, name: str) -> BinaryIO | gzip.GzipFile:
    head = _peek(raw)
    if head.startswith(_GZIP):
        # It has a buffer of its own, and of damaged data hands out all that comes before.
        packed = gzip.GzipFile(fileobj=raw)
        head = packed.peek(_HEAD)[:_HEAD]
        file: BinaryIO | gzip.GzipFile = packed
    else:
        file = raw
    if head.startswith(_ZSTD):
        raise SourceError(f"{name} is compressed with zstd: unpack it first, zstd -dc FILE | httptrace report -")
    if _REPORT.match(head):
        raise SourceError(
            f"{name} is a report that --json wrote, for --baseline and for programs: what is read here are spans, as "
            "httptrace run --otlp keeps them"
        )
    # A length in four bytes, and then a message whose first field, number 1, is made of bytes.
    if len(head) >= 5 and head[0] == 0 and (head[4:5] == b"\n" or head[4:8] == _ZSTD):
        raise SourceError(f"{name} is in the collector's binary format: only OTLP JSON is read, its `format: json`")
    return file


def _peek(raw: BinaryIO) -> bytes:
    assert isinstance(raw, io.BufferedReader)  # noqa: S101 - so are files opened and the standard input
    return raw.peek(_HEAD)[:_HEAD]
