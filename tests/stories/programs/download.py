"""Downloads a file and works on it as it comes: `download.py URL [WORK [PATIENCE]]`, both in seconds for each part."""

import sys
import time

import httpx


def main(url: str, work: str = "0", patience: str = "5") -> None:
    got = 0
    with httpx.Client(timeout=float(patience)) as client:
        try:
            with client.stream("GET", url) as response:
                for part in response.iter_raw():
                    got += len(part)
                    time.sleep(float(work))
            print("all", got, "bytes")
        except httpx.HTTPError as error:
            print(f"{type(error).__name__} after {got} bytes")


main(*sys.argv[1:])
