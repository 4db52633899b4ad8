# A program that is run by us must not be able to tell, and whoever sends us a
# signal means the program.
#
# It stays in our process group, so that the terminal's signals reach it as they
# would without us: Ctrl-C goes to both of us, and must not be sent on a second
# time. A signal that somebody sent to us alone is passed on. The kernel says
# which is which (si_code), to whoever waits for a signal instead of having it
# delivered; so they are held back (blocked) here and waited for.
#
# Where that cannot be asked (macOS, Windows) a SIGINT is taken for a typed one if
# we are in the foreground of a terminal.

"""A program as our child, with everything inherited and signals passed on."""

from __future__ import annotations

import os
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
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            # Not sigtimedwait: stopped and continued (Ctrl-Z, fg) after its time is over,
            # CPython's returns what it has not got.
            info = signal.sigwaitinfo(held)
            if info.si_signo != signal.SIGCHLD and _for_us_alone(info, pid):
                os.kill(pid, info.si_signo)

    def _for_us_alone(info: Any, pid: int) -> bool:
        typed = info.si_signo in _TYPED and info.si_code > 0
        # What the program sends to its group, or to its parent, it has had already.
        return not typed and info.si_pid != pid

else:
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
    try:
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
