"""Frames at rest: compressed, with a checksum over the payload and everything that places it.

SQLite does not notice a flipped bit in a payload (measured: `integrity_check` says ok), so every
frame carries its own checksum and is verified when it is read.
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from forwarder.errors import SpoolUntrustedError
from forwarder.model import Frame, FrameDraft, FrameKind

if TYPE_CHECKING:
    from forwarder.spool.interface import StreamCommit

#: zstd's fastest regular level: logs shrink about six times and the reader stays ahead.
LEVEL = 1

_PLACE = struct.Struct("<qqqqqqqq")
_local = threading.local()


@dataclass(frozen=True, slots=True)
class PackedFrame:
    """A draft ready to be inserted."""

    draft: FrameDraft
    stream_id: int
    checksum: int
    data: bytes


#: The columns of `frame` that make a `Frame`, in the order `unpack` takes them.
COLUMNS = (
    "id, stream_id, kind, raw_bytes, first_line, lines, part,"
    " first_stamp_ns, last_stamp_ns, received_ns, total_lines, checksum, data"
)


def pack(commit: StreamCommit) -> list[PackedFrame]:
    """Compress and sum up; safe in any thread, and mostly without the interpreter lock."""
    compressor = _compressor()
    packed = []
    for draft in commit.frames:
        data = compressor.compress(draft.raw)
        checksum = _checksum(_place(commit.stream_id, draft), data)
        packed.append(PackedFrame(draft, commit.stream_id, checksum, data))
    return packed


def unpack(row: tuple[int, int, int, int, int, int, int, int, int, int, int, int, bytes]) -> Frame:
    """The frame of a row of `COLUMNS`.

    Raises:
        SpoolUntrustedError: It is not what was stored.
    """
    frame_id, stream_id, kind, raw_bytes, first_line, lines, part = row[:7]
    first_ns, last_ns, received_ns, total_lines, checksum, data = row[7:]
    place = (stream_id, kind, first_line, lines, part, first_ns, last_ns, received_ns)
    if _checksum(place, data) != checksum:
        raise SpoolUntrustedError(f"frame {frame_id} does not match its checksum")
    try:
        raw = _decompressor().decompress(data, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise SpoolUntrustedError(f"frame {frame_id} cannot be decompressed") from error
    return Frame(
        frame_id,
        stream_id,
        FrameKind(kind),
        raw,
        first_line,
        lines,
        part,
        first_ns,
        last_ns,
        received_ns,
        total_lines,
    )


def _place(stream_id: int, draft: FrameDraft) -> tuple[int, ...]:
    return (
        stream_id,
        draft.kind,
        draft.first_line,
        draft.lines,
        draft.part,
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.received_ns,
    )


def _checksum(place: tuple[int, ...], data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_PLACE.pack(*place)))


def _compressor() -> zstandard.ZstdCompressor:
    """One per thread: a context is not to be shared, and making one costs more than using it."""
    try:
        compressor: zstandard.ZstdCompressor = _local.compressor
    except AttributeError:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=LEVEL)
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        decompressor: zstandard.ZstdDecompressor = _local.decompressor
    except AttributeError:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor
