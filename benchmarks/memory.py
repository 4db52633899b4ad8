"""Whether memory stays flat: over many requests to one origin, over many origins, over many leaked responses.

The resident set (from /proc, so Linux only) and the number of blocks that
Python's allocator has handed out, after a full collection, at points of one
run. The growth counts from the first point on: up to it, caches fill. Metrics
are collected as often as a reader would, for that is work, too.

Upstream alone is measured beside ours: the pool, the SDK's own storage of
metrics and Python grow without us, too. With --beside that is done for requests
to one origin as well, and for the bare client.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wire import LIBRARIES, SYNC_ONLY, client, instrument

#: Per workload: how many requests there are, at which parts of them memory is looked at.
POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)
WORKLOADS = ("requests", "origins", "leaks")
#: How many responses a client leaks: as many as its pool has connections.
LEAKS = 100
COLLECT_EVERY = 1000
#: In which flavour each library is measured.
_FLAVOURS = {"httpx": "sync", "httpx2": "async", "requests": "sync", "urllib3": "sync"}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def worker(library: str, flavour: str, mode: str, workload: str, total: int) -> list[tuple[int, int, int]]:
    """(requests made, bytes resident, blocks allocated) at each point, in this process."""
    reader = instrument(library, mode, "none")
    looks = {int(total * point) for point in POINTS}
    seen: list[tuple[int, int, int]] = []

    def url(number: int) -> str:
        return f"http://api-{number}.example/" if workload == "origins" else "http://api.example/"

    def after(number: int) -> None:
        if number % COLLECT_EVERY == 0:
            reader.get_metrics_data()
        if number in looks:
            gc.collect()
            seen.append((number, _resident(), sys.getallocatedblocks()))

    def ask(its: Any, number: int) -> Any:
        if library == "requests":
            return its.get(url(number), stream=True)
        if library == "urllib3":
            return its.request("GET", url(number), preload_content=False)
        return its.send(its.build_request("GET", url(number)), stream=True)

    if workload == "leaks":

        async def leak() -> None:
            for first in range(1, total + 1, LEAKS):
                its = client(library, flavour == "async")
                for number in range(first, first + LEAKS):
                    # Nobody keeps the response, so nobody can close it.
                    (await ask(its, number)) if flavour == "async" else ask(its, number)
                if library == "urllib3":
                    its.clear()
                else:
                    await its.aclose() if flavour == "async" else its.close()
                del its
                after(first + LEAKS - 1)

        asyncio.run(leak())
    elif flavour == "sync":
        with client(library, False) as sync:
            for number in range(1, total + 1):
                sync.get(url(number))
                after(number)
    else:

        async def main() -> None:
            async with client(library, True) as asynchronous:
                for number in range(1, total + 1):
                    await asynchronous.get(url(number))
                    after(number)

        asyncio.run(main())
    return seen


def measure(library: str, flavour: str, mode: str, workload: str, total: int) -> dict[str, Any]:
    """One workload in a process of its own."""
    command = [sys.executable, __file__, "--worker", workload, library, flavour, mode, str(total)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    points = json.loads(output)
    return {"library": library, "flavour": flavour, "mode": mode, "workload": workload, "points": points}


def line(found: dict[str, Any]) -> str:
    """One result for people: the growth since the first point, in KiB, at each of the others."""
    (first, resident, blocks), *later = found["points"]
    growth = " ".join(f"{(bytes_ - resident) / 1024:+8.0f}" for _, bytes_, _ in later)
    who = f"{found['library']:8}{found['flavour']:7}{found['mode']:11}{found['workload']:9}"
    return f"{who} {first:>8} {growth} {later[-1][2] - blocks:+9}"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--origins", type=int, default=20_000)
    parser.add_argument("--leaks", type=int, default=20_000)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--every", action="store_true", help="httpx and httpx2 in both flavours, not each in one")
    parser.add_argument("--beside", action="store_true", help="many requests bare and with upstream alone, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        workload, library, flavour, mode, total = arguments.worker
        print(json.dumps(worker(library, flavour, mode, workload, int(total))))
        return
    pairs = [
        (library, flavour)
        for library in arguments.libraries
        for flavour in ("sync", "async")
        if (arguments.every and library not in SYNC_ONLY) or flavour == _FLAVOURS[library]
    ]
    modes = ("bare", "upstream", "connection") if arguments.beside else ("connection",)
    cases = [(*pair, mode, "requests", arguments.requests) for pair in pairs for mode in modes]
    cases += [(*pair, mode, "origins", arguments.origins) for pair in pairs for mode in ("upstream", "connection")]
    cases += [(*pair, mode, "leaks", arguments.leaks) for pair in pairs for mode in ("upstream", "connection")]
    # Memory, unlike time, can be measured side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda case: measure(*case), cases))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'':36}first at growth in KiB, at {', '.join(f'{point:.0%}' for point in POINTS[1:])}; in blocks")
    print("\n".join(map(line, results)))


if __name__ == "__main__":
    main()
