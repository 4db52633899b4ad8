"""The same requests, sent by requests: each in a thread of its own, asked from the event loop as httpx is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

from ..errors import Problem
from .plan import Plan

T = TypeVar("T")

#: As much as `http.client` reads at a time.
_PART = 64 * 1024
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}


class Response:
    """What was answered."""

    def __init__(self, session: Session, response: Any) -> None:
        self._session = session
        self._response = response
        self.status_code: int = response.status_code
        self.http_version = _VERSIONS.get(response.raw.version, "HTTP")

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        parts: Iterator[bytes] = self._response.raw.stream(_PART, decode_content=False)
        while True:
            part = await self._session.run(lambda: next(parts, b""))
            if not part:
                return
            yield part


class Session:
    """A `requests.Session`, with what the probe needs of an `httpx.AsyncClient`.

    Args:
        plan: what to do. Proxies and certificate authorities are the environment's, as requests reads them.

    Raises:
        Problem: requests, or what makes its request spans, is not installed.
    """

    def __init__(self, plan: Plan) -> None:
        try:
            import opentelemetry.instrumentation.requests  # noqa: F401, PLC0415
            import requests  # noqa: PLC0415
        except ImportError as error:
            raise Problem("--client requests needs it: pip install 'otel-httptrace[requests]' requests") from error
        self._plan = plan
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=plan.concurrency))
        self._session.headers.update(plan.headers)
        self._threads = ThreadPoolExecutor(plan.concurrency)

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        # A thread may still wait for a server that has not answered in time.
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[[], T]) -> T:
        """Call *function* in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    @asynccontextmanager
    async def stream(self, method: str, url: object) -> AsyncIterator[Response]:
        """One request; its response is closed at the end of the block, read or not."""
        plan = self._plan
        # None is "as the environment says": False would be stronger than REQUESTS_CA_BUNDLE.
        verify = None if plan.verify else False
        response = await self.run(
            lambda: self._session.request(
                method, str(url), stream=True, allow_redirects=False, timeout=plan.timeout, verify=verify
            )
        )
        try:
            yield Response(self, response)
        finally:
            await self.run(response.close)
