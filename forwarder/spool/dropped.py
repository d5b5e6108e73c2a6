"""The statements that count dropped lines, by reason; `sink.dropped` is always their sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from forwarder.spool.interface import DropReason

_COUNT = (
    "INSERT INTO dropped_lines VALUES (?, ?, ?)"
    " ON CONFLICT (sink, reason) DO UPDATE SET lines = lines + excluded.lines"
)


def count_dropped(
    connection: sqlite3.Connection, sink: str, reason: DropReason, lines: int
) -> None:
    """Count lines as dropped for a sink, or with a negative number as not dropped after all."""
    if lines:
        connection.execute("UPDATE sink SET dropped = dropped + ? WHERE name = ?", (lines, sink))
        connection.execute(_COUNT, (sink, reason, lines))


def dropped_for(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """By sink and reason."""
    found: dict[str, dict[str, int]] = {}
    rows = connection.execute(
        "SELECT sink, reason, lines FROM dropped_lines WHERE lines <> 0 ORDER BY sink, reason"
    )
    for sink, reason, lines in rows:
        found.setdefault(sink, {})[reason] = lines
    return found
