# One server for all of them: its clients are told apart by the address that they
# come from, of which the loopback has many.

"""Servers under ``opentelemetry-instrument``, as users start them, and clients that nobody has instrumented."""

from __future__ import annotations

import contextlib
import itertools
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .command import INSTRUMENTED, exporting
from .programs import PATIENCE, ROOT, free_port, until
from .sockets import Client, Conn

#: Seconds, whole ones: the server's keep-alive timeout.
KEEP_ALIVE = 1
OFTEN = {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_BSP_SCHEDULE_DELAY": "100"}


def uvicorn(service: str, endpoint: str, **environ: str) -> contextlib.AbstractContextManager[int]:
    """Serve tests/backends/programs/served.py, and send what is seen to *endpoint* by gRPC; its port."""
    port = free_port()
    command = ["uvicorn", "served:app", f"--port={port}", f"--timeout-keep-alive={KEEP_ALIVE}", "--no-access-log"]
    return _serving(command, "Uvicorn running on", exporting(service, endpoint, "grpc", **{**OFTEN, **environ}), port)


def gunicorn(service: str, endpoint: str) -> contextlib.AbstractContextManager[int]:
    """Serve tests/backends/programs/served_sync.py with its default worker; *endpoint* is HTTP's, for forks; its port."""
    port = free_port()
    command = ["gunicorn", "served_sync:app", f"--bind=127.0.0.1:{port}", "--no-control-socket"]
    return _serving(command, "Listening at", exporting(service, endpoint, **OFTEN), port)


@contextlib.contextmanager
def _serving(command: Sequence[str], ready: str, environ: dict[str, str], port: int) -> Iterator[int]:
    program, *arguments = command
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [INSTRUMENTED[0], str(Path(sys.executable).with_name(program)), *arguments],
            cwd=ROOT / "tests/backends/programs",
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def said() -> str:
            log.seek(0)
            return log.read().decode(errors="replace")

        try:
            # Not by a connection: it would be seen.
            until(f"{program} runs", lambda: ready in said() or process.poll() is not None)
            assert process.poll() is None, said()
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE)


class Clients:
    """Who uses uvicorn, each from an address of its own.

    Args:
        port: the server's.
    """

    def __init__(self, port: int) -> None:
        self._numbers = itertools.count(1)
        self._clients = {peer: Client(port, self._numbers, peer) for peer in (KEEPS, *PEERS)}
        self._conn = self._clients[KEEPS].connect()

    def _opened(self, peer: str) -> Conn:
        # The control has one connection for all its requests, and never stops for as long as the timeout.
        self._conn.get()
        return self._clients[peer].connect()

    def closes_each(self) -> None:
        """A connection for each request, of which the response is read."""
        for _ in range(TIMES):
            conn = self._opened(CLOSES_EACH)
            conn.get()
            conn.close()

    def leaves_unread(self) -> None:
        """A connection for each request, as in Go where a body is closed and not read."""
        for _ in range(TIMES):
            conn = self._opened(LEAVES_UNREAD)
            conn.send(conn.head("/stream"))
            conn.some()
            conn.close()

    def leaves(self) -> None:
        """A response that is read, and one that is left half-way."""
        for _ in range(TIMES):
            conn = self._opened(LEAVES)
            conn.get()
            conn.send(conn.head("/stream"))
            conn.some()
            conn.reset()

    def fails(self) -> None:
        """Three requests on a connection, of which the application fails in the last."""
        for _ in range(TIMES):
            conn = self._opened(FAILS)
            conn.get()
            conn.get()
            conn.send(conn.head("/fail-mid"))
            conn.ended()

    def is_not_kept(self) -> None:
        """Requests that are answered with ``Connection: close``."""
        for _ in range(TIMES):
            conn = self._clients[NOT_KEPT].connect()
            conn.get("/close")
            conn.ended()

    def idles(self) -> None:
        """Three requests on each of some connections, and then none until the server's keep-alive timeout.

        The control goes on meanwhile.
        """
        conns = [self._opened(IDLES) for _ in range(TIMES)]
        for conn in conns:
            for _ in range(3):
                conn.get()
        waiting = [conn.sock for conn in conns]
        while waiting:
            ready = select.select(waiting, [], [], KEEP_ALIVE / 5)[0]
            assert all(sock.recv(1) == b"" for sock in ready)
            waiting = [sock for sock in waiting if sock not in ready]
            self._conn.get()
        for conn in conns:
            conn.close()

    def everything(self) -> None:
        """All of it but the one that makes the server look as if it kept no connection."""
        plays: tuple[Callable[[], None], ...] = (
            self.closes_each,
            self.leaves_unread,
            self.leaves,
            self.fails,
            self.idles,
        )
        for play in plays:
            play()

    @property
    def sent(self) -> int:
        """How many requests they have sent."""
        return sum(len(client.sent) for client in self._clients.values())

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *error: object) -> None:
        """Close what is open."""
        for client in self._clients.values():
            client.over()


#: How often each does what it does.
TIMES = 4
KEEPS = "127.0.0.1"
CLOSES_EACH, LEAVES_UNREAD, IDLES, NOT_KEPT, LEAVES, FAILS = PEERS = tuple(
    f"127.0.0.{number}" for number in (41, 141, 42, 43, 44, 45)
)
