# There is one `Lifetime` in a process, whatever client libraries are observed: what
# begins and ends with the process or with a fork, with being turned on and off, and
# with the garbage collector is the same for all of them.

"""From being turned on to being turned off: what is under way, and how all of that ends."""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from ..callsite import CallSite, text
from ..core.ledger import Ledger, Process, Reason
from ..core.sink import Sink
from ..core.timeline import NEVER_CLOSED, Exchange, Lookup
from ..guard import Guard
from . import collector
from .collector import PHASES, STOP, collecting, in_this_thread
from .current import CURRENT
from .marks import attach, attached
from .patches import Patches
from .resolver import Resolver

_now = time.monotonic_ns

#: Held while hooks are put in or taken out: a new start must not find the last ones half gone.
transition = threading.RLock()


class Watch(weakref.ref[Any]):
    """Of a response's stream or of a pool: is put on `Lifetime.later` when that is collected.

    Held by its exchange's or ledger's process, until that is over: so nothing comes of one that was closed.
    """

    __slots__ = ("of",)

    #: Whose it is.
    of: Any


class _Unended:
    """On a request span that upstream has yet to end: the word when it is collected, and nobody will.

    There is one only where an exchange was over before upstream had its response, or where something of the
    application's came between upstream's call and us.
    """

    __slots__ = ("_end", "_later", "_span")

    def __init__(self, span: Any, later: deque[Any], end: tuple[Any, ...]) -> None:
        self._span, self._later, self._end = span, later, end

    def __del__(self) -> None:
        # Within any lock there is.
        self._later.append((*self._end, self._span))


class Lifetime:
    """Everything that is under way, and its ends. When, after `retire`, the last exchange is over, all is put back.

    Args:
        guard: contains our faults.
        patches: what is replaced.
    """

    def __init__(self, guard: Guard, patches: Patches) -> None:
        self.guard = guard
        self.patches = patches
        # Re-entrant: a signal handler of the application's may make a request of its own in there.
        self.lock = threading.RLock()
        #: Stands in for `_describe` once that has failed.
        self._describing: Callable[..., object] | None = None
        self._earlier: list[Process] = []
        #: What is to be dealt with as soon as there is time: watches of what was collected; what could not be dealt
        #: with within the collector, or was interrupted, as a function and its arguments; and network streams of
        #: which the close was. To put something there is one step, which nothing can interrupt.
        self.later: deque[Any] = deque()
        #: For hooks called while the client may hold a lock of its own: httpcore's pools while they assign requests,
        #: its connections while they dial or, with HTTP/2, read.
        self.guard_in_locks = guard.in_locks(self.later.append)
        #: What a `Watch` calls.
        self.gone = self.later.append
        self.active = False
        #: Finds the application's lines; None if they are not wanted.
        self.call_sites: CallSite | None = None
        self._at_first: Callable[[], object] | None = None
        patches.on_dropped = self.later.append
        self.resolver = Resolver(patches, self.guard_in_locks, self.looked_up)

    def start(self, sink: Sink, call_sites: CallSite | None, at_first: Callable[[], object]) -> None:
        """Observe, from empty counts on; what is under way from an earlier start ends as it would have.

        Args:
            sink: where records go.
            call_sites: finds the application's lines; None if they are not wanted.
            at_first: called as the first pool is met.
        """
        self._earlier = [process for process in self._earlier if process.exchanges]
        self.call_sites = call_sites
        self._describing = None
        self._at_first = at_first
        collector.watch()
        self._begin(sink)
        self.active = True

    def _begin(self, sink: Sink) -> None:
        self.process = Process()
        self.process.sink = sink
        sink.begins(self.process)

    def meets_pool(self) -> None:
        """A pool is met: the first one, perhaps."""
        if self._at_first is not None:
            self._at_first()
            self._at_first = None

    def forked(self) -> None:
        """In a child process: what is under way is the parent's, and pools are to be adopted again."""
        global transition  # noqa: PLW0603 - another thread of the parent's may hold it
        transition = threading.RLock()
        self.lock = threading.RLock()
        self.later.clear()
        # A collection of a thread that is not here any more does not end here either.
        collector.forget()
        for process in (*self._earlier, self.process):
            process.alive = False
            for exchange in process.exchanges:
                # Closed here, too, it is reported by the parent alone.
                exchange.finished, exchange.span = True, None
            process.exchanges.clear()
            self._begin(process.sink)
        self._earlier.clear()

    def retire(self) -> None:
        """Take no new exchanges; those under way end as they would have."""
        with transition:
            self.active = False
            self._earlier.append(self.process)
            self._rest()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is observed any more."""
        return not self.active and not self._earlier

    def _rest(self) -> None:
        with transition:
            if not self.active and not any(process.exchanges for process in self._earlier):
                self._earlier.clear()
                collector.leave()
                self.patches.restore()

    def mend(self) -> None:
        """Put back hooks that went with somebody else's."""
        # The pool may hold its lock, or the SDK one of its own: so this waits for nobody. The next dial tries again.
        held = transition
        if held.acquire(blocking=False):
            try:
                if self.active:
                    self.patches.mend()
            finally:
                held.release()

    def suppressed(self) -> bool:
        """Whether instrumentation is suppressed here and now."""
        return self.process.sink.suppressed()

    def looked_up(self, exchange: Exchange, lookup: Lookup) -> None:
        """A lookup is over."""
        exchange.ledger.process.sink.looked_up(exchange, lookup)

    # What cannot be seen through.

    def unnoted(self, exchange: Exchange) -> None:
        """*exchange* has begun while we were retired, and perhaps the hooks that would have seen its end are gone."""
        exchange.finished = True
        exchange.ledger.waiting.pop(exchange, None)
        exchange.ledger.process.exchanges.pop(exchange, None)
        if not self.active:
            self._rest()

    def abandon(self, outer: Exchange | None, exchange: Exchange | None) -> None:
        """A hook could not see *exchange* through: end what we hold open of it.

        Args:
            outer: the exchange that was inside the pool before.
            exchange: None if `begin` did not return one; then it may have begun one all the same.
        """
        if exchange is None:
            exchange = CURRENT.get()
            if exchange is None or exchange is outer:
                return
            CURRENT.set(outer)
        if not exchange.finished:
            self.let_go(exchange)

    def give_up(self, outer: Exchange | None, exchange: Exchange | None, current: Exchange | None) -> None:
        """As `abandon`, later: *current* was inside the pool."""
        exchange = exchange if exchange is not None else current
        if exchange is not None and exchange is not outer and (not exchange.finished or exchange.span is not None):
            self.let_go(exchange)

    # Ends.

    def finish(self, exchange: Exchange, error: BaseException | None) -> None:
        """Report *exchange*, once, and forget it."""
        process = exchange.ledger.process
        # As in `collecting`, without a call.
        for phase in PHASES:
            if phase is STOP and in_this_thread():
                exchange.finished = True
                self.later.append((self._finish_late, exchange, error))
                return
            break
        if process.exchanges.pop(exchange, exchange) is exchange:
            return
        exchange.finished = True
        exchange.ledger.finished(exchange, exchange.over_at)
        try:
            if self._describing is None:
                process.sink.describe(exchange, error)
            else:
                self._describing(process.sink, exchange, error)
        except BaseException:
            self._describing = self.guard.contain("describe", _describe)
        finally:
            # Whatever could or could not be said of it, and whatever interrupted that.
            if exchange.span is not None:
                if not process.sink.end(exchange):
                    self._await_end(exchange)
                exchange.span = None
        exchange.request_headers = exchange.response_headers = ()
        if not self.active:
            self._rest()

    def _await_end(self, exchange: Exchange) -> None:
        # If upstream is interrupted in the call that ends the span, it does not call again.
        attach(exchange.span, _Unended(exchange.span, self.later, (self._end_unended, exchange)))

    def _end_unended(self, exchange: Exchange, span: Any) -> None:
        if exchange.ledger.process.alive:
            exchange.span = span
            if exchange.upstream_ended is None:
                exchange.upstream_ended = exchange.wall + (exchange.headers_at or exchange.over_at)
            exchange.ledger.process.sink.end(exchange)
            exchange.span = None

    def _finish_late(self, exchange: Exchange, error: BaseException | None) -> None:
        try:
            self.finish(exchange, error)
        except BaseException:
            self.later.append((self.let_go, exchange))
            self.let_go(exchange)
            self.guard.contain("collect")

    def let_go(self, exchange: Exchange) -> None:
        """A hook of ours failed it: report nothing more of *exchange*, but end what we hold open. Idempotent.

        A caller to which something was interrupted puts this on `later` first, as this may be interrupted, too.
        """
        process = exchange.ledger.process
        process.exchanges.pop(exchange, None)
        exchange.finished = True
        try:
            if exchange.span is not None and not process.sink.end(exchange):
                self._await_end(exchange)
            exchange.span = None
        except BaseException:
            self.guard.contain("end", critical=True)
        finally:
            try:
                if exchange.lent is not None:
                    self.guard(exchange.lent.take_back, exchange)
            finally:
                self.guard(self._forget, exchange)
        if not self.active:
            self.guard(self._rest)

    def _forget(self, exchange: Exchange) -> None:
        exchange.ledger.finished(exchange, _now())

    # What comes late.

    def collect(self) -> None:
        """Deal with what there was no time for, and with what the garbage collector has finalised."""
        if not collecting():
            # Not in the context of the code that comes by: that may be suppressed, or another request's.
            contextvars.Context().run(self._collect)

    def _collect(self) -> None:
        taken: list[Any] = []
        # Those that are there now: one that fails may put itself there again.
        for _ in range(len(self.later)):
            try:
                # In one step: what is interrupted between taking something and having it would lose that.
                taken.extend(islice(iter(self.later.popleft, None), 1))
            except IndexError:
                # Another thread has it.
                return
            except BaseException:
                self.later.extend(taken)
                raise
            try:
                self._deal_with(taken[0])
            except BaseException:
                self.later.extend(taken)
                raise
            taken.clear()

    def _deal_with(self, what: Any) -> None:
        if isinstance(what, tuple):
            function, *args = what
            self.guard(function, *args)
        elif type(what) is weakref.ref:
            # Of a hook: see `Patches`.
            self.guard(self.mend)
        elif not isinstance(what, Watch):
            self.guard(self._closed_unseen, what)
        elif isinstance(what.of, Ledger):
            self.guard(self._pool_dropped, what.of)
        elif not what.of.finished and what.of.ledger.process.alive:
            self._forgotten(what.of, leaked=not what.of.over_at)

    def _closed_unseen(self, stream: Any) -> None:
        # The hook of its close was interrupted, has failed or is paused: it is closed, we do not know since when nor
        # why.
        conn = attached(stream)
        if conn is None or not conn.ready or not conn.ledger.process.alive:
            return
        now = _now()
        conn.doom(Reason.UNKNOWN)
        conn.ledger.closed(conn, now)
        # It may have been closed, and that not have been told: it counts once.
        conn.ledger.process.sink.closed(conn, now, silent=False)

    def _pool_dropped(self, ledger: Ledger) -> None:
        if ledger.process.ledgers.pop(ledger, None) is not None:
            now = _now()
            for conn in ledger.abandoned():
                ledger.process.sink.closed(conn, now, silent=False)

    def _forgotten(self, exchange: Exchange, *, leaked: bool) -> None:
        try:
            now = _now()
            exchange.body_forgotten()
            place = exchange.made_at
            if exchange.outcome == NEVER_CLOSED and place is not None:
                exchange.closed_at, exchange.closed_via = text(place.application), text(place.library)
            if leaked:
                exchange.ledger.leaked(exchange, now)
            self.finish(exchange, None)
        except BaseException:
            self.later.append((self.let_go, exchange))
            self.let_go(exchange)
            self.guard.contain("collect")

    def exiting(self) -> None:
        """The process exits: responses still open end now, while there is an exporter."""
        self.collect()
        for process in (*self._earlier, self.process):
            for exchange in list(process.exchanges):
                if exchange.headers_at:
                    self._forgotten(exchange, leaked=False)


def _describe(sink: Sink, exchange: Exchange, error: BaseException | None) -> None:
    sink.describe(exchange, error)
