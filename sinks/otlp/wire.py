"""The protobuf wire format, as far as OTLP needs it. Pure.

Written by hand, because an object for every line costs ten times what its bytes cost. Whatever is
made here is what the generated classes would make: tests read it back with them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What an attribute can be here: text, a number, several texts, or nothing.
Value: TypeAlias = str | int | tuple[str, ...] | None

# The fields of `AnyValue`, each with its wire type.
STRING_VALUE = b"\x0a"
INT_VALUE = b"\x18"
_ARRAY_VALUE = b"\x2a"
BYTES_VALUE = b"\x3a"

# The fields of `KeyValue`, of `ArrayValue`.
_KEY = b"\x0a"
_VALUE = b"\x12"
_VALUES = b"\x0a"

_UINT64 = 2**64


def varint(number: int) -> bytes:
    """A number of at most 64 bits; a negative one as its two's complement, in ten bytes."""
    rest = number % _UINT64
    out = bytearray()
    while rest > 0x7F:  # noqa: PLR2004 - seven bits to a byte
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def delimited(tag: bytes, content: bytes) -> bytes:
    """A field with its length before it: text, bytes, or a message."""
    return tag + varint(len(content)) + content


def utf8(text: str) -> bytes:
    """Text for a `string`, which has to be valid; what cannot be encoded becomes `?`."""
    return text.encode("utf-8", "replace")


def any_value(value: Value) -> bytes:
    """An `AnyValue`; for None the empty one, which is how OTLP writes null."""
    match value:
        case None:
            return b""
        case str():
            return delimited(STRING_VALUE, utf8(value))
        case int():
            return INT_VALUE + varint(value)
        case _:
            return delimited(
                _ARRAY_VALUE, b"".join(delimited(_VALUES, any_value(item)) for item in value)
            )


def key_values(tag: bytes, attributes: Mapping[str, Value]) -> bytes:
    """Attributes, each as a `KeyValue` in a field of this tag."""
    return b"".join(
        delimited(tag, delimited(_KEY, utf8(key)) + delimited(_VALUE, any_value(value)))
        for key, value in attributes.items()
    )


@lru_cache(maxsize=256)
def open_key_value(tag: bytes, key: str, value_tag: bytes, value_bytes: int) -> bytes:
    """A `KeyValue` up to where the content of its text or number begins.

    Args:
        tag: The field that holds it.
        key: Its key.
        value_tag: `STRING_VALUE`, or `INT_VALUE` for a number.
        value_bytes: How many bytes will follow.
    """
    head = value_tag if value_tag == INT_VALUE else value_tag + varint(value_bytes)
    inner = delimited(_KEY, utf8(key)) + _VALUE + varint(len(head) + value_bytes) + head
    return tag + varint(len(inner) + value_bytes) + inner
