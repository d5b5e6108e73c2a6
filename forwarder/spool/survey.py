"""How far frames reach, and what they hold, without reading any line of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.model import FrameKind
from forwarder.spool.frames import number
from forwarder.spool.interface import HandedOut, Survey

if TYPE_CHECKING:
    import sqlite3

#: So many frames at a time: others wait for the thread that reads.
_MAX_FRAMES = 10_000


def survey(
    connection: sqlite3.Connection,
    after_id: int,
    *,
    max_stored_bytes: int,
    max_raw_bytes: int,
    to_end: bool,
) -> Survey:
    """The frames behind this one within a size; see `Spool.survey`."""
    last_id, stored_bytes, raw_bytes = after_id, 0, 0
    # The length of a blob is in its row's head: its own pages are not read.
    rows = connection.execute(
        "SELECT id, length(data), raw_bytes, kind FROM frame WHERE id > ? ORDER BY id LIMIT ?",
        (after_id, _MAX_FRAMES),
    )
    for frame_id, stored, raw, kind in rows:
        last_id = frame_id
        stored_bytes += number(stored)
        raw_bytes += number(raw)
        is_large = stored_bytes >= max_stored_bytes or raw_bytes >= max_raw_bytes
        if is_large or (to_end and kind == FrameKind.END):
            return Survey(last_id, stored_bytes, raw_bytes, full=True)
    return Survey(last_id, stored_bytes, raw_bytes)


def between(connection: sqlite3.Connection, after_id: int, through_id: int) -> HandedOut:
    """What there is behind one frame and up to another; gap and end records are no lines."""
    lines, last_id = connection.execute(
        "SELECT sum(lines), max(id) FROM frame WHERE id > ? AND id <= ?", (after_id, through_id)
    ).fetchone()
    return HandedOut(number(lines), number(last_id))
