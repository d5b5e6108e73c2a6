"""Power cuts: whatever was not synced is gone, and nothing that was acknowledged is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from forwarder.local.settings import LocalSettings
from forwarder.spool.overview import overview_of
from tests.crash.scene import KEEPS_ALL, Home, cycles, seeded, talkative
from tests.fakes.daemon import running, until
from tests.fakes.preload import PowerSupply

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.fakes.daemon import DaemonProcess

CYCLES = 16
DAEMONS = 2  # at a time


def acknowledged(home: Home) -> dict[str, int]:
    """How many lines every stream and every sink of the spool has behind it."""
    if not home.state.marker.exists():
        return {}
    overview = overview_of(home.state)
    streams = {str(stream.key): stream.lines for stream in overview.streams}
    return streams | {sink.name: sink.delivered for sink in overview.sinks}


async def delivers(home: Home, daemon: DaemonProcess) -> None:
    """Return once a sink has a line behind it."""
    await until(lambda: acknowledged(home).get("text", 0) > 0 or not daemon.running)
    assert daemon.running, daemon.log


async def lose_power_once(home: Home, power: PowerSupply, rng: random.Random) -> str:
    """One life of the daemon, and a power cut; returns what the cut waited for."""
    moment = rng.choices(("start", "lock", "growth"), (20, 15, 65))[0]
    async with running(home.config, under=power.preload) as daemon:
        match moment:
            case "start":
                await asyncio.sleep(rng.uniform(0, 0.1))
            case "lock":
                await home.holds_state(daemon)
            case _:
                await home.grows(rng, daemon)
        await asyncio.sleep(rng.uniform(0, 0.05))
        before = acknowledged(home)
        assert daemon.running, daemon.log
        await daemon.kill()
    power.cut()
    after = acknowledged(home)
    assert all(after.get(name, -1) >= lines for name, lines in before.items()), (before, after)
    return moment


@pytest.mark.slow
async def test_power_cuts_at_random_moments_take_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    rng = seeded()
    options = ("--burst-lines", "2")
    async with talkative(tmp_path, KEEPS_ALL, 3, *options) as scene:

        async def lives(number: int) -> None:
            home = scene.home(tmp_path / f"daemon-{number}")
            power = PowerSupply(home.directory, tmp_path / f"kept-{number}")
            for _ in range(cycles(CYCLES) // DAEMONS):
                await lose_power_once(home, power, rng)
            homes.append(home)

        homes: list[Home] = []
        await asyncio.gather(*map(lives, range(DAEMONS)))
        await scene.fall_silent()
        for home in homes:
            await home.run_to_end()
            await home.check()


async def test_a_power_cut_takes_what_no_sync_has_put_on_the_disk(tmp_path: Path) -> None:
    """The negative control: without a sync of the spool its lines would be gone."""
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        home = scene.home(tmp_path / "daemon")
        power = PowerSupply(home.directory, tmp_path / "kept")
        unsynced = home.directory / "unsynced"
        async with running(home.config, under=power.preload) as daemon:
            await delivers(home, daemon)
            unsynced.write_bytes(b"nobody has synced this directory")
            await daemon.kill()
        power.cut()
        assert not unsynced.exists()
        assert home.config.exists()
        assert acknowledged(home)["text"] > 0


async def test_a_state_directory_that_the_daemon_has_made_is_there_after_a_power_cut(
    tmp_path: Path,
) -> None:
    async with talkative(tmp_path, LocalSettings(), 1) as scene:
        # Elsewhere, so that no sink syncs the directory that both are made in.
        home = scene.home(tmp_path / "daemon", output=tmp_path / "elsewhere")
        power = PowerSupply(home.directory, tmp_path / "kept")
        async with running(home.config, under=power.preload) as daemon:
            await delivers(home, daemon)
            await daemon.kill()
        power.cut()
        assert acknowledged(home).get("text", 0) > 0
