"""Fetches reports over HTTP/2, one after the other: `reports.py URL CA`."""

import ssl
import sys
import time

import httpx

url, ca = sys.argv[1:]
verify = ssl.create_default_context(cafile=ca)
with httpx.Client(base_url=url, http1=False, http2=True, verify=verify) as client:
    for path in ("/ping", "/report", "/ping", "/report", "/ping"):
        try:
            print(path, client.get(path).status_code)
        except httpx.HTTPError as error:
            print(path, type(error).__name__)
        time.sleep(0.3)
