"""What is shown while a program runs."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING

from ..report.changes import changes
from .errors import describe, say

if TYPE_CHECKING:
    from ..report.summary import Report
    from .intake import Intake
    from .output import Output


class Live:
    """Shows reports and progress from a thread, for the time of a ``with``.

    Without *every* nothing is shown: the terminal is the program's.

    Args:
        intake: has the report so far.
        output: where it goes.
        every: seconds between two reports; None for none.
    """

    def __init__(self, intake: Intake, output: Output, every: float | None) -> None:
        self._intake = intake
        self._output = output
        self._every = every
        self._started = time.monotonic()
        self._due = self._started + every if every is not None else float("inf")
        self._shown = 0
        #: The report that was shown last, and when.
        self._last: tuple[Report, float] | None = None
        self._line = every is not None and sys.stderr.isatty() and not output.quiet
        #: Where progress is shown; 0 as long as it is not.
        self._column = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="httptrace-live", daemon=True)

    def __enter__(self) -> None:
        if self._every is not None:
            self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        if self._every is not None:
            self._thread.join()
            self._clear()

    def _run(self) -> None:
        while not self._over.wait(min(self._every or 1.0, 1.0)):
            try:
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + (self._every or 0.0)
                    self._report()
                if self._line:
                    self._progress()
            except Exception as error:  # noqa: PERF203
                # Whatever it is, the program goes on, and we with it.
                say(describe(error))

    def _report(self) -> None:
        if self._intake.requests > self._shown:
            self._shown = self._intake.requests
            self._clear()
            report, now = self._intake.report(), time.monotonic()
            since = changes(self._last[0], report, now - self._last[1]) if self._last is not None else ""
            self._last = (report, now)
            self._output.write(report, sys.stderr, final=False, since=since)
            sys.stderr.flush()

    def _progress(self) -> None:
        seconds = int(time.monotonic() - self._started)
        text = f" httptrace: {self._intake.requests} requests, {seconds // 60}:{seconds % 60:02}"
        # At the right edge, where it neither hides nor mixes with what the program prints.
        self._column = max(1, shutil.get_terminal_size().columns - len(text))
        self._at_edge(f"\x1b[2m{text}\x1b[0m")

    def _clear(self) -> None:
        if self._column:
            self._at_edge("\x1b[K")
            self._column = 0

    def _at_edge(self, text: str) -> None:
        # The cursor is put back, for the next to print is the program.
        with contextlib.suppress(OSError):
            sys.stderr.write(f"\x1b7\x1b[{self._column}G{text}\x1b8")
            sys.stderr.flush()
