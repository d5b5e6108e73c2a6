"""`spool.keep`: frames that stay for a while although every sink is past them, for a replay.

One number says it all: below it nothing is kept for that reason. It moves past a frame once, when
the frame has been held long enough or its room is needed, so looking costs what has come in and not
what is held. It is found again after a restart. Frames are passed in the order in which they were
committed: what is kept of a stream has no holes, whatever the wall clock did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.spool.frames import number
from forwarder.spool.giving_up import PLACE_COLUMNS, Place
from forwarder.spool.pruning import forget_frames, past_everyone, reach
from forwarder.spool.ranges import being_replayed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from forwarder.spool.pruning import Reach

#: Looked at in one query.
_PAGE_FRAMES = 2000

#: Nothing is kept: every frame's id is below it.
NOTHING_KEPT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Passed:
    """How far was looked.

    Attributes:
        from_id: Below this nothing is kept any more.
        streams: Of the frames that were passed: something of them may go now.
        more: Whether to look on from there at once.
    """

    from_id: int
    streams: frozenset[int]
    more: bool


def pass_old(connection: sqlite3.Connection, from_id: int, *, keep_ns: int, now_ns: int) -> Passed:
    """Pass frames that were held for so long, up to the first that was not, some at a time.

    A frame of the future was received before the clock was set back: it is kept for twice as long
    at most.
    """
    upto_id = past_everyone(connection)
    rows = connection.execute(
        "SELECT id, stream_id, received_ns FROM frame WHERE id >= ? AND id <= ? ORDER BY id"
        " LIMIT ?",
        (from_id, upto_id, _PAGE_FRAMES),
    ).fetchall()
    streams: set[int] = set()
    for frame_id, stream_id, received_ns in rows:
        if abs(now_ns - number(received_ns)) < keep_ns:
            return Passed(max(from_id, frame_id), frozenset(streams), more=False)
        streams.add(stream_id)
    if len(rows) == _PAGE_FRAMES:
        return Passed(rows[-1][0] + 1, frozenset(streams), more=True)
    return Passed(max(from_id, upto_id + 1), frozenset(streams), more=False)


@dataclass(frozen=True, slots=True)
class Released:
    """What was given up.

    Attributes:
        from_id: Below this nothing is kept any more.
        frames: How many went.
        newest_id: Of them; 0 without any.
    """

    from_id: int
    frames: int
    newest_id: int


def release_kept(
    connection: sqlite3.Connection,
    from_id: int,
    *,
    keep_tail_ns: int,
    enough: Callable[[sqlite3.Connection], bool],
) -> Released:
    """Delete what is only kept, oldest first, until it is enough; the tails of streams stay.

    What a replay under way still needs goes, too: it is less than what no sink has had yet.
    """
    upto_id = past_everyone(connection)
    from_id = min(from_id, being_replayed(connection) + 1)
    reaches: dict[int, Reach] = {}
    gone: list[Place] = []
    while rows := connection.execute(
        f"SELECT {PLACE_COLUMNS} FROM frame WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
        (from_id, upto_id, _PAGE_FRAMES),
    ).fetchall():
        for place in map(Place.of, rows):
            if enough(connection):
                return _released(connection, from_id, gone)
            from_id = place.id + 1
            found = reaches.get(place.stream_id)
            if found is None:
                found = reach(connection, place.stream_id, keep_tail_ns=keep_tail_ns)
                reaches[place.stream_id] = found
            if found.covers(place.id, place.high_stamp_ns):
                connection.execute("DELETE FROM frame WHERE id = ?", (place.id,))
                gone.append(place)
    return _released(connection, max(from_id, upto_id + 1), gone)


def _released(connection: sqlite3.Connection, from_id: int, gone: list[Place]) -> Released:
    by_stream: dict[int, list[Place]] = {}
    for place in gone:
        by_stream.setdefault(place.stream_id, []).append(place)
    for stream_id, places in by_stream.items():
        rows = [(one.lines, one.raw_bytes, one.id, one.high_stamp_ns) for one in places]
        forget_frames(connection, stream_id, rows)
    return Released(from_id, len(gone), max((one.id for one in gone), default=0))


class Keeping:
    """How far frames are kept in one spool.

    Attributes:
        from_id: Below this nothing is kept for a replay.
    """

    def __init__(self, keep_ns: int) -> None:
        """Begin with everything kept; with 0, with nothing for ever."""
        self.keep_ns = keep_ns
        self.from_id = 0 if keep_ns else NOTHING_KEPT

    def pass_to(self, from_id: int) -> None:
        """Nothing below is kept any more."""
        self.from_id = max(self.from_id, from_id)
