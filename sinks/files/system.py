"""The few calls that the file sink makes to the operating system, and what their errors mean."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sinks.interface import SinkMisconfiguredError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW

_HELD = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "something in the path is not a directory, or is a symbolic link",
    errno.ELOOP: "it is a symbolic link",
    errno.EISDIR: "it is a directory",
    errno.ENAMETOOLONG: "the path is too long",
    errno.ENXIO: "it is not a regular file",
}
_LATER = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file has reached the size limit",
    errno.EIO: "the disk reports an input/output error",
}
#: An advisory lock is an extra: some network file systems have none.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class TooManyOpenFilesError(SinkUnavailableError):
    """The process or the machine has no descriptor left."""


@contextmanager
def verdicts(path: str) -> Iterator[None]:
    """Turn every OSError into the sink's verdict on it.

    Raises:
        SinkMisconfiguredError: Somebody has to mend something.
        SinkUnavailableError: Anything else may pass by itself.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        if number in _HELD:
            raise SinkMisconfiguredError(f"cannot write {path}: {_HELD[number]}") from error
        if number in {errno.EMFILE, errno.ENFILE}:
            raise TooManyOpenFilesError(f"cannot open {path}: too many open files") from error
        reason = _LATER.get(number) or error.strerror or str(error)
        raise SinkUnavailableError(f"cannot write {path}: {reason}") from error


class Files:
    """The operating system's calls, one method each; a test puts its faults in here.

    Every method blocks, may be called from any thread, and raises OSError.
    """

    def open_directory(
        self, name: str, *, parent_fd: int | None = None, follow: bool = False
    ) -> int:
        """Open a directory for what is done inside it."""
        flags = _DIRECTORY if follow else _DIRECTORY | os.O_NOFOLLOW
        return os.open(name, flags, dir_fd=parent_fd)

    def make_directory(self, name: str, mode: int, *, parent_fd: int) -> None:
        """Create a directory, with this mode whatever the umask; one that is there is fine."""
        try:
            os.mkdir(name, mode, dir_fd=parent_fd)
        except FileExistsError:
            return
        os.chmod(name, mode, dir_fd=parent_fd)

    def open_file(self, name: str, *, parent_fd: int) -> int:
        """Open a file that is there, for reading and writing; never waits and follows no link."""
        return os.open(name, _FILE, dir_fd=parent_fd)

    def create_file(self, name: str, mode: int, *, parent_fd: int) -> int:
        """Create a file that is not there, with this mode whatever the umask."""
        fd = os.open(name, _FILE | os.O_CREAT | os.O_EXCL, mode, dir_fd=parent_fd)
        os.fchmod(fd, mode)
        return fd

    def lock(self, fd: int) -> bool:
        """Take the advisory lock of an open file; False when somebody else holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def status(self, path: str) -> os.stat_result:
        """What is at this path now; a link is not followed."""
        return os.lstat(path)

    def file_status(self, fd: int) -> os.stat_result:
        """What the open file is now."""
        return os.fstat(fd)

    def read(self, fd: int, length_bytes: int, offset: int) -> bytes:
        """Up to so many bytes from this offset."""
        return os.pread(fd, length_bytes, offset)

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write the buffers at this offset; returns how many bytes were taken, maybe not all."""
        return os.pwritev(fd, buffers, offset)

    def write_back(self, fd: int, length_bytes: int, offset: int) -> None:
        """Begin to put these bytes on the disk; those that are there already leave the page cache.

        A wish: the disk has work while the rest is still being copied, and an archive does not
        push other programs' files out of memory. Pages that are only partly covered stay.
        """
        os.posix_fadvise(fd, offset, length_bytes, os.POSIX_FADV_DONTNEED)

    def names_in(self, fd: int) -> list[str]:
        """The names in an open directory."""
        return os.listdir(fd)

    def name_is_taken(self, name: str, *, parent_fd: int) -> bool:
        """Whether anything has this name, be it a link to nowhere."""
        try:
            os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def rename(self, name: str, new_name: str, *, parent_fd: int) -> None:
        """Give a file another name in the same directory; a file of that name would be gone."""
        os.rename(name, new_name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)

    def unlink(self, name: str, *, parent_fd: int) -> None:
        """Take a file's name away; one that is gone already is fine."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent_fd)

    def truncate(self, fd: int, length_bytes: int) -> None:
        """Cut the open file."""
        os.ftruncate(fd, length_bytes)

    def sync_data(self, fd: int) -> None:
        """Return when the file's bytes are on the disk."""
        os.fdatasync(fd)

    def sync_directory(self, fd: int) -> None:
        """Return when the directory's entries are on the disk, where that can be asked for."""
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what some network file systems say to it
                raise

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)


def refuse_unless_ordinary(path: str, status: os.stat_result) -> None:
    """Only a regular file with one name is written to.

    Raises:
        SinkMisconfiguredError: It is something else.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise SinkMisconfiguredError(f"cannot write {path}: it is {kind}")
    if status.st_nlink > 1:
        raise SinkMisconfiguredError(
            f"cannot write {path}: it has {status.st_nlink} names (hard links), expected one"
        )
