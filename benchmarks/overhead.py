"""CPU time of a keep-alive request: bare, with upstream's instrumentation, and with ours.

A real client sends requests over a network that is in memory, so that all that
is measured is Python; the body is read to its end. The unit is what upstream
adds to a bare request in the same run, the ratio (ours - upstream) /
(upstream - bare): a machine's speed is in neither.

Other work on the machine, and on its host, only ever adds time, and comes and
goes. So each mode has a process of its own, and these take turns batch by
batch, one at a time: a slow moment hits all alike. Of a process the least of
its batches counts, of a mode's rounds the median.

A loaded machine blurs even that. With --instructions what is counted is the
instructions that the processor is given, by valgrind: no other work is in them,
and they repeat to within one in a hundred. They leave out what a processor
waits for, so the ratio is a little lower than that of the times.

What is done with ended spans is nobody's here but the exporter's, so by default
nothing is: with a processor the unit grows, and the ratio gets smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wire import LIBRARIES, MODES, PROCESSORS, SYNC_ONLY, client, instrument

URL = "http://api.example/things?page=1"
FLAVOURS = ("sync", "async")

_VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def worker(library: str, flavour: str, mode: str, processor: str, requests: int, *, counted: bool) -> None:
    """Send a batch for every line that comes in, and print its seconds of CPU per request."""
    if counted:
        # Under valgrind all takes fifty times as long, and what takes 1 ms gets
        # attributes of its own: this clock advances by 10 us whenever it is read.
        time.monotonic_ns = itertools.count(1_000_000_000, 10_000).__next__
    instrument(library, mode, processor)

    def timed(begun: float) -> None:
        print((time.process_time() - begun) / requests, flush=True)
        gc.collect()
        if counted:
            gc.freeze()  # no later batch pays for a look at what is there by now

    if flavour == "sync":
        with client(library, False) as sync:
            for _ in sys.stdin:
                begun = time.process_time()
                for _ in range(requests):
                    sync.get(URL)
                timed(begun)
    else:

        async def main() -> None:
            async with client(library, True) as asynchronous:
                for _ in sys.stdin:
                    begun = time.process_time()
                    for _ in range(requests):
                        await asynchronous.get(URL)
                    timed(begun)

        asyncio.run(main())


class Process:
    """A worker's, seen from here."""

    def __init__(self, library: str, flavour: str, mode: str, processor: str, requests: int) -> None:
        command = [sys.executable, __file__, "--worker", library, flavour, mode, processor, str(requests)]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def batch(self) -> float:
        """Seconds per request."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()
        return float(self._popen.stdout.readline())

    def end(self) -> None:
        """Let it end."""
        self._popen.communicate()


def count(library: str, flavour: str, mode: str, arguments: argparse.Namespace) -> float:
    """Instructions per request: of four batches after one that warms up."""
    command = [*_VALGRIND, sys.executable, __file__, "--instructions", "--worker"]
    command += [library, flavour, mode, arguments.processor, str(arguments.requests)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    counts = []
    for batches in (1, 5):
        done = subprocess.run(
            command, input="\n" * batches, env=environment, capture_output=True, text=True, check=False
        )
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        if done.returncode or found is None:
            raise RuntimeError(f"a worker failed under valgrind:\n{done.stderr}")
        counts.append(int(found[1].replace(",", "")))
    instructions = counts[1] - counts[0]
    return float(instructions / (4 * arguments.requests))


def _cases(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    return [
        (library, flavour)
        for library in arguments.libraries
        for flavour in arguments.flavours
        if flavour == "sync" or library not in SYNC_ONLY
    ]


def count_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every mode of every flavour of every library, in instructions."""
    cases = _cases(arguments)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = {
            case: {mode: pool.submit(count, *case, mode, arguments) for mode in arguments.modes} for case in cases
        }
        found = {case: {mode: future.result() for mode, future in of.items()} for case, of in counts.items()}
    return [
        result(library, flavour, mode, [counted], "instructions")
        for (library, flavour), counted in found.items()
        for mode in arguments.modes
    ]


def one_round(library: str, flavour: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds per request in each mode."""
    processes = {
        mode: Process(library, flavour, mode, arguments.processor, arguments.requests) for mode in arguments.modes
    }
    for process in processes.values():
        process.batch()  # dials, imports and fills caches
    seconds = dict.fromkeys(processes, math.inf)
    for _ in range(arguments.batches):
        for mode, process in processes.items():
            seconds[mode] = min(seconds[mode], process.batch())
    for process in processes.values():
        process.end()
    return seconds


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every mode of every flavour of every library."""
    cases = _cases(arguments)
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(arguments.rounds):
        for case in cases:
            rounds[case].append(one_round(*case, arguments))
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    return [
        result(library, flavour, mode, measured)
        for (library, flavour), measured in rounds.items()
        for mode in arguments.modes
    ]


def result(
    library: str, flavour: str, mode: str, measured: list[dict[str, float]], unit: str = "seconds"
) -> dict[str, Any]:
    """One line of the table."""
    found: dict[str, Any] = {"library": library, "flavour": flavour, "mode": mode}
    middle = {name: statistics.median(seconds[name] for seconds in measured) for name in measured[0]}
    found[unit] = middle[mode]
    if mode not in ("bare", "upstream"):
        found["ratio"] = _ratio(middle, mode)
        found["ratios"] = [_ratio(seconds, mode) for seconds in measured]
    return found


def _ratio(seconds: dict[str, float], mode: str) -> float:
    return (seconds[mode] - seconds["upstream"]) / (seconds["upstream"] - seconds["bare"])


def table(results: list[dict[str, Any]]) -> str:
    """The results for people."""
    counted = "instructions" in results[0]
    unit = "instructions" if counted else "us/request"
    lines = [f"{'':9}{'':7}{'':22}{unit:>12}{'ratio':>8}" + ("" if counted else "  of the rounds")]
    for line in results:
        ours = "ratio" in line
        name = f"ours, spans={line['mode']}" if ours else line["mode"]
        cost = f"{line['instructions']:12,.0f}" if counted else f"{line['seconds'] * 1e6:12.1f}"
        text = f"{line['library']:9}{line['flavour']:7}{name:22}{cost}"
        if ours:
            text += f"{line['ratio']:8.2f}"
        if ours and not counted:
            text += f"  {min(line['ratios']):.2f} to {max(line['ratios']):.2f}"
        lines.append(text)
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=25, help="per process")
    parser.add_argument("--requests", type=int, default=50, help="per batch")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--flavours", nargs="+", choices=FLAVOURS, default=list(FLAVOURS))
    parser.add_argument("--modes", nargs="+", choices=MODES[2:], default=list(MODES[2:]), help="ours, by spans=")
    parser.add_argument("--processor", choices=PROCESSORS, default="none", help="what becomes of ended spans")
    parser.add_argument(
        "--instructions", action="store_true", help="count them, with valgrind, instead of taking times"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        library, flavour, mode, processor, requests = arguments.worker
        worker(library, flavour, mode, processor, int(requests), counted=arguments.instructions)
        return
    if arguments.instructions and shutil.which("valgrind") is None:
        parser.error("--instructions needs valgrind, which is not on the path; on Debian: apt install valgrind")
    arguments.modes = [*MODES[:2], *arguments.modes]
    results = count_all(arguments) if arguments.instructions else measure(arguments)
    print(json.dumps(results, indent=2) if arguments.json else table(results))


if __name__ == "__main__":
    main()
