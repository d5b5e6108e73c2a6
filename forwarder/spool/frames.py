"""Frames at rest: compressed, with a checksum over the payload and everything that places it.

SQLite does not notice a flipped bit in a payload (measured: `integrity_check` says ok), so every
frame carries its own checksum and is verified when it is read.
"""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import zstandard

from forwarder.errors import SpoolUntrustedError
from forwarder.model import Frame, FrameDraft, FrameKind

if TYPE_CHECKING:
    from forwarder.spool.interface import StreamCommit

#: zstd's fastest regular level: logs shrink about six times and the reader stays ahead.
LEVEL = 1

_PLACE = struct.Struct("<10q")
_NUMBERS = struct.Struct("<2q")
_GENERATION = struct.Struct("<q")
_local = threading.local()


@dataclass(frozen=True, slots=True)
class PackedFrame:
    """A draft ready to be inserted.

    Attributes:
        checksum: Of everything but the numbers that the frame gets when it is inserted.
    """

    draft: FrameDraft
    stream_id: int
    checksum: int
    data: bytes


class FrameDamagedError(SpoolUntrustedError):
    """A frame is not what was stored."""


#: The columns of `frame` that make a `Frame`, in the order `unpack` takes them.
COLUMNS = (
    "id, stream_id, kind, raw_bytes, first_line, lines, part, first_stamp_ns, last_stamp_ns,"
    " high_stamp_ns, received_ns, total_lines, checksum, data, generation"
)

#: The frames that a server sent, and not we.
HOLDS_LINES = f"kind IN ({FrameKind.LINES:d}, {FrameKind.PART:d})"

#: Where in them is what has to be known before a frame is unpacked.
RAW_BYTES: Final = 3
FIRST_LINE: Final = 4
LINES: Final = 5
HIGH_STAMP: Final = 9
GENERATION: Final = 14

FrameRow = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, bytes, int]


_GREATEST = 1 << 62


def number(value: object) -> int:
    """A number of a frame that is not verified; 0 when it has become what cannot be one.

    None of them is so large that adding some up would not fit into SQLite's integers.
    """
    return value if isinstance(value, int) and -_GREATEST < value < _GREATEST else 0


def pack(commit: StreamCommit) -> list[PackedFrame]:
    """Compress and sum up; safe in any thread, and mostly without the interpreter lock."""
    return [pack_draft(commit.stream_id, draft) for draft in commit.frames]


def pack_draft(stream_id: int, draft: FrameDraft) -> PackedFrame:
    """One frame of a stream."""
    data = _compressor().compress(draft.raw)
    checksum = zlib.crc32(data, _place_checksum(_place(stream_id, draft), draft.generation))
    return PackedFrame(draft, stream_id, checksum, data)


def numbered(checksum: int, frame_id: int, total_lines: int) -> int:
    """The checksum of a frame that has its numbers."""
    return zlib.crc32(_NUMBERS.pack(frame_id, total_lines), checksum)


def unpack(row: FrameRow) -> Frame:
    """The frame of a row of `COLUMNS`.

    Raises:
        FrameDamagedError: It is not what was stored.
    """
    frame_id, stream_id, kind, raw_bytes, first_line, lines, part = row[:7]
    first_ns, last_ns, high_ns, received_ns, total_lines, checksum, data, generation = row[7:]
    place = (
        stream_id,
        kind,
        raw_bytes,
        first_line,
        lines,
        part,
        first_ns,
        last_ns,
        high_ns,
        received_ns,
    )
    try:
        summed = zlib.crc32(data, _place_checksum(place, generation))
        matches = numbered(summed, frame_id, total_lines) == checksum
    except (TypeError, struct.error):  # a value that has become one of another type
        matches = False
    if not matches:
        raise FrameDamagedError(f"frame {frame_id} does not match its checksum")
    try:
        raw = _decompressor().decompress(data, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise FrameDamagedError(f"frame {frame_id} cannot be decompressed") from error
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
        generation,
    )


def _place_checksum(place: tuple[int, ...], generation: int) -> int:
    """The checksum of what places a frame; the first generation's is that of schema 1."""
    checksum = zlib.crc32(_PLACE.pack(*place))
    return checksum if generation == 0 else zlib.crc32(_GENERATION.pack(generation), checksum)


def _place(stream_id: int, draft: FrameDraft) -> tuple[int, ...]:
    return (
        stream_id,
        draft.kind,
        len(draft.raw),
        draft.first_line,
        draft.lines,
        draft.part,
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.high_stamp_ns,
        draft.received_ns,
    )


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
