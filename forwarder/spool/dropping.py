"""`when_full: drop_oldest`: the oldest lines that some sink has not got are given up for new ones.

Consecutive frames of a stream become one gap record at the id of the last of them. A record never
spans a sink's cursor, so for every sink each of its lines is missing, or none is; nor anything that
stays between them, so that every sink sees what it gets in order.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from forwarder.model import FrameKind, Gap, GapBounds, GapCause, GapKind
from forwarder.spool.dropped import count_dropped
from forwarder.spool.giving_up import PLACE_COLUMNS, Place, gap_at, lines_in, neighbour, put_gap
from forwarder.spool.interface import DropReason
from forwarder.spool.statements import INSERT_GAP, gap_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping

_PAGE_FRAMES = 200

_LINES = {kind for kind in FrameKind if kind.holds_lines}


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was given up.

    Attributes:
        gaps: One for each range, and how many lines of it were given up just now.
        newest_id: Of the frames that are not what they were; 0 without any.
    """

    gaps: list[tuple[Gap, int]]
    newest_id: int


@dataclass(slots=True)
class _Run:
    """Consecutive frames of a stream that become one gap record.

    Attributes:
        places: The frames, in order; the first may be a record of an earlier drop.
        gap: That record, when it is.
    """

    segment: int
    places: list[Place]
    gap: Gap | None = None

    @property
    def end_line(self) -> int:
        """The line that the next frame of the run begins with."""
        if self.gap is not None and len(self.places) == 1:
            return self.places[0].first_line + lines_in(self.gap)
        return self.places[-1].end_line

    @property
    def lines(self) -> int:
        """How many are given up now."""
        return sum(place.lines for place in self.places)


@dataclass(slots=True)
class _Runs:
    """Sorts frames into runs."""

    boundaries: list[int]
    done: list[_Run] = field(default_factory=list)
    _open: dict[int, _Run] = field(default_factory=dict)

    def add(self, place: Place, gap: Gap | None = None) -> None:
        """A frame that goes, or the record of some that went before."""
        segment = bisect_left(self.boundaries, place.id)
        run = self._open.get(place.stream_id)
        if gap is None and run is not None and _continues(run, place, segment):
            run.places.append(place)
            return
        self.cut(place.stream_id)
        self._open[place.stream_id] = _Run(segment, [place], gap)

    def cut(self, stream_id: int) -> None:
        """Something of the stream stays: what comes behind it is another run."""
        run = self._open.pop(stream_id, None)
        if run is not None and (run.gap is None or len(run.places) > 1):
            self.done.append(run)

    def finish(self) -> list[_Run]:
        """Every run in which something goes."""
        for stream_id in list(self._open):
            self.cut(stream_id)
        return self.done


def _continues(run: _Run, place: Place, segment: int) -> bool:
    return (
        run.segment == segment
        and run.places[-1].generation == place.generation
        and run.end_line == place.first_line
    )


def drop_oldest(
    connection: sqlite3.Connection,
    *,
    handed: Mapping[str, int],
    enough: Callable[[sqlite3.Connection], bool],
    now_ns: int,
) -> Dropped:
    """Give up the oldest lines that are wanted, until it is enough or nothing more can go.

    Args:
        connection: In a transaction.
        handed: By sink, the newest frame that it was handed: what it may be writing stays.
        enough: Whether enough is free.
        now_ns: The wall clock.
    """
    cursors: dict[str, int] = dict(
        connection.execute("SELECT name, cursor FROM sink WHERE retired_ns = 0").fetchall()
    )
    if not cursors:
        return Dropped([], 0)
    writing = [(at, handed[name]) for name, at in cursors.items() if handed.get(name, 0) > at]
    everyone = [row[0] for row in connection.execute("SELECT cursor FROM sink")]
    runs = _Runs(sorted({*everyone, *(upto for _, upto in writing)}))
    for place in _places(connection, min(cursors.values())):
        stays = any(after < place.id <= upto for after, upto in writing)
        if stays or place.kind not in _LINES:
            gap = None if stays else gap_at(connection, place)
            runs.cut(place.stream_id)
            if gap is not None and gap.cause is GapCause.SPOOL_FULL:
                runs.add(place, gap)
            continue
        if enough(connection):
            break
        connection.execute("DELETE FROM frame WHERE id = ?", (place.id,))
        runs.add(place)
    done = runs.finish()
    gaps = [(_replace(connection, run, now_ns), run.lines) for run in done]
    return Dropped(gaps, max((run.places[-1].id for run in done), default=0))


def drop_tails(
    connection: sqlite3.Connection, *, enough: Callable[[sqlite3.Connection], bool]
) -> int:
    """Give up what is kept only for comparison, oldest first; returns the newest id, or 0.

    The records between lines go with them: what is left of a stream is all that came behind.
    """
    everyone = connection.execute("SELECT min(cursor) FROM sink WHERE retired_ns = 0").fetchone()[0]
    newest_id = 0
    rows = connection.execute(
        f"SELECT {PLACE_COLUMNS} FROM frame WHERE id <= ? ORDER BY id",  # noqa: S608 - a constant
        (everyone or 0,),
    ).fetchall()
    for place in (Place.of(row) for row in rows):
        if enough(connection):
            break
        newest_id = place.id
        connection.execute("DELETE FROM frame WHERE id = ?", (place.id,))
        connection.execute(
            "UPDATE stream SET pruned_ns = max(pruned_ns, ?) WHERE id = ?",
            (place.high_stamp_ns, place.stream_id),
        )
        connection.execute(
            "UPDATE counter SET held_frames = held_frames - 1, held_lines = held_lines - ?,"
            " held_bytes = held_bytes - ?",
            (place.lines, place.raw_bytes),
        )
    return newest_id


def is_any_pending(connection: sqlite3.Connection) -> bool:
    """Whether some sink has not got something; without a sink everything waits for one."""
    row = connection.execute(
        "SELECT coalesce(min(cursor), 0) < (SELECT coalesce(max(id), 0) FROM frame)"
        " FROM sink WHERE retired_ns = 0"
    ).fetchone()
    return bool(row[0])


def _places(connection: sqlite3.Connection, after_id: int) -> Iterator[Place]:
    """Every frame after this one, a few at a time: they are deleted meanwhile."""
    while True:
        rows = connection.execute(
            f"SELECT {PLACE_COLUMNS} FROM frame WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
            (after_id, _PAGE_FRAMES),
        ).fetchall()
        yield from (Place.of(row) for row in rows)
        if len(rows) < _PAGE_FRAMES:
            return
        after_id = rows[-1][0]


def _replace(connection: sqlite3.Connection, run: _Run, now_ns: int) -> Gap:
    """Put the run's record in its place, and count."""
    last = run.places[-1]
    if run.gap is not None:
        connection.execute("DELETE FROM frame WHERE id = ?", (run.places[0].id,))
    gap = _gap(connection, run, now_ns)
    grown = connection.execute(
        "UPDATE gap SET before_line = ?, to_stamp_ns = ? WHERE stream_id = ? AND cause = ?"
        " AND generation = ? AND after_line = ? AND before_line = ?",
        (
            gap.before_line,
            gap.to_stamp_ns,
            last.stream_id,
            gap.cause,
            gap.generation,
            gap.after_line,
            run.gap.before_line if run.gap else -1,
        ),
    ).rowcount
    if not grown:
        connection.execute(INSERT_GAP, gap_row(last.stream_id, gap))
    less_bytes = sum(place.raw_bytes for place in run.places) - put_gap(
        connection, last, gap, now_ns
    )
    connection.execute(
        "UPDATE counter SET held_frames = held_frames - ?, held_lines = held_lines - ?,"
        " held_bytes = held_bytes - ?",
        (len(run.places) - 1, run.lines, less_bytes),
    )
    behind = connection.execute(
        "UPDATE sink SET cursor_lines = cursor_lines + ?, cursor_bytes = cursor_bytes + ?"
        " WHERE retired_ns = 0 AND cursor < ? RETURNING name",
        (run.lines, less_bytes, last.id),
    ).fetchall()
    for (name,) in behind:
        count_dropped(connection, name, DropReason.SPOOL_FULL, run.lines)
    return gap


def _gap(connection: sqlite3.Connection, run: _Run, now_ns: int) -> Gap:
    first, last = run.places[0], run.places[-1]
    after = neighbour(connection, last.stream_id, last.id, before=False)
    to_ns = after.first_stamp_ns if after else 0
    if run.gap is not None:
        return replace(run.gap, before_line=last.end_line, to_stamp_ns=to_ns)
    before = neighbour(connection, first.stream_id, first.id, before=True)
    return Gap(
        GapCause.SPOOL_FULL,
        after_line=first.first_line - 1,
        from_stamp_ns=before.last_stamp_ns if before else 0,
        to_stamp_ns=to_ns,
        noticed_ns=now_ns,
        kind=GapKind.DROPPED,
        before_line=last.end_line,
        bounds=GapBounds.EXACT,
        generation=first.generation,
    )
