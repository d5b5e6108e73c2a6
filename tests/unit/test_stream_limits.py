"""Silence, age and turns, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from forwarder.stream_limits import TURN_S, StreamDueError, StreamLimits
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE_S = 60.0
LIFE_S = 600.0


class Bounds:
    """Limits that run on a clock of their own."""

    def __init__(self, *, max_opening: int = 50, chance: float = 0.0) -> None:
        self.clock = FakeClock(instant=False, chance=chance)
        self.limits = StreamLimits(
            idle_s=IDLE_S, life_s=LIFE_S, max_opening=max_opening, clock=self.clock
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.limits.run())
        await settle()
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def pass_s(self, seconds: float) -> None:
        """So much time passes, and everybody sees it."""
        self.clock.advance(seconds)
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def listen(bounds: Bounds, silences: asyncio.Queue[None] | None = None) -> str:
    """Watch a stream that is heard whenever something is queued; returns why it ended."""
    silences = silences or asyncio.Queue()
    try:
        async with bounds.limits.watch() as stream:
            bounds.limits.opened(stream)
            while True:
                await silences.get()
                stream.heard()
    except StreamDueError as due:
        return due.code


async def test_a_stream_is_due_when_it_was_silent_for_long() -> None:
    bounds = Bounds()
    async with bounds.running():
        listening = asyncio.create_task(listen(bounds))
        await settle()
        await bounds.pass_s(IDLE_S - 1)
        assert not listening.done()
        await bounds.pass_s(1)
        assert await listening == "silent"


async def test_a_stream_that_is_heard_lives_until_it_is_old() -> None:
    bounds = Bounds()
    heard: asyncio.Queue[None] = asyncio.Queue()
    async with bounds.running():
        listening = asyncio.create_task(listen(bounds, heard))
        for _ in range(int(LIFE_S / 30)):
            await settle()
            assert not listening.done()
            heard.put_nowait(None)
            await bounds.pass_s(30)
        assert await listening == "old"


async def test_due_times_are_jittered_by_a_quarter() -> None:
    bounds = Bounds(chance=1.0)
    async with bounds.running():
        listening = asyncio.create_task(listen(bounds))
        await settle()
        await bounds.pass_s(IDLE_S)
        assert not listening.done()
        await bounds.pass_s(IDLE_S / 4)
        assert await listening == "silent"


async def test_a_silence_that_is_ours_is_not_the_servers() -> None:
    bounds = Bounds()
    room = asyncio.Event()

    async def wait_for_room() -> None:
        async with bounds.limits.watch() as stream:
            with stream.resting():
                await room.wait()
            await asyncio.Event().wait()

    async with bounds.running():
        waiting = asyncio.create_task(wait_for_room())
        await settle()
        await bounds.pass_s(IDLE_S * 2)
        assert not waiting.done()
        room.set()
        await settle()
        await bounds.pass_s(IDLE_S - 1)
        assert not waiting.done()
        await bounds.pass_s(2)
        with pytest.raises(StreamDueError):
            await waiting


async def test_a_timeout_of_the_stream_itself_is_not_taken_for_ours() -> None:
    bounds = Bounds()
    with pytest.raises(TimeoutError):
        async with bounds.limits.watch():
            raise TimeoutError


async def test_no_more_streams_are_opened_at_once_than_allowed() -> None:
    bounds = Bounds(max_opening=2)
    opened = []

    async def open_one(number: int, answer: asyncio.Event) -> None:
        async with bounds.limits.watch() as stream:
            opened.append(number)
            await answer.wait()
            bounds.limits.opened(stream)
            await asyncio.Event().wait()

    answers = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(open_one(*one)) for one in enumerate(answers)]
    await settle()
    assert opened == [0, 1]
    answers[1].set()
    await settle()
    assert opened == [0, 1, 2]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert bounds.limits.opening == 0


async def test_a_server_that_does_not_answer_holds_up_the_others_for_a_moment_only() -> None:
    bounds = Bounds(max_opening=1)
    async with bounds.running():
        silent = asyncio.create_task(listen_unanswered(bounds))
        await settle()
        other = asyncio.create_task(listen(bounds))
        await settle()
        assert bounds.limits.opening == 1
        await bounds.pass_s(TURN_S)
        assert bounds.limits.opening == 0
        for task in (silent, other):
            task.cancel()
        await asyncio.gather(silent, other, return_exceptions=True)


async def listen_unanswered(bounds: Bounds) -> None:
    async with bounds.limits.watch():
        await asyncio.Event().wait()


async def test_the_longest_silence_is_that_of_the_log_and_not_of_its_newest_stream() -> None:
    bounds = Bounds()
    assert bounds.limits.longest_silence_s() == 0
    bounds.clock.advance(100)
    async with bounds.limits.watch(silent_since_s=40), bounds.limits.watch() as other:
        assert bounds.limits.longest_silence_s() == 60
        bounds.clock.advance(10)
        other.heard()
        assert bounds.limits.longest_silence_s() == 70
