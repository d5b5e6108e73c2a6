"""Where windows begin and end, and what is known of them after a crash."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from forwarder.errors import SpoolUnavailableError
from forwarder.model import StreamInfo, StreamKey
from forwarder.spool.files import StateDir
from forwarder.spool.sqlite import SqliteSpool, open_spool
from forwarder.windowing import SizeEstimate
from sinks.plan import WindowLimits
from tests.fakes.clock import FakeClock
from tests.fakes.delivery import NAME, settled_down, take
from tests.fakes.spool import MeddledSpool
from tests.fakes.window_delivery import EACH, damage, edges, take_end, window_life

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: A line that takes so much as the server sent it, and next to nothing in the spool.
LINE = b"x" * 999
KILO = WindowLimits(max_bytes=4000, max_age_s=60.0)
OLD = WindowLimits(max_bytes=1 << 20, max_age_s=60.0)
OTHER = StreamInfo(StreamKey("sbx-2", "main"))


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await open_spool(StateDir(tmp_path), now=lambda: 1)
    yield spool
    await spool.close()


def noise(size: int, seed: int) -> bytes:
    """A line that cannot be made smaller."""
    return random.Random(seed).randbytes(size).replace(b"\n", b" ")


# Size ---------------------------------------------------------------------------------------------


async def test_a_window_ends_with_the_frame_that_fills_it(spool: SqliteSpool) -> None:
    await take(spool, *[LINE] * 10, b"%s\n%s" % (LINE, LINE), LINE, LINE)
    async with window_life(spool, KILO) as one:
        assert await one.next(3) == [(0, 4, 4), (4, 8, 4), (8, 11, 4)]


async def test_a_frame_that_is_too_large_is_a_window_by_itself(spool: SqliteSpool) -> None:
    await take(spool, LINE, LINE * 9, LINE * 9)
    async with window_life(spool, KILO) as one:
        assert await one.next(2) == [(0, 2, 2), (2, 3, 1)]


async def test_catching_up_waits_for_nothing_and_reads_nothing(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    meddled = MeddledSpool(spool)
    await take(spool, *[LINE] * 40)
    async with window_life(meddled.spool, KILO, clock) as one:
        assert [last_id for _, last_id, _ in await one.next(10)] == list(range(4, 41, 4))
    assert clock.slept == []
    assert "read" not in meddled.calls, "a window may be larger than the memory"


async def test_a_window_may_have_more_frames_than_are_counted_at_once(
    spool: SqliteSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.spool.survey._MAX_FRAMES", 3)
    await take(spool, *[LINE] * 20)
    large = replace(KILO, max_bytes=20_000)
    async with window_life(spool, large) as one:
        assert await one.next() == [(0, 20, 20)]


async def test_what_a_window_became_says_how_much_of_the_spool_fills_the_next(
    spool: SqliteSpool,
) -> None:
    await take(spool, *[noise(1000, seed) for seed in range(40)])
    async with window_life(spool, KILO) as one:
        first = await anext(one.windows)
        assert edges(first) == (0, 4, 4)
        first.made(8200)
        assert await one.next() == [(4, 6, 2)], "twice as large as in the spool: half as many"


async def test_what_was_learned_of_sizes_survives_a_restart(spool: SqliteSpool) -> None:
    await take(spool, *[noise(1000, seed) for seed in range(40)])
    async with window_life(spool, KILO) as one:
        window = await anext(one.windows)
        window.made(8200)
        assert await one.next() == [(4, 6, 2)]
        await one.confirm((0, 6, 6))
    async with window_life(spool, KILO) as one:
        assert await one.next() == [(6, 8, 2)]


def test_before_anything_is_known_a_window_is_taken_for_as_large_as_its_lines() -> None:
    size = SizeEstimate(1000)
    assert (size.max_stored_bytes, size.max_raw_bytes) == (1000, 1000)
    size.learn(500, 250)
    assert size.max_stored_bytes == 2000
    assert size.max_raw_bytes > 1 << 60


def test_a_window_never_takes_more_than_four_times_its_size_in_the_spool() -> None:
    size = SizeEstimate(1000)
    size.learn(1_000_000, 1)
    assert size.max_stored_bytes == 4000


def test_a_window_takes_something_whatever_the_one_before_became() -> None:
    size = SizeEstimate(1000)
    size.learn(1, 10**12)
    assert size.max_stored_bytes >= 1


def test_the_estimate_follows_what_windows_become() -> None:
    size = SizeEstimate(1000)
    size.learn(1000, 1000)
    for _ in range(20):
        size.learn(2000, 1000)
    assert 1900 < size.max_stored_bytes <= 2000


def test_a_small_window_says_little_about_a_full_one() -> None:
    size = SizeEstimate(1_000_000)
    size.learn(1_000_000, 1_000_000)
    for _ in range(10):
        size.learn(100, 2000)
    assert size.max_stored_bytes > 800_000


@pytest.mark.parametrize(("stored", "made"), [(0, 1000), (1000, 0), (0, 0)])
def test_a_window_of_nothing_says_nothing(stored: int, made: int) -> None:
    size = SizeEstimate(1000)
    size.learn(stored, made)
    assert (size.max_stored_bytes, size.max_raw_bytes) == (1000, 1000)


# Age ----------------------------------------------------------------------------------------------


async def test_a_window_waits_for_more_until_its_first_record_is_old_enough(
    spool: SqliteSpool,
) -> None:
    clock = FakeClock(instant=False)
    async with window_life(spool, OLD, clock) as one:
        coming = asyncio.ensure_future(one.next())
        await take(spool, b"1")
        await clock.slept_times(2)
        clock.advance(59.0)
        await take(spool, b"2")
        await clock.slept_times(4)
        assert not coming.done()
        clock.advance(1.0)
        assert await coming == [(0, 2, 2)], "the first decides"


async def test_before_the_first_record_no_time_goes_by(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    async with window_life(spool, OLD, clock) as one:
        coming = asyncio.ensure_future(one.next())
        await settled_down(coming.done)
        clock.advance(1000.0)
        await take(spool, b"1")
        await clock.slept_times(2)
        assert max(clock.slept) == 60.0
        one.feed.hurry()
        assert await coming == [(0, 1, 1)]


async def test_frames_that_come_one_after_the_other_are_counted_together(
    spool: SqliteSpool,
) -> None:
    clock = FakeClock(instant=False)
    meddled = MeddledSpool(spool)
    async with window_life(meddled.spool, OLD, clock) as one:
        coming = asyncio.ensure_future(one.next())
        for _ in range(60):
            await take(spool, b"x")
            await settled_down(lambda: len(meddled.calls), turns=10)
            clock.advance(0.05)
        assert meddled.calls.count("survey") <= 16
        one.feed.hurry()
        assert await coming == [(0, 60, 60)]


# The end of a stream, and of the daemon -----------------------------------------------------------


async def test_the_end_of_a_stream_closes_the_window_if_that_is_wanted(spool: SqliteSpool) -> None:
    await take(spool, b"1", b"2")
    await take_end(spool)
    async with window_life(spool, replace(OLD, at_end=True)) as one:
        assert await one.next() == [(0, 3, 2)]


async def test_what_follows_an_end_is_in_the_next_window_and_says_nothing_of_this_one(
    spool: SqliteSpool,
) -> None:
    await take(spool, noise(1000, 1))
    await take_end(spool)
    await take(spool, *[noise(1000, seed) for seed in range(150)], info=OTHER)
    limits = WindowLimits(max_bytes=200_000, max_age_s=60.0, at_end=True)
    async with window_life(spool, limits) as one:
        first = await anext(one.windows)
        assert edges(first) == (0, 2, 1)
        first.made(2200)
        one.feed.hurry()
        ((after_id, last_id, _),) = await one.next()
        assert after_id == 2
        assert 92 <= last_id <= 112, "twice as large as in the spool"


async def test_the_end_of_a_stream_closes_no_window_unless_that_is_wanted(
    spool: SqliteSpool,
) -> None:
    clock = FakeClock(instant=False)
    await take(spool, b"1")
    await take_end(spool)
    async with window_life(spool, OLD, clock) as one:
        coming = asyncio.ensure_future(one.next())
        await clock.slept_times(2)
        assert not coming.done()
        clock.advance(60.0)
        assert await coming == [(0, 2, 1)]


async def test_an_end_that_comes_while_the_window_waits_closes_it(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    await take(spool, b"1")
    async with window_life(spool, replace(OLD, at_end=True), clock) as one:
        coming = asyncio.ensure_future(one.next())
        await clock.slept_times(2)
        await take(spool, b"1", info=OTHER)
        await take_end(spool)
        clock.advance(1.0)
        assert await coming == [(0, 3, 2)]


async def test_a_hurry_closes_the_window_and_nothing_waits_afterwards(spool: SqliteSpool) -> None:
    clock = FakeClock(instant=False)
    async with window_life(spool, OLD, clock) as one:
        coming = asyncio.ensure_future(one.next())
        await take(spool, b"1")
        await clock.slept_times(2)
        one.feed.hurry()
        assert await coming == [(0, 1, 1)]
        coming = asyncio.ensure_future(one.next())
        await settled_down(coming.done)
        await take(spool, b"2")
        assert await coming == [(1, 2, 1)]
        assert len(clock.slept) == 2


# What is recorded ---------------------------------------------------------------------------------


async def test_where_a_window_ends_is_durable_before_it_is_handed_out(spool: SqliteSpool) -> None:
    recording = asyncio.Event()

    async def step(moment: str) -> None:
        if moment == "remember begins":
            recording.set()

    meddled = MeddledSpool(spool, step=step)
    gate = meddled.gates["remember"] = asyncio.Event()
    await take(spool, b"1")
    async with window_life(meddled.spool, EACH) as one:
        coming = asyncio.ensure_future(one.next())
        await recording.wait()
        await settled_down(lambda: (list(meddled.calls), coming.done()))
        assert (meddled.calls[-1], coming.done()) == ("remember", False)
        gate.set()
        assert await coming == [(0, 1, 1)]


async def test_after_a_restart_the_recorded_windows_come_again_with_other_limits_too(
    spool: SqliteSpool,
) -> None:
    await take(spool, *[LINE] * 8)
    expected = [(0, 4, 4), (4, 8, 4)]
    async with window_life(spool, KILO) as one:
        assert await one.next(2) == expected
    await take(spool, LINE)
    for limits in (KILO, EACH, replace(OLD, max_age_s=0.0)):
        async with window_life(spool, limits) as one:
            assert await one.next(2) == expected
    async with window_life(spool, EACH) as one:
        await one.confirm((await one.next())[0])
    async with window_life(spool, EACH) as one:
        assert await one.next(2) == [(4, 8, 4), (8, 9, 1)]


async def test_recorded_windows_keep_their_ends_when_a_frame_in_one_is_damaged(
    spool: SqliteSpool, tmp_path: Path
) -> None:
    await take(spool, *[LINE] * 8)
    async with window_life(spool, KILO) as one:
        assert await one.next(2) == [(0, 4, 4), (4, 8, 4)]
    await spool.close()
    damage(tmp_path, 4)
    again = await open_spool(StateDir(tmp_path), now=lambda: 1)
    try:
        async with window_life(again, KILO) as one:
            first = await anext(one.windows)
            assert (first.after_id, first.last_id) == (0, 4)
            slices = [source async for batch in first.read() for source in batch.slices]
            assert [source.gap is None for source in slices] == [True, True, True, False]
            assert await one.next() == [(4, 8, 4)]
    finally:
        await again.close()


async def test_windows_that_are_settled_are_not_remembered_for_ever(spool: SqliteSpool) -> None:
    sizes = []
    async with window_life(spool, EACH) as one:
        for _ in range(30):
            await take(spool, b"1")
            await one.confirm((await one.next())[0])
            record = await spool.open_sink(NAME, from_oldest=True)
            sizes.append(len(record.state["engine:windows"]))
    assert max(sizes) - min(sizes) <= 8


async def test_a_spool_that_does_not_answer_is_asked_again(spool: SqliteSpool) -> None:
    meddled = MeddledSpool(spool)
    for name in ("survey", "remember", "hand_out", "read"):
        meddled.errors[name] = [SpoolUnavailableError("no room")] * 2
    await take(spool, b"1")
    async with window_life(meddled.spool, EACH, FakeClock()) as one:
        window = await anext(one.windows)
        assert [batch.line_count async for batch in window.read()] == [1]


# Reading ------------------------------------------------------------------------------------------


async def test_a_window_is_read_in_whole_frames_a_few_megabytes_at_a_time(
    spool: SqliteSpool,
) -> None:
    for seed in range(5):
        await take(spool, noise(3 << 20, seed))
    await take(spool, *[LINE] * 4)
    limits = WindowLimits(max_bytes=(15 << 20) + 3000, max_age_s=0.0)
    async with window_life(spool, limits) as one:
        window = await anext(one.windows)
        batches = [batch async for batch in window.read()]
    assert edges(window)[:2] == (0, 8), "and frame 9 is not in it"
    assert [(batch.first_id, batch.last_id) for batch in batches][:3] == [(1, 1), (2, 2), (3, 3)]
    assert batches[-1].last_id == 8
    assert all(batch.raw_bytes <= 4 << 20 for batch in batches)
    assert sum(batch.line_count for batch in batches) == window.line_count == 8


async def test_every_reading_of_a_window_begins_anew(spool: SqliteSpool) -> None:
    await take(spool, *[LINE] * 8)
    async with window_life(spool, KILO) as one:
        window = await anext(one.windows)
        once = [batch.first_id async for batch in window.read()]
        aborted = window.read()
        await anext(aborted)
        assert [batch.first_id async for batch in window.read()] == once == [1]
