"""`kill -9` of the daemon, again and again, at any moment: the files end up equal to the byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, seeded, talkative
from tests.fakes.daemon import running

if TYPE_CHECKING:
    import random
    from pathlib import Path

KILLS = 100
DAEMONS = 4  # at a time: a start is mostly computing, the rest mostly waiting

#: Longer than a start takes, so that some of these kills come before it and some after it.
START_S = 0.6


async def kill_once(home: Home, rng: random.Random) -> str:
    """One life of the daemon, and its end; returns what the kill waited for."""
    moment = rng.choices(("start", "lock", "growth"), (25, 15, 60))[0]
    async with running(home.config) as daemon:
        match moment:
            case "start":
                await asyncio.sleep(rng.uniform(0, START_S))
            case "lock":
                await home.holds_state(daemon)
            case _:
                await home.grows(rng, daemon)
        await asyncio.sleep(rng.uniform(0, 0.03))
        assert daemon.running, daemon.log
        await daemon.kill()
    return moment


async def test_a_hundred_kills_at_random_moments_leave_every_line_in_the_files_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    options = ("--burst-lines", "2")
    async with talkative(tmp_path, LocalSettings(), 3, *options) as scene:
        homes = [scene.home(tmp_path / f"daemon-{number}") for number in range(DAEMONS)]

        async def lives(home: Home) -> Counter[str]:
            return Counter([await kill_once(home, rng) for _ in range(KILLS // DAEMONS)])

        moments = await asyncio.gather(*map(lives, homes))
        print("killed after:", dict(sum(moments, Counter[str]())))
        await scene.fall_silent()
        await asyncio.gather(*(home.run_to_end() for home in homes))
        for home in homes:
            await home.check()
