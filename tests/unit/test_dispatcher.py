from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from forwarder.dispatcher import SinkHealth
from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.outlet import HOLD_INITIAL_S, HOLD_MAX_S
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import SqliteSpool, open_spool
from sinks.interface import (
    SinkMisconfiguredError,
    SinkUnavailableError,
    Stream,
)
from sinks.plan import DeliveryPlan
from sinks.testing import FailingSink, MemorySink, PickySink, SlowSink
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import (
    FAST,
    INFO,
    NAME,
    dispatcher,
    overview,
    running,
    take,
    until,
)
from tests.fakes.spool import MeddledSpool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sinks.interface import Batch, Sink, SinkState, StateChanges


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


class Opened:
    """Notes what is done to a sink, in order."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.close_errors: list[Exception] = []

    async def open(self, state: SinkState) -> None:
        self.calls.append("open")
        await self.inner.open(state)

    async def write(self, batch: Batch) -> StateChanges:
        self.calls.append(f"write {batch.first_id}")
        return await self.inner.write(batch)

    async def close(self) -> None:
        self.calls.append("close")
        if self.close_errors:
            raise self.close_errors.pop(0)
        await self.inner.close()


# The way of a batch -------------------------------------------------------------------------------


async def test_everything_is_delivered_in_order_and_the_counters_add_up(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, batch_bytes=20)
    await take(spool, *[b"%d" % number for number in range(30)])
    async with running(archive):
        await archive.wait_past(30)
        await take(spool, *[b"%d" % number for number in range(30, 60)])
        await archive.wait_past(60)
    assert texts(sink) == [b"%d" % number for number in range(60)]
    seen = await overview(spool)
    assert (seen.taken, seen.delivered, seen.pending) == (60, 60, 0)
    assert seen.state == "running"


async def test_batches_follow_each_other_without_a_hole_or_an_overlap(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock, batch_bytes=9)
    async with running(archive):
        for number in range(40):
            await take(spool, *[b"x" * (number % 7)] * (number % 3))
        await archive.wait_past(spool.last_frame_id)
    edges = [(batch.first_id, batch.last_id) for batch in sink.batches]
    assert edges[0][0] == 1
    assert [first for first, _ in edges[1:]] == [last + 1 for _, last in edges[:-1]]
    assert edges[-1][1] == spool.last_frame_id


async def test_waiting_past_a_frame_ends_when_its_cursor_is_durable(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    sink = MemorySink()
    archive = dispatcher(sink, meddled.spool, clock)
    early = asyncio.create_task(archive.wait_past(2))
    await take(spool, b"a", b"b")
    async with running(archive):
        await until(lambda: len(sink.batches) == 2)
        assert not early.done()
        gate.set()
        await early
        assert (await overview(spool)).pending == 0


async def test_delivering_does_not_wait_for_a_commit_and_moves_are_gathered(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    sink = MemorySink()
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, *[b"x"] * 10)
    async with running(archive):
        await until(lambda: len(sink.batches) == 10)
        gate.set()
        await archive.wait_past(10)
    assert meddled.calls.count("advance") == 2
    assert (await overview(spool)).delivered == 10


# Verdicts -----------------------------------------------------------------------------------------


async def test_an_unavailable_sink_gets_the_same_batch_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = FailingSink([None, *[SinkUnavailableError("down")] * 3])
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive):
        await archive.wait_past(3)
    attempts = [(batch.first_id, batch.last_id) for batch in sink.attempts]
    assert attempts == [(1, 1), (2, 2), (2, 2), (2, 2), (2, 2), (3, 3)]
    assert clock.slept == [0.125, 0.25, 0.5]
    assert (await overview(spool)).state == "running"


async def test_the_destinations_own_wish_for_a_wait_is_honoured(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = FailingSink([SinkUnavailableError("slow down", retry_after_s=77.0)])
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    async with running(archive):
        await archive.wait_past(1)
    assert clock.slept == [77.0]


async def test_while_a_sink_is_down_its_state_says_so(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    sink = FailingSink([SinkUnavailableError("down"), SinkUnavailableError("still down")])
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    async with running(archive):
        for count, detail in ((1, "down"), (2, "still down")):
            await clock.slept_times(count)
            seen = await overview(spool)
            assert (archive.health, seen.state, seen.detail) == (
                *(SinkHealth.RETRYING, "retrying"),
                detail,
            )
            assert (seen.taken, seen.delivered, seen.pending) == (1, 0, 1)
            clock.advance(60.0)
        await archive.wait_past(1)
        seen = await overview(spool)
        assert (seen.state, seen.detail) == ("running", "")


async def test_a_held_sink_is_closed_opened_again_and_drops_nothing(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    verdict = SinkMisconfiguredError("no such bucket")
    sink = Opened(FailingSink([None, verdict]))
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a", b"b")
    async with running(archive):
        await clock.slept_times(1)
        assert clock.slept == [HOLD_INITIAL_S / 2]
        seen = await overview(spool)
        assert (seen.state, seen.detail) == ("held", str(verdict))
        assert sink.calls == ["open", "write 1", "write 2", "close"]
        clock.advance(HOLD_MAX_S)
        await archive.wait_past(2)
        assert sink.calls[4:] == ["open", "write 2"]
        seen = await overview(spool)
        assert (seen.state, seen.taken, seen.delivered, seen.dropped) == ("running", 2, 2, 0)


async def test_a_sink_that_opens_but_still_cannot_write_stays_held(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    sink = FailingSink([SinkMisconfiguredError("no access")] * 2)
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    with capture_logs() as logs:
        async with running(archive):
            await clock.slept_times(1)
            clock.advance(HOLD_MAX_S)
            await clock.slept_times(2)
            assert archive.health is SinkHealth.HELD
            clock.advance(HOLD_MAX_S)
            await archive.wait_past(1)
    assert [one["event"] for one in logs] == ["sink running", "sink held", "sink running"]


@pytest.mark.parametrize(
    "verdict", [SinkUnavailableError("down"), SinkMisconfiguredError("no key"), LookupError("bug")]
)
async def test_a_sink_that_does_not_open_is_closed_and_opened_again(
    spool: SqliteSpool, clock: FakeClock, verdict: Exception
) -> None:
    sink = Opened(FailingSink([], open_verdicts=[verdict, verdict]))
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    async with running(archive):
        await archive.wait_past(1)
    assert sink.calls == ["open", "close", "open", "close", "open", "write 1", "close"]
    assert len(clock.slept) == 2


async def test_a_bug_in_a_sink_is_told_as_one_and_tried_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = FailingSink([LookupError("a bug"), ExceptionGroup("many", [ValueError()])])
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    with capture_logs() as logs:
        async with running(archive):
            await archive.wait_past(1)
    assert [batch.first_id for batch in sink.attempts] == [1, 1, 1]
    assert [one["event"] for one in logs].count("sink met a bug") == 2


async def test_a_sink_that_does_not_close_disturbs_nothing(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = Opened(FailingSink([SinkMisconfiguredError("no access")]))
    sink.close_errors = [OSError("cannot close"), LookupError("a bug")]
    archive = dispatcher(sink, spool, clock)
    await take(spool, b"a")
    with capture_logs() as logs:
        async with running(archive) as (task,):
            await archive.wait_past(1)
    assert task.cancelled()
    assert [one["event"] for one in logs].count("sink did not close") == 2
    assert (await overview(spool)).pending == 0


async def test_a_sink_that_is_down_does_not_delay_another(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    slow, quick = SlowSink(), MemorySink()
    both = [
        dispatcher(slow, spool, clock, name="slow"),
        dispatcher(quick, spool, clock, name="quick"),
    ]
    async with running(*both):
        for _ in range(20):
            await take(spool, b"x")
        await both[1].wait_past(20)
        await slow.entered.wait()
        assert (await overview(spool, "slow")).pending == 20
        slow.release.set()
        await both[0].wait_past(20)


# What a sink remembers ----------------------------------------------------------------------------


class Paper:
    """A file that survives its sink."""

    def __init__(self) -> None:
        self.text = b""


class PaperSink:
    """Exactly once, like the file sink: it cuts back to the length that its state confirms.

    Args:
        paper: What it writes on.
        step: Awaited in the middle of every call.
    """

    def __init__(self, paper: Paper, step: Callable[[str], Awaitable[None]]) -> None:
        self._paper = paper
        self._step = step

    async def open(self, state: SinkState) -> None:
        await self._step("open")
        self._state = state

    async def write(self, batch: Batch) -> StateChanges:
        length = int(self._state.get("length") or b"0")
        if batch.first_id % 3 == 0:
            await self._state.remember({"length": b"%d" % length})
        await self._step("before the write")
        self._paper.text = self._paper.text[:length] + b"".join(one.raw for one in batch.slices)
        await self._step("after the write")
        return {"length": b"%d" % len(self._paper.text)}

    async def close(self) -> None:
        await self._step("close")


THREE = DeliveryPlan(in_flight=3, max_records=2)


async def nothing(_: str) -> None:
    """No step."""


async def test_a_cancellation_at_any_moment_loses_nothing_and_repeats_nothing() -> None:
    lines = [b"%d" % number for number in range(8)]
    moment = 0
    with TemporaryDirectory(dir=FAST) as directory:
        while await cancelled_at(moment := moment + 1, Path(directory, str(moment)), lines):
            pass
    assert moment > 40


async def cancelled_at(moment: int, directory: Path, lines: list[bytes]) -> bool:
    """Cancel at that step, start again, and compare; False when there were fewer steps."""
    directory.mkdir()
    spool = await open_spool(StateDir(directory), now=lambda: 1)
    paper = Paper()
    steps: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def step(name: str) -> None:
        steps.append(name)
        if len(steps) == moment:
            tasks[0].cancel()
        await asyncio.sleep(0)

    await take(spool, *lines)
    meddled = MeddledSpool(spool, step=step)
    first = dispatcher(PaperSink(paper, step), meddled.spool, FakeClock(), batch_bytes=3)
    tasks.append(asyncio.create_task(first.run()))
    done = asyncio.create_task(first.wait_past(len(lines)))
    await asyncio.wait({tasks[0], done}, return_when=asyncio.FIRST_COMPLETED)
    finished = len(steps) < moment
    for task in (tasks[0], done):
        task.cancel()
    await asyncio.gather(*tasks, done, return_exceptions=True)
    confirmed = await spool.open_sink("archive", from_oldest=True)
    confirmed_bytes = b"".join(line + b"\n" for line in lines[: confirmed.cursor])
    assert paper.text.startswith(confirmed_bytes), steps[moment - 1]

    second = dispatcher(PaperSink(paper, nothing), spool, FakeClock(), batch_bytes=3)
    async with running(second):
        await second.wait_past(len(lines))
    assert paper.text == b"".join(line + b"\n" for line in lines), steps[moment - 1]
    assert (await overview(spool)).delivered == len(lines)
    await spool.close()
    return not finished


class SteppingSink(PickySink):
    """Takes a step before and after each batch."""

    def __init__(self, step: Callable[[str], Awaitable[None]], kept: MemorySink) -> None:
        super().__init__([b"bad"], inner=kept)
        self._step = step

    async def write(self, batch: Batch) -> StateChanges:
        await self._step("before the write")
        changes = await super().write(batch)
        await self._step("after the write")
        return changes


async def test_a_cancellation_at_any_moment_counts_every_line_once() -> None:
    moment = 0
    with TemporaryDirectory(dir=FAST) as directory:
        while await counted_at(moment := moment + 1, Path(directory, str(moment))):
            pass
    assert moment > 40


async def counted_at(moment: int, directory: Path) -> bool:
    """Cancel at that step with several in flight; False when there were fewer steps."""
    directory.mkdir()
    spool = await open_spool(StateDir(directory), now=lambda: 1)
    kept = MemorySink()
    steps: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def step(name: str) -> None:
        steps.append(name)
        if len(steps) == moment:
            tasks[0].cancel()
        await asyncio.sleep(0)

    await take(spool, b"a\nbad\nc", b"d", b"e", b"bad", b"f")
    meddled = MeddledSpool(spool, step=step)
    first = dispatcher(SteppingSink(step, kept), meddled.spool, FakeClock(), plan=THREE)
    tasks.append(asyncio.create_task(first.run()))
    done = asyncio.create_task(first.wait_past(5))
    await asyncio.wait({tasks[0], done}, return_when=asyncio.FIRST_COMPLETED)
    for task in (tasks[0], done):
        task.cancel()
    await asyncio.gather(*tasks, done, return_exceptions=True)
    await spool.open_sink(NAME, from_oldest=True)
    assert (await overview(spool)).delivered <= len(kept.records), steps[moment - 1 :]

    second = dispatcher(SteppingSink(nothing, kept), spool, FakeClock(), plan=THREE)
    async with running(second):
        await second.wait_past(5)
    seen = await overview(spool)
    assert (seen.delivered, seen.dead_lettered, seen.pending) == (5, 2, 0), steps[moment - 1 :]
    assert sorted(texts(kept)) == [b"a", b"c", b"d", b"e", b"f"]
    await spool.close()
    return len(steps) >= moment


class RememberingSink(MemorySink):
    """Remembers a key before its third batch; until then it changes the same key with a cursor."""

    async def open(self, state: SinkState) -> None:
        self.state = state

    async def write(self, batch: Batch) -> StateChanges:
        await super().write(batch)
        if batch.first_id == 3:
            await self.state.remember({"key": b"remembered"})
            return {}
        return {"key": None if batch.first_id == 2 else b"changed"}


async def test_what_a_sink_remembers_is_not_undone_by_the_move_before_it(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    sink = RememberingSink()
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive):
        await until(lambda: len(sink.batches) == 3)
        for _ in range(10):
            await asyncio.sleep(0)
        assert "remember" not in meddled.calls, "known beside a cursor that is behind it"
        gate.set()
        await archive.wait_past(3)
    record = await spool.open_sink("archive", from_oldest=True)
    assert record.state == {"key": b"remembered"}


async def test_a_sink_that_cannot_remember_tries_the_batch_again(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    meddled.errors["remember"] = [SpoolUnavailableError("no room")]
    sink = RememberingSink()
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive):
        await archive.wait_past(3)
    assert [batch.first_id for batch in sink.batches] == [1, 2, 3, 3]


# The spool's troubles -----------------------------------------------------------------------------


async def test_a_spool_without_room_is_waited_for(spool: SqliteSpool, clock: FakeClock) -> None:
    meddled = MeddledSpool(spool)
    for name in ("open_sink", "read", "advance", "note_sink"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    sink = MemorySink()
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive):
        await archive.wait_past(3)
    assert [batch.first_id for batch in sink.batches] == [1, 2, 3]
    seen = await overview(spool)
    assert (seen.delivered, seen.pending) == (3, 0)
    assert seen.state == "running", "a state that could not be noted is noted later"


async def test_stopping_does_not_wait_for_a_spool_without_room(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    meddled = MeddledSpool(spool)
    meddled.errors["advance"] = [SpoolUnavailableError("no room")] * 1000
    archive = dispatcher(MemorySink(), meddled.spool, clock)
    await take(spool, b"a")
    async with running(archive) as (task,):
        await clock.slept_times(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await overview(spool)).pending == 1


async def test_stopping_makes_what_was_delivered_durable(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    sink = MemorySink()
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive) as (task,):
        await until(lambda: len(sink.batches) == 3)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await overview(spool)).delivered == 3


@pytest.mark.parametrize("name", ["open_sink", "read", "advance", "remember", "note_sink"])
async def test_a_spool_that_failed_ends_the_dispatcher(
    spool: SqliteSpool, clock: FakeClock, name: str
) -> None:
    meddled = MeddledSpool(spool)
    meddled.errors[name] = [SpoolUntrustedError("broken")] * 9
    sink = Opened(RememberingSink())
    archive = dispatcher(sink, meddled.spool, clock)
    await take(spool, b"a", b"b", b"c")
    async with running(archive) as (task,):
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await task
    assert sink.calls[-1:] == ([] if name == "open_sink" else ["close"])


async def test_a_cursor_that_cannot_be_committed_is_noticed_while_the_sink_is_down(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    meddled = MeddledSpool(spool)
    gate = meddled.gates["advance"] = asyncio.Event()
    meddled.errors["advance"] = [SpoolUntrustedError("broken")] * 2
    slow = SlowSink()
    slow.release.set()
    archive = dispatcher(slow, meddled.spool, clock)
    await take(spool, b"a")
    async with running(archive) as (task,):
        await until(lambda: "advance" in meddled.calls)
        slow.release.clear()
        await take(spool, b"b")
        gate.set()
        with pytest.raises(SpoolUntrustedError, match="broken"):
            await task


async def test_a_stream_is_described_by_one_object_until_its_description_changes(
    spool: SqliteSpool, clock: FakeClock
) -> None:
    sink = MemorySink()
    archive = dispatcher(sink, spool, clock)
    renamed = replace(INFO, display_name="new")
    async with running(archive):
        await take(spool, b"a")
        await take(spool, b"b")
        await archive.wait_past(2)
        await take(spool, b"c", info=renamed)
        await archive.wait_past(3)
    first, second, third = [batch.slices[0].stream for batch in sink.batches]
    assert first == Stream("sbx-1", "main", tags=("prod",))
    assert second is first
    assert third == Stream("sbx-1", "main", "new", tags=("prod",))
