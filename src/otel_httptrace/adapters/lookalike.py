# What stands in for a function must look like it, to whoever asks. respx asks
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
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

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
    original: Callable[..., Any], before: Callable[[Any], object], *, whatever: bool = False
) -> Callable[..., Any]:
    """A method that calls ``before(self)``, and then *original* with just what it was given.

    Args:
        original: what it stands in for.
        before: takes the object. What it raises is raised.
        whatever: call *original* all the same if *before* raises, as it closes something.
    """
    signature = _Signature(_code(original))
    kind = _kind(original)
    call = f"{'await ' if kind == 'coroutine' else ''}_original({signature.passed})"
    head = f"{'async ' if kind == 'coroutine' else ''}def standing_in({signature.parameters}):\n"
    body = f"    _before({signature.first})\n    return {call}\n"
    if whatever:
        body = (
            f"    try:\n        _before({signature.first})\n"
            f"    finally:\n        _result = {call}\n    return _result\n"
        )
    return _made(head + body, _original=original, _before=before)


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
    exec(compile(body, __file__, "exec"), names)  # noqa: S102
    # Taken out, as else it would refer to itself by its globals, and outlive its last user: see `Patches`.
    made: Callable[..., Any] = names.pop("standing_in")
    return made


class _Signature:
    """The parameters of *code*, as source text; of any function where there is none.

    Default values are not among them: `lookalike` sets them.
    """

    def __init__(self, code: CodeType | None) -> None:
        if code is None:
            self.parameters, self.passed, self.first = "*_args, **_more", "*_args, **_more", "_args[0]"
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
