# Run in the program and in its Python children, before any of their code: as text, from
# a folder that is there as long as `httptrace run` is. `inject` puts it there; nothing
# of the command is imported here, and nothing here is imported by the instrumentation.

"""What ``httptrace run`` does inside a program: instrument it, and lose none of its spans."""

from __future__ import annotations

import atexit
import json
import os
import struct
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Where the missing distributions are, and the counts of processes; as `inject` says.
PACKAGES, PROCESSES, PYTHONS = "site-packages", "processes", "pythons.json"
#: Which modules make HTTP requests and are perhaps not observed; and where each process that ends says which it uses.
OTHERS, IMPORTED = "others.json", "imported"
#: Of spans, how many ended and how many were taken by the receiver; and how many requests are under way: 64 bits each.
COUNTS = struct.Struct("=QQQ")
#: Milliseconds that a child waits at its end for the receiver.
_PATIENCE = 3000
_NEEDED = (
    "otel_httptrace",
    "opentelemetry.distro",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.auto_instrumentation",
    "opentelemetry.sdk",
)
_EXPORTERS = (
    ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
)


def start(folder: str) -> None:
    """Instrument this process, if its Python has what that takes or was given it.

    Args:
        folder: of this text; it is on the PYTHONPATH.
    """
    try:
        given = json.loads(Path(folder, PYTHONS).read_text(encoding="utf-8"))
        if given.get(sys.prefix) == list(sys.version_info[:2]):
            # At the end: what the program has of its own comes before.
            sys.path.append(str(Path(folder, PACKAGES)))
        if not all(map(_there, _NEEDED)):
            # Some other Python, that the program runs: it goes without.
            return
    except (OSError, ValueError):
        # The command is gone, and with it whoever would listen.
        return
    path = os.environ.get("PYTHONPATH", "")
    # As upstream's own initialize does with its folder: what is started meanwhile is not for us.
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in path.split(os.pathsep) if part != folder)
    try:
        from opentelemetry.instrumentation.auto_instrumentation import initialize  # noqa: PLC0415

        initialize()
        _look_after(str(Path(folder, PROCESSES)))
        others = json.loads(Path(folder, OTHERS).read_text(encoding="utf-8"))
        atexit.register(_say_imported, str(Path(folder, IMPORTED)), others, frozenset(sys.modules))
    except Exception:
        import logging  # noqa: PLC0415

        logging.getLogger("otel_httptrace").exception("httptrace run could not instrument this process")
    finally:
        os.environ["PYTHONPATH"] = path


def _say_imported(folder: str, others: list[str], before: frozenset[str]) -> None:
    found = [name for name in others if name in sys.modules and (name not in before or _used(name, others, before))]
    try:
        Path(folder, str(os.getpid())).write_text("\n".join(found), encoding="utf-8")
    except OSError:
        # The command is gone.
        pass


def _used(name: str, others: list[str], before: frozenset[str]) -> bool:
    # The exporters have imported it: so it has to be named by a module that the program has imported since.
    own = ("opentelemetry", "otel_httptrace", *(other.partition(".")[0] for other in others))
    for user, module in list(sys.modules.items()):
        if user != "__main__" and (user in before or user.partition(".")[0] in own):
            continue
        for value in list(getattr(module, "__dict__", {}).values()):
            where = value.__name__ if isinstance(value, type(sys)) else getattr(value, "__module__", None)
            if isinstance(where, str) and (where == name or where.startswith(f"{name}.")):
                return True
    return False


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _look_after(processes: str) -> None:
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415
    from wrapt import register_post_import_hook  # noqa: PLC0415

    provider: Any = trace.get_tracer_provider()
    if not hasattr(provider, "add_span_processor"):
        return
    tally = _Tally(processes)

    class Counting(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.kind is trace.SpanKind.CLIENT and span.get_span_context().trace_flags.sampled:
                tally.add(under_way=1)

        def on_end(self, span: Any) -> None:
            context = span.get_span_context()
            if context is not None and context.trace_flags.sampled:
                tally.add(ended=1, under_way=-1 if span.kind is trace.SpanKind.CLIENT else 0)

    provider.add_span_processor(Counting())
    for module, name in _EXPORTERS:
        exporter = getattr(sys.modules.get(module), name, None)
        if exporter is not None:
            _own_connections(exporter)
            if name == "OTLPSpanExporter":
                _count_taken(exporter, tally)
    # Imported by the program, if at all.
    register_post_import_hook(_flush_children, "multiprocessing.util")


class _Tally:
    # In a file mapped to memory, which outlives os._exit and SIGKILL; one for each process. A lock
    # on the file says that the process lives: of this kind (POSIX) none is inherited by a child.

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # Re-entered by a signal handler that makes a request.
        self._lock = threading.RLock()
        self._map: Any = None
        self._file: Any = None
        self._ended = self._taken = self._under_way = 0

    def _open(self) -> None:
        import mmap  # noqa: PLC0415

        self._map = False
        try:
            path = os.path.join(self._folder, f"{os.getpid()}-{time.time_ns()}")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
            os.ftruncate(descriptor, COUNTS.size)
            self._map = mmap.mmap(descriptor, COUNTS.size)
            # Kept open: to close any descriptor of the file gives its lock up.
            self._file = descriptor
            import fcntl  # noqa: PLC0415

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, ImportError):
            # The command is gone, or the disk is full: then nothing is counted.
            pass

    def add(self, ended: int = 0, taken: int = 0, under_way: int = 0) -> None:
        with self._lock:
            self._ended += ended
            self._taken += taken
            # What a forked child ends may have begun in its parent.
            self._under_way = max(0, self._under_way + under_way)
            if self._map is None:
                self._open()
            if self._map:
                COUNTS.pack_into(self._map, 0, self._ended, self._taken, self._under_way)


def _own_connections(exporter: Any) -> None:
    # A forked child inherits the connection of its parent's exporter: what the two write is mixed up. And at
    # exit the last connection is left open, of which Python warns if asked to: nothing that the program did.
    shutdown, export = exporter.shutdown, exporter.export
    owner = os.getpid()

    def closing(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Before its session is: that only forgets its connections.
        _close(self)
        return shutdown(self, *args, **kwargs)

    def exporting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "_httptrace_process", owner) != os.getpid():
            _close(self)
        self._httptrace_process = os.getpid()
        return export(self, *args, **kwargs)

    exporter.shutdown, exporter.export = closing, exporting


def _close(exporter: Any) -> None:
    # urllib3 closes what a pool has by a weakref.finalize, whose own exit handler was registered after the
    # provider's, and so has run: nobody closes the connection of the last export.
    # Where the session is changed with the exporter's version.
    client = getattr(exporter, "_client", None)
    for owner in (exporter, client, getattr(client, "_transport", None)):
        session = getattr(owner, "_session", None)
        for adapter in getattr(session, "adapters", {}).values():
            for manager in (getattr(adapter, "poolmanager", None), *getattr(adapter, "proxy_manager", {}).values()):
                pools: Any = getattr(manager, "pools", None)
                for key in pools.keys() if pools is not None else ():
                    pools[key].close()
        if session is not None:
            session.close()


def _count_taken(exporter: Any, tally: _Tally) -> None:
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

    export = exporter.export
    ours = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

    def counting(self: Any, spans: Any, *args: Any, **kwargs: Any) -> Any:
        result = export(self, spans, *args, **kwargs)
        if result is SpanExportResult.SUCCESS and getattr(self, "_endpoint", None) == ours:
            tally.add(taken=len(spans))
        return result

    exporter.export = counting


def _flush_children(util: Any) -> None:
    # They end by os._exit (fork, forkserver), which runs no atexit handler, but these finalizers:
    # registered after the fork, for a child begins with none.
    util.register_after_fork(_flush, lambda _: util.Finalize(None, _flush, exitpriority=-1000))


def _flush() -> None:
    from opentelemetry import metrics, trace  # noqa: PLC0415
    from opentelemetry._logs import get_logger_provider  # noqa: PLC0415

    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider()):
        flush = getattr(provider, "force_flush", None)
        try:
            if flush is not None:
                flush(_PATIENCE)
        except Exception:  # noqa: S112 - what a provider of the program's raises is not to end its child
            continue
