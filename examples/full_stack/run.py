"""Starts both services under opentelemetry-instrument, sends some requests to the first, and stops both."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def start(service: str, listener: socket.socket, **settings: str) -> subprocess.Popen[bytes]:
    # The service is given the listening socket: requests can be sent at once, they wait in its queue.
    file = str(listener.fileno())
    return subprocess.Popen(
        [BIN / "opentelemetry-instrument", BIN / "uvicorn", f"{service}:app", "--fd", file, "--log-level", "warning"],
        cwd=HERE,
        env={**os.environ, "OTEL_SERVICE_NAME": service, **settings},
        pass_fds=[listener.fileno()],
    )


def url(listener: socket.socket) -> str:
    return f"http://localhost:{listener.getsockname()[1]}"


with socket.create_server(("127.0.0.1", 0)) as shop, socket.create_server(("127.0.0.1", 0)) as stock:
    services = [start("shop", shop, STOCK_URL=url(stock)), start("stock", stock)]
    try:
        for path in ["/known/tea"] * 3 + ["/price/tea"] * 3:
            with urllib.request.urlopen(url(shop) + path, timeout=30) as response:
                print(path, response.read().decode())
    finally:
        for service in services:
            service.terminate()
            service.wait()
