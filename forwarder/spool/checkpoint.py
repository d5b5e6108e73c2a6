"""Copying the write-ahead log back into the database, where an error of it is heard.

SQLite would do that by itself, at the end of a COMMIT, and keep its errors to itself: a sync of the
database that failed would never be noticed, and the log would grow. So it is turned off, and the
writing thread does it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

#: Pages of 16 KiB in the WAL before it is copied back: 32 MiB.
CHECKPOINT_PAGES = 2048

#: The file format of the log: sqlite.org/walformat.html
_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_PAGE_SIZE = slice(8, 12)
_HEADER_SALTS = slice(16, 24)
_FRAME_SALTS = slice(8, 16)


class WalCheckpoint:
    """Bounds the log of one connection, the only one that copies it back."""

    def __init__(self, connection: sqlite3.Connection, *, pages: int = CHECKPOINT_PAGES) -> None:
        """Copy the log back when it has so many pages, from now on and not before."""
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        self.pages = max(pages, 1)
        self._path = f"{connection.execute('PRAGMA database_list').fetchone()[2]}-wal"

    def due(self) -> bool:
        """Whether the log has grown to its limit.

        Its size does not tell: once it is copied back, it is written again from its beginning. But
        what was written since then has the salts of its header.

        Raises:
            OSError: It cannot be read.
        """
        try:
            # SQLite holds no lock on this file that closing it would let go of.
            log = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            header = os.pread(log, _HEADER_BYTES, 0)
            frame_bytes = _FRAME_HEADER_BYTES + int.from_bytes(header[_PAGE_SIZE], "big")
            last_at = _HEADER_BYTES + (self.pages - 1) * frame_bytes
            last = os.pread(log, _FRAME_HEADER_BYTES, last_at)
        finally:
            os.close(log)
        return bool(last) and last[_FRAME_SALTS] == header[_HEADER_SALTS]


def copy_back(connection: sqlite3.Connection) -> None:
    """Copy the log as far as no reader is in the way, so that it is written from its beginning.

    Raises:
        sqlite3.Error: Of the storage; a reader in the way is none.
    """
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def cut_off(connection: sqlite3.Connection) -> None:
    """Copy the log into the database and cut it off; no reader in the way is waited for.

    Raises:
        sqlite3.Error: See above.
    """
    timeout_ms = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")
