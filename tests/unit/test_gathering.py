from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.cursor import Cursor
from forwarder.errors import SpoolUnavailableError
from forwarder.gathering import Gathering
from forwarder.sink_state import EngineState
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.plan import DeliveryPlan
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import NAME, settled_down, take
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.parcels import Parcel
    from forwarder.spool.interface import Spool

AGED = DeliveryPlan(max_bytes=10, max_age_s=5.0)
FIXED = DeliveryPlan(max_bytes=10, max_records=4, fixed=True)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    yield spool
    await spool.close()


class Life:
    """Of one sink, from one start to the next crash."""

    def __init__(self, gathering: Gathering, cursor: Cursor, state: EngineState) -> None:
        self.gathering = gathering
        self.cursor = cursor
        self.parcels = gathering.parcels(cursor, state)

    async def next(self, count: int) -> list[tuple[int, int, int]]:
        """First frame, last frame and records of the next batches."""
        parcels = [await anext(self.parcels) for _ in range(count)]
        return [edges(parcel) for parcel in parcels]

    async def confirm(self, frame_id: int, lines: int) -> None:
        self.cursor.move(frame_id, {}, Delivery(delivered=lines))
        await self.cursor.commit()


def edges(parcel: Parcel) -> tuple[int, int, int]:
    return (parcel.batch.first_id, parcel.batch.last_id, parcel.batch.record_count)


@asynccontextmanager
async def life(
    spool: Spool, plan: DeliveryPlan, clock: FakeClock | None = None
) -> AsyncIterator[Life]:
    clock = clock or FakeClock(instant=False)
    record = await spool.open_sink(NAME, from_oldest=True)
    cursor = Cursor(NAME, record.cursor, spool=spool, clock=clock)
    state = EngineState(NAME, spool, cursor, dict(record.state))
    one = Life(Gathering(NAME, spool, plan, clock), cursor, state)
    async with aclosing(one.parcels):
        yield one


# Limits -------------------------------------------------------------------------------------------


async def test_batches_end_where_records_or_bytes_are_enough(spool: SqliteSpool) -> None:
    await take(spool, b"1\n2", b"3", b"123456", b"", b"4\n5\n6")
    plan = DeliveryPlan(max_bytes=10, max_records=4, max_age_s=5.0)
    async with life(spool, plan, FakeClock()) as one:
        assert await one.next(3) == [(1, 2, 3), (3, 4, 2), (5, 5, 3)]


async def test_what_was_read_too_much_is_not_read_again(spool: SqliteSpool) -> None:
    meddled = MeddledSpool(spool)
    await take(spool, *[b"1\n2"] * 6)
    async with life(meddled.spool, DeliveryPlan(max_bytes=1000, max_records=4)) as one:
        assert await one.next(3) == [(1, 2, 4), (3, 4, 4), (5, 6, 4)]
    assert meddled.calls.count("read") == 1


async def test_a_destination_that_finds_batches_too_large_gets_smaller_ones(
    spool: SqliteSpool,
) -> None:
    await take(spool, *[b"x" * 1023] * 9)
    async with life(spool, DeliveryPlan(max_bytes=4096)) as one:
        assert await one.next(1) == [(1, 4, 4)]
        with capture_logs() as logs:
            for too_large in (4096, 4096, 9000):
                one.gathering.take_less(too_large)
        assert [log["max_bytes"] for log in logs] == [2048]
        assert await one.next(2) == [(5, 6, 2), (7, 8, 2)]
        one.gathering.take_less(1)
        assert one.gathering.limits.max_bytes == 1024


async def test_a_spool_that_does_not_answer_is_asked_again(spool: SqliteSpool) -> None:
    meddled = MeddledSpool(spool)
    for name in ("read", "remember"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    await take(spool, b"1")
    async with life(meddled.spool, FIXED, FakeClock()) as one:
        assert await one.next(1) == [(1, 1, 1)]


# Age ----------------------------------------------------------------------------------------------


async def test_records_wait_for_others_until_they_are_old_enough(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    async with life(spool, AGED, clock) as one:
        coming = asyncio.ensure_future(one.next(1))
        await take(spool, b"1")
        await clock.slept_times(1)
        clock.advance(4.0)
        await take(spool, b"2")
        await clock.slept_times(2)
        assert clock.slept == [5.0, 1.0], "the oldest decides"
        assert not coming.done()
        clock.advance(1.0)
        assert await coming == [(1, 2, 2)]


async def test_a_batch_that_is_full_waits_for_nothing(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    async with life(spool, AGED, clock) as one:
        coming = asyncio.ensure_future(one.next(1))
        await take(spool, b"1234")
        await clock.slept_times(1)
        await take(spool, b"1234")
        assert await coming == [(1, 2, 2)]


async def test_catching_up_sends_full_batches_and_waits_for_nothing(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    await take(spool, *[b"12"] * 10)
    async with life(spool, AGED, clock) as one:
        assert await one.next(3) == [(1, 3, 3), (4, 6, 3), (7, 9, 3)]
        assert clock.slept == []


async def test_a_hurry_ends_the_wait_and_nothing_waits_afterwards(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    async with life(spool, AGED, clock) as one:
        coming = asyncio.ensure_future(one.next(1))
        await take(spool, b"1")
        await clock.slept_times(1)
        one.gathering.hurry()
        assert await coming == [(1, 1, 1)]
        coming = asyncio.ensure_future(one.next(1))
        await settled_down(coming.done)
        await take(spool, b"2")
        assert await coming == [(2, 2, 1)]
        assert len(clock.slept) == 1


# Fixed batches ------------------------------------------------------------------------------------


async def test_after_a_crash_the_same_batches_come_again_with_other_limits_too(
    spool: SqliteSpool,
) -> None:
    await take(spool, b"1\n2", b"3", b"4", b"1\n2\n3\n4\n5\n6", b"5")
    expected = [(1, 3, 4), (4, 4, 4), (4, 4, 2), (5, 5, 1)]
    async with life(spool, FIXED) as one:
        assert await one.next(4) == expected
    await take(spool, b"6")
    for plan in (FIXED, DeliveryPlan(max_bytes=1, fixed=True), DeliveryPlan(max_bytes=1 << 20)):
        async with life(spool, plan) as one:
            assert await one.next(5) == [*expected, (6, 6, 1)]
    async with life(spool, FIXED) as one:
        await one.next(1)
        await one.confirm(3, 4)
    async with life(spool, FIXED) as one:
        assert await one.next(3) == expected[1:]


async def test_batches_keep_their_ends_when_a_frame_in_one_is_damaged(
    spool: SqliteSpool, tmp_path: Path
) -> None:
    await take(spool, b"1234", b"1234", b"1234", b"1234")
    async with life(spool, FIXED) as one:
        assert await one.next(2) == [(1, 2, 2), (3, 4, 2)]
    await spool.close()
    damage(tmp_path, 2)
    again = await open_spool(StateDir(tmp_path), now=lambda: 1)
    try:
        async with life(again, FIXED, FakeClock()) as one:
            assert await one.next(2) == [(1, 2, 2), (3, 4, 2)]
    finally:
        await again.close()


def damage(directory: Path, frame_id: int) -> None:
    """Flip a byte of what a frame holds."""
    connection = sqlite3.connect(directory / "spool.db")
    with connection:
        connection.execute(
            "UPDATE frame SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = ?",
            (frame_id,),
        )
    connection.close()


async def test_what_a_batch_consists_of_is_durable_before_it_is_handed_out(
    spool: SqliteSpool,
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["remember"] = asyncio.Event()
    await take(spool, b"1")
    async with life(meddled.spool, FIXED) as one:
        coming = asyncio.ensure_future(one.next(1))
        await settled_down(lambda: list(meddled.calls))
        assert (meddled.calls[-1], coming.done()) == ("remember", False)
        gate.set()
        assert await coming == [(1, 1, 1)]


async def test_a_batch_of_which_nothing_is_left_skips_nothing_else(spool: SqliteSpool) -> None:
    await take(spool, b"1")
    await spool.open_sink(NAME, from_oldest=True)
    await spool.remember(NAME, {"engine:groups": b"[[1,4,10],[3,4,10]]"})
    async with life(spool, FIXED) as one:
        assert await one.next(1) == [(1, 1, 1)]
        coming = asyncio.ensure_future(one.next(2))
        await settled_down(coming.done)
        await take(spool, b"2")
        await take(spool, b"3", b"4")
        assert [first for first, _, _ in await coming] == [2, 3]


async def test_batches_that_are_settled_are_not_remembered_for_ever(spool: SqliteSpool) -> None:
    sizes = []
    async with life(spool, FIXED) as one:
        for number in range(30):
            await take(spool, b"1")
            await one.next(1)
            await one.confirm(number + 1, 1)
            record = await spool.open_sink(NAME, from_oldest=True)
            sizes.append(len(record.state["engine:groups"]))
    assert max(sizes) <= 20
