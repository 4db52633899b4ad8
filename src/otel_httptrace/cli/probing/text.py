"""What `httptrace probe` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ...report.colours import COLOURS
from ...report.printable import printable
from ...report.rows import PHASES, Row
from ...report.summary import Quantiles
from ...report.units import count, seconds, share
from ...telemetry import names
from .plan import Answers, Plan
from .sockets import Handshakes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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

_ASSUMED: Final = "no scheme was given, and https assumed"
_NO_TLS: Final = "the server does not speak TLS"
_HUNG_UP: Final = "the other side ended the connection within it"
#: What OpenSSL's messages come down to, in small letters; the first that fits.
_TLS: Final = (
    ("wrong_version_number", _NO_TLS),
    ("wrong version number", _NO_TLS),
    ("record_layer_failure", _NO_TLS),
    ("record layer failure", _NO_TLS),
    ("http request", _NO_TLS),
    ("mismatch", "the certificate is for another name"),
    ("has expired", "the certificate has expired"),
    ("not yet valid", "the certificate is not valid yet"),
    ("self-signed certificate in certificate chain", "nobody vouches here for who signed the certificate"),
    ("self signed certificate in certificate chain", "nobody vouches here for who signed the certificate"),
    ("self-signed", "the certificate is signed by itself alone"),
    ("self signed", "the certificate is signed by itself alone"),
    ("unable to get local issuer", "nobody vouches here for who signed the certificate"),
    ("certificate_required", "the server wants a certificate of the client's"),
    ("certificate required", "the server wants a certificate of the client's"),
    ("protocol_version", "there is no version of TLS that both speak"),
    ("unsupported_protocol", "there is no version of TLS that both speak"),
    ("protocol version", "there is no version of TLS that both speak"),
    ("handshake_failure", "the two have no cipher in common, or the server wants a certificate of the client's"),
    ("handshake failure", "the two have no cipher in common, or the server wants a certificate of the client's"),
    ("unrecognized name", "the server has no certificate for that name"),
    ("unrecognized_name", "the server has no certificate for that name"),
    ("eof", _HUNG_UP),
    ("reset by peer", _HUNG_UP),
)


def print_line(console: Console, line: str) -> None:
    """A sentence, indented."""
    from rich.padding import Padding  # noqa: PLC0415

    console.print(Padding(printable(line), (0, 0, 0, 2)))


def unreachable(plan: Plan, rows: Sequence[Row], failure: Exception, proxy: str) -> str:
    """Why the first request failed."""
    known = rows[0].attributes if rows else {}
    phase = known.get(names.FAILED_PHASE) or ("receive" if names.BODY_OUTCOME in known else None)
    took = f" after {seconds(rows[0].duration)}" if rows else ""
    why = _FAILED.get(str(phase), "the request failed")
    if proxy:
        why = _PROXY_FAILED.get(str(phase), why + ", by way of {proxy}").format(proxy=proxy)
    hint = ""
    if phase == "tls":
        because = next((said for mark, said in _TLS if mark in str(failure).lower()), "")
        why += f": {because}" if because else ""
        if plan.verify and "CERTIFICATE" in str(failure):
            hint = "; --insecure skips the check"
        elif because in (_NO_TLS, _HUNG_UP):
            plain = plan.url.copy_with(
                scheme="http", port=plan.url.port or 443, userinfo=b"", query=None, fragment=None
            )
            hint = f"; {_ASSUMED + ': ' if plan.guessed else ''}did you mean {plain}?"
    if plan.guessed and not hint:
        hint = f"; {_ASSUMED}"
    told: BaseException = failure
    while plan.quotes_queries and (told.__cause__ or told.__context__) is not None:
        # What is behind it has no path in it.
        told = told.__cause__ or told.__context__ or told
    detail = str(told) or type(told).__name__
    # A message about a URL would have it whole.
    detail = detail.replace(str(plan.url), plan.shown)
    return f"{plan.shown} cannot be reached: {why}{took} ({phase or 'unknown'}: {detail}){hint}"


def print_head(console: Console, plan: Plan, first: Row, answers: Answers) -> None:
    """What the first response said, and who gave it."""
    status = next(iter(answers.statuses), None)
    parts = [f"{plan.method} {plan.shown}: {status}", next(iter(answers.versions), "")]
    address, port = (first.attributes.get(name) for name in (names.NETWORK_PEER_ADDRESS, names.NETWORK_PEER_PORT))
    if address is not None:
        parts.append(f"from {address}" + (f" port {port}" if port is not None else ""))
    console.print(printable(", ".join(part for part in parts if part)), style="bold")
    for step in first.steps:
        if step.name == names.SPAN_DNS:
            addresses = step.attributes.get(names.DNS_ANSWERS) or ()
            console.print(printable(f"  addresses   {', '.join(map(str, addresses))}"))
        elif step.name == names.SPAN_TLS:
            known = step.attributes
            protocol = (
                f"{str(known.get(names.TLS_PROTOCOL_NAME, 'TLS')).upper()} {known.get(names.TLS_PROTOCOL_VERSION, '')}"
            )
            console.print(
                printable(f"  TLS         {protocol.strip()}, {known.get(names.TLS_CIPHER, 'cipher unknown')}")
            )
    if len(answers.statuses) > 1:
        console.print(f"  statuses    {', '.join(f'{code} ({number})' for code, number in answers.statuses.items())}")


def phases(rows: Sequence[Row], width: int) -> Iterator[Text]:
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
        line.append("█" * length, style=COLOURS[phase].terminal)
        yield line
        began += medians[phase]
    yield Text(f"  {'total':<9}{_numbers(quantiles['total'], several)}", style="bold")


def _numbers(times: Quantiles, several: bool) -> str:
    values = (times.at(0.5), times.at(0.95), times.longest) if several else (times.longest,)
    return " ".join(f"{seconds(value):>9}" for value in values)


def connections(plan: Plan, rows: Sequence[Row], answers: Answers) -> Iterator[str]:
    """How connections were used."""
    opened, reused = _counted(rows)
    yield (
        f"{count(len(rows), 'request')}, {plan.concurrency} at a time: {count(opened, 'connection')} opened, "
        f"{reused} reused ({share(reused, len(rows))})"
    )
    closed = Counter(row.attributes.get(names.CONN_CLOSE_REASON) for row in rows)
    if reused:
        yield "the server keeps connections alive"
    elif closed["connection_close"] and opened:
        yield "the server does not keep connections alive: it asks for each to be closed (connection_close)"
    elif len(rows) > plan.concurrency:
        reasons = Counter(row.attributes.get(names.CONN_OPEN_REASON) for row in rows[1:] if row.opened)
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common() if reason)
        yield f"no connection was used twice: {why or 'the reason was not seen'}"
    for error, number in answers.errors.most_common():
        phases = Counter(str(row.attributes.get(names.FAILED_PHASE, "body")) for row in rows if row.failed)
        where = ", ".join(phases) or "not seen"
        yield f"{count(number, 'request')} failed: {error} ({where})"


def _reused(row: Row) -> bool:
    return row.attributes.get(names.CONN_REUSED) is True


def _counted(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row.opened for row in rows), sum(map(_reused, rows))


def early_close(rows: Sequence[Row], read: Sequence[Row]) -> str:
    """What responses that were closed unread did to connections."""
    opened, _ = _counted(rows)
    before, _ = _counted(read)
    lost = sum(row.attributes.get(names.CONN_CLOSE_REASON) == "body_not_read" for row in rows)
    return (
        f"with responses closed unread: {count(opened, 'connection')} opened instead of {before}, "
        f"{lost} of them lost by closing early"
    )


def tls(plan: Plan, first: Row) -> Iterator[str]:
    """What the server offers with TLS."""
    if plan.url.scheme != "https":
        return
    used = next((step.attributes for step in first.steps if step.name == names.SPAN_TLS), None)
    if used is None or "proxy" in first.phases:
        return
    handshakes = Handshakes(plan, str(first.attributes.get(names.NETWORK_PEER_ADDRESS) or plan.url.host))
    try:
        protocol, resumed = handshakes.ask()
    except (OSError, ValueError):
        # The requests went well, so this is of our own making, and no news about the server.
        return
    if protocol == "h2" and not plan.http2:
        yield "HTTP/2: the server supports it; --http2 uses it"
    elif protocol != "h2":
        yield "HTTP/2: the server does not support it"
    yield (
        f"TLS sessions: the server resumes them ({plan.client} does not ask for it: each of its handshakes is full)"
        if resumed
        else "TLS sessions: the server does not resume them"
    )
