"""A resolver that answers from a table."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest


class Resolver:
    """In the place of the system's: answers from a table, and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[str] | BaseException] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.gates: dict[str, threading.Event] = {}
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002 - the name that it has there
        """As `socket.getaddrinfo`."""
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.answers or flags & socket.AI_NUMERICHOST:
            return self._real(host, port, family, type, proto, flags)
        self.asked.append((name, family, type, proto, flags))
        if name in self.gates:
            self.gates[name].wait(10)
        answer = self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        found = []
        for address in answer:
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            end = (address, port, 0, 0) if ":" in address else (address, port)
            found.append((kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", end))
        return found
