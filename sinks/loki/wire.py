"""Loki's push request on the wire, from columns: protobuf with snappy, or JSON. Pure.

Written by hand because a message object for every line costs ten times as much. The protobuf is
`logproto.PushRequest`::

    PushRequest { repeated Stream streams = 1 }
    Stream      { string labels = 1; repeated Entry entries = 2 }
    Entry       { Timestamp timestamp = 1; string line = 2; repeated Pair structuredMetadata = 3 }
    Timestamp   { int64 seconds = 1; int32 nanos = 2 }
    Pair        { string name = 1; string value = 2 }
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import orjson

from sinks.compress import compress, encoding_headers
from sinks.loki.labels import selector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.network import Compression

_NS_PER_S = 1_000_000_000
_INT64 = (1 << 64) - 1


class Wire(Protocol):
    """A way to write requests.

    Metadata is encoded before the entry that it belongs to: what `field` gives for each name and
    value, one after the other.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """What is said of the body."""
        ...

    @property
    def field_end(self) -> bytes:
        """What follows the value in a field."""
        ...

    def field(self, name: str, value: str) -> bytes:
        """One piece of metadata, encoded."""
        ...

    def body(
        self,
        labels: tuple[tuple[str, str], ...],
        stamps_ns: Sequence[int],
        lines: Sequence[bytes],
        metadata: Sequence[bytes],
    ) -> bytes:
        """A request of one stream, whose lines are UTF-8, before compression."""
        ...

    def compress(self, body: bytes) -> bytes:
        """The body as it is sent."""
        ...


class ProtobufWire:
    """Protobuf in a snappy block: what Loki's own clients send."""

    headers: Mapping[str, str] = {"content-type": "application/x-protobuf"}
    field_end = b""

    def field(self, name: str, value: str) -> bytes:
        """A `Pair`, with its tag."""
        pair = _text(0x0A, name.encode()) + _text(0x12, _utf8(value))
        return _text(0x1A, pair)

    def body(
        self,
        labels: tuple[tuple[str, str], ...],
        stamps_ns: Sequence[int],
        lines: Sequence[bytes],
        metadata: Sequence[bytes],
    ) -> bytes:
        """A `PushRequest`."""
        pieces = [_text(0x0A, selector(labels).encode())]
        second: int | None = None
        whole_second = b""
        for stamp_ns, line, pairs in zip(stamps_ns, lines, metadata, strict=True):
            now_s, nanos = divmod(stamp_ns, _NS_PER_S)
            if now_s != second:
                second = now_s
                whole_second = b"\x08" + varint(now_s & _INT64) if now_s else b""
            stamp = whole_second + b"\x10" + varint(nanos) if nanos else whole_second
            text = b"\x12" + varint(len(line)) + line if line else b""
            head = b"\x0a" + varint(len(stamp)) + stamp
            pieces += (b"\x12", varint(len(head) + len(text) + len(pairs)), head, text, pairs)
        return _text(0x0A, b"".join(pieces))

    def compress(self, body: bytes) -> bytes:
        """Snappy's block format, without frames."""
        import cramjam

        return bytes(cramjam.snappy.compress_raw(body))


class JsonWire:
    """JSON, for what speaks nothing else."""

    field_end = b'"'

    def __init__(self, compression: Compression) -> None:
        self._compression: Compression = compression

    @property
    def headers(self) -> Mapping[str, str]:
        """What is said of the body."""
        return {"content-type": "application/json", **encoding_headers(self._compression)}

    def field(self, name: str, value: str) -> bytes:
        """A member, with the comma before it."""
        return b",%b:%b" % (orjson.dumps(name), orjson.dumps(_utf8(value).decode()))

    def body(
        self,
        labels: tuple[tuple[str, str], ...],
        stamps_ns: Sequence[int],
        lines: Sequence[bytes],
        metadata: Sequence[bytes],
    ) -> bytes:
        """An object with `streams`."""
        values = b",".join(
            b'["%d",%b%b]'
            % (stamp_ns, orjson.dumps(line.decode()), b",{%b}" % members[1:] if members else b"")
            for stamp_ns, line, members in zip(stamps_ns, lines, metadata, strict=True)
        )
        return b'{"streams":[{"stream":%b,"values":[%b]}]}' % (orjson.dumps(dict(labels)), values)

    def compress(self, body: bytes) -> bytes:
        """The same bytes for the same body."""
        return compress(body, self._compression)


def varint(number: int) -> bytes:
    """A number of protobuf, at least 0 and below 2**64."""
    if number < 0x80:  # noqa: PLR2004 - seven bits a byte
        return bytes((number,))
    if number < 0x4000:  # noqa: PLR2004 - the length of most lines
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number >= 0x80:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _text(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varint(len(content)) + content


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
