"""A client that is a script: it writes and reads bytes, keeps connections as it is told, and is not instrumented."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import time
from typing import Any, NamedTuple

#: Longer than anything here takes: a script that waits this long has failed.
PATIENCE = 20


class Sent:
    """A request that the client sent, and when it did and had the answer, in seconds of the monotonic clock."""

    def __init__(self, number: int, conn: Conn) -> None:
        self.number = number
        self.conn = conn
        self.sent_at = time.monotonic()
        #: When the answer was read to its end; None if it was not.
        self.answered_at: float | None = None


class Answer(NamedTuple):
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Keeps what was done, to be compared with what the server tells.

    Args:
        port: the server's, on the loopback.
        source: where it comes from: any address of the loopback, on Linux.
        address: the server's, if it is another: of IPv6, or a Unix socket's path.
        tls: what it trusts, if it speaks TLS.
    """

    def __init__(
        self,
        port: int,
        numbers: itertools.count[int],
        source: str | None = None,
        address: Any = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.source = source
        self.address = address
        self.tls = tls
        self.sent: list[Sent] = []
        self.numbers = numbers
        self._conns: list[Conn] = []

    def connect(self) -> Conn:
        """Open another connection."""
        self._conns.append(Conn(self))
        return self._conns[-1]

    def over(self) -> None:
        """Close what is still open."""
        for conn in self._conns:
            conn.close()


class Conn:
    """One connection of the client's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffer = b""
        self.dialled_at = time.monotonic()
        self.sock = _dial(client)
        name = self.sock.getsockname()
        #: None on a Unix socket.
        self.local_port: int | None = None if isinstance(name, str | bytes) else name[1]
        if client.tls is not None:
            self.sock = client.tls.wrap_socket(self.sock, server_hostname="127.0.0.1")

    def head(self, path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
        """The head of a request, which is noted as sent."""
        sent = Sent(next(self._client.numbers), self)
        self._client.sent.append(sent)
        lines = (f"{method} {path}?n={sent.number} HTTP/{version}", "Host: test", *headers, "", "")
        return "\r\n".join(lines).encode()

    def send(self, data: bytes) -> None:
        """Write."""
        self.sock.sendall(data)

    def get(self, path: str = "/ok", *headers: str, method: str = "GET", version: str = "1.1") -> Answer:
        """Send a request and read its answer."""
        self.send(self.head(path, *headers, method=method, version=version))
        return self.read(has_body=method != "HEAD")

    def read(self, *, has_body: bool = True) -> Answer:
        """Read the next answer to its end."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not has_body or status.split()[1] in ("204", "304"):
            body = b""
        elif "content-length" in headers:
            body = self._take(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while chunk := self._chunk():
                body += chunk
        else:
            with contextlib.suppress(EOFError):
                while True:
                    self._more()
            body, self._buffer = self._buffer, b""
        answered = time.monotonic()
        next(
            sent for sent in self._client.sent if sent.conn is self and sent.answered_at is None
        ).answered_at = answered
        return Answer(int(status.split()[1]), headers, body)

    def _chunk(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        size, _, self._buffer = self._buffer.partition(b"\r\n")
        chunk = self._take(int(size, 16))
        self._take(2)
        return chunk

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        read = self.sock.recv(65536)
        if not read:
            raise EOFError(self._buffer)
        self._buffer += read

    def some(self) -> bytes:
        """Read some of an answer, but not all of it."""
        self._more()
        return self._buffer

    def ended(self) -> None:
        """Wait until the server has closed it."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass
        self.close()

    def close(self) -> None:
        """Close it, as one does."""
        self.sock.close()

    def bid_farewell(self) -> None:
        """Say in TLS that it is over, and close without waiting for the answer."""
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.setblocking(False)
        with contextlib.suppress(ssl.SSLError):
            self.sock.unwrap()
        self.sock.close()

    def reset(self) -> None:
        """Close it with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _dial(client: Client) -> socket.socket:
    if isinstance(client.address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(client.address)
        return sock
    source = None if client.source is None else (client.source, 0)
    return socket.create_connection(client.address or ("127.0.0.1", client.port), PATIENCE, source)
