# A path says which of a server's doors is slow. It may also be a key: webhooks, invitations,
# password resets and some APIs have their secret in it, and people mail reports. What a secret
# looks like cannot be listed, so what a route looks like is: a segment is shown if it reads
# like words that a developer chose, and all else is `{id}`. What follows a word like "token"
# is never shown, whatever it looks like. A name that is a word ("/users/alice") is told
# as it is: nothing here can tell it from one.

"""Of a URL's path what tells one route from another, and nothing that tells who or with which key."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, Final

#: What stands for what is not shown.
ID: Final = "{id}"
#: Segments that are shown; an ellipsis stands for the rest.
_SEGMENTS: Final = 8
#: Characters of a segment, and words in one: four words or more may be a pass phrase.
_LONGEST: Final = 40
_WORDS: Final = 3
#: Of words that are told apart by capitals alone, as in `GetUserById`, there may be more.
_HUMPS: Final = 5

#: Names with digits in them, or without a vowel, that are those of formats and protocols.
_KNOWN: Final = frozenset(
    {
        "base64", "ec2", "graphql", "h2", "healthz", "html5", "http", "https", "i18n", "l10n", "livez", "mp3", "mp4",
        "oauth1", "oauth2", "oidc", "readyz", "s3", "sha256", "utf8", "web3", "xmlrpc", "x509",
    }
)  # fmt: skip
_VERSION: Final = re.compile(r"v\d{1,2}(?:\.\d{1,2}){0,2}(?:(?:alpha|beta|rc)\d{0,2})?")
#: Letters, in words that signs hold apart; one sign may come first, as in `.well-known` and `_search`.
_WORDED: Final = re.compile(r"[._]?[A-Za-z]+(?:[-_.][A-Za-z]+)*")
_HUMP: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
#: Which letters follow which: in 20 or more of 19,000 words of Python's standard library and this project's
#: documentation, and some that names of routes need. Of eight small letters at random 1 in 9 is
#: taken for a word, of sixteen 1 in 85.
_FOLLOW: Final = {
    letter: frozenset(following)
    for letter, following in {
        "a": "abcdefghiklmnprstuvwxyz", "b": "abcdefijlmnoprstuy", "c": "abcdefghiklmnopqrstuvy",
        "d": "abcdefgijlmnoprstuvy", "e": "abcdefghijklmnopqrstuvwxyz", "f": "acdefilnoprstuy",
        "g": "acdefghilmnoprstuy", "h": "adeilmnopqrstuy", "i": "abcdefgklmnopqrstvxz",
        "j": "aeiosu", "k": "adegilmnopstuwy", "l": "abcdefgiklmnoprstuvwy",
        "m": "abcdefgilmnoprstuy", "n": "abcdefghijklmnoprstuvwyz", "o": "abcdefgijklmnoprstuvwxy",
        "p": "abcdefhilmnoprstuwy", "q": "lsu", "r": "abcdefghiklmnoprstuvwy",
        "s": "abcdefghiklmnopqrstuvwy", "t": "abcdefghiklmnoprstuvwxyz", "u": "abcdefgiklmnoprstvxyz",
        "v": "aeiosy", "w": "acdehilnoprsty", "x": "acdeilmoprstuxy",
        "y": "abcdefgilmnoprstuvw", "z": "aeiouyz",
    }.items()
}  # fmt: skip
_HEX: Final = re.compile("[a-f]{6,}")
_VOWEL: Final = re.compile("[aeiouy]")

#: What comes after one of these is a key to something, whatever it looks like.
_KEYS: Final = frozenset(
    {
        "access", "activate", "activation", "api-key", "api_key", "apikey", "apikeys", "authcode", "bearer", "bot",
        "capability", "code", "codes", "confirm", "confirmation", "cookie", "coupon", "credential", "credentials",
        "download-link", "hook", "hooks", "incoming", "invitation", "invitations", "invite", "invites", "join", "jwt",
        "key", "keys", "license", "magic", "nonce", "onetime", "otp", "passcode", "passphrase", "passwd", "password",
        "passwords", "pin", "private", "promo", "pwd", "recover", "recovery", "reset", "secret", "secrets", "session",
        "sessions", "share", "shared", "shares", "sid", "signature", "signed", "ticket", "token", "tokens",
        "unsubscribe", "verify", "voucher", "webhook", "webhooks",
    }
)  # fmt: skip
#: In a name of several words, as `password-reset`, one of these is enough.
_KEY_WORDS: Final = re.compile(
    "(?:^|[-_.])(?:key|keys|token|tokens|secret|secrets|password|reset|invite|otp|webhook|webhooks)$", re.IGNORECASE
)

_AFTER_AUTHORITY: Final = re.compile(r"[^/?#]*//[^/?#]*(/[^?#]*)?")


def path(attributes: dict[str, Any]) -> str:
    """The path of the URL that upstream recorded, with `ID` for what is no word; empty if there is no URL.

    A URL without a path has ``/``.
    """
    url = attributes.get("url.full") or attributes.get("http.url")
    if isinstance(url, str):
        found = _AFTER_AUTHORITY.match(url)
        if found is not None:
            return shown(found[1] or "/")
    target = attributes.get("url.path") or attributes.get("http.target")
    return shown(re.split("[?#]", target, maxsplit=1)[0]) if isinstance(target, str) and target.startswith("/") else ""


def shown(path: str) -> str:
    """*path*, without a query, with `ID` for each segment that is no word that a route is made of."""
    segments = path.split("/", _SEGMENTS + 1)[1:]
    told, keep = [], True
    for segment in segments[:_SEGMENTS]:
        # What follows a semicolon is a parameter, as `;jsessionid=` is.
        name = segment.partition(";")[0]
        fit = not name or (keep and is_word(name))
        told.append(name if fit else ID)
        if name:
            keep = not _leads_to_a_key(name)
    if len(segments) > _SEGMENTS:
        told.append("…")
    return "/" + "/".join(told)


def _leads_to_a_key(name: str) -> bool:
    return name.lower() in _KEYS or _KEY_WORDS.search(name) is not None


@functools.lru_cache(maxsize=8192)
def is_word(segment: str) -> bool:
    """Whether a path's *segment* reads like words that a route is made of: no number, id, code, token or address."""
    if len(segment) > _LONGEST:
        return False
    if segment.lower() in _KNOWN or segment.lower() in _KEYS or _VERSION.fullmatch(segment):
        return True
    if not _WORDED.fullmatch(segment):
        return False
    words = [word for word in re.split("[-_.]", segment) if word]
    if len(words) > _WORDS:
        return False
    return all(_reads(word) for word in words)


def _reads(word: str) -> bool:
    humps = _HUMP.findall(word)
    # A code is written in capitals; an abbreviation in few.
    if len(humps) > _HUMPS or any(hump.isupper() and len(hump) > 4 for hump in humps):
        return False
    # Letters of both kinds at random change between them every other letter.
    if len(humps) > 1 and any(len(hump) < 2 or not (hump.isupper() or _VOWEL.search(hump.lower())) for hump in humps):
        return False
    small = word.lower()
    return small in _KNOWN or not (
        len(small) > 20
        or _HEX.fullmatch(small)
        or (len(small) > 4 and (not _VOWEL.search(small) or not _follows(small)))
    )


def _follows(word: str) -> bool:
    return all(second in _FOLLOW[first] for first, second in itertools.pairwise(word))


__all__ = ["ID", "is_word", "path", "shown"]
