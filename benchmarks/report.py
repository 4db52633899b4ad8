"""How fast a file of spans becomes a report, and in how much memory.

Each run is a process of its own that reads the whole file on one core: spans and
bytes per second of CPU time, which other work on the machine disturbs little, and by the
clock; the largest resident set. Medians over the runs. Then a part of the file under
the profiler: what limits it.

    python benchmarks/report.py [--spans 1000000] [--runs 3] [--file FILE]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from spans import lines

from otel_httptrace.report.analysis import Analysis
from otel_httptrace.report.rows import Assembler
from otel_httptrace.report.sources.files import FileSource

#: What it has to do: spans per second, and MiB.
LEAST_SPEED, MOST_MEMORY = 20_000, 300
PROFILED = 100_000


def read(path: Path, most: int | None = None) -> int:
    """The whole way, as the command goes it; returns how many spans there were."""
    source = FileSource(path)
    assembler = Assembler()
    analysis = Analysis()
    spans = 0
    for spans, span in enumerate(islice(source, most), 1):  # noqa: B007 - counted
        for row in assembler.add(span):
            analysis.add(row)
    for row in assembler.finish():
        analysis.add(row)
    report = analysis.report(spans, assembler.foreign, tuple(source.problems))
    assert report.requests > 0.7 * spans, "this is not what was generated"
    assert not report.problems, report.problems
    return spans


def worker(path: Path) -> dict[str, float]:
    """One run, in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    clock, cpu = time.perf_counter(), time.process_time()
    spans = read(path)
    return {
        "spans": spans,
        "clock": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        # Kilobytes on Linux, bytes on macOS.
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2),
    }


def profile(path: Path) -> None:
    """Where the time goes, by function."""
    profiler = cProfile.Profile()
    profiler.enable()
    read(path, PROFILED)
    profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = stats.total_tt
    print(f"\nWhat limits it: own time by function, {PROFILED:,} spans under the profiler")
    for (file, line, name), (_, calls, own, _, _) in sorted(stats.stats.items(), key=lambda item: -item[1][2])[:14]:
        where = f"{Path(file).name}:{line} {name}" if line else name
        print(f"  {own / total:6.1%}  {calls:>10,} calls  {where}")


def main() -> int:
    """How long a report takes, and how much memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--file", type=Path, help="an existing file instead of a generated one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.file)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = options.file
        if path is None:
            path = Path(folder) / "spans.jsonl"
            with path.open("wb") as file:
                file.writelines(lines(options.spans))
        size = path.stat().st_size
        runs = []
        for _ in range(options.runs):
            command = [sys.executable, __file__, "--worker", "--file", str(path)]
            runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        speed = median["spans"] / median["cpu"]
        print(
            f"{median['spans']:,.0f} spans, {size / 1e6:,.0f} MB, {options.runs} runs on one core, medians\n"
            f"  of CPU time    {speed:>10,.0f} spans/s  {size / 1e6 / median['cpu']:6.1f} MB/s\n"
            f"  by the clock   {median['spans'] / median['clock']:>10,.0f} spans/s"
            f"  {size / 1e6 / median['clock']:6.1f} MB/s\n"
            f"  max RSS        {median['rss']:>10,.0f} MiB"
        )
        profile(path)
    return 0 if speed >= LEAST_SPEED and median["rss"] < MOST_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
