"""From the schema of an earlier version to that of this one.

All steps are one transaction, so a kill in the middle leaves the old schema, and the next start
begins again. An earlier version of the program refuses the new schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.spool.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import sqlite3

#: By the version that they lead from, each to the next one.
STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE stream ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE stream ADD COLUMN lines INTEGER NOT NULL DEFAULT 0",
        "UPDATE stream SET lines = next_line",
        "ALTER TABLE frame ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE gap RENAME TO gap_1",
        "DROP INDEX gap_by_stream",
        """CREATE TABLE gap (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            stream_id INTEGER NOT NULL,
            kind TEXT NOT NULL,
            cause TEXT NOT NULL,
            bounds TEXT NOT NULL,
            generation INTEGER NOT NULL,
            after_line INTEGER NOT NULL,
            before_line INTEGER,
            from_stamp_ns INTEGER NOT NULL,
            to_stamp_ns INTEGER NOT NULL,
            from_offset TEXT,
            to_offset TEXT,
            noticed_ns INTEGER NOT NULL,
            filled_ns INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        "CREATE INDEX gap_by_stream ON gap (stream_id)",
        # Schema 1 knew the length of a range, not where it began: only the cause tells the kind.
        """INSERT INTO gap
            SELECT id, stream_id,
                CASE WHEN cause IN ('tail_unknown', 'never_followed') THEN 'tail' ELSE 'range' END,
                cause, 'approximate', 0, after_line,
                CASE WHEN cause IN ('tail_unknown', 'never_followed') THEN NULL
                    ELSE after_line + 1 END,
                from_stamp_ns, to_stamp_ns, NULL, NULL, noticed_ns, 0
            FROM gap_1""",
        "DROP TABLE gap_1",
    ),
    2: (
        "ALTER TABLE sink ADD COLUMN letters INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE sink ADD COLUMN letter_bytes INTEGER NOT NULL DEFAULT 0",
        """CREATE TABLE dropped_lines (
            sink TEXT NOT NULL,
            reason TEXT NOT NULL,
            lines INTEGER NOT NULL,
            PRIMARY KEY (sink, reason)
        ) STRICT, WITHOUT ROWID""",
        # Schema 2 kept no dead letters, nor why lines were dropped.
        "UPDATE sink SET dropped = dropped + dead_lettered, dead_lettered = 0",
        "INSERT INTO dropped_lines SELECT name, 'unrecorded', dropped FROM sink WHERE dropped <> 0",
        """CREATE TABLE dead_letter (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            sink TEXT NOT NULL,
            stream_id INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            first_line INTEGER NOT NULL,
            lines INTEGER NOT NULL,
            part INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            first_stamp_ns INTEGER NOT NULL,
            received_ns INTEGER NOT NULL,
            unnamed INTEGER NOT NULL,
            maybe_stored INTEGER NOT NULL,
            status TEXT NOT NULL,
            reason TEXT NOT NULL,
            noticed_ns INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            replay_ns INTEGER NOT NULL DEFAULT 0,
            size_bytes INTEGER NOT NULL,
            raw_bytes INTEGER NOT NULL,
            checksum INTEGER NOT NULL,
            data BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX dead_letter_by_sink ON dead_letter (sink, status)",
        "CREATE INDEX dead_letter_to_replay ON dead_letter (sink) WHERE replay_ns <> 0",
    ),
}


def can_migrate(version: int) -> bool:
    """Whether there is a way from this version to the present one."""
    return version in STEPS


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the schema up to date, in one transaction; returns the version that was found."""
    if (version := _version(connection)) == SCHEMA_VERSION:
        return version
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = version = _version(connection)
        while version in STEPS:
            for statement in STEPS[version]:
                connection.execute(statement)
            version += 1
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
