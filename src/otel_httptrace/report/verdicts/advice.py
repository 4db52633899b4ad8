"""What to do about a failure, by what is known of its cause."""

from __future__ import annotations

from typing import Final

DOING: Final[dict[str, str]] = {
    "pool": "waiting for the pool",
    "dns": "looking up the name",
    "connect": "connecting",
    "proxy": "talking to the proxy",
    "tls": "doing the TLS handshake",
    "send": "writing the request",
    "wait": "waiting for the response headers",
    "receive": "reading the response body",
}

_REFUSED: Final = "nothing listens on that address and port: the server is down or restarting, or the port is wrong"
_UNKNOWN: Final = "there is no such name: a typing error, a search domain (ndots), a service that is gone"
_RESOLVER: Final = "the resolver could not answer: look at it (/etc/resolv.conf) and at the network to it"
_UNTRUSTED: Final = (
    "the certificate is not trusted: its issuer is missing where this process looks (verify=, SSL_CERT_FILE; certifi unless set), it is "
    "self-signed, has expired, or is another name's; `openssl s_client -connect HOST:PORT -servername HOST` shows it"
)
_NO_ROUTE: Final = "there is no way to that address: look at the route, the network, and the address itself"
_PLAIN: Final = "what listens there does not speak TLS: the scheme (http instead of https), the port, or a proxy's"
_INVALID: Final = (
    "the request itself is not valid HTTP, and was not sent: look at its headers (a line break, a blank at an end, a name that is none) and "
    "at its Content-Length"
)

#: By cause, as it is in `httptrace.failed_cause` or in `error.type` of the step.
_CAUSES: Final[dict[str, str]] = {
    "ECONNREFUSED": _REFUSED,
    "connection_refused": _REFUSED,
    "EAI_NONAME": _UNKNOWN,
    "EAI_NODATA": _UNKNOWN,
    "host_not_found": _UNKNOWN,
    "EAI_AGAIN": _RESOLVER,
    "EAI_FAIL": _RESOLVER,
    "try_again": _RESOLVER,
    "no_recovery": _RESOLVER,
    "CERTIFICATE_VERIFY_FAILED": _UNTRUSTED,
    "SSLCertVerificationError": _UNTRUSTED,
    "WRONG_VERSION_NUMBER": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "SSLError": "look at what both sides offer: TLS versions, ciphers, a client certificate that is asked for",
    "ENETUNREACH": _NO_ROUTE,
    "EHOSTUNREACH": _NO_ROUTE,
    "host_unreachable": _NO_ROUTE,
    "network_unreachable": _NO_ROUTE,
    "EADDRNOTAVAIL": "no local port is left, or the local address is none of this host's: keep connections (one client), "
    "or widen net.ipv4.ip_local_port_range",
    "address_not_available": "no local port is left, or the local address is none of this host's: keep connections (one client), "
    "or widen net.ipv4.ip_local_port_range",
    "EACCES": "the operating system forbids it: look at the firewall, the sandbox (seccomp, SELinux), the socket's permissions",
    "EPERM": "the operating system forbids it: look at the firewall, the sandbox (seccomp, SELinux), the socket's permissions",
    "access_denied": "the operating system forbids it: look at the firewall, the sandbox (seccomp, SELinux), the socket's permissions",
    "ECONNRESET": "the other side, or something between, reset the connection: look at the server's log at that moment",
    "connection_reset": "the other side, or something between, reset the connection: look at the server's log at that moment",
    "ENOENT": "there is no socket at that path: the server is not running, or the path is wrong",
    "OSError": "the operating system refused, not the resolver or the server: mostly too many open files (ulimit -n); the exception's "
    "text has the reason",
    "ETIMEDOUT": "the kernel gave the connection up: nothing was acknowledged; look at the network between",
}
#: By the exception's class.
_ERRORS: Final[dict[str, str]] = {
    "LocalProtocolError": _INVALID,
    "InvalidURL": "look at the URL: it is none",
    "UnsupportedProtocol": "the URL has no scheme, or one that is neither http nor https",
    "TooManyRedirects": "the server redirects in a circle: look at the Location of its answers; a cookie or a header may be missing",
    "ProxyError": "the proxy refused: look at its log, the credentials in its URL, and what it allows",
    "DecodingError": "the body is not what its Content-Encoding says: look at what sends it",
    "PoolTimeout": "no connection came free in time: look at what holds the pool, then raise max_connections or the pool timeout",
    "WriteTimeout": "raise the write timeout, or look at the uplink and at who reads at the other end",
    "RemoteProtocolError": "look at what the server sent, and at its log at that moment",
    "ReadError": "the connection broke: look at the server's log at that moment, and at what lies between",
    "WriteError": "the connection broke: look at the server's log at that moment, and at what lies between",
    "UnicodeEncodeError": "a header or the URL has characters that HTTP cannot carry: encode them",
}
_PHASES: Final[dict[str, str]] = {
    "dns": "look at the resolver and at the name",
    "connect": "the exception's text has the reason: refused (is the server running, is it the right port?), no route, or too many open files",
    "tls": "look at the certificate, and at what both sides offer",
    "proxy": "look at the proxy",
}


def advice_for(phase: str, error: str, cause: str | None) -> str:
    """What to do about an *error* in a *phase*, of which *cause* may be known."""
    for table, key in ((_CAUSES, cause), (_ERRORS, error), (_PHASES, phase)):
        if key in table:
            return table[key]
    return "look at the trace, and at the exception in the program's own log"
