# httpx never resumes a TLS session, and offers HTTP/2 only with h2 installed: so this is asked over a
# socket of our own.

"""What a server offers that httpx does not ask for."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import httpx

from .plan import Plan


class Handshakes:
    """Two connections of our own, the second with the TLS session of the first.

    Args:
        plan: what to ask for.
        address: where the server is.
    """

    def __init__(self, plan: Plan, address: str) -> None:
        self._plan = plan
        self._address = address
        self._context = ssl.create_default_context()
        if not plan.verify:
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
        url = self._plan.url
        timeout = min(self._plan.timeout, 5.0)
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
