"""A wall clock that jumps by hours and years: nothing that is stored or sent depends on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, Scene, seeded, talkative
from tests.fakes.daemon import DaemonProcess, running, until
from tests.fakes.preload import WallClock

if TYPE_CHECKING:
    import random
    from pathlib import Path

HOUR_S = 3600.0
YEARS_10_S = 10 * 365.25 * 24 * HOUR_S

#: Seconds from the true time; 1970 is as far back as a clock is that nobody has set.
JUMPS = {
    "an hour ahead": HOUR_S,
    "an hour behind": -HOUR_S,
    "ten years ahead": YEARS_10_S,
    "in 1970": 100.0 - time.time(),
}


async def lose_session(scene: Scene, home: Home, rng: random.Random, daemon: DaemonProcess) -> None:
    """Have everything read again from a moment, and new lines after that."""
    scene.server.forget_sessions()
    scene.server.break_streams("cut")
    for _ in range(3):
        await home.grows(rng, daemon)


async def test_a_clock_that_jumps_while_the_daemon_runs_costs_no_line_and_repeats_none(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2, "--burst-lines", "1") as scene:
        home = scene.home(tmp_path / "daemon", source={"overlap": "1s"})
        clock = WallClock(tmp_path / "clock")
        async with running(home.config, under=clock.preload) as daemon:
            for shift_s in rng.sample([*JUMPS.values(), 0.0], len(JUMPS) + 1):
                await home.grows(rng, daemon)
                clock.shift(shift_s)
                await lose_session(scene, home, rng, daemon)
            await scene.fall_silent()
            await daemon.kill()
        await home.run_to_end()
        await home.check()


async def test_a_clock_that_jumps_while_the_daemon_is_away_costs_no_line_and_repeats_none(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with talkative(tmp_path, LocalSettings(), 2, "--burst-lines", "1") as scene:
        home = scene.home(tmp_path / "daemon", source={"overlap": "1s"})
        clock = WallClock(tmp_path / "clock")
        for shift_s in (0.0, *rng.sample([*JUMPS.values()], len(JUMPS)), 0.0):
            clock.shift(shift_s)
            scene.server.forget_sessions()
            async with running(home.config, under=clock.preload) as daemon:
                await home.grows(rng, daemon)
                await lose_session(scene, home, rng, daemon)
        await scene.fall_silent()
        await home.run_to_end(under=clock.preload)
        await home.check()


async def test_the_daemons_own_clock_is_the_one_that_jumps(tmp_path: Path) -> None:
    """The negative control: the shift reaches the daemon, and only its wall clock."""
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon")
        clock = WallClock(tmp_path / "clock")
        clock.set(100.0)
        async with running(home.config, under=clock.preload) as daemon:
            await until(lambda: bool(daemon.events), "the first event")
            assert daemon.events[0]["timestamp"].startswith("1970-01-01T00:0")
            clock.shift(0.0)
            seen = len(daemon.events)
            scene.server.faults.refuse_credentials = "unauthenticated"
            scene.server.break_streams("cut")
            await until(lambda: len(daemon.events) > seen, "something to say")
            years = {event["timestamp"][:4] for event in daemon.events[seen:]}
            assert years == {time.strftime("%Y", time.gmtime())}, daemon.log
