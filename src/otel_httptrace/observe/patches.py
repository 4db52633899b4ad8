"""Replaced attributes of other people's classes, each put back only where it is still ours."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from .lookalike import lookalike


class Patches:
    """Replaced attributes, each put back only where it is still ours.

    Classes may be made at run time, and go: of a class nothing is kept that would keep it.

    A mock (respx, vcrpy, unittest.mock) that stood there before us puts the original back as it ends, and
    so drops what we had put around it. Who wraps ours keeps it: so what is gone is nowhere called, and can
    be put there again.
    """

    def __init__(self) -> None:
        self._replaced: dict[int, _Owner] = {}
        #: Called with a reference to each wrapper that is dropped, which may be anywhere: no Python (see `Watch`).
        self.on_dropped: Callable[[weakref.ref[Any]], object] | None = None
        self._restored = False

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace *owner*'s attribute *name* by ``make(original)``, once, and again where that was dropped.

        Raises:
            AttributeError: there is no such attribute.
            TypeError: *owner* cannot be patched (a type implemented in C).
        """
        if self._restored:
            # A hook that was at work when all was put back.
            return
        known = self._replaced.get(id(owner))
        earlier = None if known is None else known.wrappers.get(name)
        if earlier is not None and earlier.wrapper() is not None:
            return
        inherited = name not in vars(owner)
        original = getattr(owner, name)
        wrapper = lookalike(make(original), original)
        if known is None:
            replaced, key = self._replaced, id(owner)
            known = replaced.setdefault(key, _Owner(weakref.ref(owner, lambda _: replaced.pop(key, None)), {}))
        # Noted before it is done, so that whatever interrupts this, it is undone at the end. The wrapper
        # lives on the owner, and holds the original: one that did not get there is dead, and is made again.
        ours = _Replaced(weakref.ref(wrapper, self.on_dropped), inherited, make)
        if earlier is not None and known.wrappers.get(name) is earlier:
            del known.wrappers[name]
        try:
            # Threads may come here at once, and a signal handler's request within: the first replaces it, alone.
            if known.wrappers.setdefault(name, ours) is ours:
                setattr(owner, name, wrapper)
        except BaseException:
            # Its traceback may keep the wrapper.
            if known.wrappers.get(name) is ours and vars(owner).get(name) is not wrapper:
                del known.wrappers[name]
            raise
        if self._restored:
            # Meanwhile, in another thread, which may not have seen this one.
            _put_back(owner, name, wrapper, inherited=inherited)

    def mend(self) -> None:
        """Put back everything that was dropped."""
        for known in list(self._replaced.values()):
            owner = known.owner()
            if owner is None:
                continue
            for name, replaced in list(known.wrappers.items()):
                if replaced.wrapper() is None:
                    self.replace(owner, name, replaced.make)

    def replace_method(self, cls: type, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a method where *cls* has it from, so that subclasses are not patched twice.

        Where that is a type implemented in C, *cls* itself gets one of its own (uvloop's is such a
        subclass); where *cls* is one too, nothing is done.
        """
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if owner is None or owner is object:
            # httpcore exports a stand-in for SOCKSProxy where socksio is not installed.
            return
        for candidate in (owner, cls):
            try:
                self.replace(candidate, name, make)
            except TypeError:
                continue
            return

    def replaced(self) -> list[tuple[Any, str]]:
        """What is replaced: whose attribute, and its name."""
        return [
            (owner, name)
            for known in list(self._replaced.values())
            if (owner := known.owner()) is not None
            for name, replaced in list(known.wrappers.items())
            if replaced.wrapper() is not None
        ]

    def restore(self) -> None:
        """Put every original back, for good; what somebody has wrapped since stays, and is inert."""
        self._restored = True
        for known in list(self._replaced.values()):
            owner = known.owner()
            if owner is None:
                continue
            for name, replaced in list(known.wrappers.items()):
                wrapper = replaced.wrapper()
                if wrapper is not None:
                    _put_back(owner, name, wrapper, inherited=replaced.inherited)
        self._replaced.clear()


def _put_back(owner: Any, name: str, wrapper: Any, *, inherited: bool) -> None:
    if vars(owner).get(name) is wrapper:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, wrapper.__wrapped__)


class _Replaced(NamedTuple):
    #: What we put there.
    wrapper: weakref.ref[Any]
    #: Whether the owner only inherited what was there before.
    inherited: bool
    make: Callable[[Any], Any]


class _Owner(NamedTuple):
    owner: weakref.ref[Any]
    #: By name.
    wrappers: dict[str, _Replaced]
