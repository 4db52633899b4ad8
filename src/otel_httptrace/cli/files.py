# Reports are written to where the user says, often to a folder that others can write
# to, as /tmp, and by root. Three rules. A plain file is replaced as a whole, so that
# a reader meanwhile has the last one; what stands in for it until then has a name
# that nobody can know before. A file that is there keeps its mode, owner and group. And
# in a folder that is everybody's, nothing is followed or written to that somebody else
# put there, which Linux sees to itself where fs.protected_symlinks and
# fs.protected_regular are set.
#
# https://docs.kernel.org/admin-guide/sysctl/fs.html

"""The files that commands write."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any, Final, TextIO, cast

from .errors import Problem

#: As many as Linux follows.
_LINKS: Final = 40
#: What stands here is a view of something else, as /dev/stdout is: it cannot be replaced.
_VIEWS: Final = ("/dev/", "/proc/")
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_WRITE: Final = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
#: Characters of a file's name in that of the one that stands in for it: a name has 255 bytes at most.
_NAME: Final = 50


def check_writable(path: str) -> None:
    """See that *path* can be written to, without touching it.

    Raises:
        Problem: it cannot.
    """
    where = _resolved(path)
    if where.is_dir():
        raise Problem(f"{path} is a directory")
    if not where.parent.is_dir():
        raise Problem(f"{path}: there is no directory {where.parent}")
    if not os.access(where if where.exists() else where.parent, os.W_OK):
        raise Problem(f"{path}: permission denied")


def open_private(path: str) -> IO[bytes]:
    """Open *path* for writing from its start. A new file is its owner's alone; one that is there keeps its mode.

    Raises:
        Problem: it cannot be opened, or is not to be trusted.
    """
    where = _resolved(path)
    try:
        follow = 0 if _is_view(where) else _NO_FOLLOW
        return os.fdopen(os.open(where, _WRITE | os.O_TRUNC | follow, 0o600), "wb")
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}") from error


class writing:  # noqa: N801 - reads as a verb
    """``with writing(path) as file:`` a text file that takes the place of *path* when this ends without an error.

    What is no plain file (a pipe, /dev/stdout), and what is in a folder in which nothing can be made, is written to as
    it stands.

    Raises:
        Problem: it cannot be written, or is not to be trusted.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        #: What is written instead of it; None if nothing is.
        self._aside: Path | None = None

    def __enter__(self) -> TextIO:
        self._where = _resolved(self._path)
        try:
            descriptor = self._open()
        except OSError as error:
            self._discard()
            raise Problem(f"{self._path}: {error.strerror}") from error
        self._file = cast(TextIO, os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
        return self._file

    def _open(self) -> int:
        where = self._where
        there = _stat(where)
        if _is_view(where) or (there is not None and not stat.S_ISREG(there.st_mode)):
            return os.open(where, _WRITE | os.O_TRUNC)
        if not os.access(where.parent, os.W_OK) or (there is not None and not _can_stand_for(there)):
            return os.open(where, _WRITE | os.O_TRUNC | _NO_FOLLOW, 0o666)
        aside = where.with_name(f".{where.name[:_NAME]}.{secrets.token_hex(8)}")
        # Less, until it has the mode of what it stands for.
        descriptor = os.open(aside, _WRITE | os.O_EXCL | _NO_FOLLOW, 0o666 if there is None else 0o600)
        self._aside = aside
        if there is not None:
            _liken(descriptor, there)
        return descriptor

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            with self._file:
                if kind is None and self._aside is not None:
                    self._file.flush()
                    # Else after a crash there may be a file with its name and nothing in it.
                    os.fsync(self._file.fileno())
            if kind is None and self._aside is not None:
                os.replace(self._aside, self._where)
                self._aside = None
        except OSError as failed:
            raise Problem(f"{self._path}: {failed.strerror}") from failed
        finally:
            self._discard()
        if isinstance(error, OSError):
            raise Problem(f"{self._path}: {error.strerror}") from error

    def _discard(self) -> None:
        if self._aside is not None:
            with contextlib.suppress(OSError):
                self._aside.unlink()


def _resolved(path: str) -> Path:
    # Links of the file itself are followed here, so that what they lead to is replaced, and they stay.
    where = Path(path)
    for _ in range(_LINKS):
        if _is_view(where):
            return where
        try:
            found = os.lstat(where)
        except OSError:
            # It is not there, or cannot be seen: the code that opens it will tell.
            return where
        if not _trusted(where, found):
            what = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
            raise Problem(f"{path}: {what} of another user, in a directory that everybody can write to: not written")
        if not stat.S_ISLNK(found.st_mode):
            return where
        where = where.parent / os.readlink(where)
    raise Problem(f"{path}: too many levels of symbolic links")


def _trusted(where: Path, found: os.stat_result) -> bool:
    if not hasattr(os, "geteuid") or stat.S_ISDIR(found.st_mode):
        return True
    folder = os.stat(where.parent)
    everybodys = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
    return not everybodys or found.st_uid in (os.geteuid(), folder.st_uid)


def _is_view(where: Path) -> bool:
    return os.path.abspath(where).startswith(_VIEWS)


def _stat(where: Path) -> os.stat_result | None:
    try:
        return os.lstat(where)
    except FileNotFoundError:
        return None


def _can_stand_for(there: os.stat_result) -> bool:
    # Only root can give a file to somebody else.
    return not hasattr(os, "geteuid") or os.geteuid() in (0, there.st_uid)


def _liken(descriptor: int, there: os.stat_result) -> None:
    mode = stat.S_IMODE(there.st_mode)
    made: Any = os.fstat(descriptor)
    if hasattr(os, "fchown") and (made.st_uid, made.st_gid) != (there.st_uid, there.st_gid):
        try:
            os.fchown(descriptor, there.st_uid, there.st_gid)
        except OSError:
            # What was the other group's to do is not this one's.
            mode &= ~0o070
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)
