"""`httptrace probe`: where the time goes, and what a server does to connections."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from kit.command import PATIENCE, environment, httptrace
from kit.http2 import H2Server
from kit.otlp import row
from kit.proxies import Proxy
from kit.server import Peer, Request, Server, answer, free_port

from otel_httptrace.cli.commands.probe import _url
from otel_httptrace.cli.probing.plan import Plan
from otel_httptrace.cli.probing.text import unreachable


@pytest.fixture
def trusted(ca: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """An environment whose certificate authority is the tests' own."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return {"SSL_CERT_FILE": str(path)}


def lines(ran: Any) -> list[str]:
    """What was printed, without what is at the end of lines."""
    return [line.rstrip() for line in ran.stdout.splitlines()]


def test_a_server_that_keeps_connections_alive(server: Server) -> None:
    """A server that keeps connections alive: as many are opened as work at a time, and the phases are drawn."""
    ran = httptrace("probe", "-n", "12", "-c", "3", server.url("/?token=hunter2", host="localhost"))

    assert (ran.returncode, ran.stderr) == (0, "")
    printed = lines(ran)
    assert printed[0] == f"GET {server.url(host='localhost')}: 200, HTTP/1.1, from 127.0.0.1 port {server.port}"
    assert any(line.startswith("  addresses   ") and "127.0.0.1" in line for line in printed)
    first = printed[printed.index("the first request") + 1 :]
    assert [line.split()[0] for line in first if "█" in line][:2] == ["dns", "connect"]
    assert (
        f"  12 requests, 3 at a time: {server.accepted} connections opened, {12 - server.accepted} reused" in ran.stdout
    )
    assert "  the server keeps connections alive" in printed
    assert server.accepted <= 3
    assert "hunter2" not in ran.stdout


def test_a_server_that_closes(server: Server) -> None:
    """A server that asks for each connection to be closed is told as one."""
    ran = httptrace("probe", "-n", "4", "-c", "2", "--width", "120", server.url("/close"))

    assert ran.returncode == 0
    assert "  4 requests, 2 at a time: 4 connections opened, 0 reused (0 %)" in lines(ran)
    assert "  the server does not keep connections alive: it asks for each to be closed (connection_close)" in lines(
        ran
    )
    assert server.accepted == 4


def test_requests_as_the_client(server: Server) -> None:
    """With `--client requests` its pool is what is seen: connections reused, and lost where responses are closed unread."""
    ran = httptrace(
        "probe", "--client", "requests", "-n", "6", "-c", "2", "--early-close", "--width", "120", server.url("/big"),
    )  # fmt: skip

    assert (ran.returncode, ran.stderr) == (0, "")
    reading = next(line for line in lines(ran) if line.startswith("  6 requests, 2 at a time: "))
    opened, closed = re.search(r"(\d+) connections? opened, (\d+) reused", reading).groups()  # type: ignore[union-attr]
    assert int(opened) + int(closed) == 6
    assert server.accepted == int(opened) + 6
    assert (
        f"  with responses closed unread: 6 connections opened instead of {opened}, 6 of them lost by closing early"
        in lines(ran)
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "cannot be reached: no connection could be made * (connect: [Errno 111] Connection refused)"),
        (["--http2"], "--http2 needs --client httpx"),
        (["--max-idle", "9s"], "--max-idle needs --idle"),
    ],
)
def test_requests_as_the_client_that_fails(arguments: list[str], told: str) -> None:
    """What requests says of an error has the query in it, and is not printed; HTTP/2 it does not speak."""
    ran = httptrace("probe", "--client", "requests", *arguments, f"http://127.0.0.1:{free_port()}/?token=hunter2")

    begins, _, ends = told.partition("*")
    assert (ran.returncode, ran.stdout) == (1 if "*" in told else 2, "")
    assert begins in ran.stderr and ran.stderr.rstrip().endswith(ends)
    assert "hunter2" not in ran.stderr


def test_early_closes_are_shown_beside_full_reads(server: Server) -> None:
    """What closing responses early costs is shown beside what reading them does."""
    ran = httptrace("probe", "-n", "6", "-c", "1", "--early-close", "--width", "120", server.url("/big"))

    assert ran.returncode == 0
    assert (
        "  with responses closed unread: 6 connections opened instead of 1, 6 of them lost by closing early"
        in lines(ran)
    )
    assert server.accepted == 7


def test_the_tls_version_and_cipher_are_shown(
    serve: Callable[..., Server], server_tls: ssl.SSLContext, trusted: dict[str, str]
) -> None:
    """Over TLS: its version and cipher, whether sessions are resumed, and that HTTP/2 is not to be had."""
    server = serve(tls=server_tls)
    ran = httptrace("probe", "-n", "2", "--width", "120", server.url(host="localhost"), environ=trusted)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert any(line.startswith("  TLS         TLS 1.3, TLS_") for line in lines(ran))
    assert "  HTTP/2: the server does not support it" in lines(ran)
    assert any(line.startswith("  TLS sessions: the server resumes them") for line in lines(ran))


def test_an_unknown_certificate_is_status_1_and_insecure_goes_on(
    serve: Callable[..., Server], server_tls: ssl.SSLContext
) -> None:
    """A certificate that nobody vouches for: status 1, the phase, and how to go on; with --insecure it goes on."""
    server = serve(tls=server_tls)
    ran = httptrace("probe", server.url(host="localhost"))

    assert (ran.returncode, ran.stdout) == (1, "")
    (error,) = ran.stderr.splitlines()
    assert error.startswith(
        f"httptrace: {server.url(host='localhost')} cannot be reached: the TLS handshake failed: nobody vouches here "
        "for who signed the certificate after"
    )
    assert error.endswith("--insecure skips the check")
    assert httptrace("probe", "-k", "-n", "1", server.url(host="localhost")).returncode == 0


def test_requests_share_one_connection_with_http2(h2_server: Callable[..., H2Server], trusted: dict[str, str]) -> None:
    """With --http2 requests share one connection."""
    server = h2_server()
    url = f"https://localhost:{server.port}/"
    ran = httptrace("probe", "--http2", "-n", "6", "-c", "3", url, environ=trusted)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert lines(ran)[0].startswith(f"GET {url}: 200, HTTP/2, from ")
    assert "  6 requests, 3 at a time: 1 connection opened, 5 reused (83 %)" in lines(ran)


@pytest.mark.parametrize(
    ("kept", "found"),
    [(0.6, "after more than 400 ms and within 800 ms"), (0.01, "within 100 ms")],
    ids=("long", "short"),
)
def test_idle_finds_how_long_a_connection_is_kept(serve: Callable[..., Server], kept: float, found: str) -> None:
    """How long an idle connection is kept is found out by waiting, within two bounds, or at most for the first wait."""

    def closes(peer: Peer, request: Request) -> None:
        peer.send(answer())
        peer.sock.settimeout(kept)
        try:
            # The next request is left to be read.
            peer.sock.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            peer.close()
        else:
            peer.sock.settimeout(None)

    server = serve({"/short": closes})
    ran = httptrace("probe", "-n", "1", "--idle", "--width", "120", server.url("/short"))

    assert ran.returncode == 0
    (line,) = [line for line in lines(ran) if line.startswith("  idle: ")]
    assert line == f"  idle: closed {found} (server_closed); keep keepalive_expiry well below that"


def test_idle_says_that_a_connection_outlived_the_test(server: Server) -> None:
    """A server that keeps connections for longer than is tried is told so."""
    ran = httptrace("probe", "-n", "1", "--idle", "--max-idle", "600ms", "--width", "120", server.url())

    assert "  idle: kept for 600 ms, the longest that was tried (--max-idle)" in lines(ran)


def test_headers_and_passwords_are_not_printed(server: Server) -> None:
    """Headers are sent, and neither they nor a password in the URL are printed."""
    url = server.url().replace("//", "//me:hunter2@")
    ran = httptrace("probe", "-n", "1", "-X", "head", "-H", "X-Key: hunter2", url)

    assert ran.returncode == 0
    assert server.requests[0].method == "HEAD"
    assert server.requests[0].headers["x-key"] == "hunter2"
    assert "hunter2" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("http://127.0.0.1:{port}/", "no connection could be made"),
        ("http://no-such-host.invalid/?q=hunter2", "its name could not be resolved"),
        ("{server}/no-answer", "no response came"),
        ("{server}/half-closed", "its response broke off"),
    ],
)
def test_a_url_that_cannot_be_reached(server: Server, target: str, told: str) -> None:
    """One line says in which phase it failed; status 1."""
    server.go.set()
    ran = httptrace("probe", target.format(port=free_port(), server=server.url("")))

    assert (ran.returncode, ran.stdout) == (1, "")
    (error,) = ran.stderr.splitlines()
    assert f"cannot be reached: {told} after " in error
    assert "hunter2" not in error


def handshake(answer: bytes) -> ssl.SSLError:
    """What this OpenSSL says of a handshake that was answered so; the connection ends with that."""
    came = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(came, ssl.MemoryBIO(), server_hostname="shop.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    came.write(answer)
    came.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    return caught.value


@pytest.mark.parametrize(
    ("target", "failure", "told"),
    [
        (
            "shop.test:8080",
            handshake(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "the server does not speak TLS *; no scheme was given, and https assumed: "
            "did you mean http://shop.test:8080?",
        ),
        (
            "https://me:hunter2@shop.test/x?q=hunter2",
            handshake(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "the server does not speak TLS *; did you mean http://shop.test:443/x?",
        ),
        # An alert: handshake_failure, protocol_version, unrecognized_name.
        ("https://shop.test/", handshake(b"\x15\x03\x03\0\x02\x02\x28"), "the two have no cipher in common, or the *"),
        ("https://shop.test/", handshake(b"\x15\x03\x03\0\x02\x02\x46"), "there is no version of TLS that both speak *"),
        ("https://shop.test/", handshake(b"\x15\x03\x03\0\x02\x02\x70"), "the server has no certificate for that name *"),
        ("shop.test", handshake(b""), "the other side ended the connection within it *"),
        ("shop.test", ssl.SSLError("what nobody has seen yet"), " *; no scheme was given, and https assumed"),
    ],
)  # fmt: skip
def test_why_tls_failed(target: str, failure: ssl.SSLError, told: str) -> None:
    """Of a handshake that failed it is said why in plain words, which scheme was taken, and which may be meant."""
    url = _url(target)
    plan = Plan(url, "GET", 1, 1, False, False, True, 1.0, (), None, guessed="://" not in target)
    said = unreachable(plan, [row(failed=True, status=None, failed_phase="tls")], failure, "")
    because, _, rest = told.partition("*")

    assert f"the TLS handshake failed{': ' if because.strip() else ''}{because}" in said
    assert said.endswith(rest)
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "proxy", "told"),
    [
        ("HTTP_PROXY", "http://me:hunter2@127.0.0.1:{port}", "no connection to the proxy {shown} (HTTP_PROXY) could be made"),
        ("http_proxy", "127.0.0.1:{port}", "no connection to the proxy {shown} (http_proxy) could be made"),
        ("ALL_PROXY", "socks5://127.0.0.1:{port}", "no connection to the proxy {shown} (ALL_PROXY) could be made"),
        ("ALL_PROXY", "http://me:hunter2@no-such-host.invalid:{port}", "the name of the proxy {shown} (ALL_PROXY) could not be resolved"),
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_reached(server: Server, name: str, proxy: str, told: str) -> None:
    """Where a proxy is not there it is the proxy that is blamed, without its password, and not the server."""
    port = free_port()
    shown = re.sub("me:hunter2@", "", proxy.format(port=port))
    ran = httptrace("probe", server.url(), environ={name: proxy.format(port=port)})

    assert (ran.returncode, ran.stdout) == (1, "")
    (error,) = ran.stderr.splitlines()
    expected = told.format(shown=shown if "://" in shown else f"http://{shown}")
    assert error.startswith(f"httptrace: {server.url()} cannot be reached: {expected} after ")
    assert "hunter2" not in error
    assert (
        httptrace(
            "probe", "-n", "1", server.url(), environ={name: "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}
        ).returncode
        == 0
    )


def test_a_proxy_that_refuses(server_tls: ssl.SSLContext, serve: Callable[..., Server]) -> None:
    """A proxy that answers CONNECT with a refusal is named with what it said."""
    server = serve(tls=server_tls)
    with Proxy(refuse=b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        ran = httptrace("probe", server.url(), environ={"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"})

    assert (ran.returncode, ran.stdout) == (1, "")
    assert (
        f"cannot be reached: the proxy http://127.0.0.1:{proxy.port} (HTTPS_PROXY) did not get through to it after "
    ) in ran.stderr
    assert "407 Proxy Authentication Required" in ran.stderr


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"HTTPS_PROXY": "nonsense://me:hunter2@h"},
            "HTTPS_PROXY is no URL of a proxy: http://, https://, socks5:// or socks5h:// was expected",
        ),
        (
            {"ALL_PROXY": "http://[::1"},
            "ALL_PROXY is no URL of a proxy: http://, https://, socks5:// or socks5h:// was expected",
        ),
        ({"SSL_CERT_FILE": "/no/such.pem"}, "SSL_CERT_FILE is /no/such.pem: No such file or directory"),
        ({"SSL_CERT_FILE": __file__}, f"SSL_CERT_FILE is {__file__}: it has no certificate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_an_environment_that_httpx_refuses(environ: dict[str, str], told: str) -> None:
    """Variables that httpx cannot use are named, in one line, with status 2."""
    ran = httptrace("probe", "http://127.0.0.1:1/", environ=environ)

    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"httptrace: {told}\n")


def test_a_body_that_does_not_end(serve: Callable[..., Server]) -> None:
    """A server that does not answer in time, or sends for ever, does not keep us."""
    server = serve()
    ran = httptrace("probe", "--timeout", "200ms", server.url("/held"))

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no response came after" in ran.stderr and "(wait: ReadTimeout)" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-n", "1001", "http://localhost"], "1001 is not in the range 1<=x<=1000"),
        (["-c", "101", "http://localhost"], "101 is not in the range 1<=x<=100"),
        (["ftp://localhost"], "expected a URL like https://example.com/"),
        (["http://"], "expected a URL like https://example.com/"),
        (["http://[::1"], "not a URL"),
        (["-X", "GET /", "http://localhost"], "expected a method like GET"),
        (["-H", "hunter2", "http://localhost"], "expected a header like 'Accept: text/html'"),
        (["-H", "x: a\nb: hunter2", "http://localhost"], "expected a header like 'Accept: text/html'"),
        (
            ["-H", "x: hunter2 ä", "http://localhost"],
            "-H: the value of x cannot be sent: it has characters beyond ASCII",
        ),
        (["--timeout", "never", "http://localhost"], "'never' is not a duration"),
        ([], "Missing argument 'URL'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line_and_status_2(arguments: list[str], told: str) -> None:
    """Wrong arguments are one line and status 2; a header is not repeated in it."""
    ran = httptrace("probe", *arguments)

    assert (ran.returncode, ran.stdout) == (2, "")
    (error,) = ran.stderr.splitlines()
    assert told in error
    assert "hunter2" not in error


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://xn--/", "ftp://127.0.0.1/"])
def test_what_is_no_url(url: str) -> None:
    """Whatever is wrong with a URL is one line, and status 2."""
    ran = httptrace("probe", url)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"httptrace: (not a URL: .+|expected a URL like https://example.com/)\n", ran.stderr)


def test_a_fault_of_ours() -> None:
    """A fault of ours is one line and status 2, without what it may quote; its place is shown on demand."""
    code = (
        "import sys; from otel_httptrace.cli import main; from otel_httptrace.cli.commands import probe; "
        "probe._method = lambda text: int('secret'); sys.argv[1:] = ['probe', 'http://127.0.0.1:1/']; main()"
    )

    def run(**environ: str) -> Any:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment(**environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    told, shown = run(), run(HTTPTRACE_TRACEBACK="1")

    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "httptrace: internal error: ValueError. Set HTTPTRACE_TRACEBACK=1 to see where\n"
    assert "Traceback" in shown.stderr
