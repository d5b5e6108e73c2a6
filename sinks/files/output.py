"""One output file: opened when needed, continued exactly where the confirmed bytes end.

The invariant: bytes up to the mark's length are confirmed and never touched again. Bytes behind it
come from an attempt that was not confirmed. Nearly always the same bytes come again, and are
written over themselves, so that somebody who reads along sees no truncation. Bytes that do not
come again (somebody else's, or a torn block after a power cut) are set aside in
`<path>.unconfirmed`, never destroyed.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sinks.files.directories import enter, open_root, sync_directory
from sinks.files.layout import Mark, OpenLine
from sinks.files.system import refuse_unless_ordinary, verdicts
from sinks.interface import SinkMisconfiguredError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.files.system import Files

_log = logging.getLogger(__name__)

#: Behind the path of a file, for its bytes that were never confirmed.
UNCONFIRMED = ".unconfirmed"

_IOV_MAX = 1024
_COPY_BYTES = 1 << 20
#: From this size on a write is worth telling the system about. Measured, 8 MiB batches with a sync
#: after each: 1.5 times as fast, and many times where the page cache would otherwise have to grow.
_BULK_BYTES = 1 << 20


class OutputFile:
    """One path below `root`. Not thread-safe: one thread at a time uses it. Everything blocks.

    Args:
        root: The directory that the operator named; links in it are followed. Below it, where
            values make the names, no link is.
        mode: Of a file that has to be created; its directories get the same with search added.
    """

    def __init__(self, files: Files, root: str, path: str, mode: int) -> None:
        self.path = path
        self.is_new = False
        self._files = files
        self._root = root
        self._mode = mode
        self._fd: int | None = None

    @property
    def directories(self) -> list[str]:
        """Those whose entries lead to the file, the root first."""
        found = [self._root]
        for name in self._names[:-1]:
            found.append(os.path.join(found[-1], name))  # noqa: PTH118 - paths are text here
        return found

    def measure(self, mark: Mark | None) -> Mark:
        """Open the file if need be, and find where to go on.

        Returns:
            The given mark if it fits what is there. Else where the file ends now: there is none
            for a file not met before, and one that got shorter was cut or replaced from outside.

        Raises:
            SinkUnavailableError: Not now.
            SinkMisconfiguredError: It cannot or must not be written.
        """
        with self._closed_on_error(), verdicts(self.path):
            self._leave_if_replaced()
            fd = self._open()
            size = self._files.file_status(fd).st_size
            if mark is not None and mark.length_bytes <= size:
                self.is_new |= mark.length_bytes == 0
                return mark
            self.is_new = True
            if mark is not None:
                _log.warning(
                    "%s is shorter than what was written to it (%d of %d bytes): "
                    "truncated or replaced from outside; going on at its end",
                    *(self.path, size, mark.length_bytes),
                )
            whole = size == 0 or self._files.read(fd, 1, size - 1) == b"\n"
            return Mark(size, None if whole else OpenLine())

    def append(self, offset: int, buffers: Sequence[bytes]) -> int:
        """Put the bytes behind the first `offset` ones, and on the disk; returns the new length.

        Raises:
            SinkUnavailableError: Not now; nothing before `offset` has changed.
            SinkMisconfiguredError: It cannot or must not be written.
        """
        with self._closed_on_error(), verdicts(self.path):
            fd = self._open()
            size = self._files.file_status(fd).st_size
            if size < offset:
                raise SinkUnavailableError(f"{self.path} was truncated while it was written")
            if size > offset and not self._comes_again(fd, offset, size, buffers):
                self._set_aside(fd, offset, size)
                size = offset
            try:
                end = self._write(fd, offset, buffers)
            except OSError:
                # A full disk can last for hours: no half line is left for readers meanwhile.
                with suppress(OSError):
                    self._files.truncate(fd, size)
                raise
            self._files.sync_data(fd)
            if end - offset >= _BULK_BYTES:
                self._files.write_back(fd, end - offset, offset)
            return end

    def is_there(self) -> bool:
        """Whether anything has this path now."""
        return self.is_longer_than(-1)

    def is_longer_than(self, length_bytes: int) -> bool:
        """Whether there is more at this path now than so many bytes."""
        with verdicts(self.path):
            try:
                return self._files.status(self.path).st_size > length_bytes
            except (FileNotFoundError, NotADirectoryError):
                return False

    def put_away(self, length_bytes: int, name: str) -> None:
        """Give the file, up to its confirmed length, another name in its directory, for good.

        Raises:
            SinkUnavailableError: Not now; or somebody has just taken the name.
            SinkMisconfiguredError: It cannot or must not be renamed.
        """
        with self._closed_on_error(), verdicts(self.path):
            self._leave_if_replaced()
            fd = self._open()
            size = self._files.file_status(fd).st_size
            if size > length_bytes:
                self._set_aside(fd, length_bytes, size)
            with self.parent() as parent_fd:
                if self._files.name_is_taken(name, parent_fd=parent_fd):
                    raise SinkUnavailableError(f"cannot rename {self.path}: {name} is taken")
                self._files.rename(self._names[-1], name, parent_fd=parent_fd)
                self._files.sync_directory(parent_fd)
            self.close()

    def close(self) -> None:
        """Give the descriptor back, if there is one."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._files.close(fd)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """After a failed sync a descriptor must not be trusted: the next one may say all is well.

        The next attempt opens the file again and writes everything behind the mark once more.
        """
        try:
            yield
        except Exception:
            with suppress(OSError):
                self.close()
            raise

    @property
    def _names(self) -> list[str]:
        return [name for name in self.path[len(self._root) :].split("/") if name]

    def _leave_if_replaced(self) -> None:
        """Close a file that no longer has our path: logrotate renamed it, or it was deleted."""
        if self._fd is None:
            return
        ours = self._files.file_status(self._fd)
        try:
            there = self._files.status(self.path)
        except FileNotFoundError:
            self.close()
            return
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self.close()

    def _open(self) -> int:
        if self._fd is not None:
            return self._fd
        with self.parent() as parent_fd:
            name = self._names[-1]
            try:
                self._fd = self._files.open_file(name, parent_fd=parent_fd)
            except FileNotFoundError:
                self._fd = self._files.create_file(name, self._mode, parent_fd=parent_fd)
                self.is_new = True
        refuse_unless_ordinary(self.path, self._files.file_status(self._fd))
        if not self._files.lock(self._fd):
            raise SinkMisconfiguredError(
                f"cannot write {self.path}: another sink or process is writing it"
            )
        return self._fd

    @contextmanager
    def parent(self, *, create: bool = True) -> Iterator[int]:
        """The file's directory, for as long as the block runs; no link below the root is followed.

        Args:
            create: Whether directories that are not there are made.
        """
        if create:
            fd = open_root(self._files, self._root, self._mode)
        else:
            fd = self._files.open_directory(self._root, follow=True)
        try:
            for name in self._names[:-1]:
                if create:
                    parent_fd, fd = fd, enter(self._files, name, fd, self._mode)
                else:
                    parent_fd, fd = fd, self._files.open_directory(name, parent_fd=fd)
                self._files.close(parent_fd)
            yield fd
        finally:
            self._files.close(fd)

    def _comes_again(self, fd: int, offset: int, size: int, buffers: Sequence[bytes]) -> bool:
        """Whether the bytes behind `offset` and those about to be written agree."""
        for buffer in buffers:
            wanted = buffer[: size - offset]
            if read_exactly(self._files, fd, len(wanted), offset) != wanted:
                return False
            offset += len(wanted)
        return True

    def _set_aside(self, fd: int, offset: int, size: int) -> None:
        """Move what stands behind `offset` to the file beside this one."""
        beside = OutputFile(self._files, self._root, self.path + UNCONFIRMED, self._mode)
        try:
            end = beside.measure(None).length_bytes
            for start in range(offset, size, _COPY_BYTES):
                length_bytes = min(_COPY_BYTES, size - start)
                chunk = read_exactly(self._files, fd, length_bytes, start)
                end = beside.append(end, [chunk])
        finally:
            beside.close()
        sync_directory(self._files, beside.directories[-1])
        _log.warning(
            "%s held %d bytes that this sink had not confirmed and that do not come again: "
            "moved to %s",
            *(self.path, size - offset, beside.path),
        )
        self._files.truncate(fd, offset)

    def _write(self, fd: int, offset: int, buffers: Sequence[bytes]) -> int:
        for portion in _portions(buffers):
            end = self._write_some(fd, offset, portion)
            if end - offset >= _BULK_BYTES:
                self._files.write_back(fd, end - offset, offset)
            offset = end
        return offset

    def _write_some(self, fd: int, offset: int, buffers: Sequence[bytes]) -> int:
        total = sum(map(len, buffers))
        written = self._files.write(fd, buffers, offset)
        while written < total:
            rest = memoryview(b"".join(buffers))[written:]
            taken = self._files.write(fd, [rest], offset + written)
            if not taken:
                raise OSError(errno.EIO, "the file takes no more bytes")
            written += taken
        return offset + total


def _portions(buffers: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The buffers in order, as many at a time as one call takes and one write-back is worth."""
    portion: list[bytes] = []
    size = 0
    for buffer in buffers:
        portion.append(buffer)
        size += len(buffer)
        if len(portion) == _IOV_MAX or size >= _BULK_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def read_exactly(files: Files, fd: int, length_bytes: int, offset: int) -> bytes:
    """So many bytes from this offset, or as many as there are."""
    chunks: list[bytes] = []
    while length_bytes > 0:
        chunk = files.read(fd, length_bytes, offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
        length_bytes -= len(chunk)
    return b"".join(chunks)
