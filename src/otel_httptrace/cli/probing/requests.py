"""The requests: one, many, and the proxy on their way."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Final
from urllib.request import getproxies

import httpx

from ..errors import Problem
from .plan import Answers, Plan
from .session import Session

#: A body is read to its end up to this many bytes: a server may send for ever.
_LONGEST_BODY: Final = 64 * 1024 * 1024


def client_for(plan: Plan, keepalive: float = 5.0) -> httpx.AsyncClient | Session:
    """A client for *plan*, which keeps idle connections for *keepalive* seconds (requests has no limit).

    Raises:
        Problem: something in the environment that it takes from there cannot be used, or its library is not there.
    """
    if plan.client == "requests":
        return Session(plan)
    limits = httpx.Limits(
        max_connections=plan.concurrency,
        max_keepalive_connections=plan.concurrency,
        keepalive_expiry=keepalive,
    )
    try:
        return httpx.AsyncClient(
            http2=plan.http2, verify=plan.verify, timeout=plan.timeout, limits=limits, headers=list(plan.headers)
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


def proxy_of(client: httpx.AsyncClient | Session, url: httpx.URL) -> str:
    """The proxy on the way to *url*, to be named; empty if there is none."""
    # NO_PROXY is httpx's own business, and its answer is private: without it nobody is blamed.
    choose, direct = getattr(client, "_transport_for_url", None), getattr(client, "_transport", None)
    if choose is None or choose(url) is direct:
        return ""
    proxies = _proxies()
    name, proxy = proxies.get(url.scheme) or proxies.get("all") or ("", "")
    return f"the proxy {httpx.URL(proxy).copy_with(userinfo=b'', query=None)} ({name})" if name else ""


async def ask(
    client: httpx.AsyncClient | Session, plan: Plan, answers: Answers, *, read: bool = True
) -> Exception | None:
    """One request; the exception that it failed with."""

    async def stream() -> None:
        async with client.stream(plan.method, plan.url) as response:
            answers.statuses[response.status_code] += 1
            answers.versions[response.http_version] += 1
            size = 0
            if read:
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > _LONGEST_BODY:
                        break

    try:
        # A body can go on for ever, a few bytes at a time.
        await asyncio.wait_for(stream(), 4 * plan.timeout)
    # What requests raises is an OSError.
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, ssl.SSLError, OSError, ValueError) as error:
        answers.errors[type(error).__name__] += 1
        return error
    except asyncio.TimeoutError as error:
        answers.errors["the body does not end"] += 1
        return error
    return None


async def many(
    client: httpx.AsyncClient | Session, plan: Plan, number: int, answers: Answers, *, read: bool = True
) -> None:
    """*number* requests, as many at a time as planned."""
    left = iter(range(number))

    async def worker() -> None:
        for _ in left:
            await ask(client, plan, answers, read=read)

    await asyncio.gather(*(worker() for _ in range(min(plan.concurrency, number))))
