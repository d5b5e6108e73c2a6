"""What a destination refuses for good, and what holds a sink because of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from forwarder.dispatcher import SinkHealth
from forwarder.errors import SpoolUnavailableError
from forwarder.outlet import HOLD_MAX_S
from forwarder.spool.files import StateDir
from forwarder.spool.interface import DropReason
from forwarder.spool.requests import Wish
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.plan import DeliveryPlan
from sinks.testing import MemorySink, PickySink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    NAME,
    ask,
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

    from sinks.interface import Sink


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


async def test_one_poison_record_is_set_aside_and_the_rest_arrives_in_order(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    lines = [b"%d" % number for number in range(256)]
    sink = PickySink([b"77"])
    archive = dispatcher(sink, spool, clock, batch_bytes=1 << 20)
    await take(spool, *lines)
    async with running(archive):
        await archive.wait_past(256)
    assert texts(sink) == [line for line in lines if line != b"77"]
    assert len(sink.attempts) - 1 <= 8 + 1
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.dead_letters) == (255, 1, 1)


async def test_a_crash_before_the_cursor_moves_sets_nothing_aside_twice(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    kept = MemorySink()
    await take(spool, b"a", b"bad", b"c")
    sink = PickySink([b"bad"], inner=kept)
    async with running(dispatcher(sink, meddled.spool, clock)) as (task,):
        await until(lambda: "advance" in meddled.calls and len(sink.attempts) == 2)
        meddled.errors["advance"] = [SpoolUnavailableError("no room")] * 9
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await overview(spool)).pending == 3
    for _ in range(2):
        archive = dispatcher(PickySink([b"bad"], inner=kept), spool, clock)
        async with running(archive):
            await archive.wait_past(3)
        seen = await overview(spool)
        assert (seen.delivered, seen.dead_lettered, seen.dead_letters) == (2, 1, 1)


async def test_a_gap_record_that_is_refused_is_kept_and_is_no_line(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = PickySink([b""])
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a", b"", b"c")
    async with running(archive):
        await archive.wait_past(3)
        seen = await overview(spool)
    assert (seen.taken, seen.delivered, seen.dead_lettered, seen.dead_letters) == (2, 2, 0, 1)


TIGHT = DeliveryPlan(dead_letter_bytes=1)


async def test_dead_letters_that_are_full_hold_the_sink_until_somebody_drops_them(
    spool: SqliteSpool, tmp_path: Path
) -> None:
    clock = FakeClock(instant=False)
    sink = PickySink([b"bad 1", b"bad 2"])
    archive = dispatcher(sink, spool, clock, plan=TIGHT)
    await take(spool, b"a", b"bad 1", b"c", b"bad 2", b"e")
    async with running(archive):
        for delivered, at, looks in ((1, 2, 1), (2, 4, 2)):
            await clock.slept_times(looks)
            await settled_down(lambda: len(sink.attempts))
            seen = await overview(spool)
            assert "dead letters are full" in seen.detail
            assert (seen.state, archive.health) == ("held", SinkHealth.HELD)
            assert (seen.delivered, seen.dead_letters, await cursor_of(spool)) == (delivered, 1, at)
            assert len(sink.attempts) == at
            ask(tmp_path, Wish.DROP)
            await spool.letters_to_replay(NAME, max_bytes=1)
            clock.advance(HOLD_MAX_S)
            await until_seen(spool, lambda one: one.dead_letters == 0)
        await archive.wait_past(5)
        seen = await until_seen(spool, lambda one: one.state == "running")
    assert (seen.delivered, seen.dead_lettered, seen.dropped) == (3, 0, 2)
    assert seen.dropped_for == {DropReason.DEAD_LETTERS_DROPPED: 2}


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_dead_letters_that_are_full_can_be_sent_again_and_then_all_goes_on(
    spool: SqliteSpool, tmp_path: Path, in_flight: int
) -> None:
    clock = FakeClock(instant=False)
    sink = PickySink([b"bad"])
    plan = DeliveryPlan(dead_letter_bytes=1, in_flight=in_flight)
    archive = dispatcher(sink, spool, clock, plan=plan)
    await take(spool, b"bad", *[b"%d" % number for number in range(20)])
    async with running(archive):
        await clock.slept_times(1)
        sink.poison.clear()
        ask(tmp_path, Wish.REPLAY)
        archive.replay()
        await until_seen(spool, lambda one: one.dead_letters == 0)
        clock.advance(HOLD_MAX_S)
        await archive.wait_past(21)
        seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.pending) == (21, 0, 0)


async def test_a_start_with_full_dead_letters_sends_nothing(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    archive = dispatcher(PickySink([b"bad"]), spool, clock)
    await take(spool, b"bad", b"b")
    async with running(archive):
        await archive.wait_past(2)
    await take(spool, b"c")
    sink, still = MemorySink(), FakeClock(instant=False)
    async with running(dispatcher(sink, spool, still, plan=TIGHT)):
        await still.slept_times(1)
        await settled_down(lambda: len(sink.batches))
        assert sink.batches == []
