"""What is installed: the Python, our distributions, the clients, and what ``opentelemetry-instrument`` finds."""

from __future__ import annotations

from collections.abc import Iterator

from ... import clients as known
from ...clients import CLIENTS
from .result import Result, State, Subject


def python(subject: Subject) -> Iterator[Result]:
    """The Python itself."""
    if subject.python is None:
        yield Result(
            State.PROBLEM,
            subject.program,
            "neither a Python nor a script of one: what is installed there was not checked",
            "name the Python that it runs: httptrace doctor -- /path/to/python",
        )
    elif subject.facts is None:
        yield Result(State.PROBLEM, subject.python, "could not be run", f"try: {subject.python} -c 'import sys'")
    else:
        yield Result(State.OK, "Python", f"{subject.facts['python']}, {subject.facts['executable']}")


def ours(subject: Subject) -> Iterator[Result]:
    """Our own package, and what it needs."""
    # What instruments the others is an extra.
    upstream = dict.fromkeys(
        client.upstream.distribution
        for client in CLIENTS
        if not client.upstream.several or subject.versions.get(client.upstream.distribution) is not None
    )
    for name, advice in (
        ("otel-httptrace", "'otel-httptrace[cli]'"),
        ("opentelemetry-sdk", "opentelemetry-distro"),
        ("opentelemetry-distro", "opentelemetry-distro"),
        *((name, name) for name in upstream),
    ):
        if name not in subject.versions:
            continue
        found = subject.versions[name]
        if found is None:
            # With the first all others come.
            one = name == "otel-httptrace" or subject.versions["otel-httptrace"] is not None
            yield Result(State.PROBLEM, name, "not installed", f"{subject.pip} {advice}" if one else "")
        else:
            yield Result(State.OK, name, found)


def clients(subject: Subject) -> Iterator[Result]:
    """The client libraries, in versions that are known."""
    if not subject.versions:
        return
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415

    some = False
    for client in CLIENTS:
        core, version = subject.versions[client.core], subject.versions[client.name]
        if version is None and (core is None or client.upstream.several):
            continue
        some = True
        if core is None:
            advice = f"{subject.pip} {client.core}"
            yield Result(State.PROBLEM, client.name, f"{version}, without {client.core}", advice)
        elif not SpecifierSet(client.supported).contains(core, prereleases=True):
            yield Result(
                State.PROBLEM,
                client.core,
                f"{core} is not supported, which is {client.supported}",
                f"{subject.pip} -U '{client.core}{client.supported}'",
            )
        else:
            found = f"{version or 'not installed'}, {client.core} {core}" if client.name != client.core else core
            seen = f"{found}: supported ({client.supported})"
            if version is not None and client.upstream.several and not subject.versions[client.upstream.distribution]:
                seen += f"; metrics only, without {client.upstream.distribution}"
            yield Result(State.OK, client.name, seen)
    if not some:
        names = ", ".join(client.name for client in CLIENTS)
        which = "neither" if len(CLIENTS) == 2 else "none"
        advice = f"{subject.pip} {CLIENTS[0].name}"
        yield Result(State.PROBLEM, names, f"{which} is installed: there is nothing to trace", advice)


def entry_points(subject: Subject) -> Iterator[Result]:
    """The instrumentations that ``opentelemetry-instrument`` finds."""
    versions = subject.versions
    if not versions:
        return
    found = set(subject.facts["entry_points"])
    wanted = {"httptrace": "otel-httptrace"} if versions["otel-httptrace"] is not None or "httptrace" in found else {}
    for client in CLIENTS:
        upstream = client.upstream
        if versions[client.name] is not None and (not upstream.several or versions[upstream.distribution] is not None):
            wanted[upstream.entry_point] = f"{upstream.distribution}{upstream.minimum}"
    for name, distribution in wanted.items():
        if name in found:
            yield Result(State.OK, f"entry point {name}", "opentelemetry-instrument finds it")
        else:
            yield Result(
                State.PROBLEM,
                f"entry point {name}",
                "opentelemetry-instrument does not find it",
                f"{subject.pip} -U --force-reinstall '{distribution}'",
            )


def no_client(subject: Subject) -> str | None:
    """What to say where no client is installed; None where one is, or where that is not known."""
    versions = subject.versions
    if not versions or any(versions[client.name] is not None for client in CLIENTS):
        return None
    which = "neither" if len(CLIENTS) == 2 else "none of"
    word = "nor" if len(CLIENTS) == 2 else "and"
    return f"{which} {known.named(word)} is installed where it runs, {subject.facts['executable']}."
