"""Reads rows of one tenant after the other, until it can't: `tenants_async.py URL [--shared]`."""

import os
import resource
import sys

import anyio
import httpx


async def main(url: str, *how: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, most))
    clients: dict[int, httpx.AsyncClient] = {}
    failed = 0
    for tenant in range(20):
        # A client for each tenant, and they are kept.
        client = clients.setdefault(0 if "--shared" in how else tenant, httpx.AsyncClient(verify=False))
        try:
            await client.get(url)
        except httpx.HTTPError as error:
            print(type(error).__name__)
            failed += 1
            if failed == 3:
                break
    print(failed, "failed")
    # Whoever runs it raises the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


anyio.run(lambda: main(*sys.argv[1:]), backend=os.environ.get("BACKEND", "asyncio"))
