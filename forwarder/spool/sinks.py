"""The statements about sinks: cursors, counters and what sinks remember."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.dead_letters import put_letters
from forwarder.spool.dropped import count_dropped
from forwarder.spool.interface import DropReason, SinkRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from forwarder.spool.dead_letters import PackedLetter
    from forwarder.spool.interface import Delivery


def open_sink(
    connection: sqlite3.Connection, name: str, *, from_oldest: bool, destination: str, now_ns: int
) -> SinkRecord:
    """Find or make a sink. A new one begins before the oldest frame held, or after the newest.

    One that was not configured for a while goes on where it stood; what was deleted meanwhile is
    counted as dropped.
    """
    last_id, total_lines, total_bytes, held_lines, held_bytes = connection.execute(
        "SELECT last_frame_id, total_lines, total_bytes, held_lines, held_bytes FROM counter"
    ).fetchone()
    begin = (last_id, total_lines, total_bytes)
    if from_oldest:
        oldest_id = connection.execute("SELECT min(id) FROM frame").fetchone()[0]
        if oldest_id is not None:
            begin = (oldest_id - 1, total_lines - held_lines, total_bytes - held_bytes)
    connection.execute(
        "INSERT OR IGNORE INTO sink"
        " (name, cursor, base_lines, cursor_lines, cursor_bytes, destination, since_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (name, begin[0], begin[1], begin[1], begin[2], destination, now_ns),
    )
    cursor, retired_ns = connection.execute(
        "SELECT cursor, retired_ns FROM sink WHERE name = ?", (name,)
    ).fetchone()
    missed = _bring_back(connection, name) if retired_ns else 0
    state = dict(
        connection.execute("SELECT key, value FROM sink_state WHERE sink = ?", (name,)).fetchall()
    )
    return SinkRecord(name, cursor, state, missed)


def advance(
    connection: sqlite3.Connection,
    sink: str,
    cursor: int,
    changes: Mapping[str, bytes | None],
    delivery: Delivery,
    letters: Sequence[PackedLetter] = (),
) -> None:
    """Move a cursor forward; it can stand only at a frame that is still there.

    Lines that it was handed and that were found damaged since have counted as dropped: what the
    delivery says beyond what is there now is taken off that number again. The dead letters are
    stored with it, and counted: `delivery.dead_lettered` are their lines.

    Raises:
        SpoolUntrustedError: It cannot stand there. Going on would lose or repeat records.
    """
    # Frames are deleted from between others (a quiet stream keeps its tail), so what the cursor
    # moves over is summed up, not subtracted.
    lines, size_bytes, newest_id = connection.execute(
        "SELECT coalesce(sum(frame.lines), 0), coalesce(sum(raw_bytes), 0), max(frame.id)"
        " FROM sink, frame WHERE sink.name = ? AND frame.id > sink.cursor AND frame.id <= ?",
        (sink, cursor),
    ).fetchone()
    if newest_id != cursor:
        raise SpoolUntrustedError(f"the cursor of sink {sink} cannot move to frame {cursor}")
    damaged = lines - sum(dataclasses.astuple(delivery))
    count_dropped(connection, sink, DropReason.DAMAGED, damaged)
    count_dropped(connection, sink, DropReason.REFUSED_UNNAMED, delivery.dropped)
    connection.execute(
        "UPDATE sink SET cursor = ?, cursor_lines = cursor_lines + ?,"
        " cursor_bytes = cursor_bytes + ?, delivered = delivered + ?, filtered = filtered + ?"
        " WHERE name = ?",
        (cursor, lines, size_bytes, delivery.delivered, delivery.filtered, sink),
    )
    put_letters(connection, sink, letters)
    remember(connection, sink, changes)


def remember(
    connection: sqlite3.Connection, sink: str, changes: Mapping[str, bytes | None]
) -> None:
    """Store or forget what a sink remembers."""
    connection.executemany(
        "INSERT INTO sink_state VALUES (?, ?, ?)"
        " ON CONFLICT (sink, key) DO UPDATE SET value = excluded.value",
        [(sink, key, value) for key, value in changes.items() if value is not None],
    )
    connection.executemany(
        "DELETE FROM sink_state WHERE sink = ? AND key = ?",
        [(sink, key) for key, value in changes.items() if value is None],
    )


def note_sink(
    connection: sqlite3.Connection, sink: str, state: str, detail: str, now_ns: int
) -> None:
    """Say how a sink is; `since_ns` moves only when that changes."""
    connection.execute(
        "UPDATE sink SET since_ns = CASE WHEN state = ?1 THEN since_ns ELSE ?3 END,"
        " state = ?1, detail = ?2 WHERE name = ?4",
        (state, detail, now_ns, sink),
    )


def configure_sinks(
    connection: sqlite3.Connection, destinations: Mapping[str, str], now_ns: int
) -> dict[str, int]:
    """Take over the configuration's sinks; the pending records of those it no longer has, by name.

    A sink that is not configured any more holds no frames back, but its cursor and what it
    remembers stay: should it come back, under its name or another one for the same destination,
    it must not write again what it had written.
    """
    # Of several that wrote to the same place, the one that did so last is the one to go on with.
    known = dict(
        connection.execute(
            "SELECT name, destination FROM sink ORDER BY retired_ns > 0, retired_ns DESC"
        ).fetchall()
    )
    for name, destination in destinations.items():
        if name not in known and destination:
            _rename(connection, known, destinations, name)
        connection.execute("UPDATE sink SET destination = ? WHERE name = ?", (destination, name))
    retired: dict[str, int] = {}
    rows = connection.execute(
        "SELECT name, total_lines - cursor_lines FROM sink, counter WHERE retired_ns = 0"
    ).fetchall()
    for name, pending in rows:
        if name not in destinations:
            retired[name] = pending
            connection.execute("UPDATE sink SET retired_ns = ? WHERE name = ?", (now_ns, name))
    return retired


def _rename(
    connection: sqlite3.Connection,
    known: Mapping[str, str],
    destinations: Mapping[str, str],
    name: str,
) -> None:
    """Give a sink its new name, if one that is not configured any more wrote to the same place."""
    for old, destination in known.items():
        if destination == destinations[name] and old not in destinations:
            connection.execute("UPDATE sink SET name = ? WHERE name = ?", (name, old))
            for table in ("sink_state", "dropped_lines", "dead_letter"):
                connection.execute(
                    f"UPDATE {table} SET sink = ? WHERE sink = ?",  # noqa: S608 - constants
                    (name, old),
                )
            return


def _bring_back(connection: sqlite3.Connection, name: str) -> int:
    """A sink that was not configured for a while goes on; how many records it missed meanwhile."""
    held_lines, held_bytes = connection.execute(
        "SELECT coalesce(sum(frame.lines), 0), coalesce(sum(raw_bytes), 0) FROM sink, frame"
        " WHERE sink.name = ? AND frame.id > sink.cursor",
        (name,),
    ).fetchone()
    missed, missed_bytes = connection.execute(
        "SELECT total_lines - cursor_lines - ?, total_bytes - cursor_bytes - ? FROM sink, counter"
        " WHERE name = ?",
        (held_lines, held_bytes, name),
    ).fetchone()
    connection.execute(
        "UPDATE sink SET retired_ns = 0, cursor_lines = cursor_lines + ?,"
        " cursor_bytes = cursor_bytes + ? WHERE name = ?",
        (missed, missed_bytes, name),
    )
    count_dropped(connection, name, DropReason.NOT_CONFIGURED, missed)
    return int(missed)
