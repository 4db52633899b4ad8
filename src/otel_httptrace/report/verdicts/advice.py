"""What to do about a failure, by what is known of its cause."""

from __future__ import annotations

from typing import Final

from ..facts import BROKEN, DISCONNECTED, ERRORS, GAVE_UP, POOL_TIMEOUTS, WRITE_TIMEOUTS

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

#: Errors of the clients' own, as httpx and urllib3 name them.
KNOWN: Final = ERRORS | {
    "InvalidURL", "TooManyRedirects", "DecodingError", "StreamError", "ClosedResourceError", "BrokenResourceError", "RuntimeError",
    "TimeoutError", "an error",
}  # fmt: skip

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
    "the request itself is not valid HTTP, and was not sent: look at its headers (a line break, a space at an end, an invalid name) and "
    "at its Content-Length"
)

#: In httpx, requests and urllib3.
UNDECODABLE: Final = (
    "the body is not what its Content-Encoding says: look at what sends it (a proxy that changes one and not the other), or ask for another "
    "encoding (Accept-Encoding: identity)"
)

_IN_TLS: Final = (
    "the other side refused in TLS, and its alert says why: a client certificate that it asks for (cert=) or does not accept, a TLS version, "
    "a cipher, a name (SNI) that it does not know"
)
_HUNG_UP: Final = (
    "the other side hung up in the handshake without a word: it wants a client certificate, does not know the name (SNI), does not speak TLS "
    "there, or is overloaded; or a firewall between forbids that name; through a proxy, its tunnel may have ended"
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
    "UNEXPECTED_EOF_WHILE_READING": _HUNG_UP,
    "SSLError": "look at what both sides offer: TLS versions, ciphers, a client certificate that is asked for",
    "ENETUNREACH": _NO_ROUTE,
    "EHOSTUNREACH": _NO_ROUTE,
    "host_unreachable": _NO_ROUTE,
    "network_unreachable": _NO_ROUTE,
    "EADDRNOTAVAIL": "no local port is left, or this host does not have the local address: keep connections (one client), "
    "or widen net.ipv4.ip_local_port_range",
    "address_not_available": "no local port is left, or this host does not have the local address: keep connections (one client), "
    "or widen net.ipv4.ip_local_port_range",
    "EADDRINUSE": "the local port that connections are to be made from (source_address) is in use, perhaps by one that was just closed "
    "(TIME_WAIT): leave the port to the system, and keep connections (one client)",
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
    "InvalidURL": "look at the URL: it is not valid",
    "UnsupportedProtocol": "the URL has no scheme, or one that is neither http nor https",
    "TooManyRedirects": "the server redirects in a circle: look at the Location of its answers; a cookie or a header may be missing",
    GAVE_UP: "each attempt was answered by a status of errors, and the client gave up: look at why the server says so (429: too many requests "
    "at a time; 5xx: its log); the pauses between, as Retry-After or backoff_factor say, are in the time of the request",
    "ProxyError": "the proxy refused: look at its log, the credentials in its URL (407), what it allows (403), and whether it reaches the "
    "server (502, 503, 504); the exception's text has the status",
    **dict.fromkeys(("DecodingError", "ContentDecodingError", "DecodeError"), UNDECODABLE),
    **dict.fromkeys(
        POOL_TIMEOUTS,
        "no connection came free in time: look at what holds the pool, then raise its limit or the pool timeout",
    ),
    **dict.fromkeys(WRITE_TIMEOUTS, "raise the write timeout, or look at the uplink and at who reads at the other end"),
    "RemoteProtocolError": "look at what the server sent, and at its log at that moment",
    **dict.fromkeys(BROKEN, "the connection broke: look at the server's log at that moment, and at what lies between"),
    "UnicodeEncodeError": "a header or the URL has characters that HTTP cannot carry: encode them",
}
_PHASES: Final[dict[str, str]] = {
    "dns": "look at the resolver and at the name",
    "connect": "the exception's text has the reason: refused (is the server running, is it the right port?), no route, or too many open files",
    "tls": "look at the certificate, and at what both sides offer",
    "proxy": "look at the proxy",
}


#: By phase and the exception's class, where the two say more together.
_BOTH: Final[dict[tuple[str, str], str]] = {
    (
        "send",
        "ReadTimeout",
    ): "over HTTP/2 that is the wait for leave to send more (WINDOW_UPDATE): the server, or a proxy, does not read the "
    "upload; with several uploads at a time on one connection httpcore can miss that leave (pydantic/httpx2#1133)",
}
#: At a proxy it is the proxy's end of the connection, not the server's.
_PROXYS: Final = (
    "the proxy closed the connection, or sent what is no HTTP: look at its log, and whether its address is that of an HTTP proxy; "
    "the server was not reached yet"
)


def advice_for(phase: str, error: str, cause: str | None) -> str:
    """What to do about an *error* in a *phase*, of which *cause* may be known."""
    if (phase, error) in _BOTH:
        return _BOTH[phase, error]
    if cause is not None and "ALERT" in cause:
        return _IN_TLS
    if phase == "proxy" and error in DISCONNECTED:
        return _PROXYS
    if phase == "tls" and cause in ("ECONNRESET", "connection_reset", "EPIPE"):
        return _HUNG_UP
    if phase == "send" and error not in KNOWN and cause not in _CAUSES:
        return (
            f"{error} is no error of the client's: what makes the request's body (content=, data=, files=) raised it, or a callback; the "
            "exception's traceback has the line. The server had no part in it"
        )
    for table, key in ((_CAUSES, cause), (_ERRORS, error), (_PHASES, phase)):
        if key in table:
            return table[key]
    return "look at the trace, and at the exception in the program's own log"
