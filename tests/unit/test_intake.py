from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.intake import COMMIT_BYTES, Intake
from forwarder.metrics import Metrics
from forwarder.model import Checkpoint, FrameDraft, FrameKind, StreamState
from forwarder.spool.interface import StreamCommit, StreamRecord, Tail
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from forwarder.model import StreamInfo

#: Longer than any test: nothing is committed before a test asks for it.
NEVER_S = 3600.0


class Store:
    """A `StreamStore` that keeps what it is given, or refuses it as told.

    Attributes:
        attempts: Every commit that was tried.
        kept: Those that were stored.
        errors: Raised by the next commits, one each.
        gate: While it is clear, a commit waits.
        one_at_a_time: Whether the gate closes behind every commit.
        entered: Set when a commit has begun.
    """

    def __init__(self) -> None:
        self.attempts: list[list[StreamCommit]] = []
        self.kept: list[list[StreamCommit]] = []
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.one_at_a_time = False
        self.entered = asyncio.Event()

    @property
    def texts(self) -> dict[int, bytes]:
        """What is stored of each stream, in order."""
        texts: dict[int, bytes] = {}
        for one in (one for commits in self.kept for one in commits):
            raw = b"".join(frame.raw for frame in one.frames)
            texts[one.stream_id] = texts.get(one.stream_id, b"") + raw
        return texts

    async def open_stream(self, info: StreamInfo, *, primary: bool = False) -> StreamRecord:
        del primary
        return StreamRecord(1, info.key, Checkpoint(), StreamState.WAITING)

    async def commit(self, commits: Sequence[StreamCommit]) -> None:
        self.attempts.append(list(commits))
        self.entered.set()
        await self.gate.wait()
        if self.one_at_a_time:
            self.gate.clear()
        if self.errors:
            raise self.errors.pop(0)
        self.kept.append(list(commits))

    async def tail(self, stream_id: int, *, from_ns: int, max_bytes: int) -> Tail:
        return Tail([])


class Stream:
    """A feeder that hands over, once, what it was given."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.lines: list[bytes] = []
        self.position = 0

    def read(self, intake: Intake, *lines: bytes, size_bytes: int | None = None) -> None:
        self.lines += lines
        size = sum(len(line) for line in lines)
        intake.offer(self, size if size_bytes is None else size_bytes)

    def take(self) -> StreamCommit | None:
        lines, self.lines = self.lines, []
        if not lines:
            return None
        frames = [
            FrameDraft(FrameKind.LINES, line, self.position + index, 1, 0, 1, 1, 1, 1)
            for index, line in enumerate(lines)
        ]
        self.position += len(lines)
        return StreamCommit(self.stream_id, frames, Checkpoint(next_line=self.position))


class Broken(Stream):
    """A feeder with a bug."""

    def take(self) -> StreamCommit | None:
        raise LookupError("a bug")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make(
    store: Store, clock: FakeClock, *, interval_s: float = NEVER_S, buffer_bytes: int = 1 << 30
) -> Intake:
    return Intake(
        store, interval_s=interval_s, buffer_bytes=buffer_bytes, clock=clock, metrics=Metrics()
    )


@asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(intake.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, SpoolUntrustedError, LookupError):
            await task


async def test_one_commit_takes_what_all_streams_have(store: Store, clock: FakeClock) -> None:
    intake = make(store, clock)
    streams = [Stream(number) for number in range(50)]
    async with running(intake):
        for stream in streams:
            stream.read(intake, b"a\n")
            stream.read(intake, b"b\n")
        await intake.flush()
    assert len(store.kept) == 1
    assert store.texts == dict.fromkeys(range(50), b"a\nb\n")


async def test_a_commit_begins_by_itself_after_its_interval(store: Store, clock: FakeClock) -> None:
    intake = make(store, clock, interval_s=0.001)
    async with running(intake):
        Stream(1).read(intake, b"a\n")
        await store.entered.wait()
    assert len(store.attempts) == 1


async def test_a_commit_that_is_large_does_not_wait_for_its_interval(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    async with running(intake):
        Stream(1).read(intake, b"a\n", size_bytes=COMMIT_BYTES)
        await store.entered.wait()
    assert store.texts == {1: b"a\n"}


async def test_while_one_commit_is_under_way_the_next_one_grows(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    stream = Stream(1)
    store.gate.clear()
    async with running(intake):
        stream.read(intake, b"a\n")
        first = asyncio.create_task(intake.flush())
        await store.entered.wait()
        for line in (b"b\n", b"c\n", b"d\n"):
            stream.read(intake, line)
        second = asyncio.create_task(intake.flush())
        store.gate.set()
        await asyncio.gather(first, second)
    assert [len(commits[0].frames) for commits in store.kept] == [1, 3]
    assert store.texts == {1: b"a\nb\nc\nd\n"}


async def test_a_flush_returns_only_when_what_was_offered_before_is_durable(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    store.gate.clear()
    async with running(intake):
        Stream(1).read(intake, b"a\n")
        flushing = asyncio.create_task(intake.flush())
        await store.entered.wait()
        assert not flushing.done()
        assert not store.kept
        store.gate.set()
        await flushing
        assert store.texts == {1: b"a\n"}


async def test_a_flush_of_nothing_returns_and_commits_nothing(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    async with running(intake):
        await intake.flush()
        Stream(1).read(intake)  # something, but no whole line of it
        await intake.flush()
    assert store.attempts == []


async def test_a_flush_that_nobody_waits_for_any_more_disturbs_nobody(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    store.gate.clear()
    async with running(intake):
        Stream(1).read(intake, b"a\n")
        impatient = asyncio.create_task(intake.flush())
        patient = asyncio.create_task(intake.flush())
        await store.entered.wait()
        impatient.cancel()
        await asyncio.sleep(0)
        store.gate.set()
        await patient
    assert impatient.cancelled()


async def test_followers_wait_while_too_much_is_not_committed_and_go_on_after(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock, buffer_bytes=10)
    stream = Stream(1)
    store.gate.clear()
    async with running(intake):
        stream.read(intake, b"123456789")
        assert not intake.full
        await intake.room()
        stream.read(intake, b"0")
        assert intake.full
        waiting = asyncio.create_task(intake.room())
        await store.entered.wait()
        assert not waiting.done()
        store.gate.set()
        await waiting
        assert not intake.full


async def test_a_buffer_that_is_full_does_not_wait_for_the_interval(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock, buffer_bytes=10)
    async with running(intake):
        Stream(1).read(intake, b"1234567890")
        await intake.room()
    assert store.texts == {1: b"1234567890"}


async def test_room_is_made_only_by_what_was_committed(store: Store, clock: FakeClock) -> None:
    intake = make(store, clock, buffer_bytes=10)
    stream = Stream(1)
    store.gate.clear()
    store.one_at_a_time = True
    async with running(intake):
        stream.read(intake, b"a" * 5)
        first = asyncio.create_task(intake.flush())
        await store.entered.wait()
        stream.read(intake, b"b" * 10)
        waiting = asyncio.create_task(intake.room())
        store.gate.set()
        await first
        assert intake.full
        assert not waiting.done()
        store.gate.set()
        await waiting
        assert not intake.full


async def test_a_refused_commit_is_tried_again_with_the_same_content(
    store: Store, clock: FakeClock
) -> None:
    metrics = Metrics()
    intake = Intake(store, interval_s=NEVER_S, buffer_bytes=99, clock=clock, metrics=metrics)
    stream = Stream(1)
    store.errors = [SpoolUnavailableError("full") for _ in range(3)]
    async with running(intake):
        stream.read(intake, b"a\n")
        await intake.flush()
        stream.read(intake, b"b\n")
        await intake.flush()
    assert store.attempts[:4] == [store.kept[0]] * 4
    assert store.texts == {1: b"a\nb\n"}
    assert clock.slept == [0.125, 0.25, 0.5]
    assert (metrics.taken_lines, metrics.commits) == (2, 2)
    assert metrics.commit_seconds == 0, "the waits between the attempts were counted"
    assert not metrics.spool_refusing


async def test_what_is_read_during_an_outage_of_the_spool_follows_in_order(
    store: Store,
) -> None:
    clock = FakeClock(instant=False)
    intake = make(store, clock)
    stream = Stream(1)
    store.errors = [SpoolUnavailableError("full")]
    async with running(intake):
        stream.read(intake, b"a\n")
        first = asyncio.create_task(intake.flush())
        await clock.slept_times(1)
        stream.read(intake, b"b\n")
        second = asyncio.create_task(intake.flush())
        clock.advance(5.0)
        await asyncio.gather(first, second)
    assert store.texts == {1: b"a\nb\n"}


async def test_a_spool_that_failed_ends_the_intake_and_everybodys_wait(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    stream = Stream(1)
    store.gate.clear()
    store.errors = [SpoolUntrustedError("broken")]
    async with running(intake) as task:
        stream.read(intake, b"a\n")
        first = asyncio.create_task(intake.flush())
        await store.entered.wait()
        second = asyncio.create_task(intake.flush())
        await asyncio.sleep(0)
        store.gate.set()
        results = await asyncio.gather(first, second, task, return_exceptions=True)
        assert [str(one) for one in results] == ["broken"] * 3
        with pytest.raises(SpoolUntrustedError, match="nothing is committed any more"):
            await intake.flush()
    assert store.kept == []


async def test_a_bug_in_a_stream_ends_the_intake_and_hangs_nobody(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock)
    async with running(intake) as task:
        Broken(1).read(intake, b"a\n")
        with pytest.raises(LookupError):
            await intake.flush()
        with pytest.raises(LookupError):
            await task


async def test_cancelling_the_intake_ends_everybodys_wait(store: Store, clock: FakeClock) -> None:
    intake = make(store, clock)
    store.gate.clear()
    async with running(intake) as task:
        Stream(1).read(intake, b"a\n")
        flushing = asyncio.create_task(intake.flush())
        await store.entered.wait()
        task.cancel()
        results = await asyncio.gather(flushing, task, return_exceptions=True)
    assert [type(one) for one in results] == [asyncio.CancelledError] * 2


async def test_every_streams_lines_stay_in_order_over_many_commits(
    store: Store, clock: FakeClock
) -> None:
    intake = make(store, clock, interval_s=0, buffer_bytes=200)
    streams = [Stream(number) for number in range(5)]

    async def follow(stream: Stream) -> None:
        for number in range(100):
            stream.read(intake, b"%d," % number)
            await (intake.room() if intake.full else asyncio.sleep(0))

    store.errors = [SpoolUnavailableError("full") for _ in range(5)]
    async with running(intake):
        await asyncio.gather(*map(follow, streams))
        await intake.flush()
    whole = b"".join(b"%d," % number for number in range(100))
    assert store.texts == dict.fromkeys(range(5), whole)
    assert len(store.kept) > 1
