"""What a row says of how a request went."""

from __future__ import annotations

from typing import Final

from ..clients import CLIENTS, counting_slots
from ..telemetry import names
from .rows import REDIRECTS, Row, Sent

#: Error codes of HTTP/2 (RFC 9113, section 7).
HTTP2_CODES: Final = frozenset(
    {
        "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
        "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
    }
)  # fmt: skip
#: Out of file descriptors: of the process, or of the machine.
NO_FILES: Final = frozenset({"EMFILE", "ENFILE", "too_many_open_files"})
#: The clients' timeouts, by the phase that took too long.
POOL_TIMEOUTS, CONNECT_TIMEOUTS, READ_TIMEOUTS, WRITE_TIMEOUTS = (
    tuple(dict.fromkeys(called)) for called in zip(*(client.timeouts for client in CLIENTS), strict=True)
)
#: Of these names one is the standard library's, too: it is the client's only while that sends.
_ANYBODYS: Final = "TimeoutError"
_TIMEOUTS: Final = frozenset((*POOL_TIMEOUTS, *CONNECT_TIMEOUTS, *READ_TIMEOUTS, *WRITE_TIMEOUTS)) - {_ANYBODYS}
#: The connection broke, in the words of httpcore, and of http.client and the sockets below it.
BROKEN: Final = (
    "ReadError", "WriteError", "RemoteDisconnected", "ConnectionResetError", "BrokenPipeError",
    "ConnectionAbortedError",
)  # fmt: skip
#: What came could not be read: httpcore has one word for that and for a connection that ended, http.client has several,
#: for that alone.
UNREADABLE: Final = ("BadStatusLine", "UnknownProtocol", "LineTooLong", "HTTPException")
#: The most that a client reads of a head: bytes until its end in h11, as httpcore sets it (MAX_INCOMPLETE_EVENT_SIZE),
#: and in http.client bytes of a line (_MAXLINE) and headers (_MAXHEADERS).
MOST_OF_HEAD: Final = 100 * 1024
MOST_OF_LINE: Final = 65_536
MOST_HEADERS: Final = 100
#: How a request that got no answer from a server that is gone fails.
DISCONNECTED: Final = ("RemoteProtocolError", *BROKEN)
#: What the clients raise where a request of theirs failed on the way: all names of httpx.TransportError, and what
#: urllib3 and http.client raise.
ERRORS: Final = frozenset(
    {
        *_TIMEOUTS, *DISCONNECTED, *UNREADABLE, "ConnectError", "CloseError", "ProxyError", "UnsupportedProtocol",
        "LocalProtocolError", "ProtocolError", "IncompleteRead", "InvalidChunkLength", "NewConnectionError",
        "NameResolutionError", "SSLError",
    }
)  # fmt: skip
#: Ways to leave a response that are nobody's failure.
_LEFT: Final = frozenset({"CancelledError", "Cancelled", "GeneratorExit", "KeyboardInterrupt", "SystemExit"})

_COUNTING_SLOTS: Final = counting_slots()

#: Of the statuses that a client follows, those that hold for ever.
PERMANENT: Final = frozenset({301, 308})
#: So many of them within one span, and no other answer, are a client that gave up.
VAIN: Final = 5
#: How a request failed whose attempts all got an answer that was an error: the exception's class is on no span.
GAVE_UP: Final = "an error after repeated attempts"


def without_slot(row: Row) -> bool:
    """Whether it got no connection though fewer were open than may be: others have not given theirs back."""
    known = row.attributes
    return (
        row.client in _COUNTING_SLOTS
        and known.get(names.FAILED_PHASE) == "pool"
        and known.get(names.POOL_CONNECTIONS, 0) < known.get(names.POOL_LIMIT, 0)
    )


def error_type(row: Row) -> str | None:
    """What `error.type` says."""
    return row.attributes.get(names.ERROR_TYPE)


def cause(row: Row) -> str | None:
    """What is behind the error, as far as it is known: by the request itself, else by the step that failed."""
    told = row.attributes.get(names.FAILED_CAUSE)
    if told is not None:
        return str(told)
    if repeated_in_vain(row):
        return f"status {row.before[-1].status}"
    general = error_type(row)
    for step in reversed(row.steps):
        if step.name != names.SPAN_GETCONN:
            more = step.attributes.get(names.ERROR_TYPE)
            if isinstance(more, str) and more != general:
                return more
    return None


def beyond_limit(row: Row) -> str:
    """Which limit of its client the head of its answer was beyond: ``head``, ``line`` or ``headers``; empty if none."""
    error = error_type(row)
    if error == "RemoteProtocolError":
        return "head" if row.attributes.get(names.RESPONSE_BYTES_RECEIVED, 0) > MOST_OF_HEAD else ""
    # Of all that http.client says by that very class there is just this.
    return {"LineTooLong": "line", "HTTPException": "headers"}.get(error or "", "")


def answered_badly(row: Row | Sent) -> bool:
    """Whether the response's status says that the server could not, or would not yet: 5xx or 429."""
    return row.status is not None and (row.status >= 500 or row.status == 429)


def closed_by(row: Row) -> str | None:
    """The class of the application's exception that closed a body which had not failed itself."""
    known = row.attributes
    found = known.get(names.BODY_CLOSED_BY)
    if found is None or found in _LEFT or known.get(names.BODY_OUTCOME) in ("failed", "cancelled"):
        return None
    return str(found)


def status_raised(row: Row) -> bool:
    """Whether nothing failed but that the application raised an exception for the server's error: 5xx or 429."""
    return closed_by(row) == "HTTPStatusError" and answered_badly(row) and names.FAILED_PHASE not in row.attributes


def closing_place(row: Row) -> tuple[str | None, str | None]:
    """Where its response was closed, or made if it never was: the application's line, and a library's in between."""
    known = row.attributes
    return known.get(names.BODY_CLOSED_AT), known.get(names.BODY_CLOSED_VIA)


def broke(row: Row) -> bool:
    """Whether it failed: not whether its response's status is one of errors."""
    known = row.attributes
    if known.get(names.BODY_OUTCOME) == "failed" or (names.BODY_CLOSED_BY in known and closed_by(row) is not None):
        return True
    if not row.failed:
        return False
    return names.FAILED_PHASE in known or row.status is None or row.status < 400


def phase_of(row: Row) -> str:
    """Where it failed: a phase, ``receive``, or empty if that is not known."""
    known = row.attributes
    found = known.get(names.FAILED_PHASE)
    if found is not None:
        return str(found)
    # Of a body that was complete nothing failed: what raised came after it.
    return "receive" if known.get(names.BODY_OUTCOME, "complete") != "complete" or names.BODY_CLOSED_BY in known else ""


def failed_by(row: Row) -> str:
    """The class of the exception that the application saw, as far as it is known."""
    return (
        closed_by(row)
        or error_type(row)
        or ("TooManyRedirects" if redirected_in_vain(row) else GAVE_UP if repeated_in_vain(row) else "")
        # requests decodes when our part is over; upstream records what was raised, and without the newer conventions
        # no error.type.
        or (row.failed and row.raised)
        or "an error"
    )


def repeated_in_vain(row: Row) -> bool:
    """Whether all that was sent in its span was answered, by 5xx or 429 as far as is known, and its client gave up."""
    return (
        row.failed
        and row.status is None
        and row.attributes.get(names.BODY_OUTCOME) == "complete"
        and names.FAILED_PHASE not in row.attributes
        and bool(row.before)
        and all(answered_badly(sent) for sent in row.before)
    )


def redirected_in_vain(row: Row) -> bool:
    """Whether its client gave up after too many redirects, all within this span."""
    # Upstream's spans of requests have error.type only under OTEL_SEMCONV_STABILITY_OPT_IN.
    return error_type(row) == "TooManyRedirects" or (
        row.failed
        and row.status in REDIRECTS
        and row.attributes.get(names.BODY_OUTCOME) == "complete"
        and names.FAILED_PHASE not in row.attributes
        and sum(sent.status in REDIRECTS for sent in row.before) >= VAIN
    )


def http2(row: Row) -> bool:
    """Whether it is known to have gone over HTTP/2."""
    known = row.attributes
    return (
        names.CONN_WAS_IDLE in known
        or str(known.get(names.NETWORK_PROTOCOL_VERSION, "")).startswith("2")
        or known.get(names.FAILED_CAUSE) in HTTP2_CODES
        or any(step.attributes.get(names.TLS_NEXT_PROTOCOL) == "h2" for step in row.steps)
    )


def proxy(row: Row) -> str | None:
    """``host:port`` of the proxy that was dialled; None if none was, or nothing tells."""
    for step in row.steps:
        if step.name == names.SPAN_PROXY and names.SERVER_ADDRESS in step.attributes:
            return _authority(step.attributes)
    for step in row.steps:
        if step.name == names.SPAN_CONNECT and names.SERVER_PORT in step.attributes and row.origin:
            dialled = _authority(step.attributes)
            scheme, _, authority = row.origin.partition("://")
            host, colon, port = authority.rpartition(":")
            if not colon or port.endswith("]"):
                host, port = authority, "443" if scheme == "https" else "80"
            return None if dialled == f"{host}:{port}" else dialled
    return None


def proxy_set_by(row: Row) -> str | None:
    """What set the proxy that was dialled: a variable's name, or ``program``; None if nothing tells."""
    for step in row.steps:
        found = step.attributes.get(names.PROXY_SET_BY)
        if isinstance(found, str):
            return found
    return None


def _authority(attributes: dict[str, object]) -> str:
    host = str(attributes.get(names.SERVER_ADDRESS, ""))
    return f"{f'[{host}]' if ':' in host else host}:{attributes.get(names.SERVER_PORT, '')}"


def timed_out(row: Row) -> bool:
    """Whether a timeout of the client's struck."""
    error = error_type(row) or ""
    return error.endswith("Timeout") or error in _TIMEOUTS or (error == _ANYBODYS and phase_of(row) == "send")


def overshoot(row: Row) -> float | None:
    """By how much later than asked a timeout struck, in seconds; None if that cannot be told.

    A timeout is for one operation. Only while waiting for the first byte (over HTTP/2 others read meanwhile, too) or
    for the pool is a phase just that; what is known of a dial is in `names.STALLED`.
    """
    known, phase = row.attributes, row.attributes.get(names.FAILED_PHASE)
    timeout = known.get(names.TIMEOUT)
    if timeout is None or phase not in ("wait", "pool") or known.get(names.RESPONSE_BYTES_RECEIVED, 0):
        return None
    time = row.phases.get(phase)
    return None if time is None or (phase == "wait" and http2(row)) else max(0.0, time - float(timeout))


def stood_still(row: Row) -> float | None:
    """For how long at least its process is known to have stood still within it, in seconds; None if nothing tells."""
    found = [row.attributes.get(names.STALLED), overshoot(row)]
    return max((float(one) for one in found if one is not None), default=None)


def stood_still_at_most(row: Row) -> float | None:
    """For how long at most its process can have stood still within it, in seconds; None if nothing tells.

    A timeout that struck when it was due tells that the process ran then, and no operation outlasts its phase.
    """
    known = row.attributes
    if names.STALLED in known or overshoot(row) is not None:
        return stood_still(row)
    if names.TIMEOUT not in known or not timed_out(row):
        return None
    time = row.phases.get(phase_of(row))
    if phase_of(row) == "receive":
        time = known.get(names.BODY_MAX_GAP, time)
    return None if time is None else max(0.0, float(time) - float(known[names.TIMEOUT]))


def sends_no_body(row: Row) -> bool:
    """Whether its method is one that sends no body, as a rule."""
    method = row.attributes.get("http.request.method") or row.attributes.get("http.method") or row.name
    return (
        str(method).upper() in ("GET", "HEAD", "OPTIONS", "DELETE", "TRACE") and names.TIME_SEND not in row.attributes
    )


def queued(row: Row) -> float:
    """For how long its lookups waited for a thread to ask the resolver in, in seconds, as far as that is known."""
    return sum(float(step.attributes.get(names.DNS_QUEUED, 0.0)) for step in row.steps if step.name == names.SPAN_DNS)


def fallback(row: Row, least: float) -> tuple[str, str] | None:
    """The first address, and that of another family that a connect of *least* seconds ended at; None if none did."""
    answers = next((step.attributes.get(names.DNS_ANSWERS) for step in row.steps if step.name == names.SPAN_DNS), None)
    if not answers or len(answers) < 2:
        return None
    first = str(answers[0])
    for step in row.steps:
        if step.name == names.SPAN_CONNECT and step.duration >= least:
            won = step.attributes.get(names.NETWORK_PEER_ADDRESS)
            if won is not None and (":" in first) != (":" in str(won)):
                return first, str(won)
    return None


def first_timed_out(row: Row) -> bool:
    """Whether a connect is known to have run into its timeout."""
    return any(
        step.name == names.SPAN_CONNECT and step.attributes.get(names.ERROR_TYPE) == "timed_out" for step in row.steps
    )
