"""A long run: a service with sandboxes, a daemon, everything that happens, and the comparison."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from forwarder.local.server import LocalServer
from forwarder.local.settings import LocalSettings
from tests.crash.dictated import Dictated
from tests.crash.gauge import Gauge
from tests.crash.scene import KEEPS_ALL, TAG, Scene
from tests.crash.soak_faults import ENDINGS, Faults, Parts
from tests.crash.soak_place import ROOMY, Expected, Place
from tests.crash.test_faults import SKEW_NS
from tests.fakes.daemon import DaemonProcess, run_to_end
from tests.fakes.local import create_sandbox
from tests.fakes.proxy import TcpProxy
from tests.fakes.tmpfs import small_disk

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.tmpfs import SmallDisk

STEADY = 4

#: From this length on the daemon has long lives, and what it uses must not grow in them.
LONG_S = 300.0

#: The longest that anything is away, and the longest pause between two things.
LONGEST_S = 4.0

#: The platform keeps everything: nothing may be declared missing.
SETTINGS = LocalSettings(
    retention_bytes=KEEPS_ALL.retention_bytes,
    max_ended_sandboxes=1_000_000,
    restart_keeps_log=True,
    stderr_skew_ns=SKEW_NS,
)


class Soak:
    """One run.

    Args:
        scene: Its sandboxes print steadily, or are born and end by themselves.
        parts: What there is besides them.
        length_s: How long things happen.

    Attributes:
        done: What was done, and how often.
        gauge: What the daemon used.
    """

    def __init__(self, scene: Scene, parts: Parts, rng: random.Random, length_s: float) -> None:
        self._scene = scene
        self._parts = parts
        self._rng = rng
        self._length_s = length_s
        self._is_long = length_s >= LONG_S
        self.gauge = Gauge(warm_s=90.0 if self._is_long else 10.0)
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Do one thing after the other, let the faults end, and compare."""
        place = self._parts.place
        longest_s = min(LONGEST_S, self._length_s / 10)
        faults = Faults(self._parts, await DaemonProcess.fork(place.config), self._rng, longest_s)
        looking = asyncio.create_task(self._look(faults))
        try:
            await faults.settled()
            await self._soak(faults)
            self._parts.server.faults.reset()
            await faults.settled()
        except AssertionError as error:
            error.add_note(faults.daemon.log)
            raise
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await faults.daemon.kill()
        await self._scene.fall_silent()
        await self._parts.dictated.end()
        code, daemon = await run_to_end(place.config, "--until-complete", forked=True)
        assert code == 0, daemon.log
        place.check(self._expected(faults.restarts))

    def report(self) -> str:
        """What was done and what it took, as a table."""
        used = self.gauge
        lines = sum(map(self._said_lines, (*self._scene.names, self._parts.dictated.id)))
        rows = {
            **dict(sorted(self.done.items())),
            "lives of the daemon": sum(self.done[name] for name in ENDINGS) + 1,
            "sandboxes": len(self._scene.names) + 1,
            "lines": lines,
        }
        table = [f"{count:8d}  {name}" for name, count in rows.items()]
        table += [
            f"{used.highest(name):8.1f}  {name} at most, {used.slope_per_min(name):+.3f} a minute"
            for name in used.names()
        ]
        return "\n".join(table)

    async def _soak(self, faults: Faults) -> None:
        begin_s = time.monotonic()
        things = faults.shuffled(ending_every=10 if self._is_long else 1)
        while (at_s := time.monotonic() - begin_s) < self._length_s:
            faults.vary()
            name, do = next(things)
            self.done[name] += 1
            print(f"{at_s:8.1f} s  {name}", flush=True)
            await do()
            assert faults.daemon.running
            faults.say()
            if self._rng.random() < 0.3:
                await self._bear()
            await asyncio.sleep(self._rng.uniform(0, min(LONGEST_S, self._length_s / 30)))

    async def _bear(self) -> None:
        """A sandbox that soon ends by itself."""
        lines = str(self._rng.randrange(1, 200))
        name = f"b{len(self._scene.names)}"
        await self._scene.add(name, "--lines", lines, "--burst-lines", "5")
        self.done["sandbox born"] += 1

    async def _look(self, faults: Faults) -> None:
        while True:
            self.gauge.look(faults.daemon, self._parts.place.state)
            await asyncio.sleep(1)

    def _expected(self, restarts: int) -> dict[str, Expected]:
        printed = {
            one: Expected(self._log(one), (f"{name}/out", f"{name}/err"))
            for one, name in self._scene.names.items()
        }
        dictated = self._parts.dictated
        assert self._log(dictated.id) == dictated.log
        return {**printed, dictated.id: Expected(dictated.log, dictated.sources, restarts)}

    def _log(self, sandbox_id: str) -> bytes:
        return self._parts.server.process(sandbox_id).log.stamped()

    def _said_lines(self, sandbox_id: str) -> int:
        return self._log(sandbox_id).count(b"\n")


@asynccontextmanager
async def soaking(root: Path, rng: random.Random, length_s: float) -> AsyncIterator[Soak]:
    """A service, its sandboxes, a daemon's place behind a proxy, and a disk that can be full."""
    steady = ("--burst-lines", "2", "--pause-s", "0.05", "--lifetime-s", str(length_s + 3600))
    with ExitStack() as stack:
        async with LocalServer(SETTINGS) as server, TcpProxy(server.base_url) as proxy:
            scene = Scene(server, root / "stop")
            for number in range(STEADY):
                await scene.add(f"s{number}", *steady)
            at = server.base_url, server.api_key
            sandbox_id = await create_sandbox(*at, "sleep", ["infinity"], tags=[TAG])
            place = Place(
                root / "daemon",
                mounted(root / "disk", stack),
                base_url=proxy.base_url,
                api_key=server.api_key,
                rotate_size="16KiB" if length_s < LONG_S else "1MiB",
            )
            dictated = Dictated(server, sandbox_id, "dictated")
            parts = Parts(server, proxy, place, tuple(scene.names), dictated)
            yield Soak(scene, parts, rng, length_s)


def mounted(path: Path, stack: ExitStack) -> SmallDisk | None:
    """A disk that can be full; None, and that fault is left out, where nothing may be mounted."""
    try:
        return stack.enter_context(small_disk(path, ROOMY))
    except pytest.skip.Exception as reason:
        print(f"no full disk: {reason}")
        return None
