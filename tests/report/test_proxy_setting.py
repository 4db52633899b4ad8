"""Where the setting of a proxy came from: the environment, if that names it, else the program."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import httpx2
import pytest
import requests
from kit.server import Server, free_port
from kit.telemetry import Telemetry, told

from otel_httptrace.core.timeline import Origin
from otel_httptrace.telemetry.proxies import set_by

TARGET = Origin("https", "shop.test", 443)
#: Elsewhere the system's settings may name it.
PROGRAM = None if sys.platform in ("darwin", "win32") else "program"


@pytest.mark.parametrize(
    ("environ", "dialled", "said"),
    [
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, ("proxy.test", 3128), "HTTPS_PROXY"),
        ({"https_proxy": "user:secret@PROXY.test:3128/"}, ("proxy.test", 3128), "https_proxy"),
        ({"ALL_PROXY": "socks5://[::1]"}, ("::1", 1080), "ALL_PROXY"),
        ({"all_proxy": "http://proxy.test"}, ("proxy.test", 80), "all_proxy"),
        # Of another scheme, another proxy's, or none that can be read.
        ({"HTTP_PROXY": "http://proxy.test:3128"}, ("proxy.test", 3128), PROGRAM),
        ({"HTTPS_PROXY": "http://proxy.test:3129"}, ("proxy.test", 3128), PROGRAM),
        ({"HTTPS_PROXY": "http://proxy.test:99999", "ALL_PROXY": "[["}, ("proxy.test", 3128), PROGRAM),
        ({"HTTPS_PROXY": ""}, ("proxy.test", 3128), PROGRAM),
        # No proxy.
        ({"HTTPS_PROXY": "http://shop.test:443"}, ("shop.test", 443), None),
        ({}, ("SHOP.test.", 443), None),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, ("proxy.test", None), None),
    ],
)
def test_what_names_it(monkeypatch: pytest.MonkeyPatch, environ: Any, dialled: Any, said: str | None) -> None:
    """A variable names a proxy by host and port, and for the scheme of what is asked for; its credentials are in nothing."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert set_by(TARGET, *dialled) == said
    assert set_by(TARGET._replace(port=None), *dialled) == said
    assert set_by(None, *dialled) is None


def _get(client: Any, url: str, proxy: str | None) -> None:
    if client is requests:
        with requests.Session() as session:
            session.get(url, proxies={"http": proxy, "https": proxy} if proxy else None)
    else:
        with client.Client(proxy=proxy) as one:
            one.get(url)


@pytest.mark.parametrize("client", [httpx, httpx2, requests], ids=lambda one: one.__name__)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", [True, False])
def test_a_dead_proxy(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, client: Any, scheme: str, variable: bool
) -> None:
    """The finding says what set the proxy that refused."""
    proxy, name = f"http://127.0.0.1:{free_port()}", f"{scheme.upper()}_PROXY"
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    if variable:
        monkeypatch.setenv(name, proxy)
    error = requests.RequestException if client is requests else client.TransportError
    with pytest.raises(error):
        _get(client, f"{scheme}://shop.test/", None if variable else proxy)

    (finding,) = told(telemetry)
    assert finding.verdict == "proxy_unreachable"
    assert (finding.numbers or {})["set_by"] == (name if variable else PROGRAM)
    assert (f"{name} in the environment names it" in finding.advice) is variable
    assert variable or PROGRAM is None or "by the program" in finding.advice


@pytest.mark.parametrize("client", [httpx, httpx2, requests], ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("listen", "host"), [("127.0.0.1", None), ("::1", "::1"), ("127.0.0.1", "LOCALHOST"), ("127.0.0.1", "localhost")]
)
def test_no_proxy(telemetry: Telemetry, client: Any, listen: str, host: str | None) -> None:
    """Where the server itself is dialled nothing of a proxy is told, however its name is written."""
    with Server(host=listen) as server:
        _get(client, server.url(host=host), None)

    assert "httptrace.proxy.set_by" not in (telemetry.child("http.connect").attributes or {})
