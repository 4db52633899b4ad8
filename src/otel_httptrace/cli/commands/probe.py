"""``httptrace probe``."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from importlib.util import find_spec

import click
import httpx

from ...report.terminal import console
from ..errors import Problem
from ..options import duration
from ..probing import probe
from ..probing.plan import Plan

#: Seconds of the longest wait of ``--idle``, unless told otherwise.
_MAX_IDLE = 8.0


@click.command(
    "probe",
    short_help="Send a few requests to a server: times, and what it does to connections.",
    epilog="Values of headers, queries and bodies are never printed. Exit status 1 if the URL cannot be reached.",
)
@click.option("-n", "--requests", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 100), default=5, show_default=True, help="Requests at a time."
)
@click.option("--early-close", is_flag=True, help="Repeat it, with responses closed before they are read.")
@click.option(
    "--idle",
    is_flag=True,
    help="Find out for how long idle connections are kept, by waiting 0.1, 0.2, 0.4, ... seconds.",
)
@click.option(
    "--max-idle", type=duration, show_default="8s", metavar="TIME", help="The longest wait of --idle, which it needs."
)
@click.option(
    "--client",
    type=click.Choice(["httpx", "requests"]),
    default="httpx",
    show_default=True,
    help="What sends the requests: its pool, its defaults.",
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
    max_idle: float | None,
    client: str,
    http2: bool,
    method: str,
    headers: tuple[str, ...],
    insecure: bool,
    timeout: float,
    width: int | None,
) -> int:
    """Send a few requests to URL: where the time goes, and what the server does to connections.

    Without a scheme, as in example.com:8443, https is taken.

    \b
      httptrace probe https://example.com/
      httptrace probe -n 50 -c 10 --early-close https://example.com/
      httptrace probe --idle --max-idle 2m https://example.com/
      httptrace probe --client requests https://example.com/
      httptrace probe --http2 -H "Authorization: Bearer $TOKEN" https://api.example.com/
    """
    if max_idle is not None and not idle:
        raise Problem("--max-idle needs --idle")
    if http2 and client != "httpx":
        raise Problem("--http2 needs --client httpx")
    if http2 and find_spec("h2") is None:
        raise Problem("--http2 needs h2: pip install 'httpx[http2]'")
    plan = Plan(
        url=_url(url),
        method=_method(method),
        requests=requests,
        concurrency=min(concurrency, requests),
        early_close=early_close,
        http2=http2,
        verify=not insecure,
        timeout=timeout,
        headers=tuple(map(_header, headers)),
        idle=(max_idle or _MAX_IDLE) if idle else None,
        guessed="://" not in url,
        client=client,
    )
    # What the user has set for services is not meant for this.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    return asyncio.run(probe(plan, console(sys.stdout, width)))


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
        # Decoding it is part of reading it, which httpx puts off.
        host = url.host
    except (httpx.InvalidURL, ValueError) as error:
        raise Problem(f"not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not host:
        raise Problem("expected a URL like https://example.com/")
    if url.port is not None and url.port > 65535:
        raise Problem(f"not a URL: port {url.port} is beyond 65535")
    return url


def _method(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]+", text):
        raise Problem("expected a method like GET")
    return text.upper()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or not value.isprintable():
        # Not the text itself: it may be a secret.
        raise Problem("-H: expected a header like 'Accept: text/html'")
    if not value.isascii():
        raise Problem(f"-H: the value of {name} cannot be sent: it has characters beyond ASCII, which httpx refuses")
    return name, value
