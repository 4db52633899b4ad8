# `httptrace run` stands between a program and the backend that it had. What it
# takes it hands on as it came, byte for byte, and it must never be what the program
# waits for: a thread of its own, a queue that is bounded in bytes, and where the
# backend cannot keep up, a count of what was lost.
#
# What is tried again, and when, is the specification's:
# https://opentelemetry.io/docs/specs/otlp/#otlphttp-response

"""Sends on what a receiver takes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .receiver import Batch

_RETRIED: Final = frozenset({429, 502, 503, 504})
#: Seconds before a batch is sent for the second time; then twice as long each time, up to the longest.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Seconds after which a batch is given up.
_PATIENCE: Final = 120.0
#: Bytes of an answer that are read: a count and a message, or an error.
_LONGEST_ANSWER: Final = 64 * 1024

_ANSWERS: Final[dict[str, tuple[type[Message], str]]] = {
    "/v1/traces": (ExportTraceServiceResponse, "rejected_spans"),
    "/v1/metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
    "/v1/logs": (ExportLogsServiceResponse, "rejected_log_records"),
}


class Forwarder:
    """Sends batches to an OTLP/HTTP endpoint, in a thread, in their order.

    Args:
        endpoint: as ``OTEL_EXPORTER_OTLP_ENDPOINT``: ``/v1/traces`` and the like are appended. It has to be
            OTLP over HTTP, as a rule on port 4318; gRPC, on port 4317, is not spoken.
        environ: where ``OTEL_EXPORTER_OTLP_HEADERS`` may be, and those of a signal only.
        max_bytes: how much may wait to be sent.
        timeout: seconds that one attempt may take.
        patience: seconds after which a batch is given up.
        first_pause: seconds before the second attempt.

    Raises:
        ValueError: no URL of HTTP, or headers that cannot be sent; the message says what is expected.
    """

    def __init__(
        self,
        endpoint: str,
        environ: Mapping[str, str] = os.environ,
        max_bytes: int = 64 * 1024 * 1024,
        timeout: float = 10.0,
        patience: float = _PATIENCE,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        url = _parsed(endpoint)
        #: Where it sends to, without credentials.
        self.endpoint = str(url.copy_with(userinfo=b"")).rstrip("/")
        self._port = url.port
        self._headers = headers(environ)
        auth = (url.username, url.password) if url.userinfo else None
        self._client = httpx.Client(auth=auth, timeout=timeout, headers={"User-Agent": "otel-httptrace"})
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._patience = patience
        self._first_pause = first_pause
        self._changed = threading.Condition()
        # All below is guarded by it.
        self._queue: deque[Batch] = deque()
        self._bytes = 0
        self._closing = False
        #: When there is no more time, by the monotonic clock.
        self._deadline = float("inf")
        self._lost: Counter[str] = Counter()
        self._why = ""
        self._thread = threading.Thread(target=self._run, name="otlp-forwarder", daemon=True)
        self._thread.start()

    def send(self, batch: Batch) -> None:
        """Send *batch* soon. Never waits, never raises; what does not fit is counted."""
        with self._changed:
            if self._closing:
                self._lose(batch, "it came after the end")
            elif self._bytes + len(batch.body) > self._max_bytes:
                self._lose(batch, "it cannot keep up")
            else:
                self._queue.append(batch)
                self._bytes += len(batch.body)
                self._changed.notify()

    def close(self, timeout: float = 5.0) -> str | None:
        """Send what is left, for at most *timeout* seconds.

        Returns:
            One line on what was not delivered; None if all was.
        """
        with self._changed:
            if not self._closing:
                self._closing = True
                self._deadline = time.monotonic() + timeout
                self._changed.notify()
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + 0.1)
        with self._changed:
            # The first one may be under way: whether it arrives is not known.
            for batch in self._queue:
                self._lose(batch, self._why or f"it did not answer within {timeout:g} s at the end")
            self._queue.clear()
            if not self._lost:
                return None
            counts = ", ".join(f"{number:,} {what}" for what, number in self._lost.items())
            hint = "; port 4317 usually speaks gRPC: OTLP/HTTP is needed here, 4318" if self._port == 4317 else ""
            return f"not delivered to {self.endpoint}: {counts} ({self._why}{hint})"

    def _lose(self, batch: Batch, why: str, number: int | None = None) -> None:
        self._lost[batch.what] += batch.items if number is None else number
        self._why = why

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        self._client.close()
                        return
                    self._changed.wait()
                # It stays in the queue until it is known what became of it.
                batch = self._queue[0]
            why, rejected = self._deliver(batch)
            with self._changed:
                if not self._queue:
                    # Given up by `close`, which has counted it.
                    self._client.close()
                    return
                self._queue.popleft()
                self._bytes -= len(batch.body)
                if why:
                    self._lose(batch, why, rejected)

    def _deliver(self, batch: Batch) -> tuple[str, int | None]:
        """Why *batch* was not delivered, empty if it was; and how many of its items, None for all."""
        give_up = time.monotonic() + self._patience
        pause = self._first_pause
        while True:
            why, wait = "", 0.0
            try:
                response, answer = self._post(batch)
            except httpx.TransportError as error:
                why = _described(error)
            except Exception as error:
                return f"it could not be sent: {type(error).__name__}", None
            else:
                if response.is_success:
                    return _rejected(batch, response, answer)
                why = f"it answered {response.status_code} {response.reason_phrase}".strip()
                if response.status_code not in _RETRIED:
                    return why, None
                wait = _retry_after(response.headers.get("Retry-After"))
            # A random part, so that senders that failed together do not come back together.
            wait = wait or pause * random.uniform(0.5, 1.0)  # noqa: S311 - nothing to guess
            pause = min(2 * pause, _LONGEST_PAUSE)
            if not self._pause(wait, give_up):
                return why, None

    def _post(self, batch: Batch) -> tuple[httpx.Response, bytes]:
        headers = {
            **self._headers.get(batch.path, {}),
            "Content-Type": batch.content_type,
            # What it answers is short, and is not unpacked: a few bytes could become any number.
            "Accept-Encoding": "identity",
            **({"Content-Encoding": batch.content_encoding} if batch.content_encoding else {}),
        }
        url = self.endpoint + batch.path
        with self._client.stream("POST", url, content=batch.body, headers=headers) as response:
            answer, until = b"", time.monotonic() + self._timeout
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > _LONGEST_ANSWER or time.monotonic() > until:
                    # It has taken the batch. The connection is closed with the rest of what it says unread.
                    answer = b""
                    break
            return response, answer

    def _pause(self, wait: float, give_up: float) -> bool:
        """Whether there is time for another attempt after *wait* seconds, which have then passed."""
        until = time.monotonic() + wait
        with self._changed:
            while True:
                now = time.monotonic()
                if until > min(give_up, self._deadline):
                    return False
                if now >= until:
                    return True
                # Woken by what comes in, too, and by `close`, which sets the deadline.
                self._changed.wait(until - now)


def headers(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the user's exporters would send, by path.

    Args:
        environ: with ``OTEL_EXPORTER_OTLP_HEADERS`` and, before it, those of a signal,
            ``OTEL_EXPORTER_OTLP_TRACES_HEADERS``: ``key=value,key=value``, encoded as in a URL.

    Raises:
        ValueError: a header cannot be sent. The message does not show it.
    """
    found = {}
    for path, signal in (("/v1/traces", "TRACES"), ("/v1/metrics", "METRICS"), ("/v1/logs", "LOGS")):
        variable = f"OTEL_EXPORTER_OTLP_{signal}_HEADERS"
        if not environ.get(variable, "").strip():
            variable = "OTEL_EXPORTER_OTLP_HEADERS"
        pairs = {}
        for pair in environ.get(variable, "").split(","):
            key, equals, value = pair.partition("=")
            key, value = unquote(key).strip(), unquote(value).strip()
            if not equals or not key:
                if pair.strip():
                    raise ValueError(f"{variable}: key=value pairs were expected, separated by commas")
                continue
            if not f"{key}{value}".isascii() or not f"{key}{value}".isprintable():
                raise ValueError(f"{variable}: a header is not one that can be sent")
            pairs[key.lower()] = value
        found[path] = pairs
    return found


def _parsed(endpoint: str) -> httpx.URL:
    try:
        url = httpx.URL(endpoint)
        # It is stricter about brackets and ports.
        _ = urlsplit(endpoint).port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("an OTLP/HTTP endpoint like http://localhost:4318 was expected (gRPC is not spoken)")
    # As a signal's own variable has it: what comes before is meant.
    path = url.path.rstrip("/")
    for known in _ANSWERS:
        path = path.removesuffix(known)
    return url.copy_with(path=path or "/", query=None, fragment=None)


def _described(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "it could not be connected to in time"
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"it cannot be reached: {error}"
    if isinstance(error, httpx.RemoteProtocolError):
        return "it broke off, or does not speak HTTP"
    return f"the connection broke: {type(error).__name__}"


def _rejected(batch: Batch, response: httpx.Response, content: bytes) -> tuple[str, int | None]:
    # Only what an answer in protobuf says: one in JSON would come to a batch in JSON, which the SDKs do not send.
    if not response.headers.get("Content-Type", "").startswith("application/x-protobuf"):
        return "", None
    kind, field = _ANSWERS[batch.path]
    try:
        answer = kind.FromString(content)
    except DecodeError:
        return "", None
    number = getattr(answer.partial_success, field)  # type: ignore[attr-defined] # one of three
    return ("it took a part only", number) if number > 0 else ("", None)


def _retry_after(value: str | None) -> float:
    """Seconds to wait as ``Retry-After`` asks for; 0 if it does not."""
    if not value:
        return 0.0
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
