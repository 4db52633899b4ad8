# What stands in for a function must look like it, to all that ask. respx asks
# `inspect.getfullargspec(ConnectionPool.handle_request)` and passes arguments by
# those names; others ask `iscoroutinefunction`, or read `__defaults__`. None of
# these follows `__wrapped__`, so it is our own code object that is looked at.
#
# A hook is therefore written with the parameters that its original has in the
# versions we read, and costs nothing more. Where an original has others (another
# version, or somebody has wrapped it before us), a function with just these
# parameters is made, and calls the hook.

"""Hooks that introspection cannot tell from what they stand in for."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from textwrap import indent
from types import CodeType, FunctionType
from typing import Any, Final

#: Where a traceback finds a function that was made: in our folder, but no file, from which it would quote some line.
_MADE: Final = os.path.join(os.path.dirname(__file__), "<made>")

_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def lookalike(hook: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """*hook*, or a function that calls it, with name, parameters, defaults and kind of *original*.

    Args:
        hook: takes what *original* takes.
        original: a function. Of any other callable (one that is written in C, a bound method) only the
            names and texts are taken: what asks for its signature is led to it by ``__wrapped__``.
    """
    code = _code(original)
    if code is not None:
        if _parameters(hook.__code__) != _parameters(code) or _kind(hook) != _kind(original):
            hook = _with_parameters_of(code, hook, _kind(original))
        hook.__defaults__ = getattr(original, "__defaults__", None)
        hook.__kwdefaults__ = getattr(original, "__kwdefaults__", None)
    return functools.update_wrapper(hook, original)


def _code(function: object) -> CodeType | None:
    return function.__code__ if isinstance(function, FunctionType) else None


def _parameters(code: CodeType) -> tuple[object, ...]:
    named = code.co_argcount + code.co_kwonlyargcount
    flags = code.co_flags & _VARIADIC
    return code.co_posonlyargcount, code.co_argcount, flags, code.co_varnames[: named + flags.bit_count()]


def _kind(function: Any) -> str:
    if inspect.iscoroutinefunction(function):
        return "coroutine"
    if inspect.isasyncgenfunction(function):
        return "asynchronous generator"
    return "generator" if inspect.isgeneratorfunction(function) else ""


def preceded(
    original: Callable[..., Any],
    before: Callable[[Any], object],
    fault: Callable[[Any], Callable[[Any], object]],
    *,
    whatever: bool = False,
    missed: Callable[[Any], object] | None = None,
) -> Callable[..., Any]:
    """A method that calls ``before(self)``, and then *original* with just what it was given.

    Args:
        original: what it stands in for.
        before: takes the object.
        fault: called with *before* where that raises: contains what was raised and answers what to call
            from then on, or raises it.
        whatever: call *original* all the same if *fault* raises, as it closes something.
        missed: given the object where *before* was interrupted or does not answer True, as it could not see it
            through. Written in C, so that it is not interrupted in its turn.
    """
    signature = _Signature(_code(original))
    kind = _kind(original)
    call = f"{'await ' if kind == 'coroutine' else ''}_original({signature.passed})"
    head = f"{'async ' if kind == 'coroutine' else ''}def standing_in({signature.parameters}):\n"
    seen = f"_seen = _before({signature.first})" if missed is not None else f"_before({signature.first})"
    first = f"""
    global _before
    try:
        {seen}
    except BaseException:
        _before = _fault(_before)
"""
    if missed is not None:
        first = f"""
    _seen = None
    try:
        {indent(first, "    ").strip()}
    finally:
        if _seen is not True:
            _missed({signature.first})
"""
    body = f"{first}    return {call}\n"
    if whatever:
        body = f"""
    try:
{indent(first, "    ")}
    finally:
        _result = {call}
    return _result
"""
    return _made(head + body, _original=original, _before=before, _fault=fault, _missed=missed)


def followed(original: Callable[..., Any], raised: Callable[[Any, Any, BaseException], object]) -> Callable[..., Any]:
    """A method that calls *original* with just what it was given, and where that raises ``raised(self, first, error)``.

    Args:
        original: what it stands in for.
        raised: takes the object, the first argument and what was raised, which is raised on.
    """
    signature = _Signature(_code(original))
    return _made(
        f"def standing_in({signature.parameters}):\n"
        f"    try:\n"
        f"        return _original({signature.passed})\n"
        f"    except BaseException as _error:\n"
        f"        _raised({signature.first}, {signature.second}, _error)\n"
        f"        raise\n",
        _original=original,
        _raised=raised,
    )


def counting(
    original: Callable[..., Any], before: Callable[[Any], Any], fault: Callable[[Any], Callable[[Any], Any]]
) -> Callable[..., Any]:
    """A method that calls ``before(self)``, then *original*, and adds the length of what that returns.

    Args:
        original: what it stands in for: it returns bytes.
        before: takes the object, and answers with what has a ``received`` to add to, or None.
        fault: as for `preceded`.
    """
    signature = _Signature(_code(original))
    kind = _kind(original)
    call = f"{'await ' if kind == 'coroutine' else ''}_original({signature.passed})"
    return _made(
        f"{'async ' if kind == 'coroutine' else ''}def standing_in({signature.parameters}):\n"
        f"    global _before\n"
        f"    _counter = None\n"
        f"    try:\n"
        f"        _counter = _before({signature.first})\n"
        f"    except BaseException:\n"
        f"        _before = _fault(_before)\n"
        f"    _result = {call}\n"
        f"    if _counter is not None and _result:\n"
        f"        _counter.received += len(_result)\n"
        f"    return _result\n",
        _original=original,
        _before=before,
        _fault=fault,
    )


def _with_parameters_of(code: CodeType, hook: Callable[..., Any], kind: str) -> Callable[..., Any]:
    signature = _Signature(code)
    call = f"_hook({signature.passed})"
    body = {
        "coroutine": f"async def standing_in({signature.parameters}):\n    return await {call}\n",
        "asynchronous generator": (
            f"async def standing_in({signature.parameters}):\n    async for _part in {call}:\n        yield _part\n"
        ),
        "generator": f"def standing_in({signature.parameters}):\n    return (yield from {call})\n",
        "": f"def standing_in({signature.parameters}):\n    return {call}\n",
    }[kind]
    return _made(body, _hook=hook)


def _made(body: str, **names: Any) -> Callable[..., Any]:
    # Of nothing but parameter names, as collections.namedtuple does it.
    exec(_compiled(body), names)  # noqa: S102
    # Taken out, as else it would refer to itself by its globals, and outlive its last user: see `Patches`.
    made: Callable[..., Any] = names.pop("standing_in")
    return made


# Many methods have the same parameters, and to compile is most of what being turned on takes.
@functools.lru_cache(maxsize=64)
def _compiled(body: str) -> CodeType:
    return compile(body, _MADE, "exec")


class _Signature:
    """The parameters of *code*, as source text; of any function where there is none.

    Default values are not among them: `lookalike` sets them.
    """

    def __init__(self, code: CodeType | None) -> None:
        if code is None:
            self.parameters, self.passed = "*_args, **_more", "*_args, **_more"
            self.first, self.second = "_args[0]", "_args[1] if len(_args) > 1 else None"
            return
        names = iter(code.co_varnames)
        positional = [next(names) for _ in range(code.co_argcount)]
        keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
        parameters, passed = list(positional), list(positional)
        if code.co_posonlyargcount:
            parameters.insert(code.co_posonlyargcount, "/")
        rest = next(names) if code.co_flags & inspect.CO_VARARGS else ""
        if rest or keywords:
            parameters.append(f"*{rest}")
        if rest:
            passed.append(f"*{rest}")
        parameters += keywords
        passed += [f"{name}={name}" for name in keywords]
        if code.co_flags & inspect.CO_VARKEYWORDS:
            more = next(names)
            parameters.append(f"**{more}")
            passed.append(f"**{more}")
        self.parameters, self.passed = ", ".join(parameters), ", ".join(passed)
        self.first = positional[0] if positional else f"{rest}[0]"
        self.second = positional[1] if len(positional) > 1 else "None"
