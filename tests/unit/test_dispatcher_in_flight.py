"""Several batches under way at once, and a destination that is down for long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUntrustedError
from forwarder.spool.files import StateDir
from forwarder.spool.interface import DropReason
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.interface import (
    PartlyDeliveredError,
    Refusal,
    SinkUnavailableError,
)
from sinks.plan import DeliveryPlan
from sinks.testing import FailingSink, GatedSink, MemorySink, PickySink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    cursor_of,
    dispatcher,
    overview,
    running,
    settled_down,
    take,
    until,
    until_seen,
)
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.interface import Batch, Sink, StateChanges


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    yield spool
    await spool.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def texts(sink: Sink) -> list[bytes]:
    """What arrived, in order of arrival."""
    inner = sink.inner if isinstance(sink, PickySink) else sink
    assert isinstance(inner, MemorySink)
    return [record.text for record in inner.records]


FOUR = DeliveryPlan(in_flight=4)


def firsts(batches: list[Batch]) -> list[int]:
    return [batch.first_id for batch in batches]


async def test_after_a_crash_all_from_the_lowest_unconfirmed_batch_comes_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    kept = MemorySink()
    sink = GatedSink(kept)
    await take(spool, *[b"%d" % number for number in range(8)])
    async with running(dispatcher(sink, spool, clock, plan=FOUR)):
        await sink.came(4)
        sink.release(1, 3, 4)
        await until_seen(spool, lambda one: one.delivered == 1)
        await until(lambda: len(kept.batches) == 3)
        await settled_down(lambda: len(kept.batches))
        assert await cursor_of(spool) == 1, "frames 3 and 4 wait for frame 2"
    again = MemorySink(kept.kept)
    archive = dispatcher(again, spool, clock, plan=FOUR)
    async with running(archive):
        await archive.wait_past(8)
    assert sorted(firsts(again.batches)) == [2, 3, 4, 5, 6, 7, 8]
    assert sorted(texts(again)) == [b"%d" % number for number in range(8)]
    seen = await overview(spool)
    assert (seen.delivered, seen.pending) == (8, 0)


async def test_one_slow_batch_lets_only_so_many_overtake_it(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = GatedSink()
    sink.release(*range(2, 51))
    archive = dispatcher(sink, spool, clock, plan=FOUR)
    await take(spool, *[b"x"] * 50)
    async with running(archive):
        await sink.came(1)
        assert isinstance(sink.inner, MemorySink)
        inner = sink.inner
        await until(lambda: len(inner.batches) == 7)
        await settled_down(lambda: len(inner.batches))
        assert firsts(inner.batches) == [2, 3, 4, 5, 6, 7, 8]
        sink.release(1)
        await archive.wait_past(50)
    assert (await overview(spool)).delivered == 50


async def test_the_pieces_of_a_large_frame_may_be_more_than_may_overtake(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, plan=DeliveryPlan(in_flight=2, max_records=1))
    await take(spool, b"\n".join(b"%d" % number for number in range(40)), b"last")
    async with running(archive):
        await archive.wait_past(2)
    assert len(sink.batches) == 41
    assert (await overview(spool)).delivered == 41


async def test_every_line_is_counted_whatever_becomes_of_its_batch(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    unnamed = PartlyDeliveredError("old", unnamed=9, refused={0: Refusal("bad", "400")})
    sink = FailingSink([SinkUnavailableError("down"), unnamed], PickySink([b"7", b"", b"9"]))
    archive = dispatcher(sink, spool, clock, batch_bytes=6)
    await take(spool, *[b"%d" % number if number % 4 != 3 else b"" for number in range(20)])
    async with running(archive):
        await archive.wait_past(20)
        seen = await overview(spool)
    assert (seen.taken, seen.delivered, seen.dead_lettered, seen.dropped) == (15, 11, 2, 2)
    assert seen.dropped_for == {DropReason.REFUSED_UNNAMED: 2}
    assert seen.dead_letters == 1 + 1 + 1 + 5, "named, unnamed, poison, and gap records"


async def test_a_spool_that_failed_is_what_ends_the_dispatcher_whatever_else_fails(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    meddled.errors["note_sink"] = [SpoolUntrustedError("broken")] * 9
    await take(spool, b"a", b"b")
    async with running(dispatcher(MemorySink(), meddled.spool, clock, plan=FOUR)) as (task,):
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await task


async def test_a_batch_under_way_at_the_end_is_neither_counted_nor_lost(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = GatedSink()
    await take(spool, b"a", b"b", b"c")
    async with running(dispatcher(sink, spool, clock, plan=FOUR)) as (task,):
        await sink.came(3)
        sink.release(2)
        await until(lambda: len(sink.waiting) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sink.waiting == []
    seen = await overview(spool)
    assert (seen.delivered, seen.pending) == (0, 3)


# A long outage ------------------------------------------------------------------------------------


class Outage(MemorySink):
    """Down until somebody says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True
        self.attempts = 0

    async def write(self, batch: Batch) -> StateChanges:
        self.attempts += 1
        if self.down:
            raise SinkUnavailableError("down")
        return await super().write(batch)


async def test_a_day_of_outage_costs_only_disk_and_delays_nobody_else(
    spool: SqliteSpool,
) -> None:
    down, well = FakeClock(instant=False, chance=1.0), FakeClock(instant=False)
    broken, healthy = Outage(), MemorySink()
    plan = DeliveryPlan(in_flight=4, max_age_s=0.001)
    late = dispatcher(broken, spool, down, name="late", batch_bytes=60, plan=plan)
    prompt = dispatcher(healthy, spool, well, name="prompt")
    async with running(late, prompt):
        frames = 0
        for hour in range(24):
            await take(spool, *[b"%d %d" % (hour, number) for number in range(10)])
            frames += 10
            await prompt.wait_past(frames)
            assert len(healthy.records) == frames
            await pass_time(down, 3600.0)
        assert (await overview(spool, "late")).pending == 240
        assert 24 <= broken.attempts <= 16 + 24 * 120, "one request at a time, every 30 s at most"
        broken.down = False
        caught_up = asyncio.ensure_future(late.wait_past(240))
        while not caught_up.done():
            await pass_time(down, 60.0)
        assert well.slept == []
    assert [len(one.records) for one in (broken, healthy)] == [240, 240]
    assert len(broken.batches) <= 8 + 240 // 9, "catching up takes full batches"


async def pass_time(clock: FakeClock, total_s: float) -> None:
    """Let so much time pass, a minute at a time."""
    for _ in range(round(total_s / 60.0)):
        clock.advance(60.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
