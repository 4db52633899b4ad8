"""What a request costs a server: uvicorn on httptools, a connection that is kept, without a socket.

Three applications in turn, round after round, each in a process time of its own; the least of all rounds counts.
The unit is what the ASGI instrumentation adds to a bare request: what is printed is our share of that.
With --instructions it is instructions that are counted, by valgrind: no other work on the machine is in them.

With --memory: whether memory stays flat over many connections, of many peers. A server in a process of its own,
and a client of raw sockets, which opens a connection, asks twice and closes. The resident set, the blocks that
Python's allocator has handed out, and the objects by type, after a full collection, at ten points. Each is to be
compared with the same server without us: Python, the server and the SDK grow, too, until their caches are full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from otel_httptrace.server.instrumentor import HTTPTraceServerInstrumentor

#: Of what the instrumentation adds.
BUDGET = 0.15
_REQUEST = b"GET /ok HTTP/1.1\r\nHost: test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


class _Transport(asyncio.Transport):
    """A connection that takes what is written."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _connection(app: Any) -> tuple[HttpToolsProtocol, ServerState]:
    config = Config(app, log_config=None, access_log=False, ws="none")
    config.load()
    state = ServerState()
    protocol = HttpToolsProtocol(config=config, server_state=state, app_state={})
    protocol.connection_made(_Transport())
    return protocol, state


async def _serve(app: Any, requests: int) -> float:
    """Process time of one request, in seconds."""
    protocol, state = _connection(app)
    gc.collect()
    gc.disable()
    before = time.process_time()
    for _ in range(requests):
        protocol.data_received(_REQUEST)
        while state.tasks:
            await asyncio.sleep(0)
    spent = time.process_time() - before
    gc.enable()
    protocol.timeout_keep_alive_task.cancel()  # type: ignore[union-attr]
    protocol.connection_lost(None)
    return spent / requests


def measure(exclude: list[Any], rounds: int = 15, requests: int = 2000) -> tuple[float, float, float]:
    """Process time of a request, in seconds: bare, with the ASGI instrumentation, and with ours as well."""
    provider = TracerProvider(shutdown_on_exit=False)
    meters = MeterProvider(shutdown_on_exit=False)
    instrumented = OpenTelemetryMiddleware(_app, tracer_provider=provider, meter_provider=meters, exclude_spans=exclude)
    ours = HTTPTraceServerInstrumentor()

    def once(app: Any, on: bool) -> float:
        if on:
            ours.instrument(meter_provider=meters)
        try:
            return asyncio.run(_serve(app, requests))
        finally:
            if on:
                ours.uninstrument()

    kinds: tuple[Callable[[], float], ...] = (
        lambda: once(_app, False),
        lambda: once(instrumented, False),
        lambda: once(instrumented, True),
    )
    least = [float("inf")] * len(kinds)
    for _ in range(rounds):
        for index, kind in enumerate(kinds):
            least[index] = min(least[index], kind())
    return least[0], least[1], least[2]


# By instructions.

MODES = ("bare", "upstream", "ours")
_VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def _application(mode: str, exclude: list[Any], meters: MeterProvider, app: Any = _app) -> Any:
    """The application, without or with the ASGI instrumentation; with ours, that is turned on."""
    if mode == "bare":
        return app
    if mode == "ours":
        HTTPTraceServerInstrumentor().instrument(meter_provider=meters)
    provider = TracerProvider(shutdown_on_exit=False)
    return OpenTelemetryMiddleware(app, tracer_provider=provider, meter_provider=meters, exclude_spans=exclude)


def count(mode: str, excluded: str) -> float:
    """Instructions of a request: those of 2,500 less those of 500, in a process each."""
    counts = []
    for requests in (500, 2500):
        command = [*_VALGRIND, sys.executable, __file__, "--counted", mode, excluded, str(requests)]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        if done.returncode or found is None:
            raise RuntimeError(f"it failed under valgrind:\n{done.stderr}")
        counts.append(int(found[1].replace(",", "")))
    return (counts[1] - counts[0]) / 2000


# Memory.

SERVERS = ("uvicorn", "hypercorn", "gunicorn-gthread")
_LOOKS = 10
#: How many connections there are between two collections of the metrics.
_COLLECT_EVERY = 1000
#: Seconds.
_KEEP_ALIVE = 1


class _Looking:
    """Answers for the application where the client asks to look at memory, or to collect metrics."""

    def __init__(self, mode: str, reader: InMemoryMetricReader) -> None:
        self._mode = mode
        self._reader = reader

    def at(self, path: str) -> bytes | None:
        """An answer, if the path asks for one."""
        if path == "/collect":
            if self._mode != "bare":
                self._reader.get_metrics_data()
            return b"ok"
        if path != "/look":
            return None
        gc.collect()
        types = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found = {
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "blocks": sys.getallocatedblocks(),
            "objects": types.total(),
            "types": types,
        }
        return json.dumps(found).encode()

    def asgi(self, app: Any) -> Any:
        """The application, and this before it."""

        async def looked(scope: Any, receive: Any, send: Any) -> None:
            answer = self.at(scope["path"]) if scope["type"] == "http" else None
            if answer is None:
                await app(scope, receive, send)
                return
            headers = [(b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        return looked

    def wsgi(self, app: Any) -> Any:
        """The same of WSGI."""

        def looked(environ: Any, start_response: Any) -> Any:
            answer = self.at(environ["PATH_INFO"])
            if answer is None:
                return app(environ, start_response)
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]

        return looked


def _wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def serve(server: str, mode: str) -> None:
    """Run a server until it is terminated; its port is the first line that is printed."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    looking = _Looking(mode, reader)
    with contextlib.ExitStack() as stack:
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        os.set_inheritable(sock.fileno(), True)
        print(sock.getsockname()[1], flush=True)
        if server == "gunicorn-gthread":
            from gunicorn.app.base import BaseApplication
            from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WSGIMiddleware

            class Application(BaseApplication):  # type: ignore[misc]
                def load_config(self) -> None:
                    self.cfg.set("bind", f"fd://{sock.fileno()}")
                    self.cfg.set("worker_class", "gthread")
                    self.cfg.set("threads", 2)
                    self.cfg.set("keepalive", _KEEP_ALIVE)
                    self.cfg.set("loglevel", "critical")
                    if "control_socket_disable" in self.cfg.settings:
                        self.cfg.set("control_socket_disable", True)

                def load(self) -> Any:
                    app: Any = _wsgi_app
                    if mode != "bare":
                        provider = TracerProvider(shutdown_on_exit=False)
                        app = WSGIMiddleware(app, tracer_provider=provider, meter_provider=meters)
                    if mode == "ours":
                        HTTPTraceServerInstrumentor().instrument(meter_provider=meters)
                    return looking.wsgi(app)

            # It closes the socket.
            Application().run()
            return
        stack.enter_context(sock)
        app = looking.asgi(_application(mode, ["send", "receive"], meters))
        if server == "uvicorn":
            import uvicorn

            config = Config(app, http="httptools", log_config=None, access_log=False, timeout_keep_alive=_KEEP_ALIVE)
            uvicorn.Server(config).run([sock])
        else:
            from hypercorn.asyncio import serve as hypercorn
            from hypercorn.config import Config as Hypercorn

            settings = Hypercorn()
            settings.bind = [f"fd://{os.dup(sock.fileno())}"]
            settings.keep_alive_timeout = _KEEP_ALIVE
            settings.errorlog = settings.accesslog = None
            asyncio.run(hypercorn(app, settings))


def _ask(sock: socket.socket, path: str) -> bytes:
    sock.sendall(b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % path.encode())
    read = b""
    while b"\r\n\r\n" not in read:
        read += _some(sock)
    head, _, body = read.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _some(sock)
    return body


def _some(sock: socket.socket) -> bytes:
    read = sock.recv(65536)
    if not read:
        raise EOFError
    return read


def memory(server: str, mode: str, connections: int, peers: int) -> dict[str, Any]:
    """What a server of this kind holds after each tenth of the connections."""
    command = [sys.executable, __file__, "--serve", server, mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = "127.0.0.1", int(process.stdout.readline())

            def once(path: str) -> bytes:
                with socket.create_connection(address, 60) as sock:
                    return _ask(sock, path)

            points = []
            for number in range(1, connections + 1):
                # The loopback has many addresses, on Linux; of each, so many ports.
                peer = number % peers
                source = f"127.1.{peer // 250}.{peer % 250 + 1}", 0
                with socket.create_connection(address, 60, source) as sock:
                    for _ in range(2):
                        _ask(sock, "/ok")
                if number % _COLLECT_EVERY == 0:
                    once("/collect")
                if number % (connections // _LOOKS) == 0:
                    if server == "hypercorn":
                        # It holds a socket that its client has closed until its timer strikes.
                        time.sleep(_KEEP_ALIVE * 1.5)
                    points.append({"connections": number, **json.loads(once("/look"))})
        finally:
            process.terminate()
    return {"server": server, "mode": mode, "points": points}


def _memory(arguments: argparse.Namespace) -> None:
    cases = [(server, mode) for server in arguments.servers for mode in MODES]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(memory, *case, arguments.connections, arguments.peers) for case in cases]
        results = [task.result() for task in tasks]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    step = arguments.connections // _LOOKS
    print(f"{'':28}growth since the first look, after {step:,} connections, at each later one")
    for result in results:
        first, *later = result["points"]
        who = f"{result['server']:18}{result['mode']:10}"
        for name, unit in (("rss", 1024), ("blocks", 1), ("objects", 1)):
            growth = " ".join(f"{(point[name] - first[name]) // unit:+7}" for point in later)
            print(f"{who}{name + (' KiB' if unit > 1 else ''):9}{growth}")
        # Since the middle, where caches are full.
        grown = Counter(later[-1]["types"])
        grown.subtract(later[_LOOKS // 2 - 2]["types"])
        most = ", ".join(f"{name} {number:+}" for name, number in grown.most_common(6) if number > 0)
        print(f"{who}since the middle: {most or 'none'}")


def main() -> None:
    """Print what the server's half adds, against what the ASGI instrumentation adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=1000, help="so many addresses they come from")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS[:1])
    parser.add_argument("--json", action="store_true", help="of --memory: every figure")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--counted", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts: list[str] = ["send", "receive"]
    if arguments.serve:
        serve(*arguments.serve)
        return
    if arguments.counted:
        mode, excluded, requests = arguments.counted
        app = _application(mode, excluded.split(), MeterProvider(shutdown_on_exit=False))
        asyncio.run(_serve(app, int(requests)))
        return
    if arguments.memory:
        _memory(arguments)
        return
    for name, excluded in (("spans of send and receive too", parts[:0]), ("without them", parts)):
        if arguments.instructions:
            bare, upstream, both = (count(mode, " ".join(excluded)) for mode in MODES)
            unit, scale = "thousand instructions", 1e-3
        else:
            bare, upstream, both = measure(excluded)
            unit, scale = "microseconds", 1e6
        share = (both - upstream) / (upstream - bare)
        print(
            f"{name}: bare {bare * scale:.1f}, the ASGI instrumentation adds {(upstream - bare) * scale:.1f}, "
            f"ours {(both - upstream) * scale:.1f} {unit}: {share:.3f} of it"
        )
    print(f"budget: {BUDGET}")


if __name__ == "__main__":
    main()
