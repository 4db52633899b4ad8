"""respx, which puts a mock in the place of httpcore's pools, and passes on what it does not know."""

import asyncio

import httpx
import respx
from exchange import URL, play

with respx.mock(assert_all_called=False) as mock:
    mock.get("https://mocked.test/").respond(200, json={"mocked": True})
    mock.get("https://broken.test/").mock(side_effect=httpx.ConnectTimeout)
    mock.route(host="127.0.0.1").pass_through()
    print(httpx.get("https://mocked.test/").json(), httpx.get(URL + "/json").json())

    async def asynchronous() -> None:
        async with httpx.AsyncClient() as client:
            print((await client.get("https://mocked.test/")).json(), (await client.get(URL + "/json")).json())

    asyncio.run(asynchronous())
    try:
        httpx.get("https://broken.test/")
    except httpx.ConnectTimeout as error:
        print(type(error).__name__)
play()
