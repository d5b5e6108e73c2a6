"""The way of windows: the same verdicts, counters and crashes as those of batches."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.model import StreamInfo, StreamKey, StreamState
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery, DropReason, StreamCommit
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.interface import (
    BatchRejectedError,
    PartlyDeliveredError,
    Refusal,
    SinkMisconfiguredError,
    SinkUnavailableError,
)
from sinks.plan import WindowLimits
from sinks.testing_windows import MemoryWindowSink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    FAST,
    INFO,
    NAME,
    cursor_of,
    overview,
    running,
    settled_down,
    take,
    until,
    until_seen,
)
from tests.fakes.spool import MeddledSpool
from tests.fakes.window_delivery import EACH, damage, window_dispatcher, window_life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sinks.interface import SinkState, StateChanges
    from sinks.window import Window

OTHER = StreamInfo(StreamKey("sbx-2", "main"))

#: Two frames of twenty bytes make a window.
PAIRS = WindowLimits(max_bytes=40, max_age_s=60.0)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    yield spool
    await spool.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def line(number: int) -> bytes:
    """Twenty bytes, with the newline."""
    return b"%019d" % number


def numbers(sink: MemoryWindowSink) -> list[int]:
    """Of the lines that arrived, in order."""
    return [int(record.text) for record in sink.records if record.gap is None]


# The way of a window ------------------------------------------------------------------------------


async def test_everything_is_delivered_in_order_and_the_counters_add_up(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, spool, clock, limits=PAIRS)
    await take(spool, *map(line, range(10)))
    async with running(archive):
        await archive.wait_past(10)
        await take(spool, *map(line, range(10, 15)))
        await archive.wait_past(15)
    assert numbers(sink) == list(range(15))
    assert sink.edges[0][0] == 0
    assert [after for after, _ in sink.edges[1:]] == [last for _, last in sink.edges[:-1]]
    seen = await overview(spool)
    assert (seen.taken, seen.delivered, seen.pending, seen.state) == (15, 15, 0, "running")


async def test_an_unavailable_sink_gets_the_same_window_again_whatever_came_meanwhile(
    spool: SqliteSpool,
) -> None:
    clock = FakeClock(instant=False)
    sink = MemoryWindowSink(verdicts=[SinkUnavailableError("down")] * 2)
    archive = window_dispatcher(sink, spool, clock)
    await take(spool, line(1))
    async with running(archive):
        for attempts in (1, 2):
            await until(lambda: len(sink.attempts) == attempts)  # noqa: B023 - awaited here
            await take(spool, line(2))
            await until(lambda: clock.sleeping == 1)
            clock.advance(60.0)
        await archive.wait_past(1)
    first = [window for window in sink.attempts if window.after_id == 0]
    assert [(one.last_id, one.line_count) for one in first] == [(1, 1)] * 3


async def test_a_held_sink_is_closed_and_opened_again(spool: SqliteSpool, clock: FakeClock) -> None:
    sink = MemoryWindowSink(verdicts=[SinkMisconfiguredError("no key")])
    archive = window_dispatcher(sink, spool, clock)
    await take(spool, line(1))
    async with running(archive):
        await archive.wait_past(1)
    assert sink.calls[:5] == ["open", "write 0-1", "close", "open", "write 0-1"]
    assert (await overview(spool)).delivered == 1


async def test_a_write_that_takes_too_long_is_cancelled_and_tried_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemoryWindowSink(gated=True)
    archive = window_dispatcher(sink, spool, clock, timeout_s=0.01)
    await take(spool, line(1))
    async with running(archive):
        await until(lambda: len(sink.attempts) == 2)
        sink.release(0)
        await archive.wait_past(1)
    assert numbers(sink) == [1]


@pytest.mark.parametrize(
    "verdict",
    [
        BatchRejectedError("never", status="400"),
        PartlyDeliveredError("some", refused={0: Refusal("bad")}),
        PartlyDeliveredError("some", again=[0]),
        PartlyDeliveredError("some", unnamed=1),
    ],
)
async def test_a_sink_that_refuses_records_has_a_bug_and_nothing_is_set_aside(
    spool: SqliteSpool, clock: FakeClock, verdict: Exception
) -> None:
    sink = MemoryWindowSink(verdicts=[verdict] * 3)
    archive = window_dispatcher(sink, spool, clock, limits=PAIRS)
    await take(spool, line(1), line(2))
    with capture_logs() as logs:
        async with running(archive):
            await archive.wait_past(2)
    assert sink.calls == ["open", *["write 0-2"] * 4, "close"]
    assert next(one["event"] for one in logs if one["log_level"] == "error") == "sink met a bug"
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.dropped) == (2, 0, 0)


# Several at once ----------------------------------------------------------------------------------


class Remembering(MemoryWindowSink):
    """Every window changes the same key."""

    async def write(self, window: Window) -> StateChanges:
        changes = await super().write(window)
        return {**changes, "last": b"%d" % window.last_id}


async def test_the_cursor_stands_at_the_lowest_window_that_is_not_settled(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = Remembering(gated=True)
    archive = window_dispatcher(sink, spool, clock, limits=PAIRS, in_flight=2)
    await take(spool, *map(line, range(4)))
    async with running(archive):
        await sink.came(2)
        sink.release(2)
        await until(lambda: sink.edges == [(2, 4)])
        await settled_down(lambda: len(sink.calls))
        assert await cursor_of(spool) == 0
        sink.release(0)
        await archive.wait_past(4)
    record = await spool.open_sink(NAME, from_oldest=True)
    assert (record.state["last"], record.state["window:0"]) == (b"4", b"2"), "in order"
    assert sink.most == 2
    assert (await overview(spool)).delivered == 4


async def test_after_a_crash_between_two_windows_both_come_again_as_they_were(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemoryWindowSink(gated=True)
    await take(spool, *map(line, range(6)))
    async with running(window_dispatcher(sink, spool, clock, limits=PAIRS, in_flight=2)):
        await sink.came(2)
        sink.release(2)
        await until(lambda: sink.edges == [(2, 4)])
    again = MemoryWindowSink(sink.kept)
    archive = window_dispatcher(again, spool, clock, in_flight=2)
    async with running(archive):
        await archive.wait_past(6)
    assert again.calls[1:3] == ["write 0-2", "write 2-4"], "whatever the limits are now"
    assert numbers(again) == list(range(6))
    assert (await overview(spool)).delivered == 6


async def test_what_is_left_when_the_daemon_stops_is_a_window(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, spool, clock, limits=PAIRS)
    async with running(archive):
        await take(spool, line(1))
        await clock.slept_times(2)
        assert sink.attempts == []
        await archive.wait_past(1)
    assert sink.edges == [(0, 1)]


# Counters -----------------------------------------------------------------------------------------


async def test_lines_that_were_damaged_before_a_window_was_read_count_as_dropped(
    tmp_path: Path, clock: FakeClock
) -> None:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    await spool.open_sink(NAME, from_oldest=True)
    await take(spool, *map(line, range(4)))
    await spool.close()
    damage(tmp_path, 2)
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    try:
        sink = MemoryWindowSink()
        archive = window_dispatcher(sink, spool, clock, limits=PAIRS)
        with capture_logs():
            async with running(archive):
                await archive.wait_past(4)
        assert numbers(sink) == [0, 2, 3]
        seen = await overview(spool)
        assert (seen.delivered, seen.dropped, seen.pending) == (3, 1, 0)
        assert seen.dropped_for == {DropReason.DAMAGED: 1}
    finally:
        await spool.close()


async def test_lines_that_are_damaged_after_a_window_was_read_are_delivered(
    tmp_path: Path, clock: FakeClock
) -> None:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, meddled.spool, clock, limits=PAIRS)
    await take(spool, *map(line, range(2)))
    with capture_logs():
        async with running(archive):
            await until(lambda: sink.edges == [(0, 2)])
            try:
                damage(tmp_path, 2)
                spool._recent.forget(2)
                await spool.read(1, max_bytes=1000)
                await until_seen(spool, lambda one: one.dropped == 1)
            finally:
                gate.set()
            await archive.wait_past(2)
    seen = await overview(spool)
    assert (seen.delivered, seen.dropped, seen.pending) == (2, 0, 0)
    await spool.close()


# A spool that is full -----------------------------------------------------------------------------

UNIT = 64 << 10
DROP = SpoolLimits(max_bytes=64 * UNIT, drop_oldest=True)
#: Four frames of that size.
FOURS = WindowLimits(max_bytes=4 * UNIT, max_age_s=60.0)


async def take_large(spool: SqliteSpool, *seeds: int) -> None:
    """Frames that cannot be made smaller, of one line each."""
    for seed in seeds:
        await take(spool, line(seed) + b" " + random_text(seed), stamp_ns=5 + seed)


def random_text(seed: int) -> bytes:
    return random.Random(seed).randbytes(UNIT).replace(b"\n", b" ")


def seeds_in(sink: MemoryWindowSink) -> list[int]:
    return [int(record.text[:19]) for record in sink.records if record.gap is None]


async def test_windows_that_a_sink_was_handed_are_whole_when_the_oldest_lines_are_dropped(
    tmp_path: Path,
) -> None:
    clock = FakeClock(instant=False)
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=DROP)
    sink = MemoryWindowSink(gated=True)
    archive = window_dispatcher(sink, spool, clock, limits=FOURS, in_flight=2)
    await take_large(spool, *range(8))
    with capture_logs():
        async with running(archive):
            await sink.came(2)
            await settled_down(lambda: len(sink.calls))
            await take_large(spool, *range(8, 100))
            dropped = (await until_seen(spool, lambda one: one.dropped > 10)).dropped
            sink.release(*range(200))
            await archive.wait_past(spool.last_frame_id)
    assert seeds_in(sink)[:8] == list(range(8))
    seen = await overview(spool)
    assert (seen.delivered, seen.dropped, seen.pending) == (100 - dropped, dropped, 0)
    assert len(seeds_in(sink)) == 100 - dropped
    await spool.close()


async def test_lines_that_are_dropped_while_a_window_is_being_recorded_end_nothing(
    tmp_path: Path, clock: FakeClock
) -> None:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=DROP)
    meddled = MeddledSpool(spool)
    gate = meddled.gates["remember"] = asyncio.Event()
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, meddled.spool, clock, limits=FOURS)
    with capture_logs():
        async with running(archive) as (task,):
            await take_large(spool, *range(4))
            await until(lambda: "remember" in meddled.calls)
            await take_large(spool, *range(4, 100))
            gate.set()
            await delivered(archive.wait_past(spool.last_frame_id), task)
    seen = await overview(spool)
    assert (seen.delivered, seen.pending) == (len(seeds_in(sink)), 0)
    assert seen.dropped > 0
    await spool.close()


async def test_windows_that_were_handed_out_before_a_restart_are_not_dropped_after_it(
    tmp_path: Path,
) -> None:
    clock = FakeClock(instant=False)
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=DROP)
    await take_large(spool, *range(8))
    sink = MemoryWindowSink(gated=True)
    async with running(window_dispatcher(sink, spool, clock, limits=FOURS, in_flight=2)):
        await sink.came(2)
    await spool.close()
    # The daemon comes back, and lines pour in before the sink has said what it is about to write.
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=DROP)
    await spool.configure_sinks({NAME: ""})
    with capture_logs():
        await take_large(spool, *range(8, 100))
    dropped = (await overview(spool)).dropped
    again = MemoryWindowSink()
    archive = window_dispatcher(again, spool, clock, limits=FOURS, in_flight=2)
    async with running(archive):
        await archive.wait_past(spool.last_frame_id)
    assert dropped > 10
    assert again.edges[:2] == [(0, 4), (4, 8)]
    assert seeds_in(again) == [*range(8), *range(8 + dropped, 100)]
    await spool.close()


async def test_windows_are_so_small_that_a_spool_of_limited_size_has_room_for_several(
    tmp_path: Path,
) -> None:
    limits = SpoolLimits(max_bytes=64 * UNIT)
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=limits)
    sink = MemoryWindowSink()
    huge = WindowLimits(max_bytes=1 << 30, max_age_s=1e9)  # no window ever becomes old
    clock = FakeClock(instant=False)
    archive = window_dispatcher(
        sink, spool, clock, limits=huge, in_flight=2, room_bytes=limits.max_bytes
    )
    async with running(archive):
        # More than the spool may hold: it goes on only when windows make room.
        for seed in range(150):
            while not await is_taken(spool, seed):
                clock.advance(0.25)
                await spool.prune(keep_tail_ns=0)
        await archive.wait_past(spool.last_frame_id)
    assert seeds_in(sink) == list(range(150))
    await spool.close()


async def is_taken(spool: SqliteSpool, seed: int) -> bool:
    """Whether there was room for a large frame."""
    try:
        await take_large(spool, seed)
    except SpoolUnavailableError:
        return False
    return True


async def delivered(done: object, task: asyncio.Task[None]) -> None:
    """Wait for it; the error of the task that should bring it about comes out at once."""
    waiting = asyncio.ensure_future(done)  # type: ignore[call-overload]  # a coroutine
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED, timeout=20.0)
    if task.done():
        waiting.cancel()
        await task
    await waiting


# Frames that are not there any more ---------------------------------------------------------------


async def test_a_sink_that_was_not_configured_for_a_while_goes_on_behind_what_was_deleted(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    await spool.configure_sinks({NAME: ""})
    await take(spool, *map(line, range(4)))
    async with window_life(spool, PAIRS) as one:
        assert await one.next(2) == [(0, 2, 2), (2, 4, 2)]
    await spool.configure_sinks({"other": ""})
    await spool.open_sink("other", from_oldest=True)
    await spool.advance("other", 4, {}, Delivery(delivered=4))
    stream = await spool.open_stream(INFO)
    over = StreamCommit(stream.id, [], stream.checkpoint, state=StreamState.COMPLETE)
    await spool.commit([over])
    assert await spool.prune(keep_tail_ns=0) == 4
    await take(spool, *map(line, range(4, 7)), info=OTHER)
    await spool.configure_sinks({NAME: "", "other": ""})
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, spool, clock, limits=PAIRS)
    with capture_logs():
        async with running(archive) as (task,):
            await delivered(archive.wait_past(spool.last_frame_id), task)
    assert numbers(sink)[-3:] == [4, 5, 6]
    seen = await overview(spool)
    assert (seen.delivered, seen.pending) == (len(numbers(sink)), 0)


# The spool's troubles -----------------------------------------------------------------------------


async def test_a_spool_without_room_is_waited_for(spool: SqliteSpool, clock: FakeClock) -> None:
    meddled = MeddledSpool(spool)
    for name in ("open_sink", "survey", "hand_out", "remember", "read", "advance", "note_sink"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    sink = MemoryWindowSink()
    archive = window_dispatcher(sink, meddled.spool, clock)
    await take(spool, *map(line, range(3)))
    async with running(archive):
        await archive.wait_past(3)
    assert numbers(sink) == [0, 1, 2]
    assert (await overview(spool)).delivered == 3


@pytest.mark.parametrize("name", ["survey", "hand_out", "remember", "read", "advance"])
async def test_a_spool_that_failed_ends_the_dispatcher(
    spool: SqliteSpool, clock: FakeClock, name: str
) -> None:
    meddled = MeddledSpool(spool)
    meddled.errors[name] = [SpoolUntrustedError("broken")] * 9
    sink = MemoryWindowSink()
    await take(spool, line(1))
    async with running(window_dispatcher(sink, meddled.spool, clock)) as (task,):
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await task
    assert sink.calls[-1:] in ([], ["close"])


async def test_a_sink_finds_a_directory_of_its_own_that_survives(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    class Staging(MemoryWindowSink):
        async def write(self, window: Window) -> StateChanges:
            state: SinkState | None = self.state
            assert state is not None
            (state.directory / str(window.after_id)).touch()
            return await super().write(window)

    await take(spool, line(1), line(2))
    for last_id in (1, 2):
        sink = Staging()
        limits = WindowLimits(max_bytes=1, max_age_s=60.0)
        archive = window_dispatcher(sink, spool, clock, limits=limits, state_dir=tmp_path)
        async with running(archive):
            await archive.wait_past(last_id)
    directory = tmp_path / "sinks" / NAME
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in directory.iterdir()} == {"0", "1"}


async def test_a_cancellation_at_any_moment_delivers_and_counts_every_line_once() -> None:
    moment = 0
    with TemporaryDirectory(dir=FAST) as directory:
        while await counted_at(moment := moment + 1, Path(directory, str(moment))):
            pass
    assert moment > 30


async def counted_at(moment: int, directory: Path) -> bool:
    """Cancel at that step with several in flight; False when there were fewer steps."""
    directory.mkdir()
    spool = await open_spool(StateDir(directory), now=lambda: 1)
    kept = MemoryWindowSink()
    steps: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def step(name: str) -> None:
        steps.append(name)
        if len(steps) == moment:
            tasks[0].cancel()
        await asyncio.sleep(0)

    await take(spool, *map(line, range(6)))
    meddled = MeddledSpool(spool, step=step)
    first = window_dispatcher(kept, meddled.spool, FakeClock(), limits=PAIRS, in_flight=2)
    tasks.append(asyncio.create_task(first.run()))
    done = asyncio.create_task(first.wait_past(6))
    await asyncio.wait({tasks[0], done}, return_when=asyncio.FIRST_COMPLETED)
    for task in (tasks[0], done):
        task.cancel()
    await asyncio.gather(*tasks, done, return_exceptions=True)
    await spool.open_sink(NAME, from_oldest=True)
    assert (await overview(spool)).delivered <= len(kept.records), steps[moment - 1 :]

    again = MemoryWindowSink(kept.kept)
    second = window_dispatcher(again, spool, FakeClock(), limits=EACH, in_flight=2)
    async with running(second):
        await second.wait_past(6)
    seen = await overview(spool)
    assert (seen.delivered, seen.dropped, seen.pending) == (6, 0, 0), steps[moment - 1 :]
    assert numbers(again) == list(range(6)), steps[moment - 1 :]
    await spool.close()
    return len(steps) >= moment
