# What is shown is what our own instrumentation says of real requests, made with
# httpx in this process, as everywhere else. Only what httpx never does (to resume
# a TLS session, to offer HTTP/2 without h2) is asked for over a socket of our own.

"""``httptrace probe``."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import anyio
import click
import httpx

from ..report.printable import printable
from ..report.rows import PHASES, Row
from ..report.summary import Quantiles
from ..report.units import count, seconds, share
from ..telemetry import names
from .output import console as console_for
from .output import duration
from .problem import Problem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_STYLES: Final = {
    "pool": "yellow",
    "dns": "cyan",
    "connect": "blue",
    "proxy": "magenta",
    "tls": "bright_magenta",
    "send": "white",
    "wait": "green",
    "receive": "bright_green",
}
#: Where a proxy is in between, what fails before it has been asked is its own fault.
_PROXY_FAILED: Final = {
    "dns": "the name of {proxy} could not be resolved",
    "connect": "no connection to {proxy} could be made",
    "proxy": "{proxy} did not get through to it",
}
_FAILED: Final = {
    "pool": "no connection became free",
    "dns": "its name could not be resolved",
    "connect": "no connection could be made",
    "proxy": "the proxy did not get through to it",
    "tls": "the TLS handshake failed",
    "send": "the request could not be sent",
    "wait": "no response came",
    "receive": "its response broke off",
}
#: A body is read to its end up to this many bytes: a server may send for ever.
_LONGEST_BODY: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Asked:
    """What to do.

    Args:
        requests: how many, of which ``concurrency`` at a time.
        timeout: seconds for each step of a request, and for its body.
        verify: whether certificates are checked.
        idle: seconds for which a connection is left idle at most; None not to try.
    """

    url: httpx.URL
    method: str
    requests: int
    concurrency: int
    early_close: bool
    http2: bool
    verify: bool
    timeout: float
    headers: tuple[tuple[str, str], ...]
    idle: float | None

    @property
    def shown(self) -> str:
        """The URL as it may be printed: without userinfo and query."""
        return str(self.url.copy_with(userinfo=b"", query=None, fragment=None))


@dataclass
class Told:
    """What the responses said."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


@click.command(
    "probe",
    short_help="Send a few requests to a server: times, and what it does to connections.",
    epilog="Values of headers, queries and bodies are never printed. Exit status 1 if the URL cannot be reached.",
)
@click.option("-n", "--requests", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("-c", "--concurrency", type=click.IntRange(1, 100), default=5, show_default=True, help="At a time.")
@click.option("--early-close", is_flag=True, help="Then again, with responses closed before they are read.")
@click.option(
    "--idle", is_flag=True, help="Find out for how long idle connections are kept, by waiting 0.5, 1, 2, ... seconds."
)
@click.option(
    "--max-idle", type=duration, default="8s", show_default=True, metavar="TIME", help="The longest wait of --idle."
)
@click.option("--http2", is_flag=True, help="Speak HTTP/2 if the server does.")
@click.option("-X", "--method", default="GET", show_default=True, help="GET, HEAD, ...")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Send this header. Repeatable.")
@click.option("-k", "--insecure", is_flag=True, help="Do not verify certificates.")
@click.option("--timeout", type=duration, default="10s", show_default=True, metavar="TIME", help="For each request.")
@click.option("--width", type=click.IntRange(40, 1000), help="Columns of the text.")
@click.argument("url")
def command(
    *,
    url: str,
    requests: int,
    concurrency: int,
    early_close: bool,
    idle: bool,
    max_idle: float,
    http2: bool,
    method: str,
    headers: tuple[str, ...],
    insecure: bool,
    timeout: float,
    width: int | None,
) -> int:
    """Send a few requests to URL with httpx: where the time goes, and what the server does to connections.

    \b
      httptrace probe https://example.com/
      httptrace probe -n 50 -c 10 --early-close https://example.com/
      httptrace probe --idle --max-idle 2m https://example.com/
      httptrace probe --http2 -H "Authorization: Bearer $TOKEN" https://api.example.com/
    """
    if http2 and find_spec("h2") is None:
        raise Problem("--http2 needs h2: pip install 'httpx[http2]'")
    asked = Asked(
        url=_url(url),
        method=_method(method),
        requests=requests,
        concurrency=min(concurrency, requests),
        early_close=early_close,
        http2=http2,
        verify=not insecure,
        timeout=timeout,
        headers=tuple(map(_header, headers)),
        idle=max_idle if idle else None,
    )
    # What the user has set for services is not meant for this.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    return asyncio.run(_probe(asked, console_for(sys.stdout, width)))


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
        # Decoding it is part of reading it, which httpx puts off.
        host = url.host
    except (httpx.InvalidURL, ValueError) as error:
        raise Problem(f"not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not host:
        raise Problem("a URL like https://example.com/ was expected")
    if url.port is not None and url.port > 65535:
        raise Problem(f"not a URL: port {url.port} is beyond 65535")
    return url


def _method(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]+", text):
        raise Problem("a method like GET was expected")
    return text.upper()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or not value.isprintable():
        # Not the text itself: it may be a secret.
        raise Problem("-H: a header like 'Accept: text/html' was expected")
    if not value.isascii():
        raise Problem(f"-H: the value of {name} cannot be sent: it has characters beyond ASCII, which httpx refuses")
    return name, value


class Spans:
    """Our own instrumentation, and the rows that it yields."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

        from ..instrumentor import HTTPTraceInstrumentor  # noqa: PLC0415

        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        HTTPTraceInstrumentor().instrument(tracer_provider=provider, code_location=False)

    def take(self) -> list[Row]:
        """The requests since the last time, in the order in which they began."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans  # noqa: PLC0415

        from ..report.otlp import from_protobuf  # noqa: PLC0415
        from ..report.rows import rows  # noqa: PLC0415

        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return sorted(rows(from_protobuf(encode_spans(spans))), key=lambda row: row.start)


async def _probe(asked: Asked, console: Console) -> int:
    spans, told = Spans(), Told()
    # Loads what would be loaded, and timed, within the first request.
    await anyio.sleep(0)
    async with _client(asked) as client:
        failure = await _ask(client, asked, told)
        first = spans.take()
        if failure is not None:
            raise Problem(_unreachable(asked, first, failure, _proxy(client, asked.url)), 1)
        await _many(client, asked, asked.requests - 1, told)
        others = spans.take()
    _print_head(console, asked, first[0], told)
    for title, drawn in (
        ("the first request", first[:1]),
        (
            "requests on a connection that was open already",
            [row for row in others if row.attributes.get(names.CONN_REUSED)],
        ),
    ):
        if drawn:
            console.print(f"\n{title}", style="bold")
            for drawing in _phases(drawn, console.width):
                console.print(drawing, no_wrap=True)
    console.print("\nconnections", style="bold")
    for line in (*_connections(asked, [*first, *others], told), *_tls(asked, first[0])):
        _print_line(console, line)
    if asked.early_close:
        async with _client(asked) as client:
            await _many(client, asked, asked.requests, told, read=False)
        _print_line(console, _early_close(spans.take(), [*first, *others]))
    if asked.idle is not None:
        _print_line(console, await _idle(asked, spans))
    return 0


def _print_line(console: Console, line: str) -> None:
    from rich.padding import Padding  # noqa: PLC0415

    console.print(Padding(printable(line), (0, 0, 0, 2)))


def _client(asked: Asked, keepalive: float = 5.0) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=asked.concurrency,
        max_keepalive_connections=asked.concurrency,
        keepalive_expiry=keepalive,
    )
    try:
        return httpx.AsyncClient(
            http2=asked.http2, verify=asked.verify, timeout=asked.timeout, limits=limits, headers=list(asked.headers)
        )
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
        # What it takes from the environment is all that can be wrong.
        raise Problem(_unusable(error)) from error


def _unusable(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "a proxy that speaks SOCKS needs socksio: pip install 'httpx[socks]'"
    if isinstance(error, OSError):
        reason = "it has no certificate" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
        return f"SSL_CERT_FILE is {os.environ.get('SSL_CERT_FILE', '')}: {reason}"
    for name, url in _proxies().values():
        try:
            httpx.Proxy(url)
        except (ValueError, httpx.InvalidURL):  # noqa: PERF203 - three at most
            # Not the value: there may be a password in it.
            return f"{name} is no URL of a proxy: http://, https://, socks5:// or socks5h:// was expected"
    raise error


def _proxies() -> dict[str, tuple[str, str]]:
    """Proxies that the environment names: by scheme, or ``all``, the variable and the URL, as httpx reads them."""
    found = {}
    for scheme, url in getproxies().items():
        if scheme in ("http", "https", "all") and url:
            name = next((name for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY") if name in os.environ), scheme)
            found[scheme] = (name, url if "://" in url else f"http://{url}")
    return found


def _proxy(client: httpx.AsyncClient, url: httpx.URL) -> str:
    """The proxy on the way to *url*, to be named; empty if there is none."""
    # NO_PROXY is httpx's own business, and its answer is private: without it nobody is blamed.
    choose, direct = getattr(client, "_transport_for_url", None), getattr(client, "_transport", None)
    if choose is None or choose(url) is direct:
        return ""
    proxies = _proxies()
    name, proxy = proxies.get(url.scheme) or proxies.get("all") or ("", "")
    return f"the proxy {httpx.URL(proxy).copy_with(userinfo=b'', query=None)} ({name})" if name else ""


async def _ask(client: httpx.AsyncClient, asked: Asked, told: Told, *, read: bool = True) -> Exception | None:
    """One request; the exception that it failed with."""

    async def ask() -> None:
        async with client.stream(asked.method, asked.url) as response:
            told.statuses[response.status_code] += 1
            told.versions[response.http_version] += 1
            size = 0
            if read:
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > _LONGEST_BODY:
                        break

    try:
        # A body can go on for ever, a few bytes at a time.
        await asyncio.wait_for(ask(), 4 * asked.timeout)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, ssl.SSLError, OSError, ValueError) as error:
        told.errors[type(error).__name__] += 1
        return error
    except asyncio.TimeoutError as error:
        told.errors["the body does not end"] += 1
        return error
    return None


async def _many(client: httpx.AsyncClient, asked: Asked, number: int, told: Told, *, read: bool = True) -> None:
    left = iter(range(number))

    async def worker() -> None:
        for _ in left:
            await _ask(client, asked, told, read=read)

    await asyncio.gather(*(worker() for _ in range(min(asked.concurrency, number))))


def _unreachable(asked: Asked, rows: Sequence[Row], failure: Exception, proxy: str) -> str:
    known = rows[0].attributes if rows else {}
    phase = known.get(names.FAILED_PHASE) or ("receive" if names.BODY_OUTCOME in known else None)
    took = f" after {seconds(rows[0].duration)}" if rows else ""
    why = _FAILED.get(str(phase), "the request failed")
    if proxy:
        why = _PROXY_FAILED.get(str(phase), why + ", by way of {proxy}").format(proxy=proxy)
    hint = "; to try without: --insecure" if phase == "tls" and asked.verify and "CERTIFICATE" in str(failure) else ""
    detail = str(failure) or type(failure).__name__
    # Messages of httpx about a URL would have it whole.
    detail = detail.replace(str(asked.url), asked.shown)
    return f"{asked.shown} cannot be reached: {why}{took} ({phase or 'unknown'}: {detail}){hint}"


# What is printed.


def _print_head(console: Console, asked: Asked, first: Row, told: Told) -> None:
    status = next(iter(told.statuses), None)
    parts = [f"{asked.method} {asked.shown}: {status}", next(iter(told.versions), "")]
    address, port = (first.attributes.get(name) for name in (names.NETWORK_PEER_ADDRESS, names.NETWORK_PEER_PORT))
    if address is not None:
        parts.append(f"from {address}" + (f" port {port}" if port is not None else ""))
    console.print(printable(", ".join(part for part in parts if part)), style="bold")
    for step in first.steps:
        if step.name == names.SPAN_DNS:
            answers = step.attributes.get(names.DNS_ANSWERS) or ()
            console.print(printable(f"  addresses   {', '.join(map(str, answers))}"))
        elif step.name == names.SPAN_TLS:
            known = step.attributes
            protocol = (
                f"{str(known.get(names.TLS_PROTOCOL_NAME, 'TLS')).upper()} {known.get(names.TLS_PROTOCOL_VERSION, '')}"
            )
            console.print(
                printable(f"  TLS         {protocol.strip()}, {known.get(names.TLS_CIPHER, 'cipher unknown')}")
            )
    if len(told.statuses) > 1:
        console.print(f"  statuses    {', '.join(f'{code} ({number})' for code, number in told.statuses.items())}")


def _phases(rows: Sequence[Row], width: int) -> Iterator[Text]:
    """Each phase at its median, one after the other, to scale."""
    from rich.text import Text  # noqa: PLC0415

    quantiles: dict[str, Quantiles] = {}
    for row in rows:
        for phase, value in (*row.phases.items(), ("total", row.duration)):
            quantiles.setdefault(phase, Quantiles()).add(value)
    several = len(rows) > 1
    # A phase that only few requests had is no part of the typical one.
    shown = [phase for phase in PHASES if phase in quantiles and 2 * quantiles[phase].count >= len(rows)]
    medians = {phase: quantiles[phase].at(0.5) for phase in shown}
    scale = max(sum(medians.values()), 1e-9)
    room = max(8, width - (46 if several else 24))
    if several:
        yield Text(f"  {'':<9}{'p50':>9} {'p95':>9} {'longest':>9}   {count(len(rows), 'request')}", style="dim")
    began = 0.0
    for phase in shown:
        before = min(room - 1, round(began / scale * room))
        length = max(1, min(room - before, round(medians[phase] / scale * room)))
        line = Text(f"  {phase:<9}{_numbers(quantiles[phase], several)}   {' ' * before}")
        line.append("█" * length, style=_STYLES[phase])
        yield line
        began += medians[phase]
    yield Text(f"  {'total':<9}{_numbers(quantiles['total'], several)}", style="bold")


def _numbers(times: Quantiles, several: bool) -> str:
    values = (times.at(0.5), times.at(0.95), times.longest) if several else (times.longest,)
    return " ".join(f"{seconds(value):>9}" for value in values)


def _connections(asked: Asked, rows: Sequence[Row], told: Told) -> Iterator[str]:
    opened, reused = _counted(rows)
    yield (
        f"{count(len(rows), 'request')}, {asked.concurrency} at a time: {count(opened, 'connection')} opened, "
        f"{reused} reused ({share(reused, len(rows))})"
    )
    closed = Counter(row.attributes.get(names.CONN_CLOSE_REASON) for row in rows)
    if reused:
        yield "the server keeps connections alive"
    elif closed["connection_close"] and opened:
        yield "the server does not keep connections alive: it asks for each to be closed (connection_close)"
    elif len(rows) > asked.concurrency:
        reasons = Counter(row.attributes.get(names.CONN_OPEN_REASON) for row in rows[1:] if row.opened)
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common() if reason)
        yield f"no connection was used twice: {why or 'why was not seen'}"
    for error, number in told.errors.most_common():
        phases = Counter(str(row.attributes.get(names.FAILED_PHASE, "body")) for row in rows if row.failed)
        where = ", ".join(phases) or "not seen"
        yield f"{count(number, 'request')} failed: {error} ({where})"


def _reused(row: Row) -> bool:
    return row.attributes.get(names.CONN_REUSED) is True


def _counted(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row.opened for row in rows), sum(map(_reused, rows))


def _early_close(rows: Sequence[Row], read: Sequence[Row]) -> str:
    opened, _ = _counted(rows)
    before, _ = _counted(read)
    lost = sum(row.attributes.get(names.CONN_CLOSE_REASON) == "body_not_read" for row in rows)
    return (
        f"with responses closed unread: {count(opened, 'connection')} opened instead of {before}, "
        f"{lost} of them lost by closing early"
    )


def _tls(asked: Asked, first: Row) -> Iterator[str]:
    if asked.url.scheme != "https":
        return
    used = next((step.attributes for step in first.steps if step.name == names.SPAN_TLS), None)
    if used is None or "proxy" in first.phases:
        return
    session = Session(asked, str(first.attributes.get(names.NETWORK_PEER_ADDRESS) or asked.url.host))
    try:
        protocol, resumed = session.ask()
    except (OSError, ValueError):
        # The requests went well, so this is of our own making, and no news about the server.
        return
    if protocol == "h2" and not asked.http2:
        yield "HTTP/2: the server speaks it; to see: --http2"
    elif protocol != "h2":
        yield "HTTP/2: the server does not speak it"
    yield (
        "TLS sessions: the server resumes them (httpx does not ask for it: each of its handshakes is a full one)"
        if resumed
        else "TLS sessions: the server does not resume them"
    )


class Session:
    """Two connections of our own, the second with the TLS session of the first.

    Args:
        asked: what to ask for.
        address: where the server is.
    """

    def __init__(self, asked: Asked, address: str) -> None:
        self._asked = asked
        self._address = address
        self._context = ssl.create_default_context()
        if not asked.verify:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        else:
            # As httpx trusts.
            self._context = httpx.create_ssl_context()
        self._context.set_alpn_protocols(["h2", "http/1.1"])

    def ask(self) -> tuple[str | None, bool]:
        """The protocol that the server prefers, and whether it resumes sessions."""
        protocol, session, _ = self._connect(None)
        self._context.set_alpn_protocols(["http/1.1"])
        _, session, _ = self._connect(None)
        _, _, resumed = self._connect(session)
        return protocol, resumed

    def _connect(self, session: Any) -> tuple[str | None, Any, bool]:
        url = self._asked.url
        timeout = min(self._asked.timeout, 5.0)
        with (
            socket.create_connection((self._address, url.port or 443), timeout=timeout) as plain,
            self._context.wrap_socket(plain, server_hostname=url.host, session=session) as sock,
        ):
            protocol = sock.selected_alpn_protocol()
            if protocol != "h2":
                # TLS 1.3 sends what is needed to resume after the handshake: it comes with the response.
                host = url.netloc.decode("ascii")
                sock.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                sock.recv(1)
            return protocol, sock.session, bool(sock.session_reused)


async def _idle(asked: Asked, spans: Spans) -> str:
    """For how long the server keeps an idle connection, by trying."""
    kept, wait = 0.0, min(0.5, asked.idle or 0.5)
    longest = asked.idle or 0.5
    told = Told()
    async with _client(asked, keepalive=2 * longest + 10) as client:
        await _ask(client, asked, told)
        spans.take()
        while True:
            await asyncio.sleep(wait)
            failure = await _ask(client, asked, told)
            rows = spans.take()
            if failure is not None or not rows:
                return (
                    f"idle: a request after {seconds(wait)} failed ({type(failure).__name__}): the server, or what is "
                    "in between, drops connections without a word"
                )
            if not rows[-1].attributes.get(names.CONN_REUSED):
                why = rows[-1].attributes.get(names.CONN_OPEN_REASON, "unknown")
                at_least = f"after more than {seconds(kept)} and " if kept else ""
                return f"idle: closed {at_least}within {seconds(wait)} ({why}); keep keepalive_expiry below that"
            kept = wait
            if wait >= longest:
                return f"idle: kept for {seconds(kept)}, the longest that was tried (--max-idle)"
            wait = min(2 * wait, longest)
