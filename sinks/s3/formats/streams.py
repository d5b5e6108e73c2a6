"""Compressed files, written and read piece by piece: one frame an object, whatever its size."""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

from sinks.archive import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sinks.s3.formats.interface import Compression

#: isal's output depends on how its input is cut; so it always gets blocks of this size.
_BLOCK_BYTES = 128 * 1024
_GZIP_FORMAT = 31
#: The lines of so much content are in memory at once: even empty ones are not too many then.
_PIECE_BYTES = 64 * 1024
#: Zstandard says in 4 bytes what may be 128 KiB, and hands out all that it was given: this much
#: compressed never becomes more than 16 MiB. Small pieces take it no longer.
_ZSTD_READ_BYTES = 512
#: So large may a line be that the source takes in one piece, and so much may JSON make of it.
MAX_TEXT_BYTES = 65 << 20
_MAX_LINE_BYTES = 6 * MAX_TEXT_BYTES


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


class ByteWriter:
    """Writes one object of bytes; the same bytes give the same object, however they are cut."""

    def __init__(self, file: BinaryIO, compression: Compression, level: int) -> None:
        self._file = file
        self._blocks = bytearray()
        self._is_gzip = compression == "gzip"
        self._compressor: _Compressor | None = None
        if compression == "zstd":
            # Some readers, pandas among them, silently stop behind the first frame of several.
            zstd = zstandard.ZstdCompressor(level=level, write_checksum=True)
            self._compressor = zstd.compressobj()
        elif compression == "gzip":
            # Its header has no time: the same content must be the same object.
            self._compressor = isal_zlib.compressobj(
                min(level, isal_zlib.ISAL_BEST_COMPRESSION), isal_zlib.DEFLATED, _GZIP_FORMAT
            )

    def write(self, data: bytes) -> None:
        """Append."""
        if self._compressor is None:
            self._file.write(data)
        elif not self._is_gzip:
            if compressed := self._compressor.compress(data):
                self._file.write(compressed)
        else:
            self._blocks += data
            whole = len(self._blocks) // _BLOCK_BYTES * _BLOCK_BYTES
            for start in range(0, whole, _BLOCK_BYTES):
                block = bytes(self._blocks[start : start + _BLOCK_BYTES])
                self._file.write(self._compressor.compress(block))
            del self._blocks[:whole]

    def finish(self) -> None:
        """Complete the object."""
        if self._compressor is not None:
            if self._blocks:
                self._file.write(self._compressor.compress(bytes(self._blocks)))
                self._blocks.clear()
            self._file.write(self._compressor.flush())


class ByteObjectWriter:
    """The writer of formats whose chunks are the object's bytes."""

    def __init__(self, file: BinaryIO, compression: Compression, level: int) -> None:
        self._bytes = ByteWriter(file, compression, level)

    def add(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._bytes.write(chunk)

    def finish(self) -> None:
        """Complete the object."""
        self._bytes.finish()


class Unfinished(bytes):
    """The beginning of a line that is too long; it goes on in what comes next."""

    __slots__ = ()


def read_lines(file: BinaryIO, compression: Compression) -> Iterator[list[bytes]]:
    """The lines of an object without their newlines, some at a time.

    Raises:
        ArchiveError: The object is damaged, or has a line that cannot be one.
    """
    for lines in read_long_lines(file, compression, _MAX_LINE_BYTES):
        if isinstance(lines[-1], Unfinished):
            raise ArchiveError(f"it has a line of more than {_MAX_LINE_BYTES >> 20} MiB")
        yield lines


def read_long_lines(
    file: BinaryIO, compression: Compression, max_bytes: int
) -> Iterator[list[bytes]]:
    """The same with lines of any length; of a longer one each piece of `max_bytes` is `Unfinished`.

    An unfinished one is always the last in its list.

    Raises:
        ArchiveError: The object is damaged.
    """
    rest: list[bytes] = []
    size_bytes = 0
    for piece in _pieces(file, compression):
        lines = piece.split(b"\n")
        last = lines.pop()
        if lines:
            if rest:
                lines[0] = b"".join([*rest, lines[0]])
                rest, size_bytes = [], 0
            yield lines
        if last:
            rest.append(last)
            size_bytes += len(last)
        if size_bytes >= max_bytes:
            yield [Unfinished(b"".join(rest))]
            rest, size_bytes = [], 0
    if rest:
        yield [b"".join(rest)]


def _pieces(file: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """An object's content, in pieces of `_PIECE_BYTES` at most."""
    with _damage_noticed():
        for block in _READERS[compression](file):
            for start in range(0, len(block), _PIECE_BYTES):
                yield block[start : start + _PIECE_BYTES]


@contextmanager
def _damage_noticed() -> Iterator[None]:
    """Say in words what a library says of a damaged object."""
    try:
        yield
    except (zstandard.ZstdError, zlib.error, IsalError) as error:  # type: ignore[misc]  # its stub calls an error a variable
        raise ArchiveError(f"it cannot be decompressed: {error}") from error
    except OSError as error:
        raise ArchiveError(f"it cannot be read: {error}") from error


def _read_plain(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_PIECE_BYTES):
        yield block


def _read_zstd(file: BinaryIO) -> Iterator[bytes]:
    # Its reader of streams does not tell a damaged end from a good one.
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    while not decompressor.eof and (block := file.read(_ZSTD_READ_BYTES)):
        yield decompressor.decompress(block)
    _check_end(decompressor, file)


def _read_gzip(file: BinaryIO) -> Iterator[bytes]:
    decompressor = isal_zlib.decompressobj(_GZIP_FORMAT)
    block = b""
    while not decompressor.eof and (block := block or file.read(_PIECE_BYTES)):
        yield decompressor.decompress(block, _PIECE_BYTES)
        block = decompressor.unconsumed_tail
    _check_end(decompressor, file)


_READERS: dict[Compression, Callable[[BinaryIO], Iterator[bytes]]] = {
    "zstd": _read_zstd,
    "gzip": _read_gzip,
    "none": _read_plain,
}


def _check_end(decompressor: _Decompressor, file: BinaryIO) -> None:
    if not decompressor.eof:
        raise ArchiveError("it ends too early")
    if decompressor.unused_data or file.read(1):
        raise ArchiveError("there is something behind its end")
