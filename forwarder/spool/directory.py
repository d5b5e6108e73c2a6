"""`state_dir`: what is where in it, and the lock that one daemon holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import SpoolLockedError, SpoolUntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: `status` holds the lock for an instant to see whether it is free: that is no other daemon.
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class StateDir:
    """Where everything of a daemon lives."""

    path: Path

    @property
    def database(self) -> Path:
        """The spool."""
        return self.path / "spool.db"

    @property
    def marker(self) -> Path:
        """Holds the spool's id: a database that is gone is never taken for a first start."""
        return self.path / "spool.id"

    @property
    def renewed(self) -> Path:
        """A new spool that is complete and not in its place yet; see `forwarder.spool.renewal`."""
        return self.path / "spool.renewed"

    @property
    def mark(self) -> Path:
        """How far the spool had come; see `forwarder.spool.mark`."""
        return self.path / "spool.mark"

    @property
    def ballast(self) -> Path:
        """Deleted when the disk is full, so that cleaning up has room."""
        return self.path / "ballast"

    @property
    def wal(self) -> Path:
        """SQLite's write-ahead log of the database."""
        return self.path / "spool.db-wal"

    @property
    def lock(self) -> Path:
        """Held (flock) by the daemon that runs; its content is that daemon's process id."""
        return self.path / "lock"


@contextlib.contextmanager
def locked(state: StateDir) -> Iterator[None]:
    """Hold `state_dir`, made with mode 0700 when it is not there.

    The kernel lets go of the lock when the process dies, however it dies.

    Raises:
        SpoolLockedError: Another daemon holds it.
        SpoolUntrustedError: It cannot be made or written.
    """
    try:
        _make_directory(state.path)
        descriptor = os.open(state.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolUntrustedError(f"state_dir {state.path} cannot be used: {error}") from error
    try:
        if not _lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise SpoolLockedError(
                f"state_dir {state.path} is held by another daemon (process {holder})"
            )
        _write_pid(descriptor, state)
        yield
    finally:
        os.close(descriptor)


def _make_directory(path: Path) -> None:
    """Make a directory and those above it, so that they are still there after a power cut."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        _make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    # Whoever may make a directory somewhere may not always read there, which syncing needs.
    with contextlib.suppress(PermissionError):
        sync_directory(path.parent)


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    for attempt in range(_LOCK_ATTEMPTS):
        if attempt:
            time.sleep(_LOCK_PAUSE_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _write_pid(descriptor: int, state: StateDir) -> None:
    """Say who holds the lock; a full disk is no reason not to start."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise SpoolUntrustedError(f"{state.lock} cannot be written: {error}") from error


def is_locked(state: StateDir) -> int | None:
    """The process id of the daemon that holds `state_dir`, 0 when unknown; None without one."""
    try:
        descriptor = os.open(state.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make creating, renaming and deleting in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
