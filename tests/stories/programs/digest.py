"""Makes a digest of three pieces of news: `digest.py URL [LONGEST]`, at most so many characters each."""

import sys

import httpx

url, *longest = sys.argv[1:]


def digest(client: httpx.Client) -> int:
    size = 0
    with client.stream("GET", "/news") as response:  # <- the block
        for part in response.iter_text():  # <- the loop
            size += len(part)
            if longest and size > int(longest[0]):
                raise ValueError("too long")  # <- raised here
    return size


with httpx.Client(base_url=url) as client:
    for _ in range(3):
        try:
            print(digest(client), "characters")
        except (ValueError, httpx.HTTPError) as error:
            print(type(error).__name__)
