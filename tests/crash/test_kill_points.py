"""A daemon that dies at the k-th of its changes on the disk, and once more while it recovers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import pytest

from forwarder.local.settings import LocalSettings
from tests.crash.scene import Home, Scene, seeded, talkative
from tests.fakes.daemon import running
from tests.fakes.ndjson import text_log
from tests.fakes.preload import KillPoint
from tests.fakes.proxy import Behaviour, TcpProxy
from tests.unit.sinks.renaming_disk import read_all

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

POINTS = 10
SANDBOXES = 4
LINES = 2_000
AT_A_TIME = 3

#: Every file is put away several times in a run, and compressed; all of it is kept.
ROTATION = {"rotate": {"size": "12KiB", "at_end": True}, "compress": "zstd"}
ROTATED_AT_LEAST = 2

#: So slowly that a file grows in many batches: one that makes it too large is in it whole.
TRICKLE = Behaviour(bytes_per_s=400_000, piece_bytes=2048)

When = Literal["before", "after", "torn"]
WHEN: tuple[When, ...] = ("before", "after", "torn")


class ReadAlong(Home):
    """A daemon that commits often, so that there are many points to die at, with a reader.

    The reader looks at a file as the file sink's documentation says: of every number the compressed
    file or, where there is none, the plain one, and then the live file.
    """

    def __init__(self, scene: Scene, directory: Path, base_url: str = "") -> None:
        super().__init__(scene, directory, base_url=base_url, spool={"commit_interval": "10ms"})

    def compare_so_far(self, logs: Mapping[str, bytes]) -> None:
        """What there is now is a beginning of the log: no line twice, and none behind a hole."""
        for sandbox_id, expected in logs.items():
            assert expected.startswith(self.text(sandbox_id))
            whole, newline, _torn = self.ndjson(sandbox_id).rpartition(b"\n")
            assert expected.startswith(text_log(whole + newline))

    def text(self, sandbox_id: str) -> bytes:
        """What the reader sees of a sandbox in the text format."""
        return read_all(self.output, f"{sandbox_id}.log")

    def ndjson(self, sandbox_id: str) -> bytes:
        """The same in NDJSON."""
        return read_all(self.output, f"{sandbox_id}.ndjson")


class Rotating(ReadAlong):
    """One that puts its files away."""

    def __init__(self, scene: Scene, directory: Path, base_url: str) -> None:
        super().__init__(scene, directory, base_url)
        document = json.loads(self.config.read_text())
        for sink in document["sinks"].values():
            sink.update(ROTATION)
        self.config.write_text(json.dumps(document))

    def compare(self, logs: Mapping[str, bytes]) -> None:
        """What the reader sees equals the service's own log, and every number adds up."""
        for sandbox_id, expected in logs.items():
            assert self.text(sandbox_id) == expected
            assert text_log(self.ndjson(sandbox_id)) + b"\n" == expected
        names = [path.name for path in self.output.iterdir()]
        # A stop may leave a file for the next start to compress.
        assert [name for name in names if not re.search(r"\.\d{6}(\.zst)?$", name)] == []
        self._check_counters()


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


@asynccontextmanager
async def spoken(directory: Path) -> AsyncIterator[Scene]:
    """Sandboxes that have said what they had to say: the lines of one run."""
    each = LINES // SANDBOXES // 2  # on stdout, and as many on stderr
    options = ("--lines", str(each), "--burst-lines", "10", "--pause-s", "0.001")
    settings = LocalSettings(message_bytes=2048)
    async with talkative(directory, settings, SANDBOXES, *options) as scene:
        for sandbox_id in scene.names:
            await scene.server.wait_ended(sandbox_id)
        yield scene


async def die_everywhere(
    root: Path,
    home_in: Callable[[Path], ReadAlong],
    logs: Mapping[str, bytes],
    rng: random.Random,
) -> None:
    """Die at each of the chosen calls of a run, again while recovering, and compare each time."""
    undisturbed = home_in(root / "undisturbed")
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
            home = home_in(root / f"point-{at}")
            died = await life(home, at, first)
            home.compare_so_far(logs)
            await life(home, again, second)
            home.compare_so_far(logs)
            await home.run_to_end()
            home.compare(logs)
            shutil.rmtree(home.directory)
            return died

    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(die_twice(at)) for at in points]
    # A busier machine makes larger commits and so fewer calls: the last may never come.
    died = sum(one.result() for one in lives)
    print(f"{died} died at the call that was meant")
    assert died > len(lives) // 4


@pytest.mark.slow
async def test_a_run_that_dies_at_any_change_and_again_while_recovering_writes_every_line_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with spoken(tmp_path) as scene:
        await die_everywhere(
            tmp_path, lambda directory: ReadAlong(scene, directory), await scene.logs(), rng
        )


@pytest.mark.slow
async def test_a_run_that_dies_at_any_change_while_files_are_put_away_shows_every_line_once(
    tmp_path: Path,
) -> None:
    rng = seeded()
    async with spoken(tmp_path) as scene, TcpProxy(scene.server.base_url) as proxy:
        proxy.behave(TRICKLE)
        await die_everywhere(
            tmp_path,
            lambda directory: Rotating(scene, directory, proxy.base_url),
            await scene.logs(),
            rng,
        )
        put_away = len(list((tmp_path / "undisturbed" / "out").iterdir()))
        print(f"{put_away} files were put away where nothing was in the way")
        assert put_away >= ROTATED_AT_LEAST * 2 * SANDBOXES


def test_all_points_are_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: Mapping[str, list[int]] = {"": [3], "all": [1, 2, 3, 4, 5], "2": [1, 3, 5]}
    for value, expected in environment.items():
        monkeypatch.setenv("CRASH_POINTS", value)
        assert list(chosen(5, [3])) == expected
