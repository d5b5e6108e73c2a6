from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from forwarder.cursor import Cursor
from forwarder.errors import SpoolUnavailableError, SpoolUntrustedError
from forwarder.model import DeadLetter, FrameKind
from forwarder.spool.files import StateDir
from forwarder.spool.interface import Delivery
from forwarder.spool.sqlite import open_spool
from tests.fakes.clock import FakeClock
from tests.fakes.spool import MeddledSpool
from tests.unit.spool.builders import INFO, commit, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from forwarder.spool.interface import SinkOverview

SINK = "archive"


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[MeddledSpool]:
    """Nine frames of one line, and a sink that has none of them."""
    real = await open_spool(StateDir(tmp_path), now=lambda: 1)
    await real.open_sink(SINK, from_oldest=True)
    stream = await real.open_stream(INFO)
    frames = [frame(line=line, at_ns=100 + line) for line in range(9)]
    await real.commit([commit(stream.id, *frames)])
    yield MeddledSpool(real)
    await real.close()


@pytest.fixture
def cursor(spool: MeddledSpool) -> Cursor:
    return Cursor(SINK, 0, spool=spool.spool, clock=FakeClock())


async def numbers(spool: MeddledSpool) -> SinkOverview:
    (sink,) = (await spool.spool.overview()).sinks
    return sink


async def test_moves_that_gathered_are_one_commit_with_all_that_belongs_to_them(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    cursor.move(2, {"a": b"1", "b": b"1"}, Delivery(delivered=2))
    cursor.move(5, {"a": b"2"}, Delivery(delivered=1, filtered=2))
    await cursor.commit()
    assert spool.calls == ["advance"]
    sink = await numbers(spool)
    assert (sink.delivered, sink.filtered, sink.pending) == (3, 2, 4)
    record = await spool.spool.open_sink(SINK, from_oldest=True)
    assert (record.cursor, record.state) == (5, {"a": b"2", "b": b"1"})


async def test_without_a_move_there_is_nothing_to_commit(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    await cursor.commit()
    cursor.move(1, {}, Delivery(delivered=1))
    await cursor.commit()
    await cursor.commit()
    assert spool.calls == ["advance"]


async def test_who_waits_for_a_frame_waits_until_it_is_durable(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    gate = spool.gates["advance"] = asyncio.Event()
    waiting = asyncio.create_task(cursor.wait_past(3))
    running = asyncio.create_task(cursor.run())
    cursor.move(3, {}, Delivery(delivered=3))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (spool.calls, waiting.done()) == (["advance"], False)
    gate.set()
    await waiting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_full_disk_makes_moves_wait_and_gather(spool: MeddledSpool) -> None:
    clock = FakeClock(instant=False, chance=1.0)
    cursor = Cursor(SINK, 0, spool=spool.spool, clock=clock)
    spool.errors["advance"] = [SpoolUnavailableError("no room")]
    running = asyncio.create_task(cursor.run())
    cursor.move(2, {"a": b"1", "b": b"1"}, Delivery(delivered=2))
    await clock.slept_times(1)
    cursor.move(4, {"a": b"2"}, Delivery(delivered=2))
    clock.advance(0.25)
    await cursor.wait_past(4)
    assert (await numbers(spool)).delivered == 4
    record = await spool.spool.open_sink(SINK, from_oldest=True)
    assert record.state == {"a": b"2", "b": b"1"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def letter(line: int) -> DeadLetter:
    return DeadLetter(1, FrameKind.LINES, line, 1, 5, 7, b"line\n", "400", "poison", 9)


async def test_dead_letters_are_stored_once_with_the_move_they_belong_to(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    spool.errors["advance"] = [SpoolUnavailableError("no room")]
    cursor.move(2, {}, Delivery(delivered=1, dead_lettered=1), [letter(1)])
    with pytest.raises(SpoolUnavailableError):
        await cursor.commit()
    assert (await numbers(spool)).dead_letters == 0
    cursor.move(4, {}, Delivery(delivered=1, dead_lettered=1), [letter(3)])
    await cursor.commit()
    await cursor.settle()
    sink = await numbers(spool)
    assert (sink.delivered, sink.dead_lettered, sink.dead_letters) == (2, 2, 2)


async def test_a_spool_that_failed_ends_the_cursor(spool: MeddledSpool, cursor: Cursor) -> None:
    spool.errors["advance"] = [SpoolUntrustedError("broken")]
    cursor.move(1, {}, Delivery(delivered=1))
    with pytest.raises(SpoolUntrustedError, match="broken"):
        await cursor.run()


async def test_a_commit_that_was_under_way_when_it_was_cancelled_counts_once(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    gate = spool.gates["advance"] = asyncio.Event()
    cursor.move(3, {}, Delivery(delivered=3))
    cancelled = asyncio.create_task(cursor.commit())
    while not spool.calls:
        await asyncio.sleep(0)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    cursor.move(4, {}, Delivery(delivered=1))
    settling = asyncio.create_task(cursor.settle())
    gate.set()
    await settling
    await cursor.wait_past(4)
    sink = await numbers(spool)
    assert (sink.delivered, sink.pending) == (4, 5)


async def test_settling_on_a_full_disk_makes_one_attempt(
    spool: MeddledSpool, cursor: Cursor
) -> None:
    spool.errors["advance"] = [SpoolUnavailableError("no room")]
    cursor.move(3, {}, Delivery(delivered=3))
    await cursor.settle()
    assert spool.calls == ["advance"]
    assert (await numbers(spool)).pending == 9
