"""Where the time of a dial went: stories 7, 10 and 11."""

from __future__ import annotations

from typing import Any, Final

from ...telemetry import names
from ..facts import fallback, queued
from ..findings import Finding, Thresholds
from ..rows import Row
from ..units import count, seconds
from .kind import Kind
from .tally import Tally, named, steps

#: What a lookup waited for, and what to do.
NO_THREAD: Final = "it waited for a thread of the event loop's executor, and the resolver was not asked yet"
FREE_THREADS: Final = (
    "look at what fills the event loop's default executor (run_in_executor(None, ...), asyncio.to_thread, sync_to_async): give that "
    "an executor of its own, or the loop a larger one (loop.set_default_executor); else for a lack of CPU; the resolver is not to blame"
)


def without_thread(tally: Tally) -> bool:
    """Whether most of the time was that wait: then it was not the resolver's."""
    waited = tally.measures.get("queued")
    return waited is not None and waited.total * 2 >= tally.seconds


class DnsSlow(Kind):
    """Story 7. The resolver is one, whatever the names: one finding."""

    name = "dns_slow"

    def __init__(self, limits: Thresholds) -> None:
        super().__init__(limits)
        self.lookups = 0

    def saw(self, row: Row) -> None:
        """A request that looked up a name."""
        self.lookups += 1

    def key(self, row: Row) -> Any:
        return ""

    def cost(self, row: Row) -> float:
        return row.phases["dns"]

    def what(self, row: Row) -> str:
        return f"the lookup took {seconds(self.cost(row))}"

    def noting(self, row: Row, tally: Tally) -> None:
        question = next((step.attributes.get(names.DNS_QUESTION_NAME) for step in steps(row, names.SPAN_DNS)), None)
        host = row.origin.rpartition("//")[2]
        tally.note("names", str(question or host))
        tally.measure("connect", row.phases.get("connect"))
        tally.measure("tls", row.phases.get("tls"))
        tally.measure("queued", queued(row))

    def finding(self, key: Any, tally: Tally) -> Finding:
        asked = tally.noted("names")
        name = ", ".join(one for one, _ in asked.most_common(3)) + (
            f" and {len(asked) - 3} more" if len(asked) > 3 else ""
        )
        connect, tls = tally.measures.get("connect"), tally.measures.get("tls")
        rest = f"the connect took {seconds(connect.most)} at most" if connect else "nothing was connected to"
        rest += f", TLS {seconds(tls.most)}" if tls else ""
        waited = tally.measures["queued"]
        rest += f"; for up to {seconds(waited.most)} of that {NO_THREAD}" if waited.most >= 0.01 else ""
        return self.make(
            tally,
            f"looking up {name} took up to {seconds(tally.most)} ({tally.count:,} of {count(self.lookups, 'lookup')} took "
            f"{seconds(self.limits.dns)} or longer); {rest}",
            FREE_THREADS
            if without_thread(tally)
            else "look at the resolver: a name server that does not answer, search domains (ndots) that multiply lookups, "
            "a cache that is missing; fewer connections mean fewer lookups",
            numbers={"name": asked.most_common(1)[0][0], "longest": tally.most, "lookups": self.lookups},
        )


class AddressFallback(Kind):
    """Story 10."""

    name = "address_fallback"

    def key(self, row: Row) -> Any:
        return (row.origin, *(fallback(row, self.limits.fallback) or ("", ""))[:2])

    def cost(self, row: Row) -> float:
        return max((step.duration for step in steps(row, names.SPAN_CONNECT)), default=0.0)

    def what(self, row: Row) -> str:
        _, first, won = self.key(row)
        return f"the connect took {seconds(self.cost(row))}: {first} came first, {won} won"

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, first, won = key
        family = "IPv6" if ":" in first else "IPv4"
        return self.make(
            tally,
            f"connecting to {named(origin)} took up to {seconds(tally.most)}, {count(tally.count, 'time')}: its first "
            f"address, {first}, did not answer, {won} did",
            f"mend the {family} route or take the address out of DNS; until then bind to the other family "
            "(local_address of the transport)",
            because="the resolver named that address first, and another family's took over after a while",
            numbers={"first": first, "won": won, "longest": tally.most},
        )


class TlsSlow(Kind):
    """Story 11."""

    name = "tls_slow"

    def key(self, row: Row) -> Any:
        known = next((step.attributes for step in steps(row, names.SPAN_TLS)), {})
        version, resumed = known.get(names.TLS_PROTOCOL_VERSION), known.get(names.TLS_RESUMED)
        details = [f"version {version}"] if version else []
        if resumed is not None:
            details.append("resumed" if resumed else "not resumed")
        return (row.origin, ", ".join(details))

    def cost(self, row: Row) -> float:
        return row.phases["tls"]

    def what(self, row: Row) -> str:
        return f"the handshake took {seconds(self.cost(row))}"

    def finding(self, key: Any, tally: Tally) -> Finding:
        origin, details = key
        return self.make(
            tally,
            f"{count(tally.count, 'TLS handshake')} with {named(origin)} took up to {seconds(tally.most)}"
            + (f" ({details})" if details else ""),
            "look at the certificate chain (its size, OCSP), the server's load, and whether sessions are resumed; fewer new "
            "connections mean fewer handshakes",
            numbers={"longest": tally.most, "details": details},
        )
