"""The spool's numbers, read in one consistent view: by the daemon, and by `status` beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import StreamKey, StreamState
from forwarder.spool.files import StateDir, connect_reader
from forwarder.spool.interface import Note, SinkOverview, SpoolOverview, StreamOverview
from forwarder.spool.statements import guarded

if TYPE_CHECKING:
    import sqlite3


def read_overview(connection: sqlite3.Connection) -> SpoolOverview:
    """Everything `status` and the metrics show; its cost grows with the streams, not the frames."""
    connection.execute("BEGIN")
    try:
        return _overview(connection)
    finally:
        connection.execute("ROLLBACK")


def overview_of(state: StateDir) -> SpoolOverview:
    """The numbers of a spool that another process may be writing.

    Raises:
        SpoolUntrustedError: There is none, or it cannot be read.
    """
    connection = connect_reader(state)
    try:
        return guarded(read_overview, connection)
    finally:
        connection.close()


def _overview(connection: sqlite3.Connection) -> SpoolOverview:
    spool_id, frames, total_lines, total_bytes = connection.execute(
        "SELECT spool_id, held_frames, total_lines, total_bytes FROM counter"
    ).fetchone()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    gaps = dict(
        connection.execute("SELECT stream_id, count(*) FROM gap GROUP BY stream_id").fetchall()
    )
    streams = [
        StreamOverview(
            key=StreamKey(row[1], row[2]),
            display_name=row[3],
            state=StreamState(row[4]),
            detail=row[5],
            since_ns=row[6],
            lines=row[7],
            bytes=row[8],
            last_stamp_ns=row[9],
            gaps=gaps.get(row[0], 0),
        )
        for row in connection.execute(
            "SELECT id, sandbox_id, container, info ->> 'display_name', state, detail, since_ns,"
            " next_line, bytes, high_stamp_ns FROM stream ORDER BY sandbox_id, container"
        )
    ]
    sinks = [
        SinkOverview(
            name=row[0],
            state=row[1],
            detail=row[2],
            since_ns=row[3],
            taken=total_lines - row[4],
            delivered=row[5],
            filtered=row[6],
            dead_lettered=row[7],
            dropped=row[8],
            pending=total_lines - row[9],
            pending_bytes=total_bytes - row[10],
        )
        for row in connection.execute(
            "SELECT name, state, detail, since_ns, base_lines, delivered, filtered, dead_lettered,"
            " dropped, cursor_lines, cursor_bytes FROM sink WHERE retired_ns = 0 ORDER BY name"
        )
    ]
    return SpoolOverview(
        spool_id,
        frames=frames,
        size_bytes=pages * page_bytes,
        streams=streams,
        sinks=sinks,
        notes=[
            Note(*row)
            for row in connection.execute("SELECT name, text, since_ns FROM note ORDER BY name")
        ],
    )
