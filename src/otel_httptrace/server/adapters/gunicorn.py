# gunicorn 27, its workers of threads: sync and gthread.
#
# The sync worker handles one connection at a time and closes each after its
# first response, whatever the client says. `handle` is the whole life of a
# connection, `handle_request` of its one request.
#
# The gthread worker has a `TConn` for each connection, made as it is accepted
# and closed by `TConn.close`. `handle` reads one request on it in a thread and
# answers whether it can be kept; it says so also where the client is gone, for
# then there was nothing to read. Between requests the connection waits in
# `keepalived_conns` for `murder_keepalived`.
#
# The client's leaving shows as an OSError from gunicorn's own reading or writing.
# The application may raise the same of a socket of its own: the innermost frame
# tells whose it was.

"""gunicorn: its sync and gthread workers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from ...observe.lookalike import preceded
from ...observe.patches import Patches
from ..ledger import Reason
from ..watch import Watch
from . import seams
from .hooked import UnknownServerError, replace_all

Hook = Callable[..., Any]

#: What this thread is handling: a `TConn`.
_HANDLED: ContextVar[Any] = ContextVar("otel_httptrace_gthread", default=None)

_SYNC = "gunicorn.workers.sync"
_THREADS = "gunicorn.workers.gthread"


class Gunicorn:
    """Hooks on gunicorn's workers.

    Args:
        patches: what is replaced, to be restored.
        watch: is told what happens.
    """

    modules: ClassVar[tuple[str, ...]] = (_SYNC, _THREADS)

    def __init__(self, patches: Patches, watch: Watch) -> None:
        self._patches = patches
        self._watch = watch

    def install(self, module: ModuleType) -> None:
        """Watch the connections of the worker that *module* has."""
        before = self._before
        if module.__name__ == _SYNC:
            worker = module.SyncWorker
            replace_all(
                self._patches,
                (worker, "handle", self._sync_handle),
                (worker, "handle_request", self._sync_request),
                (worker, "handle_error", self._sync_error),
            )
            return
        if not hasattr(module, "PollableMethodQueue"):
            # An older one, whose threads answer something else, and wait elsewhere.
            raise UnknownServerError("gunicorn.workers.gthread.PollableMethodQueue")
        worker, conn = module.ThreadWorker, module.TConn
        replace_all(
            self._patches,
            (conn, "__init__", self._made),
            (conn, "close", partial(before, self._closing)),
            (worker, "handle_error", self._thread_error),
            (worker, "murder_keepalived", partial(before, self._murdering)),
            (worker, "handle", self._thread_handle),
            (worker, "handle_request", self._thread_request),
        )
        if hasattr(worker, "handle_http2_request"):
            replace_all(self._patches, (worker, "handle_http2_request", self._stream))

    def _before(self, tell: Callable[[Any], object], original: Hook) -> Hook:
        return preceded(original, tell, partial(self._watch.guard.contain, tell.__name__))

    # The sync worker. It has one connection at a time, so its record is put on the worker.

    def _sync_handle(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle(self: Any, listener: Any, client: Any, addr: Any) -> Any:
            try:
                watch.accepted(self, addr, listener.getsockname())
            except BaseException:
                contain("handle")
            try:
                return original(self, listener, client, addr)
            finally:
                try:
                    conn = watch.of(self)
                    if conn is not None and not conn.requests:
                        # It came, and went.
                        watch.hung_up(self)
                    watch.lost(self)
                except BaseException:
                    contain("handle")

        return handle

    def _sync_request(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle_request(self: Any, listener: Any, req: Any, client: Any, addr: Any) -> Any:
            request = None
            try:
                request = watch.began(self, threaded=True)
                watch.told(self, Reason.WORKER_SYNC)
            except BaseException:
                contain("handle_request")
            try:
                return original(self, listener, req, client, addr)
            except BaseException as error:
                if request is not None:
                    try:
                        _failed(watch, self, error)
                    except BaseException:
                        contain("handle_request")
                raise
            finally:
                if request is not None:
                    try:
                        watch.closing(self, by=request)
                        watch.done(request)
                    except BaseException:
                        contain("handle_request")

        return handle_request

    def _sync_error(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle_error(self: Any, req: Any, client: Any, addr: Any, exc: Any) -> Any:
            try:
                watch.closing(self, Reason.ERROR)
            except BaseException:
                contain("handle_error")
            return original(self, req, client, addr, exc)

        return handle_error

    # The gthread worker. It has one connection at a time in each thread.

    def _thread_error(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle_error(self: Any, req: Any, client: Any, addr: Any, exc: Any) -> Any:
            try:
                watch.closing(_HANDLED.get(), Reason.ERROR)
            except BaseException:
                contain("handle_error")
            return original(self, req, client, addr, exc)

        return handle_error

    def _made(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def __init__(self: Any, cfg: Any, sock: Any, client: Any, server: Any) -> None:
            original(self, cfg, sock, client, server)
            try:
                watch.accepted(self, client, server)
            except BaseException:
                contain("__init__")

        return __init__

    def _closing(self, conn: Any) -> None:
        if seams.idled_out(conn):
            self._watch.told(conn, Reason.KEEPALIVE_TIMEOUT)
        self._watch.closing(conn)
        self._watch.lost(conn)

    def _murdering(self, worker: Any) -> None:
        if not worker.alive:
            why = seams.stops_because(worker)
            for conn in list(worker.keepalived_conns):
                self._watch.told(conn, why)

    def _thread_handle(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle(self: Any, conn: Any) -> Any:
            record = None
            before = 0
            try:
                record = watch.of(conn)
                before = record.requests if record is not None else 0
                _HANDLED.set(conn)
            except BaseException:
                contain("handle")
            result = original(self, conn)
            try:
                _HANDLED.set(None)
                if result is False and record is not None and record.reason is None:
                    if record.requests == before:
                        # Nothing was read.
                        watch.hung_up(conn)
                    else:
                        # It was to be kept, but the rest of the request's body did not come, or it is HTTP/2,
                        # where it is closed by either.
                        watch.closing(conn)
            except BaseException:
                contain("handle")
            return result

        return handle

    def _thread_request(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle_request(self: Any, req: Any, conn: Any) -> Any:
            request = None
            try:
                request = watch.began(conn, threaded=True)
            except BaseException:
                contain("handle_request")
            kept: Any = False
            try:
                kept = original(self, req, conn)
            except BaseException as error:
                if request is not None:
                    try:
                        _failed(watch, conn, error)
                    except BaseException:
                        contain("handle_request")
                raise
            finally:
                if request is not None:
                    try:
                        if not kept:
                            watch.closing(conn, seams.not_kept(self, req), by=request)
                        watch.done(request)
                    except BaseException:
                        contain("handle_request")
            return kept

        return handle_request

    def _stream(self, original: Hook) -> Hook:
        watch, contain = self._watch, self._watch.guard.contain

        def handle_http2_request(self: Any, req: Any, conn: Any, h2_conn: Any) -> Any:
            request = None
            try:
                request = watch.began(conn, threaded=True)
            except BaseException:
                contain("handle_http2_request")
            try:
                return original(self, req, conn, h2_conn)
            finally:
                if request is not None:
                    try:
                        if not self.alive:
                            watch.told(conn, seams.stops_because(self))
                        watch.done(request)
                    except BaseException:
                        contain("handle_http2_request")

        return handle_http2_request


def _failed(watch: Watch, owner: object, error: BaseException) -> None:
    if isinstance(error, OSError) and seams.raised_in("gunicorn", error):
        watch.hung_up(owner)
    else:
        watch.closing(owner, Reason.ERROR)
