"""The files of `state_dir`: the lock, the database, and the marker that says there was one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import SpoolLockedError, SpoolUntrustedError
from forwarder.spool.schema import APPLICATION_ID, CREATE_PRAGMAS, SCHEMA_VERSION, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: `status` holds the lock for an instant to see whether it is free: that is no other daemon.
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02

#: The file format of SQLite: sqlite.org/fileformat.html#the_database_header
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100


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
        state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def connect_writer(
    state: StateDir,
    *,
    busy_timeout_s: float = 60.0,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    """Open the spool for writing, or make it where there never was one.

    What is refused is not touched: it may be somebody else's, or all that is left.

    Args:
        state: The directory, locked.
        busy_timeout_s: How long a statement waits for another process that writes.
        factory: The class of the connection; faults come in here.

    Raises:
        SpoolUntrustedError: It is missing though there was one, not ours, of another version,
            damaged, or cannot be opened. Never a silent fresh start.
    """
    try:
        if not state.database.exists():
            _make(state)
        _identify(state)
        connection = sqlite3.connect(
            f"{state.database.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            factory=factory,
        )
    except (sqlite3.Error, OSError) as error:
        raise SpoolUntrustedError(f"{state.database} cannot be opened: {error}") from error
    try:
        _require_version(connection, state)
        _require_durable(connection, state)
        _mark(state, _spool_id(connection, state))
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise SpoolUntrustedError(f"{state.database} cannot be used: {error}") from error
    except SpoolUntrustedError:
        connection.close()
        raise
    return connection


def connect_reader(state: StateDir) -> sqlite3.Connection:
    """Open the spool for reading only; such a connection never checkpoints.

    Raises:
        SpoolUntrustedError: There is none, or it cannot be read.
    """
    _require_there(state)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"{state.database.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=10.0,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT last_frame_id FROM counter").fetchone()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise SpoolUntrustedError(f"{state.database} cannot be read: {error}") from error
    return connection


def _require_there(state: StateDir) -> None:
    """Say plainly that no daemon was here: SQLite only says that it cannot open a file."""
    try:
        begun = state.database.exists() or state.marker.exists()
    except OSError as error:
        raise SpoolUntrustedError(f"{state.database} cannot be read: {error}") from error
    if not begun:
        raise SpoolUntrustedError(
            f"nothing here yet: no daemon has run with state_dir {state.path}"
        )


def _make(state: StateDir) -> None:
    """Make the database under another name and give it its own when it is whole.

    So a crash in the middle leaves nothing that the next start would have to refuse.
    """
    if state.marker.exists():
        raise SpoolUntrustedError(
            f"{state.database} is missing, but {state.marker} says that there was one;"
            " put it back, or remove the marker to begin anew (what it held is lost)"
        )
    partial = state.database.with_suffix(".partial")
    for left in (partial, partial.with_name(f"{partial.name}-journal")):
        left.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(partial, isolation_level=None)
    try:
        for pragma in CREATE_PRAGMAS:
            connection.execute(pragma)
        connection.executescript(f"BEGIN; {TABLES}")
        connection.execute("INSERT INTO counter (spool_id) VALUES (?)", (str(uuid.uuid4()),))
        connection.execute("COMMIT")
    finally:
        connection.close()
    partial.replace(state.database)
    _sync_directory(state.path)


def _identify(state: StateDir) -> None:
    """Look at the file's header, as bytes: SQLite itself may write when it opens a database."""
    with state.database.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise SpoolUntrustedError(f"{state.database} is not a database")
    application_id = int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID:
        raise SpoolUntrustedError(f"{state.database} is not a spool of this program")
    _check_version(state, int.from_bytes(header[60:64], "big"))


def _require_version(connection: sqlite3.Connection, state: StateDir) -> None:
    """Once more: a change of the schema may still be in the WAL."""
    _check_version(state, connection.execute("PRAGMA user_version").fetchone()[0])


def _check_version(state: StateDir, version: int) -> None:
    if version != SCHEMA_VERSION:
        raise SpoolUntrustedError(
            f"{state.database} has schema {version}; this version reads schema {SCHEMA_VERSION}"
        )


def _require_durable(connection: sqlite3.Connection, state: StateDir) -> None:
    """See that every commit will be an fsync.

    In WAL mode anything below FULL does not sync on commit: 22 of 60 power cuts lost acknowledged
    commits (measured). So it is read back, not believed.
    """
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    connection.execute("PRAGMA synchronous = FULL")
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    if (mode, synchronous) != ("wal", 2):
        raise SpoolUntrustedError(
            f"{state.database}: journal_mode {mode} and synchronous {synchronous} instead of wal, 2"
        )


def _spool_id(connection: sqlite3.Connection, state: StateDir) -> str:
    rows = connection.execute("SELECT spool_id FROM counter").fetchall()
    if len(rows) != 1:
        raise SpoolUntrustedError(f"{state.database} has lost its counters")
    return str(rows[0][0])


def _mark(state: StateDir, spool_id: str) -> None:
    """Write the marker durably, or check that it names this very spool."""
    if state.marker.exists():
        marked = state.marker.read_text("ascii", "replace").strip()
        if marked != spool_id:
            raise SpoolUntrustedError(
                f"{state.database} is spool {spool_id}, but {state.marker} names {marked};"
                " remove the marker if the exchange was meant"
            )
        return
    partial = state.marker.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{spool_id}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(state.marker)
    _sync_directory(state.path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
