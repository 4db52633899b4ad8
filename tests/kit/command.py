# The command as users start it: a process of its own, on a pseudo-terminal where
# a test is about terminals.

"""The command ``httptrace``, as a process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: Longer than anything here takes, on a machine that has other things to do.
PATIENCE = 50

COMMAND = (sys.executable, "-m", "otel_httptrace")
#: Runs the program that follows it as its users do.
INSTRUMENTED = (str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable)


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings of OpenTelemetry's or of a terminal's."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_") and name not in dropped}
    return {**kept, "TERM": "xterm", **more}


def exporting(service: str, endpoint: str, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
    """`environment` of a program under `INSTRUMENTED`, whose traces and metrics go to *endpoint*."""
    return environment(
        **{
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            **more,
        }
    )


def defaults() -> None:
    """In a child: signals as an interactive shell would leave them, whatever started the tests."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def httptrace(*arguments: str | Path, environ: dict[str, str] | None = None, **options: Any) -> Any:
    """Run it to its end; output is text unless asked for otherwise."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(**(environ or {})),
        preexec_fn=defaults,
        **{"capture_output": True, "text": True, "timeout": PATIENCE, "check": False, **options},
    )


@contextlib.contextmanager
def start(
    *arguments: str | Path, command: Sequence[str] = COMMAND, environ: dict[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start it, with pipes; it is over when this is left."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment(**(environ or {})),
        text=True,
        **{"preexec_fn": defaults, **pipes, **options},
    ) as process:
        try:
            yield process
        except BaseException:
            # The program gets this, too, unlike a SIGKILL.
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


class Terminal:
    """A program on a terminal of its own, in the foreground of a session that it leads.

    Args:
        command: what to run.
        environ: variables to set.
        columns: how wide the terminal is.
    """

    def __init__(self, *command: str, environ: dict[str, str] | None = None, columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns)) if hasattr(termios, "tcsetwinsize") else None
        self.shown = ""

        def lead() -> None:
            defaults()
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            env=environment(**(environ or {})),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lead,  # noqa: PLW1509 - it takes no lock
            close_fds=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def until(self, text: str) -> str:
        """Read until *text* is shown; returns all that was."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.shown!r}"
            if not self._read():
                raise AssertionError(f"{text!r} did not come before the end: {self.shown!r}")
        return self.shown

    def end(self) -> int:
        """Read to the end; returns the exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError as error:
            # Linux says so when the other end has gone.
            assert error.errno == errno.EIO  # noqa: PT017 - or there was none
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self._ours)
