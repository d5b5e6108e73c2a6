"""Everything a source can do to its streams, with kills in between: the files end up equal.

Once for every answer to what is not known of the real API: whether since_time counts whole seconds,
whether it is inclusive, and whether it is tested on every line or only up to the first match. The
lines of standard error are stamped out of order, as the real ones may be.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import product
from typing import TYPE_CHECKING, Literal

import pytest

from forwarder.local.settings import CONNECT_CODES, LocalSettings
from tests.crash.scene import Home, Scene, cycles, seeded, talkative
from tests.fakes.daemon import DaemonProcess

if TYPE_CHECKING:
    import random
    from pathlib import Path

IN_BAND_CODES = (
    "STREAM_INTERRUPTED",
    "SESSION_NOT_FOUND",
    "REPLAY_GAP",
    "RUNNER_UNAVAILABLE",
    "RUNNER_DRAINING",
    "INVALID_RESUME_OFFSET",
    "STREAM_TRUNCATED",
    "SANDBOX_NOT_FOUND",
    "PERMISSION_DENIED",
    "NEVER_HEARD_OF",
)
STANDING = ("cut_after_bytes", "end_after_bytes", "error_after_bytes", "status_after_bytes")

ACTS = (
    *(("error", code) for code in IN_BAND_CODES),
    *(("status", code) for code in CONNECT_CODES),
    *(("standing", fault) for fault in STANDING),
    *(("reset", ""), ("cut", ""), ("clean_end", "")) * 2,
    *(("forget", ""), ("forget and cut", ""), ("restart", ""), ("kill", "")) * 4,
)

#: So many of them each daemon meets if nothing is said, not all: there are eight daemons.
ACTS_EACH = len(ACTS) // 2

#: A fifth of what a re-read goes back: stderr's stamps are behind by so much.
SKEW_NS = -200_000_000
OVERLAP = "1s"


class Trial:
    """One service with its settings, one daemon, and what is done to them: no act twice."""

    def __init__(self, scene: Scene, home: Home, rng: random.Random) -> None:
        self._scene = scene
        self._home = home
        self._rng = rng
        self._acts = rng.sample(ACTS, min(cycles(ACTS_EACH), len(ACTS)))

    async def run(self) -> None:
        """Do one thing after the other, then let the sandboxes end, and compare."""
        daemon = await DaemonProcess.fork(self._home.config)
        try:
            for act in self._acts:
                daemon = await self._do(act, daemon)
                if self._rng.random() < 0.5:
                    await self._home.grows(self._rng, daemon)
        finally:
            await daemon.kill()
        self._scene.server.faults.reset()
        await self._scene.fall_silent()
        await self._home.run_to_end()
        await self._home.check()

    async def _do(self, act: tuple[str, str], daemon: DaemonProcess) -> DaemonProcess:
        server, rng = self._scene.server, self._rng
        server.faults.piece_bytes = rng.choice((None, 1000, 37))
        server.faults.replay_extra_bytes = rng.choice((0, 1, 500))
        server.faults.data_after_error = True
        match act:
            case ("error" | "status" | "reset" | "cut" | "clean_end") as how, code:
                server.break_streams(how, code)
            case "standing", fault:
                await self._stand(fault, daemon)
            case ("forget" | "forget and cut") as how, _:
                server.forget_sessions()
                if how != "forget":
                    server.break_streams("cut")
            case "restart", _:
                await server.restart(rng.choice((0, 0.1)))
            case "kill", _:
                await daemon.kill()
                return await DaemonProcess.fork(self._home.config)
        return daemon

    async def _stand(self, fault: str, daemon: DaemonProcess) -> None:
        """A fault that every stream meets again and again, while resuming makes progress."""
        faults = self._scene.server.faults
        faults.replay_extra_bytes = 0  # a short replay is not resumed, and so makes no progress
        setattr(faults, fault, self._rng.randrange(2_000, 20_000))
        for _ in range(3):
            await self._home.grows(self._rng, daemon)
        setattr(faults, fault, None)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["exact", "second"])
async def test_broken_streams_lost_sessions_restarts_and_kills_cost_no_line_and_repeat_none(
    tmp_path: Path, granularity: Literal["exact", "second"]
) -> None:
    rng = seeded()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as trials:
        for inclusive, per_line in product((True, False), repeat=2):
            directory = tmp_path / f"inclusive-{inclusive}-per-line-{per_line}"
            settings = LocalSettings(
                since_granularity=granularity,
                since_inclusive=inclusive,
                since_per_line=per_line,
                stderr_skew_ns=SKEW_NS,
            )
            scene = await stack.enter_async_context(
                talkative(directory, settings, 2, "--burst-lines", "1")
            )
            home = scene.home(directory / "daemon", source={"overlap": OVERLAP})
            trials.create_task(Trial(scene, home, rng).run())
