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
    GapCause,
    StreamInfo,
    StreamKey,
    StreamState,
)
from forwarder.spool.checkpoint import CHECKPOINT_PAGES, WalCheckpoint
from forwarder.spool.frames import (
    COLUMNS,
    RAW_BYTES,
    FrameDamagedError,
    PackedFrame,
    number,
    numbered,
    unpack,
)
from forwarder.spool.interface import StreamCommit, StreamRecord
from forwarder.spool.schema import PAGE_BYTES
from forwarder.spool.writer import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from forwarder.model import Gap

_T = TypeVar("_T")

#: The write-ahead log of a spool that may not grow takes at most one part in so many of it.
_WAL_SHARE = 8


def begin_writing(
    connection: sqlite3.Connection, *, max_bytes: int | None = None, ballast_bytes: int = 0
) -> WalCheckpoint:
    """Settings of the connection that writes; what is to bound its log from now on.

    A small spool keeps a small write-ahead log; and when the ballast is given up, the log must fit
    into the database, with the commit under way.
    """
    pages = CHECKPOINT_PAGES
    if ballast_bytes:
        pages = max(min(pages, ballast_bytes * 3 // 4 // PAGE_BYTES), 1)
    if max_bytes is not None:
        pages = min(pages, max_bytes // _WAL_SHARE // PAGE_BYTES)
        connection.execute(f"PRAGMA journal_size_limit = {pages * PAGE_BYTES}")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Some builds overwrite what is deleted with zeros: all of it once more through the log, so that
    # deleting takes room exactly when there is none.
    connection.execute("PRAGMA secure_delete = OFF")
    return WalCheckpoint(connection, pages=pages)


def guarded(query: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection) -> _T:
    """Run a reading query; SQLite's errors come out as the spool's."""
    try:
        return query(connection)
    except sqlite3.Error as error:
        raise classify(error) from error


# Streams -----------------------------------------------------------------------------------------

#: The end of the stream's newest generation was declared missing, and was not found since.
_MISSING_TAIL = (
    f"gap.cause = '{GapCause.TAIL_UNKNOWN}' AND gap.filled_ns = 0"
    " AND gap.generation = stream.generation"
)
_FIND_STREAM = (
    "SELECT id, next_line, open_part, last_stamp_ns, high_stamp_ns, session_id, session_offset,"  # noqa: S608 - a constant
    " generation, state,"
    f" EXISTS (SELECT 1 FROM gap WHERE gap.stream_id = stream.id AND {_MISSING_TAIL})"
    " FROM stream WHERE sandbox_id = ? AND container = ?"
)
_FILL_TAIL = (
    "UPDATE gap SET filled_ns = ? FROM stream"  # noqa: S608 - a constant
    f" WHERE stream.id = gap.stream_id AND stream.id = ? AND {_MISSING_TAIL}"
)


def open_stream(
    connection: sqlite3.Connection, info: StreamInfo, now_ns: int, *, primary: bool = False
) -> StreamRecord:
    """Find or make a stream, and store what is known of it now.

    A primary container whose name was not known at first is the stream without a name: that one
    gets the name, or keeps none when some of it was taken under none.
    """
    key = info.key
    if primary and key.container:
        connection.execute(
            "UPDATE OR IGNORE stream SET container = ? WHERE sandbox_id = ? AND container = ''"
            " AND bytes = 0",
            (key.container, key.sandbox_id),
        )
        if connection.execute(
            "SELECT EXISTS (SELECT 1 FROM stream WHERE sandbox_id = ? AND container = ''"
            " AND bytes > 0)",
            (key.sandbox_id,),
        ).fetchone()[0]:
            key = StreamKey(key.sandbox_id, "")
    connection.execute(
        "INSERT INTO stream (sandbox_id, container, info, since_ns) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (sandbox_id, container) DO UPDATE SET info = excluded.info",
        (key.sandbox_id, key.container, _info_text(info), now_ns),
    )
    row = connection.execute(_FIND_STREAM, (key.sandbox_id, key.container)).fetchone()
    checkpoint = Checkpoint(row[1], row[2], row[3], row[4], row[5], int(row[6]), row[7])
    return StreamRecord(row[0], key, checkpoint, StreamState(row[8]), bool(row[9]))


def unfinished_streams(connection: sqlite3.Connection) -> list[StreamInfo]:
    """Every stream that was not read to its end."""
    rows = connection.execute(
        "SELECT id FROM stream WHERE state <> ? ORDER BY id", (StreamState.COMPLETE,)
    ).fetchall()
    return [stream_info(connection, row[0]) for row in rows]


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
        INSERT_GAP,
        [gap_row(one.stream_id, gap) for one in commits for gap in one.gaps],
    )
    connection.executemany(
        _FILL_TAIL, [(one.filled_ns, one.stream_id) for one in commits if one.filled_ns]
    )
    connection.executemany(
        "UPDATE stream SET next_line = ?, open_part = ?, last_stamp_ns = ?, high_stamp_ns = ?,"
        " session_id = ?, session_offset = ?, generation = ?, bytes = bytes + ?,"
        " lines = lines + ? WHERE id = ?",
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
        rows.append(frame_row(last_id, frame, total_lines))
        frames.append(_frame(last_id, frame, total_lines))
    connection.executemany(INSERT_FRAME, rows)
    lines = sum(frame.draft.lines for frame in packed)
    size_bytes = sum(len(frame.draft.raw) for frame in packed)
    connection.execute(
        "UPDATE counter SET last_frame_id = ?1, held_frames = held_frames + ?2,"
        " total_lines = total_lines + ?3, held_lines = held_lines + ?3,"
        " total_bytes = total_bytes + ?4, held_bytes = held_bytes + ?4",
        (last_id, len(packed), lines, size_bytes),
    )
    return frames


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What was read.

    Attributes:
        frames: In order, up to the first that is damaged.
        infos: What is known of those of their streams that were not known.
        damaged: Ids of frames that are not what was stored.
    """

    frames: list[Frame]
    infos: dict[int, StreamInfo]
    damaged: list[int]


def read_frames(
    connection: sqlite3.Connection,
    after_id: int,
    last_id: int,
    *,
    max_bytes: int,
    known: Container[int],
) -> Batch:
    """Frames in order, and what is known of those of their streams that are not in `known`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE id > ? AND id <= ? ORDER BY id",  # noqa: S608 - a constant
        (after_id, last_id),
    )
    frames: list[Frame] = []
    damaged: list[int] = []
    size = 0
    for row in rows:
        size += number(row[RAW_BYTES])
        if (frames or damaged) and size > max_bytes:
            break
        try:
            frame = unpack(row)
        except FrameDamagedError:
            damaged.append(row[0])
        else:
            if not damaged:
                frames.append(frame)
    unknown = {frame.stream_id for frame in frames if frame.stream_id not in known}
    return Batch(frames, stream_infos(connection, unknown), damaged)


# Rows --------------------------------------------------------------------------------------------


def frame_row(frame_id: int, packed: PackedFrame, total_lines: int) -> tuple[int | bytes, ...]:
    """A frame as `INSERT_FRAME` takes it."""
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
        draft.generation,
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
        draft.generation,
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
        at.generation,
        one.raw_bytes,
        one.lines,
        one.stream_id,
    )


# By name: a migrated table has its columns in another order than a new one.
_FRAME_COLUMNS = (
    "id, stream_id, kind, first_line, lines, part, first_stamp_ns, last_stamp_ns, high_stamp_ns,"
    " received_ns, raw_bytes, total_lines, checksum, data, generation"
)

INSERT_FRAME = f"INSERT INTO frame ({_FRAME_COLUMNS}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - constants

#: The columns of `gap` that make a `Gap`.
GAP_COLUMNS = (
    "kind, cause, bounds, generation, after_line, before_line, from_stamp_ns, to_stamp_ns,"
    " from_offset, to_offset, noticed_ns, filled_ns"
)

INSERT_GAP = f"INSERT INTO gap (stream_id, {GAP_COLUMNS}) VALUES ({', '.join('?' * 13)})"  # noqa: S608 - constants


def gap_row(stream_id: int, gap: Gap) -> tuple[int | str | None, ...]:
    """A gap as `INSERT_GAP` takes it."""
    return (
        stream_id,
        gap.kind,
        gap.cause,
        gap.bounds,
        gap.generation,
        gap.after_line,
        gap.before_line,
        gap.from_stamp_ns,
        gap.to_stamp_ns,
        # The API's offsets are unsigned 64-bit, SQLite's integers are signed.
        None if gap.from_offset is None else str(gap.from_offset),
        None if gap.to_offset is None else str(gap.to_offset),
        gap.noticed_ns,
        gap.filled_ns,
    )


def _info_text(info: StreamInfo) -> str:
    """What is known of a stream, less its identity, as JSON."""
    values = dataclasses.asdict(info)
    del values["key"]
    return orjson.dumps(values).decode()


def stream_infos(
    connection: sqlite3.Connection, stream_ids: Iterable[int]
) -> dict[int, StreamInfo]:
    """What is known of these streams; see `stream_info`."""
    return {stream_id: stream_info(connection, stream_id) for stream_id in stream_ids}


def stream_info(connection: sqlite3.Connection, stream_id: int) -> StreamInfo:
    """What is known of a stream.

    Raises:
        SpoolUntrustedError: It is damaged, or there is no such stream.
    """
    row = connection.execute(
        "SELECT sandbox_id, container, info FROM stream WHERE id = ?", (stream_id,)
    ).fetchone()
    try:
        values = orjson.loads(row[2])
        values["tags"] = tuple(values["tags"])
        return StreamInfo(StreamKey(row[0], row[1]), **values)
    except (TypeError, KeyError, ValueError) as error:
        raise SpoolUntrustedError(f"what is known of stream {stream_id} is damaged") from error
