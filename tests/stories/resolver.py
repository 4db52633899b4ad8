"""Runs a program in a world with another resolver: `resolver.py PROGRAM ARGUMENTS`.

What names there are, and how long an answer takes, is in the variable RESOLVER:
``{"name": [seconds, [address, ...]]}``, or a number for the addresses: the error that
`getaddrinfo` gives up with. It sits below `socket.getaddrinfo`, where the system's own is.
"""

import _socket
import json
import os
import runpy
import socket
import sys
import time
from typing import Any

NAMES = json.loads(os.environ["RESOLVER"])
system = _socket.getaddrinfo


def getaddrinfo(
    host: bytes | str | None,
    port: bytes | str | int | None,
    family: int = 0,
    type: int = 0,  # noqa: A002 - the name that it has there
    proto: int = 0,
    flags: int = 0,
) -> list[Any]:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in NAMES or flags & socket.AI_NUMERICHOST:
        return system(host, port, family, type, proto, flags)
    seconds, answer = NAMES[name]
    time.sleep(seconds)
    if isinstance(answer, int):
        raise socket.gaierror(answer, "said the resolver")
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
        for address in answer
    ]


_socket.getaddrinfo = getaddrinfo
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
