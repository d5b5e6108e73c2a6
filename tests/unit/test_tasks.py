from __future__ import annotations

import asyncio

import pytest

from forwarder.tasks import endless, first_of


class Endless:
    """Waits for ever, and knows whether it has ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def test_when_the_first_returns_the_others_have_ended() -> None:
    other = Endless()
    await first_of(other.begun.wait(), other.wait())
    assert other.ended


async def test_the_error_of_the_first_comes_out_and_the_others_have_ended() -> None:
    other = Endless()

    async def fail() -> None:
        await other.begun.wait()
        raise LookupError("why")

    with pytest.raises(LookupError, match="why"):
        await first_of(other.wait(), fail())
    assert other.ended


async def test_cancelling_it_ends_all_of_them() -> None:
    one, other = Endless(), Endless()
    waiting = asyncio.create_task(first_of(one.wait(), other.wait()))
    await one.begun.wait()
    await other.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert one.ended
    assert other.ended


async def test_a_part_that_returns_is_an_error() -> None:
    async def part() -> None:
        """Return at once."""

    with pytest.raises(RuntimeError, match="prune has ended"):
        await endless("prune", part)


async def test_a_part_that_is_cancelled_by_a_bug_is_an_error() -> None:
    async def part() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="prune was cancelled"):
        await endless("prune", part)


async def test_a_part_that_is_told_to_stop_stops() -> None:
    part = Endless()
    running = asyncio.create_task(endless("prune", part.wait))
    await part.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
