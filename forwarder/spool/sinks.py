"""The statements about sinks: cursors, counters and what sinks remember."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.interface import Delivery, SinkRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping


def open_sink(
    connection: sqlite3.Connection, name: str, *, from_oldest: bool, now_ns: int
) -> SinkRecord:
    """Find or make a sink. A new one begins before the oldest frame held, or after the newest."""
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
        " (name, cursor, base_lines, cursor_lines, cursor_bytes, since_ns)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (name, begin[0], begin[1], begin[1], begin[2], now_ns),
    )
    cursor = connection.execute("SELECT cursor FROM sink WHERE name = ?", (name,)).fetchone()[0]
    state = dict(
        connection.execute("SELECT key, value FROM sink_state WHERE sink = ?", (name,)).fetchall()
    )
    return SinkRecord(name, cursor, state)


def advance(
    connection: sqlite3.Connection,
    sink: str,
    cursor: int,
    changes: Mapping[str, bytes | None],
    delivery: Delivery,
) -> None:
    """Move a cursor forward; it can stand only at a frame that is still there.

    Raises:
        SpoolUntrustedError: It cannot stand there. Going on would lose or repeat records.
    """
    # Frames are deleted from between others (a quiet stream keeps its tail), so what the cursor
    # moves over is summed up, not subtracted.
    lines, size_bytes, newest_id = connection.execute(
        "SELECT sum(frame.lines), sum(raw_bytes), max(frame.id) FROM sink, frame"
        " WHERE sink.name = ? AND frame.id > sink.cursor AND frame.id <= ?",
        (sink, cursor),
    ).fetchone()
    if newest_id != cursor:
        raise SpoolUntrustedError(f"the cursor of sink {sink} cannot move to frame {cursor}")
    connection.execute(
        "UPDATE sink SET cursor = ?, cursor_lines = cursor_lines + ?,"
        " cursor_bytes = cursor_bytes + ?, delivered = delivered + ?, filtered = filtered + ?,"
        " dead_lettered = dead_lettered + ?, dropped = dropped + ? WHERE name = ?",
        (cursor, lines, size_bytes, *dataclasses.astuple(delivery), sink),
    )
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


def retire_sinks(connection: sqlite3.Connection, keep: Iterable[str]) -> dict[str, int]:
    """Forget the sinks that are not configured any more; their pending records, by name."""
    kept = set(keep)
    retired: dict[str, int] = {}
    rows = connection.execute(
        "SELECT name, total_lines - cursor_lines FROM sink, counter"
    ).fetchall()
    for name, pending in rows:
        if name not in kept:
            retired[name] = pending
            connection.execute("DELETE FROM sink WHERE name = ?", (name,))
            connection.execute("DELETE FROM sink_state WHERE sink = ?", (name,))
    return retired
