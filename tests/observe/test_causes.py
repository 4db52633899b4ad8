"""Naming what went wrong, and asking the kernel: no client, no server's script."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import h2.errors
import h2.events
import pytest

from otel_httptrace.core.evidence import Socket
from otel_httptrace.observe.causes import cause
from otel_httptrace.observe.kernel import ask

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


class ConnectError(Exception):
    """As the libraries raise it."""


class ReadTimeout(Exception):
    """Likewise."""


def reset(code: h2.errors.ErrorCodes | int) -> h2.events.StreamReset:
    """What h2 tells of a stream that was reset."""
    event = h2.events.StreamReset(stream_id=1)
    event.error_code = code
    return event


def tls_error(reason: str | None) -> ssl.SSLError:
    """With an errno of OpenSSL's, which as one of the system's would be EPERM."""
    error = ssl.SSLError(1, "told by OpenSSL")
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("chain", "name"),
    [
        ([ConnectError("secret"), OSError(errno.ECONNREFUSED, "secret")], "ECONNREFUSED"),
        ([ConnectError(), OSError("All connection attempts failed"), OSError(errno.ENETUNREACH, "")], "ENETUNREACH"),
        ([ConnectError(), socket.gaierror(socket.EAI_AGAIN, "later")], "EAI_AGAIN"),
        ([ConnectError(), tls_error("CERTIFICATE_VERIFY_FAILED")], "CERTIFICATE_VERIFY_FAILED"),
        ([ConnectError(), tls_error(None)], "SSLError"),
        ([ReadTimeout(), TimeoutError("timed out")], "ReadTimeout"),
        ([ReadTimeout(), OSError(errno.ETIMEDOUT, "")], "ETIMEDOUT"),
        ([ConnectError(reset(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM))], "ENHANCE_YOUR_CALM"),
        # Codes are the peer's to invent.
        ([ConnectError(reset(0xDEADBEEF))], "ConnectError"),
        ([ConnectError(), OSError(123456, "no errno")], "OSError"),
        ([ConnectError(), LookupError()], "LookupError"),
        ([ConnectError()], "ConnectError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_the_most_specific_name(chain: list[BaseException], name: str, link: str) -> None:
    """A symbol wherever in the chain there is one, else the innermost class that says more than that time is up."""
    for outer, inner in pairwise(chain):
        setattr(outer, link, inner)
    try:
        assert cause(chain[0]) == name
    finally:
        for error in chain:
            error.__cause__ = error.__context__ = None
            error.__suppress_context__ = False


class Closed(Exception):
    """As anyio's of a stream that is closed: it finds out by an IndexError."""


def test_how_a_library_works_is_no_cause() -> None:
    """An exception that is built in, and that somebody hid by "from None", names nothing; one of a library's does."""

    def read() -> None:
        try:
            [].pop()
        except IndexError:
            raise Closed from None

    def handle() -> None:
        try:
            read()
        except Closed:
            raise ConnectError from None

    with pytest.raises(ConnectError) as caught:
        handle()
    assert cause(caught.value) == "Closed"


def test_errors_of_several_addresses() -> None:
    """What a group holds is looked into, in its order."""
    error = ConnectError()
    error.exceptions = (OSError(errno.ENETUNREACH, ""), OSError(errno.ECONNREFUSED, ""))  # type: ignore[attr-defined]
    assert cause(error) == "ENETUNREACH"


def test_chains_that_do_not_end() -> None:
    """A chain that leads back to its beginning, or is endless, is looked at for a while."""
    first, second = ConnectError(), LookupError()
    first.__cause__, second.__cause__ = second, first
    assert cause(first) == "LookupError"
    first.__cause__ = second.__cause__ = None

    last: BaseException = OSError(errno.EMFILE, "")
    for _ in range(1000):
        outer = ConnectError()
        outer.__cause__ = last
        last = outer
    assert cause(last) == "ConnectError"


class Stream:
    """A network stream with this socket."""

    def __init__(self, sock: object) -> None:
        self._sock = sock

    def get_extra_info(self, info: str) -> Any:
        """The socket, and nothing else."""
        return self._sock if info == "socket" else None


@LINUX
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_the_kernel_says(host: str) -> None:
    """What was written and is not read by a full buffer is not acknowledged, to the byte that the kernel counts."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        with socket.create_connection(listener.getsockname()[:2]) as client:
            accepted, _ = listener.accept()
            with accepted:
                before = ask(Stream(client))
                assert before is not None
                assert before[:2] == Socket(unacked=0, retransmits=0)[:2]
                client.setblocking(False)
                written = 0
                try:
                    while True:
                        written += client.send(b"x" * 65536)
                except BlockingIOError:
                    pass
                said = ask(Stream(client))
                assert said is not None
                assert said.unacked is not None
                assert 0 < said.unacked <= written
                assert said.rtt is not None
                assert 0 < said.rtt < 10**9


def test_sockets_that_have_nothing_to_say(tmp_path: Path) -> None:
    """None of a stream without a socket, of one that is closed, and of one that is not TCP."""
    assert ask(None) is None
    assert ask(Stream(None)) is None
    with socket.socket() as closed:
        pass
    assert ask(Stream(closed)) is None
    if hasattr(socket, "AF_UNIX"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert ask(Stream(ours)) is None
