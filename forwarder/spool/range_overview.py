"""What there is of a range of lines, for commands beside the daemon."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwarder.model import FrameKind
from forwarder.spool.files import connect_reader
from forwarder.spool.frames import COLUMNS, FrameDamagedError, unpack
from forwarder.spool.statements import guarded
from forwarder.stamps import decode_lines

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from forwarder.model import Frame
    from forwarder.spool.files import StateDir
    from forwarder.spool.frames import FrameRow

#: Frames looked at in one query: the log cannot be copied back while one runs.
_PAGE_FRAMES = 200


@dataclass(frozen=True, slots=True)
class RangeContents:
    """What the spool has of a range.

    Attributes:
        lines: That the sink is past: these can be sent again.
        streams: With such lines.
        pending_lines: That the sink has not had yet: these come anyway.
        gone_before_ns: Lines of this stamp are there as far as they were taken; of older ones some
            are not any more. 0 when all are.
        oldest_ns: The stamp with which the oldest frame of lines begins; 0 without one.
        newest_ns: The highest stamp; 0 without a line.
        damaged: Frames that cannot be read.
    """

    lines: int
    streams: int
    pending_lines: int
    gone_before_ns: int
    oldest_ns: int
    newest_ns: int
    damaged: int


@dataclass(frozen=True, slots=True)
class _Asked:
    since_ns: int
    until_ns: int | None
    sandbox_id: str

    def count(self, frame: Frame) -> int:
        """How many lines of a frame are in the range."""
        if frame.kind is FrameKind.PART:
            stamps = [frame.first_stamp_ns]
        else:
            stamps = decode_lines(frame.raw, frame.first_stamp_ns)[0]
        until_ns = self.until_ns
        return sum(self.since_ns <= one and (until_ns is None or one < until_ns) for one in stamps)


def sink_cursor(state: StateDir, sink: str) -> int | None:
    """Up to which frame a sink is; None when the spool does not know it.

    Raises:
        SpoolUntrustedError: There is no spool, or it cannot be read. So say all of these.
    """
    with closing(connect_reader(state)) as connection:
        row = guarded(
            lambda one: one.execute("SELECT cursor FROM sink WHERE name = ?", (sink,)).fetchone(),
            connection,
        )
    return int(row[0]) if row else None


def contents_of(
    state: StateDir,
    *,
    cursor: int,
    since_ns: int,
    until_ns: int | None = None,
    sandbox_id: str = "",
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> RangeContents:
    """Look at every frame that may have lines of a range.

    Args:
        state: Where the spool is; a daemon may be writing.
        cursor: Up to which frame the sink is.
        since_ns: The first stamp.
        until_ns: The first one behind the range; None when it has no end.
        sandbox_id: Only lines of this sandbox; of all when empty.
        progress: Told up to which frame of which is looked at, by their ids.
    """
    asked = _Asked(since_ns, until_ns, sandbox_id)
    lines = pending = damaged = 0
    streams: set[int] = set()
    with closing(connect_reader(state)) as connection:
        gone_ns, oldest_ns, newest_ns, last_id = guarded(_reach, connection)
        for row in _rows(connection, asked):
            progress(min(row[0], last_id), last_id)
            try:
                frame = unpack(row)
            except FrameDamagedError:
                damaged += 1
                continue
            found = asked.count(frame)
            if frame.id > cursor:
                pending += found
            elif found:
                lines += found
                streams.add(frame.stream_id)
    return RangeContents(lines, len(streams), pending, gone_ns, oldest_ns, newest_ns, damaged)


def _reach(connection: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Before which stamp lines are gone; the oldest and the newest stamp; the newest frame."""
    gone_ns, newest_ns, last_id = connection.execute(
        "SELECT coalesce(max(pruned_ns) + 1, 0), coalesce(max(high_stamp_ns), 0),"
        " (SELECT coalesce(max(id), 0) FROM frame) FROM stream"
    ).fetchone()
    row = connection.execute(
        "SELECT first_stamp_ns FROM frame WHERE kind IN (?, ?) ORDER BY id LIMIT 1",
        (FrameKind.LINES, FrameKind.PART),
    ).fetchone()
    return gone_ns, row[0] if row else 0, newest_ns, last_id


def _rows(connection: sqlite3.Connection, asked: _Asked) -> Iterator[FrameRow]:
    """Every frame that may have lines of it, some in one query."""
    after_id = 0
    while rows := guarded(lambda one: _page(one, asked, after_id), connection):  # noqa: B023 - called at once
        yield from rows
        after_id = rows[-1][0]


def _page(connection: sqlite3.Connection, asked: _Asked, after_id: int) -> list[FrameRow]:
    return connection.execute(
        f"SELECT {COLUMNS} FROM frame WHERE id > ? AND kind IN (?, ?) AND high_stamp_ns >= ?"  # noqa: S608 - a constant
        " AND (? = '' OR stream_id IN (SELECT id FROM stream WHERE sandbox_id = ?))"
        " ORDER BY id LIMIT ?",
        (
            after_id,
            FrameKind.LINES,
            FrameKind.PART,
            asked.since_ns,
            asked.sandbox_id,
            asked.sandbox_id,
            _PAGE_FRAMES,
        ),
    ).fetchall()
