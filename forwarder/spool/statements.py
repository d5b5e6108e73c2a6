"""Every statement that the spool runs. Functions of a connection; transactions are the writer's."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import TYPE_CHECKING, TypeVar

import orjson

from forwarder.model import (
    Checkpoint,
    Frame,
    FrameKind,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.source.resume import Taken
from forwarder.spool.frames import COLUMNS, PackedFrame, unpack
from forwarder.spool.interface import Delivery, SinkRecord, StreamCommit, StreamRecord, Tail
from forwarder.spool.writer import CHECKPOINT_PAGES, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

_T = TypeVar("_T")

#: Deleted pages are given back to the file system when this many (of 8 KiB) are free: 64 MiB.
FREE_PAGES = 8192
_GIVE_BACK_PAGES = 1024


def configure_writer(connection: sqlite3.Connection) -> None:
    """Settings of the connection that writes."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -16384")


def guarded(query: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection) -> _T:
    """Run a reading query; SQLite's errors come out as the spool's."""
    try:
        return query(connection)
    except sqlite3.Error as error:
        raise classify(error) from error


# Streams -----------------------------------------------------------------------------------------


def open_stream(connection: sqlite3.Connection, info: StreamInfo, now_ns: int) -> StreamRecord:
    """Find or make a stream, and store what is known of it now."""
    connection.execute(
        "INSERT INTO stream (sandbox_id, container, info, since_ns) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (sandbox_id, container) DO UPDATE SET info = excluded.info",
        (info.key.sandbox_id, info.key.container, _info_text(info), now_ns),
    )
    row = connection.execute(
        "SELECT id, next_line, open_part, last_stamp_ns, high_stamp_ns, session_id,"
        " session_offset, state FROM stream WHERE sandbox_id = ? AND container = ?",
        (info.key.sandbox_id, info.key.container),
    ).fetchone()
    checkpoint = Checkpoint(row[1], row[2], row[3], row[4], row[5], int(row[6]))
    return StreamRecord(row[0], info.key, checkpoint, StreamState(row[7]))


def commit(
    connection: sqlite3.Connection,
    commits: Sequence[StreamCommit],
    packed: Sequence[Sequence[PackedFrame]],
    now_ns: int,
) -> list[Frame]:
    """Store frames, gaps and checkpoints; returns the frames as a reader would see them."""
    last_id, total_lines, total_bytes = connection.execute(
        "SELECT last_frame_id, total_lines, total_bytes FROM counter"
    ).fetchone()
    rows = []
    frames = []
    for frame in (frame for of_stream in packed for frame in of_stream):
        draft = frame.draft
        last_id += 1
        total_lines += draft.lines
        total_bytes += len(draft.raw)
        rows.append(_frame_row(last_id, frame, total_lines, total_bytes))
        frames.append(_frame(last_id, frame, total_lines))
    if rows:
        connection.executemany(f"INSERT INTO frame VALUES ({','.join('?' * 15)})", rows)  # noqa: S608 - only question marks
        connection.execute(
            "UPDATE counter SET last_frame_id = ?, total_lines = ?, total_bytes = ?",
            (last_id, total_lines, total_bytes),
        )
    connection.executemany(
        "INSERT INTO gap (stream_id, cause, after_line, from_stamp_ns, to_stamp_ns, noticed_ns,"
        " missing_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(one.stream_id, *dataclasses.astuple(gap)) for one in commits for gap in one.gaps],
    )
    connection.executemany(
        "UPDATE stream SET next_line = ?, open_part = ?, last_stamp_ns = ?, high_stamp_ns = ?,"
        " session_id = ?, session_offset = ?, bytes = bytes + ? WHERE id = ?",
        [_checkpoint_row(one) for one in commits],
    )
    connection.executemany(
        "UPDATE stream SET state = ?1, detail = ?2, since_ns = ?3 WHERE id = ?4"
        " AND (state <> ?1 OR detail <> ?2)",
        [
            (one.state, one.detail, now_ns, one.stream_id)
            for one in commits
            if one.state is not None
        ],
    )
    return frames


def tail(connection: sqlite3.Connection, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
    """The newest frames of a stream, from `from_ns` on, cut short at `max_bytes`."""
    before = connection.execute(
        "SELECT max(id) FROM frame WHERE stream_id = ? AND high_stamp_ns < ?", (stream_id, from_ns)
    ).fetchone()[0]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE stream_id = ? AND id > ? ORDER BY id DESC",  # noqa: S608 - a constant
        (stream_id, before or 0),
    )
    frames: list[Frame] = []
    size = 0
    cut_short = False
    for row in rows:
        if frames and size + row[3] > max_bytes:
            cut_short = True
            break
        size += row[3]
        frames.append(unpack(row))
    frames.reverse()
    taken = [Taken(one.kind, one.part, one.raw) for one in frames if one.kind is not FrameKind.GAP]
    return Tail(taken, from_ns=frames[0].first_stamp_ns if cut_short else 0)


def stream_ids(connection: sqlite3.Connection) -> list[int]:
    """Every stream that still has frames."""
    rows = connection.execute(
        "SELECT id FROM stream WHERE EXISTS (SELECT 1 FROM frame WHERE stream_id = stream.id)"
    )
    return [row[0] for row in rows]


# Sinks -------------------------------------------------------------------------------------------


def open_sink(
    connection: sqlite3.Connection, name: str, *, from_oldest: bool, now_ns: int
) -> SinkRecord:
    """Find or make a sink. A new one begins before the oldest frame held, or after the newest."""
    last_id, total_lines, total_bytes = connection.execute(
        "SELECT last_frame_id, total_lines, total_bytes FROM counter"
    ).fetchone()
    begin = (last_id, total_lines, total_bytes)
    if from_oldest:
        oldest = connection.execute(
            "SELECT id - 1, total_lines - lines, total_bytes - raw_bytes FROM frame"
            " ORDER BY id LIMIT 1"
        ).fetchone()
        begin = oldest or begin
    connection.execute(
        "INSERT OR IGNORE INTO sink"
        " (name, cursor, base_lines, cursor_lines, cursor_bytes, since_ns)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (name, begin[0], begin[1], begin[1], begin[2], now_ns),
    )
    cursor = connection.execute("SELECT cursor FROM sink WHERE name = ?", (name,)).fetchone()[0]
    state = dict(
        connection.execute("SELECT key, value FROM sink_state WHERE sink = ?", (name,)).fetchall()
    )
    return SinkRecord(name, cursor, state)


def read_frames(
    connection: sqlite3.Connection, after_id: int, *, max_bytes: int, known: Container[int]
) -> tuple[list[Frame], dict[int, StreamInfo]]:
    """Frames in order, and what is known of those of their streams that are not in `known`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE id > ? ORDER BY id",  # noqa: S608 - a constant
        (after_id,),
    )
    frames: list[Frame] = []
    size = 0
    for row in rows:
        size += row[3]
        if frames and size > max_bytes:
            break
        frames.append(unpack(row))
    unknown = {frame.stream_id for frame in frames if frame.stream_id not in known}
    return frames, {stream_id: _stream_info(connection, stream_id) for stream_id in unknown}


def advance(
    connection: sqlite3.Connection,
    sink: str,
    cursor: int,
    changes: Mapping[str, bytes | None],
    delivery: Delivery,
) -> None:
    """Move a cursor forward; it can stand only at a frame that is still there."""
    connection.execute(
        "UPDATE sink SET cursor = frame.id, cursor_lines = frame.total_lines,"
        " cursor_bytes = frame.total_bytes, delivered = delivered + ?, filtered = filtered + ?,"
        " dead_lettered = dead_lettered + ?, dropped = dropped + ?"
        " FROM frame WHERE frame.id = ? AND sink.name = ?",
        (*dataclasses.astuple(delivery), cursor, sink),
    )
    remember(connection, sink, changes)


def remember(
    connection: sqlite3.Connection, sink: str, changes: Mapping[str, bytes | None]
) -> None:
    """Store or forget what a sink remembers."""
    connection.executemany(
        "INSERT INTO sink_state VALUES (?, ?, ?)"
        " ON CONFLICT (sink, key) DO UPDATE SET value = excluded.value",
        [(sink, key, value) for key, value in changes.items() if value is not None],
    )
    connection.executemany(
        "DELETE FROM sink_state WHERE sink = ? AND key = ?",
        [(sink, key) for key, value in changes.items() if value is None],
    )


def note_sink(
    connection: sqlite3.Connection, sink: str, state: str, detail: str, now_ns: int
) -> None:
    """Say how a sink is; `since_ns` moves only when that changes."""
    connection.execute(
        "UPDATE sink SET since_ns = CASE WHEN state = ?1 THEN since_ns ELSE ?3 END,"
        " state = ?1, detail = ?2 WHERE name = ?4",
        (state, detail, now_ns, sink),
    )


def retire_sinks(connection: sqlite3.Connection, keep: Iterable[str]) -> dict[str, int]:
    """Forget the sinks that are not configured any more; their pending records, by name."""
    kept = set(keep)
    retired: dict[str, int] = {}
    rows = connection.execute(
        "SELECT name, total_lines - cursor_lines FROM sink, counter"
    ).fetchall()
    for name, pending in rows:
        if name not in kept:
            retired[name] = pending
            connection.execute("DELETE FROM sink WHERE name = ?", (name,))
            connection.execute("DELETE FROM sink_state WHERE sink = ?", (name,))
    return retired


# Pruning -----------------------------------------------------------------------------------------


def prune(
    connection: sqlite3.Connection, stream_id: int, *, keep_tail_ns: int, limit: int
) -> tuple[int, bool]:
    """Delete up to `limit` frames of a stream that every sink is past.

    A live stream keeps its tail, and at least its newest frame: a re-read is compared with it.

    Returns:
        How many were deleted, and whether the stream still has frames.
    """
    everyone = connection.execute("SELECT min(cursor) FROM sink").fetchone()[0]
    if everyone is None:
        return 0, True
    high_ns, state = connection.execute(
        "SELECT high_stamp_ns, state FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    newest = connection.execute(
        "SELECT max(id) FROM frame WHERE stream_id = ? AND high_stamp_ns = ?", (stream_id, high_ns)
    ).fetchone()[0]
    if state == StreamState.COMPLETE:
        below_ns, spared = high_ns + 1, 0
    else:
        below_ns, spared = max(high_ns - keep_tail_ns, 1), newest or 0
    deleted = connection.execute(
        "DELETE FROM frame WHERE id IN (SELECT id FROM frame WHERE stream_id = ?"
        " AND high_stamp_ns < ? AND id <= ? AND id <> ? LIMIT ?)",
        (stream_id, below_ns, everyone, spared, limit),
    ).rowcount
    rest = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM frame WHERE stream_id = ?)", (stream_id,)
    ).fetchone()[0]
    return deleted, bool(rest)


def give_space_back(connection: sqlite3.Connection) -> None:
    """Shrink the database after a backlog is gone, a little at a time."""
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if free > FREE_PAGES:
        connection.execute(f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES})").fetchall()


# Rows --------------------------------------------------------------------------------------------


def _frame_row(
    frame_id: int, packed: PackedFrame, total_lines: int, total_bytes: int
) -> tuple[int | bytes, ...]:
    draft = packed.draft
    return (
        frame_id,
        packed.stream_id,
        draft.kind,
        draft.first_line,
        draft.lines,
        draft.part,
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.high_stamp_ns,
        draft.received_ns,
        len(draft.raw),
        total_lines,
        total_bytes,
        packed.checksum,
        packed.data,
    )


def _frame(frame_id: int, packed: PackedFrame, total_lines: int) -> Frame:
    draft = packed.draft
    return Frame(
        frame_id,
        packed.stream_id,
        draft.kind,
        draft.raw,
        draft.first_line,
        draft.lines,
        draft.part,
        draft.first_stamp_ns,
        draft.last_stamp_ns,
        draft.received_ns,
        total_lines,
    )


def _checkpoint_row(one: StreamCommit) -> tuple[int | str, ...]:
    at = one.checkpoint
    return (
        at.next_line,
        at.open_part,
        at.last_stamp_ns,
        at.high_stamp_ns,
        at.session_id,
        str(at.session_offset),
        one.raw_bytes,
        one.stream_id,
    )


def _info_text(info: StreamInfo) -> str:
    """What is known of a stream, less its identity, as JSON."""
    values = dataclasses.asdict(info)
    del values["key"]
    return orjson.dumps(values).decode()


def _stream_info(connection: sqlite3.Connection, stream_id: int) -> StreamInfo:
    sandbox_id, container, text = connection.execute(
        "SELECT sandbox_id, container, info FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    values = orjson.loads(text)
    values["tags"] = tuple(values["tags"])
    return StreamInfo(StreamKey(sandbox_id, container), **values)
