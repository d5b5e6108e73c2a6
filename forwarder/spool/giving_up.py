"""Frames that are given up: a gap record takes their place, under the id of the last of them.

So a sink that is past them never sees it, the others see it where the lines would have been, and no
cursor loses the ground that it stands on. For every sink that is behind the lines count as dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from forwarder.errors import SpoolUntrustedError
from forwarder.model import FrameDraft, FrameKind, Gap, GapBounds, GapCause, GapKind
from forwarder.spool.dropped import count_dropped
from forwarder.spool.files import ADVICE
from forwarder.spool.frames import COLUMNS, FrameDamagedError, number, pack_draft, unpack
from forwarder.spool.interface import DropReason
from forwarder.spool.overview import gap_of_record
from forwarder.spool.statements import INSERT_FRAME, INSERT_GAP, frame_row, gap_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

#: The columns of `frame` that make a `Place`.
PLACE_COLUMNS = (
    "id, stream_id, kind, first_line, lines, generation, first_stamp_ns, last_stamp_ns,"
    " high_stamp_ns, raw_bytes, total_lines"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A frame without what it holds."""

    id: int
    stream_id: int
    kind: int
    first_line: int
    lines: int
    generation: int
    first_stamp_ns: int
    last_stamp_ns: int
    high_stamp_ns: int
    raw_bytes: int
    total_lines: int

    @classmethod
    def of(cls, row: Iterable[object]) -> Place:
        """The place of a row of `PLACE_COLUMNS`; 0 for what cannot be a number of a frame."""
        return cls(*map(number, row))

    @property
    def end_line(self) -> int:
        """The number of the line after it."""
        return self.first_line + self.lines


def lines_in(gap: Gap) -> int:
    """How many lines a gap among numbered lines holds."""
    return 0 if gap.before_line is None else gap.before_line - gap.after_line - 1


def neighbour(
    connection: sqlite3.Connection, stream_id: int, frame_id: int, *, before: bool
) -> Place | None:
    """The stream's frame next to this one, before or after it; None when it is not there.

    A record of frames that were given up counts with the lines that they had.
    """
    function, comparison = ("max", "<") if before else ("min", ">")
    row = connection.execute(
        f"SELECT {PLACE_COLUMNS} FROM frame WHERE id = (SELECT {function}(id) FROM frame"  # noqa: S608 - constants
        f" INDEXED BY frame_by_stream WHERE stream_id = ? AND id {comparison} ?)",
        (stream_id, frame_id),
    ).fetchone()
    if row is None:
        return None
    place = Place.of(row)
    gap = gap_at(connection, place)
    return _widened(place, gap)


def with_lost_lines(place: Place, raw: bytes) -> Place:
    """The place of a frame that holds this; a record counts with the lines given up for it."""
    if place.kind != FrameKind.GAP:
        return place
    try:
        return _widened(place, gap_of_record(raw))
    except ValueError:
        return place


def _widened(place: Place, gap: Gap | None) -> Place:
    if gap is None or gap.kind is not GapKind.DROPPED:
        return place
    return replace(place, first_line=gap.after_line + 1, lines=lines_in(gap))


def gap_at(connection: sqlite3.Connection, place: Place) -> Gap | None:
    """The gap whose record a frame holds; None when it holds none that can be read."""
    if place.kind != FrameKind.GAP:
        return None
    row = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE id = ?",  # noqa: S608 - a constant
        (place.id,),
    ).fetchone()
    try:
        return gap_of_record(unpack(row).raw)
    except (FrameDamagedError, ValueError):
        return None


def put_gap(connection: sqlite3.Connection, last: Place, gap: Gap, now_ns: int) -> int:
    """Store a gap record in the place of a deleted frame; returns the record's size in bytes.

    A record of ours that held no lines takes nothing from the stream's tail with it.
    """
    draft = FrameDraft(
        FrameKind.GAP,
        orjson.dumps(gap.record()),
        first_line=gap.after_line + 1,
        lines=0,
        part=0,
        first_stamp_ns=gap.from_stamp_ns,
        last_stamp_ns=gap.to_stamp_ns,
        high_stamp_ns=last.high_stamp_ns,
        received_ns=now_ns,
        generation=gap.generation,
    )
    packed = pack_draft(last.stream_id, draft)
    connection.execute(INSERT_FRAME, frame_row(last.id, packed, last.total_lines))
    if lines_in(gap) or last.kind not in (FrameKind.GAP, FrameKind.END):
        connection.execute(
            "UPDATE stream SET pruned_ns = max(pruned_ns, ?) WHERE id = ?",
            (last.high_stamp_ns, last.stream_id),
        )
    return len(draft.raw)


# Damaged frames ----------------------------------------------------------------------------------


def replace_damaged(
    connection: sqlite3.Connection, frame_ids: Sequence[int], now_ns: int
) -> list[Gap]:
    """Put gap records in the places of those of these frames that are still damaged.

    Raises:
        SpoolUntrustedError: Nobody can tell whose frame it was.
    """
    gaps = []
    for frame_id in frame_ids:
        if not _is_damaged(connection, frame_id):
            continue
        place = Place.of(
            connection.execute(
                f"SELECT {PLACE_COLUMNS} FROM frame WHERE id = ?",  # noqa: S608 - a constant
                (frame_id,),
            ).fetchone()
        )
        gap = damage_gap(connection, place, now_ns)
        connection.execute("DELETE FROM frame WHERE id = ?", (frame_id,))
        put_gap(connection, place, gap, now_ns)
        connection.execute(INSERT_GAP, gap_row(place.stream_id, gap))
        gaps.append(gap)
    if gaps:
        recount(connection)
    return gaps


def _is_damaged(connection: sqlite3.Connection, frame_id: int) -> bool:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE id = ?",  # noqa: S608 - a constant
        (frame_id,),
    ).fetchone()
    if row is None:
        return False
    try:
        unpack(row)
    except FrameDamagedError:
        return True
    return False


def damage_gap(connection: sqlite3.Connection, place: Place, now_ns: int) -> Gap:
    """What a damaged frame held, as its neighbours tell; it may itself be wrong about that.

    Raises:
        SpoolUntrustedError: There is no such stream.
    """
    stream = connection.execute(
        "SELECT generation, next_line, pruned_ns FROM stream WHERE id = ?", (place.stream_id,)
    ).fetchone()
    if stream is None:
        raise SpoolUntrustedError(f"frame {place.id} is damaged, and so is whose it is; {ADVICE}")
    before = neighbour(connection, place.stream_id, place.id, before=True)
    after = neighbour(connection, place.stream_id, place.id, before=False)
    oldest = before.generation if before else 0
    generation = after.generation if after else stream[0]
    if oldest <= place.generation <= generation:
        generation = place.generation
    start = _start(before, generation)
    end = _end(after, generation, stream)
    told = (place.first_line, place.end_line)
    first = told[0] if start is None else start
    last = max(first, told[1] if end is None else end)
    first, last = _undeclared(connection, replace(place, generation=generation), first, last)
    complete = before is not None and start is not None and stream[2] < before.high_stamp_ns
    exact = end is not None and (told == (first, last) or (complete and last > first))
    return Gap(
        GapCause.SPOOL_DAMAGED,
        after_line=first - 1,
        from_stamp_ns=before.last_stamp_ns if before else 0,
        to_stamp_ns=after.first_stamp_ns if after else 0,
        noticed_ns=now_ns,
        kind=GapKind.DROPPED,
        before_line=last,
        bounds=GapBounds.EXACT if exact and place.lines else GapBounds.APPROXIMATE,
        generation=generation,
    )


def _start(before: Place | None, generation: int) -> int | None:
    """Where lines of this generation begin behind the frame before; None when that is unknown."""
    if before is None:
        return None
    return before.end_line if before.generation == generation else 0


def _end(after: Place | None, generation: int, stream: tuple[int, int, int]) -> int | None:
    """The first line behind; the stream's position says so of its newest frame."""
    if after is not None:
        return after.first_line if after.generation == generation else None
    return stream[1] if stream[0] == generation else None


def _undeclared(
    connection: sqlite3.Connection, place: Place, first: int, last: int
) -> tuple[int, int]:
    """The lines between a frame's neighbours, less those that were given up before.

    The records of these may be deleted, and then the neighbours are further away than the frame's
    lines are. What the frame says of itself is believed as far as the rest is declared already.
    """
    rows = connection.execute(
        "SELECT after_line + 1, before_line FROM gap"
        " WHERE stream_id = ? AND generation = ? AND kind = ? ORDER BY after_line",
        (place.stream_id, place.generation, GapKind.DROPPED),
    ).fetchall()
    if place.first_line <= last and _covered(rows, first, place.first_line):
        first = max(first, place.first_line)
    # A record of ours says nothing of how many lines were given up for it.
    if place.lines and first <= place.end_line and _covered(rows, place.end_line, last):
        last = min(last, place.end_line)
    return first, last


def _covered(ranges: Iterable[tuple[int, int]], first: int, last: int) -> bool:
    """Whether ranges, by where they begin, leave none of these lines out."""
    for start, end in ranges:
        if start <= first < end:
            first = end
    return first >= last


def recount(connection: sqlite3.Connection) -> None:
    """Make every number agree with the frames there are: what is missing counts as dropped.

    Also right when a damaged frame lied about how many lines it had. A sink that is not configured
    now is counted when it comes back.
    """
    connection.execute(
        "UPDATE counter SET (held_frames, held_lines, held_bytes) ="
        " (SELECT count(*), coalesce(sum(lines), 0), coalesce(sum(raw_bytes), 0) FROM frame)"
    )
    sinks = connection.execute("SELECT name, cursor FROM sink WHERE retired_ns = 0").fetchall()
    for name, cursor in sinks:
        lines, size_bytes = connection.execute(
            "SELECT coalesce(sum(lines), 0), coalesce(sum(raw_bytes), 0) FROM frame WHERE id > ?",
            (cursor,),
        ).fetchone()
        (missing,) = connection.execute(
            "SELECT total_lines - ? - cursor_lines FROM sink, counter WHERE name = ?",
            (lines, name),
        ).fetchone()
        connection.execute(
            "UPDATE sink SET cursor_lines = counter.total_lines - ?,"
            " cursor_bytes = counter.total_bytes - ? FROM counter WHERE name = ?",
            (lines, size_bytes, name),
        )
        count_dropped(connection, name, DropReason.DAMAGED, missing)
