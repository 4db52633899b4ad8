"""The query API of a backend: one line for whatever goes wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from ..printable import one_line
from . import SourceError

#: A variable with the value of the Authorization header, whole: ``Bearer ...``. Never printed.
AUTHORIZATION: Final = "HTTPTRACE_AUTHORIZATION"
#: Seconds that an answer may take: searching a big backend does.
TIMEOUT: Final = 60.0


class API:
    """GET and JSON.

    Args:
        kind: what it is, to be named in messages: ``Jaeger``.
        url: up to where the API's own paths begin. Userinfo in it is sent as Basic authorization.
        headers: more of them.
        environ: where an authorization header may be.
        timeout: seconds for a connection or an answer.

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
    ) -> None:
        base, auth = split_userinfo(url)
        self.kind = kind
        #: Where it is, without credentials.
        self.shown = str(base)
        sent = {"Accept": "application/json", **(headers or {})}
        if environ.get(AUTHORIZATION):
            sent["Authorization"], auth = environ[AUTHORIZATION].strip(), None
        for name, value in sent.items():
            # Told here, for whoever finds out later may show the value.
            if not value.isascii() or not value.isprintable():
                where = f" (look at {AUTHORIZATION})" if name == "Authorization" else ""
                raise SourceError(f"{kind}: {name} is not a header that can be sent{where}")
        self._client = httpx.Client(base_url=base, auth=auth, headers=sent, timeout=timeout)
        self._timeout = timeout

    def get(self, path: str, params: Mapping[str, str | int] | None = None, missing: bool = False) -> Any:
        """The JSON of an answer.

        Args:
            path: relative to the API's URL.
            params: the query.
            missing: whether 404 is an answer, None.

        Raises:
            SourceError: whatever else was answered, or nothing.
        """
        try:
            response = self._client.get(path, params=params)
        except httpx.TimeoutException as error:
            what = "connect" if isinstance(error, httpx.ConnectTimeout) else "answer"
            raise self._error(f"did not {what} within {self._timeout:g} s") from error
        except httpx.ConnectError as error:
            raise self._error(f"cannot be reached: {one_line(str(error))}") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._error(f"broke off: {one_line(str(error)) or type(error).__name__}") from error
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise self._error("cannot be asked: the URL is not one that can be sent") from None
        if response.status_code == 404 and missing:
            return None
        if response.status_code != 200:
            raise self._error(_refusal(response))
        try:
            return orjson.loads(response.content)
        except ValueError:
            kind = response.headers.get("Content-Type", "").partition(";")[0] or "something"
            raise self._error(f"answered with {one_line(kind)} that is not JSON: is it the query API?") from None

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


def _refusal(response: httpx.Response) -> str:
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.is_redirect:
        return f"answered {status}, which leads elsewhere: is there a login in front of it?"
    if response.status_code == 401 and "no org id" in response.text.lower():
        # Tempo with multitenancy_enabled; dskit's user.ErrNoOrgID.
        return f"answered {status}: it has tenants, of which --tenant names one"
    if response.status_code in (401, 403):
        return f"answered {status}: an Authorization header can be set in {AUTHORIZATION}"
    # Jaeger: {"errors": [{"msg": ...}]}, Tempo: plain text.
    text = response.text
    try:
        text = str(orjson.loads(response.content)["errors"][0]["msg"])
    except (ValueError, KeyError, IndexError, TypeError):
        if "html" in response.headers.get("Content-Type", ""):
            text = ""
    text = one_line(text)
    return f"answered {status}: {text}" if text else f"answered {status}"
