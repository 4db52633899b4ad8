# A client that follows redirects does it above its transport, so each hop is a request
# of its own (httpx), or one of several within one span (requests). No span says that
# one request follows another. What tells is the order: a hop begins just as the one
# before has been answered by a redirect.

"""Redirects: those that never end, and those that a right URL would save."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..facts import PERMANENT, redirected_in_vain
from ..findings import Finding, Thresholds
from ..rows import REDIRECTS, Row, Sent
from ..units import count, seconds
from .definitions_attempts import AT_ONCE, MOST, same_but_for_slash
from .kind import Kind
from .tally import Tally, named, named_all, statuses

#: Chains that are followed at a time.
_OPEN: Final = 500
#: URLs of a chain that are counted.
_URLS: Final = 50


@dataclass
class _Chain:
    """Requests that followed each other."""

    ended: float
    first: str
    rows: list[Row] = field(default_factory=list)
    #: How often each URL was asked for.
    urls: dict[str, int] = field(default_factory=dict)
    hops: int = 0


class RedirectLoop(Kind):
    """Redirects without an end."""

    name = "redirect_loop"

    def key(self, row: Row) -> Any:
        return row.origin

    def one(self, row: Row, hops: int, spent: float) -> None:
        """Count one call, of which *row* is the last request."""
        tally = self.tallies[self.key(row)]
        tally.add(row, spent, f"redirected {count(hops, 'time')} in {seconds(spent)}")
        tally.doubt(self.defined.left(row, self.limits))
        tally.measure("hops", hops)
        tally.note("statuses", row.status if row.status in REDIRECTS else None)
        tally.note("paths", row.path or None)

    def finding(self, key: Any, tally: Tally) -> Finding:
        hops, paths = tally.measures["hops"], tally.noted("paths")
        most = f"{hops.most:,.0f}" if hops.least == hops.most else f"up to {hops.most:,.0f}"
        at = f", at {' and '.join(path for path, _ in paths.most_common(2))}" if paths else ""
        most_of = ", ".join(str(status) for status, _ in tally.noted("statuses").most_common(2))
        gave_up = "and the client gave up" if not tally.left else "and no other answer came"
        return self.make(
            tally,
            f"{count(tally.count, 'call')} to {named(key)} went in a circle: {most} redirects{f' ({most_of})' if most_of else ''} "
            f"in {seconds(tally.most)}{at}, {gave_up} (TooManyRedirects)",
            "look at the Location of these answers (curl -sIL URL): a login that needs a cookie this client does not keep or send, a proxy that "
            "ends TLS while the server behind it redirects to https (X-Forwarded-Proto), two rules that send to each other",
            numbers={"calls": tally.count, "hops": int(hops.most)},
        )


class Redirected(Kind):
    """Requests that a right URL would have saved."""

    name = "redirected"

    def what(self, row: Row) -> str:
        return f"status {row.status} after {seconds(row.duration)}"

    def noting(self, row: Row, tally: Tally) -> None:
        tally.note("statuses", row.status)
        tally.note("paths", row.path or None)

    def sent(self, row: Row, sent: Sent) -> None:
        """Count what was sent within *row* before, and was answered by a redirect for ever."""
        asked = replace(row, origin=sent.origin or row.origin)
        tally = self.tallies[asked.origin]
        tally.add(asked, sent.duration, f"status {sent.status} after {seconds(sent.duration)}, before")
        tally.note("statuses", sent.status)

    def finding(self, key: Any, tally: Tally) -> Finding:
        told, numbers = statuses(tally.noted("statuses"))
        paths = [path for path, _ in tally.noted("paths").most_common(3)]
        return self.make(
            tally,
            f"{count(tally.count, 'request')} to {named_all(tally.origins)} {'was' if tally.count == 1 else 'were'} only redirected "
            f"({told}){f', at {chr(44).join(paths)}' if paths else ''}: {seconds(tally.seconds)} for asking the wrong URL first",
            "ask for the URL that the redirect names: with https, with or without the slash at its end, of the new host (curl -sI URL shows its Location)",
            numbers={"statuses": numbers},
        )


class Redirects:
    """All redirects.

    Args:
        limits: from where on something is a finding.
    """

    def __init__(self, limits: Thresholds) -> None:
        self._loop = RedirectLoop(limits)
        self._redirected = Redirected(limits)
        #: By process and parent, chains whose last answer was a redirect.
        self._open: OrderedDict[Any, list[_Chain]] = OrderedDict()
        self._chains = 0

    def saw(self, row: Row) -> None:
        """Any request that was answered, in the order of their ends."""
        for sent in row.before:
            if sent.status in PERMANENT:
                self._redirected.sent(row, sent)
        # What gave up within its own span is told as that: see `failed`.
        redirect = row.status in REDIRECTS and not redirected_in_vain(row)
        if not redirect and not self._open:
            return
        key = (row.source, row.trace_id if row.parent_id else "", row.parent_id)
        chain = self._before(key, row)
        if not redirect:
            return
        url = row.target.partition(" ")[2] or row.path
        if chain is not None and chain.hops == MOST + 1 and url == chain.first:
            # httpx has given up, and the program asked again.
            self._over(chain)
            chain = None
        if chain is None:
            chain = _Chain(row.end, url)
        chain.hops += 1
        chain.ended = row.end
        if url in chain.urls or len(chain.urls) < _URLS:
            chain.urls[url] = chain.urls.get(url, 0) + 1
        chain.rows = [*chain.rows[:1], row]
        self._keep(key, chain)

    def _keep(self, key: Any, chain: _Chain) -> None:
        self._open.setdefault(key, []).append(chain)
        self._open.move_to_end(key)
        self._chains += 1
        if self._chains > _OPEN:
            # Nothing follows that any more, in all likelihood: it is of the span that was seen longest ago.
            oldest, chains = next(iter(self._open.items()))
            self._over(chains.pop(0))
            self._chains -= 1
            if not chains:
                del self._open[oldest]

    def _before(self, key: Any, row: Row) -> _Chain | None:
        # The chain that this goes on with: the one that ended last before this began.
        chains = self._open.get(key)
        if chains is None or not row.timed:
            return None
        found = None
        for chain in chains:
            pause = row.start - chain.ended
            if -0.001 <= pause <= AT_ONCE and (found is None or chain.ended > found.ended):
                found = chain
        over = [one for one in chains if one is not found and row.start - one.ended > 60.0]
        for one in (*over, *([found] if found is not None else [])):
            chains.remove(one)
            self._chains -= 1
        if not chains:
            del self._open[key]
        for one in over:
            self._over(one)
        if found is not None:
            last = found.rows[-1]
            if self._avoidable(last, row):
                self._redirected.count(last)
        return found

    @staticmethod
    def _avoidable(redirected: Row, followed: Row) -> bool:
        if redirected.status in PERMANENT:
            return True
        return same_but_for_slash(*(one.target.partition(" ")[2] for one in (redirected, followed)))

    def _over(self, chain: _Chain) -> None:
        together = self._loop.defined.together
        if together is not None and together.holds(chain.hops, max(chain.urls.values())):
            self._loop.one(chain.rows[-1], chain.hops, chain.ended - chain.rows[0].start)

    def failed(self, row: Row) -> bool:
        """Whether *row*, which failed, is one that was redirected too often."""
        if not redirected_in_vain(row):
            return False
        self._loop.one(row, sum(sent.status in REDIRECTS for sent in row.before) + 1, row.duration)
        return True

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        # More may come: chains that are open stay so.
        told = copy.deepcopy(self)
        for chains in self._open.values():
            for chain in chains:
                told._over(chain)
        yield from told._loop.findings()
        yield from told._redirected.findings()
