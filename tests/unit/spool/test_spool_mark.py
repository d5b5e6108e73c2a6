"""A database that went back is noticed by what is noted outside of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.mark import Mark, MarkFile, decode, encode, read_mark
from forwarder.spool.sqlite import open_spool
from tests.unit.spool.builders import INFO, commit, frame

if TYPE_CHECKING:
    from pathlib import Path

    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener


def events(logs: object) -> list[str]:
    assert isinstance(logs, list)
    return [one["event"] for one in logs]


@given(st.uuids(), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_mark_comes_back_as_it_went_in(spool_id: object, frame_id: int, lines: int) -> None:
    mark = Mark(str(spool_id), frame_id, lines)
    assert decode(encode(mark)) == mark


def test_one_changed_bit_of_a_mark_is_noticed_and_so_is_another_length() -> None:
    data = encode(Mark("a" * 36, 5, 50))
    for at in range(len(data)):
        assert decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    assert decode(data[:-1]) is None
    assert decode(data + b"\0") is None


async def store(spool: SqliteSpool, line: int, count: int = 1) -> None:
    stream = await spool.open_stream(INFO)
    frames = [frame(line=line + number) for number in range(count)]
    await spool.commit([commit(stream.id, *frames)])


async def test_the_mark_follows_every_commit_and_is_never_ahead(
    start: Opener, state: StateDir
) -> None:
    spool = await start()
    spool_id = state.marker.read_text().strip()
    assert read_mark(state.mark) == Mark(spool_id, 0, 0)
    for line in range(3):
        await store(spool, line)
        assert read_mark(state.mark) == Mark(spool_id, line + 1, line + 1)


async def went_back(start: Opener, state: StateDir) -> SqliteSpool:
    """A spool of which an old copy, with one frame of three, was put back."""
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 0)
    await spool.close()
    old = state.path / "old"
    shutil.copy(state.database, old)
    spool = await start()
    await store(spool, 1, 2)
    await spool.close()
    old.replace(state.database)
    return await start()


async def test_a_database_that_went_back_is_told_loudly_and_goes_on(
    start: Opener, state: StateDir
) -> None:
    with capture_logs() as logs:
        spool = await went_back(start, state)
    (told,) = [one for one in logs if one["event"] == "spool went back"]
    assert (told["log_level"], told["from_frame"], told["to_frame"]) == ("error", 3, 1)
    assert told["lines"] == 2
    (note,) = (await spool.overview()).notes
    assert note.name == "spool"
    assert "went back from frame 3 to 1 (2 lines)" in note.text


async def test_ids_that_were_given_before_it_went_back_are_never_given_again(
    start: Opener, state: StateDir
) -> None:
    spool = await went_back(start, state)
    assert (await spool.open_stream(INFO)).checkpoint.next_line == 1, "positions went back, too"
    assert spool.last_frame_id == 1, "a sink waits for what comes, not for what is gone"
    await store(spool, 1)
    assert [one.id for one in await spool.read(0, max_bytes=100)] == [1, 4]
    await spool.advance("archive", 4, {}, Delivery(delivered=2))
    (sink,) = (await spool.overview()).sinks
    assert (sink.taken, sink.delivered, sink.pending) == (2, 2, 0)


async def test_the_note_stays_while_that_daemon_runs_and_is_gone_at_the_next_start(
    start: Opener, state: StateDir
) -> None:
    spool = await went_back(start, state)
    await store(spool, 1)
    assert len((await spool.overview()).notes) == 1
    await spool.close()
    assert (await (await start()).overview()).notes == []


@pytest.mark.parametrize("harm", ["missing", "short", "junk", "directory"])
async def test_a_mark_that_cannot_be_read_is_only_a_warning(
    start: Opener, state: StateDir, harm: str
) -> None:
    spool = await start()
    await store(spool, 0)
    await spool.close()
    state.mark.unlink()
    if harm == "directory":
        state.mark.mkdir()
    elif harm != "missing":
        state.mark.write_bytes(b"short" if harm == "short" else os.urandom(64))
    with capture_logs() as logs:
        again = await start()
        await store(again, 1)
    assert any("high-water mark" in one for one in events(logs))
    assert {one["log_level"] for one in logs} <= {"warning", "info"}
    assert again.last_frame_id == 2
    if harm != "directory":
        mark = read_mark(state.mark)
        assert mark is not None
        assert mark.last_frame_id == 2


async def test_a_first_start_needs_no_mark(start: Opener) -> None:
    with capture_logs() as logs:
        await start()
    assert logs == []


async def test_the_mark_of_another_spool_says_nothing(start: Opener, state: StateDir) -> None:
    await (await start()).close()
    state.mark.write_bytes(encode(Mark("b" * 36, 99, 99)))
    with capture_logs() as logs:
        spool = await start()
    assert events(logs) == ["the high-water mark is another spool's, it is made again"]
    await store(spool, 0)
    assert spool.last_frame_id == 1


async def test_the_mark_is_durable_after_about_a_minute_and_at_the_end(
    start: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = MarkFile.sync

    def watched(mark: MarkFile) -> None:
        synced.append(1)
        sync(mark)

    monkeypatch.setattr(MarkFile, "sync", watched)
    spool = await start()
    for _ in range(12):
        assert not synced
        await spool.prune(keep_tail_ns=0)
    assert len(synced) == 1
    await spool.close()
    assert len(synced) == 2


def test_a_mark_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        mark = MarkFile(tmp_path / "no" / "spool.mark")
        mark.write(Mark("a", 1, 1))
        mark.close()
    assert [one["log_level"] for one in logs] == ["warning"]


# What must be whole -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE counter SET last_frame_id = 1", "frame 3 is newer than the newest"),
        ("UPDATE sink SET cursor = 9", "frame 9 is newer than the newest"),
        ("UPDATE counter SET held_lines = 99", "its counters contradict each other"),
        ("UPDATE counter SET held_frames = -1", "its counters contradict each other"),
        ("DROP TABLE note", "no such table"),
    ],
)
async def test_numbers_that_cannot_be_true_are_refused(
    start: Opener, state: StateDir, change: str, said: str
) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 0, 3)
    await spool.close()
    state.mark.unlink()
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        connection.execute(change)
    with pytest.raises(SpoolUntrustedError, match=f"is damaged: .*{said}.*--new-spool"):
        await start()


async def test_a_destroyed_page_of_a_small_table_is_refused_at_the_start(
    start: Opener, state: StateDir
) -> None:
    """E11: SQLite itself notices only when it gets there."""
    spool = await start()
    await store(spool, 0)
    await spool.close()
    with closing(sqlite3.connect(state.database)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'stream'"
        ).fetchone()
    with state.database.open("r+b") as file:
        file.seek((page - 1) * 16384)
        file.write(os.urandom(16384))
    with pytest.raises(SpoolUntrustedError, match=r"malformed.*--new-spool"):
        await start()


@pytest.mark.parametrize("garbage", [True, False], ids=["garbage", "deleted"])
async def test_the_index_of_the_log_is_made_again_whatever_is_in_it(
    start: Opener, state: StateDir, tmp_path: Path, garbage: bool
) -> None:
    """E10: after a crash the log is all there is; its index is only a cache."""
    spool = await start()
    for line in range(20):
        await store(spool, line)
    crashed = StateDir(tmp_path / "crashed")
    shutil.copytree(state.path, crashed.path, ignore=shutil.ignore_patterns("crashed"))
    shared = crashed.path / "spool.db-shm"
    if garbage:
        shared.write_bytes(os.urandom(32768))
    else:
        shared.unlink()
    again = await open_spool(crashed, now=lambda: 1)
    try:
        assert [one.id for one in await again.read(0, max_bytes=1 << 20)] == list(range(1, 21))
    finally:
        await again.close()


async def test_a_log_of_which_a_bit_has_flipped_is_a_spool_that_went_back(
    start: Opener, state: StateDir, tmp_path: Path
) -> None:
    """E9: SQLite drops what follows the bit, and says nothing."""
    spool = await start()
    await spool.open_stream(INFO)
    for line in range(20):
        await store(spool, line)
    data = state.wal.read_bytes()
    for number in range(12):
        crashed = StateDir(tmp_path / f"crashed {number}")
        crashed.path.mkdir()
        for path in (state.database, state.marker, state.mark):
            shutil.copy(path, crashed.path)
        at = len(data) * (number + 1) // 13
        crashed.wal.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with capture_logs() as logs:
            again = await open_spool(crashed, now=lambda: 1)
        await again.close()
        assert "spool went back" in events(logs)
