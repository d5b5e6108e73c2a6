"""The spool in SQLite: one thread that writes, one that reads, and the newest frames in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from forwarder.errors import SpoolUntrustedError
from forwarder.spool import statements
from forwarder.spool.files import connect_reader, connect_writer
from forwarder.spool.frames import pack
from forwarder.spool.overview import read_overview
from forwarder.spool.writer import Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from forwarder.model import Frame, StreamInfo
    from forwarder.spool.files import StateDir
    from forwarder.spool.interface import (
        Delivery,
        SinkRecord,
        SpoolOverview,
        StreamCommit,
        StreamRecord,
        Tail,
    )

_T = TypeVar("_T")

#: Raw bytes of newest frames kept in memory, so that sinks that keep up never read the disk.
RECENT_BYTES = 32 << 20

#: Frames deleted in one transaction: pruning must not hold up a commit.
PRUNE_FRAMES = 2000


class SqliteSpool:
    """See `forwarder.spool.interface.Spool`. Make one with `open_spool`."""

    def __init__(
        self,
        writer: Writer,
        reader: sqlite3.Connection,
        *,
        last_frame_id: int,
        now: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._now = now
        self._last_frame_id = last_frame_id
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._pack_thread = ThreadPoolExecutor(1, thread_name_prefix="spool-pack")
        self._infos: dict[int, StreamInfo] = {}
        self._recent = _RecentFrames()
        self._grown = asyncio.Event()
        self._unpruned: set[int] | None = None

    # Streams -------------------------------------------------------------------------------------

    async def open_stream(self, info: StreamInfo) -> StreamRecord:
        """The stream of this identity, made when new."""
        now_ns = self._now()
        record = await self._writer.run(
            lambda connection: statements.open_stream(connection, info, now_ns)
        )
        self._infos[record.id] = info
        return record

    def stream_info(self, stream_id: int) -> StreamInfo:
        """What is known of a stream of a frame that was read, or of an opened one."""
        return self._infos[stream_id]

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        """Store frames and positions, all or nothing."""
        packed = await self._on(self._pack_thread, lambda: [pack(commit) for commit in commits])
        now_ns = self._now()
        frames = await self._writer.run(
            lambda connection: statements.commit(connection, commits, packed, now_ns)
        )
        if self._unpruned is not None:
            self._unpruned.update(commit.stream_id for commit in commits)
        if frames:
            self._recent.add(frames)
            self._last_frame_id = frames[-1].id
            self._grown.set()
            self._grown = asyncio.Event()

    async def tail(self, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
        """The newest frames of a stream."""
        return await self._read(
            lambda connection: statements.tail(
                connection, stream_id, from_ns=from_ns, max_bytes=max_bytes
            )
        )

    # Sinks ---------------------------------------------------------------------------------------

    @property
    def last_frame_id(self) -> int:
        """The id of the newest committed frame."""
        return self._last_frame_id

    async def wait_beyond(self, frame_id: int) -> None:
        """Return once a frame with a higher id is committed."""
        while self._last_frame_id <= frame_id:
            await self._grown.wait()

    async def open_sink(self, name: str, *, from_oldest: bool) -> SinkRecord:
        """The sink of this name, made when new."""
        now_ns = self._now()
        return await self._writer.run(
            lambda connection: statements.open_sink(
                connection, name, from_oldest=from_oldest, now_ns=now_ns
            )
        )

    async def read(self, after_id: int, *, max_bytes: int) -> Sequence[Frame]:
        """The frames after this one, from memory when they are new, else from the database."""
        recent = self._recent.after(after_id, max_bytes)
        if recent is not None:
            return recent
        frames, infos = await self._read(
            lambda connection: statements.read_frames(
                connection, after_id, max_bytes=max_bytes, known=self._infos
            )
        )
        self._infos.update(infos)
        return frames

    async def advance(
        self, sink: str, cursor: int, changes: Mapping[str, bytes | None], delivery: Delivery
    ) -> None:
        """Move a sink's cursor, with what it remembers and counts."""
        await self._writer.run(
            lambda connection: statements.advance(connection, sink, cursor, changes, delivery)
        )

    async def remember(self, sink: str, changes: Mapping[str, bytes | None]) -> None:
        """Store what a sink must know before its cursor moves."""
        await self._writer.run(lambda connection: statements.remember(connection, sink, changes))

    async def note_sink(self, sink: str, state: str, detail: str) -> None:
        """Say how a sink is."""
        now_ns = self._now()
        await self._writer.run(
            lambda connection: statements.note_sink(connection, sink, state, detail, now_ns)
        )

    async def retire_sinks(self, keep: Sequence[str]) -> Mapping[str, int]:
        """Forget all other sinks."""
        return await self._writer.run(lambda connection: statements.retire_sinks(connection, keep))

    # The whole -----------------------------------------------------------------------------------

    async def prune(self, *, keep_tail_ns: int) -> int:
        """Delete frames that every sink is past, save each live stream's tail."""
        if self._unpruned is None:
            self._unpruned = set(await self._read(statements.stream_ids))
        deleted = 0
        for stream_id in list(self._unpruned):
            while True:
                count, rest = await self._writer.run(
                    lambda connection, stream_id=stream_id: statements.prune(  # type: ignore[misc]  # a default argument keeps the loop's value
                        connection, stream_id, keep_tail_ns=keep_tail_ns, limit=PRUNE_FRAMES
                    )
                )
                deleted += count
                if count < PRUNE_FRAMES:
                    break
            if not rest:
                self._unpruned.discard(stream_id)
        if deleted:
            await self._writer.run(statements.give_space_back)
        return deleted

    async def overview(self) -> SpoolOverview:
        """The numbers, from one consistent view."""
        return await self._read(read_overview)

    async def close(self) -> None:
        """Finish what is under way and close the database."""
        await self._writer.close()
        await self._on(self._read_thread, self._reader.close)
        self._read_thread.shutdown()
        self._pack_thread.shutdown()

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._on(self._read_thread, lambda: statements.guarded(query, self._reader))

    async def _on(self, executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


async def open_spool(state: StateDir, *, now: Callable[[], int]) -> SqliteSpool:
    """Open the spool of a locked `state_dir`, or make it.

    Raises:
        SpoolUntrustedError: See `connect_writer`.
    """
    connection = await asyncio.to_thread(connect_writer, state)
    try:
        row = connection.execute("SELECT last_frame_id FROM counter").fetchone()
        reader = connect_reader(state)
    except SpoolUntrustedError:
        connection.close()
        raise
    statements.configure_writer(connection)
    writer = Writer(connection, asyncio.get_running_loop())
    return SqliteSpool(writer, reader, last_frame_id=row[0], now=now)


class _RecentFrames:
    """The newest frames, consecutive by id, as many as fit."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0

    def add(self, frames: Sequence[Frame]) -> None:
        """Add what was just committed; ids follow the last one's."""
        self._frames.extend(frames)
        self._bytes += sum(_weight(frame) for frame in frames)
        while self._bytes > RECENT_BYTES:
            self._bytes -= _weight(self._frames.popleft())

    def after(self, frame_id: int, max_bytes: int) -> list[Frame] | None:
        """About `max_bytes` of the frames after this one; None when they are not all here."""
        if not self._frames or self._frames[0].id > frame_id + 1:
            return None
        chosen: list[Frame] = []
        size = 0
        for index in range(frame_id + 1 - self._frames[0].id, len(self._frames)):
            frame = self._frames[index]
            size += len(frame.raw)
            if chosen and size > max_bytes:
                break
            chosen.append(frame)
        return chosen


def _weight(frame: Frame) -> int:
    """What a frame holds of memory: small frames are mostly the object around them."""
    return len(frame.raw) + 512
