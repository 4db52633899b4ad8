"""gevent, which replaces socket, ssl and threading first thing in the program."""

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402
import httpx  # noqa: E402
import httpx2  # noqa: E402
import requests  # noqa: E402
from exchange import URL, on_urllib3, sync, tell  # noqa: E402

for library in (httpx, httpx2):
    sync(library)
    with library.Client() as client:
        jobs = [gevent.spawn(client.get, URL + "/long") for _ in range(20)]
        gevent.joinall(jobs, raise_error=True)
        tell([len(job.value.content) for job in jobs])

on_urllib3()
with requests.Session() as session:
    jobs = [gevent.spawn(session.get, URL + "/long") for _ in range(20)]
    gevent.joinall(jobs, raise_error=True)
    tell([len(job.value.content) for job in jobs])
