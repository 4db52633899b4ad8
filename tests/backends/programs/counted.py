"""Each thing that is counted, so many times: `counted.py LIBRARY URL DEAD`.

It says a word when it has done that, keeps two responses open until a line comes, and ends at another one.
"""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

httpx = importlib.import_module(sys.argv[1])
url, dead = sys.argv[2:]

with httpx.Client() as client:
    for _ in range(10):
        client.get(f"{url}/")
    for _ in range(3):
        with client.stream("GET", f"{url}/big"):
            pass
    try:
        client.get(f"{url}/half-closed")
    except httpx.RemoteProtocolError:
        pass
    try:
        client.get(dead)
    except httpx.ConnectError:
        pass
    for _ in range(2):
        with httpx.Client() as another:
            another.get(f"{url}/?another")
    with httpx.Client(limits=httpx.Limits(max_connections=1)) as narrow:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(narrow.get, [f"{url}/slow"] * 3))
        with narrow.stream("GET", f"{url}/?unread"):
            try:
                narrow.get(f"{url}/", timeout=httpx.Timeout(5, pool=0.05))
            except httpx.PoolTimeout:
                pass
    kept = [client.send(client.build_request("GET", f"{url}/half"), stream=True) for _ in range(2)]
    client.get(f"{url}/")
    print("kept", flush=True)
    sys.stdin.readline()
    for response in kept:
        response.close()
    sys.stdin.readline()
