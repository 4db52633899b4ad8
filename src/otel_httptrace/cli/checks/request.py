"""Whether it works: real requests, under ``opentelemetry-instrument``, to a server of our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from ...clients import CLIENTS
from ..programs import plugins
from ..programs.environ import prepare
from ..programs.pythons import inspect, instrument
from .result import Result, State, Subject

if TYPE_CHECKING:
    from ...report.rows import Row


def possible(subject: Subject) -> bool:
    """Whether there is a Python that has this package."""
    return subject.python is not None and subject.versions.get("otel-httptrace") is not None


class _Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        pass


def request(subject: Subject) -> Iterator[Result]:
    """Whether requests of the Python under ``opentelemetry-instrument`` yield described spans, over OTLP."""
    python, environ = str(subject.python), subject.environ
    from ...report.otlp import from_protobuf  # noqa: PLC0415
    from ...report.receiver import Receiver, new_token  # noqa: PLC0415
    from ...report.rows import rows  # noqa: PLC0415

    came: list[Any] = []
    script = instrument(python)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server, Receiver(came.append, token=new_token()) as receiver:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        clean = {name: value for name, value in environ.items() if not name.endswith("EXCLUDED_URLS")}
        # Told among the settings; here it would hide whatever else there is.
        prepared = prepare(
            clean, receiver.endpoint, [python], token=receiver.token, propagators=_propagators(subject)
        ).environ
        # Those that make their spans, and whose classes a program makes by itself.
        names = [
            f"{client.name}:{client.classes[0]}"
            for client in CLIENTS
            if client.module == client.name and subject.versions.get(client.upstream.distribution) is not None
        ]
        url = f"http://127.0.0.1:{server.server_port}/"
        answer = inspect(python, "requested", url, *names, environ=prepared, under=script)
        server.shutdown()
    if answer is None:
        yield Result(
            State.PROBLEM,
            "opentelemetry-instrument",
            f"{python} could not be run under {script}",
            f"try: {script} {python} -c 'import otel_httptrace'",
        )
        return
    if answer["instrumented"]:
        yield Result(State.OK, "hooks", f"{len(answer['hooks'])} in place: {_short(answer['hooks'])}")
    else:
        yield Result(State.PROBLEM, "hooks", "not in place: opentelemetry-instrument did not turn otel-httptrace on")
    for client, error in answer["errors"].items():
        yield Result(State.WARNING, client, f"the request failed: {error}")
    requests = list(rows(span for message in came for span in from_protobuf(message)))
    for which, client in enumerate(answer["clients"]):
        yield _observed(client, which, requests)


def _propagators(subject: Subject) -> Sequence[str] | None:
    found: Sequence[str] = subject.facts["offered"][plugins.GROUPS[plugins.PROPAGATORS]]
    return found if plugins.PROPAGATORS in subject.environ else None


def _observed(client: str, which: int, requests: Sequence[Row]) -> Result:
    # Spans of several clients come from one instrumentation: they are told apart by their order.
    own = requests[2 * which : 2 * which + 2]
    if len(own) < 2:
        return Result(State.PROBLEM, client, "no span came", "see the entry points above, and OTEL_PYTHON_* settings")
    if not own[0].opened or own[1].opened or own[1].connection != own[0].connection:
        return Result(
            State.PROBLEM,
            client,
            "spans came, but without the attributes of otel-httptrace",
            "see the entry points and the versions above",
        )
    return Result(State.OK, client, "2 requests, 2 spans: the first opened a connection, the second reused it")


def _short(hooks: Sequence[str]) -> str:
    shown = list(hooks[:4])
    return ", ".join(shown) + (f" and {len(hooks) - len(shown)} more" if len(hooks) > len(shown) else "")
