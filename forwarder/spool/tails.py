"""The newest lines of a stream, for comparison with a re-read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.source.overlap import Taken
from forwarder.spool.frames import (
    COLUMNS,
    FIRST_LINE,
    GENERATION,
    HIGH_STAMP,
    HOLDS_LINES,
    LINES,
    RAW_BYTES,
    FrameDamagedError,
    FrameRow,
    unpack,
)
from forwarder.spool.interface import Tail

if TYPE_CHECKING:
    import sqlite3

    from forwarder.model import Frame


def tail(
    connection: sqlite3.Connection, stream_id: int, *, from_ns: int, max_bytes: int
) -> tuple[Tail, str]:
    """The newest frames of a stream, from `from_ns` on, as many as there are and `max_bytes` allow.

    It is also cut short when more was deleted than is asked for now (the overlap was made longer),
    and where frames are missing or damaged: what is before that cannot be compared. The second
    value says what is damaged.
    """
    row = connection.execute(
        "SELECT pruned_ns, next_line, high_stamp_ns FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    if row is None:
        return Tail([]), ""
    pruned_ns, next_line, high_ns = row
    # Our own records were never sent by a server: a re-read cannot bring them.
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE stream_id = ? AND {HOLDS_LINES}"  # noqa: S608 - constants
        " ORDER BY high_stamp_ns DESC, id DESC",
        (stream_id,),
    )
    chosen = _Newest(next_line, from_ns=from_ns, max_bytes=max_bytes)
    damage = ""
    try:
        for row in rows:
            if not chosen.add(row):
                break
    except FrameDamagedError as error:
        damage, chosen.cut_short = str(error), True
    if not chosen.frames:
        return Tail([], from_ns=max(high_ns, 1) if next_line else 0), damage
    cut_short = chosen.cut_short or pruned_ns >= max(from_ns, 0)
    frames = chosen.frames[::-1]
    taken = [Taken(one.kind, one.part, one.raw) for one in frames]
    holes = connection.execute(
        "SELECT from_stamp_ns, to_stamp_ns FROM gap"
        " WHERE stream_id = ? AND kind = 'range' AND filled_ns = 0 AND to_stamp_ns >= ?",
        (stream_id, from_ns),
    ).fetchall()
    return Tail(taken, from_ns=frames[0].first_stamp_ns if cut_short else 0, holes=holes), damage


class _Newest:
    """Frames from the newest on, as long as their line numbers follow each other."""

    def __init__(self, next_line: int, *, from_ns: int, max_bytes: int) -> None:
        self.frames: list[Frame] = []
        self.cut_short = False
        self._next_line = next_line
        self._from_ns = from_ns
        self._left_bytes = max_bytes

    def add(self, row: FrameRow) -> bool:
        """Add an older frame; False when it does not belong to the tail any more."""
        older_generation = bool(self.frames) and row[GENERATION] != self.frames[-1].generation
        if not older_generation and row[FIRST_LINE] + row[LINES] != self._next_line:
            self.cut_short = True
            return False
        if self.frames and row[HIGH_STAMP] < self._from_ns:
            return False
        self._left_bytes -= row[RAW_BYTES]
        if self.frames and self._left_bytes < 0:
            self.cut_short = True
            return False
        self.frames.append(unpack(row))
        self._next_line = row[FIRST_LINE]
        return True
