"""Sends an event to the audit log whenever something happens: `audit.py URL QUIET [PATIENCE]`.

QUIET: the seconds in which once nothing does. PATIENCE: how many to wait for an answer.
"""

import sys
import time

import httpx

url, longest, *patience = sys.argv[1:]
with httpx.Client(base_url=url, timeout=float(patience[0]) if patience else 5) as client:
    for quiet in (0, 0, float(longest), 0):
        time.sleep(quiet)
        try:
            print(client.post("/events", json={"quiet": quiet}).status_code)
        except httpx.HTTPError as error:
            print(f"{type(error).__name__}: {error}")
