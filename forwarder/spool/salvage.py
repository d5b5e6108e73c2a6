"""What can be read of a spool that cannot be used is carried over into a new one.

Ids, positions and cursors stay what they were. What cannot be read of the frames that some sink had
not got becomes gap records, as far as anything still tells whose they were.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forwarder.model import FrameKind, Gap, GapBounds, GapCause, GapKind
from forwarder.spool.frames import COLUMNS, FrameDamagedError, unpack
from forwarder.spool.giving_up import Place, lines_in, put_gap, recount, with_lost_lines
from forwarder.spool.letter_salvage import copy_letters, count_letters
from forwarder.spool.mark import read_mark
from forwarder.spool.schema import APPLICATION_ID
from forwarder.spool.statements import INSERT_GAP, gap_row
from forwarder.spool.wreck import read_frames_of_wreck, read_rows

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from forwarder.spool.files import StateDir
    from forwarder.spool.wreck import FoundFrame

#: What is carried over as it is, and the columns by which a row is known again.
_TABLES = {
    "stream": "id",
    "sink": "name",
    "sink_state": "sink, key",
    "dropped_lines": "sink, reason",
    "gap": "id",
    "note": "name",
}

#: For rows of schema 1.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "stream": {"generation": 0},
    "gap": {"kind": "range", "bounds": "approximate", "generation": 0},
}


@dataclass(slots=True)
class SalvageReport:
    """What became of the old spool.

    Attributes:
        set_aside: Where it is now; empty when there was none.
        streams: Whose positions were carried over.
        sinks: Whose cursors were.
        frames: Carried over.
        lines: In them.
        lost_frames: That some sink had not got, and that could not be read.
        lost_lines: In those of them that are declared as gaps.
        gaps: Records for them.
        dead_letters: Carried over.
        lost_letter_lines: In dead letters that could not be read; they count as dropped.
    """

    set_aside: str = ""
    streams: int = 0
    sinks: int = 0
    frames: int = 0
    lines: int = 0
    lost_frames: int = 0
    lost_lines: int = 0
    gaps: int = 0
    dead_letters: int = 0
    lost_letter_lines: int = 0

    def numbers(self) -> dict[str, str | int]:
        """Everything, for the log."""
        return dataclasses.asdict(self)


# What can be read --------------------------------------------------------------------------------


def carry_over(
    state: StateDir, new: sqlite3.Connection, report: SalvageReport, now_ns: int
) -> None:
    """Copy what there is into a new database, in a transaction; nothing that is there is changed.

    Args:
        state: Where the old spool is, if there is any.
        new: An empty spool.
        report: Filled in.
        now_ns: The wall clock.
    """
    old = _open_wreck(state)
    if old is None:
        return
    with closing(old):
        for table, key in _TABLES.items():
            rows = read_rows(old, table, key)
            _insert(new, table, rows)
            if table in {"stream", "sink"}:
                setattr(report, f"{table}s", len(rows))
        report.dead_letters = copy_letters(old, new)
        report.lost_letter_lines = count_letters(new)
        counters = read_rows(old, "counter", "spool_id")
        frames = read_frames_of_wreck(old)
        kept = _copy_frames(old, new, frames, report)
        _set_counters(state, new, counters)
        _declare(new, frames, kept, report, now_ns)
        recount(new)


def _open_wreck(state: StateDir) -> sqlite3.Connection | None:
    """The old database, for reading; None when it is not ours or cannot be read at all.

    A connection for reading only never copies the log into the database: what is set aside stays as
    it was found.
    """
    if state.database.is_symlink() or not state.database.is_file():
        return None
    connection = sqlite3.connect(
        f"{state.database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
    )
    try:
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error:
        ours = False
    if not ours:
        connection.close()
        return None
    return connection


def _insert(new: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    known = {row[1] for row in new.execute(f"PRAGMA table_info({table})")}
    for row in rows:
        values = {**_DEFAULTS.get(table, {}), **row}
        names = [name for name in values if name in known]
        new.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(names)})"  # noqa: S608 - names of columns
            f" VALUES ({', '.join('?' * len(names))})",
            [values[name] for name in names],
        )


def _copy_frames(
    old: sqlite3.Connection,
    new: sqlite3.Connection,
    frames: list[FoundFrame],
    report: SalvageReport,
) -> dict[int, Place]:
    """Copy the frames whose checksum is right; their places."""
    kept: dict[int, Place] = {}
    columns = COLUMNS.split(", ")
    streams = {row[0] for row in new.execute("SELECT id FROM stream")}
    for found in frames:
        row = found.read(old)
        if row is None or row[1] not in streams:
            continue
        try:
            frame = unpack(row)
        except FrameDamagedError:
            continue
        new.execute(
            f"INSERT INTO frame ({COLUMNS}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608 - constants
            row,
        )
        of: dict[str, Any] = dict(zip(columns, row, strict=True))
        place = Place(*[of[one.name] for one in dataclasses.fields(Place)])
        kept[frame.id] = with_lost_lines(place, frame.raw)
        report.frames += 1
        report.lines += frame.lines
    return kept


def _set_counters(state: StateDir, new: sqlite3.Connection, counters: list[dict[str, Any]]) -> None:
    """Go on counting where the old spool was, as far as anything tells."""
    old = counters[0] if counters else {}
    mark = read_mark(state.mark) if state.mark.exists() else None
    frame = new.execute(
        "SELECT coalesce(max(id), 0), coalesce(max(total_lines), 0) FROM frame"
    ).fetchone()
    sink = new.execute(
        "SELECT coalesce(max(cursor), 0), coalesce(max(cursor_lines), 0),"
        " coalesce(max(cursor_bytes), 0) FROM sink"
    ).fetchone()
    held_bytes = new.execute("SELECT coalesce(sum(raw_bytes), 0) FROM frame").fetchone()[0]
    new.execute(
        "UPDATE counter SET last_frame_id = ?, total_lines = ?, total_bytes = ?",
        (
            max(old.get("last_frame_id", 0), mark.last_frame_id if mark else 0, frame[0], sink[0]),
            max(old.get("total_lines", 0), frame[1], sink[1]),
            max(old.get("total_bytes", 0), sink[2] + (0 if old else held_bytes)),
        ),
    )


# What cannot -------------------------------------------------------------------------------------


def _declare(
    new: sqlite3.Connection,
    frames: list[FoundFrame],
    kept: dict[int, Place],
    report: SalvageReport,
    now_ns: int,
) -> None:
    """Put a gap record where frames are missing that some sink had not got."""
    delivered_id = new.execute(
        "SELECT coalesce(min(cursor), 0) FROM sink WHERE retired_ns = 0"
    ).fetchone()[0]
    lost: dict[int, list[int]] = {}
    for found in frames:
        if found.id > delivered_id and found.id not in kept:
            report.lost_frames += 1
            if found.stream_id is not None:
                lost.setdefault(found.stream_id, []).append(found.id)
    free = _Free(kept.keys(), delivered_id)
    held: dict[int, list[Place]] = {stream_id: [] for stream_id in lost}
    for place in kept.values():
        if place.lines:
            held.setdefault(place.stream_id, []).append(place)
    for stream_id, places in held.items():
        position = new.execute(
            "SELECT generation, next_line, high_stamp_ns FROM stream WHERE id = ?", (stream_id,)
        ).fetchone()
        if position is None:
            continue  # its position is lost, too: it is read again from its beginning
        for last_id, gap in _gaps(places, lost.get(stream_id, []), position, free, now_ns):
            place = Place(last_id, stream_id, FrameKind.GAP, 0, 0, 0, 0, 0, position[2], 0, 0)
            put_gap(new, place, gap, now_ns)
            new.execute(INSERT_GAP, gap_row(stream_id, gap))
            report.gaps += 1
            report.lost_lines += lines_in(gap)


@dataclass(frozen=True, slots=True)
class _Free:
    """Which ids of frames that some sink had not got are not taken."""

    taken: Container[int]
    delivered_id: int

    def between(self, after_id: int, before_id: int) -> int | None:
        """The highest in between; None when there is none."""
        ids = range(before_id - 1, max(after_id, self.delivered_id), -1)
        return next((one for one in ids if one not in self.taken), None)


def _is_hole(before: Place, after: Place) -> bool:
    """Whether lines are missing of which nothing else tells any more."""
    return before.generation == after.generation and before.end_line < after.first_line


def _gaps(
    places: list[Place],
    lost: list[int],
    position: tuple[int, int, int],
    free: _Free,
    now_ns: int,
) -> Iterator[tuple[int, Gap]]:
    """The gaps of one stream, each with the id of the last frame that is lost in it."""
    kept = {place.id: place for place in places}
    before: Place | None = None
    lost_id: int | None = None
    for frame_id in sorted([*kept, *lost]):
        place = kept.get(frame_id)
        if place is None:
            lost_id = frame_id
            continue
        if lost_id is None and before is not None and _is_hole(before, place):
            lost_id = free.between(before.id, place.id)
        if lost_id is not None:
            yield lost_id, _gap(before, place, position, now_ns)
            lost_id = None
        before = place
    if lost_id is not None:
        yield lost_id, _gap(before, None, position, now_ns)


def _gap(
    before: Place | None, after: Place | None, position: tuple[int, int, int], now_ns: int
) -> Gap:
    generation, next_line, _ = position
    if after is not None:
        generation, end = after.generation, after.first_line
    else:
        end = next_line
    known = before is not None and before.generation == generation
    start = before.end_line if before is not None and known else 0
    return Gap(
        GapCause.SPOOL_DAMAGED,
        after_line=start - 1,
        from_stamp_ns=before.last_stamp_ns if before else 0,
        to_stamp_ns=after.first_stamp_ns if after else 0,
        noticed_ns=now_ns,
        kind=GapKind.DROPPED,
        before_line=max(start, end),
        bounds=GapBounds.EXACT if known and end > start else GapBounds.APPROXIMATE,
        generation=generation,
    )
