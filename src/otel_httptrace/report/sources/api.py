# An answer is as long as the backend likes, comes as slowly as it likes, and unpacks to
# whatever it is. httpx limits the time of each read, not of all of them, and
# unpacks what it gets without an end. So an answer is read by a thread of its own,
# which is left behind when its time is over, and unpacked here, up to a limit.

"""The query API of a backend: one line for whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import orjson

from ..bounds import TooMuchError, check_json, inflate
from ..printable import one_line
from . import SourceError

#: A variable with the value of the Authorization header, whole: ``Bearer ...``. Never printed.
AUTHORIZATION: Final = "HTTPTRACE_AUTHORIZATION"
#: Seconds that an answer may take, from the question to its last byte: searching a big backend does.
TIMEOUT: Final = 60.0
#: Bytes of an answer, unpacked. A Tempo has traces of 5 MB by default, a third of what they are as JSON.
LONGEST: Final = 32 * 1024 * 1024
#: Bytes of an answer that says what went wrong.
_LONGEST_REFUSAL: Final = 64 * 1024
#: Seconds in which httpx may tell better than we what did not come in time.
_GRACE: Final = 0.5


class TooLargeError(SourceError):
    """An answer that is too large to be read. Less may be asked for."""


class _TooLongError(Exception):
    """More bytes than the message says."""


class _Answer(NamedTuple):
    status: int
    #: The same, and how the backend calls it.
    line: str
    type: str
    elsewhere: bool
    body: bytes


class API:
    """GET and JSON.

    Args:
        kind: what it is, to be named in messages: ``Jaeger``.
        url: up to where the API's own paths begin. Userinfo in it is sent as Basic authorization.
        headers: more of them.
        environ: where an authorization header may be.
        timeout: seconds for a connection, and for an answer from the question to its last byte.
        longest: bytes of an answer, unpacked.

    Raises:
        SourceError: no URL.
    """

    def __init__(
        self,
        kind: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        environ: Mapping[str, str] = os.environ,
        timeout: float = TIMEOUT,
        longest: int = LONGEST,
    ) -> None:
        base, auth = split_userinfo(url)
        self.kind = kind
        #: Where it is, without credentials.
        self.shown = str(base)
        # Of what httpx could unpack, that which we can.
        sent = {"Accept": "application/json", "Accept-Encoding": "gzip", **(headers or {})}
        if environ.get(AUTHORIZATION):
            sent["Authorization"], auth = environ[AUTHORIZATION].strip(), None
        for name, value in sent.items():
            # Told here, for whoever finds out later may show the value.
            if not value.isascii() or not value.isprintable():
                where = f" (look at {AUTHORIZATION})" if name == "Authorization" else ""
                raise SourceError(f"{kind}: {name} is not a header that can be sent{where}")
        self._client = httpx.Client(base_url=base, auth=auth, headers=sent, timeout=timeout)
        self._timeout = timeout
        self._longest = longest
        self._given_up = False

    def get(self, path: str, params: Mapping[str, str | int] | None = None, missing: bool = False) -> Any:
        """The JSON of an answer.

        Args:
            path: relative to the API's URL.
            params: the query.
            missing: whether 404 is an answer, None.

        Raises:
            TooLargeError: more was answered than is read.
            SourceError: whatever else was answered, or nothing.
        """
        try:
            answer = self._within(path, params)
        except httpx.TimeoutException as error:
            what = "connect" if isinstance(error, httpx.ConnectTimeout) else "answer"
            raise self._error(f"did not {what} within {self._timeout:g} s") from error
        except httpx.ConnectError as error:
            raise self._error(f"cannot be reached: {one_line(str(error))}") from error
        except (TooMuchError, _TooLongError) as error:
            raise TooLargeError(f"{self.kind} at {self.shown} answered with more than can be read: {error}") from error
        except (httpx.TransportError, EOFError, zlib.error) as error:
            raise self._error(f"broke off: {one_line(error) or type(error).__name__}") from error
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise self._error("cannot be asked: the URL cannot be sent") from None
        if answer.status == 404 and missing:
            return None
        if answer.status != 200:
            raise self._error(_refusal(answer))
        try:
            return orjson.loads(answer.body)
        except ValueError:
            kind = answer.type.partition(";")[0] or "something"
            raise self._error(f"answered with {one_line(kind)} that is not JSON: is it the query API?") from None

    def _within(self, path: str, params: Mapping[str, str | int] | None) -> _Answer:
        # Nothing can end a read that gets a byte now and then, but we need not wait for it.
        told: list[_Answer | BaseException] = []
        done = threading.Event()

        def ask() -> None:
            try:
                told.append(self._ask(path, params))
            except BaseException as error:
                told.append(error)
            done.set()

        threading.Thread(target=ask, name=f"{self.kind}-api", daemon=True).start()
        in_time = done.wait(self._timeout + _GRACE)
        if not in_time or self._given_up:
            self._given_up = True
            with contextlib.suppress(Exception):
                self._client.close()
            raise self._error(f"did not answer within {self._timeout:g} s")
        (result,) = told
        if isinstance(result, BaseException):
            raise result
        return result

    def _ask(self, path: str, params: Mapping[str, str | int] | None) -> _Answer:
        with self._client.stream("GET", path, params=params) as response:
            encoding = response.headers.get("Content-Encoding", "").strip().lower()
            longest = self._longest if response.status_code == 200 else _LONGEST_REFUSAL
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > longest:
                    if response.status_code != 200:
                        break
                    raise _TooLongError(f"{longest:,} bytes")
                if self._given_up:
                    break
        data = bytes(body)
        if encoding not in ("", "identity"):
            if response.status_code != 200:
                # What it says of itself is not worth the trouble.
                data = b""
            elif encoding not in ("gzip", "deflate"):
                raise self._error(f"answered with Content-Encoding {one_line(encoding)}, which was not asked for")
            else:
                data = inflate(data, longest, asked=True)
        if response.status_code == 200:
            check_json(data)
        return _Answer(
            response.status_code,
            f"{response.status_code} {response.reason_phrase}".strip(),
            response.headers.get("Content-Type", ""),
            response.is_redirect,
            data,
        )

    def _error(self, what: str) -> SourceError:
        return SourceError(f"{self.kind} at {self.shown} {what}")

    def unexpected(self, what: str) -> SourceError:
        """It answered, but not as this API does."""
        return self._error(f"answered with JSON that is not {self.kind}'s: {what}")

    def __enter__(self) -> API:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()


def split_userinfo(url: str) -> tuple[httpx.URL, tuple[str, str] | None]:
    """*url* as one to show and to add paths to, and its credentials.

    Raises:
        SourceError: it is no URL of HTTP.
    """
    try:
        parsed = httpx.URL(url)
        # It is stricter about brackets and ports.
        _ = urlsplit(url).port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SourceError("a URL like http://localhost:16686 was expected")
    auth = (parsed.username, parsed.password) if parsed.userinfo else None
    return parsed.copy_with(userinfo=b"", query=None, fragment=None), auth


def _refusal(answer: _Answer) -> str:
    status = one_line(answer.line)
    # Not in the charset that it names: Python has some that unpack, and some that are none.
    text = answer.body.decode(errors="replace")
    if answer.elsewhere:
        return f"answered {status}, which leads elsewhere: is there a login in front of it?"
    if answer.status == 401 and "no org id" in text.lower():
        # Tempo with multitenancy_enabled; dskit's user.ErrNoOrgID.
        return f"answered {status}: it has tenants: name one with --tenant"
    if answer.status in (401, 403):
        return f"answered {status}: an Authorization header can be set in {AUTHORIZATION}"
    # Jaeger: {"errors": [{"msg": ...}]}, Tempo: plain text.
    told: Any = text
    try:
        told = orjson.loads(answer.body)["errors"][0]["msg"]
    except (ValueError, KeyError, IndexError, TypeError):
        if "html" in answer.type.lower():
            told = ""
    text = one_line(told)
    return f"answered {status}: {text}" if text else f"answered {status}"
