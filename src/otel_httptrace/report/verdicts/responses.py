"""What became of requests and their responses: stories 6, 12, 13 and 14."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ...telemetry import names
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, seconds, size, spread
from .tally import MAX_KEYS, Tallies, error_type, named, were

#: How a request that got no answer from a server that is gone fails, in httpcore's words.
_DISCONNECTED: Final = frozenset({"RemoteProtocolError", "ReadError", "WriteError"})

_DOING: Final[dict[str, str]] = {
    "pool": "waiting for the pool",
    "dns": "looking up the name",
    "connect": "connecting",
    "proxy": "talking to the proxy",
    "tls": "in the TLS handshake",
    "send": "writing the request",
    "wait": "waiting for the response headers",
    "receive": "reading the response body",
}


class StaleKeepalive:
    """Story 6.

    A request is written on a connection that the server is closing just then. It has all the marks of a server's
    failure, but for the idle time.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.stale_idle
        self._tallies: Tallies[str] = Tallies()
        self._errors: dict[str, Counter[str]] = {}
        #: The longest idle time after which a request still went well.
        self._survived: dict[str, float] = {}

    def add(self, row: Row, idle: float) -> None:
        failed_phase = row.attributes.get(names.FAILED_PHASE)
        if failed_phase is None:
            if idle > self._survived.get(row.origin, 0.0) and len(self._survived) < MAX_KEYS:
                self._survived[row.origin] = idle
            return
        error = error_type(row)
        if failed_phase in ("send", "wait") and error in _DISCONNECTED and idle >= self._threshold:
            self._tallies[row.origin].add(row, idle, f"failed ({error}) after {seconds(idle)} of idleness")
            self._errors.setdefault(row.origin, Counter())[error or ""] += 1

    def findings(self) -> Iterator[Finding]:
        for origin, tally in self._tallies:
            survived = self._survived.get(origin, 0.0)
            likely = survived <= tally.least
            errors = " or ".join(sorted(self._errors[origin]))
            yield Finding(
                verdict="stale_keepalive",
                severity=Severity.FAILED,
                origin=origin,
                sentence=f"{count(tally.count, 'request')} to {named(origin)} failed ({errors}) on a connection that had been idle for "
                f"{spread(tally.least, tally.most)}: the server drops idle ones at about {seconds(tally.least)}",
                advice=f"set keepalive_expiry below {seconds(tally.least)}, which is the server's keep-alive, or repeat such requests "
                "where they may be repeated",
                sure=Sure.LIKELY if likely else Sure.POSSIBLE,
                because="no request went well on a connection that had been idle for longer"
                if likely
                else f"but one went well after {seconds(survived)} of idleness",
                criterion="the server closed instead of answering, on a reused connection that had been idle for "
                f"{seconds(self._threshold)} or longer (stale_idle)",
                requests=tally.count,
                seconds=0.0,
                evidence=tally.examples,
                numbers={"idle": tally.least, "longest_idle": tally.most, "survived": survived},
            )


class BodySlow:
    """Story 12: the time of a body is the server's, or the consumer's."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.receive
        self._tallies: Tallies[tuple[str, bool]] = Tallies()
        self._waited: dict[tuple[str, bool], float] = {}

    def add(self, row: Row) -> None:
        time, waited = row.phases["receive"], row.attributes.get(names.BODY_READ_WAIT)
        if waited is None:
            return
        key = (row.origin, waited * 2 >= time)
        what = f"the body took {seconds(time)}, of which {seconds(waited)} waiting for bytes"
        self._tallies[key].add(row, time, what)
        self._waited[key] = self._waited.get(key, 0.0) + waited

    def findings(self) -> Iterator[Finding]:
        for (origin, server), tally in self._tallies:
            waited = self._waited.get((origin, server), 0.0)
            if server:
                whose, advice = (
                    "the server, or the way from it, is slow",
                    "look at the server: what it streams and from where; of streams that are meant to last, raise the threshold (receive)",
                )
            else:
                whose, advice = (
                    "the application takes its time between reads",
                    "look at what is done with each part: read the body first, or do the work elsewhere; meanwhile the connection is held",
                )
            yield Finding(
                verdict="body_slow_server" if server else "body_slow_consumer",
                severity=Severity.SLOW,
                origin=origin,
                sentence=f"{count(tally.count, 'response body', 'response bodies')} from {named(origin)} took up to {seconds(tally.most)}; "
                f"{seconds(waited)} of {seconds(tally.seconds)} were spent waiting for bytes: {whose}",
                advice=advice,
                sure=Sure.CERTAIN,
                because="the time within reads and the time between them were told apart",
                criterion=f"a body of {seconds(self._threshold)} or longer (receive)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"longest": tally.most, "seconds": tally.seconds, "read_wait": waited},
            )


class ServerSlow:
    """What story 12 is not: the response began late, or the client stopped waiting for it."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.wait
        self._tallies: Tallies[str] = Tallies()
        self._vain: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        time = row.phases["wait"]
        self._tallies[row.origin].add(row, time, f"the response headers took {seconds(time)}")

    def gave_up(self, row: Row) -> None:
        time = row.phases.get("wait", row.duration)
        self._tallies[row.origin].add(row, time, f"no response headers within {seconds(time)} (ReadTimeout)")
        self._vain[row.origin] += 1

    def findings(self) -> Iterator[Finding]:
        for origin, tally in self._tallies:
            vain = self._vain[origin]
            sentence = (
                f"{count(tally.count, 'response')} from {named(origin)} took up to {seconds(tally.most)} to begin: the request "
                "was written, and then nothing came"
            )
            if vain:
                sentence += f"; {vain:,} of them never did (ReadTimeout)"
            yield Finding(
                verdict="server_slow",
                severity=Severity.FAILED if vain else Severity.SLOW,
                origin=origin,
                sentence=sentence,
                advice="look at the server: the client had done its part",
                sure=Sure.CERTAIN,
                because="the time from the request written to the headers received is the server's and the network's",
                criterion=f"{seconds(self._threshold)} or longer from the request written to the response headers (wait), or a "
                "ReadTimeout then",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"longest": tally.most, **({"read_timeouts": vain} if vain else {})},
            )


class Cancelled:
    """Story 13."""

    def __init__(self) -> None:
        self._tallies: Tallies[tuple[str, str]] = Tallies()
        self._lost: Counter[tuple[str, str]] = Counter()

    def add(self, row: Row, phase: str) -> None:
        lost = row.attributes.get(names.CONN_CLOSE_REASON) == "request_cancelled"
        what = f"cancelled in {phase} after {seconds(row.duration)}, connection {'lost' if lost else 'not lost'}"
        self._tallies[row.origin, phase].add(row, row.duration, what)
        self._lost[row.origin, phase] += lost

    def findings(self) -> Iterator[Finding]:
        for (origin, phase), tally in self._tallies:
            lost = self._lost[origin, phase]
            with_them = f"{count(lost, 'connection')} lost with {'it' if tally.count == 1 else 'them'}"
            yield Finding(
                verdict="cancelled_in",
                severity=Severity.SLOW,
                origin=origin,
                sentence=f"{count(tally.count, 'request')} to {named(origin)} {were(tally.count)} cancelled by the caller while "
                f"{_DOING.get(phase, phase)} ({phase}), after {spread(tally.least, tally.most)}; "
                + (with_them if lost else "no connection was lost"),
                advice="look at who cancels: a timeout around the call, a sibling task that failed, a client that went away",
                sure=Sure.CERTAIN,
                because="the cancellation passed through the request in that phase",
                criterion="a cancelled request",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"phase": phase, "connections_lost": lost},
            )


class BodyFailed:
    """Story 14."""

    def __init__(self) -> None:
        self._tallies: Tallies[tuple[str, str]] = Tallies()
        self._amounts: dict[tuple[str, str], tuple[int, int | None]] = {}

    def add(self, row: Row) -> None:
        known = row.attributes
        key = (row.origin, error_type(row) or "an error")
        read, whole = known.get(names.BODY_BYTES_READ, 0), known.get(names.HTTP_RESPONSE_BODY_SIZE)
        of = f" of {size(whole)}" if whole is not None else ""
        self._tallies[key].add(row, row.duration, f"{key[1]} after {size(read)}{of}")
        if len(self._amounts) < MAX_KEYS:
            self._amounts.setdefault(key, (read, whole))

    def findings(self) -> Iterator[Finding]:
        for (origin, error), tally in self._tallies:
            read, whole = self._amounts.get((origin, error), (0, None))
            of = f" of {size(whole)}" if whole is not None else ""
            example = f"after {size(read)}{of}" + (", for one" if tally.count > 1 else "")
            advice = "the status was sent before the failure: look at the server's log at that moment, and at what lies between"
            if error == "ReadTimeout":
                advice = "no byte came for as long as the read timeout: look at the server, or allow it more time"
            yield Finding(
                verdict="body_failed",
                severity=Severity.FAILED,
                origin=origin,
                sentence=f"{count(tally.count, 'response')} from {named(origin)} failed half-way ({error}), {example}",
                advice=advice,
                sure=Sure.CERTAIN,
                because="reading the body raised that error",
                criterion="a body that failed",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"error": error, "bytes_read": read, "size": whole},
            )
