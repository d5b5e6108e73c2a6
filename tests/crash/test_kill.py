"""`kill -9` of the daemon, again and again, at any moment: the files end up equal to the byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.crash.scene import KEEPS_ALL, Home, cycles, seeded, talkative
from tests.fakes.daemon import file_sink, running, until, write_config

if TYPE_CHECKING:
    import random
    from pathlib import Path

KILLS = 28
COMMANDS = 4  # of them are the real command, the others are forked, which is quicker
DAEMONS = 4  # at a time
FIRST_STARTS = 20

#: About as long as a start takes, so that some of these kills come before its end.
START_S = {True: 0.05, False: 0.7}


async def kill_once(home: Home, rng: random.Random, *, forked: bool) -> str:
    """One life of the daemon, and its end; returns what the kill waited for."""
    moment = rng.choices(("start", "lock", "growth"), (25, 15, 60))[0]
    async with running(home.config, forked=forked) as daemon:
        match moment:
            case "start":
                await asyncio.sleep(rng.uniform(0, START_S[forked]))
            case "lock":
                await home.holds_state(daemon)
            case _:
                await home.grows(rng, daemon)
        await asyncio.sleep(rng.uniform(0, 0.03))
        assert daemon.running, daemon.log
        await daemon.kill()
    return moment


@pytest.mark.slow
async def test_kills_at_random_moments_leave_every_line_in_the_files_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    options = ("--burst-lines", "2")
    async with talkative(tmp_path, KEEPS_ALL, 3, *options) as scene:
        homes = [scene.home(tmp_path / f"daemon-{number}") for number in range(DAEMONS)]

        async def lives(home: Home) -> Counter[str]:
            forked = [number >= COMMANDS // DAEMONS for number in range(cycles(KILLS) // DAEMONS)]
            rng.shuffle(forked)
            return Counter([await kill_once(home, rng, forked=one) for one in forked])

        moments = await asyncio.gather(*map(lives, homes))
        print("killed after:", dict(sum(moments, Counter[str]())))
        await scene.fall_silent()
        await asyncio.gather(*(home.run_to_end(forked=False) for home in homes))
        for home in homes:
            await home.check()


async def test_a_kill_in_the_very_first_start_does_not_keep_the_next_one_from_starting(
    tmp_path: Path,
) -> None:
    rng = seeded()
    gate = asyncio.Semaphore(DAEMONS)

    async def starts_again(directory: Path) -> None:
        config = write_config(
            directory,
            base_url="http://127.0.0.1:9",
            api_key="key",
            sandboxes=[{"tags": ["t"]}],
            sinks={"text": file_sink(directory / "all.log")},
        )
        state = directory / "state"
        async with running(config, forked=True) as daemon:
            await until((state / "lock").exists, "the lock")
            await asyncio.sleep(rng.uniform(0, 0.02))
            await daemon.kill()
        async with running(config, forked=True) as daemon:
            await daemon.event("discovery failing")
            daemon.terminate()
            assert await daemon.wait() == 0, daemon.log
        assert not list(state.glob("*partial*"))

    async def one_of_many(number: int) -> None:
        async with gate:
            await starts_again(tmp_path / str(number))

    await asyncio.gather(*map(one_of_many, range(cycles(FIRST_STARTS))))
