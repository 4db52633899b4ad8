"""Workers of a server, each of which sends some requests: `workers.py URL REQUESTS ...`; forked if several."""

import os
import sys

import httpx


def work(url: str, number: int) -> None:
    with httpx.Client() as client:
        for _ in range(number):
            client.get(url)


url, *numbers = sys.argv[1:]
if len(numbers) == 1:
    work(url, int(numbers[0]))
else:
    # As gunicorn does it: what was set up before is there in each of them.
    workers = []
    for number in numbers:
        pid = os.fork()
        if pid == 0:
            work(url, int(number))
            sys.exit()
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * len(workers)
