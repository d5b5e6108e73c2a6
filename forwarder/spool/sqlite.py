"""The spool in SQLite: one thread that writes, one that reads, and the newest frames in memory."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.spool import pruning, sinks, statements, tails
from forwarder.spool.dead_letters import letter_bytes, pack_letters, pack_settlements
from forwarder.spool.files import BUSY_TIMEOUT_S
from forwarder.spool.frames import pack
from forwarder.spool.gate import Gate
from forwarder.spool.handed import handed_before
from forwarder.spool.keeping import NOTHING_KEPT, pass_old
from forwarder.spool.letterbox import LetterBox
from forwarder.spool.mark import Mark
from forwarder.spool.opening import Opened, open_files
from forwarder.spool.overview import Usage, read_overview, usage
from forwarder.spool.range_box import RangeBox
from forwarder.spool.reading import FrameReader
from forwarder.spool.recent import RecentFrames
from forwarder.spool.room import NO_LIMITS, SpoolLimits, out_of_room
from forwarder.spool.survey import between, survey
from forwarder.spool.writer import SpoolFullError, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from forwarder.model import DeadLetter, Frame, GapCause, HeldLetter, StreamInfo
    from forwarder.spool.dead_letters import PackedLetter
    from forwarder.spool.files import StateDir
    from forwarder.spool.interface import (
        Delivery,
        HandedOut,
        RangeReplay,
        Replayed,
        SinkRecord,
        SpoolOverview,
        StreamCommit,
        StreamRecord,
        Survey,
        Tail,
    )

_T = TypeVar("_T")

_log = structlog.get_logger()

#: Frames deleted in one transaction: pruning must not hold up a commit.
PRUNE_FRAMES = 2000

#: The high-water mark is made durable at every so manieth pruning: about once a minute.
MARK_SYNC_PRUNES = 12


class SqliteSpool:
    """See `forwarder.spool.interface.Spool`. Make one with `open_spool`."""

    def __init__(
        self,
        writer: Writer,
        reader: sqlite3.Connection,
        state: StateDir,
        *,
        opened: Opened,
        limits: SpoolLimits,
        now: Callable[[], int],
        on_gap: Callable[[GapCause, int], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._now = now
        self._mark = opened.mark_file
        self._spool_id = opened.mark.spool_id
        self._last_frame_id = opened.newest_id
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._pack_thread = ThreadPoolExecutor(1, thread_name_prefix="spool-pack")
        self._infos: dict[int, StreamInfo] = {}
        self._recent = RecentFrames()
        self._drops = limits.drop_oldest
        self._max_bytes = limits.max_bytes
        self._gate = Gate(
            writer,
            limits,
            opened.ballast,
            now=now,
            on_gap=on_gap,
            forget=self._recent.forget,
            standing=opened.note,
        )
        self._frames = FrameReader(
            self._read, self._recent, self._infos, self._gate, now=now, on_gap=on_gap
        )
        self._unpruned: set[int] = set()
        self._letters = LetterBox(
            state, self._read, self._infos, self._gate, now=now, release=self._unpruned.update
        )
        self._ranges = RangeBox(
            self._read,
            self._frames,
            self._gate,
            take_requests=self._letters.take_requests,
            release=self._unpruned.update,
        )
        self._prunes = 0
        self._grown = asyncio.Event()
        self._destinations: Mapping[str, str] = {}
        self._surveyed = False
        self._closed = False

    # Streams -------------------------------------------------------------------------------------

    async def open_stream(self, info: StreamInfo, *, primary: bool = False) -> StreamRecord:
        """The stream of this identity, made when new."""
        now_ns = self._now()
        record = await self._writer.run(
            lambda connection: statements.open_stream(connection, info, now_ns, primary=primary)
        )
        same = record.key == info.key
        self._infos[record.id] = info if same else replace(info, key=record.key)
        self._unpruned.add(record.id)
        return record

    def stream_info(self, stream_id: int) -> StreamInfo:
        """What is known of a stream of a frame that was read, or of an opened one."""
        return self._infos[stream_id]

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        """Store frames and positions, all or nothing."""
        self._check()
        await self._gate.enter()
        packed = await self._on(self._pack_thread, lambda: [pack(commit) for commit in commits])
        # Before it is handed over: what a pruning behind it finds is true of it, too.
        self._unpruned.update(commit.stream_id for commit in commits)
        now_ns = self._now()

        def work(connection: sqlite3.Connection) -> tuple[list[Frame], int]:
            frames = statements.commit(connection, commits, packed, now_ns)
            return frames, 0 if self._max_bytes is None else usage(connection).used_bytes

        def committed(result: tuple[list[Frame], int]) -> None:
            frames = result[0]
            if frames:
                self._recent.add(frames)
                self._last_frame_id = frames[-1].id
                self._grown.set()
                self._grown = asyncio.Event()

        # Not after the await: a call that was cancelled may still have been committed.
        try:
            _, used_bytes = await self._writer.run(work, committed, durable=self._move_mark)
        except SpoolFullError as error:
            await self._gate.full(str(error))
            raise
        await self._gate.entered(used_bytes)

    def _move_mark(self, result: tuple[list[Frame], int]) -> None:
        """In the writing thread, after the commit: the mark is never ahead of the database."""
        if result[0]:
            newest = result[0][-1]
            self._mark.write(Mark(self._spool_id, newest.id, newest.total_lines))

    async def tail(self, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
        """The newest frames of a stream."""
        tail, damage = await self._read(
            lambda connection: tails.tail(
                connection, stream_id, from_ns=from_ns, max_bytes=max_bytes
            )
        )
        if damage:
            _log.error("spool is damaged: a re-read is compared with less", problem=damage)
        return tail

    # Sinks ---------------------------------------------------------------------------------------

    @property
    def spool_id(self) -> str:
        """Which spool it is."""
        return self._spool_id

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

    async def read(
        self, after_id: int, *, max_bytes: int, sink: str = "", upto_id: int | None = None
    ) -> Sequence[Frame]:
        """The frames after this one, from memory when they are new, else from the database."""
        self._check()
        last_id = sys.maxsize if upto_id is None else upto_id
        if not self._drops:
            return await self._frames.read(after_id, max_bytes, last_id)
        async with self._gate.turn:
            frames = await self._frames.read(after_id, max_bytes, last_id)
            if frames and sink:
                self._hand_out(sink, frames[-1].id)
            return frames

    async def survey(
        self, after_id: int, *, max_stored_bytes: int, max_raw_bytes: int, to_end: bool = False
    ) -> Survey:
        """How far frames reach within a size, without reading them."""
        self._check()
        return await self._read(
            lambda connection: survey(
                connection,
                after_id,
                max_stored_bytes=max_stored_bytes,
                max_raw_bytes=max_raw_bytes,
                to_end=to_end,
            )
        )

    async def hand_out(self, sink: str, after_id: int, through_id: int) -> HandedOut:
        """Promise a sink frames."""
        self._check()
        async with self._gate.turn:
            self._hand_out(sink, through_id)
            return await self._read(lambda connection: between(connection, after_id, through_id))

    def _hand_out(self, sink: str, frame_id: int) -> None:
        handed = self._gate.handed
        handed[sink] = max(handed.get(sink, 0), frame_id)

    async def advance(
        self,
        sink: str,
        cursor: int,
        changes: Mapping[str, bytes | None],
        delivery: Delivery,
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Move a sink's cursor, with what it remembers, counts, and could not get rid of."""
        if delivery.dead_lettered != sum(one.lines for one in dead_letters):
            raise ValueError("the dead letters do not have as many lines as are counted")
        packed: Sequence[PackedLetter] = ()
        if dead_letters:
            self._check()
            packed = await self._on(self._pack_thread, lambda: pack_letters(dead_letters))
        await self._gate.essential(
            lambda connection: sinks.advance(connection, sink, cursor, changes, delivery, packed)
        )

    async def dead_letter_bytes(self, sink: str) -> int:
        """What the sink's dead letters count against their limit."""
        return await self._read(lambda connection: letter_bytes(connection, sink))

    async def letters_to_replay(self, sink: str, *, max_bytes: int) -> Sequence[HeldLetter]:
        """The sink's dead letters that are to be sent again, about so much."""
        self._check()
        return await self._letters.to_replay(sink, max_bytes)

    async def settle_replay(self, sink: str, outcome: Mapping[int, Replayed]) -> None:
        """Take out dead letters that were sent again, and put back what is refused again."""
        self._check()
        settlements = await self._on(self._pack_thread, lambda: pack_settlements(outcome))
        await self._letters.settle(sink, settlements)

    async def next_range(self, sink: str) -> RangeReplay | None:
        """The range that is to be sent to the sink again first."""
        self._check()
        return await self._ranges.next_range(sink)

    async def read_range(
        self, sink: str, replay: RangeReplay, *, max_bytes: int
    ) -> Sequence[Frame]:
        """The next frames that may have something of a range."""
        self._check()
        return await self._ranges.read(sink, replay, max_bytes)

    async def settle_range(self, sink: str, replay: RangeReplay) -> None:
        """Store how far a range is."""
        await self._ranges.settle(sink, replay)

    async def remember(self, sink: str, changes: Mapping[str, bytes | None]) -> None:
        """Store what a sink must know before its cursor moves."""
        await self._gate.essential(lambda connection: sinks.remember(connection, sink, changes))

    async def note_sink(self, sink: str, state: str, detail: str) -> None:
        """Say how a sink is."""
        now_ns = self._now()
        await self._gate.essential(
            lambda connection: sinks.note_sink(connection, sink, state, detail, now_ns)
        )

    async def configure_sinks(self, destinations: Mapping[str, str]) -> Mapping[str, int]:
        """Say which sinks there are, and where each writes."""
        now_ns = self._now()
        self._destinations = destinations
        retired = await self._gate.essential(
            lambda connection: sinks.configure_sinks(connection, destinations, now_ns)
        )
        for sink, frame_id in (await self._read(handed_before)).items():
            self._hand_out(sink, frame_id)
        return retired

    async def unfinished_streams(self) -> Sequence[StreamInfo]:
        """Every stream that was not read to its end."""
        return await self._read(statements.unfinished_streams)

    async def note(self, name: str, text: str) -> None:
        """Write a note down for `status`, or take it away."""
        now_ns = self._now()
        await self._gate.essential(
            lambda connection: statements.note(connection, name, text, now_ns)
        )

    # The whole -----------------------------------------------------------------------------------

    async def prune(self, *, keep_tail_ns: int) -> int:
        """Delete frames that every sink is past, save each live stream's tail."""
        self._prunes += 1
        if self._prunes % MARK_SYNC_PRUNES == 0:
            await self._on(self._pack_thread, self._mark.sync)
        if not self._surveyed:
            self._unpruned.update(await self._read(pruning.stream_ids))
            self._surveyed = True
        await self._letters.take_requests()
        await self._pass_kept()
        deleted = 0
        try:
            for stream_id in list(self._unpruned):
                deleted += await self._prune(stream_id, keep_tail_ns)
            used = await self._gate.essential(_give_space_back)
            await self._gate.look(used)
        except SpoolUnavailableError:
            # SQLite needs room to delete, too. What is left over is left to the next call.
            return deleted
        return deleted

    async def _pass_kept(self) -> None:
        """Find out which frames were kept long enough; on a full disk all of them were."""
        keeping = self._gate.keeping
        more = keeping.from_id != NOTHING_KEPT
        while more:
            keep_ns = 0 if self._gate.lacks_room else keeping.keep_ns
            passed = await self._read(
                partial(pass_old, from_id=keeping.from_id, keep_ns=keep_ns, now_ns=self._now())
            )
            keeping.pass_to(passed.from_id)
            self._unpruned.update(passed.streams)
            more = passed.more

    async def _prune(self, stream_id: int, keep_tail_ns: int) -> int:
        """Prune one stream; it is looked at again when something was left over, or comes in."""
        deleted = 0
        more = True
        self._unpruned.discard(stream_id)
        kept_from = self._gate.keeping.from_id

        def committed(pruned: pruning.Pruned) -> None:
            # A sink that is new begins at the oldest frame held, and must not see older ones.
            self._recent.forget(pruned.newest_id)
            asked_for = (self._letters.is_handed_out, self._ranges.is_handed_out)
            known = stream_id in self._unpruned or any(one(stream_id) for one in asked_for)
            if pruned.idle and not known:
                self._infos.pop(stream_id, None)

        try:
            while True:
                pruned = await self._gate.essential(
                    lambda connection: pruning.prune(
                        connection,
                        stream_id,
                        keep_tail_ns=keep_tail_ns,
                        limit=PRUNE_FRAMES,
                        kept_from=kept_from,
                        urgent=self._gate.lacks_room,
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
        return replace(await self._read(read_overview), max_bytes=self._max_bytes)

    async def close(self) -> None:
        """Finish what is under way and close the database; may be called again."""
        if self._closed:
            return
        self._closed = True
        # The reader first: the last connection copies the WAL back, and only the writer may.
        await self._on(self._read_thread, self._reader.close)
        await self._writer.close()
        await self._on(self._pack_thread, self._mark.close)
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
    new_spool: bool = False,
    limits: SpoolLimits = NO_LIMITS,
    on_gap: Callable[[GapCause, int], None] = lambda _cause, _lines: None,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
) -> SqliteSpool:
    """Open the spool of a locked `state_dir`, or make it.

    Args:
        state: The directory.
        now: The wall clock, in nanoseconds.
        factory: The class of the connection that writes; faults come in here.
        new_spool: Set the spool that is there aside first, and carry over what can be read of it.
        limits: How much it may take.
        on_gap: Told of each range of lines that is given up here, with how many lines that is.
        busy_timeout_s: How long a statement waits for another process that writes.

    Raises:
        SpoolUntrustedError: See `connect_writer` and `checks.check`.
    """
    opened = await asyncio.to_thread(
        open_files, state, limits, factory, now(), busy_timeout_s, new_spool=new_spool
    )
    writer = Writer(
        opened.writer,
        asyncio.get_running_loop(),
        checkpoint=opened.checkpoint,
        out_of_room=lambda: out_of_room(state),
    )
    return SqliteSpool(
        writer, opened.reader, state, opened=opened, limits=limits, now=now, on_gap=on_gap
    )


def _give_space_back(connection: sqlite3.Connection) -> Usage:
    pruning.give_space_back(connection)
    return usage(connection)
