"""Starts gunicorn under opentelemetry-instrument, sends 20 requests, two at a time, and stops it."""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


class Service(BaseHTTPRequestHandler):
    """What the application asks. It answers two at a time, so that each worker has one of the two."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    both = threading.Barrier(2)

    def do_GET(self) -> None:
        self.both.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


with ThreadingHTTPServer(("127.0.0.1", 0), Service) as service, socket.create_server(("127.0.0.1", 0)) as listener:
    threading.Thread(target=service.serve_forever, daemon=True).start()
    # gunicorn is given the listening socket: requests can be sent at once, they wait in its queue.
    file = listener.fileno()
    gunicorn = subprocess.Popen(
        [BIN / "opentelemetry-instrument", BIN / "gunicorn", "--bind", f"fd://{file}", "app:app"],
        cwd=HERE,
        env={**os.environ, "SERVICE_URL": f"http://localhost:{service.server_port}"},
        pass_fds=[file],
    )
    try:
        with ThreadPoolExecutor(2) as two:
            answers = Counter(two.map(ask, [f"http://localhost:{listener.getsockname()[1]}"] * 20))
    finally:
        gunicorn.terminate()
        status = gunicorn.wait()
        service.shutdown()
    for worker, requests in answers.items():
        print(f"{worker}: {requests} requests")
    print(f"gunicorn ended with status {status}")
