"""Notifies subscribers: `notify.py URL... [--shared|--by-origin|--by-batch]`."""

import sys

import httpx


def notify(url: str) -> int:
    # A client for each call: its pool dies with it.
    with httpx.Client() as client:  # <- made here
        return client.post(url, json={"event": "paid"}).status_code


urls = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
if "--shared" in sys.argv:
    with httpx.Client() as client:
        print([client.post(url, json={"event": "paid"}).status_code for url in urls * 4])
elif "--by-origin" in sys.argv:
    clients = {url: httpx.Client() for url in urls}
    print([clients[url].post(url, json={"event": "paid"}).status_code for url in urls * 4])
    for client in clients.values():
        client.close()
elif "--by-batch" in sys.argv:
    for _ in range(4):
        with httpx.Client() as client:
            print([client.post(url, json={"event": "paid"}).status_code for url in urls * 4])
else:
    print([notify(url) for url in urls * 4])
