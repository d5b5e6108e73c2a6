from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from forwarder.admin.snapshots import MAX_AGE_S, Snapshots
from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from tests.unit.admin.clocks import HandClock
from tests.unit.admin.overviews import overview

if TYPE_CHECKING:
    from forwarder.spool.interface import SpoolOverview


class Spool:
    """Answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: Exception | None = None
        self.answer = asyncio.Event()
        self.answer.set()

    async def overview(self) -> SpoolOverview:
        self.reads += 1
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return overview()


async def test_the_spool_is_read_again_only_after_a_second() -> None:
    spool, clock = Spool(), HandClock()
    snapshots = Snapshots(spool.overview, clock=clock)
    first = await snapshots.get()
    clock.advance(MAX_AGE_S * 0.9)
    assert await snapshots.get() is first
    clock.advance(MAX_AGE_S * 0.2)
    assert await snapshots.get() is not first
    assert spool.reads == 2


async def test_those_who_ask_at_the_same_time_share_one_read_however_slow_it_is() -> None:
    spool, clock = Spool(), HandClock()
    snapshots = Snapshots(spool.overview, clock=clock)
    spool.answer.clear()
    asking = [asyncio.create_task(snapshots.get()) for _ in range(5)]
    await asyncio.sleep(0)
    clock.advance(MAX_AGE_S * 3)
    asking.append(asyncio.create_task(snapshots.get()))
    await asyncio.sleep(0)
    spool.answer.set()
    assert len({id(one) for one in await asyncio.gather(*asking)}) == 1
    assert spool.reads == 1


async def test_a_reader_that_goes_away_leaves_the_others_their_read() -> None:
    spool = Spool()
    snapshots = Snapshots(spool.overview, clock=HandClock())
    spool.answer.clear()
    leaving, staying = (asyncio.create_task(snapshots.get()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    spool.answer.set()
    assert (await staying).spool_id == "spool-1"
    assert spool.reads == 1


async def test_an_error_is_told_to_everybody_and_forgotten_after_a_second() -> None:
    spool, clock = Spool(), HandClock()
    snapshots = Snapshots(spool.overview, clock=clock)
    spool.error = SpoolUntrustedError("the spool failed")
    for _ in range(2):
        with pytest.raises(SpoolUntrustedError):
            await snapshots.get()
    spool.error = None
    clock.advance(MAX_AGE_S)
    assert (await snapshots.get()).spool_id == "spool-1"
    assert spool.reads == 2


async def test_a_spool_that_does_not_answer_is_an_error_and_its_read_ends_with_close() -> None:
    spool = Spool()
    snapshots = Snapshots(spool.overview, clock=HandClock(), patience_s=0.001)
    spool.answer.clear()
    with pytest.raises(SpoolUnavailableError, match=r"did not answer within 0\.001 s"):
        await snapshots.get()
    await snapshots.close()
    assert len(asyncio.all_tasks()) == 1


async def test_closing_without_ever_having_read_is_fine() -> None:
    await Snapshots(Spool().overview, clock=HandClock()).close()


async def test_closing_answers_who_still_waits() -> None:
    spool = Spool()
    snapshots = Snapshots(spool.overview, clock=HandClock())
    spool.answer.clear()
    waiting = asyncio.create_task(snapshots.get())
    while not spool.reads:
        await asyncio.sleep(0)
    await snapshots.close()
    with pytest.raises(SpoolUnavailableError, match="not read any more"):
        await waiting
