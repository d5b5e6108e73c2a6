"""`--new-spool`: nothing is deleted, what can be read is carried over, the rest is declared."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUntrustedError
from forwarder.model import (
    Checkpoint,
    FrameKind,
    Gap,
    GapBounds,
    GapCause,
)
from forwarder.spool.interface import Delivery, StreamCommit
from forwarder.spool.overview import gaps_of
from forwarder.spool.renewal import renew
from forwarder.spool.verify import verify
from tests.unit.spool.builders import INFO, OTHER, commit, frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forwarder.spool.files import StateDir
    from tests.unit.spool.conftest import Opener

#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045_000_000_000
FLIP = "UPDATE frame SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = {}"


def set_aside(state: StateDir) -> list[Path]:
    return sorted(path for path in state.path.iterdir() if path.name.startswith("spool.set-aside"))


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def change(state: StateDir, *statements: str) -> None:
    with closing(sqlite3.connect(state.database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def fill(start: Opener, count: int = 12, *, size: int = 20) -> None:
    """Two streams in turns; one sink is past the first four frames, one past none."""
    spool = await start()
    streams = [await spool.open_stream(info) for info in (INFO, OTHER)]
    for name in ("archive", "behind"):
        await spool.open_sink(name, from_oldest=True)
    await spool.remember("archive", {"key": b"value"})
    lost = Gap(GapCause.ANCHOR_LOST, 3, 5, 6, 7)
    await spool.commit([StreamCommit(streams[0].id, [], Checkpoint(), gaps=[lost])])
    for number in range(count):
        raw = os.urandom(size)
        line = number // 2
        stream = streams[number % 2]
        await spool.commit([commit(stream.id, frame(raw, line=line, at_ns=100 + line))])
    await spool.advance("archive", 4, {}, Delivery(delivered=3, filtered=1))
    await spool.note("discovery", "it fails")
    await spool.close()


async def test_a_spool_that_is_whole_is_carried_over_whole(start: Opener, state: StateDir) -> None:
    await fill(start)
    old_id = state.marker.read_text()
    spool = await start()
    before = (await spool.overview(), await spool.read(0, max_bytes=1 << 20))
    await spool.close()
    report = renew(state, now_ns=NOW_NS)
    assert (report.streams, report.sinks, report.frames, report.lines) == (2, 2, 12, 12)
    assert (report.lost_frames, report.gaps) == (0, 0)
    spool = await start()
    after = (await spool.overview(), await spool.read(0, max_bytes=1 << 20))
    assert state.marker.read_text() != old_id
    assert after[1] == before[1]
    assert after[0].sinks == before[0].sinks
    assert after[0].streams == before[0].streams
    assert after[0].notes == before[0].notes
    assert [one.gap.cause for one in gaps_of(state)] == [GapCause.ANCHOR_LOST]
    assert (await spool.open_sink("archive", from_oldest=True)).state == {"key": b"value"}
    assert verify(state).problems == []
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame(line=6))])
    assert spool.last_frame_id == 13, "ids go on"


async def test_the_old_spool_is_set_aside_to_the_byte(start: Opener, state: StateDir) -> None:
    await fill(start)
    before = files_in(state.path)
    report = renew(state, now_ns=NOW_NS)
    (aside,) = set_aside(state)
    assert aside.name == "spool.set-aside-20260102T030405Z"
    assert report.set_aside == str(aside)
    assert before.items() <= files_in(aside).items()
    assert {path.name for path in state.path.iterdir()} == {aside.name, "spool.db", "spool.id"}
    assert state.marker.read_bytes() != before["spool.id"], "it names the new one"


async def test_twice_in_a_second_sets_two_aside(start: Opener, state: StateDir) -> None:
    await fill(start)
    for _ in range(2):
        renew(state, now_ns=NOW_NS)
    assert len(set_aside(state)) == 2


async def test_undelivered_frames_that_are_damaged_become_gap_records(
    start: Opener, state: StateDir
) -> None:
    await fill(start)
    change(state, FLIP.format(2), FLIP.format(7), FLIP.format(9), FLIP.format(12))
    report = renew(state, now_ns=NOW_NS)
    assert (report.frames, report.lost_frames, report.gaps, report.lost_lines) == (8, 4, 3, 4)
    spool = await start()
    kinds = {one.id: one.kind for one in await spool.read(0, max_bytes=1 << 20)}
    gaps = {number for number, kind in kinds.items() if kind is FrameKind.GAP}
    assert gaps == {2, 9, 12}, "each run under the id of its last"
    assert kinds.keys() == set(range(1, 13)) - {7}
    ranges = [
        (one.key, one.gap.after_line, one.gap.before_line, one.gap.bounds)
        for one in gaps_of(state)
        if one.gap.cause is GapCause.SPOOL_DAMAGED
    ]
    exact = GapBounds.EXACT
    assert (INFO.key, 2, 5, exact) in ranges
    assert (OTHER.key, 4, 6, exact) in ranges
    assert len(ranges) == 3
    sinks = {one.name: one for one in (await spool.overview()).sinks}
    assert (sinks["archive"].dropped, sinks["behind"].dropped) == (3, 4)
    assert verify(state).problems == []


async def test_frames_on_a_page_that_is_gone_are_declared_by_what_the_index_says(
    start: Opener, state: StateDir
) -> None:
    """E11: a page of the frames' table; the index has pages of its own."""
    await fill(start, 200, size=4000)
    with closing(sqlite3.connect(state.database)) as connection:
        leaves = (
            [
                row[0]
                for row in connection.execute(
                    "SELECT pageno FROM dbstat WHERE name = 'frame' AND pagetype = 'leaf'"
                )
            ]
            if has_dbstat(connection)
            else []
        )
    if not leaves:
        pytest.skip("this SQLite has no dbstat")
    destroyed = leaves[len(leaves) // 2]
    with state.database.open("r+b") as file:
        file.seek((destroyed - 1) * 16384)
        file.write(b"\xff" * 16384)
    report = renew(state, now_ns=NOW_NS)
    assert 190 < report.frames < 200
    assert report.lost_frames == 200 - report.frames
    assert report.lost_lines == report.lost_frames
    assert report.gaps == 2
    await start()
    assert verify(state).problems == []


def has_dbstat(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1 FROM dbstat LIMIT 1")
    except sqlite3.Error:
        return False
    return True


@pytest.mark.parametrize("harm", ["missing", "empty", "text", "foreign", "directory", "symlink"])
async def test_what_is_no_spool_is_set_aside_as_well(
    start: Opener, state: StateDir, tmp_path: Path, harm: str
) -> None:
    """E13."""
    await fill(start)
    state.database.unlink()
    if harm == "directory":
        state.database.mkdir()
    elif harm == "symlink":
        state.database.symlink_to(tmp_path / "nowhere")
    elif harm == "foreign":
        with closing(sqlite3.connect(state.database)) as connection:
            connection.execute("CREATE TABLE precious (text)")
    elif harm != "missing":
        state.database.write_bytes(b"" if harm == "empty" else b"nine days of notes\n" * 100)
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await start()
    spool = await start(new_spool=True)
    (aside,) = set_aside(state)
    assert (aside / "spool.id").exists()
    assert os.path.lexists(aside / "spool.db") == (harm != "missing")
    stream = await spool.open_stream(INFO)
    await spool.commit([commit(stream.id, frame())])
    assert spool.last_frame_id == 1


async def test_a_spool_that_an_operator_exchanged_needs_to_be_told(
    start: Opener, state: StateDir
) -> None:
    """I13: reported, never silently mended."""
    await fill(start)
    state.marker.write_text("another\n")
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await start()
    assert (await (await start(new_spool=True)).overview()).frames == 12


@pytest.mark.parametrize("table", ["stream", "sink", "counter", "note", "gap", "sink_state"])
async def test_a_small_table_that_is_gone_takes_only_itself_away(
    start: Opener, state: StateDir, table: str
) -> None:
    await fill(start)
    with closing(sqlite3.connect(state.database)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    with state.database.open("r+b") as file:
        file.seek((page - 1) * 16384)
        file.write(b"\xff" * 16384)
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await start()
    spool = await start(new_spool=True)
    overview = await spool.overview()
    assert len(overview.streams) == (0 if table == "stream" else 2)
    assert len(overview.sinks) == (0 if table == "sink" else 2)
    assert overview.frames == (0 if table == "stream" else 12)
    assert (await spool.open_stream(INFO)).checkpoint.next_line == (0 if table == "stream" else 6)
    assert verify(state).problems == []
    await spool.commit([commit(1, frame(line=6))])
    assert spool.last_frame_id == 13, "ids go on"


async def test_a_first_start_with_the_flag_is_a_first_start(start: Opener, state: StateDir) -> None:
    spool = await start(new_spool=True)
    assert (await spool.overview()).frames == 0
    assert set_aside(state) == []


class Dying:
    """Kills at one of the steps that change a directory or make a change of it durable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
        self.left = after
        for name in ("rename", "replace", "mkdir", "unlink", "fsync"):
            monkeypatch.setattr(os, name, self._step(getattr(os, name)))

    def _step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return step(*arguments, **options)

        return dying


def kept_anywhere(state: StateDir, data: bytes) -> bool:
    return any(data in files_in(aside).values() for aside in set_aside(state))


#: More than there are; the last ones kill nothing.
STEPS = 20


@pytest.mark.parametrize(
    ("after", "told_again"),
    [*((after, False) for after in range(STEPS)), *((after, True) for after in range(1, STEPS, 4))],
)
async def test_a_kill_at_any_step_loses_nothing_whatever_the_next_start_is_told(
    start: Opener,
    state: StateDir,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    told_again: bool,
) -> None:
    await fill(start, 4)
    state.wal.touch()
    before = files_in(state.path)
    with monkeypatch.context() as patch:
        dying = Dying(patch, after=after)
        with contextlib.suppress(KeyboardInterrupt):
            renew(state, now_ns=NOW_NS)
    assert dying.left or after < STEPS - 1, "there are more steps"
    old_stays = files_in(state.path).get("spool.db") == before["spool.db"]
    spool = await start(new_spool=told_again)
    overview = await spool.overview()
    assert (overview.frames, len(overview.sinks), len(overview.streams)) == (4, 2, 2)
    assert not state.renewed.exists()
    assert verify(state).problems == []
    if told_again or not old_stays:
        for name in ("spool.db", "spool.id", "spool.mark"):
            assert kept_anywhere(state, before[name]), name


async def test_what_a_kill_had_not_moved_yet_is_put_beside_what_it_had(
    start: Opener, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log without its database is of no use."""
    await fill(start)
    state.wal.touch()
    with monkeypatch.context() as patch:
        rename = os.rename

        def dying(source: Path, target: Path) -> None:
            if source == state.wal:
                raise KeyboardInterrupt
            rename(source, target)

        patch.setattr(os, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            renew(state, now_ns=NOW_NS)
    (state.path / "spool.set-aside-of-another-time").mkdir()
    with capture_logs() as logs:
        await start()
    assert any("a new spool was begun" in one["event"] for one in logs)
    aside = state.path / "spool.set-aside-20260102T030405Z"
    there = files_in(aside).keys()
    assert there - {"spool.db-shm"} == {"spool.db", "spool.db-wal", "spool.mark", "spool.id"}


async def test_a_new_spool_beside_one_that_goes_on_is_never_used_later(
    start: Opener, state: StateDir
) -> None:
    await fill(start)
    state.renewed.write_bytes(b"made, and killed before anything was moved")
    spool = await start()
    await spool.close()
    assert not state.renewed.exists()
    state.database.unlink()
    with pytest.raises(SpoolUntrustedError, match="--new-spool"):
        await start()


async def test_a_sink_that_was_not_configured_stays_so(start: Opener, state: StateDir) -> None:
    await fill(start)
    spool = await start()
    await spool.configure_sinks({"archive": ""})
    await spool.close()
    spool = await start(new_spool=True)
    assert [one.name for one in (await spool.overview()).sinks] == ["archive"]
    assert (await spool.open_sink("behind", from_oldest=True)).missed == 0
    assert verify(state).problems == []


async def test_lines_of_which_neither_table_nor_index_tells_are_missed_by_their_numbers(
    start: Opener, state: StateDir
) -> None:
    await fill(start)
    change(state, "DELETE FROM frame WHERE id IN (7, 9)")
    report = renew(state, now_ns=NOW_NS)
    assert (report.frames, report.gaps, report.lost_lines) == (10, 1, 2)
    spool = await start()
    kinds = {one.id: one.kind for one in await spool.read(0, max_bytes=1 << 20)}
    assert kinds[9] is FrameKind.GAP
    assert verify(state).problems == []
    renewed = await spool.overview()
    await spool.close()
    assert renew(state, now_ns=NOW_NS).gaps == 0, "what is declared is declared once"
    assert (await (await start()).overview()).sinks == renewed.sinks
