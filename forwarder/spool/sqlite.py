"""The spool in SQLite: one thread that writes, one that reads, and the newest frames in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from forwarder.errors import SpoolError, SpoolUnavailableError, SpoolUntrustedError
from forwarder.spool import pruning, sinks, statements
from forwarder.spool.files import connect_reader, connect_writer
from forwarder.spool.frames import pack
from forwarder.spool.overview import read_overview
from forwarder.spool.writer import Writer

if TYPE_CHECKING:
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
        self._destinations: Mapping[str, str] = {}
        self._unpruned: set[int] = set()
        self._surveyed = False
        self._closed = False

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
        self._check()
        packed = await self._on(self._pack_thread, lambda: [pack(commit) for commit in commits])
        now_ns = self._now()

        def committed(frames: list[Frame]) -> None:
            self._unpruned.update(commit.stream_id for commit in commits)
            if frames:
                self._recent.add(frames)
                self._last_frame_id = frames[-1].id
                self._grown.set()
                self._grown = asyncio.Event()

        # Not after the await: a call that was cancelled may still have been committed.
        await self._writer.run(
            lambda connection: statements.commit(connection, commits, packed, now_ns), committed
        )

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
            lambda connection: sinks.open_sink(
                connection,
                name,
                from_oldest=from_oldest,
                destination=self._destinations.get(name, ""),
                now_ns=now_ns,
            )
        )

    async def read(self, after_id: int, *, max_bytes: int) -> Sequence[Frame]:
        """The frames after this one, from memory when they are new, else from the database."""
        self._check()
        recent = self._recent.after(after_id, max_bytes)
        if recent is not None:
            return recent
        frames, infos = await self._read(
            lambda connection: statements.read_frames(
                connection, after_id, max_bytes=max_bytes, known=self._infos
            )
        )
        for stream_id, info in infos.items():
            # A stream that was opened meanwhile is known better.
            self._infos.setdefault(stream_id, info)
        return frames

    async def advance(
        self, sink: str, cursor: int, changes: Mapping[str, bytes | None], delivery: Delivery
    ) -> None:
        """Move a sink's cursor, with what it remembers and counts."""
        await self._writer.run(
            lambda connection: sinks.advance(connection, sink, cursor, changes, delivery)
        )

    async def remember(self, sink: str, changes: Mapping[str, bytes | None]) -> None:
        """Store what a sink must know before its cursor moves."""
        await self._writer.run(lambda connection: sinks.remember(connection, sink, changes))

    async def note_sink(self, sink: str, state: str, detail: str) -> None:
        """Say how a sink is."""
        now_ns = self._now()
        await self._writer.run(
            lambda connection: sinks.note_sink(connection, sink, state, detail, now_ns)
        )

    async def configure_sinks(self, destinations: Mapping[str, str]) -> Mapping[str, int]:
        """Say which sinks there are, and where each writes."""
        now_ns = self._now()
        self._destinations = destinations
        return await self._writer.run(
            lambda connection: sinks.configure_sinks(connection, destinations, now_ns)
        )

    async def unfinished_streams(self) -> Sequence[StreamInfo]:
        """Every stream that was not read to its end."""
        return await self._read(statements.unfinished_streams)

    async def note(self, name: str, text: str) -> None:
        """Write a note down for `status`, or take it away."""
        now_ns = self._now()
        await self._writer.run(lambda connection: statements.note(connection, name, text, now_ns))

    # The whole -----------------------------------------------------------------------------------

    async def prune(self, *, keep_tail_ns: int) -> int:
        """Delete frames that every sink is past, save each live stream's tail."""
        if not self._surveyed:
            self._unpruned.update(await self._read(pruning.stream_ids))
            self._surveyed = True
        deleted = 0
        try:
            for stream_id in list(self._unpruned):
                deleted += await self._prune(stream_id, keep_tail_ns)
            await self._writer.run(pruning.give_space_back)
        except SpoolUnavailableError:
            # SQLite needs room to delete, too. What is left over is left to the next call.
            return deleted
        return deleted

    async def _prune(self, stream_id: int, keep_tail_ns: int) -> int:
        """Prune one stream; it is looked at again when something was left over, or comes in."""
        deleted = 0
        more = True
        self._unpruned.discard(stream_id)

        def committed(pruned: pruning.Pruned) -> None:
            # A sink that is new begins at the oldest frame held, and must not see older ones.
            self._recent.forget(pruned.newest_id)

        try:
            while True:
                pruned = await self._writer.run(
                    lambda connection: pruning.prune(
                        connection, stream_id, keep_tail_ns=keep_tail_ns, limit=PRUNE_FRAMES
                    ),
                    committed,
                )
                deleted += pruned.frames
                more = pruned.more
                if pruned.frames < PRUNE_FRAMES:
                    return deleted
        finally:
            if more:
                self._unpruned.add(stream_id)

    async def overview(self) -> SpoolOverview:
        """The numbers, from one consistent view."""
        return await self._read(read_overview)

    async def close(self) -> None:
        """Finish what is under way and close the database; may be called again."""
        if self._closed:
            return
        self._closed = True
        # The reader first: the last connection copies the WAL back, and only the writer may.
        await self._on(self._read_thread, self._reader.close)
        await self._writer.close()
        self._read_thread.shutdown()
        self._pack_thread.shutdown()

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check()
        try:
            return await self._on(
                self._read_thread, lambda: statements.guarded(query, self._reader)
            )
        except SpoolUntrustedError as error:
            self._writer.fail(error)
            raise

    def _check(self) -> None:
        if self._closed:
            raise SpoolUntrustedError("the spool is closed")
        self._writer.check()

    async def _on(self, executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


async def open_spool(
    state: StateDir,
    *,
    now: Callable[[], int],
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> SqliteSpool:
    """Open the spool of a locked `state_dir`, or make it.

    Args:
        state: The directory.
        now: The wall clock, in nanoseconds.
        factory: The class of the connection that writes; faults come in here.

    Raises:
        SpoolUntrustedError: See `connect_writer`.
    """

    def connect() -> tuple[sqlite3.Connection, sqlite3.Connection, int]:
        connection = connect_writer(state, factory=factory)
        try:
            last_frame_id = statements.guarded(statements.begin_writing, connection)
            return connection, connect_reader(state), last_frame_id
        except SpoolError:
            connection.close()
            raise

    connection, reader, last_frame_id = await asyncio.to_thread(connect)
    writer = Writer(connection, asyncio.get_running_loop())
    return SqliteSpool(writer, reader, last_frame_id=last_frame_id, now=now)


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

    def forget(self, frame_id: int) -> None:
        """Let go of the frames up to this one: every sink is past them."""
        while self._frames and self._frames[0].id <= frame_id:
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
