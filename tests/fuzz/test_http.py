"""The receiver takes any bytes on a connection, and lives: nothing but what has the token gets in."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from otel_httptrace.report import TOKEN_HEADER
from otel_httptrace.report.receiver import Receiver

from . import EXAMPLES, fuzzing
from .strategies import damaged, requests_json, requests_protobuf

CORPUS = Path(__file__).with_name("corpus") / "http"
TOKEN = "the-right-one"
#: Stands for host and port in the corpus, which differ each time.
HOST = b"HOST:0"

lines = st.one_of(
    st.sampled_from(
        [
            f"{TOKEN_HEADER}: {TOKEN}",
            f"{TOKEN_HEADER}: {TOKEN}x",
            f"{TOKEN_HEADER}:",
            "Host: HOST:0",
            "Host: attacker.example",
            "Content-Type: application/json",
            "Content-Type: application/x-protobuf",
            "Content-Type: \x1b[31m",
            "Content-Encoding: gzip",
            "Content-Encoding: deflate",
            "Content-Encoding: br",
            "Content-Length: 0",
            "Content-Length: 5",
            "Content-Length: 99999999999999999999",
            "Content-Length: -5",
            "Content-Length: \xb2",
            "Content-Length: 5, 5",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "Connection: close",
            "Connection: keep-alive",
            " folded",
            "no colon",
            ": no name",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=30),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is right but for what it is not."""
    body = draw(st.one_of(requests_json, requests_protobuf, st.binary(max_size=50)))
    first = draw(
        st.one_of(
            st.sampled_from(["POST /v1/traces HTTP/1.1"] * 6),
            st.sampled_from(
                [
                    "POST /v1/metrics HTTP/1.1",
                    "GET / HTTP/1.1",
                    "HEAD / HTTP/1.0",
                    "POST /v1/traces",
                    "PRI * HTTP/2.0",
                    "\x1b HTTP/1.1",
                ]
            ),
            st.text(st.characters(max_codepoint=255), max_size=30),
        )
    )
    right = [
        "Host: HOST:0",
        f"Content-Length: {len(body)}",
        f"Content-Type: application/{draw(st.sampled_from(['json', 'x-protobuf']))}",
        f"{TOKEN_HEADER}: {TOKEN}",
    ]
    for _ in range(draw(st.integers(0, 2))):
        right.pop(draw(st.integers(0, len(right) - 1)) if right else 0) if right else None
    head = [first, *right, *draw(st.lists(lines, max_size=3))]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


inputs = st.one_of(
    st.lists(damaged(requests()), min_size=1, max_size=3).map(b"".join),
    st.lists(requests(), min_size=1, max_size=3).map(b"".join),
    st.binary(max_size=300),
)


class Fuzzed:
    """A receiver, and what got into it."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.receiver = Receiver(self.received.append, max_body=100_000, token=TOKEN)
        parts = urlsplit(self.receiver.endpoint)
        self.address = (str(parts.hostname), int(parts.port or 0))

    def send(self, data: bytes) -> bytes:
        """Send it all, say that it was all, and return what comes until the receiver closes."""
        self.received.clear()
        data = data.replace(HOST, b"%b:%d" % (self.address[0].encode(), self.address[1]))
        with socket.create_connection(self.address, timeout=20) as sock:
            answer = b""
            # What it does not want to read it may reset.
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(65536):
                    answer += part
        return answer

    def served(self) -> bool:
        """Whether the next that is right is taken."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            headers = {"Content-Type": "application/x-protobuf", TOKEN_HEADER: TOKEN}
            connection.request("POST", "/v1/traces", b"", headers)
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def check(self, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
        """All that is claimed of it."""
        caplog.clear()
        answer = self.send(data)
        if TOKEN.encode() not in data:
            assert self.received == []
        assert len(self.received) <= data.count(b"POST")
        assert not answer or answer.startswith((b"HTTP/1.", b"<!DOCTYPE HTML", b"\x12")), answer
        for status in answer.split(b"HTTP/1.1 ")[1:]:
            assert status[:1] in (b"1", b"2", b"4", b"5")
            # Nothing that it was sent is a fault of ours, nor of the stdlib's.
            assert not status.startswith(b"500")
        for record in caplog.records:
            assert record.getMessage().isprintable(), record
            assert "could not be served" not in record.getMessage() or record.exc_info
            assert not record.exc_info or issubclass(record.exc_info[0] or Exception, OSError), record
        assert self.served()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    """A receiver for all examples."""
    found = Fuzzed()
    with found.receiver:
        yield found


@pytest.mark.timeout(60 + EXAMPLES)
def test_whatever_comes_is_answered_or_closed(fuzzed: Fuzzed, caplog: pytest.LogCaptureFixture) -> None:
    """Any bytes are answered or the connection is closed; nothing gets in without the token, or to the log as it came."""

    @fuzzing()
    @given(inputs)
    @example(b"")
    def fuzz(data: bytes) -> None:
        with caplog.at_level(logging.DEBUG, "otel_httptrace.report.receiver"):
            fuzzed.check(data, caplog)

    fuzz()


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_does_no_more_harm(fuzzed: Fuzzed, caplog: pytest.LogCaptureFixture, path: Path) -> None:
    """What once made the receiver print a traceback, or let in what it should not, does no more."""
    with caplog.at_level(logging.DEBUG, "otel_httptrace.report.receiver"):
        fuzzed.check(path.read_bytes(), caplog)


def test_what_is_right_gets_in(fuzzed: Fuzzed) -> None:
    """The fuzzer's requests, undamaged, are taken: else nothing would be shown by those that are not."""
    taken = []

    @fuzzing()
    @given(requests())
    def send(data: bytes) -> None:
        fuzzed.send(data)
        taken.append(len(fuzzed.received))

    send()
    assert 0 < sum(taken) < len(taken)
