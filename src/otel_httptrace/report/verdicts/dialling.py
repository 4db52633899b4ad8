"""Where the time of a dial went: stories 7, 8, 10 and 11."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ...telemetry import names
from ..findings import Finding, Severity, Sure, Thresholds
from ..rows import Row
from ..units import count, seconds, spread
from .tally import MAX_KEYS, Tallies, error_type, named, steps

#: What was under way, and what to do.
_TIMEOUTS: Final[dict[str, tuple[str, str]]] = {
    "dns": ("looking up the name", "look at the resolver; the server was never asked"),
    "connect": (
        "connecting",
        "the address does not answer: a firewall that drops, a wrong address, a server whose backlog is full",
    ),
    "proxy": ("talking to the proxy", "the proxy does not answer, or cannot reach the server"),
    "tls": (
        "TLS handshake",
        "the port is open but does not complete TLS: a plain-text port, an overloaded server, a middlebox",
    ),
}


class DnsSlow:
    """Story 7."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.dns
        self._tallies: Tallies[tuple[str, str]] = Tallies()
        self._lookups: Counter[str] = Counter()
        self._rest: dict[tuple[str, str], tuple[float, float]] = {}

    def add(self, row: Row, failed_phase: str | None) -> None:
        time = row.phases.get("dns")
        if time is None:
            return
        self._lookups[row.origin] += 1
        if time < self._threshold or (failed_phase == "dns" and error_type(row) in (None, "ConnectTimeout")):
            return
        question = next((step.attributes.get(names.DNS_QUESTION_NAME) for step in steps(row, names.SPAN_DNS)), None)
        key = (row.origin, str(question or row.origin.rpartition("//")[2]))
        self._tallies[key].add(row, time, f"the lookup took {seconds(time)}")
        connect, tls = self._rest.get(key, (0.0, 0.0))
        if len(self._rest) < MAX_KEYS:
            self._rest[key] = (
                max(connect, row.phases.get("connect", 0.0)), max(tls, row.phases.get("tls", 0.0))
            )  # fmt: skip

    def findings(self) -> Iterator[Finding]:
        for (origin, name), tally in self._tallies:
            connect, tls = self._rest.get((origin, name), (0.0, 0.0))
            rest = f"the connect took {seconds(connect)} at most" if connect else "nothing was connected to"
            rest += f", TLS {seconds(tls)}" if tls else ""
            yield Finding(
                verdict="dns_slow",
                severity=Severity.SLOW,
                origin=origin,
                sentence=f"looking up {name} took up to {seconds(tally.most)} ({tally.count:,} of "
                f"{count(self._lookups[origin], 'lookup')} took {seconds(self._threshold)} or longer); {rest}",
                advice="look at the resolver: a name server that does not answer, search domains (ndots) that multiply lookups, "
                "a cache that is missing; fewer connections mean fewer lookups",
                sure=Sure.CERTAIN,
                because="the lookup was timed where the client made it",
                criterion=f"a lookup took {seconds(self._threshold)} or longer (dns)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"name": name, "longest": tally.most, "lookups": self._lookups[origin]},
            )


class ConnectTimeouts:
    """Story 8: one exception, four places.

    A proxy that does not answer CONNECT runs into the read timeout, for httpcore sends that as any other request.
    """

    def __init__(self) -> None:
        self._tallies: Tallies[tuple[str, str, str]] = Tallies()

    def add(self, row: Row, phase: str) -> None:
        error = error_type(row)
        if phase in _TIMEOUTS and (error == "ConnectTimeout" or (error == "ReadTimeout" and phase == "proxy")):
            time = row.phases.get(phase, row.duration)
            self._tallies[row.origin, phase, error].add(row, time, f"timed out in {phase} after {seconds(time)}")

    def findings(self) -> Iterator[Finding]:
        for (origin, phase, error), tally in self._tallies:
            doing, advice = _TIMEOUTS[phase]
            yield Finding(
                verdict=f"{phase}_timeout",
                severity=Severity.FAILED,
                origin=origin,
                sentence=f"{count(tally.count, 'request')} to {named(origin)} ran into {error} in the {phase} phase ({doing}), "
                f"which had taken {spread(tally.least, tally.most)}",
                advice=advice,
                sure=Sure.CERTAIN,
                because="the phase was under way when the timeout struck",
                criterion=f"a {error}" + (" while talking to the proxy" if error == "ReadTimeout" else ""),
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"phase": phase, "longest": tally.most},
            )


class AddressFallback:
    """Story 10."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.fallback
        self._tallies: Tallies[tuple[str, str, str]] = Tallies()

    def add(self, row: Row) -> None:
        if row.phases.get("connect", 0.0) < self._threshold:
            return
        answers = next((step.attributes.get(names.DNS_ANSWERS) for step in steps(row, names.SPAN_DNS)), None)
        if not answers or len(answers) < 2:
            return
        first = str(answers[0])
        for step in steps(row, names.SPAN_CONNECT):
            won = step.attributes.get(names.NETWORK_PEER_ADDRESS)
            if won is None or won == first or step.duration < self._threshold:
                continue
            if (":" in first) != (":" in str(won)):
                what = f"the connect took {seconds(step.duration)}: {first} came first, {won} won"
                self._tallies[row.origin, first, str(won)].add(row, step.duration, what)

    def findings(self) -> Iterator[Finding]:
        for (origin, first, won), tally in self._tallies:
            family = "IPv6" if ":" in first else "IPv4"
            yield Finding(
                verdict="address_fallback",
                severity=Severity.SLOW,
                origin=origin,
                sentence=f"connecting to {named(origin)} took up to {seconds(tally.most)}, {count(tally.count, 'time')}: its first "
                f"address, {first}, did not answer, {won} did",
                advice=f"mend the {family} route or take the address out of DNS; until then bind to the other family "
                "(local_address of the transport)",
                sure=Sure.LIKELY,
                because="the resolver named that address first, and another family's took over after a while",
                criterion=f"a connect of {seconds(self._threshold)} or longer that ended on another family than the first "
                "address's (fallback)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"first": first, "won": won, "longest": tally.most},
            )


class TlsSlow:
    """Story 11."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._threshold = thresholds.tls
        self._tallies: Tallies[tuple[str, str]] = Tallies()

    def add(self, row: Row) -> None:
        known = next((step.attributes for step in steps(row, names.SPAN_TLS)), {})
        version = known.get(names.TLS_PROTOCOL_VERSION)
        resumed = known.get(names.TLS_RESUMED)
        details = [f"version {version}"] if version else []
        if resumed is not None:
            details.append("resumed" if resumed else "not resumed")
        time = row.phases["tls"]
        self._tallies[row.origin, ", ".join(details)].add(row, time, f"the handshake took {seconds(time)}")

    def findings(self) -> Iterator[Finding]:
        for (origin, details), tally in self._tallies:
            yield Finding(
                verdict="tls_slow",
                severity=Severity.SLOW,
                origin=origin,
                sentence=f"{count(tally.count, 'TLS handshake')} with {named(origin)} took up to {seconds(tally.most)}"
                + (f" ({details})" if details else ""),
                advice="look at the certificate chain (its size, OCSP), the server's load, and whether sessions are resumed; fewer new "
                "connections mean fewer handshakes",
                sure=Sure.CERTAIN,
                because="the handshake was timed where the client made it",
                criterion=f"a TLS handshake of {seconds(self._threshold)} or longer (tls)",
                requests=tally.count,
                seconds=tally.seconds,
                evidence=tally.examples,
                numbers={"longest": tally.most, "details": details},
            )
