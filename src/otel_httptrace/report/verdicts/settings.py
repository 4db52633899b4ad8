# Advice names what can be set, and each client calls that otherwise, or has no such
# thing. Which client made a request the scope of its span says; a source without scopes
# tells nothing, and then the words are those of the first client that there was.

"""What each client calls what can be set."""

from __future__ import annotations

from typing import Final, NamedTuple

from .tally import Tally


class Settings(NamedTuple):
    """The words for one client, each a part of a sentence.

    Args:
        kept: the limit of idle connections, by name.
        keep_more: how to raise it; ``{above}`` is what it should be above.
        each: whether that limit is for each server.
        origins: the limit that drops connections of one server for another's.
        more_origins: how to raise it.
        more: how to let more requests be under way at a time.
        limit: what that limit is called.
        idle: what to do where the other end drops connections that have been idle for ``{most}``.
        close: how to close a response.
        share: what to make once.
        reads: whether it reads the environment's proxies.
        proxies: what sets a proxy in the program.
    """

    kept: str
    keep_more: str
    each: bool
    origins: str
    more_origins: str
    more: str
    limit: str
    idle: str
    close: str
    share: str
    reads: str
    proxies: str


_HTTPX: Final = Settings(
    kept="max_keepalive_connections",
    keep_more="raise max_keepalive_connections (httpx.Limits; 20 unless set) above {above}; httpx (httpcore 1.0.9) compares all "
    "connections with it, httpx2 idle ones only",
    each=False,
    origins="max_connections, 100 unless set",
    more_origins="raise max_connections (httpx.Limits) above the number of servers times the requests at a time to each, or use "
    "a client for each group of servers",
    more="raise max_connections",
    limit="max_connections",
    idle="set keepalive_expiry well below {most}",
    close="use it in a `with` block (`async with client.stream(...)`)",
    share="make one client at start-up and share it: its pool keeps connections open, and each new client loads the CA "
    "certificates again, which can hold up an event loop for tens of milliseconds",
    reads="httpx reads them unless trust_env=False",
    proxies="proxy=",
)
_NO_EXPIRY: Final = "let the other end (the server, a load balancer, a proxy) keep idle ones for longer than {{most}}, as {client} has no limit of its own"
_SETTINGS: Final[dict[str, Settings]] = {
    "requests": Settings(
        kept="pool_maxsize",
        keep_more="raise pool_maxsize (requests.adapters.HTTPAdapter, mounted on the Session; 10 unless set) above {above}",
        each=True,
        origins="pool_connections, 10 unless set",
        more_origins="raise pool_connections (requests.adapters.HTTPAdapter, mounted on the Session) above the number of servers",
        more="raise pool_maxsize (requests.adapters.HTTPAdapter)",
        limit="pool_maxsize",
        idle=_NO_EXPIRY.format(client="requests"),
        close="use it in a `with` block (`with session.get(..., stream=True) as response:`), or read all of it",
        share="make one Session at start-up and share it: its pools are what keeps connections (requests.get() makes a Session each time)",
        reads="requests reads them unless the Session's trust_env is False",
        proxies="proxies=",
    ),
    "botocore": Settings(
        kept="max_pool_connections",
        keep_more="raise max_pool_connections (botocore.config.Config; 10 unless set) above {above}",
        each=True,
        origins="a limit of 10 servers",
        more_origins="use a client for each group of servers",
        more="raise max_pool_connections (botocore.config.Config)",
        limit="max_pool_connections",
        idle=_NO_EXPIRY.format(client="botocore"),
        close="read its body to the end, or close that (`response['Body'].close()`)",
        share="make one client for each service at start-up and share it: its pool is what keeps connections",
        reads="botocore reads them",
        proxies="Config(proxies=...)",
    ),
    "urllib3": Settings(
        kept="maxsize",
        keep_more="raise maxsize (urllib3.PoolManager; 1 unless set) above {above}",
        each=True,
        origins="num_pools, 10 unless set",
        more_origins="raise num_pools (urllib3.PoolManager) above the number of servers",
        more="raise maxsize (urllib3.PoolManager)",
        limit="maxsize",
        idle=_NO_EXPIRY.format(client="urllib3"),
        close="read it to its end, or call drain_conn() or close()",
        share="make one PoolManager at start-up and share it: its pools are what keeps connections",
        reads="urllib3 itself reads none of them",
        proxies="ProxyManager",
    ),
}
_MOST: Final = 3


def settings(tally: Tally) -> list[Settings]:
    """The words for the clients that made these requests, who made most first."""
    found = [_SETTINGS.get(client, _HTTPX) for client, _ in tally.clients.most_common(_MOST)]
    return list(dict.fromkeys(found)) or [_HTTPX]


def called(tally: Tally, part: str) -> str:
    """What the clients call that *part* of their settings, as the name or names of it."""
    return " or ".join(dict.fromkeys(str(getattr(one, part)) for one in settings(tally)))


def advised(tally: Tally, part: str, **values: str) -> str:
    """What to do about that *part* of their settings, one client after the other."""
    return "; or ".join(dict.fromkeys(str(getattr(one, part)).format(**values) for one in settings(tally)))
