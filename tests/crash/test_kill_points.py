"""A daemon that dies at the k-th of its changes on the disk, and once more while it recovers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import TYPE_CHECKING, Literal

import pytest

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, Scene, seeded, talkative
from tests.fakes.daemon import running
from tests.fakes.preload import KillPoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

POINTS = 16
SANDBOXES = 4
LINES = 2_000
AT_A_TIME = 3

When = Literal["before", "after", "torn"]
WHEN: tuple[When, ...] = ("before", "after", "torn")


def chosen(calls: int, sample: Sequence[int]) -> Sequence[int]:
    """The calls to die at: CRASH_POINTS of them, or `all`; the sample if nothing is said."""
    match os.environ.get("CRASH_POINTS", ""):
        case "":
            return sample
        case "all":
            return range(1, calls + 1)
        case number:
            step = max(1, calls // int(number))
            return range(1, calls + 1, step)


async def life(home: Home, at: int, when: When) -> bool:
    """One life that ends at this call; False if it came to its own end without so many."""
    counter = home.directory / f"{home.directory.name}.count"
    point = KillPoint(home.directory, counter, at, when)
    async with running(home.config, "--until-complete", under=point.preload) as daemon:
        code = await daemon.wait()
    assert code == (-signal.SIGKILL if point.calls >= at else 0), daemon.log
    return point.calls >= at


async def counted(home: Home) -> int:
    """How many calls an undisturbed run makes."""
    point = KillPoint(home.directory, home.directory / "undisturbed.count")
    await home.run_to_end(under=point.preload)
    return point.calls


@pytest.mark.slow
async def test_a_run_that_dies_at_any_change_and_again_while_recovering_writes_every_line_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    each = LINES // SANDBOXES // 2  # on stdout, and as many on stderr
    options = ("--lines", str(each), "--burst-lines", "10", "--pause-s", "0.001")
    async with talkative(tmp_path, LocalSettings(message_bytes=2048), SANDBOXES, *options) as scene:
        for sandbox_id in scene.names:
            await scene.server.wait_ended(sandbox_id)
        logs = await scene.logs()
        undisturbed = home_of(scene, tmp_path / "undisturbed")
        calls = await counted(undisturbed)
        undisturbed.compare(logs)
        points = chosen(calls, sorted(rng.sample(range(1, calls + 1), min(POINTS, calls))))
        print(f"{calls} calls, dying at {len(points)} of them")
        gate = asyncio.Semaphore(AT_A_TIME)

        async def die_twice(at: int) -> bool:
            async with gate:
                first, second = rng.choice(WHEN), rng.choice(WHEN)
                again = rng.randrange(1, calls + 1)
                print(f"{first} call {at}, then {second} call {again}")
                home = home_of(scene, tmp_path / f"point-{at}")
                died = await life(home, at, first)
                await life(home, again, second)
                await home.run_to_end(forked=True)
                home.compare(logs)
                shutil.rmtree(home.directory)
                return died

        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(die_twice(at)) for at in points]
        # A busier machine makes larger commits and so fewer calls: the last may never come.
        died = sum(one.result() for one in lives)
        print(f"{died} died at the call that was meant")
        assert died > len(lives) // 4


def home_of(scene: Scene, directory: Path) -> Home:
    """A daemon that commits often, so that there are many points to die at."""
    return scene.home(directory, spool={"commit_interval": "10ms"})


def test_all_points_are_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: Mapping[str, list[int]] = {"": [3], "all": [1, 2, 3, 4, 5], "2": [1, 3, 5]}
    for value, expected in environment.items():
        monkeypatch.setenv("CRASH_POINTS", value)
        assert list(chosen(5, [3])) == expected
