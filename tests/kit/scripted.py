"""A client library that sends nothing: what its connections and answers do is written by the test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any


class PoolTimeout(Exception):
    """Every connection is taken."""


class Gone(Exception):
    """The connection broke."""


class Wire:
    """What a connection reads from and writes to.

    Attributes:
        ended: the other side has closed it.
    """

    def __init__(self) -> None:
        self.ended = self.closed = False

    def close(self) -> None:
        """Close it."""
        self.closed = True


class Line:
    """A connection: it takes one request at a time."""

    def __init__(self, host: str) -> None:
        self.host, self.wire, self.busy = host, Wire(), False

    def carry(self, request: Request) -> None:
        """Write *request*."""
        if isinstance(request.script, BaseException):
            raise request.script


class Request:
    """For *host*; *script* is the body's parts, or what is raised, in the body or in place of an answer."""

    def __init__(self, host: str, script: Any = (b"body",), headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.host, self.script, self.headers = host, script, headers


class Body:
    """Of a response: iterate it to the end, and close it."""

    def __init__(self, pool: Pool, line: Line, request: Request) -> None:
        self._pool, self._line, self._parts, self._over = pool, line, request.script, False
        self._keep = (b"connection", b"close") not in request.headers

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, BaseException):
                raise part
            yield part
        self._over = True

    def close(self) -> None:
        """Give the connection back, or close it if there may be more to read."""
        self._line.busy = False
        if not self._over or not self._keep:
            self._pool.drop(self._line)


class Response:
    """The answer to a request."""

    def __init__(self, body: Body) -> None:
        self.status, self.headers, self.body = 200, ((b"transfer-encoding", b"chunked"),), body


class Pool:
    """At most *most* connections, whatever the host."""

    def __init__(self, most: int = 2) -> None:
        self.lines: list[Line] = []
        self.most = most

    def send(self, request: Request) -> Response:
        """Send *request* on a connection that is free, or on a new one."""
        line = self._free(request.host)
        line.busy = True
        try:
            line.carry(request)
        except BaseException:
            line.busy = False
            self.drop(line)
            raise
        return Response(Body(self, line, request))

    def _free(self, host: str) -> Line:
        for line in list(self.lines):
            if not line.busy and line.host == host:
                if not line.wire.ended:
                    return line
                self.drop(line)
        if len(self.lines) >= self.most:
            raise PoolTimeout
        return self.dial(host)

    def dial(self, host: str) -> Line:
        """Open a connection."""
        socket.getaddrinfo(host, 80)
        line = Line(host)
        self.lines.append(line)
        return line

    def drop(self, line: Line) -> None:
        """Close *line*."""
        if line in self.lines:
            self.lines.remove(line)
        line.wire.close()

    def close(self) -> None:
        """Close all connections."""
        for line in list(self.lines):
            self.drop(line)
