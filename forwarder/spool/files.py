"""The files of `state_dir`: the lock, the database, and the marker that says there was one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.errors import SpoolLockedError, SpoolUntrustedError
from forwarder.spool.schema import APPLICATION_ID, CREATE_PRAGMAS, SCHEMA_VERSION, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise SpoolLockedError(
                f"state_dir {state.path} is held by another daemon (process {holder})"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(state: StateDir) -> int | None:
    """The process id of the daemon that holds `state_dir`, or None."""
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


def connect_writer(state: StateDir, *, busy_timeout_s: float = 60.0) -> sqlite3.Connection:
    """Open the spool for writing, or make it where there never was one.

    Raises:
        SpoolUntrustedError: It is missing though there was one, not ours, of another version,
            damaged, or cannot be opened. Never a silent fresh start.
    """
    fresh = not state.database.exists()
    if fresh and state.marker.exists():
        raise SpoolUntrustedError(
            f"{state.database} is missing, but {state.marker} says that there was one;"
            " put it back, or remove the marker to begin anew (what it held is lost)"
        )
    try:
        connection = sqlite3.connect(
            state.database, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise SpoolUntrustedError(f"{state.database} cannot be opened: {error}") from error
    try:
        if fresh:
            state.database.chmod(0o600)
            _create(connection)
        _verify(connection, state)
    except sqlite3.Error as error:
        connection.close()
        raise SpoolUntrustedError(f"{state.database} cannot be used: {error}") from error
    except (SpoolUntrustedError, OSError):
        connection.close()
        raise
    _write_marker(state, connection.execute("SELECT spool_id FROM counter").fetchone()[0])
    return connection


def connect_reader(state: StateDir) -> sqlite3.Connection:
    """Open the spool for reading only; such a connection never checkpoints.

    Raises:
        SpoolUntrustedError: There is none, or it cannot be read.
    """
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
        raise SpoolUntrustedError(f"{state.database} cannot be read: {error}") from error
    return connection


def _create(connection: sqlite3.Connection) -> None:
    for pragma in CREATE_PRAGMAS:
        connection.execute(pragma)
    connection.executescript(f"BEGIN; {TABLES} COMMIT;")
    connection.execute("INSERT INTO counter VALUES (?, 0, 0, 0)", (str(uuid.uuid4()),))


def _verify(connection: sqlite3.Connection, state: StateDir) -> None:
    """Check that this is our spool, and that every commit will be an fsync."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise SpoolUntrustedError(f"{state.database} is not a spool of this program")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise SpoolUntrustedError(
            f"{state.database} has schema {version}; this version reads schema {SCHEMA_VERSION}"
        )
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    connection.execute("PRAGMA synchronous = FULL")
    # In WAL mode anything below FULL does not sync on commit: 22 of 60 power cuts lost
    # acknowledged commits (measured). So it is read back, not believed.
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    if (mode, synchronous) != ("wal", 2):
        raise SpoolUntrustedError(
            f"{state.database}: journal_mode {mode} and synchronous {synchronous} instead of wal, 2"
        )
    if connection.execute("SELECT count(*) FROM counter").fetchone()[0] != 1:
        raise SpoolUntrustedError(f"{state.database} has lost its counters")


def _write_marker(state: StateDir, spool_id: str) -> None:
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
    with partial.open("w", encoding="ascii") as file:
        file.write(f"{spool_id}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(state.marker)
    directory = os.open(state.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
