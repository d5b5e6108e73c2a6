"""The statements that delete what nobody needs any more, and give its space back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import orjson

from forwarder.model import StreamState
from forwarder.spool.frames import HOLDS_LINES, number
from forwarder.spool.ranges import being_replayed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

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
        more: Whether there are more that only wait for a sink or a replay, or for the next call.
            When not, nothing changes before the stream's next commit, or before less is kept.
        idle: Whether the stream is over and every sink is past all of it.
    """

    frames: int
    newest_id: int
    more: bool
    idle: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """What a stream does not need for comparison with a re-read.

    Attributes:
        upto: Frames up to this highest stamp and id.
        spared: Save this one; 0 when none is.
        over: Whether nothing comes any more.
    """

    upto: tuple[int, int]
    spared: int
    over: bool

    def covers(self, frame_id: int, high_stamp_ns: int) -> bool:
        """Whether a frame is one of them."""
        return (high_stamp_ns, frame_id) <= self.upto and frame_id != self.spared


def prune(
    connection: sqlite3.Connection,
    stream_id: int,
    *,
    keep_tail_ns: int,
    limit: int,
    kept_from: int = _FOREVER_NS,
    urgent: bool = False,
) -> Pruned:
    """Delete up to `limit` frames of a stream that every sink is past.

    Frames from `kept_from` on stay, and whoever moves that looks at the stream again. What a replay
    under way still needs stays unless it is urgent.

    A live stream keeps its tail, and at least its newest lines: a re-read is compared with them.
    One that the API does not know any more may come back, and is read again then. Most never do,
    so it keeps its newest lines only: they tell where a re-read reaches what is new.
    """
    past_id = past_everyone(connection)
    upto_id = min(past_id, kept_from - 1)
    if not urgent:
        upto_id = min(upto_id, being_replayed(connection))
    reached = reach(connection, stream_id, keep_tail_ns=keep_tail_ns)
    # In the order of the index ids grow: what may go stands in front of what has to stay.
    order = (
        "SELECT id FROM frame WHERE stream_id = ? AND (high_stamp_ns, id) <= (?, ?) AND id <> ?"
        " ORDER BY high_stamp_ns, id"
    )
    values = (stream_id, *reached.upto, reached.spared)
    rows = connection.execute(f"{order} LIMIT ?", (*values, limit))
    ids = [row[0] for row in takewhile(lambda row: row[0] <= upto_id, rows)]
    rows.close()
    deleted = connection.execute(
        "DELETE FROM frame WHERE id IN (SELECT value FROM json_each(?))"
        " RETURNING lines, raw_bytes, id, high_stamp_ns",
        (orjson.dumps(ids).decode(),),
    ).fetchall()
    forget_frames(connection, stream_id, deleted)
    left = connection.execute(f"{order} LIMIT 1", values).fetchone()
    more = left is not None and left[0] < kept_from
    pending = reached.over and _newest(connection, stream_id) > past_id
    newest_id = max((row[2] for row in deleted), default=0)
    return Pruned(len(deleted), newest_id, more or pending, reached.over and not pending)


def _newest(connection: sqlite3.Connection, stream_id: int) -> int:
    """The stream's newest frame; 0 when it has none."""
    row = connection.execute(
        "SELECT id FROM frame WHERE stream_id = ? ORDER BY high_stamp_ns DESC, id DESC LIMIT 1",
        (stream_id,),
    ).fetchone()
    return int(row[0]) if row else 0


def past_everyone(connection: sqlite3.Connection) -> int:
    """Up to which frame every sink has everything; 0 without a sink: all waits for one."""
    row = connection.execute("SELECT min(cursor) FROM sink WHERE retired_ns = 0").fetchone()
    return row[0] or 0


def reach(connection: sqlite3.Connection, stream_id: int, *, keep_tail_ns: int) -> Reach:
    """What a stream needs no more for itself."""
    high_ns, state = connection.execute(
        "SELECT high_stamp_ns, state FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    over = state in _OVER
    upto = (_FOREVER_NS, _FOREVER_NS)
    if not over:
        upto = max((high_ns - keep_tail_ns, -1), _standing(connection, stream_id, high_ns))
    spared = 0 if state == StreamState.COMPLETE else _newest_lines(connection, stream_id)
    return Reach(upto, spared, over)


def forget_frames(
    connection: sqlite3.Connection, stream_id: int, deleted: Sequence[tuple[int, int, int, int]]
) -> None:
    """Count frames of a stream as gone.

    Args:
        connection: In the transaction that deletes them.
        stream_id: Whose.
        deleted: Lines, bytes, id and highest stamp of each.
    """
    if not deleted:
        return
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
