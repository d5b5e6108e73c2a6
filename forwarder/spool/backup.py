"""A consistent copy of the spool, beside a daemon that goes on writing.

The copy reads one state of the spool from beginning to end: copied in pieces it would begin again
at every commit. Meanwhile the write-ahead log grows by what the daemon writes, and no more.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError, UsageError
from forwarder.spool.files import StateDir, connect_reader, spool_id, sync_directory
from forwarder.spool.mark import Mark, encode
from forwarder.spool.verify import VerifyReport, verify

__all__ = ["BackupReport", "VerifyReport", "backup", "verify"]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Pages of 16 KiB copied at a time: 16 MiB.
_STEP_PAGES = 1024


def _quiet(_done: int, _all: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A finished copy.

    Attributes:
        path: The directory that holds it; it can be a `state_dir`.
        size_bytes: Of the database in it.
        frames: In it.
        last_frame_id: How far it goes.
    """

    path: Path
    spool_id: str
    size_bytes: int
    frames: int
    last_frame_id: int


def backup(
    state: StateDir, target: Path, *, progress: Callable[[int, int], None] = _quiet
) -> BackupReport:
    """Copy the spool into a new directory, as it is at the moment when the copying begins.

    Args:
        state: Where the spool is; a daemon may be writing.
        target: The directory to make.
        progress: Told how many pages of how many are copied.

    Raises:
        UsageError: There is something at the target already: a copy never overwrites.
        SpoolUntrustedError: There is no spool, it cannot be read, or the copy cannot be written.
    """
    source = connect_reader(state)
    try:
        with closing(source):
            target.mkdir(mode=0o700, parents=True)
            try:
                return _copy(source, StateDir(target), progress)
            except BaseException:
                shutil.rmtree(target)
                raise
    except FileExistsError as error:
        raise UsageError(f"{target} exists: a backup never overwrites") from error
    except (OSError, sqlite3.Error) as error:
        raise SpoolUntrustedError(f"no backup at {target}: {error}") from error


def _copy(
    source: sqlite3.Connection, copy: StateDir, progress: Callable[[int, int], None]
) -> BackupReport:
    os.close(os.open(copy.database, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(copy.database, isolation_level=None)) as target:

        def told(_status: int, remaining: int, total: int) -> None:
            progress(total - remaining, total)

        source.execute("BEGIN")
        source.execute("SELECT last_frame_id FROM counter").fetchone()
        source.backup(target, pages=_STEP_PAGES, progress=told, sleep=0.0)
        target.execute("PRAGMA journal_mode = DELETE")
        own_id = spool_id(target, copy)
        last_id, lines, frames = target.execute(
            "SELECT last_frame_id, total_lines, held_frames FROM counter"
        ).fetchone()
    copy.marker.write_text(f"{own_id}\n", "ascii")
    copy.mark.write_bytes(encode(Mark(own_id, last_id, lines)))
    for path in (copy.database, copy.marker, copy.mark):
        _sync(path)
    sync_directory(copy.path)
    sync_directory(copy.path.parent)
    return BackupReport(copy.path, own_id, copy.database.stat().st_size, frames, last_id)


def _sync(path: Path) -> None:
    path.chmod(0o600)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
