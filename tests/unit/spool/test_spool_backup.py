"""Copies and looks, beside a daemon that writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError, UsageError
from forwarder.model import FrameKind, StreamState
from forwarder.spool import backup as backup_module
from forwarder.spool import verify as verify_module
from forwarder.spool.backup import backup
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.overview import overview_of
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import open_spool
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, OTHER, commit, frame

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener


async def fill(spool: SqliteSpool, count: int, *, begin: int = 0, size: int = 20) -> None:
    stream = await spool.open_stream(INFO)
    for line in range(begin, begin + count):
        await spool.commit([commit(stream.id, frame(os.urandom(size), line=line, at_ns=line))])


async def test_a_copy_is_a_spool_of_its_own_that_opens_and_holds_everything(
    start: Opener, state: StateDir, tmp_path: Path
) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    await fill(spool, 5)
    await spool.advance("archive", 2, {"key": b"value"}, Delivery(delivered=2))
    report = await asyncio.to_thread(backup, state, tmp_path / "deep" / "copy")
    assert (report.frames, report.last_frame_id) == (5, 5)
    assert report.spool_id == state.marker.read_text().strip()
    assert {path.name for path in report.path.iterdir()} == {"spool.db", "spool.id", "spool.mark"}
    assert {path.stat().st_mode & 0o777 for path in report.path.iterdir()} == {0o600}
    assert report.size_bytes == (report.path / "spool.db").stat().st_size
    copy = await open_spool(StateDir(report.path), now=lambda: 1)
    try:
        assert await copy.read(0, max_bytes=1 << 20) == await spool.read(0, max_bytes=1 << 20)
        sink = await copy.open_sink("archive", from_oldest=True)
        assert (sink.cursor, sink.state) == (2, {"key": b"value"})
        assert (await copy.overview()).notes == []
    finally:
        await copy.close()


async def test_a_copy_that_was_begun_is_of_that_moment_whatever_is_written_meanwhile(
    start: Opener, state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "_STEP_PAGES", 8)
    spool = await start()
    await fill(spool, 20, size=100_000)
    loop = asyncio.get_running_loop()
    steps: list[tuple[int, int]] = []

    def write(done: int, pages: int) -> None:
        steps.append((done, pages))
        if len(steps) < 6:
            line = 20 + len(steps)
            asyncio.run_coroutine_threadsafe(fill(spool, 1, begin=line), loop).result()

    report = await asyncio.to_thread(backup, state, tmp_path / "copy", progress=write)
    assert report.frames == 20
    assert steps == sorted(steps), "it never begins again"
    assert steps[-1][0] == steps[-1][1]
    assert (await spool.overview()).frames == 25
    assert verify(StateDir(tmp_path / "copy")).ok


async def test_a_copy_never_overwrites(spool: SqliteSpool, state: StateDir, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(UsageError, match="never overwrites"):
        backup(state, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


async def test_a_copy_that_fails_leaves_nothing_behind(
    spool: SqliteSpool, state: StateDir, tmp_path: Path
) -> None:
    def fail(_done: int, _pages: int) -> None:
        raise OSError("no room")

    with pytest.raises(SpoolUntrustedError, match="no room"):
        backup(state, tmp_path / "copy", progress=fail)
    assert not (tmp_path / "copy").exists()


def test_where_no_spool_is_nothing_is_copied_or_looked_at(tmp_path: Path) -> None:
    with pytest.raises(SpoolUntrustedError, match="nothing here yet"):
        backup(StateDir(tmp_path), tmp_path / "copy")
    with pytest.raises(SpoolUntrustedError, match="nothing here yet"):
        verify(StateDir(tmp_path))


# Verify -------------------------------------------------------------------------------------------


async def test_a_sound_spool_is_found_sound(start: Opener, state: StateDir) -> None:
    spool = await start()
    for name in ("archive", "behind"):
        await spool.open_sink(name, from_oldest=True)
    await fill(spool, 9)
    other = await spool.open_stream(OTHER)
    for kind in (FrameKind.LINES, FrameKind.END):
        raw = b"{}" if kind is FrameKind.END else b"x\n"
        await spool.commit([commit(other.id, frame(raw, kind=kind, lines=1))])
    await spool.commit([commit(other.id, frame(generation=1), state=StreamState.COMPLETE)])
    await spool.advance("archive", 5, {}, Delivery(delivered=4, filtered=1))
    seen: list[tuple[int, int]] = []
    report = verify(state, progress=lambda done, last: seen.append((done, last)))
    assert report.problems == []
    assert (report.frames, report.lines, report.ok) == (12, 11, True)
    assert seen == [(12, 12)]


async def test_what_was_dropped_is_covered_by_its_record(start: Opener, state: StateDir) -> None:
    spool = await start(limits=SpoolLimits(max_bytes=1 << 20, drop_oldest=True))
    for name in ("archive", "behind"):
        await spool.open_sink(name, from_oldest=True)
    await fill(spool, 3, size=100_000)
    await spool.advance("archive", 2, {}, Delivery(delivered=2))
    await fill(spool, 20, begin=3, size=100_000)
    assert verify(state).problems == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE frame SET data = x'00' WHERE id = 3", "frame 3 does not match its checksum"),
        ("UPDATE counter SET held_lines = held_lines - 1", "the counters say (6, 5, 120)"),
        ("UPDATE sink SET delivered = delivered + 2", "sink archive: 2 lines more are accounted"),
        (
            "UPDATE sink SET cursor_lines = cursor_lines - 1, delivered = delivered - 1",
            "sink archive: 1 lines more are pending than are there",
        ),
        ("DELETE FROM frame WHERE id = 3", "frame 4 begins with line 3, line 2 was expected"),
        ("UPDATE stream SET next_line = 4", "its position is line 4, but it has up to 6"),
    ],
)
async def test_what_is_wrong_is_said(
    start: Opener, state: StateDir, change: str, said: str
) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    await fill(spool, 6)
    await spool.advance("archive", 1, {}, Delivery(delivered=1))
    await spool.close()
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        assert connection.execute(change).rowcount == 1
    report = verify(state)
    assert not report.ok
    assert any(said in problem for problem in report.problems), report.problems


async def test_a_destroyed_page_is_told_and_no_error(start: Opener, state: StateDir) -> None:
    spool = await start()
    await fill(spool, 6)
    await spool.close()
    with closing(sqlite3.connect(state.database)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'frame'"
        ).fetchone()
    with state.database.open("r+b") as file:
        file.seek((page - 1) * 16384)
        file.write(os.urandom(16384))
    assert "malformed" in verify(state).problems[0]


async def test_frames_that_are_pruned_while_it_looks_are_not_missed(
    start: Opener, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "_BATCH_BYTES", 1)
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    await fill(spool, 9)
    await spool.advance("archive", 7, {}, Delivery(delivered=7))
    loop = asyncio.get_running_loop()

    def prune(done: int, _last: int) -> None:
        if done == 2:
            asyncio.run_coroutine_threadsafe(spool.prune(keep_tail_ns=1), loop).result()

    report = await asyncio.to_thread(verify, state, progress=prune)
    assert report.problems == []
    assert report.frames < 9


async def test_looking_holds_up_no_checkpoint(
    start: Opener, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E15: between two batches nothing is held."""
    monkeypatch.setattr(verify_module, "_BATCH_BYTES", 1)
    spool = await start()
    await fill(spool, 5)
    loop = asyncio.get_running_loop()
    busy: list[int] = []

    def checkpoint(_done: int, _last: int) -> None:
        answer = spool._writer.run(
            lambda one: busy.append(one.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]),
            alone=True,
        )
        asyncio.run_coroutine_threadsafe(answer, loop).result()

    await asyncio.to_thread(verify, state, progress=checkpoint)
    assert busy == [0] * 5
    assert overview_of(state).wal_bytes == 0
