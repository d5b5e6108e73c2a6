"""The spool on a disk that is really full, and beside programs that hold it up."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import AsyncExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUnavailableError
from forwarder.model import FrameDraft, FrameKind, StreamInfo, StreamKey
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery, StreamCommit
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import open_spool
from forwarder.spool.verify import verify
from tests.fakes.tmpfs import small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from forwarder.spool.sqlite import SqliteSpool
    from tests.fakes.tmpfs import SmallDisk

INFO = StreamInfo(StreamKey("sbx-1", "main"))
LINE_BYTES = 200_000
BALLAST = SpoolLimits(ballast_bytes=2 << 20)


class Lines:
    """Numbered lines on their way into a spool and out of it again."""

    def __init__(self, spool: SqliteSpool) -> None:
        self.spool = spool
        self.taken = 0
        self.delivered = 0

    async def take(self) -> None:
        """One more line; it is taken only when this returns."""
        stream = await self.spool.open_stream(INFO)
        at_ns = 1000 + self.taken
        raw = b"%09d " % self.taken + os.urandom(LINE_BYTES)
        frame = FrameDraft(FrameKind.LINES, raw, self.taken, 1, 0, at_ns, at_ns, at_ns, 1)
        after = type(stream.checkpoint)(self.taken + 1, 0, at_ns, at_ns)
        await self.spool.commit([StreamCommit(stream.id, [frame], after)])
        self.taken += 1

    async def take_until_full(self, most: int = 400) -> str:
        """Lines until there is no room; what the spool says then."""
        for _ in range(most):
            try:
                await self.take()
            except SpoolUnavailableError as error:
                return str(error)
        pytest.fail("it was never full")

    async def deliver_all(self) -> None:
        """What was taken goes out, in order and once, and is deleted."""
        cursor = (await self.spool.open_sink("archive", from_oldest=True)).cursor
        while frames := await self.spool.read(cursor, max_bytes=1 << 20, sink="archive"):
            for frame in frames:
                assert frame.raw.startswith(b"%09d " % self.delivered)
                self.delivered += 1
            cursor = frames[-1].id
            await self.spool.advance("archive", cursor, {}, Delivery(delivered=len(frames)))
        assert self.delivered == self.taken
        await self.spool.prune(keep_tail_ns=0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield disk


@pytest.fixture
async def lines(disk: SmallDisk) -> AsyncIterator[Lines]:
    async with AsyncExitStack() as stack:
        state = StateDir(disk.path)
        spool = await open_spool(state, now=lambda: 1, limits=BALLAST)
        stack.push_async_callback(spool.close)
        await spool.open_sink("archive", from_oldest=True)
        yield Lines(spool)


async def test_on_a_full_disk_sinks_drain_and_work_goes_on_by_itself(
    lines: Lines, disk: SmallDisk
) -> None:
    """E1 and E2: the ballast makes room for what makes room."""
    state = StateDir(disk.path)
    for _ in range(5):
        said = await lines.take_until_full()
        assert "SQLITE_FULL" in said or "the disk is full" in said
        await lines.deliver_all()
        await lines.spool.prune(keep_tail_ns=0)  # and the ballast is made again
        await lines.take()
        assert state.ballast.exists()
    await lines.deliver_all()
    overview = await lines.spool.overview()
    assert overview.notes == []
    assert (overview.sinks[0].delivered, overview.sinks[0].dropped) == (lines.taken, 0)
    assert verify(state).problems == []


async def test_a_disk_that_others_fill_stops_reading_until_they_make_room(
    lines: Lines, disk: SmallDisk
) -> None:
    await lines.take()
    other = disk.path / "somebody elses"
    status = os.statvfs(disk.path)
    other.write_bytes(bytes(status.f_bavail * status.f_frsize))
    said = await lines.take_until_full()
    assert "SQLITE_FULL" in said or "the disk is full" in said
    await lines.deliver_all()
    other.unlink()
    await lines.spool.prune(keep_tail_ns=0)
    await lines.take()
    await lines.deliver_all()


async def test_a_disk_that_grows_is_used_without_a_restart(lines: Lines, disk: SmallDisk) -> None:
    await lines.take_until_full()
    before = lines.taken
    disk.resize("48m")
    await lines.spool.prune(keep_tail_ns=0)
    for _ in range(20):
        await lines.take()
    assert lines.taken == before + 20
    await lines.deliver_all()


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond this; SQLite calls it SQLITE_IOERR_WRITE."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_limit_on_the_size_of_files_is_a_full_disk_and_no_broken_one(
    tmp_path: Path,
) -> None:
    """E3."""
    async with AsyncExitStack() as stack:
        spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
        stack.push_async_callback(spool.close)
        await spool.open_sink("archive", from_oldest=True)
        lines = Lines(spool)
        with file_size_limit(3 << 20):
            said = await lines.take_until_full()
            assert "SQLITE_IOERR_WRITE" in said
        await lines.take()
        await lines.deliver_all()
        assert verify(StateDir(tmp_path)).problems == []


async def test_a_reader_that_stays_makes_the_log_grow_and_loses_nothing(tmp_path: Path) -> None:
    """E15: an analyst with the sqlite3 shell."""
    state = StateDir(tmp_path)
    async with AsyncExitStack() as stack:
        spool = await open_spool(state, now=lambda: 1)
        stack.push_async_callback(spool.close)
        await spool.open_sink("archive", from_oldest=True)
        lines = Lines(spool)
        await lines.take()
        with closing(sqlite3.connect(state.database, isolation_level=None)) as analyst:
            analyst.execute("BEGIN")
            analyst.execute("SELECT count(*) FROM frame").fetchone()
            for _ in range(150):
                await lines.take()
            grown_bytes = (await spool.overview()).wal_bytes
            assert grown_bytes > 30_000_000, "nothing was copied back"
            analyst.execute("ROLLBACK")
        for _ in range(200):
            await lines.take()
        assert (await spool.overview()).wal_bytes < 2 * grown_bytes
        await lines.deliver_all()


async def test_however_often_the_spool_is_empty_the_ids_still_grow(tmp_path: Path) -> None:
    """E18."""
    async with AsyncExitStack() as stack:
        spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
        stack.push_async_callback(spool.close)
        await spool.open_sink("archive", from_oldest=True)
        stream = await spool.open_stream(INFO)
        for number in range(1, 101):
            frame = FrameDraft(FrameKind.LINES, b"x\n", number - 1, 1, 0, number, number, number, 1)
            after = type(stream.checkpoint)(number, 0, number, number)
            await spool.commit([StreamCommit(stream.id, [frame], after)])
            (read,) = await spool.read(number - 1, max_bytes=100)
            assert read.id == number
            await spool.advance("archive", number, {}, Delivery(delivered=1))
            await spool._writer.run(lambda one: one.execute("DELETE FROM frame"))
            await spool._writer.run(lambda one: one.execute("UPDATE counter SET held_frames = 0"))
            spool._recent.forget(number)
