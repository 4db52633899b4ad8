"""Asks a language model, as its SDKs do: `chat_async.py URL [--drain]`."""

import json
import os
import sys

import anyio
import httpx


async def ask(client: httpx.AsyncClient, prompt: str) -> str:
    answer = ""
    request = {"prompt": prompt, "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:  # <- closed here
        lines = response.aiter_lines()
        async for line in lines:
            if line == "data: [DONE]":
                break
            if line:
                answer += json.loads(line.removeprefix("data: "))["token"]
        if "--drain" in sys.argv:
            async for _ in lines:
                pass
    return answer


async def main(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        for prompt in ("How are you?", "And you?", "Why?", "Bye."):
            print(await ask(client, prompt))


anyio.run(main, sys.argv[1], backend=os.environ.get("BACKEND", "asyncio"))
