"""The files of a window on disk: made anew, durable when they are finished, and looked at again."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from sinks.files.system import verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from sinks.s3.plan import WindowPlan

_BUFFER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an object's file."""

    size_bytes: int
    sha256: str


class _HashedFile(io.FileIO):
    """A new file that hashes what is written to it, from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x", opener=private)
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # a buffer is all that comes
        """Write some of the bytes; returns how many."""
        count = super().write(data)
        self._digest.update(memoryview(data)[:count])
        self.size_bytes += count
        return count

    @property
    def sha256(self) -> str:
        """Of everything that was written, hexadecimal."""
        return self._digest.hexdigest()


class StagedFile:
    """A new file, buffered, that is durable when it is finished. May raise OSError everywhere."""

    def __init__(self, path: Path) -> None:
        self._raw = _HashedFile(path)
        self.file = cast("BinaryIO", io.BufferedWriter(self._raw, _BUFFER_BYTES))

    def finish(self) -> Finished:
        """Close it; its bytes are on the disk then."""
        self.file.flush()
        os.fsync(self._raw.fileno())
        finished = Finished(self._raw.size_bytes, self._raw.sha256)
        self.file.close()
        return finished

    def abandon(self) -> None:
        """Close it as it is; what is buffered is lost. Never fails."""
        with suppress(OSError):
            self._raw.close()


def make_directory(directory: Path) -> None:
    """Begin with an empty directory, whatever is there: nothing in it was promised to anybody.

    Raises:
        SinkUnavailableError: The disk is full, or the like.
        SinkMisconfiguredError: Somebody has to mend something.
    """
    with verdicts(str(directory)):
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
        else:
            directory.unlink(missing_ok=True)
        directory.mkdir(mode=0o700)


def sync_directory(directory: Path) -> None:
    """Return when the names in it, and its own, are on the disk. Raises as `make_directory`."""
    with verdicts(str(directory)):
        for path in (directory, directory.parent):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def remove_directory(directory: Path) -> None:
    """Leave nothing behind; what cannot be deleted stays. Never fails."""
    shutil.rmtree(directory, ignore_errors=True)


def is_staged(directory: Path, plan: WindowPlan) -> bool:
    """Whether every file of the plan is there, with the bytes that it had."""
    try:
        return all(
            _is_as(directory / staged.file, staged.size_bytes, staged.sha256)
            for staged in plan.objects
        )
    except OSError:  # building the window anew finds out what is wrong, and says it
        return False


def _is_as(file: Path, size_bytes: int, sha256: str) -> bool:
    with file.open("rb") as source:
        if os.fstat(source.fileno()).st_size != size_bytes:
            return False
        return hashlib.file_digest(source, "sha256").hexdigest() == sha256


def private(path: str, flags: int) -> int:
    """Open a file that nobody else may read; never through a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
