"""Has six documents summarised at a time, over HTTP/2: `summaries.py URL CA`."""

import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

url, ca = sys.argv[1:]
with (
    httpx.Client(base_url=url, http2=True, verify=ssl.create_default_context(cafile=ca)) as client,
    ThreadPoolExecutor(6) as pool,
):
    print(client.get("/models").status_code)
    print([response.status_code for response in pool.map(client.get, ["/summary"] * 6)])
