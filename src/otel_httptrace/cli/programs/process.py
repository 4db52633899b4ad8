# A program that is run by us must not be able to tell, and whoever sends us a
# signal means the program.
#
# It stays in our process group, so that the terminal's signals reach it as they
# would without us: Ctrl-C goes to both of us, and must not be sent on a second
# time. A signal that somebody sent to us alone is passed on. The kernel says
# which is which (si_code), to whoever waits for a signal instead of having it
# delivered; so they are held back (blocked) here and waited for.
#
# A signal sent to the whole group (kill -INT -- -PID, as a CI system does) looks to the
# kernel like one sent to us alone, and the program has had it. So there is a third
# process in the group, which does nothing (cat, with nothing to read) and has these signals
# blocked: what is for the group is then pending there.
#
# Where that cannot be asked (macOS, Windows) a SIGINT is taken for a typed one if
# we are in the foreground of a terminal.

"""A program as our child, with everything inherited and signals passed on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final

#: Sent to us they are for the program. Stopping and going on (SIGTSTP, SIGCONT) are
#: the shell's business with the whole group, and are left as they are.
_PASSED_ON: Final = tuple(
    getattr(signal, name)
    for name in (
        "SIGINT",
        "SIGQUIT",
        "SIGTERM",
        "SIGHUP",
        "SIGUSR1",
        "SIGUSR2",
        "SIGALRM",
        # gunicorn's: more and fewer workers, and to stop these.
        "SIGWINCH",
        "SIGTTIN",
        "SIGTTOU",
    )
    if hasattr(signal, name)
)

#: The terminal sends these to every process of the group.
_TYPED: Final = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGWINCH", "SIGTTIN", "SIGTTOU") if hasattr(signal, name)
)

#: Ignored by Python itself, and not to be by the program.
_PYTHONS: Final = tuple(getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name))


def run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program to its end. Call `hold_signals` before, and before any thread is started.

    Args:
        command: the program's path, and its arguments.
        environ: its environment.

    Returns:
        Its exit status; ``-n`` if it died of signal *n*.

    Raises:
        OSError: it could not be started.
    """
    return (_run_waiting if _CAN_WAIT else _run_handling)(command, environ)


if sys.platform == "linux":
    _CAN_WAIT: Final = True

    def hold_signals() -> None:
        """From now on signals wait for `run` to take them, in this thread and those that it starts."""
        held = {number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
        # Ignored, our child's end would be nobody's to learn.
        signal.signal(signal.SIGCHLD, _nothing)
        signal.pthread_sigmask(signal.SIG_BLOCK, held | {signal.SIGCHLD})

    def release_signals() -> None:
        """The program is over: what comes now is for us, and has its ordinary effect, at once."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*_PASSED_ON, signal.SIGCHLD}
        # What came while the program died was for the program.
        for number in signal.sigpending() & held:
            signal.sigwait({number})
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)

    def _run_waiting(command: Sequence[str], environ: Mapping[str, str]) -> int:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        held = mask & {*_PASSED_ON, signal.SIGCHLD}
        # Unlike subprocess it starts a program with another mask and needs no code of
        # ours between fork and exec, where threads make that unsafe.
        pid = os.posix_spawn(
            command[0], list(command), dict(environ), setsigmask=mask - held, setsigdef=[*_PYTHONS, signal.SIGCHLD]
        )
        with _Witness(held) as witness:
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
                # Not sigtimedwait: stopped and continued (Ctrl-Z, fg) after its time is over,
                # CPython's returns what it has not got.
                info = signal.sigwaitinfo(held)
                if info.si_signo != signal.SIGCHLD and _for_us_alone(info, pid, witness):
                    os.kill(pid, info.si_signo)

    def _for_us_alone(info: Any, pid: int, witness: _Witness) -> bool:
        typed = info.si_signo in _TYPED and info.si_code > 0
        # Asked in any case: what is pending there is to be forgotten.
        grouped = witness.saw(info.si_signo)
        # What the program sends to its group, or to its parent, it has had already.
        return not typed and not grouped and info.si_pid != pid

    class _Witness:
        # A process in our group that has signals *held* pending, and ends with us: its stdin does.

        def __init__(self, held: set[int]) -> None:
            self._held = held
            self._pid = 0
            self._ours = -1
            self._seen: set[int] = set()
            self._command = shutil.which("cat")

        def __enter__(self) -> _Witness:
            self._start()
            return self

        def __exit__(self, *exc_info: object) -> None:
            self._end()

        def _start(self) -> None:
            if self._command is None:
                return
            theirs, self._ours = os.pipe()
            try:
                self._pid = os.posix_spawn(
                    self._command,
                    ["cat"],
                    {},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs, 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsigmask=self._held,
                )
            except OSError:
                # No process can be had: then a signal for the group is taken for one of ours.
                os.close(self._ours)
            finally:
                os.close(theirs)

        def _end(self) -> None:
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                os.close(self._ours)
                self._pid = 0

        def saw(self, number: int) -> bool:
            """Whether the signal *number* was sent to the whole group."""
            if number not in self._seen:
                self._seen |= self._pending()
                if self._seen:
                    # The only way to take them from there.
                    self._end()
                    self._start()
            grouped = number in self._seen
            self._seen.discard(number)
            return grouped

        def _pending(self) -> set[int]:
            try:
                with open(f"/proc/{self._pid}/status", encoding="ascii", errors="replace") as file:
                    fields = dict(line.partition(":")[::2] for line in file)
                bits = int(fields["ShdPnd"], 16)
            except (OSError, KeyError, ValueError):
                return set()
            return {number for number in self._held if bits >> (number - 1) & 1}

else:  # pragma: no cover - where signals cannot be waited for: Windows, macOS
    _CAN_WAIT = False

    def hold_signals() -> None:
        """Signals have no effect until `run` takes them."""
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _nothing)

    def release_signals() -> None:
        """The program is over: what comes now is for us, and has its ordinary effect, at once."""
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _run_handling(command: Sequence[str], environ: Mapping[str, str]) -> int:
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def passed_on(number: int, frame: FrameType | None = None) -> None:
        if child is None:
            early.append(number)
        elif not (number in _TYPED and _in_foreground()) and child.returncode is None:
            child.send_signal(number)

    for number in _PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, passed_on)
    child = subprocess.Popen(list(command), env=dict(environ), close_fds=False)  # noqa: S603
    for number in early:
        passed_on(number)
    return child.wait()


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def die_like(status: int) -> int:
    """End as the program ended: of the same signal, if it was one.

    Returns:
        The exit status, if we live on.
    """
    if status >= 0:
        return status
    number = -status
    sys.stdout.flush()
    sys.stderr.flush()
    try:  # pragma: no cover - ends this process, and what measures it
        import resource  # noqa: PLC0415 - not on Windows

        # The program has dumped its core already.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        # It is delivered before this returns, unless another thread is to take it.
        threading.Event().wait(5)
    except (ImportError, OSError, ValueError):
        pass
    return 128 + number
