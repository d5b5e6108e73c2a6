from __future__ import annotations

import asyncio
import time

import pytest

from forwarder.clock import SystemClock


def test_the_system_clock_tells_the_machines_time() -> None:
    clock = SystemClock()
    before_ns, before_s = time.time_ns(), time.monotonic()
    assert before_ns <= clock.time_ns() <= time.time_ns()
    assert before_s <= clock.monotonic_s() <= time.monotonic()


def test_chance_is_from_nought_to_below_one() -> None:
    clock = SystemClock()
    drawn = [clock.random() for _ in range(200)]
    assert all(0 <= one < 1 for one in drawn)
    assert len(set(drawn)) > 1


async def test_a_sleep_ends_by_itself_and_at_once_when_cancelled() -> None:
    clock = SystemClock()
    await clock.sleep(0)
    sleeping = asyncio.create_task(clock.sleep(3600))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
