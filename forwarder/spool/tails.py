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
    from collections.abc import Sequence

    from forwarder.model import Frame

#: What is looked at before a frame is verified.
_NUMBERS = (RAW_BYTES, FIRST_LINE, LINES, HIGH_STAMP, GENERATION)


def tail(
    connection: sqlite3.Connection, stream_id: int, *, from_ns: int, max_bytes: int
) -> tuple[Tail, str]:
    """The newest frames of a stream, from `from_ns` on, as many as there are and `max_bytes` allow.

    It is also cut short when more was deleted than is asked for now (the overlap was made longer),
    and where frames are missing or damaged: what is before that cannot be compared. The second
    value says what is damaged.
    """
    row = connection.execute(
        "SELECT pruned_ns, generation, next_line, high_stamp_ns FROM stream WHERE id = ?",
        (stream_id,),
    ).fetchone()
    if row is None:
        return Tail([]), ""
    pruned_ns, generation, next_line, high_ns = row
    lost = connection.execute(
        "SELECT generation, before_line FROM gap WHERE stream_id = ? AND generation < ?"
        " AND kind = 'dropped' AND before_line > after_line + 1",
        (stream_id, generation),
    ).fetchall()
    # Our own records were never sent by a server: a re-read cannot bring them.
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE stream_id = ? AND {HOLDS_LINES}"  # noqa: S608 - constants
        " ORDER BY high_stamp_ns DESC, id DESC",
        (stream_id,),
    )
    chosen = _Newest((generation, next_line), lost, from_ns=from_ns, max_bytes=max_bytes)
    damage = ""
    try:
        for row in rows:
            if not chosen.add(row):
                break
    except FrameDamagedError as error:
        damage, chosen.cut_short = str(error), True
    if not chosen.frames:
        # Nothing of an earlier generation is left either, and a stamp may be all that tells of it.
        any_taken = bool(next_line or generation or high_ns)
        return Tail([], from_ns=high_ns, cut_short=any_taken), damage
    cut_short = chosen.cut_short or pruned_ns >= max(from_ns, 0)
    frames = chosen.frames[::-1]
    taken = [Taken(one.kind, one.part, one.raw) for one in frames]
    holes = connection.execute(
        "SELECT from_stamp_ns, to_stamp_ns FROM gap"
        " WHERE stream_id = ? AND kind = 'range' AND filled_ns = 0 AND to_stamp_ns >= ?",
        (stream_id, from_ns),
    ).fetchall()
    begin_ns = frames[0].first_stamp_ns if cut_short else 0
    return Tail(taken, from_ns=begin_ns, holes=holes, cut_short=cut_short), damage


class _Newest:
    """Frames from the newest on, as long as their line numbers follow each other.

    Attributes:
        frames: The newest first.
        cut_short: Older ones are missing, or there was no room for them.
    """

    def __init__(
        self,
        position: tuple[int, int],
        lost: Sequence[tuple[int, int]],
        *,
        from_ns: int,
        max_bytes: int,
    ) -> None:
        """Begin at the stream's position: its generation, and the number of its next line.

        Positions are also what `lost` holds: the ends of what was given up of earlier generations.
        """
        self.frames: list[Frame] = []
        self.cut_short = False
        self._position = position
        self._lost = lost
        self._from_ns = from_ns
        self._left_bytes = max_bytes

    def add(self, row: FrameRow) -> bool:
        """Add an older frame; False when it does not belong to the tail any more.

        Raises:
            FrameDamagedError: It is not what was stored.
        """
        if not all(isinstance(row[at], int) for at in _NUMBERS):
            raise FrameDamagedError(f"frame {row[0]} has numbers that are none")
        if not self._follows((row[GENERATION], row[FIRST_LINE] + row[LINES])):
            self.cut_short = True
            return False
        if self.frames and row[HIGH_STAMP] < self._from_ns:
            return False
        self._left_bytes -= row[RAW_BYTES]
        if self.frames and self._left_bytes < 0:
            self.cut_short = True
            return False
        self.frames.append(unpack(row))
        self._position = (row[GENERATION], row[FIRST_LINE])
        return True

    def _follows(self, end: tuple[int, int]) -> bool:
        """Whether nothing is missing between a frame that ends here and the next one.

        A generation begins with line 0; where an earlier one ended is not written down anywhere,
        but what was given up of it is.
        """
        if end[0] == self._position[0]:
            return end == self._position
        return self._position[1] == 0 and not any(
            end < lost and lost[0] < self._position[0] for lost in self._lost
        )
