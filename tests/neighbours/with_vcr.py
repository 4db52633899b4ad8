"""vcrpy, which puts itself in the place of httpcore's pools and of urllib3's connections: once it records, once it plays."""

import tempfile

import httpx
import requests
import vcr
from exchange import URL, play

with tempfile.TemporaryDirectory() as folder:
    for _ in range(2):
        with vcr.use_cassette(f"{folder}/cassette.yaml", record_mode="once") as cassette:
            with httpx.Client() as client:
                print([client.get(URL + path).status_code for path in ("/json", "/500")])
            with requests.Session() as session:
                print([session.get(URL + path).content for path in ("/json?of=requests", "/500?of=requests")])
            print(cassette.play_count)
play()
