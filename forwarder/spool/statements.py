"""The statements about streams and frames.

Like `sinks` and `pruning` functions of a connection; transactions are the writer's.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import TYPE_CHECKING, TypeVar

import orjson

from forwarder.errors import SpoolUntrustedError
from forwarder.model import (
    Checkpoint,
    Frame,
    FrameKind,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.source.overlap import Taken
from forwarder.spool.frames import COLUMNS, HIGH_STAMP, PackedFrame, numbered, unpack
from forwarder.spool.interface import StreamCommit, StreamRecord, Tail
from forwarder.spool.writer import CHECKPOINT_PAGES, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from forwarder.model import Gap

_T = TypeVar("_T")

_INTEGER_MAX = 2**63 - 1


def begin_writing(connection: sqlite3.Connection) -> int:
    """Settings of the connection that writes; returns the id of the newest frame there ever was."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -16384")
    return int(connection.execute("SELECT last_frame_id FROM counter").fetchone()[0])


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


def unfinished_streams(connection: sqlite3.Connection) -> list[StreamInfo]:
    """Every stream that was not read to its end."""
    rows = connection.execute(
        "SELECT id FROM stream WHERE state <> ? ORDER BY id", (StreamState.COMPLETE,)
    ).fetchall()
    return [_stream_info(connection, row[0]) for row in rows]


def note(connection: sqlite3.Connection, name: str, text: str, now_ns: int) -> None:
    """Write a note down for `status`, or take it away with an empty text."""
    if text:
        connection.execute(
            "INSERT INTO note VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET text = excluded.text",
            (name, text, now_ns),
        )
    else:
        connection.execute("DELETE FROM note WHERE name = ?", (name,))


def commit(
    connection: sqlite3.Connection,
    commits: Sequence[StreamCommit],
    packed: Sequence[Sequence[PackedFrame]],
    now_ns: int,
) -> list[Frame]:
    """Store frames, gaps and checkpoints; returns the frames as a reader would see them."""
    frames = _insert_frames(connection, [frame for one in packed for frame in one])
    connection.executemany(
        "INSERT INTO gap (stream_id, cause, after_line, from_stamp_ns, to_stamp_ns, noticed_ns,"
        " missing_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [_gap_row(one.stream_id, gap) for one in commits for gap in one.gaps],
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


def _insert_frames(connection: sqlite3.Connection, packed: Sequence[PackedFrame]) -> list[Frame]:
    """Give the frames their numbers and store them."""
    if not packed:
        return []
    last_id, total_lines = connection.execute(
        "SELECT last_frame_id, total_lines FROM counter"
    ).fetchone()
    rows = []
    frames = []
    for frame in packed:
        last_id += 1
        total_lines += frame.draft.lines
        rows.append(_frame_row(last_id, frame, total_lines))
        frames.append(_frame(last_id, frame, total_lines))
    connection.executemany(f"INSERT INTO frame VALUES ({','.join('?' * 14)})", rows)  # noqa: S608 - only question marks
    lines = sum(frame.draft.lines for frame in packed)
    size_bytes = sum(len(frame.draft.raw) for frame in packed)
    connection.execute(
        "UPDATE counter SET last_frame_id = ?1, held_frames = held_frames + ?2,"
        " total_lines = total_lines + ?3, held_lines = held_lines + ?3,"
        " total_bytes = total_bytes + ?4, held_bytes = held_bytes + ?4",
        (last_id, len(packed), lines, size_bytes),
    )
    return frames


def tail(connection: sqlite3.Connection, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
    """The newest frames of a stream, from `from_ns` on, as many as there are and `max_bytes` allow.

    It is also cut short when more was deleted than is asked for now: the overlap was made longer.
    """
    pruned_ns = connection.execute(
        "SELECT coalesce(max(pruned_ns), -1) FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()[0]
    # Gap records were never sent by a server: a re-read cannot bring them, so they do not count.
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE stream_id = ? AND kind <> ?"  # noqa: S608 - a constant
        " ORDER BY high_stamp_ns DESC, id DESC",
        (stream_id, FrameKind.GAP),
    )
    frames: list[Frame] = []
    size = 0
    cut_short = pruned_ns >= max(from_ns, 0)
    for row in rows:
        if frames and row[HIGH_STAMP] < from_ns:
            break
        size += row[3]
        if frames and size > max_bytes:
            cut_short = True
            break
        frames.append(unpack(row))
    frames.reverse()
    taken = [Taken(one.kind, one.part, one.raw) for one in frames]
    return Tail(taken, from_ns=frames[0].first_stamp_ns if frames and cut_short else 0)


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


# Rows --------------------------------------------------------------------------------------------


def _frame_row(frame_id: int, packed: PackedFrame, total_lines: int) -> tuple[int | bytes, ...]:
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
        numbered(packed.checksum, frame_id, total_lines),
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


def _gap_row(stream_id: int, gap: Gap) -> tuple[int | str | None, ...]:
    missing_bytes = gap.missing_bytes
    return (
        stream_id,
        gap.cause,
        gap.after_line,
        gap.from_stamp_ns,
        gap.to_stamp_ns,
        gap.noticed_ns,
        # The API's offsets are unsigned 64-bit, SQLite's integers are signed.
        None if missing_bytes is None else min(missing_bytes, _INTEGER_MAX),
    )


def _info_text(info: StreamInfo) -> str:
    """What is known of a stream, less its identity, as JSON."""
    values = dataclasses.asdict(info)
    del values["key"]
    return orjson.dumps(values).decode()


def _stream_info(connection: sqlite3.Connection, stream_id: int) -> StreamInfo:
    row = connection.execute(
        "SELECT sandbox_id, container, info FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    try:
        values = orjson.loads(row[2])
        values["tags"] = tuple(values["tags"])
        return StreamInfo(StreamKey(row[0], row[1]), **values)
    except (TypeError, KeyError, ValueError) as error:
        raise SpoolUntrustedError(f"what is known of stream {stream_id} is damaged") from error
