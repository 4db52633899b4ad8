"""Time that no phase of a server's explains: pauses before attempts, connects and proxies that are slow."""

from __future__ import annotations

from typing import Any

from ...telemetry import names
from ..facts import proxy
from ..findings import Finding
from ..rows import Row
from ..units import count, seconds, spread
from .definitions_attempts import connect_of, pauses
from .kind import Kind
from .tally import Tally, named, named_all


class WaitedToRetry(Kind):
    """Story 29, within one span: time that went into the pauses of retries."""

    name = "waited_to_retry"

    def cost(self, row: Row) -> float:
        return pauses(row).seconds

    def what(self, row: Row) -> str:
        found = pauses(row)
        return f"{seconds(found.seconds)} of {seconds(row.duration)} between {found.failed.total() + 1} attempts"

    def noting(self, row: Row, tally: Tally) -> None:
        found = pauses(row)
        for why, number in found.failed.items():
            tally.note("why", why, number)
        tally.measure("all", row.duration)

    def finding(self, key: Any, tally: Tally) -> Finding:
        why = ", ".join(f"{one} x {number:,}" for one, number in tally.noted("why").most_common(4))
        every = tally.measures["all"].total
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named(key)} paused for {spread(tally.least, tally.most)} between attempts, {seconds(tally.seconds)} "
            f"of {seconds(every)} in all: the attempts before failed ({why})",
            "look at why the first attempt failed; the pauses are the client's own, and grow: HTTPTransport(retries=) waits 0.5 s, 1 s, 2 s, ... "
            "before it connects again, urllib3's Retry as backoff_factor and the server's Retry-After say",
            numbers={"seconds": tally.seconds, "longest": tally.most, "failed": dict(tally.noted("why"))},
        )


class ConnectSlow(Kind):
    """Story 8, where it went well in the end."""

    name = "connect_slow"

    def cost(self, row: Row) -> float:
        return connect_of(row).duration

    def what(self, row: Row) -> str:
        return f"the connect took {seconds(self.cost(row))}"

    def noting(self, row: Row, tally: Tally) -> None:
        step = connect_of(row)
        tally.measure("resent", step.attributes.get(names.CONNECT_RESENT))
        tally.note("proxies", proxy(row))

    def finding(self, key: Any, tally: Tally) -> Finding:
        resent = tally.measures.get("resent")
        whom = next(iter(tally.noted("proxies")), None)
        sentence = f"{count(tally.count, 'connect')} to {f'the proxy {whom}, for {named(key)},' if whom else named(key)} took {spread(tally.least, tally.most)}"
        if resent is not None and resent.most:
            times = ("up to " if resent.least < resent.most else "") + count(int(resent.most), "time")
            sentence += f": the kernel had to send its SYN again {times}, as nobody answered the first"
        elif resent is not None:
            sentence += ": the first SYN was not lost"
        lost = "; or an accept queue that is full: `ss -lnt` on the server shows its Recv-Q above its Send-Q, `nstat TcpExtListenDrops` counts"
        return self.make(
            tally,
            sentence,
            "look at the way there, for packets that are lost (a firewall, a full table of connections: nf_conntrack)"
            + lost
            if resent is None or resent.most
            else "look at the way there (its round trip, a resolver's other addresses), and whether this process had a CPU then",
            numbers={"longest": tally.most, "resent": int(resent.most) if resent is not None else None},
        )


class ProxySlow(Kind):
    """Story 31, where the proxy answers late."""

    name = "proxy_slow"

    def key(self, row: Row) -> Any:
        return proxy(row)

    def cost(self, row: Row) -> float:
        return row.phases["proxy"]

    def what(self, row: Row) -> str:
        return f"the proxy took {seconds(self.cost(row))}"

    def finding(self, key: Any, tally: Tally) -> Finding:
        return self.make(
            tally,
            f"the proxy{f' {key}' if key else ''} took {spread(tally.least, tally.most)} to make {count(tally.count, 'connection')} to "
            f"{named_all(tally.origins)} (CONNECT, SOCKS, or TLS with it)",
            "look at the proxy: the lookup of the server's name and the connect to it are its own, and so is its queue; its log tells which",
            numbers={"proxy": key, "longest": tally.most},
        )
