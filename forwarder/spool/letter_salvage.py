"""Dead letters of a spool that cannot be used, as far as they can be read."""

from __future__ import annotations

import contextlib
import sqlite3

from forwarder.spool.dead_letters import LETTER_COLUMNS, unpack_letter
from forwarder.spool.dropped import count_dropped
from forwarder.spool.frames import FrameDamagedError
from forwarder.spool.interface import DropReason
from forwarder.spool.wreck import ids_of_wreck

_COLUMNS = f"{LETTER_COLUMNS}, sink, size_bytes"


def copy_letters(old: sqlite3.Connection, new: sqlite3.Connection) -> int:
    """Copy the dead letters whose checksum is right and whose stream is known; how many."""
    streams = {row[0] for row in new.execute("SELECT id FROM stream")}
    sinks = {row[0] for row in new.execute("SELECT name FROM sink")}
    copied = 0
    for letter_id in sorted(ids_of_wreck(old, "dead_letter")):
        with contextlib.suppress(sqlite3.Error, FrameDamagedError):
            row = old.execute(
                f"SELECT {_COLUMNS} FROM dead_letter WHERE id = ?",  # noqa: S608 - constants
                (letter_id,),
            ).fetchone()
            held = unpack_letter(row[:-2])
            if held.letter.stream_id in streams and row[-2] in sinks:
                new.execute(
                    f"INSERT INTO dead_letter ({_COLUMNS})"  # noqa: S608 - constants
                    f" VALUES ({', '.join('?' * len(row))})",
                    row,
                )
                copied += 1
    _go_on_counting(old, new)
    return copied


def _go_on_counting(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """See that an id that was given to a letter is never given to another one."""
    with contextlib.suppress(sqlite3.Error):
        rows = old.execute("SELECT seq FROM sqlite_sequence WHERE name = 'dead_letter'").fetchall()
        for row in rows:
            new.execute("DELETE FROM sqlite_sequence WHERE name = 'dead_letter'")
            new.execute("INSERT INTO sqlite_sequence VALUES ('dead_letter', ?)", row)


def count_letters(new: sqlite3.Connection) -> int:
    """Make the sinks' numbers agree with the letters there are; lines that are lost are dropped.

    What an older spool counted as dropped without saying why gets that for a reason.
    """
    lost = 0
    rows = new.execute(
        "SELECT name, dead_lettered,"
        " dropped - (SELECT coalesce(sum(lines), 0) FROM dropped_lines WHERE sink = name) FROM sink"
    ).fetchall()
    for name, dead_lettered, unexplained in rows:
        new.execute("UPDATE sink SET dropped = dropped - ? WHERE name = ?", (unexplained, name))
        count_dropped(new, name, DropReason.UNRECORDED, unexplained)
        letters, lines, size_bytes = new.execute(
            "SELECT count(*), coalesce(sum(lines), 0), coalesce(sum(size_bytes), 0)"
            " FROM dead_letter WHERE sink = ?",
            (name,),
        ).fetchone()
        new.execute(
            "UPDATE sink SET letters = ?, dead_lettered = ?, letter_bytes = ? WHERE name = ?",
            (letters, lines, size_bytes, name),
        )
        count_dropped(new, name, DropReason.DAMAGED, dead_lettered - lines)
        lost += dead_lettered - lines
    return lost
