"""The examples as their README says to run them: real processes, and what arrived over OTLP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kit.server import Server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from otel_httptrace.clients import scopes
from otel_httptrace.report.receiver import Receiver
from otel_httptrace.telemetry import names

EXAMPLES = Path(__file__).parents[2] / "examples"
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
SERVER = SpanMessage.SPAN_KIND_SERVER


class Span(NamedTuple):
    """A span as it arrived."""

    service: str
    #: The process that it came from.
    instance: str
    scope: str
    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    seconds: float
    attributes: Mapping[str, Any]
    #: The span that each of its links leads to, with the link's attributes.
    links: Sequence[tuple[bytes, Mapping[str, Any]]]


class Ran(NamedTuple):
    """An example that ran: what it printed, and its spans as they began."""

    output: list[str]
    spans: list[Span]

    def requests(self) -> list[Span]:
        """Those of requests. An SDK may make CLIENT spans too, of its calls."""
        return [span for span in self.spans if span.scope in scopes()]

    def column(self, name: str) -> list[Any]:
        """One attribute of every request; None where it is absent."""
        return [span.attributes.get(name) for span in self.requests()]


def run(*command: str, **environ: str) -> Ran:
    """Run an example, which must succeed and write nothing to stderr."""
    received: list[Any] = []
    with Receiver(received.append) as receiver:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "example",
            **environ,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GUNICORN_"))}
        ran = subprocess.run(command, env={**kept, **settings}, capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stderr) == (0, "")
    return Ran(ran.stdout.splitlines(), spans(received))


def spans(received: list[Any]) -> list[Span]:
    """What was received, in the order in which it began; metrics and logs left out."""
    found = []
    for request in received:
        for resource in request.resource_spans if isinstance(request, ExportTraceServiceRequest) else ():
            of = values(resource.resource.attributes)
            for scope, span in ((one, span) for one in resource.scope_spans for span in one.spans):
                links = [(link.span_id, values(link.attributes)) for link in span.links]
                made = Span(
                    service=of["service.name"],
                    instance=of["service.instance.id"],
                    scope=scope.scope.name,
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id,
                    span_id=span.span_id,
                    parent_id=span.parent_span_id,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    attributes=values(span.attributes),
                    links=links,
                )
                found.append((span.start_time_unix_nano, made))
    return [span for _, span in sorted(found, key=lambda pair: pair[0])]


def values(pairs: Any) -> dict[str, Any]:
    """Attributes as a dict, those that are not arrays."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def place(example: str, function: str, code: str) -> str:
    """Where *code* stands in *function* of an example, as `httptrace.body.closed_at` says it."""
    lines = (EXAMPLES / example).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"(async )?def {function}\(", line))
    number = next(number for number in range(start, len(lines)) if lines[number].strip().startswith(code))
    return f"{Path(example).name}:{number + 1} in {function}"


def masked(lines: Sequence[str]) -> list[str]:
    """Lines without what differs from one run, or one version of an SDK, to the next."""
    return [re.sub(r"(?<=:)\d+(?= in )|(?<=^worker )\d+", "N", line) for line in lines]


def shown(readme: str, command: str) -> list[str]:
    """What a README of the examples shows as the output of a command."""
    text = (EXAMPLES / readme).read_text()
    return masked(text.split(f"$ {command}\n")[1].split("```")[0].splitlines())


def test_early_close_py_shows_the_line(server: Server) -> None:
    """`early_close.py URL`: every connection but the first was opened because of that line."""
    ran = run(INSTRUMENT, sys.executable, str(EXAMPLES / "early_close.py"), server.url("/big", host="localhost"))

    assert ran.output == []
    assert ran.column(names.CONN_OPEN_REASON) == ["first_connection"] + ["body_not_read"] * 19
    line = place("early_close.py", "status_only", "with")
    assert set(ran.column(names.BODY_CLOSED_AT)) == {line}
    assert line in (EXAMPLES / "README.md").read_text()


def test_stream_unread_py_shows_the_line(server: Server) -> None:
    """`stream_unread.py URL`: with requests the same; and reading the bodies leaves one connection."""
    example = str(EXAMPLES / "stream_unread.py")
    ran = run(INSTRUMENT, sys.executable, example, server.url("/big", host="localhost"))

    assert ran.output == []
    assert ran.column(names.CONN_OPEN_REASON) == ["first_connection"] + ["body_not_read"] * 19
    line = place("stream_unread.py", "size_of", "with")
    assert set(ran.column(names.BODY_CLOSED_AT)) == {line}
    assert line in (EXAMPLES / "README.md").read_text()
    read = run(INSTRUMENT, sys.executable, example, server.url("/big", host="localhost"), "read")
    assert read.column(names.CONN_OPEN_REASON) == ["first_connection"] + [None] * 19


def within(name: str) -> str:
    """How a function of a class is told: Python 3.10 does not know the class of a code object."""
    return rf"{name}\." if sys.version_info >= (3, 11) else ""


def llm_stream(*arguments: str) -> Ran:
    """`llm_stream.py` and its spans: three requests, each answered."""
    ran = run(INSTRUMENT, sys.executable, str(EXAMPLES / "llm_stream.py"), *arguments)
    assert ran.output[:3] == ["Hello!"] * 3
    assert len(ran.requests()) == 3
    return ran


@pytest.mark.parametrize(
    ("sdk", "function", "code", "via"),
    [
        ("openai", "ask_openai", "for chunk in", rf"openai/_streaming\.py:\d+ in {within('Stream')}__stream__"),
        ("anthropic", "ask_anthropic", "with client", rf"anthropic/_\w+\.py:\d+ in {within('[a-zA-Z]+')}close"),
    ],
)
def test_a_stream_left_early(sdk: str, function: str, code: str, via: str) -> None:
    """`llm_stream.py`: an SDK's stream left before its end costs the connection, and both lines are told."""
    ran = llm_stream(sdk)

    requests = ran.requests()
    assert ran.column(names.BODY_OUTCOME) == ["closed_early"] * 3
    assert ran.column(names.CONN_OPEN_REASON) == ["first_connection", "body_not_read", "body_not_read"]
    assert ran.column(names.BODY_CLOSED_AT) == [place("llm_stream.py", function, code)] * 3
    assert all(re.fullmatch(via, told) for told in ran.column(names.BODY_CLOSED_VIA))
    lost_by = [
        [culprit for culprit, link in span.links if link[names.LINK] == names.LINK_CONNECTION_LOST_BY]
        for span in requests
    ]
    assert lost_by == [[], [requests[0].span_id], [requests[1].span_id]]
    if sdk == "openai":
        printed = shown("README.md", "opentelemetry-instrument python examples/llm_stream.py openai")
        if sys.version_info < (3, 11):
            printed = [line.replace(" in Stream.", " in ") for line in printed]
        assert masked(ran.output) == printed
        assert place("llm_stream.py", function, code) in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("arguments", [("openai", "--drain"), ("openai-async",), ("anthropic", "--drain")], ids="".join)
def test_a_stream_read_to_its_end(arguments: tuple[str, ...]) -> None:
    """`llm_stream.py --drain`, and the SDK that drains by itself: one connection for all three requests."""
    ran = llm_stream(*arguments)

    assert ran.column(names.BODY_OUTCOME) == ["complete"] * 3
    assert ran.column(names.CONN_REUSED) == [False, True, True]
    assert ran.column(names.BODY_CLOSED_AT) == [None] * 3
    assert ran.output == shown("README.md", "opentelemetry-instrument python examples/llm_stream.py openai --drain")


@pytest.mark.parametrize(
    "command", [(INSTRUMENT, sys.executable), (sys.executable, "-W", "error")], ids=["auto", "alone"]
)
def test_trio_client_py_shows_three_connections(command: tuple[str, ...]) -> None:
    """`trio_client.py`, run either way: three connections, a fourth request without one, the time of each part."""
    ran = run(*command, str(EXAMPLES / "trio_client.py"))

    title, *lines = ran.output
    assert title.split() == ["connection", "dns", "connect", "wait", "receive"]
    number = r" +\d+\.\d"
    assert all(re.fullmatch(rf"new {number * 4}", line) for line in lines[:3])
    assert [line[:28].split() for line in lines[3:]] == [["reused"]]
    assert re.fullmatch(number * 2, lines[3][28:])
    if command[0] == INSTRUMENT:
        assert ran.column(names.CONN_REUSED) == [False, False, False, True]
        # The server took 70 ms for each.
        assert all(span.seconds >= 0.07 for span in ran.requests())


def test_full_stack_is_one_trace_through_both_services() -> None:
    """`full_stack/`: one trace through both services, with the line that cost the connection; no span is lost."""
    ran = run(sys.executable, str(EXAMPLES / "full_stack" / "run.py"))

    assert ran.output == shown("full_stack/README.md", "python examples/full_stack/run.py")
    served = {
        service: [span for span in ran.spans if span.kind == SERVER and span.service == service]
        for service in ("shop", "stock")
    }
    requests = ran.requests()
    assert [span.name for span in served["shop"]] == ["GET /known/{item}"] * 3 + ["GET /price/{item}"] * 3
    assert [span.name for span in served["stock"]] == ["GET /items/{item}"] * 6
    for shop, request, stock in zip(served["shop"], requests, served["stock"], strict=True):
        assert (shop.parent_id, request.parent_id, stock.parent_id) == (b"", shop.span_id, request.span_id)
        assert shop.trace_id == request.trace_id == stock.trace_id
    assert ran.column(names.CONN_OPEN_REASON) == ["first_connection"] + ["body_not_read"] * 3 + [None] * 2
    line = place("full_stack/shop.py", "known", "async with")
    assert [
        [(culprit, link[names.BODY_CLOSED_AT]) for culprit, link in span.links if names.BODY_CLOSED_AT in link]
        for span in requests
    ] == [[], *([(before.span_id, line)] for before in requests[:3]), [], []]
    assert line in (EXAMPLES / "full_stack" / "README.md").read_text()
    # The server's half tells the same, by itself.
    assert [span.attributes["http.conn.reused"] for span in served["stock"]] == [False] * 4 + [True] * 2
    assert [span.attributes.get("httptrace.server.lost.close_reason") for span in served["stock"]] == [
        None, *["client_closed"] * 3, None, None,
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn forks")
@pytest.mark.parametrize("arguments", ["", "--preload"])
def test_gunicorn_workers_lose_no_span(arguments: str) -> None:
    """`gunicorn/`: the spans of both forked workers arrive, each worker has one connection, and gunicorn ends well."""
    ran = run(sys.executable, str(EXAMPLES / "gunicorn" / "run.py"), GUNICORN_CMD_ARGS=arguments)

    assert masked(ran.output) == shown("gunicorn/README.md", "python examples/gunicorn/run.py")
    told: dict[str, list[Any]] = {}
    for span in ran.requests():
        told.setdefault(span.instance, []).append((span.attributes[names.CONN_ID], span.attributes[names.CONN_REUSED]))
    # The numbers of connections are a process's own: it takes the instance to tell two apart.
    assert list(told.values()) == [[(1, False)] + [(1, True)] * 9] * 2


def test_the_readme_lists_every_example() -> None:
    """The README of the examples points to each of them, and those that are folders have one of their own."""
    readme = (EXAMPLES / "README.md").read_text()
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" or (path / "run.py").exists()}

    assert set(re.findall(r"^- \[[\w.]+\]\(([\w.]+)[/)]", readme, re.MULTILINE)) == there
    assert all((EXAMPLES / name / "README.md").exists() for name in there if not name.endswith(".py"))
