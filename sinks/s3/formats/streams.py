"""Compressed files, written and read piece by piece: one frame an object, whatever its size."""

from __future__ import annotations

import io
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import zstandard
from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError

from sinks.archive import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.s3.formats.interface import Compression

#: isal's output depends on how its input is cut; so it always gets blocks of this size.
_BLOCK_BYTES = 128 * 1024
_GZIP_FORMAT = 31
#: A line is at most a few times what the source's limit lets through; nothing else is one.
_MAX_LINE_BYTES = 256 << 20
_READ_BYTES = 256 * 1024


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


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
            self._file.write(self._compressor.compress(data))
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


def read_lines(file: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """The lines of an object, each with its newline; the last one may lack it.

    Raises:
        ArchiveError: The object is damaged, or has a line that cannot be one.
    """
    with damage_noticed(), io.BufferedReader(_opened(file, compression), _READ_BYTES) as reader:
        while line := reader.readline(_MAX_LINE_BYTES):
            if len(line) == _MAX_LINE_BYTES:
                raise ArchiveError(f"it has a line of more than {_MAX_LINE_BYTES >> 20} MiB")
            yield line


@contextmanager
def damage_noticed() -> Iterator[None]:
    """Say in words what a library says of a damaged object."""
    try:
        yield
    except (zstandard.ZstdError, zlib.error, IsalError, EOFError) as error:  # type: ignore[misc]  # its stub calls an error a variable
        raise ArchiveError(f"it cannot be decompressed: {error}") from error
    except OSError as error:
        # `gzip` says so of a damaged file, and the disk of itself.
        raise ArchiveError(f"it cannot be read: {error}") from error


def _opened(file: BinaryIO, compression: Compression) -> io.RawIOBase:
    """What reads the content; closing it leaves the file open."""
    match compression:
        case "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(
                file, read_across_frames=True, closefd=False
            )
            return cast("io.RawIOBase", reader)
        case "gzip":
            return cast("io.RawIOBase", igzip.IGzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call]  # it has no types
        case "none":
            return cast("io.RawIOBase", io.FileIO(file.fileno(), closefd=False))
