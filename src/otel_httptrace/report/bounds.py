# What a few bytes can become. Two things multiply what was sent: decompression (gzip
# up to 1,032 times) and parsing, for an empty object is two or three bytes on the wire
# and about a hundred in memory. A limit on bytes alone must either let 64 KB become
# gigabytes or refuse what real programs send. So both are limited, each
# relative to what came over the wire: what was not sent costs nobody anything.
#
# Telemetry as SDKs send it is far from these limits: gzip makes spans 5 to 25 times smaller, and one element
# (an object, a list, a field, an attribute's value) takes more than 8 bytes of it.

"""Limits on what others send, before it is parsed."""

from __future__ import annotations

import zlib
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_MIB: Final = 1024 * 1024
#: What may come of any compressed body, in bytes, and how many times its own size more.
_INFLATED: Final = _MIB
_RATIO: Final = 32
#: How many elements may be in anything, and then one more for so many bytes of it ...
_ELEMENTS: Final = 30_000
_BYTES_EACH: Final = 4
#: ... and, where it was compressed, at most so many for each byte that was sent.
_EACH_BYTE: Final = 2
#: So many bytes are parsed uncounted: even if they are nothing but empty objects that is some 15 MiB.
_UNCOUNTED: Final = 128 * 1024


class TooMuchError(ValueError):
    """It would become more than is taken. The message says what and how much."""


def inflate(body: bytes, most: int, *, asked: bool = False) -> bytes:
    """Unpack gzip or zlib.

    Args:
        body: as it was sent.
        most: bytes of the result, at most.
        asked: whether it is an answer to a question of ours. Of what others send unasked, as often as they like, a
            small *body* may become no more than some 32 times as much.

    Raises:
        TooMuchError: it would be more.
        EOFError: it is cut off.
        zlib.error: it is something else.
    """
    if not asked:
        most = min(most, _INFLATED + _RATIO * len(body))
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    # One more tells what is too much from what just fits.
    data = unpacker.decompress(body, most + 1)
    if len(data) > most:
        raise TooMuchError(f"more than {most} bytes after decompression")
    if not unpacker.eof:
        raise EOFError("the compressed data is cut off")
    return data


def check_json(data: bytes, sent: int | None = None) -> None:
    """See that JSON does not have far more objects and values than telemetry of its size has.

    Args:
        data: JSON, maybe; what is in its strings is counted, too.
        sent: its bytes before it was unpacked; None if it was not compressed.

    Raises:
        TooMuchError: it has.
    """
    if len(data) > _UNCOUNTED:
        _check(data.count(b"{") + data.count(b"[") + data.count(b","), _most(len(data), sent))


def check_protobuf(data: bytes, kind: type[Message], sent: int | None = None) -> None:
    """See that a message does not have far more fields than telemetry of its size has.

    Args:
        data: a message of this *kind*, maybe.
        sent: its bytes before it was unpacked; None if it was not compressed.

    Raises:
        TooMuchError: it has.
    """
    if len(data) > _UNCOUNTED:
        most = _most(len(data), sent)
        _check(_fields(data, kind.DESCRIPTOR, most), most)


def _most(size: int, sent: int | None) -> int:
    more = size // _BYTES_EACH
    return _ELEMENTS + (more if sent is None else min(more, _EACH_BYTE * sent))


def _check(number: int, most: int) -> None:
    if number > most:
        raise TooMuchError(f"more than {most} values: so many are not taken at once")


# Only which fields are messages is looked up; all others are passed over, whatever
# is in them. Where it is no protobuf counting ends: that, the parser will tell.
#
# https://protobuf.dev/programming-guides/encoding/


def _fields(data: bytes, descriptor: Any, most: int) -> int:
    number, waiting = 0, [(0, len(data), descriptor)]
    while waiting:
        at, end, kind = waiting.pop()
        messages = _messages(kind)
        while at < end and number <= most:
            number += 1
            key, at = _varint(data, at, end)
            wire = key & 7
            if wire == 2:
                length, at = _varint(data, at, end)
                inner = messages.get(key >> 3)
                if inner is not None and length:
                    waiting.append((at, min(at + length, end), inner))
                at += length
            elif wire == 0:
                _, at = _varint(data, at, end)
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            elif wire > 4:
                at = end
    return number


# By a message's name. The types of descriptors differ with protobuf's implementation.
_known: dict[str, dict[int, Any]] = {}


def _messages(kind: Any) -> dict[int, Any]:
    found = _known.get(kind.full_name)
    if found is None:
        found = _known[kind.full_name] = {
            field.number: field.message_type
            for field in kind.fields
            if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None
        }
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end
