"""``httptrace run``."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from ..report.summary import Report
from . import named, process
from .collect import Collector
from .environ import prepare
from .files import open_private
from .inject import Lent
from .output import Output, check_writable, duration, forwarder, options, say
from .problem import Problem, Unread

if TYPE_CHECKING:
    from ..report.receiver import Receiver

_SCRIPT: Final = "opentelemetry-instrument"


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    short_help="Run a program and report what its requests did.",
    epilog="The report goes to stderr when the program has ended, so that its stdout stays its own. "
    "The exit status is the program's. Signals are passed on.",
)
@click.option("--otlp", metavar="FILE", help="Keep the spans received: OTLP JSON lines, for httptrace report.")
@click.option("--forward", metavar="ENDPOINT", help="Send traces, metrics and logs on to this OTLP/HTTP endpoint, too.")
@click.option(
    "--every", type=duration, metavar="TIME", help="Print the report every 30s, 5m, ...: for a program that serves."
)
@click.option("--verbose", "-v", is_flag=True, help="Say which OTEL_* settings had to give way.")
@options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGS]...")
def command(
    *,
    output: Output,
    otlp: str | None,
    forward: str | None,
    every: float | None,
    verbose: bool,
    program: tuple[str, ...],
) -> int:
    """Run PROGRAM, which uses httpx or httpx2, and print what its requests did.

    It needs no change, and its Python none: what that lacks of OpenTelemetry it is lent for this run.

    \b
      httptrace run -- python app.py
      httptrace run -- /srv/shop/.venv/bin/python app.py
      httptrace run --html page.html -- gunicorn -w 4 shop:app
      httptrace run --every 30s -- uvicorn shop:app
      httptrace run --quiet --fail-on body_not_read,client_per_request -- pytest
    """
    path = find(program[0])
    if otlp is not None:
        output.check_others(otlp=otlp)
        check_writable(otlp)
    with contextlib.ExitStack() as stack:
        lent = stack.enter_context(Lent())
        facts = _lend(path, lent)
        process.hold_signals()
        collector, receiver = _listen(stack, output, otlp, forward)
        environ, notes, warnings = prepare(
            os.environ,
            receiver.endpoint,
            program,
            token=receiver.token,
            forward=forward is not None,
            propagators=_propagators(facts),
        )
        environ = lent.environ(environ)
        for note in (*(notes if verbose else ()), *warnings):
            say(note)
        live = _Live(collector, output, every)
        try:
            with live:
                status = process.run([path, *program[1:]], environ)
        except OSError as error:
            # What a shell says of a file that is there and does not run.
            raise Problem(f"{path}: {error.strerror}", 126) from error
        process.release_signals()
        collector.unsent = lent.unsent()
    report = collector.report()
    if not report.requests and not (output.quiet and output.text is None):
        say(why_nothing(report, status, path, environ))
    try:
        shown = replace(output, quiet=True) if not (report.spans or report.problems or report.unsent) else output
        shown.write(report, sys.stderr)
    except Unread:
        # Whoever reads the report went away; that is not the program's doing.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    except Exception as error:
        # The program's own status, if it says anything, is more to whoever asks.
        say(_told(error))
        status = status or 2
    if status == 0:
        failing = output.failing(report)
        if failing:
            say(f"found {', '.join(failing)}")
            return 1
    return process.die_like(status)


def _lend(program: str, lent: Lent) -> Any:
    # The facts of the program's Python, to which is lent what it lacks; None if it is none, or cannot be asked.
    from . import doctor, inject  # noqa: PLC0415

    python = doctor.python_of(program)
    if python is None:
        return None
    facts = doctor.inspect(python, "installed", *inject.candidates())
    if facts is None:
        version = doctor.version(python)
        if version is not None and version < (3, 10):
            shown = ".".join(map(str, version))
            raise Problem(f"{python}, which runs the program, is Python {shown}: 3.10 or later is supported")
        return None
    missing = inject.lacking(facts)
    if missing:
        lent.lend(missing, facts)
        told = doctor.inspect(python, "lent", lent.packages)
        if told is None or told["error"]:
            why = told["error"] if told is not None else "it could not be run"
            raise Problem(
                f"{python}, which runs the program, lacks {', '.join(sorted(missing))}, and cannot use ours: {why}; "
                f"{python} -m pip install 'otel-httptrace[cli]'"
            )
    return facts


def _propagators(facts: Any) -> Sequence[str] | None:
    group = named.GROUPS[named.PROPAGATORS]
    # What is not Python has a Python of its own, if any: most likely like ours.
    found: Sequence[str] = facts["offered"][group] if facts is not None else named.offered()[group]
    # None there: then it is lent ours.
    return found or named.offered()[group]


def _told(error: Exception) -> str:
    if isinstance(error, (Problem, OSError)):
        return str(error)
    return f"the report could not be made, which is a fault of ours: {type(error).__name__}: {error}"


def _listen(
    stack: contextlib.ExitStack, output: Output, otlp: str | None, forward: str | None
) -> tuple[Collector, Receiver]:
    # Left in the opposite order: no more is taken, what was taken is folded, what it was written to is closed.
    from ..report.receiver import Receiver, new_token  # noqa: PLC0415

    file = _opened(stack, otlp) if otlp is not None else None
    onwards = forwarder(forward) if forward is not None else None

    def delivered() -> None:
        undelivered = onwards.close() if onwards is not None else None
        if undelivered is not None:
            say(undelivered)

    stack.callback(delivered)
    collector = Collector(output.thresholds, file)
    stack.callback(collector.close)
    onward = onwards.send if onwards is not None else None
    receiver = stack.enter_context(Receiver(collector.keep, forward=onward, token=new_token()))
    # By its name, too: where there is a proxy it is told that.
    collector.own = frozenset({receiver.endpoint, receiver.endpoint.replace("127.0.0.1", "localhost")})
    return collector, receiver


def _opened(stack: contextlib.ExitStack, path: str) -> IO[bytes]:
    file = open_private(path)

    def close() -> None:
        try:
            file.close()
        except OSError as error:
            say(f"{path}: {error.strerror}")

    stack.callback(close)
    return file


class _Live:
    # What is shown while a program runs, by a thread; without --every nothing is, for
    # the terminal is the program's.

    def __init__(self, collector: Collector, output: Output, every: float | None) -> None:
        self._collector = collector
        self._output = output
        self._every = every
        self._started = time.monotonic()
        self._due = self._started + every if every is not None else float("inf")
        self._shown = 0
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
                say(_told(error))

    def _report(self) -> None:
        if self._collector.requests > self._shown:
            self._shown = self._collector.requests
            self._clear()
            self._output.write(self._collector.report(), sys.stderr, final=False)
            sys.stderr.flush()

    def _progress(self) -> None:
        seconds = int(time.monotonic() - self._started)
        text = f" httptrace: {self._collector.requests} requests, {seconds // 60}:{seconds % 60:02}"
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


def find(program: str) -> str:
    """The path of *program*, as a shell finds it.

    Raises:
        Problem: there is none (127), or it cannot be executed (126).
    """
    hint = f"; to run a Python file: httptrace run -- python {program}" if program.endswith(".py") else ""
    candidates = list(_candidates(program))
    for path in candidates:
        if Path(path).is_file() and os.access(path, os.X_OK):
            interpreter = shebang(path)
            if interpreter and not Path(interpreter).exists():
                raise Problem(f"{program}: its interpreter {interpreter} is not there", 126)
            return path
    for path in candidates:
        if Path(path).is_dir() and os.sep in program:
            raise Problem(f"{program} is a directory", 126)
        if Path(path).is_file():
            raise Problem(f"{program}: permission denied{hint}", 126)
    raise Problem(f"{program}: not found{hint}", 127)


def _candidates(program: str) -> Iterator[str]:
    # Not as Path, to which ./program is program, and that is another one.
    if os.sep in program:
        yield program
    elif os.name == "nt":
        found = shutil.which(program)
        if found:
            yield found
    else:
        for folder in os.get_exec_path():
            yield os.path.join(folder or os.curdir, program)


def shebang(path: str) -> str | None:
    """The interpreter that a script names; None if it is no script."""
    try:
        with open(path, "rb") as file:
            first = file.readline(512)
    except OSError:
        return None
    parts = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return parts[0] if parts else None


def instrument(program: str) -> str:
    """The path of ``opentelemetry-instrument``: beside *program*, beside this Python, or on the PATH.

    Raises:
        Problem: there is none.
    """
    for folder in (Path(program).absolute().parent, Path(sys.executable).parent):
        script = folder / _SCRIPT
        if script.is_file() and os.access(script, os.X_OK):
            return str(script)
    found = shutil.which(_SCRIPT)
    if found is None:
        raise Problem(f"{_SCRIPT} is not there: pip install opentelemetry-distro")
    return found


def why_nothing(report: Report, status: int, program: str, environ: Mapping[str, str]) -> str:
    """Why no request was seen of *program*, run with *environ*, as far as can be told."""
    if not report.spans and status < 0:
        return f"no span came: the program was killed by signal {-status}, and may have had no time to send any."
    from . import doctor  # noqa: PLC0415

    why = doctor.why_unseen(program, environ)
    if report.spans:
        return f"{report.spans} spans came, none of them of a request made with httpx or httpx2" + (
            f": {why}" if why else f". To see whether these are instrumented: httptrace doctor -- {program}"
        )
    if why:
        return f"no span came: {why}"
    return (
        "no span came: either it made no request with httpx or httpx2, or it ended in a way that sends "
        "nothing (os._exit, or a signal right after its last request). To check its installation: "
        f"httptrace doctor -- {program}"
    )
