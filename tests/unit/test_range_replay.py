"""Ranges of lines sent again, through a dispatcher and the real spool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.errors import SpoolUnavailableError
from forwarder.model import Checkpoint, FrameDraft, FrameKind, StreamInfo, StreamKey
from forwarder.spool.files import StateDir
from forwarder.spool.interface import StreamCommit
from forwarder.spool.ranges import RangeRequest
from forwarder.spool.requests import put_request
from forwarder.spool.room import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool, open_spool
from forwarder.spool.verify import verify
from sinks.identity import record_ids
from sinks.interface import PartlyDeliveredError, SinkUnavailableError
from sinks.plan import DeliveryPlan
from sinks.testing import FailingSink, GatedSink, MemorySink, PickySink
from sinks.testing_windows import MemoryWindowSink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    INFO,
    dispatcher,
    overview,
    running,
    settled_down,
    take,
    until,
    until_seen,
)
from tests.fakes.spool import MeddledSpool
from tests.fakes.window_delivery import window_dispatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.dispatcher import Dispatcher
    from sinks.interface import Batch, Sink

#: 2026-01-02T03:04:00Z
BASE_NS = 1_767_323_040_000_000_000
S = 1_000_000_000

PLAN = DeliveryPlan(max_bytes=1 << 20)
OTHER = StreamInfo(StreamKey("sbx-2", "main"))

#: Nothing is deleted in these tests, unless they say so.
KEEP = SpoolLimits(keep_ns=1 << 40)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1, limits=KEEP)
    yield spool
    await spool.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def at(second: int) -> int:
    return BASE_NS + second * S


async def log(spool: SqliteSpool, *seconds: int, info: StreamInfo = INFO, frames: int = 1) -> None:
    """Take frames, in each a line for each of these seconds; its text is the second."""
    stream = await spool.open_stream(info)
    line = stream.checkpoint.next_line
    drafts: list[FrameDraft] = []
    for _ in range(frames):
        raw = b"".join(b"2026-01-02T03:04:%02d.000000000Z %d\n" % (one, one) for one in seconds)
        stamps = (at(seconds[0]), at(seconds[-1]), at(max(seconds)))
        drafts.append(FrameDraft(FrameKind.LINES, raw, line, len(seconds), 0, *stamps, 1))
        line += len(seconds)
    high_ns = at(max(seconds))
    await spool.commit([StreamCommit(stream.id, drafts, Checkpoint(line, 0, high_ns, high_ns))])


def want(
    directory: Path,
    since: int = 0,
    until: int | None = None,
    *,
    sandbox_id: str = "",
    lines: int = 0,
    number: int = 1,
    upto_id: int = 1 << 40,
    sink: str = "archive",
) -> None:
    until_ns = None if until is None else at(until)
    since_ns = at(since) if since else 0
    name = f"r{number}"
    request = RangeRequest(name, sink, since_ns, until_ns, sandbox_id, upto_id, lines, number)
    put_request(StateDir(directory), request)


async def delivered(spool: SqliteSpool, clock: FakeClock, sink: Sink | None = None) -> Sink:
    """Everything that was taken is delivered."""
    kept = sink or MemorySink()
    archive = dispatcher(kept, spool, clock, plan=PLAN)
    async with running(archive):
        await archive.wait_past(spool.last_frame_id)
    return kept


async def replayed(spool: SqliteSpool, archive: Dispatcher) -> None:
    """Run until nothing is to be sent again any more."""
    async with running(archive):
        archive.replay()
        await until_seen(spool, lambda one: not one.ranges and one.last_range is not None)


async def came(sink: GatedSink, first_id: int) -> None:
    """Return when this batch, and no other, is being written."""
    await until(lambda: [one.first_id for one in sink.waiting] == [first_id])


async def until_progress(spool: SqliteSpool, *, lines: int) -> None:
    """Return when it is durable that so many lines were sent."""
    await until_seen(spool, lambda one: bool(one.ranges) and one.ranges[0].lines == lines)


def texts(batches: list[Batch]) -> list[list[bytes]]:
    return [[text for one in batch.slices for text in one.columns.texts] for batch in batches]


async def test_the_lines_of_a_range_are_sent_again_with_the_same_ids_and_not_counted(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2, 3, 4)
    first = await delivered(spool, clock)
    assert isinstance(first, MemorySink)
    want(tmp_path, 2, 4, lines=2)
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    with capture_logs() as logs:
        await replayed(spool, archive)
    assert texts(sink.batches) == [[b"2", b"3"]]
    (before,), (after,) = first.batches, sink.batches
    assert record_ids(after.slices[0]) == record_ids(before.slices[0])[1:3]
    seen = await overview(spool)
    assert (seen.delivered, seen.pending, seen.dead_lettered) == (4, 0, 0)
    assert seen.last_range is not None
    assert (seen.last_range.lines, seen.last_range.refused) == (2, 0)
    told = [one for one in logs if one["event"] == "replay done"]
    assert [(one["lines"], one["since"]) for one in told] == [(2, "2026-01-02T03:04:02.000000000Z")]
    assert verify(StateDir(tmp_path)).ok


async def test_it_can_be_of_one_sandbox_and_has_no_end_if_none_is_given(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2)
    await log(spool, 3, 4, info=OTHER)
    await log(spool, 5)
    await delivered(spool, clock)
    want(tmp_path, 2, sandbox_id="sbx-2")
    want(tmp_path, 2, number=2)
    sink = MemorySink()
    await replayed(spool, dispatcher(sink, spool, clock, plan=PLAN))
    assert texts(sink.batches) == [[b"3", b"4"], [b"2", b"3", b"4", b"5"]]


async def test_nothing_is_sent_when_no_line_is_in_the_range(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2)
    await delivered(spool, clock)
    want(tmp_path, 10)
    sink = MemorySink()
    await replayed(spool, dispatcher(sink, spool, clock, plan=PLAN))
    assert sink.batches == []


async def test_what_the_sink_has_not_had_yet_comes_once(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1)
    await delivered(spool, clock)
    await log(spool, 2)
    want(tmp_path, 1, upto_id=1)
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        archive.replay()
        await archive.wait_past(2)
        await until_seen(spool, lambda one: one.last_range is not None)
    assert sorted(texts(sink.batches)) == [[b"1"], [b"2"]]


async def test_batches_of_it_are_within_the_limits_of_the_sink(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2, 3, 4, 5)
    await delivered(spool, clock)
    want(tmp_path, 2)
    sink = MemorySink()
    plan = DeliveryPlan(max_records=3, max_bytes=1 << 20)
    await replayed(spool, dispatcher(sink, spool, clock, plan=plan))
    assert texts(sink.batches) == [[b"2", b"3", b"4"], [b"5"]]


async def test_only_about_a_batch_is_read_at_a_time_and_its_progress_can_be_seen(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, frames=4)
    await delivered(spool, clock)
    want(tmp_path, 1, lines=4)
    sink = GatedSink()
    archive = dispatcher(sink, spool, clock, plan=DeliveryPlan(max_bytes=40))
    async with running(archive):
        archive.replay()
        for number in (1, 2, 3):
            await came(sink, -number)
            sink.release(-number)
            await until_progress(spool, lines=number)
        sink.release(-4)
        await until_seen(spool, lambda one: one.last_range is not None)


async def test_a_crash_in_the_middle_goes_on_where_it_was_settled(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, frames=4)
    await delivered(spool, clock)
    want(tmp_path, 1, lines=4)
    meddled = MeddledSpool(spool)
    sink = GatedSink()
    plan = DeliveryPlan(max_bytes=40)
    archive = dispatcher(sink, meddled.spool, clock, plan=plan)
    async with running(archive):
        archive.replay()
        sink.release(-1)
        await came(sink, -2)
        meddled.gates["settle_range"] = asyncio.Event()
        sink.release(-2)
        await until(lambda: meddled.calls.count("settle_range") == 2)
    last = MemorySink()
    await replayed(spool, dispatcher(last, spool, clock, plan=plan))
    ids = [one.slices[0].first_line for one in last.batches]
    assert ids == [1, 2, 3], "what was not settled comes once more, and nothing is left out"
    seen = await overview(spool)
    assert seen.last_range is not None
    assert (seen.last_range.lines, seen.delivered) == (4, 4)


async def test_a_request_that_is_found_again_is_not_carried_out_again(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1)
    await delivered(spool, clock)
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, plan=PLAN)
    async with running(archive):
        for _ in range(2):
            want(tmp_path, 1)
            archive.replay()
            await until_seen(spool, lambda one: not one.ranges and one.last_range is not None)
            await settled_down(lambda: len(sink.batches))
    assert len(sink.batches) == 1


async def test_what_is_refused_is_told_and_counted_apart_and_no_dead_letter(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2, 3)
    await delivered(spool, clock)
    want(tmp_path, 1, lines=3)
    sink = PickySink([b"2"])
    with capture_logs() as logs:
        await replayed(spool, dispatcher(sink, spool, clock, plan=PLAN))
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_letters, seen.dropped) == (3, 0, 0)
    assert seen.last_range is not None
    assert (seen.last_range.lines, seen.last_range.refused) == (2, 1)
    (told,) = [one for one in logs if "do not become dead letters" in one["event"]]
    assert (told["records"], told["status"]) == (1, "400")
    assert "replay done" in [one["event"] for one in logs]


async def test_what_is_refused_without_a_name_is_counted_too(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1, 2, 3)
    await delivered(spool, clock)
    want(tmp_path, 1)
    sink = FailingSink([PartlyDeliveredError("too old", unnamed=2)])
    await replayed(spool, dispatcher(sink, spool, clock, plan=PLAN))
    seen = await overview(spool)
    assert seen.last_range is not None
    assert (seen.last_range.lines, seen.last_range.refused) == (1, 2)
    assert (seen.delivered, seen.dropped) == (3, 0)


async def test_a_destination_that_is_down_and_a_spool_without_room_are_waited_for(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1)
    await delivered(spool, clock)
    want(tmp_path, 1)
    meddled = MeddledSpool(spool)
    for name in ("next_range", "read_range", "settle_range"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    sink = FailingSink([SinkUnavailableError("down")] * 3)
    await replayed(spool, dispatcher(sink, meddled.spool, clock, plan=PLAN))
    assert len(sink.attempts) == 4


@pytest.mark.parametrize("kind", ["batches", "windows"])
async def test_a_sink_that_holds_each_line_once_is_sent_nothing_again(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path, kind: str
) -> None:
    """It may have become one after the request was made."""
    await log(spool, 1)
    await delivered(spool, clock)
    want(tmp_path, 1)
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, plan=PLAN, exactly_once=True)
    windows = MemoryWindowSink()
    if kind == "windows":
        archive = window_dispatcher(windows, spool, clock)
    with capture_logs() as logs:
        await replayed(spool, archive)
    assert (sink.batches, windows.attempts) == ([], [])
    assert "holds each line once" in logs[-1]["event"]


async def test_what_is_being_replayed_is_not_deleted_before_it_was_sent(
    tmp_path: Path, clock: FakeClock
) -> None:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    await log(spool, 1, frames=2)
    await delivered(spool, clock)
    want(tmp_path, 1, 20, lines=2)
    sink = GatedSink()
    plan = DeliveryPlan(max_bytes=40)
    archive = dispatcher(sink, spool, clock, plan=plan)
    await log(spool, 30)
    async with running(archive):
        sink.release(3)
        await archive.wait_past(3)
        archive.replay()
        await sink.came(1)
        assert await spool.prune(keep_tail_ns=0) == 0
        sink.release(-1, -2)
        await until_seen(spool, lambda one: one.last_range is not None)
    assert await spool.prune(keep_tail_ns=0) == 2
    await spool.close()


async def test_lines_that_went_meanwhile_are_told_as_missing(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await log(spool, 1)
    await delivered(spool, clock)
    want(tmp_path, 1, lines=5)
    with capture_logs() as logs:
        await replayed(spool, dispatcher(MemorySink(), spool, clock, plan=PLAN))
    assert "replay done; some lines were not kept long enough" in [one["event"] for one in logs]


async def test_a_request_for_a_sink_that_there_is_not_does_nothing(
    spool: SqliteSpool, clock: FakeClock, tmp_path: Path
) -> None:
    await take(spool, b"text")
    want(tmp_path, sink="nobody")
    assert await spool.next_range("nobody") is None
