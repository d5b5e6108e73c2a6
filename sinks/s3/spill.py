"""Chunks that wait on disk until their object's turn comes."""

from __future__ import annotations

import io
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import zstandard

from sinks.s3.staging import private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What stands for no piece at all.
NOWHERE = -1

_BUFFER_BYTES = 256 << 10
#: So much is compressed at once, roughly: it is in memory as a whole when it is read back.
_PIECE_BYTES = 1 << 20
_LEVEL = 1
#: Where the object's piece before this one is, and how long this one is.
_PIECE_HEAD = struct.Struct("<qI")
_LENGTH = struct.Struct("<I")


class Spill:
    """Chunks of many objects in one file; each piece says where its object's piece before it is.

    May raise OSError everywhere but in `close`. Pieces may be read by several threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = io.FileIO(path, "x+", opener=private)
        self._file = io.BufferedWriter(self._raw, _BUFFER_BYTES)
        self._end = 0
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)

    def write(self, chunks: list[bytes], before: int) -> int:
        """Append chunks; returns where their last piece is.

        Args:
            chunks: In order; there is at least one.
            before: Where the last piece of what stands before them is, or -1.
        """
        for some in _portions(chunks):
            body = self._compressor.compress(
                b"".join(part for chunk in some for part in (_LENGTH.pack(len(chunk)), chunk))
            )
            self._file.write(_PIECE_HEAD.pack(before, len(body)))
            self._file.write(body)
            before, self._end = self._end, self._end + _PIECE_HEAD.size + len(body)
        return before

    def flush(self) -> None:
        """Call it before reading."""
        self._file.flush()

    def read(self, last: int) -> Iterator[bytes]:
        """All chunks up to a piece, from the first one; a piece at a time is in memory."""
        pieces: list[tuple[int, int]] = []
        while last != NOWHERE:
            before, length = _PIECE_HEAD.unpack(self._pread(_PIECE_HEAD.size, last))
            pieces.append((last + _PIECE_HEAD.size, length))
            last = before
        decompressor = zstandard.ZstdDecompressor()
        for start, length in reversed(pieces):
            yield from _unpacked(decompressor.decompress(self._pread(length, start)))

    def _pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self._raw.fileno(), length, offset)
        if len(data) != length:
            raise OSError(f"{self._path.name} is shorter than what was written to it")
        return data

    def close(self) -> None:
        """Close and delete the file. Never fails."""
        with suppress(OSError):
            self._raw.close()
        with suppress(OSError):
            self._path.unlink()


def _portions(chunks: list[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size_bytes = 0
    for chunk in chunks:
        some.append(chunk)
        size_bytes += len(chunk)
        if size_bytes >= _PIECE_BYTES:
            yield some
            some, size_bytes = [], 0
    if some:
        yield some


def _unpacked(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        yield body[at : at + length]
        at += length
