"""What we put on objects of the libraries, and questions that may fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from ..guard import interrupted

T = TypeVar("T")

#: The one attribute that we put on objects of the libraries: on a pool its
#: ledger, on a connection and its streams the connection's record, on a
#: response's stream what watches it. None of these refers back to its object,
#: so no reference cycle keeps a socket open longer than it would have been.
KEY: Final = "_otel_httptrace"

# Not by way of `__dict__`: CPython makes no dict for an object as long as nobody
# asks for it, and reads the attributes of one that has none quicker. Nor by
# `getattr` and `setattr`, which would call what the object's own class has.
_get: Final = object.__getattribute__
_set: Final = object.__setattr__


#: `attached` and `attach`, for hooks that every request goes through: they raise where those have an answer.
stored: Final = _get
store: Final = _set


def attached(thing: object) -> Any:
    """What we put on *thing*; None if nothing."""
    try:
        return _get(thing, KEY)
    except AttributeError:
        return None


def attach(thing: object, value: object) -> bool:
    """Put *value* on *thing*; False where that is not possible."""
    try:
        _set(thing, KEY, value)
    except (AttributeError, TypeError):
        return False
    return True


def attach_unless(thing: object, value: T, stands: Callable[[T], bool]) -> T | None:
    """Put *value* on *thing*, unless what is there *stands*; what is there then, None where that is not possible."""
    for _ in range(8):
        try:
            there: T = _get(thing, KEY)
        except AttributeError:
            # From finding nothing to this is one step: no signal handler comes in between.
            try:
                _set(thing, KEY, value)
            except (AttributeError, TypeError):
                return None
            return value
        if stands(there):
            return there
        object.__delattr__(thing, KEY)
    return None


def answer(ask: Callable[[], T]) -> T | None:
    """What *ask* answers; None where it fails, unless it is the application that interrupted it."""
    try:
        return ask()
    except Exception as error:
        if interrupted(error):
            raise
        return None
