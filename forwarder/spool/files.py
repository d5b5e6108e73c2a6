"""The database of `state_dir`, and the marker that says there was one."""

from __future__ import annotations

import os
import sqlite3
import uuid
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.directory import StateDir, is_locked, locked, sync_directory
from forwarder.spool.migrations import can_migrate, migrate
from forwarder.spool.schema import APPLICATION_ID, CREATE_PRAGMAS, SCHEMA_VERSION, TABLES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ADVICE",
    "BUSY_TIMEOUT_S",
    "StateDir",
    "connect_reader",
    "connect_writer",
    "is_locked",
    "locked",
    "make_database",
    "spool_id",
    "sync_directory",
    "write_marker",
]

#: What to do about a spool that is refused. Nothing is deleted by it.
ADVICE = (
    "put it back or mend it, or start with --new-spool: that sets it aside and begins a new one"
    " with what can be read of it"
)

#: How long a statement waits for another process that writes.
BUSY_TIMEOUT_S = 5.0

#: The file format of SQLite: sqlite.org/fileformat.html#the_database_header
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100


def connect_writer(
    state: StateDir,
    *,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    """Open the spool for writing, or make it where there never was one; an older one is migrated.

    What is refused is not touched: it may be somebody else's, or all that is left.

    Args:
        state: The directory, locked.
        busy_timeout_s: How long a statement waits for another process that writes.
        factory: The class of the connection; faults come in here.

    Raises:
        SpoolUntrustedError: It is missing though there was one, not ours, of another version,
            damaged, or cannot be opened. Never a silent fresh start. The message says what to do.
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
        raise SpoolUntrustedError(
            f"{state.database} cannot be opened: {error}; {ADVICE}"
        ) from error
    try:
        _require_version(connection, state)
        _require_durable(connection, state)
        migrate(connection)
        _mark(state, spool_id(connection, state))
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise SpoolUntrustedError(f"{state.database} cannot be used: {error}; {ADVICE}") from error
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
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it has schema {version}, this version {SCHEMA_VERSION}")
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
            f"{state.database} is missing, but {state.marker} says that there was one; {ADVICE}"
        )
    partial = state.database.with_suffix(".partial")
    make_database(partial)
    partial.replace(state.database)
    sync_directory(state.path)


def make_database(path: Path) -> None:
    """Make an empty spool in a file of its own, with a new id; what is there is replaced."""
    for left in (path, path.with_name(f"{path.name}-journal")):
        left.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in CREATE_PRAGMAS:
            connection.execute(pragma)
        connection.executescript(f"BEGIN; {TABLES}")
        connection.execute("INSERT INTO counter (spool_id) VALUES (?)", (str(uuid.uuid4()),))
        connection.execute("COMMIT")
    finally:
        connection.close()


def _identify(state: StateDir) -> None:
    """Look at the file's header, as bytes: SQLite itself may write when it opens a database."""
    with state.database.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise SpoolUntrustedError(f"{state.database} is not a database; {ADVICE}")
    application_id = int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID:
        raise SpoolUntrustedError(f"{state.database} is not a spool of this program; {ADVICE}")
    _check_version(state, int.from_bytes(header[60:64], "big"))


def _require_version(connection: sqlite3.Connection, state: StateDir) -> None:
    """Once more: a change of the schema may still be in the WAL."""
    _check_version(state, connection.execute("PRAGMA user_version").fetchone()[0])


def _check_version(state: StateDir, version: int) -> None:
    if version != SCHEMA_VERSION and not can_migrate(version):
        raise SpoolUntrustedError(
            f"{state.database} has schema {version}; this version reads schema {SCHEMA_VERSION}:"
            " run the version that wrote it"
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


def spool_id(connection: sqlite3.Connection, state: StateDir) -> str:
    """The id that the spool got when it was made.

    Raises:
        SpoolUntrustedError: It has none.
    """
    rows = connection.execute("SELECT spool_id FROM counter").fetchall()
    if len(rows) != 1:
        raise SpoolUntrustedError(f"{state.database} has lost its counters; {ADVICE}")
    return str(rows[0][0])


def _mark(state: StateDir, own_id: str) -> None:
    """Write the marker durably, or check that it names this very spool."""
    if state.marker.exists():
        marked = state.marker.read_text("ascii", "replace").strip()
        if marked != own_id:
            raise SpoolUntrustedError(
                f"{state.database} is spool {own_id}, but {state.marker} names {marked};"
                f" remove the marker if the exchange was meant, else {ADVICE}"
            )
        return
    write_marker(state, own_id)


def write_marker(state: StateDir, own_id: str) -> None:
    """Say durably which spool this directory has, in place of what was said before."""
    partial = state.marker.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{own_id}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(state.marker)
    sync_directory(state.path)
