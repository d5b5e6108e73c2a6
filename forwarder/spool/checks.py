"""Whether a spool can be believed, and whether it went back; looked at before it is used."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import structlog

from forwarder.errors import SpoolUntrustedError
from forwarder.spool import statements
from forwarder.spool.files import ADVICE, spool_id
from forwarder.spool.mark import Mark, read_mark

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir

_log = structlog.get_logger()

#: Everything but frames and dead letters: these are verified one by one, when they are read.
SMALL_TABLES = ("counter", "stream", "sink", "sink_state", "dropped_lines", "gap", "note")


def check(connection: sqlite3.Connection, state: StateDir) -> None:
    """Read every small table whole, and see that its numbers can be true.

    Raises:
        SpoolUntrustedError: It is damaged.
    """
    try:
        for table in SMALL_TABLES:
            for _ in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a constant
                pass
        problem = _problem(connection)
    except sqlite3.Error as error:
        raise SpoolUntrustedError(f"{state.database} is damaged: {error}; {ADVICE}") from error
    if problem:
        raise SpoolUntrustedError(f"{state.database} is damaged: {problem}; {ADVICE}")


def _problem(connection: sqlite3.Connection) -> str:
    last_id, total_lines, held_lines, held_frames = connection.execute(
        "SELECT last_frame_id, total_lines, held_lines, held_frames FROM counter"
    ).fetchone()
    newest_id = newest_frame_id(connection)
    cursor = connection.execute("SELECT coalesce(max(cursor), 0) FROM sink").fetchone()[0]
    if newest_id > last_id or cursor > last_id:
        return f"frame {max(newest_id, cursor)} is newer than the newest ({last_id})"
    if not 0 <= held_lines <= total_lines or not 0 <= held_frames <= last_id:
        return "its counters contradict each other"
    return ""


def newest_frame_id(connection: sqlite3.Connection) -> int:
    """The id of the newest frame held, 0 without any."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM frame").fetchone()[0])


def level(connection: sqlite3.Connection, state: StateDir) -> Mark:
    """How far the database has come."""
    row = connection.execute("SELECT last_frame_id, total_lines FROM counter").fetchone()
    return Mark(spool_id(connection, state), *row)


def catch_up(connection: sqlite3.Connection, state: StateDir, now_ns: int) -> tuple[Mark, str]:
    """Compare the database with its high-water mark; the true mark, and a note for `status`.

    A database that went back (an old copy, or a log that was damaged) is used all the same: its
    positions went back with it, so what is missing is read again from the source. But an id that
    was given to a frame is never given to another one.
    """
    own = level(connection, state)
    mark = None
    if own.last_frame_id or state.mark.exists():
        mark = read_mark(state.mark)
    if mark is not None and mark.spool_id != own.spool_id:
        _log.warning("the high-water mark is another spool's, it is made again")
        mark = None
    if mark is None or mark.last_frame_id <= own.last_frame_id:
        with contextlib.suppress(sqlite3.OperationalError):  # on a full disk it stays a while
            statements.note(connection, "spool", "", now_ns)
        return own, ""
    _log.error(
        "spool went back",
        from_frame=mark.last_frame_id,
        to_frame=own.last_frame_id,
        lines=mark.total_lines - own.total_lines,
    )
    text = (
        f"the spool went back from frame {mark.last_frame_id} to {own.last_frame_id}"
        f" ({mark.total_lines - own.total_lines} lines): an old copy, or a damaged log;"
        " what is missing is read again from the source where it still has it"
    )
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE counter SET last_frame_id = ?", (mark.last_frame_id,))
    statements.note(connection, "spool", text, now_ns)
    connection.execute("COMMIT")
    return Mark(own.spool_id, mark.last_frame_id, own.total_lines), text
