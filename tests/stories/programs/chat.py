"""Asks a language model, as its SDKs do: `chat.py URL [--drain]`."""

import json
import sys
from collections.abc import Iterator

import httpx


def tokens(client: httpx.Client, prompt: str) -> Iterator[str]:
    request = {"prompt": prompt, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=request) as response:  # <- closed here
        lines = response.iter_lines()
        for line in lines:
            if line == "data: [DONE]":
                break
            if line:
                yield json.loads(line.removeprefix("data: "))["token"]
        if "--drain" in sys.argv:
            for _ in lines:
                pass


with httpx.Client(base_url=sys.argv[1]) as client:
    for prompt in ("How are you?", "And you?", "Why?", "Bye."):
        print("".join(tokens(client, prompt)))
