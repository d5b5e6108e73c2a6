"""Files that were put away: found, compressed and deleted. Everything here blocks.

Whoever reads takes the compressed file and, where there is none, the plain one. So the compressed
file appears whole, by a rename, and only then the plain one goes: at any moment, and after a crash
at any moment, exactly one of the two counts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import zlib
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Protocol

import zstandard

from sinks.files.numbers import Numbers
from sinks.files.output import OutputFile, read_exactly
from sinks.files.rotation import ENDINGS, PARTIAL, highest_numbers
from sinks.files.system import refuse_unless_ordinary, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.files.rotation import PutAway
    from sinks.files.settings import Compression
    from sinks.files.system import Files

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS  # zlib then writes gzip's header, without a time and without a name
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3


class StoppedError(Exception):
    """Compression was told to stop; it is begun anew another time."""


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Shelf:
    """What is done to files below `root` that were put away, in one thread at a time.

    `highest` may be called from any thread.
    """

    def __init__(self, files: Files, root: str, mode: int) -> None:
        self._files = files
        self._root = root
        self._mode = mode
        self._numbers = Numbers(self._read)
        self._guard = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let a compression that is under way end soon, with StoppedError."""
        self._stop.set()

    def file(self, path: str) -> OutputFile:
        """The file of this path, not opened."""
        return OutputFile(self._files, self._root, path, self._mode)

    def highest(self, path: str) -> int:
        """The highest number under which a file of this path was put away; 0 without any.

        Raises:
            SinkError: The directory cannot be read now.
        """
        with self._guard:
            return self._numbers.highest(path)

    def note(self, path: str, number: int) -> None:
        """A file of this path was put away under this number."""
        with self._guard:
            self._numbers.note(path, number)

    def sync(self, path: str) -> None:
        """Return when the entries of a path's directory are on the disk, if it is there."""
        with verdicts(path), suppress(FileNotFoundError), self._place(path) as fd:
            self._files.sync_directory(fd)

    def is_taken(self, file: PutAway) -> bool:
        """Whether there is a file of this number, in whatever form."""
        name = _name(file)
        with verdicts(file.name), suppress(FileNotFoundError), self._place(file.path) as fd:
            return any(
                self._files.name_is_taken(name + ending, parent_fd=fd)
                for ending in ENDINGS.values()
            )
        return False

    def pack(self, file: PutAway) -> None:
        """Compress a file in place of itself; a file that is not there is done.

        Raises:
            SinkError: Not now.
            StoppedError: It was told to stop.
        """
        name = _name(file)
        with verdicts(file.name), suppress(FileNotFoundError), self._place(file.path) as fd:
            source_fd = self._files.open_file(name, parent_fd=fd)
            try:
                refuse_unless_ordinary(file.name, self._files.file_status(source_fd))
                packed = name + ENDINGS[file.pack]
                if not self._files.name_is_taken(packed, parent_fd=fd):
                    self._pack(source_fd, fd, name, file.pack)
                elif not self._holds(packed, fd, source_fd, file.pack):
                    _log.warning(
                        "%s stays as it is: %s is there and has other content", file.name, packed
                    )
                    return
            finally:
                self._files.close(source_fd)
            self._files.sync_directory(fd)  # a crash may have come between the rename and this
            self._files.unlink(name, parent_fd=fd)
            self._files.sync_directory(fd)

    def delete(self, file: PutAway) -> None:
        """Delete a file, in whatever form it is there.

        Raises:
            SinkError: Not now.
        """
        name = _name(file)
        with verdicts(file.name), suppress(FileNotFoundError), self._place(file.path) as fd:
            for ending in (*ENDINGS.values(), PARTIAL):
                self._files.unlink(name + ending, parent_fd=fd)
            self._files.sync_directory(fd)

    def _read(self, directory: str) -> dict[str, int]:
        path = os.path.join(directory, "any")  # noqa: PTH118 - paths are text here
        with verdicts(directory), suppress(FileNotFoundError), self._place(path) as fd:
            return highest_numbers(self._files.names_in(fd))
        return {}

    def _place(self, path: str) -> AbstractContextManager[int]:
        return self.file(path).parent(create=False)

    def _pack(self, source_fd: int, parent_fd: int, name: str, method: Compression) -> None:
        partial = name + PARTIAL
        self._files.unlink(partial, parent_fd=parent_fd)
        try:
            self._fill(partial, source_fd, parent_fd, method)
            self._files.rename(partial, name + ENDINGS[method], parent_fd=parent_fd)
        except (OSError, StoppedError):
            # It is begun anew; until then its room is there for others, on a full disk most of all.
            with suppress(OSError):
                self._files.unlink(partial, parent_fd=parent_fd)
            raise

    def _fill(self, partial: str, source_fd: int, parent_fd: int, method: Compression) -> None:
        fd = self._files.create_file(partial, self._mode, parent_fd=parent_fd)
        try:
            packer, end = _packer(method), 0
            for chunk in self._chunks(source_fd):
                end = self._write(fd, packer.compress(chunk), end)
            self._write(fd, packer.flush(), end)
            self._files.sync_data(fd)
        finally:
            self._files.close(fd)

    def _chunks(self, fd: int) -> Iterator[bytes]:
        offset = 0
        while chunk := read_exactly(self._files, fd, _CHUNK_BYTES, offset):
            if self._stop.is_set():
                raise StoppedError
            yield chunk
            offset += len(chunk)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        rest = memoryview(data)
        while rest:
            written = self._files.write(fd, [rest], offset)
            rest = rest[written:]
            offset += written
        return offset

    def _holds(self, packed: str, parent_fd: int, source_fd: int, method: Compression) -> bool:
        """Whether the compressed file is whole and has the plain one's content."""
        fd = self._files.open_file(packed, parent_fd=parent_fd)
        try:
            plain, unpacked = hashlib.sha256(), hashlib.sha256()
            for chunk in self._chunks(source_fd):
                plain.update(chunk)
            for chunk in _unpacked(self._chunks(fd), method):
                unpacked.update(chunk)
            return plain.digest() == unpacked.digest()
        except (zlib.error, zstandard.ZstdError):
            return False
        finally:
            self._files.close(fd)


def _name(file: PutAway) -> str:
    return os.path.basename(file.name)  # noqa: PTH119 - paths are text here


def _packer(method: Compression) -> _Packer:
    if method == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()


def _unpacked(chunks: Iterator[bytes], method: Compression) -> Iterator[bytes]:
    unpacker = (
        zlib.decompressobj(_GZIP)
        if method == "gzip"
        else zstandard.ZstdDecompressor().decompressobj()
    )
    for chunk in chunks:
        yield unpacker.decompress(chunk)
