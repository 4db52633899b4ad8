# Read at three in the morning, on one span, without this package's documentation
# at hand. So: whole sentences, the library's own names for settings, and no
# conclusion beyond what was seen. What is in brackets is said where it is known.
#
# What is worth a sentence is decided in core/diagnosis.py. docs/attributes.md is
# made from this table.

"""The sentences of the event ``httptrace.diagnosis``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from ..core.diagnosis import Diagnosis, Told
from .units import spoken

# The line comes first, where it is known: a popover on a bar in Jaeger shows some hundred letters, and cuts off the
# rest.
_CONNECTED = "Connected[, which took {opening:time}]: "
_OPENED = "Opened a new connection[ because of {lost_at}][, which took {opening:time}]: "
_LOST = "Connection {conn} was lost: "
_CLOSED = "Connection {conn} was closed: "
_WHY = "{error}[ ({cause})]"

#: By what happened, and the reason or phase. ``[...]`` is left out where one of the facts in it is not known.
SENTENCES: Final[dict[Told, dict[str, str]]] = {
    Told.OPENED: {
        "first_connection": _CONNECTED + "this process had not connected to that origin before",
        "new_client": "Opened a new connection[, which took {opening:time}]: the client[ made at {made_at}] is new, "
        "and had none; another client of this process had connected to that origin before",
        "all_busy": _CONNECTED + "every open connection was carrying a request",
        "body_not_read": _OPENED + "the one before was closed with a response that had not been read to its end",
        "response_leaked": _OPENED + "the one before is held by a response that nobody closed",
        "keepalive_expired": _OPENED + "the one before had not been used for keepalive_expiry[ ({expiry:time})] or "
        "longer",
        "keepalive_limit": _OPENED + "the one before had been dropped, as the pool keeps no more"
        "[ than {keepalive} (max_keepalive_connections)][ than {kept} for each origin]",
        "pool_full": _OPENED + "the one before had been dropped to make room for another origin"
        "[ (max_connections is {limit})]",
        "server_closed": _OPENED + "the server had closed the one before while it was idle",
        "connection_close": _OPENED + "the one before could not be kept (Connection: close on either side, HTTP/1.0, "
        "or a body that ends with its connection)",
        "request_failed": _OPENED + "the one before was lost with a request that failed",
        "request_cancelled": _OPENED + "the one before was lost with a request that was cancelled",
        "goaway": _OPENED + "the server had retired the one before (HTTP/2 GOAWAY), or it had run out of stream ids",
        "upgraded": _OPENED + "the one before had been handed over (101 or CONNECT)",
        "client_closed": _OPENED + "the client had been closed, and was used again",
        "unknown": _OPENED + "what became of those before was not seen",
    },
    Told.LOST: {
        "body_not_read": "Connection {conn} was lost[ at {closed_at}][, by way of {closed_via}]: this response was "
        "closed before it had been read to its end[, as {closed_by} passed through]"
        "[; {read:size}[ of {size:size}] had been read]"
        "[; all of its {whole:size} had been read, and only its end had not]",
        "response_leaked": _LOST + "nobody closed this response",
        "keepalive_expired": _CLOSED + "it had not been used for keepalive_expiry[ ({expiry:time})] or longer",
        "keepalive_limit": _CLOSED + "the pool keeps no more[ than {keepalive} (max_keepalive_connections)]"
        "[ than {kept} for each origin]",
        "pool_full": _CLOSED + "the pool needed its place for another origin",
        "server_closed": _CLOSED + "the server had closed it while it was idle",
        "connection_close": _CLOSED + "it could not be kept after this response (Connection: close on either side, "
        "HTTP/1.0, or a body that ends with its connection)",
        "request_failed": _LOST + "it broke while it carried this request",
        "request_cancelled": _LOST + "this request was cancelled",
        "goaway": _CLOSED + "the server had retired it (HTTP/2 GOAWAY), or it had run out of stream ids",
        "upgraded": _CLOSED + "it had been handed over (101 or CONNECT)",
        "client_closed": _CLOSED + "the client was closed while this response was open[, at {client_closed_at}]",
        "unknown": _CLOSED + "why was not seen",
    },
    Told.FAILED: {
        "pool": "The pool had no connection[ within {took:time}]: "
        + _WHY
        + "[; {held_at} made the request that has held one for longest[, {held_for:time}]]",
        "dns": "Looking up[ {name}] failed[ after {took:time}]: " + _WHY,
        "connect": "Connecting[ to {address}][ to the proxy {forward}] failed[ after {took:time}]: " + _WHY,
        "proxy": "The handshake with the proxy[ {proxy}] failed[ after {took:time}]: " + _WHY,
        "tls": "The TLS handshake[ with {origin}] failed[ after {took:time}]: " + _WHY,
        "send": "Sending the request[ on connection {conn}] failed[ after {took:time}]: " + _WHY,
        "wait": "No response could be read[ from connection {conn}][ within {took:time}]: " + _WHY,
        "receive": "The body broke off[ after {read:size}[ of {size:size}]][, {took:time} after the headers]: " + _WHY,
    },
    Told.CANCELLED: {
        "pool": "Cancelled while it waited for a connection from the pool[, after {took:time}]",
        "dns": "Cancelled while[ {name}] was being looked up[, after {took:time}]",
        "connect": "Cancelled while connecting[ to {address}][ to the proxy {forward}][, after {took:time}]",
        "proxy": "Cancelled in the handshake with the proxy[ {proxy}][, after {took:time}]",
        "tls": "Cancelled in the TLS handshake[ with {origin}][, after {took:time}]",
        "send": "Cancelled while the request was being sent[, after {took:time}]",
        "wait": "Cancelled while it waited for the response[, for {took:time}]",
        "receive": "Cancelled in the body[, after {read:size}[ of {size:size}]][, {took:time} after the headers]",
    },
    Told.WAITED: {
        "pool": "It took {took:time} until the pool had a connection for this request",
        "stream": "It took {took:time} until connection {conn} had a stream for this request[; the server allows "
        "{stream_limit}, and {streams} were open]",
    },
    Told.SLOW: {
        "send": "Sending the request[ on connection {conn}] took {took:time}",
        "wait": "The response[ on connection {conn}] began {took:time} after the request had been sent",
        "receive": "The body took {took:time} from the headers to its end[, {read:size}]; {waited:time} of that were "
        "spent waiting for bytes[, {gap:time} at most at a time], and the rest in this program",
    },
    Told.SHARED: {"inherited": "This request went over connection {conn}, which another process opened, before a fork"},
    Told.LEAKED: {
        "never_closed": "This response was never closed[; its request was made at {made_at}]: connection {conn} could "
        "not be used again"
    },
}

#: Added to any of them, behind a semicolon, where that fact is known.
ADDITIONS: Final[dict[str, str]] = {
    "connections": "as the wait began the pool had {connections}[ of at most {limit}] connections",
    "held_for": "one has been held for {held_for:time}",
    "timeout": "the timeout was {timeout:time}",
    "received": "{received:size} of a response had come",
    "looked_up": "the lookup before that had taken {looked_up:time}",
    "unacked": "{unacked:size} written had not been acknowledged",
    "idle": "the connection had been idle for {idle:time}[, after {before:requests}]",
    "empty": "the body was empty, and had to be read to its end all the same",
    "dropped": "the garbage collector closed it, for the code had dropped the response",
    "client_closed_at": "the client was closed under it, at {client_closed_at}",
    "foreign_loop": "the connection was opened in another event loop",
    "stalled": "this process did not get to run it for {stalled:time}",
    "lost": "connection {lost} was lost with it",
    "opened": "it is connection {opened} of the process[, to {origin}]",
    "dns_took": "the lookup took {dns_took:time} of that",
    "connect_took": "connecting took {connect_took:time} of that",
    "proxy_took": "the handshake with the proxy took {proxy_took:time} of that",
    "tls_took": "the TLS handshake took {tls_took:time} of that",
}

_FACT: Final = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PIECE: Final = re.compile(r"[\[\]]|[^\[\]]+")

#: A sentence, and within it what is said only where it is known.
_Parts = list[Any]


def say(diagnosis: Diagnosis) -> str:
    """The sentence for *diagnosis*."""
    facts, used = diagnosis.facts, set[str]()
    said = [_said(_parsed(SENTENCES[diagnosis.told][diagnosis.word]), facts, used)]
    for fact, text in ADDITIONS.items():
        if fact in facts and fact not in used:
            said.append(_said(_parsed(text), facts, used))
    return "; ".join(said) + "."


@cache
def _parsed(text: str) -> _Parts:
    within: list[_Parts] = [[]]
    for piece in _PIECE.findall(text):
        if piece == "[":
            within.append([])
        elif piece == "]":
            optional = within.pop()
            within[-1].append(optional)
        else:
            within[-1].append(piece)
    (parts,) = within
    return parts


def _said(parts: _Parts, facts: dict[str, object], used: set[str]) -> str:
    """What *parts* say; the names of the facts in it are put into *used*."""

    def fact(found: re.Match[str]) -> str:
        used.add(found[1])
        return _UNITS[found[2]](facts[found[1]])

    return "".join(
        _FACT.sub(fact, part) if isinstance(part, str) else _said(part, facts, used) if _known(part, facts) else ""
        for part in parts
    )


def _known(parts: _Parts, facts: dict[str, object]) -> bool:
    return all(found[1] in facts for part in parts if isinstance(part, str) for found in _FACT.finditer(part))


def _time(nanoseconds: object) -> str:
    return spoken(int(str(nanoseconds)) / 1e9)


def _requests(number: object) -> str:
    return "1 request" if number == 1 else f"{number} requests"


def _size(number: object) -> str:
    count = float(str(number))
    if count < 1024:
        return "1 byte" if count == 1 else f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1023.95 or unit == "GiB":
            break
    return f"{count:.1f} {unit}"


_UNITS: Final[dict[str | None, Callable[[object], str]]] = {
    None: str,
    "time": _time,
    "size": _size,
    "requests": _requests,
}
