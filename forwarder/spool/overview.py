"""The spool's numbers, read in one consistent view: by the daemon, and by `status` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from forwarder.model import Checkpoint, Gap, GapBounds, GapCause, GapKind, StreamKey, StreamState
from forwarder.spool.dropped import dropped_for
from forwarder.spool.files import StateDir, connect_reader
from forwarder.spool.interface import Note, SinkOverview, SpoolOverview, StreamOverview
from forwarder.spool.ranges import SinkRanges, all_ranges
from forwarder.spool.statements import GAP_COLUMNS, guarded

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GapEntry:
    """A gap with its number in the spool, and the stream that it is in."""

    id: int
    key: StreamKey
    display_name: str
    gap: Gap


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """How far a stream has been taken.

    Attributes:
        bytes: Taken of it so far, as the server sent them.
    """

    key: StreamKey
    display_name: str
    state: StreamState
    checkpoint: Checkpoint
    bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What the spool takes on disk.

    Attributes:
        size_bytes: The database's file, with the free pages in it.
        wal_bytes: Its write-ahead log.
        used_bytes: Both, without the free pages.
    """

    size_bytes: int
    wal_bytes: int
    used_bytes: int


def usage(connection: sqlite3.Connection) -> Usage:
    """Measure; inside a transaction pages that it has freed count as free."""
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    try:
        wal_bytes = Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        wal_bytes = 0
    return Usage(pages * page_bytes, wal_bytes, (pages - free) * page_bytes + wal_bytes)


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
    return ask(state, read_overview)


def gaps_of(state: StateDir) -> list[GapEntry]:
    """Every gap there is, oldest first; filled ones, too.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read.
    """
    return ask(state, _gaps)


def checkpoints_of(state: StateDir) -> list[StreamPosition]:
    """How far every stream has been taken, by its key.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read.
    """
    return ask(state, _checkpoints)


def gap_of_row(row: Sequence[Any]) -> Gap:
    """The gap of a row of `GAP_COLUMNS`."""
    kind, cause, bounds, generation, after_line, before_line, from_ns, to_ns = row[:8]
    from_offset, to_offset, noticed_ns, filled_ns = row[8:]
    return Gap(
        GapCause(cause),
        after_line=after_line,
        from_stamp_ns=from_ns,
        to_stamp_ns=to_ns,
        noticed_ns=noticed_ns,
        kind=GapKind(kind),
        before_line=before_line,
        from_offset=None if from_offset is None else int(from_offset),
        to_offset=None if to_offset is None else int(to_offset),
        filled_ns=filled_ns,
        bounds=GapBounds(bounds),
        generation=generation,
    )


def gap_of_record(raw: bytes) -> Gap:
    """The gap of a gap record; see `Gap.record`.

    Raises:
        ValueError: It is none.
    """
    record = orjson.loads(raw)
    try:
        return gap_of_row([record[name] for name in GAP_COLUMNS.split(", ")])
    except (KeyError, TypeError) as error:
        raise ValueError("no gap record") from error


def ask(state: StateDir, query: Callable[[sqlite3.Connection], _T]) -> _T:
    """What a query answers, beside a daemon that may be writing.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read.
    """
    connection = connect_reader(state)
    try:
        return guarded(query, connection)
    finally:
        connection.close()


def _gaps(connection: sqlite3.Connection) -> list[GapEntry]:
    rows = connection.execute(
        "SELECT gap.id, sandbox_id, container, coalesce(info ->> 'display_name', ''),"  # noqa: S608 - constants
        f" {', '.join(f'gap.{name}' for name in GAP_COLUMNS.split(', '))}"
        " FROM gap JOIN stream ON stream.id = gap.stream_id ORDER BY gap.id"
    ).fetchall()
    return [
        GapEntry(row[0], StreamKey(row[1], row[2]), row[3], gap_of_row(row[4:])) for row in rows
    ]


def _checkpoints(connection: sqlite3.Connection) -> list[StreamPosition]:
    rows = connection.execute(
        "SELECT sandbox_id, container, coalesce(info ->> 'display_name', ''), state, bytes,"
        " next_line, open_part, last_stamp_ns, high_stamp_ns, session_id, session_offset,"
        " generation FROM stream ORDER BY sandbox_id, container"
    ).fetchall()
    return [
        StreamPosition(
            StreamKey(row[0], row[1]),
            row[2],
            StreamState(row[3]),
            Checkpoint(row[5], row[6], row[7], row[8], row[9], int(row[10]), row[11]),
            row[4],
        )
        for row in rows
    ]


def _overview(connection: sqlite3.Connection) -> SpoolOverview:
    spool_id, frames, total_lines, total_bytes, held_lines, held_bytes = connection.execute(
        "SELECT spool_id, held_frames, total_lines, total_bytes, held_lines, held_bytes"
        " FROM counter"
    ).fetchone()
    used = usage(connection)
    streams = _streams(connection)
    sinks = _sinks(connection, total_lines, total_bytes)
    return SpoolOverview(
        spool_id,
        frames=frames,
        size_bytes=used.size_bytes,
        streams=streams,
        sinks=sinks,
        notes=[
            Note(*row)
            for row in connection.execute("SELECT name, text, since_ns FROM note ORDER BY name")
        ],
        wal_bytes=used.wal_bytes,
        used_bytes=used.used_bytes,
        oldest_frame_ns=_received_ns(connection, 0),
        gaps_unfilled=sum(stream.gaps for stream in streams),
        # Without a sink everything waits for one.
        kept_lines=held_lines - max((one.pending for one in sinks), default=held_lines),
        kept_bytes=held_bytes - max((one.pending_bytes for one in sinks), default=held_bytes),
    )


def _streams(connection: sqlite3.Connection) -> list[StreamOverview]:
    gaps = {
        row[0]: (row[1], row[2])
        for row in connection.execute(
            "SELECT stream_id, sum(filled_ns = 0), sum(filled_ns <> 0) FROM gap GROUP BY stream_id"
        )
    }
    return [
        StreamOverview(
            key=StreamKey(row[1], row[2]),
            display_name=row[3],
            state=StreamState(row[4]),
            detail=row[5],
            since_ns=row[6],
            lines=row[7],
            bytes=row[8],
            last_stamp_ns=row[9],
            gaps=gaps.get(row[0], (0, 0))[0],
            gaps_filled=gaps.get(row[0], (0, 0))[1],
            generation=row[10],
        )
        for row in connection.execute(
            "SELECT id, sandbox_id, container, info ->> 'display_name', state, detail, since_ns,"
            " lines, bytes, high_stamp_ns, generation FROM stream"
            " ORDER BY sandbox_id, container"
        )
    ]


def _sinks(
    connection: sqlite3.Connection, total_lines: int, total_bytes: int
) -> list[SinkOverview]:
    rows = connection.execute(
        "SELECT name, state, detail, since_ns, base_lines, delivered, filtered, dead_lettered,"
        " dropped, cursor_lines, cursor_bytes, cursor, letters, letter_bytes,"
        " (SELECT count(*) FROM dead_letter WHERE sink = name AND replay_ns <> 0)"
        " FROM sink WHERE retired_ns = 0 ORDER BY name"
    ).fetchall()
    reasons = dropped_for(connection)
    ranges = all_ranges(connection)
    nothing = SinkRanges()
    return [
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
            oldest_pending_ns=_received_ns(connection, row[11]),
            dropped_for=reasons.get(row[0], {}),
            dead_letters=row[12],
            dead_letter_bytes=row[13],
            replaying=row[14],
            ranges=ranges.get(row[0], nothing).waiting,
            last_range=next(reversed(ranges.get(row[0], nothing).done), None),
        )
        for row in rows
    ]


def _received_ns(connection: sqlite3.Connection, after_id: int) -> int:
    """When the first frame after this one was received; 0 without one."""
    row = connection.execute(
        "SELECT received_ns FROM frame WHERE id > ? ORDER BY id LIMIT 1", (after_id,)
    ).fetchone()
    return int(row[0]) if row else 0
