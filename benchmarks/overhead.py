"""CPU time of a keep-alive request: bare, with upstream's instrumentation, and with ours.

A real client sends requests over a network that is in memory, so that all that
is measured is Python; the body is read to its end. The unit is what upstream
adds to a bare request in the same run, the ratio (ours - upstream) /
(upstream - bare): a machine's speed is in neither.

Other work on the machine, and on its host, only ever adds time, and comes and
goes. So each mode has a process of its own, and these take turns batch by
batch, one at a time: a slow moment hits all alike. Of a process the least of
its batches counts, of a mode's rounds the median.

What is done with ended spans is nobody's here but the exporter's, so by default
nothing is: with a processor the unit grows, and the ratio gets smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from typing import Any

from wire import LIBRARIES, MODES, PROCESSORS, client, instrument

URL = "http://api.example/things?page=1"
FLAVOURS = ("sync", "async")


def worker(library: str, flavour: str, mode: str, processor: str, requests: int) -> None:
    """Send a batch for every line that comes in, and print its seconds of CPU per request."""
    instrument(library, mode, processor)

    def timed(begun: float) -> None:
        print((time.process_time() - begun) / requests, flush=True)
        gc.collect()

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
    cases = [(library, flavour) for library in arguments.libraries for flavour in arguments.flavours]
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


def result(library: str, flavour: str, mode: str, measured: list[dict[str, float]]) -> dict[str, Any]:
    """One line of the table."""
    found: dict[str, Any] = {"library": library, "flavour": flavour, "mode": mode}
    middle = {name: statistics.median(seconds[name] for seconds in measured) for name in measured[0]}
    found["seconds"] = middle[mode]
    if mode not in ("bare", "upstream"):
        found["ratio"] = _ratio(middle, mode)
        found["ratios"] = [_ratio(seconds, mode) for seconds in measured]
    return found


def _ratio(seconds: dict[str, float], mode: str) -> float:
    return (seconds[mode] - seconds["upstream"]) / (seconds["upstream"] - seconds["bare"])


def table(results: list[dict[str, Any]]) -> str:
    """The results for people."""
    lines = [f"{'':8}{'':7}{'':22}{'us/request':>11}{'ratio':>8}  of the rounds"]
    for line in results:
        ours = "ratio" in line
        name = f"ours, spans={line['mode']}" if ours else line["mode"]
        text = f"{line['library']:8}{line['flavour']:7}{name:22}{line['seconds'] * 1e6:11.1f}"
        if ours:
            text += f"{line['ratio']:8.2f}  {min(line['ratios']):.2f} to {max(line['ratios']):.2f}"
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
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        library, flavour, mode, processor, requests = arguments.worker
        worker(library, flavour, mode, processor, int(requests))
        return
    arguments.modes = [*MODES[:2], *arguments.modes]
    results = measure(arguments)
    print(json.dumps(results, indent=2) if arguments.json else table(results))


if __name__ == "__main__":
    main()
