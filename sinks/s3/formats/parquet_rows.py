"""Rows on their way to a Parquet file: columns in one piece of bytes. Pure.

Most slices have one line or a few. So a chunk is made and taken apart with a handful of calls,
whatever its size, and what its rows have in common is compared as bytes.
"""

from __future__ import annotations

import struct
from array import array
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, NamedTuple

import orjson

from sinks.ndjson import gap_stamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sinks.interface import Slice

#: What all rows of a slice have in common, in this order.
SHARED = ("sandbox_id", "container", "display_name", "generation", "part", "tags", "attributes")

#: Rows, line number of the first, when they were received, and the sizes of `shared` and `rare`.
_HEAD = struct.Struct("<IqqII")
_STAMP_BYTES = 8
_LENGTH_BYTES = 4


class Rows(NamedTuple):
    """The rows of a slice.

    Attributes:
        shared: What `SHARED` says, as JSON: the same bytes for the same values.
        gap: For a gap record, which is one row, what is missing; as JSON.
        others: By place, the texts that are not UTF-8. Among `texts` they are empty.
        stamps: In nanoseconds, 8 bytes a row.
        lengths: Of the texts, 4 bytes a row.
        texts: All of them.
    """

    row_count: int
    first_line: int
    received_ns: int
    shared: bytes
    gap: str | None
    others: dict[int, bytes]
    stamps: bytes
    lengths: bytes
    texts: bytes


def encode_rows(source: Slice, start: int, stop: int) -> bytes:
    """Some records of a slice, or its gap record; for this process and its children only."""
    stamps_ns: Sequence[int] = (gap_stamp_ns(source),)
    texts: Sequence[bytes] = (b"",)
    if source.gap is None:
        stamps_ns = source.columns.stamps_ns[start:stop]
        texts = source.columns.texts[start:stop]
    texts, others = _split(texts)
    gap = None if source.gap is None else orjson.dumps(dict(source.gap)).decode()
    rare = orjson.dumps((gap, others)) if gap is not None or others else b""
    shared = _shared(source)
    first_line = source.first_line + start
    return b"".join(
        (
            _HEAD.pack(len(texts), first_line, source.received_ns, len(shared), len(rare)),
            *(shared, rare),
            *(array("q", stamps_ns).tobytes(), array("i", map(len, texts)).tobytes()),
            *texts,
        )
    )


def decode_rows(chunk: bytes) -> Rows:
    """The inverse."""
    count, first_line, received_ns, shared_bytes, rare_bytes = _HEAD.unpack_from(chunk)
    rare = _HEAD.size + shared_bytes
    stamps = rare + rare_bytes
    lengths = stamps + count * _STAMP_BYTES
    texts = lengths + count * _LENGTH_BYTES
    gap, others = orjson.loads(chunk[rare:stamps]) if rare_bytes else (None, ())
    return Rows(
        *(count, first_line, received_ns, chunk[_HEAD.size : rare]),
        gap,
        {place: b64decode(encoded) for place, encoded in others},
        *(chunk[stamps:lengths], chunk[lengths:texts], chunk[texts:]),
    )


def _shared(source: Slice) -> bytes:
    stream = source.stream
    attributes = list(stream.attributes.items())
    return orjson.dumps(
        (
            *(stream.sandbox_id, stream.container, stream.display_name),
            *(source.generation, source.part or None, stream.tags, attributes),
        )
    )


def _split(texts: Sequence[bytes]) -> tuple[Sequence[bytes], list[tuple[int, str]]]:
    """The texts, and those apart that are not UTF-8: by place, in base64."""
    if _is_utf_8(texts):
        return texts, []
    odd = [place for place, text in enumerate(texts) if not _is_utf_8((text,))]
    left = list(texts)
    for place in odd:
        left[place] = b""
    return left, [(place, b64encode(texts[place]).decode()) for place in odd]


def _is_utf_8(texts: Iterable[bytes]) -> bool:
    try:
        # A newline is within no character: no two of them become one where they meet.
        b"\n".join(texts).decode()
    except UnicodeDecodeError:
        return False
    return True
