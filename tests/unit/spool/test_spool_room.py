"""What the spool may take, and what happens when there is no room."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.model import FrameKind, GapBounds, GapCause, GapKind
from forwarder.spool import gate
from forwarder.spool.checkpoint import cut_off
from forwarder.spool.dropping import drop_oldest, drop_tails
from forwarder.spool.interface import Delivery
from forwarder.spool.overview import Usage, gaps_of
from forwarder.spool.room import Ballast, SpoolLimits, out_of_room
from tests.unit.spool.builders import INFO, OTHER, commit, frame
from tests.unit.spool.faults import Faults

if TYPE_CHECKING:
    from forwarder.spool.files import StateDir
    from forwarder.spool.interface import SinkOverview
    from forwarder.spool.sqlite import SqliteSpool
    from tests.unit.spool.conftest import Opener

#: What one line takes; small, so that the tests are fast.
UNIT = 256 << 10
BLOCK = SpoolLimits(max_bytes=16 * UNIT)
DROP = SpoolLimits(max_bytes=16 * UNIT, drop_oldest=True)


async def store(spool: SqliteSpool, line: int, *, info: Any = INFO, size: int = UNIT) -> None:
    """One line that takes about so much on the disk."""
    stream = await spool.open_stream(info)
    raw = os.urandom(size)
    await spool.commit([commit(stream.id, frame(raw, line=line, at_ns=100 + line))])


async def fill(spool: SqliteSpool, *, size: int = UNIT) -> int:
    """Store lines until the spool refuses; how many it took."""
    for line in range(1000):
        try:
            await store(spool, line, size=size)
        except SpoolUnavailableError:
            return line
    pytest.fail("it never refused")


async def numbers(spool: SqliteSpool) -> dict[str, SinkOverview]:
    sinks = (await spool.overview()).sinks
    for one in sinks:
        done = one.delivered + one.filtered + one.dead_lettered + one.dropped
        assert one.taken == done + one.pending, "promise 5"
    return {one.name: one for one in sinks}


# block --------------------------------------------------------------------------------------------


async def test_at_its_cap_the_spool_takes_nothing_more_and_says_why(start: Opener) -> None:
    spool = await start(limits=BLOCK)
    await spool.open_sink("archive", from_oldest=True)
    taken = await fill(spool)
    assert 12 <= taken <= 16
    overview = await spool.overview()
    assert overview.max_bytes == 16 * UNIT
    assert overview.used_bytes <= 19 * UNIT, "one commit over it at most"
    (note,) = overview.notes
    assert (note.name, "the spool has reached max_size" in note.text) == ("spool", True)
    with pytest.raises(SpoolUnavailableError, match="has reached max_size"):
        await store(spool, taken)
    assert spool.last_frame_id == taken


async def test_a_capped_spool_goes_on_only_when_it_is_well_below_its_cap(start: Opener) -> None:
    spool = await start(limits=BLOCK)
    await spool.open_sink("archive", from_oldest=True)
    taken = await fill(spool, size=UNIT // 8)
    gone = 0
    while True:
        try:
            await store(spool, taken, size=UNIT // 8)
            break
        except SpoolUnavailableError:
            gone += 1
            await spool.advance("archive", gone, {}, Delivery(delivered=1))
            await spool.prune(keep_tail_ns=0)
    assert gone >= 5, "a twentieth of it is free"
    assert spool.last_frame_id == taken + 1
    assert (await spool.overview()).notes == []


async def deliver(spool: SqliteSpool, *names: str) -> None:
    """Every sink is past everything."""
    for name in names:
        if pending := (await numbers(spool))[name].pending:
            await spool.advance(name, spool.last_frame_id, {}, Delivery(delivered=pending))


async def test_a_spool_that_only_holds_tails_gives_them_up_instead_of_standing_still(
    start: Opener,
) -> None:
    """A tail is cut by the stamps of what comes in; while nothing may come in it would stay."""
    spool = await start(limits=BLOCK)
    await spool.open_sink("archive", from_oldest=True)
    await spool.open_sink("behind", from_oldest=True)
    with capture_logs() as logs:
        first = await fill(spool)
        await deliver(spool, "archive")
        with pytest.raises(SpoolUnavailableError):
            await store(spool, first)
        assert (await numbers(spool))["behind"].pending == first, "the other sink makes room yet"
        for line in range(first, first + 60):
            await deliver(spool, "archive", "behind")
            assert await spool.prune(keep_tail_ns=1000) == 0
            await store(spool, line)
    assert (await spool.overview()).used_bytes < 18 * UNIT
    tail = await spool.tail(1, from_ns=0, max_bytes=1 << 30)
    assert tail.from_ns, "it says that it is cut short"
    told = [one for one in logs if "too small" in one["event"]]
    assert len(told) == 1


async def test_tails_go_also_when_reading_waits_for_more_room_than_there_is(
    start: Opener,
) -> None:
    """Between going on and stopping: not over the limit any more, and not well below it yet."""
    spool = await start(limits=BLOCK)
    await spool.open_sink("archive", from_oldest=True)
    line = await fill(spool, size=UNIT // 16)
    cursor = 3
    await spool.advance("archive", cursor, {}, Delivery(delivered=cursor))
    assert await spool.prune(keep_tail_ns=line - cursor) == cursor - 1
    with pytest.raises(SpoolUnavailableError):
        await store(spool, line)
    assert BLOCK.go_on_bytes <= (await spool.overview()).used_bytes < 16 * UNIT
    await deliver(spool, "archive")
    await store(spool, line)


async def test_without_a_sink_no_tail_is_given_up(start: Opener) -> None:
    spool = await start(limits=BLOCK)
    line = await fill(spool)
    with pytest.raises(SpoolUnavailableError):
        await store(spool, line)
    assert (await spool.overview()).frames == line


async def test_a_spool_without_a_cap_is_not_measured(start: Opener) -> None:
    spool = await start()
    for line in range(18):
        await store(spool, line)
    assert (await spool.overview()).max_bytes is None


async def test_the_log_of_a_capped_spool_stays_small(start: Opener, state: StateDir) -> None:
    spool = await start(limits=BLOCK)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(40):
        await store(spool, line)
        await spool.advance("archive", line + 1, {}, Delivery(delivered=1))
        await spool.prune(keep_tail_ns=0)
    assert state.wal.stat().st_size < 6 * UNIT


async def test_a_cap_that_was_made_smaller_stops_reading_at_once(start: Opener) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    for line in range(20):
        await store(spool, line)
    await spool.close()
    spool = await start(limits=BLOCK)
    with pytest.raises(SpoolUnavailableError, match="max_size"):
        await store(spool, 20)


# drop_oldest --------------------------------------------------------------------------------------


async def test_the_oldest_lines_make_room_and_are_one_gap_record_in_their_place(
    start: Opener, state: StateDir
) -> None:
    told: list[tuple[GapCause, int]] = []
    spool = await start(limits=DROP, on_gap=lambda cause, lines: told.append((cause, lines)))
    await spool.open_sink("archive", from_oldest=True)
    for line in range(40):
        await store(spool, line)
    frames = list(await spool.read(0, max_bytes=1 << 30))
    gap, *rest = frames
    assert gap.kind is FrameKind.GAP
    assert {one.kind for one in rest} == {FrameKind.LINES}
    dropped = rest[0].first_line
    assert [one.first_line for one in rest] == list(range(dropped, 40))
    assert gap.id == dropped, "the id of the last that was dropped"
    record = orjson.loads(gap.raw)
    assert (record["kind"], record["cause"], record["bounds"]) == (
        GapKind.DROPPED,
        GapCause.SPOOL_FULL,
        GapBounds.EXACT,
    )
    assert (record["after_line"], record["before_line"]) == (-1, dropped)
    assert record["to_stamp_ns"] == rest[0].first_stamp_ns
    (entry,) = gaps_of(state)
    assert entry.gap.record() == record
    assert sum(lines for _, lines in told) == dropped
    sink = (await numbers(spool))["archive"]
    assert (sink.dropped, sink.pending) == (dropped, len(rest))
    await spool.advance("archive", 40, {}, Delivery(delivered=len(rest)))
    sink = (await numbers(spool))["archive"]
    assert (sink.pending, sink.pending_bytes) == (0, 0)
    assert (await spool.overview()).used_bytes <= 19 * UNIT


async def test_a_spool_over_its_cap_makes_room_also_without_another_commit(start: Opener) -> None:
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    for line in range(40):
        await store(spool, line)
    await spool.close()
    spool = await start(limits=DROP)
    await spool.prune(keep_tail_ns=0)
    assert (await numbers(spool))["archive"].dropped > 0


async def test_what_a_sink_was_handed_is_never_dropped(start: Opener) -> None:
    spool = await start(limits=DROP)
    await spool.open_sink("slow", from_oldest=True)
    for line in range(8):
        await store(spool, line)
    handed = await spool.read(0, max_bytes=3 * UNIT, sink="slow")
    assert [one.id for one in handed] == [1, 2, 3]
    for line in range(8, 30):
        await store(spool, line)
    frames = await spool.read(0, max_bytes=1 << 30)
    assert [one.id for one in frames[:3]] == [1, 2, 3]
    assert frames[3].kind is FrameKind.GAP
    assert frames[3].first_line == 3
    await spool.advance("slow", 3, {}, Delivery(delivered=3))
    assert (await numbers(spool))["slow"].dropped == frames[4].first_line - 3


async def test_a_sink_in_the_middle_gets_a_record_of_its_own_part_only(
    start: Opener, state: StateDir
) -> None:
    spool = await start(limits=DROP)
    for name in ("ahead", "behind"):
        await spool.open_sink(name, from_oldest=True)
    for line in range(6):
        await store(spool, line)
    await spool.advance("ahead", 3, {}, Delivery(delivered=3))
    for line in range(6, 30):
        await store(spool, line)
    frames = await spool.read(0, max_bytes=1 << 30)
    assert next(one.id for one in frames if one.kind is FrameKind.GAP) == 3
    ranges = [(one.gap.after_line, one.gap.before_line) for one in gaps_of(state)]
    assert ranges[0] == (-1, 3)
    assert ranges[1][0] == 2
    sinks = await numbers(spool)
    assert sinks["behind"].dropped == sinks["ahead"].dropped + 3


async def test_a_sink_that_keeps_up_loses_nothing(start: Opener) -> None:
    spool = await start(limits=DROP)
    for name in ("down", "fine"):
        await spool.open_sink(name, from_oldest=True)
    for line in range(40):
        await store(spool, line)
        frames = await spool.read(line, max_bytes=1, sink="fine")
        assert [one.kind for one in frames] == [FrameKind.LINES]
        await spool.advance("fine", line + 1, {}, Delivery(delivered=1))
    sinks = await numbers(spool)
    assert (sinks["fine"].dropped, sinks["fine"].delivered) == (0, 40)
    assert sinks["down"].dropped > 20


async def test_records_that_stay_between_dropped_lines_keep_their_place(
    start: Opener, state: StateDir
) -> None:
    spool = await start(limits=DROP)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 0)
    stream = await spool.open_stream(INFO)
    lost = frame(b"{}", line=1, at_ns=100, kind=FrameKind.GAP)
    await spool.commit([commit(stream.id, lost)])
    for line in range(1, 30):
        await store(spool, line)
    kinds = [(one.id, one.kind) for one in await spool.read(0, max_bytes=1 << 30)][:3]
    assert kinds[:2] == [(1, FrameKind.GAP), (2, FrameKind.GAP)]
    assert kinds[2][1] is FrameKind.GAP
    assert [one.gap.after_line for one in gaps_of(state)] == [-1, 0]


async def test_each_stream_gets_its_own_record(start: Opener, state: StateDir) -> None:
    spool = await start(limits=DROP)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(15):
        await store(spool, line)
        await store(spool, line, info=OTHER)
    entries = gaps_of(state)
    assert {one.key for one in entries} == {INFO.key, OTHER.key}
    assert len(entries) == 2
    assert {one.gap.after_line for one in entries} == {-1}


async def test_when_nothing_else_helps_what_is_kept_for_comparison_goes(start: Opener) -> None:
    spool = await start(limits=DROP)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(30):
        await store(spool, line)
        await spool.advance("archive", spool.last_frame_id, {}, Delivery(delivered=1))
    tail = await spool.tail(1, from_ns=0, max_bytes=1 << 30)
    assert 0 < len(tail.frames) < 20
    assert tail.from_ns > 100, "it says where it begins"
    assert (await numbers(spool))["archive"].dropped == 0


async def test_what_goes_leaves_no_record_that_would_stand_for_lines_behind_it(
    spool: SqliteSpool, state: StateDir
) -> None:
    """A frame damaged later lies behind what was delivered, and no gap is declared over that."""
    await spool.open_sink("archive", from_oldest=True)
    for line in range(3):
        await store(spool, line, size=10)
    await _damage(spool, 1)
    await spool.read(0, max_bytes=0)
    await spool.advance("archive", 2, {}, Delivery(delivered=1))
    assert await spool._writer.run(lambda one: drop_tails(one, enough=lambda _: False)) == 2
    assert (await spool.overview()).frames == 1
    await _damage(spool, 3)
    await spool.read(2, max_bytes=0)
    entries = [one.gap for one in gaps_of(state)]
    assert [(one.after_line, one.before_line, one.bounds) for one in entries] == [
        (-1, 1, GapBounds.EXACT),
        (1, 3, GapBounds.EXACT),
    ]
    assert (await numbers(spool))["archive"].dropped == 2


async def _damage(spool: SqliteSpool, frame_id: int) -> None:
    await spool._writer.run(
        lambda one: one.execute("UPDATE frame SET data = x'00' WHERE id = ?", (frame_id,))
    )
    spool._recent.forget(frame_id)


async def test_without_a_sink_nothing_may_be_dropped(start: Opener) -> None:
    spool = await start(limits=DROP)
    assert await fill(spool) < 20


async def test_what_was_dropped_is_not_read_from_memory_any_more(start: Opener) -> None:
    spool = await start(limits=DROP)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(30):
        await store(spool, line)
        assert sum(len(one.raw) for one in await spool.read(0, max_bytes=1 << 30)) < 18 * UNIT


# A full disk --------------------------------------------------------------------------------------


async def test_the_ballast_lets_cursors_move_and_lines_wait_until_it_is_made_again(
    start: Opener, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults()
    spool = await start(faults, limits=SpoolLimits(ballast_bytes=UNIT))
    assert state.ballast.stat().st_size == UNIT
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 0)
    faults.fail("UPDATE sink SET cursor", "SQLITE_FULL")
    await spool.advance("archive", 1, {}, Delivery(delivered=1))
    assert not state.ballast.exists()
    with pytest.raises(SpoolUnavailableError, match="the disk is full"):
        await store(spool, 1)
    assert "the disk is full" in (await spool.overview()).notes[0].text

    monkeypatch.setattr(Ballast, "_free_bytes", lambda _: 2 * UNIT - 1)
    await spool.prune(keep_tail_ns=0)
    with pytest.raises(SpoolUnavailableError, match="the disk is full"):
        await store(spool, 1)
    monkeypatch.setattr(Ballast, "_free_bytes", lambda _: 2 * UNIT)
    await spool.prune(keep_tail_ns=0)
    await store(spool, 1)
    assert state.ballast.exists()
    assert (await spool.overview()).notes == []


async def test_lines_that_find_no_room_are_told_and_taken_later(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("UPDATE counter", "SQLITE_FULL")
    with pytest.raises(SpoolUnavailableError, match="SQLITE_FULL"):
        await store(spool, 0)
    assert "SQLITE_FULL" in (await spool.overview()).notes[0].text
    await store(spool, 0)
    assert (await spool.overview()).notes == []


async def test_without_ballast_a_full_disk_makes_cursors_wait(start: Opener) -> None:
    faults = Faults()
    spool = await start(faults)
    await spool.open_sink("archive", from_oldest=True)
    await store(spool, 0)
    faults.fail("UPDATE sink SET cursor", "SQLITE_FULL")
    with pytest.raises(SpoolUnavailableError, match="SQLITE_FULL"):
        await spool.advance("archive", 1, {}, Delivery(delivered=1))
    await spool.advance("archive", 1, {}, Delivery(delivered=1))


def test_ballast_is_held_only_where_there_is_room_to_spare(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = Ballast(state, UNIT)
    monkeypatch.setattr(Ballast, "_free_bytes", lambda _: 2 * UNIT - 1)
    assert not ballast.make()
    monkeypatch.setattr(Ballast, "_free_bytes", lambda _: 2 * UNIT)
    assert ballast.make()
    monkeypatch.setattr(Ballast, "_free_bytes", lambda _: 0)
    assert ballast.make(), "it is there already"
    status = state.ballast.stat()
    assert status.st_blocks * 512 >= UNIT, "not a hole in a file"
    assert (status.st_mode & 0o777) == 0o600


def test_ballast_that_is_not_wanted_any_more_is_deleted(state: StateDir) -> None:
    Ballast(state, UNIT).make()
    assert not Ballast(state, 0).make()
    assert not state.ballast.exists()


def test_ballast_that_does_not_fit_leaves_nothing_behind(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("forwarder.spool.room.os.posix_fallocate", full)
    assert not Ballast(state, UNIT).make()
    assert list(state.path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_quota_is_a_full_disk_and_no_broken_one(
    start: Opener, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("COMMIT", "SQLITE_IOERR_WRITE")

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("forwarder.spool.room.os.pwrite", refuse)
    with pytest.raises(SpoolUnavailableError, match="SQLITE_IOERR_WRITE"):
        await spool.open_stream(INFO)
    monkeypatch.undo()
    await store(spool, 0, size=10)


async def test_a_broken_disk_is_no_full_one(start: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults()
    spool = await start(faults)
    faults.fail("COMMIT", "SQLITE_IOERR_WRITE")

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("forwarder.spool.room.os.pwrite", refuse)
    with pytest.raises(SpoolUntrustedError, match="SQLITE_IOERR_WRITE"):
        await spool.open_stream(INFO)


async def test_a_disk_with_room_is_not_taken_for_a_full_one(
    spool: SqliteSpool, state: StateDir
) -> None:
    before = {path.name for path in state.path.iterdir()}
    assert not out_of_room(state)
    assert {path.name for path in state.path.iterdir()} == before


# A long reader ------------------------------------------------------------------------------------


async def test_a_log_that_grows_because_somebody_reads_is_told_once(
    start: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WAL_ALARM_BYTES", 100)
    spool = await start()
    with capture_logs() as logs:
        await store(spool, 0)
        await spool.prune(keep_tail_ns=0)
        await spool.prune(keep_tail_ns=0)
        await spool._gate.look(Usage(0, 0, 0))
        await spool.prune(keep_tail_ns=0)
    assert ["write-ahead log grows" in one["event"] for one in logs] == [True, True]
    assert {one["log_level"] for one in logs} == {"error"}


async def test_deleting_does_not_write_what_it_deletes_once_more(
    start: Opener, state: StateDir
) -> None:
    """Some builds of SQLite overwrite it with zeros, through the log: no room on a full disk."""
    spool = await start()
    await spool.open_sink("archive", from_oldest=True)
    for line in range(20):
        await store(spool, line)
        await spool.advance("archive", line + 1, {}, Delivery(delivered=1))
    await spool._writer.run(cut_off, alone=True)
    assert state.wal.stat().st_size == 0
    await spool.prune(keep_tail_ns=0)
    assert (await spool.overview()).frames == 1
    assert state.wal.stat().st_size < UNIT


async def test_the_log_fits_into_the_ballast(start: Opener) -> None:
    spool = await start(limits=SpoolLimits(ballast_bytes=4 << 20))
    assert spool._writer._checkpoint.pages * 16384 == 3 << 20


async def test_a_read_waits_for_a_drop_and_sees_what_it_left(start: Opener) -> None:
    """What is being dropped must not be handed out from memory at the same time."""
    spool = await start(limits=DROP)
    await spool.open_sink("archive", from_oldest=True)
    for line in range(5):
        await store(spool, line)
    async with spool._gate.turn:
        reading = asyncio.create_task(spool.read(0, max_bytes=1, sink="archive"))
        await asyncio.sleep(0)
        assert not reading.done()
        await spool._gate.essential(
            lambda one: drop_oldest(one, handed={}, enough=lambda _: False, now_ns=1),
            spool._gate._dropped,
        )
    assert [one.kind for one in await reading] == [FrameKind.GAP]
    assert spool._gate.handed == {"archive": 5}
