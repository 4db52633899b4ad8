"""Sends an event to the audit log whenever something happens: `audit.py URL QUIET`, the seconds in which once nothing does."""

import sys
import time

import httpx

url, longest = sys.argv[1:]
with httpx.Client(base_url=url) as client:
    for quiet in (0, 0, float(longest), 0):
        time.sleep(quiet)
        try:
            print(client.post("/events", json={"quiet": quiet}).status_code)
        except httpx.HTTPError as error:
            print(f"{type(error).__name__}: {error}")
