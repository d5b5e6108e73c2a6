"""Dead letters sent again, through a dispatcher and the real spool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError
from forwarder.spool.files import StateDir
from forwarder.spool.interface import DropReason
from forwarder.spool.requests import Wish
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.interface import PartlyDeliveredError, SinkUnavailableError
from sinks.plan import DeliveryPlan
from sinks.testing import FailingSink, GatedSink, MemorySink, PickySink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    ask,
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

    from sinks.interface import Batch, SinkState, StateChanges

PLAN = DeliveryPlan(max_bytes=1 << 20)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    yield spool
    await spool.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def refuse(spool: SqliteSpool, clock: FakeClock, kept: MemorySink, *poison: bytes) -> None:
    """Take ten lines, `0` to `9`, and let these be refused."""
    await take(spool, *[b"%d" % number for number in range(10)])
    archive = dispatcher(PickySink(poison, inner=kept), spool, clock)
    async with running(archive):
        await archive.wait_past(10)
    seen = await overview(spool)
    assert (seen.dead_lettered, seen.dead_letters) == (len(poison), len(poison))


def ids(batches: list[Batch]) -> list[list[int]]:
    return [
        [one.first_line + at for one in batch.slices for at in range(one.line_count)]
        for batch in batches
    ]


async def test_they_are_sent_again_with_the_same_ids_and_counted_as_delivered(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    kept = MemorySink()
    await refuse(spool, clock, kept, b"3", b"7")
    ask(tmp_path, Wish.REPLAY)
    sink = MemorySink(kept.kept)
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        seen = await until_seen(spool, lambda one: one.dead_letters == 0)
    assert (seen.delivered, seen.dead_lettered) == (10, 0)
    assert ids(sink.batches) == [[3, 7]]
    assert sorted(record.line for record in sink.records) == list(range(10))


async def test_nobody_who_asks_for_nothing_gets_anything_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    await refuse(spool, clock, MemorySink(), b"3")
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock)
    async with running(archive):
        archive.replay()
        await take(spool, b"more")
        await archive.wait_past(11)
    assert ids(sink.batches) == [[10]]


async def test_batches_of_them_are_within_the_limits_of_the_sink(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await refuse(spool, clock, MemorySink(), *[b"%d" % number for number in range(10)])
    ask(tmp_path, Wish.REPLAY)
    sink = MemorySink()
    plan = DeliveryPlan(max_records=3, max_bytes=1 << 20)
    archive = dispatcher(sink, spool, clock, plan=plan)
    async with running(archive):
        archive.replay()
        await until_seen(spool, lambda one: one.dead_letters == 0)
    assert ids(sink.batches) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


async def test_a_single_one_that_is_too_large_goes_in_pieces(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    lines = [b"%d" % number for number in range(10)]
    await take(spool, b"\n".join(lines))
    archive = dispatcher(PickySink(lines, named=True), spool, clock)
    async with running(archive):
        await archive.wait_past(1)
    ask(tmp_path, Wish.REPLAY)
    sink = PickySink([b"1", b"8"])
    archive = dispatcher(sink, spool, clock, plan=DeliveryPlan(max_records=4, max_bytes=1 << 20))
    async with running(archive):
        archive.replay()
        seen = await until_seen(spool, lambda one: one.delivered == 8)
    assert (seen.dead_lettered, seen.dead_letters) == (2, 2)
    assert max(batch.record_count for batch in sink.attempts) == 4


async def test_what_is_refused_again_stays_and_is_not_sent_for_ever(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    kept = MemorySink()
    await refuse(spool, clock, kept, b"3", b"7")
    sink = PickySink([b"7"], inner=kept)
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    with capture_logs() as logs:
        async with running(archive):
            for _ in range(2):
                ask(tmp_path, Wish.REPLAY)
                archive.replay()
                seen = await until_seen(spool, lambda one: one.dead_letters == 1)
            await settled_down(lambda: len(sink.attempts))
    assert (seen.delivered, seen.dead_lettered, seen.replaying) == (9, 1, 0)
    refused = [one for one in logs if one["event"].endswith("is refused again")]
    assert {one["status"] for one in refused} == {"400"}
    assert ids(sink.attempts)[:2] == [[3, 7], [3]]


async def test_what_was_not_settled_at_a_crash_is_sent_once_more(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    kept = MemorySink()
    await refuse(spool, clock, kept, b"3", b"7")
    ask(tmp_path, Wish.REPLAY)
    meddled = MeddledSpool(spool)
    meddled.gates["settle_replay"] = asyncio.Event()
    archive = dispatcher(MemorySink(kept.kept), meddled.spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        await until(lambda: "settle_replay" in meddled.calls)
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.replaying) == (8, 2, 2)
    sink = MemorySink(kept.kept)
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        archive.replay()
        seen = await until_seen(spool, lambda one: one.dead_letters == 0)
        await settled_down(lambda: len(sink.batches))
    assert ids(sink.batches) == [[3, 7]]
    assert (seen.delivered, len(sink.records)) == (10, 10)


async def test_a_destination_that_is_down_and_a_spool_without_room_are_waited_for(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await refuse(spool, clock, MemorySink(), b"3")
    ask(tmp_path, Wish.REPLAY)
    meddled = MeddledSpool(spool)
    for name in ("letters_to_replay", "settle_replay"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    sink = FailingSink([SinkUnavailableError("down")] * 3)
    archive = dispatcher(sink, meddled.spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        seen = await until_seen(spool, lambda one: one.dead_letters == 0)
    assert (seen.delivered, len(sink.attempts)) == (10, 4)


async def test_what_is_refused_without_a_name_is_counted_as_dropped_and_its_reason_kept(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await refuse(spool, clock, MemorySink(), b"3", b"7")
    ask(tmp_path, Wish.REPLAY)
    sink = FailingSink([PartlyDeliveredError("one is too old", unnamed=1)])
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        seen = await until_seen(spool, lambda one: one.dropped == 1)
    assert (seen.delivered, seen.dead_lettered, seen.dropped, seen.dead_letters) == (9, 0, 1, 1)
    assert seen.dropped_for == {DropReason.REFUSED_UNNAMED: 1}


class Ordered(MemorySink):
    """Remembers a number that every write adds to; two writes at once would lose one."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = False

    async def open(self, state: SinkState) -> None:
        self._state = state

    async def write(self, batch: Batch) -> StateChanges:
        assert not self.writing
        self.writing = True
        count = int(self._state.get("count") or b"0")
        await asyncio.sleep(0)
        await super().write(batch)
        self.writing = False
        return {"count": b"%d" % (count + batch.line_count)}


async def test_what_a_sink_remembers_of_them_and_of_batches_is_in_order(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await refuse(spool, clock, MemorySink(), b"1", b"3", b"7")
    ask(tmp_path, Wish.REPLAY)
    meddled = MeddledSpool(spool)
    gate = meddled.gates["remember"] = asyncio.Event()
    sink = Ordered()
    archive = dispatcher(sink, meddled.spool, clock)
    async with running(archive):
        archive.replay()
        await until(lambda: "remember" in meddled.calls)
        await take(spool, *[b"more"] * 20)
        await settled_down(lambda: len(sink.batches))
        assert len(sink.batches) == 1, "nothing comes between"
        gate.set()
        await archive.wait_past(30)
        await until_seen(spool, lambda one: one.dead_letters == 0)
    record = await spool.open_sink("archive", from_oldest=True)
    assert record.state["count"] == b"23"


async def test_a_cancellation_while_they_are_sent_leaves_them_where_they_are(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await refuse(spool, clock, MemorySink(), b"3")
    ask(tmp_path, Wish.REPLAY)
    sink = GatedSink()
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        await sink.came(1)
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.replaying) == (9, 1, 1)
