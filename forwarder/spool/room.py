"""Room for the spool: how much it may take, and what is kept free for the day when there is none.

On a full disk SQLite cannot even delete (measured: INSERT, DELETE and a checkpoint all answer
SQLITE_FULL). So a ballast file is held, and given up for cleaning up and for cursors.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir

_log = structlog.get_logger()

#: No room, in one way or another.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_PROBE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much the spool may take.

    Attributes:
        max_bytes: On disk, its log included; None for as much as there is.
        drop_oldest: Whether the oldest lines make room at that size, instead of new ones waiting.
        ballast_bytes: Held for a full disk; 0 for nothing.
        keep_ns: How long frames stay that every sink is past; the first to go for want of room.
        keep_tail_ns: What of that a live stream needs for itself, and so does not go with it: as
            for `Spool.prune`.
    """

    max_bytes: int | None = None
    drop_oldest: bool = False
    ballast_bytes: int = 0
    keep_ns: int = 0
    keep_tail_ns: int = 0

    @property
    def go_on_bytes(self) -> int:
        """Below this reading goes on, after it was stopped."""
        return (self.max_bytes or 0) * 95 // 100

    @property
    def drop_to_bytes(self) -> int:
        """Dropping ends below this."""
        return (self.max_bytes or 0) * 90 // 100


#: As much as the disk holds.
NO_LIMITS = SpoolLimits()


class Ballast:
    """A file that is held to be deleted.

    Attributes:
        given_up: Whether it had to be deleted and could not be made again yet.
    """

    def __init__(self, state: StateDir, size_bytes: int) -> None:
        self._path = state.ballast
        self._size_bytes = size_bytes
        self.given_up = False

    def make(self) -> bool:
        """Make it, if there is room for it and as much again; whether it is there."""
        if not self._size_bytes:
            self._path.unlink(missing_ok=True)
            self.given_up = False
            return False
        try:
            held = self._path.exists() and self._path.stat().st_size == self._size_bytes
            if not held:
                held = self._free_bytes() >= 2 * self._size_bytes and self._allocate()
        except OSError as error:
            _log.warning("no ballast can be held", path=str(self._path), error=str(error))
            held = False
        if held:
            self.given_up = False
        return held

    def give_up(self) -> bool:
        """Delete it; whether it was there."""
        try:
            self._path.unlink()
        except OSError:
            return False
        self.given_up = True
        _log.error(
            "the disk is full: the ballast is given up for cleaning up", path=str(self._path)
        )
        return True

    def _free_bytes(self) -> int:
        status = os.statvfs(self._path.parent)
        return status.f_bavail * status.f_frsize

    def _allocate(self) -> bool:
        partial = self._path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError as error:
            partial.unlink()
            if error.errno in _NO_ROOM:
                return False
            raise
        finally:
            os.close(descriptor)
        partial.replace(self._path)
        return True


def out_of_room(state: StateDir) -> bool:
    """Whether the directory takes no more: no space, over a quota, or beyond a file's size limit.

    SQLite has one error for the last two and for a broken disk (SQLITE_IOERR_WRITE). So a file of
    our own is written, as far out as the spool's files reach.
    """
    probe = state.path / "spool.probe"
    reach = max(path.stat().st_size for path in (state.database, state.wal) if path.exists())
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, os.urandom(_PROBE_BYTES), reach)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        return error.errno in _NO_ROOM
    return False
