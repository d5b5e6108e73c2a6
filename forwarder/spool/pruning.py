"""The statements that delete what nobody needs any more, and give its space back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.model import StreamState
from forwarder.spool.frames import HOLDS_LINES, number

if TYPE_CHECKING:
    import sqlite3

#: Deleted pages are given back to the file system when this many (of 16 KiB) are free: 64 MiB.
FREE_PAGES = 4096
_GIVE_BACK_PAGES = 512

_FOREVER_NS = 2**63 - 1

#: So much is kept at most of what has the highest stamp of its stream.
STANDING_BYTES = 64 << 20
STANDING_FRAMES = 4096

_OVER = {state for state in StreamState if state.final}


def stream_ids(connection: sqlite3.Connection) -> list[int]:
    """Every stream that still has frames."""
    rows = connection.execute(
        "SELECT id FROM stream WHERE EXISTS (SELECT 1 FROM frame WHERE stream_id = stream.id)"
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one call deleted.

    Attributes:
        frames: How many.
        newest_id: The newest of them; 0 when there are none.
        more: Whether there are more that only wait for a sink, or for the next call. When not,
            nothing changes before the stream's next commit.
        idle: Whether the stream is over and every sink is past all of it.
    """

    frames: int
    newest_id: int
    more: bool
    idle: bool


def prune(
    connection: sqlite3.Connection, stream_id: int, *, keep_tail_ns: int, limit: int
) -> Pruned:
    """Delete up to `limit` frames of a stream that every sink is past.

    A live stream keeps its tail, and at least its newest lines: a re-read is compared with them.
    One that the API does not know any more may come back, and is read again then. Most never do,
    so it keeps its newest lines only: they tell where a re-read reaches what is new.
    """
    everyone = connection.execute("SELECT min(cursor) FROM sink WHERE retired_ns = 0").fetchone()[0]
    high_ns, state = connection.execute(
        "SELECT high_stamp_ns, state FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    over = state in _OVER
    upto = (_FOREVER_NS, _FOREVER_NS)
    if not over:
        upto = max((high_ns - keep_tail_ns, -1), _standing(connection, stream_id, high_ns))
    spared = 0 if state == StreamState.COMPLETE else _newest_lines(connection, stream_id)
    chosen = "stream_id = ? AND (high_stamp_ns, id) <= (?, ?) AND id <> ?"
    deleted = connection.execute(
        f"DELETE FROM frame WHERE id IN (SELECT id FROM frame WHERE {chosen} AND id <= ? LIMIT ?)"  # noqa: S608 - a constant
        " RETURNING lines, raw_bytes, id, high_stamp_ns",
        (stream_id, *upto, spared, everyone or 0, limit),
    ).fetchall()
    if deleted:
        connection.execute(
            "UPDATE stream SET pruned_ns = max(pruned_ns, ?) WHERE id = ?",
            (max(number(row[3]) for row in deleted), stream_id),
        )
        connection.execute(
            "UPDATE counter SET held_frames = held_frames - ?, held_lines = held_lines - ?,"
            " held_bytes = held_bytes - ?",
            (
                len(deleted),
                sum(number(row[0]) for row in deleted),
                sum(number(row[1]) for row in deleted),
            ),
        )
    more, pending = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM frame WHERE {chosen}),"  # noqa: S608 - a constant
        " ? AND EXISTS (SELECT 1 FROM frame WHERE stream_id = ? AND id > ?)",
        (stream_id, *upto, spared, over, stream_id, everyone or 0),
    ).fetchone()
    newest_id = max((row[2] for row in deleted), default=0)
    return Pruned(len(deleted), newest_id, bool(more or pending), over and not pending)


def _standing(connection: sqlite3.Connection, stream_id: int, high_ns: int) -> tuple[int, int]:
    """Up to where frames go because too many have the stream's highest stamp: a stamp and an id.

    The lines of a log without stamps are never older than its newest ones, whatever is kept.
    """
    left_bytes, left_frames = STANDING_BYTES, STANDING_FRAMES
    rows = connection.execute(
        "SELECT id, raw_bytes FROM frame WHERE stream_id = ? AND high_stamp_ns = ?"
        " ORDER BY id DESC",
        (stream_id, high_ns),
    )
    for frame_id, raw_bytes in rows:
        left_bytes -= number(raw_bytes)
        left_frames -= 1
        if left_bytes < 0 or left_frames < 0:
            return high_ns, frame_id
    return -_FOREVER_NS, -1


def _newest_lines(connection: sqlite3.Connection, stream_id: int) -> int:
    """The stream's newest frame that is no record of ours; 0 when there is none."""
    row = connection.execute(
        f"SELECT id FROM frame WHERE stream_id = ? AND {HOLDS_LINES}"  # noqa: S608 - a constant
        " ORDER BY high_stamp_ns DESC, id DESC LIMIT 1",
        (stream_id,),
    ).fetchone()
    return int(row[0]) if row else 0


def give_space_back(connection: sqlite3.Connection, *, keep_pages: int | None = None) -> bool:
    """Shrink the database after a backlog is gone, a little at a time; whether there was anything.

    Args:
        connection: In a transaction.
        keep_pages: So many free pages are kept for what comes; `FREE_PAGES` by default.
    """
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    worth_it: bool = free > (FREE_PAGES if keep_pages is None else keep_pages)
    if worth_it:
        # The pragma answers a row without columns for each page, at which sqlite3 stops stepping:
        # one call gives back one page, whatever its argument (measured, Python 3.11).
        for _ in range(min(free, _GIVE_BACK_PAGES)):
            connection.execute("PRAGMA incremental_vacuum(1)")
    return worth_it
